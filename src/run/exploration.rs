//! What encoders find alike, within images and between them: `distill explore`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use image::{RgbImage, imageops};
use rayon::prelude::*;
use tch::{Device, Kind, Tensor};
use tracing::warn;

use super::device;
use super::frozen_encoder::EncoderSource;
use super::viewing::{PatchesOf, Viewer, central_square, common_input_size, components};
use crate::config::{DeviceChoice, Precision};
use crate::native::guard;
use crate::ui::with_bar;
use crate::viz::{Basis, PatchTokens};

/// Images in one pass of an encoder.
const BATCH: usize = 16;
/// Thumbnails have a side of so many pixels for up to so many images, the fewest first; they are multiples of the
/// blocks of a JPEG, so that neighbours in a sheet do not mix.
const THUMBNAILS: [(usize, u32); 3] = [(2_000, 64), (20_000, 32), (usize::MAX, 16)];
/// Fewer images have no two directions along which they differ most.
const LEAST_ON_A_MAP: usize = 3;

/// Which images are to be explored, by which encoders.
#[derive(Debug, Clone)]
pub struct Exploration {
    /// Encoders and what they are called.
    pub encoders: Vec<(String, EncoderSource)>,
    pub images: Vec<PathBuf>,
    /// So many of the images, evenly spread, are compared patch by patch.
    pub with_patches: usize,
    /// The patch tokens of all encoders take at most so many bytes.
    pub most_token_bytes: u64,
    /// Side of the images, in pixels; none: as [`common_input_size`] finds it.
    pub input_size: Option<usize>,
    pub device: DeviceChoice,
    pub precision: Precision,
}

/// What was found.
pub struct Explored {
    /// Those that could be read, in the order that they were named in.
    pub images: Vec<PathBuf>,
    /// Those that could not.
    pub left_out: usize,
    /// Places among `images` of those with patches, ascending, and their central squares.
    pub with_patches: Vec<(usize, RgbImage)>,
    /// A small square of each image.
    pub thumbnails: Vec<RgbImage>,
    pub models: Vec<ExploredModel>,
    /// Side of the images that the encoders saw, in pixels.
    pub input_size: usize,
    /// Whether the principal components of all encoders are along the same directions.
    pub is_one_basis: bool,
}

/// What one encoder found.
pub struct ExploredModel {
    pub name: String,
    /// Rows and columns of patches.
    pub grid: [usize; 2],
    /// Numbers of a token, D.
    pub width: usize,
    /// Patch tokens `[images with patches, rows, columns, D]`, each token scaled so that its largest number is 127: cosines
    /// need no lengths.
    pub tokens: Vec<i8>,
    /// The first three principal components of the same, as red, green and blue.
    pub components: Vec<u8>,
    /// A place for each image in the unit square, by the first two principal components of its pooled vector; none of
    /// very few images.
    pub places: Vec<[f32; 2]>,
}

/// What an encoder saw, before encoders are put beside one another.
struct Looked {
    name: String,
    width: usize,
    /// Of the images with patches.
    patches: Vec<PatchTokens>,
    /// Of all images, `[N, D]`, each of length 1.
    pooled: Tensor,
}

impl Exploration {
    /// Looks at the images with each encoder in turn.
    ///
    /// # Errors
    /// An encoder cannot be loaded, no image decodes, or the tokens are more than may be.
    pub fn explore(&self) -> Result<Explored> {
        let device = device::find("--device", self.device, 0)?;
        let side = common_input_size(&self.encoders, self.input_size)?;
        let (images, thumbnails) = self.read(side)?;
        let chosen = spread(images.len(), self.with_patches);
        let mut looked = Vec::new();
        let mut bytes = 0;
        for (name, source) in &self.encoders {
            let viewer = Viewer::load(source, side, device, self.precision);
            let viewer = viewer.with_context(|| name.clone())?;
            bytes += self.token_bytes(&viewer, side, chosen.len());
            self.check_size(bytes, chosen.len())?;
            looked.push(look(name, &viewer, side, &images, &chosen)?);
        }
        let square = |&place: &usize| {
            let pixels = central_square(&images[place], side)?;
            let image = RgbImage::from_raw(side as u32, side as u32, pixels);
            Ok((place, image.context("an image has three bytes a pixel")?))
        };
        let with_patches = chosen.iter().map(square).collect::<Result<Vec<_>>>()?;
        let (models, is_one_basis) = guard(|| beside_one_another(looked))?;
        let left_out = self.images.len() - images.len();
        Ok(Explored {
            images,
            left_out,
            with_patches,
            thumbnails,
            models,
            input_size: side,
            is_one_basis,
        })
    }

    /// Bytes of an encoder's tokens.
    fn token_bytes(&self, viewer: &Viewer, side: usize, images: usize) -> u64 {
        let grid = side / viewer.patch_size();
        (images * grid * grid * viewer.width()) as u64
    }

    fn check_size(&self, bytes: u64, images: usize) -> Result<()> {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        ensure!(
            bytes <= self.most_token_bytes,
            "the patch tokens of {images} images alone would take {} MiB, where --max-size leaves {}: name \
             fewer encoders, a smaller --input-size, a lower --patches or a higher --max-size",
            mib(bytes),
            mib(self.most_token_bytes)
        );
        Ok(())
    }

    /// The images that decode, and their thumbnails.
    fn read(&self, side: usize) -> Result<(Vec<PathBuf>, Vec<RgbImage>)> {
        let fits = THUMBNAILS.iter().find(|(most, _)| self.images.len() <= *most);
        let small = fits.map_or(16, |(_, side)| *side);
        let read = |path: &PathBuf| -> Result<RgbImage> {
            let large = (small as usize).max(side);
            let pixels = central_square(path, large)?;
            let square = RgbImage::from_raw(large as u32, large as u32, pixels);
            Ok(imageops::thumbnail(&square.context("three bytes a pixel")?, small, small))
        };
        let (mut images, mut thumbnails) = (Vec::new(), Vec::new());
        with_bar("reading images", |tell| {
            for chunk in self.images.chunks(64) {
                let read: Vec<Result<RgbImage>> = chunk.par_iter().map(read).collect();
                for (path, read) in chunk.iter().zip(read) {
                    match read {
                        Ok(thumbnail) => {
                            images.push(path.clone());
                            thumbnails.push(thumbnail);
                        }
                        Err(error) => warn!("left out: {error:#}"),
                    }
                }
                tell(images.len(), self.images.len());
            }
        });
        if images.is_empty() {
            bail!("none of the {} images can be read", self.images.len());
        }
        Ok((images, thumbnails))
    }
}

/// `wanted` of `count` numbers from 0 on, evenly spread.
fn spread(count: usize, wanted: usize) -> Vec<usize> {
    let wanted = wanted.min(count);
    (0..wanted).map(|number| number * count / wanted).collect()
}

/// One encoder's view of all images. They are decoded anew for each encoder: kept, many would not fit into memory.
fn look(
    name: &str,
    viewer: &Viewer,
    side: usize,
    images: &[PathBuf],
    chosen: &[usize],
) -> Result<Looked> {
    let (mut patches, mut pooled) = (Vec::new(), Vec::new());
    with_bar("looking at images", |tell| {
        for (number, paths) in images.chunks(BATCH).enumerate() {
            let squares = paths.par_iter().map(|path| central_square(path, side));
            let squares = squares.collect::<Result<Vec<_>>>()?;
            let slices: Vec<&[u8]> = squares.iter().map(|square| &square[..]).collect();
            let seen = viewer.see(&slices).with_context(|| name.to_string())?;
            pooled.push(seen.pooled);
            let first = number * BATCH;
            let own = (first..).zip(seen.patches);
            patches.extend(
                own.filter(|(place, _)| chosen.binary_search(place).is_ok()).map(|(_, own)| own),
            );
            tell((first + paths.len()).min(images.len()), images.len());
        }
        Ok::<_, anyhow::Error>(())
    })?;
    let pooled = guard(|| {
        let all = Tensor::cat(&pooled, 0);
        let square = all.square().sum_dim_intlist([1i64].as_slice(), true, Kind::Float);
        Ok(&all / square.sqrt().clamp_min(1e-12))
    })?;
    Ok(Looked { name: name.to_string(), width: viewer.width(), patches, pooled })
}

/// Puts all encoders' colours and maps along directions that are alike, as far as there are such.
fn beside_one_another(looked: Vec<Looked>) -> Result<(Vec<ExploredModel>, bool)> {
    let patches: Vec<PatchesOf> =
        looked.iter().map(|one| PatchesOf { tokens: &one.patches, square: 1 }).collect();
    let (drawn, is_one_basis) = components(&patches)?;
    let mut first: Option<Vec<Tensor>> = None;
    let mut models = Vec::new();
    for (one, drawn) in looked.iter().zip(drawn) {
        let size = one.patches[0].size();
        let mut places = Vec::new();
        if one.pooled.size()[0] >= LEAST_ON_A_MAP as i64 {
            let pooled = [one.pooled.unsqueeze(1)];
            let found = Basis::of(&[&pooled])?.project(&pooled, first.as_deref());
            places = in_unit_square(&found[0])?;
            first.get_or_insert(found);
        }
        models.push(ExploredModel {
            name: one.name.clone(),
            grid: [size[0] as usize, size[1] as usize],
            width: one.width,
            tokens: quantised(&one.patches)?,
            components: drawn.into_iter().flat_map(RgbImage::into_raw).collect(),
            places,
        });
    }
    Ok((models, is_one_basis))
}

/// Tokens of all images, each scaled to whole numbers from -127 to 127.
fn quantised(images: &[PatchTokens]) -> Result<Vec<i8>> {
    let mut all = Vec::new();
    for tokens in images {
        let highest = tokens.abs().amax([2i64].as_slice(), true).clamp_min(1e-30);
        let whole = (tokens / highest * 127.0).round().to_kind(Kind::Int8);
        all.extend(Vec::<i8>::try_from(whole.to_device(Device::Cpu).contiguous().flatten(0, -1))?);
    }
    Ok(all)
}

/// The first two of three numbers of each image `[N, 1, 3]`, moved and scaled alike into the unit square.
fn in_unit_square(places: &Tensor) -> Result<Vec<[f32; 2]>> {
    let plane = places.squeeze_dim(1).narrow(1, 0, 2);
    let (low, high) = (plane.amin([0i64].as_slice(), true), plane.amax([0i64].as_slice(), true));
    let range = (&high - &low).max().double_value(&[]).max(1e-12);
    let middle = (high + low) / 2.0;
    let unit = ((plane - middle) / range + 0.5).clamp(0.0, 1.0).to_kind(Kind::Float);
    let numbers = Vec::<f32>::try_from(unit.contiguous().flatten(0, -1))?;
    Ok(numbers.as_chunks::<2>().0.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_with_patches_are_spread_over_all() {
        assert_eq!(spread(10, 3), [0, 3, 6]);
        assert_eq!(spread(2, 24), [0, 1]);
        assert!(spread(5, 0).is_empty());
    }

    /// What is rounded to whole numbers keeps its cosines, also where one number of a token is far larger than the rest.
    #[test]
    fn rounded_tokens_have_the_same_cosines() {
        let tokens = Tensor::randn([6, 7, 384], (Kind::Float, Device::Cpu));
        let _ = tokens.narrow(2, 5, 1).fill_(20.0);
        let cosines = |tokens: &Tensor| {
            let flat = tokens.reshape([42, 384]).to_kind(Kind::Double);
            let square = flat.square().sum_dim_intlist([1i64].as_slice(), true, Kind::Double);
            let unit = &flat / square.sqrt();
            unit.matmul(&unit.transpose(0, 1))
        };
        let whole = Tensor::from_slice(&quantised(&[tokens.shallow_clone()]).unwrap());
        let off = (cosines(&tokens) - cosines(&whole)).abs();
        let [mean, highest] = [off.mean(Kind::Double), off.max()].map(|one| one.double_value(&[]));
        assert!(mean < 2e-3 && highest < 1e-2, "{mean} {highest}");
    }
}
