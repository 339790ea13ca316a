//! Patch tokens as colours and heat maps.

use anyhow::{Result, ensure};
use image::{Rgb, RgbImage};
use tch::{Kind, Tensor};

/// Directions that are shown: as red, green and blue.
const SHOWN: i64 = 3;
/// What is left out of colours at either end, so that a few odd patches do not take all contrast.
const CUT: f64 = 0.02;

/// The patch tokens of an image: `[rows, columns, D]` float32 on the CPU.
pub type PatchTokens = Tensor;

/// The principal directions of tokens: the same for all images, and for models that share them.
pub struct Basis {
    /// `[D, 3]` float64, columns of length 1.
    directions: Tensor,
}

impl Basis {
    /// The three directions along which the tokens of `images`, one list a model, vary most about the mean of
    /// their model. All have one width D.
    ///
    /// # Errors
    /// There are fewer than three numbers in a token, or two patches.
    pub fn of(models: &[&[PatchTokens]]) -> Result<Self> {
        let mut covariance: Option<Tensor> = None;
        let mut count = 0;
        for images in models {
            let tokens = centred(images);
            count += tokens.size()[0];
            let own = tokens.transpose(0, 1).matmul(&tokens);
            covariance = Some(covariance.map_or(own.shallow_clone(), |sum| sum + &own));
        }
        let covariance = covariance.filter(|all| all.size()[0] >= SHOWN && count >= 2);
        let Some(covariance) = covariance else {
            anyhow::bail!("{count} patches of too few numbers have no three principal components");
        };
        // Eigenvalues ascend.
        let (_, vectors) = covariance.linalg_eigh("L");
        let width = vectors.size()[1];
        let directions = vectors.narrow(1, width - SHOWN, SHOWN).flip([1]);
        Ok(Self { directions })
    }

    /// The places of the tokens of one model along the directions, for each image `[rows, columns, 3]` float64.
    ///
    /// A direction and its opposite are the same to the mathematics. The signs are those by which the places agree
    /// with `others`, of the same images by another model; without such, those by which few patches lie far on the
    /// positive side (a positive third moment). Neither turns when a token or a picture changes a little.
    pub fn project(&self, images: &[PatchTokens], others: Option<&[Tensor]>) -> Vec<Tensor> {
        let places = centred(images).matmul(&self.directions);
        let of_image = |(first, image): (i64, &PatchTokens)| {
            let size = image.size();
            let own = places.narrow(0, first, size[0] * size[1]);
            own.reshape([size[0], size[1], SHOWN])
        };
        let firsts = images.iter().scan(0, |next, image| {
            let first = *next;
            *next += image.size()[0] * image.size()[1];
            Some(first)
        });
        let mut split: Vec<Tensor> = firsts.zip(images).map(of_image).collect();
        let agreement = match others {
            Some(others) => {
                let product = |(own, other): (&Tensor, &Tensor)| {
                    (own * resized(other, own.size()[0], own.size()[1])).sum_dim_intlist(
                        [0i64, 1].as_slice(),
                        false,
                        Kind::Double,
                    )
                };
                split.iter().zip(others).map(product).reduce(|sum, one| sum + one)
            }
            None => Some(places.pow_tensor_scalar(3).sum_dim_intlist(
                [0i64].as_slice(),
                false,
                Kind::Double,
            )),
        };
        if let Some(agreement) = agreement {
            let signs = agreement.ge(0.0).to_kind(Kind::Double) * 2.0 - 1.0;
            split.iter_mut().for_each(|image| *image *= &signs);
        }
        split
    }
}

/// Tokens of all images `[N, D]` in float64, about their mean.
fn centred(images: &[PatchTokens]) -> Tensor {
    let rows: Vec<Tensor> = images.iter().map(|image| image.flatten(0, 1)).collect();
    let tokens = Tensor::cat(&rows, 0).to_kind(Kind::Double);
    let mean = tokens.mean_dim([0i64].as_slice(), true, Kind::Double);
    tokens - mean
}

/// `[rows, columns, C]` bilinearly at another size.
fn resized(map: &Tensor, rows: i64, columns: i64) -> Tensor {
    if map.size()[..2] == [rows, columns] {
        return map.shallow_clone();
    }
    let channels_first = map.permute([2, 0, 1]).unsqueeze(0);
    let resized = channels_first.upsample_bilinear2d([rows, columns], false, None, None);
    resized.squeeze_dim(0).permute([1, 2, 0])
}

/// Colours of places along three directions, for each image `[rows, columns, 3]`: each direction from 0 to 255 over
/// all images, but for the outermost patches, as images with a square of `patch_size` pixels for each patch.
pub fn colours(places: &[Tensor], patch_size: u32) -> Vec<RgbImage> {
    let all: Vec<Tensor> = places.iter().map(|image| image.flatten(0, 1)).collect();
    let all = Tensor::cat(&all, 0);
    let end = |share: f64| all.quantile_scalar(share, Some(0), false, "linear");
    let (low, high) = (end(CUT), end(1.0 - CUT));
    let range = (high - &low).clamp_min(1e-12);
    let draw = |image: &Tensor| {
        let levels = ((image - &low) / &range).clamp(0.0, 1.0);
        let numbers = numbers_of(&levels);
        squares(image, patch_size, |number| {
            Rgb([0, 1, 2].map(|channel| level(numbers[3 * number + channel])))
        })
    };
    places.iter().map(draw).collect()
}

/// The cosine of every patch of `image` with the one at `row` and `column`: `[rows, columns]` float64.
///
/// # Errors
/// There is no such patch.
pub fn similarity(image: &PatchTokens, [row, column]: [i64; 2]) -> Result<Tensor> {
    let [rows, columns] = [image.size()[0], image.size()[1]];
    ensure!(
        (0..rows).contains(&row) && (0..columns).contains(&column),
        "there is no patch in row {row}, column {column} of {rows} × {columns}"
    );
    let relations = relations(image);
    Ok(relations.get(row * columns + column).reshape([rows, columns]))
}

/// How much `student` sees the relations between the patches of an image as `teacher` does: for each patch the
/// correlation (Pearson's) between its cosines with all patches by the one and by the other, `[rows, columns]` float64
/// from -1 to 1. The tokens need not be of one width; those of the student are resized bilinearly to the teacher's grid.
/// Where one of the two sees no difference between patches, there is no correlation: 0.
pub fn agreement(teacher: &PatchTokens, student: &PatchTokens) -> Tensor {
    let [rows, columns] = [teacher.size()[0], teacher.size()[1]];
    let about_mean = |image: &Tensor| {
        let relations = relations(image);
        let mean = relations.mean_dim([1i64].as_slice(), true, Kind::Double);
        relations - mean
    };
    let (one, other) = (about_mean(teacher), about_mean(&resized(student, rows, columns)));
    let sum = |product: Tensor| product.sum_dim_intlist([1i64].as_slice(), false, Kind::Double);
    let lengths = (sum(one.square()) * sum(other.square())).sqrt();
    (sum(one * other) / lengths.clamp_min(1e-12)).reshape([rows, columns])
}

/// Cosines of all patches of an image with each other: `[N, N]` float64.
fn relations(image: &PatchTokens) -> Tensor {
    let tokens = image.flatten(0, 1).to_kind(Kind::Double);
    let lengths = tokens.square().sum_dim_intlist([1i64].as_slice(), true, Kind::Double).sqrt();
    let tokens = tokens / lengths.clamp_min(1e-12);
    tokens.matmul(&tokens.transpose(0, 1))
}

/// `map` `[rows, columns]` as colours from dark violet (`low` or less) through green to yellow (`high` or more).
pub fn heat(map: &Tensor, [low, high]: [f64; 2], patch_size: u32) -> RgbImage {
    let levels = (map - low) / (high - low).max(1e-12);
    let numbers = numbers_of(&levels);
    squares(map, patch_size, |number| heat_colour(numbers[number]))
}

/// Frames the patch at `row` and `column` of an image in red.
pub fn frame(image: &mut RgbImage, [row, column]: [i64; 2], patch_size: u32) {
    let (left, top) = (column as u32 * patch_size, row as u32 * patch_size);
    let last = patch_size - 1;
    for step in 0..patch_size {
        for (x, y) in [(step, 0), (step, last), (0, step), (last, step)] {
            image.put_pixel(left + x, top + y, Rgb([255, 40, 40]));
        }
    }
}

/// Points of viridis (van der Walt and Smith, 2015), between which colours are mixed.
const VIRIDIS: [[f64; 3]; 5] =
    [[68., 1., 84.], [59., 82., 139.], [33., 145., 140.], [94., 201., 98.], [253., 231., 37.]];

fn heat_colour(level: f64) -> Rgb<u8> {
    let last = VIRIDIS.len() - 1;
    let place = level.clamp(0.0, 1.0) * last as f64;
    let below = (place as usize).min(last - 1);
    let share = place - below as f64;
    let mixed = |channel: usize| {
        VIRIDIS[below][channel] * (1.0 - share) + VIRIDIS[below + 1][channel] * share
    };
    Rgb([0, 1, 2].map(|channel| mixed(channel).round() as u8))
}

fn level(share: f64) -> u8 {
    (share * 255.0).round() as u8
}

fn numbers_of(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.flatten(0, -1).to_kind(Kind::Double)).unwrap_or_default()
}

/// An image of a square for each patch of `map` `[rows, columns, ...]`, row by row.
fn squares(map: &Tensor, patch_size: u32, colour: impl Fn(usize) -> Rgb<u8>) -> RgbImage {
    let (rows, columns) = (map.size()[0] as u32, map.size()[1] as u32);
    RgbImage::from_fn(columns * patch_size, rows * patch_size, |x, y| {
        colour((y / patch_size * columns + x / patch_size) as usize)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn random(rows: i64, columns: i64, width: i64) -> Tensor {
        Tensor::randn([rows, columns, width], (Kind::Float, Device::Cpu))
    }

    /// Another model with the same relations, in a turned space of its own, agrees everywhere; one that has nothing to
    /// do with it does not.
    #[test]
    fn agreement_does_not_depend_on_the_space() {
        let teacher = random(4, 6, 8);
        let (turn, _) = Tensor::linalg_qr(&random(1, 16, 16).squeeze_dim(0), "reduced");
        let padded = Tensor::cat(&[&teacher, &Tensor::zeros_like(&teacher)], 2);
        let same = padded.matmul(&turn) * 3.0;
        let agreed = agreement(&teacher, &same);
        assert!((agreed - 1.0).abs().max().double_value(&[]) < 1e-5);
        let other = agreement(&teacher, &random(4, 6, 8)).mean(Kind::Double);
        assert!(other.double_value(&[]).abs() < 0.5, "{other}");
        let flat = agreement(&teacher, &Tensor::ones_like(&teacher));
        assert_eq!(flat.abs().max().double_value(&[]), 0.0, "nothing to agree on");
        assert_eq!(agreement(&teacher, &random(2, 3, 8)).size(), [4, 6], "another grid");
    }

    /// A little noise turns no sign, and a model whose space is the opposite one is shown in the same colours.
    #[test]
    fn signs_are_stable() {
        let scale = Tensor::from_slice(&[9f32, 5., 3., 1.]);
        let tokens = random(8, 8, 4).exp() * scale;
        let one = [tokens.shallow_clone()];
        let places = Basis::of(&[&one]).unwrap().project(&one, None);
        let noisy = [&tokens + random(8, 8, 4) * 1e-3];
        let again = Basis::of(&[&noisy]).unwrap().project(&noisy, None);
        let off = (&places[0] - &again[0]).abs().max().double_value(&[]);
        assert!(off < 0.1 * places[0].abs().max().double_value(&[]), "{off}");
        let opposite = [-&tokens];
        let turned = Basis::of(&[&opposite]).unwrap().project(&opposite, Some(&places));
        assert!((&turned[0] - &places[0]).abs().max().double_value(&[]) < 1e-6);
        assert_eq!(colours(&turned, 2), colours(&places, 2));
        assert!(Basis::of(&[&[random(4, 4, 2)]]).is_err(), "two numbers have no three directions");
    }

    #[test]
    fn heat_goes_from_violet_to_yellow() {
        let map = Tensor::from_slice(&[-1f64, 0., 0.5, 1., 2., 1.]).view([2, 3]);
        let drawn = heat(&map, [0.0, 1.0], 2);
        assert_eq!(drawn.dimensions(), (6, 4));
        let at = |x, y| drawn.get_pixel(x, y).0;
        assert_eq!([at(0, 0), at(3, 1), at(1, 3)], [[68, 1, 84], [68, 1, 84], [253, 231, 37]]);
        assert_eq!(at(4, 0), [33, 145, 140]);
        assert!(similarity(&random(2, 3, 4), [2, 0]).is_err());
        let own = similarity(&random(2, 3, 4), [1, 2]).unwrap();
        assert!((own.double_value(&[1, 2]) - 1.0).abs() < 1e-9, "a patch is like itself");
    }
}
