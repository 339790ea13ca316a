//! Which patches an encoder sees.

use tch::{Kind, Tensor};

use crate::draws::{Draws, Purpose};

/// Random masking in square cells of patches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mask {
    /// Patches along each side of the image.
    pub grid_size: usize,
    /// Patches along each side of a cell.
    pub cell_patches: usize,
    /// Share of cells that is dropped.
    pub ratio: f64,
}

impl Mask {
    /// Number of patches that stay.
    pub fn kept(&self) -> usize {
        let cells = (self.grid_size / self.cell_patches).pow(2);
        (cells as f64 * (1.0 - self.ratio)) as usize * self.cell_patches.pow(2)
    }

    /// The patches that stay, as [`Mask::draw`] gives them, of the image at `position` of the
    /// stream of samples, for the encoder whose draws are in `rng_stream`: its place in the config.
    pub fn draw_at(&self, seed: u64, rng_stream: u64, position: u64) -> Vec<i64> {
        self.draw(&mut Draws::new(seed, Purpose::Mask, rng_stream, position))
    }

    /// Draws the patches that stay, ascending, as indices into the row-by-row grid.
    pub fn draw(&self, draws: &mut Draws) -> Vec<i64> {
        let per_side = self.grid_size / self.cell_patches;
        let cells = draws.choose(per_side * per_side, self.kept() / self.cell_patches.pow(2));
        let mut patches: Vec<i64> = cells
            .into_iter()
            .flat_map(|cell| {
                let (top, left) =
                    (cell / per_side * self.cell_patches, cell % per_side * self.cell_patches);
                (0..self.cell_patches * self.cell_patches).map(move |patch| {
                    let (row, column) =
                        (top + patch / self.cell_patches, left + patch % self.cell_patches);
                    (row * self.grid_size + column) as i64
                })
            })
            .collect();
        patches.sort_unstable();
        patches
    }
}

/// Picks rows `[B, K, D]` out of `tokens` `[B, N, D]` by `ids` `[B, K]`.
pub fn gather_tokens(tokens: &Tensor, ids: &Tensor) -> Tensor {
    let dim = tokens.size()[2];
    tokens.gather(1, &ids.unsqueeze(-1).expand([-1, -1, dim], false), false)
}

/// Which of `patches` are not in `keep` `[B, K]`: ones and zeros `[B, patches]` float32.
pub fn masked_patches(keep: &Tensor, patches: i64) -> Tensor {
    let batch = keep.size()[0];
    let masked = Tensor::ones([batch, patches], (Kind::Float, keep.device()));
    masked.scatter_value(1, keep, 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_cells_stay() {
        let mask = Mask { grid_size: 16, cell_patches: 4, ratio: 0.5 };
        for position in 0..100 {
            let kept = mask.draw(&mut Draws::new(0, Purpose::Mask, 0, position));
            assert_eq!(kept.len(), 128);
            assert!(kept.windows(2).all(|pair| pair[0] < pair[1]));
            let mut cells = [0; 16];
            for patch in kept {
                cells[(patch / 64 * 4 + patch % 16 / 4) as usize] += 1;
            }
            assert!(cells.iter().all(|&count| count == 0 || count == 16), "{cells:?}");
        }
    }

    #[test]
    fn the_count_is_rounded_down() {
        // 9 cells, half of them: 4 stay.
        assert_eq!(Mask { grid_size: 12, cell_patches: 4, ratio: 0.5 }.kept(), 4 * 16);
    }

    #[test]
    fn every_cell_stays_equally_often() {
        let mask = Mask { grid_size: 4, cell_patches: 1, ratio: 0.75 };
        let mut counts = [0u32; 16];
        for position in 0..8_000 {
            for patch in mask.draw(&mut Draws::new(1, Purpose::Mask, 0, position)) {
                counts[patch as usize] += 1;
            }
        }
        assert!(counts.iter().all(|count| (1_800..2_200).contains(count)), "{counts:?}");
    }
}
