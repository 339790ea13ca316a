//! A bank of labelled patches: gathered, then asked for the neighbours of others.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Result, ensure};
use tch::{Device, Kind, Tensor};

use super::patches::{PatchLabels, unit_vectors};
use super::places::{Candidate, Places};
use crate::dist::ProcessGroup;
use crate::draws::{Draws, Purpose};
use crate::eval::extract::DenseBatch;
use crate::eval::kinds::nearest::{
    HELD_OUT_BLOCK, REFERENCE_BLOCK, nearest_keys, similarities_and_rows,
};
use crate::native::guard;
use crate::status;

/// Rows of the host's memory that are taken at a time.
const BLOCK_ROWS: usize = 1 << 13;

/// A bank that grows, of one encoder, on the host: never more rows than it has places, and a block.
pub struct Gathering {
    seed: u64,
    classes: usize,
    most: usize,
    places: Places,
    /// Row after row of places, a block after another: a feature of length 1 and the shares of the classes,
    /// `[BLOCK_ROWS, D + K]`, float32.
    blocks: Vec<Tensor>,
}

impl Gathering {
    /// An empty one, for `most` patches whose pixels are of so many `classes`.
    pub fn new(classes: usize, most: usize, seed: u64) -> Self {
        Self { seed, classes, most, places: Places::new(classes, most), blocks: Vec::new() }
    }

    /// Takes those patches of a batch of reference images, whose targets are `targets`, that it keeps.
    ///
    /// # Errors
    /// There is no memory left.
    pub fn add(&mut self, batch: &DenseBatch<'_>, targets: &Tensor) -> Result<()> {
        let (_, rows, columns, _) = batch.patches.size4()?;
        let labels = PatchLabels::new(targets, [rows, columns], self.classes as i64);
        let classes = Vec::<i64>::try_from(&labels.class)?;
        let counts = Vec::<bool>::try_from(&labels.counts)?;
        let in_image = (rows * columns) as usize;
        // The last that got a place has it.
        let mut got = BTreeMap::new();
        for (image, &position) in batch.positions.iter().enumerate() {
            let mut draws = Draws::new(self.seed, Purpose::Bank, 0, position);
            for patch in 0..in_image {
                let (row, priority) = (image * in_image + patch, draws.bits());
                let number = position * in_image as u64 + patch as u64;
                if counts[row] {
                    let candidate = Candidate { priority, number, class: classes[row] as usize };
                    got.extend(self.places.offer(candidate).map(|place| (place, row as i64)));
                }
            }
        }
        if got.is_empty() {
            return Ok(());
        }
        let (places, rows): (Vec<usize>, Vec<i64>) = got.into_iter().unzip();
        let rows = Tensor::from_slice(&rows).to_device(batch.patches.device());
        let of_rows = |tensor: &Tensor| tensor.index_select(0, &rows);
        let vectors = unit_vectors(&batch.patches);
        let values = Tensor::cat(&[of_rows(&vectors), of_rows(&labels.shares)], 1);
        self.write(&places, &values.to_device(Device::Cpu));
        Ok(())
    }

    /// Writes the rows `values` `[N, D + K]` to their places, which ascend.
    fn write(&mut self, places: &[usize], values: &Tensor) {
        let mut first = 0;
        for of_block in places.chunk_by(|a, b| a / BLOCK_ROWS == b / BLOCK_ROWS) {
            let (number, count) = (of_block[0] / BLOCK_ROWS, of_block.len() as i64);
            while self.blocks.len() <= number {
                let shape = [BLOCK_ROWS as i64, values.size()[1]];
                self.blocks.push(Tensor::empty(shape, (Kind::Float, Device::Cpu)));
            }
            let rows: Vec<i64> = of_block.iter().map(|place| (place % BLOCK_ROWS) as i64).collect();
            let part = values.narrow(0, first, count);
            let _ = self.blocks[number].index_copy_(0, &Tensor::from_slice(&rows), &part);
            first += count;
        }
    }

    /// The bank of all processes, on the device of `group`; `width` is that of a feature. All call it.
    ///
    /// Keys travel first, so that of the features only those do that the bank keeps.
    ///
    /// # Errors
    /// Another process failed, or there is no memory left.
    pub fn finish(self, group: &ProcessGroup, width: i64) -> Result<Bank> {
        let Self { classes, most, places, blocks, .. } = self;
        let own = places.kept();
        let keys = own.iter().flat_map(|(candidate, _)| {
            let Candidate { priority, number, class } = candidate;
            [*priority as i64, *number as i64, *class as i64]
        });
        let keys = group.gather_numbers(&keys.collect::<Vec<_>>())?;
        let mut of_all = Places::new(classes, most);
        for key in keys.chunks_exact(3) {
            let (priority, number, class) = (key[0] as u64, key[1] as u64, key[2] as usize);
            of_all.offer(Candidate { priority, number, class });
        }
        let kept: HashSet<u64> =
            of_all.kept().into_iter().map(|(candidate, _)| candidate.number).collect();
        let places = own.into_iter().filter(|(candidate, _)| kept.contains(&candidate.number));
        let places: Vec<usize> = places.map(|(_, place)| place).collect();
        let all_columns = width + classes as i64;
        let rows = guard(|| Ok(read(blocks, &places, all_columns)))?;
        // The stretches of ranks follow one another, so that the whole is in the order of numbers too.
        let rows = group.gather_rows(&rows)?;
        guard(|| {
            let columns = |first, count| {
                let part = rows.narrow(1, first, count).to_device(group.device());
                part.contiguous()
            };
            Ok(Bank { vectors: columns(0, width), shares: columns(width, classes as i64) })
        })
    }
}

/// The rows of `places` of these blocks, `[N, columns]`. Each block is let go when it is read.
fn read(blocks: Vec<Tensor>, places: &[usize], columns: i64) -> Tensor {
    let rows = Tensor::empty([places.len() as i64, columns], (Kind::Float, Device::Cpu));
    let mut of_blocks: Vec<(Vec<i64>, Vec<i64>)> = vec![Default::default(); blocks.len()];
    for (row, place) in (0i64..).zip(places) {
        let (to, from) = &mut of_blocks[place / BLOCK_ROWS];
        to.push(row);
        from.push((place % BLOCK_ROWS) as i64);
    }
    for (block, (to, from)) in blocks.into_iter().zip(of_blocks) {
        let part = block.index_select(0, &Tensor::from_slice(&from));
        let _ = rows.shallow_clone().index_copy_(0, &Tensor::from_slice(&to), &part);
    }
    rows
}

/// Labelled patches of an encoder, in the order of their numbers.
pub struct Bank {
    /// Features of length 1: `[N, D]` float32.
    vectors: Tensor,
    /// The share of each class among a patch's pixels: `[N, K]` float32.
    shares: Tensor,
}

impl Bank {
    /// Number of its patches.
    pub fn count(&self) -> i64 {
        self.vectors.size()[0]
    }

    /// The mean of the shares of each patch's `neighbours`, weighted by exp(cosine / `temperature`): from
    /// patches `[B, rows, columns, D]`, `[B, K, rows, columns]`. Of equally near ones the first is nearer.
    ///
    /// # Errors
    /// The bank is empty.
    pub fn votes(&self, patches: &Tensor, neighbours: usize, temperature: f64) -> Result<Tensor> {
        ensure!(self.count() > 0, "the memory bank is empty");
        let (batch, rows, columns, _) = patches.size4()?;
        let queries = unit_vectors(patches);
        let count = queries.size()[0];
        let mut votes = Vec::new();
        for first in (0..count).step_by(HELD_OUT_BLOCK as usize) {
            let block = queries.narrow(0, first, HELD_OUT_BLOCK.min(count - first));
            let keys = nearest_keys(&self.vectors, &block, neighbours, REFERENCE_BLOCK);
            let Some(keys) = keys else { continue };
            let [similarities, nearest] = similarities_and_rows(&keys);
            let (of_block, voting) = keys.size2()?;
            let weights = (similarities / temperature).softmax(1, Kind::Float).unsqueeze(1);
            let shares = self.shares.index_select(0, &nearest.flatten(0, 1));
            let shares = shares.view([of_block, voting, -1]);
            votes.push(weights.bmm(&shares).squeeze_dim(1));
            status::beat();
        }
        let votes = Tensor::cat(&votes, 0).view([batch, rows, columns, -1]);
        Ok(votes.permute([0, 3, 1, 2]).contiguous())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIM: i64 = 6;
    const CLASSES: usize = 3;

    /// Features and targets of the image at a position, of 3 × 2 patches of 2 × 2 pixels.
    fn image(position: u64) -> [Tensor; 2] {
        let mut draws = Draws::new(1, Purpose::Crop, 0, position);
        let values: Vec<f32> = (0..6 * DIM).map(|_| draws.uniform() as f32 - 0.5).collect();
        let pixels: Vec<u8> =
            (0..24).map(|_| [0, 0, 0, 1, 2, 255][draws.below(6) as usize]).collect();
        [
            Tensor::from_slice(&values).view([1, 3, 2, DIM]),
            Tensor::from_slice(&pixels).view([1, 6, 4]),
        ]
    }

    /// A bank that was gathered in batches of so many images.
    fn gathered(most: usize, batch: usize) -> Bank {
        let mut gathering = Gathering::new(CLASSES, most, 5);
        let positions: Vec<u64> = (0..50).collect();
        for positions in positions.chunks(batch) {
            let images: Vec<_> = positions.iter().map(|&position| image(position)).collect();
            let part = |number: usize| {
                Tensor::cat(&images.iter().map(|image| &image[number]).collect::<Vec<_>>(), 0)
            };
            let patches = part(0);
            let (class, labels) = (patches.shallow_clone(), vec![0; positions.len()]);
            let batch = DenseBatch {
                encoder: 0,
                first: 0,
                positions,
                labels: &labels,
                class,
                patches,
                targets: None,
            };
            gathering.add(&batch, &part(1)).unwrap();
        }
        assert!(gathering.blocks.len() <= most / BLOCK_ROWS + 1);
        gathering.finish(&ProcessGroup::alone(Device::Cpu, || false), DIM).unwrap()
    }

    /// A bank has the rows that it should, whatever the batches: those of patches, beside their own shares.
    #[test]
    fn a_bank_keeps_the_same_rows_whatever_the_batches() {
        let all = gathered(1000, 50);
        assert!(all.count() > 250 && all.count() <= 300, "{}", all.count());
        let first = unit_vectors(&image(0)[0]);
        assert_eq!(all.vectors.narrow(0, 0, 3), first.narrow(0, 0, 3));
        for most in [20, 100] {
            let expected = gathered(most, 50);
            assert_eq!(expected.count(), most as i64);
            for batch in [1, 7, 16] {
                let found = gathered(most, batch);
                assert_eq!(found.vectors, expected.vectors);
                assert_eq!(found.shares, expected.shares);
            }
            // Every row of it is a row of all.
            let near = expected.vectors.matmul(&all.vectors.tr()).argmax(1, false);
            assert_eq!(all.vectors.index_select(0, &near), expected.vectors);
            assert_eq!(all.shares.index_select(0, &near), expected.shares);
        }
    }

    /// A patch of the bank, asked for its nearest, gets its own shares; equally near ones vote alike.
    #[test]
    fn votes_are_those_of_the_nearest() {
        let vectors = Tensor::from_slice(&[1.0f32, 0.0, 0.0, 1.0, 1.0, 0.0]).view([3, 2]);
        let shares = Tensor::from_slice(&[1.0f32, 0.0, 0.0, 1.0, 0.5, 0.5]).view([3, 2]);
        let bank = Bank { vectors, shares };
        let patches = Tensor::from_slice(&[3.0f32, 0.0, 0.0, 0.5]).view([1, 1, 2, 2]);
        let votes =
            |count| Vec::<f32>::try_from(bank.votes(&patches, count, 0.02).unwrap().flatten(0, -1));
        assert_eq!(votes(1).unwrap(), [1.0, 0.0, 0.0, 1.0], "the first of the equal ones");
        let both = votes(2).unwrap();
        assert!((both[0] - 0.75).abs() < 1e-6 && (both[2] - 0.25).abs() < 1e-6, "{both:?}");
    }
}
