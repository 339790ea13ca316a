//! What can be wrong with pairs, found before anything is trained.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use image::ImageReader;
use png::{BitDepth, ColorType};
use rayon::prelude::*;

use crate::image::{ClassMap, DenseMap, DensePixels};

/// How many wrong files an error names.
const MOST_NAMED: usize = 20;

/// Largest target that is looked into, in pixels.
const MOST_PIXELS: u64 = 200_000_000;

/// Width and height of an image, by its header.
///
/// # Errors
/// It cannot be read, or is no image.
pub fn size_of_image(path: &Path) -> Result<[u32; 2]> {
    let read =
        || -> Result<_> { Ok(ImageReader::open(path)?.with_guessed_format()?.into_dimensions()?) };
    let (width, height) = read().with_context(|| path.display().to_string())?;
    Ok([width, height])
}

/// Looks at the headers of all pairs; gives the sizes of the images.
///
/// # Errors
/// Images or targets that cannot be read, targets of another size or kind: up to twenty, in one
/// message.
pub fn headers(name: &str, pairs: &[[PathBuf; 2]], pixels: DensePixels) -> Result<Vec<[u32; 2]>> {
    let found: Vec<Result<[u32; 2]>> =
        pairs.par_iter().map(|[image, target]| header(image, target, pixels)).collect();
    let wrong: Vec<String> =
        found.iter().filter_map(|one| one.as_ref().err()).map(|e| format!("{e:#}")).collect();
    if wrong.is_empty() {
        return found.into_iter().collect();
    }
    let more = wrong.len().saturating_sub(MOST_NAMED);
    let named = wrong[..wrong.len() - more].join("; ");
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    bail!(
        "{name}: {} of {} pairs are not as they should be: {named}{more}",
        wrong.len(),
        pairs.len()
    )
}

fn header(image: &Path, target: &Path, pixels: DensePixels) -> Result<[u32; 2]> {
    let size = size_of_image(image)?;
    let context = || target.display().to_string();
    let file = File::open(target).with_context(context)?;
    let reader = png::Decoder::new(BufReader::new(file)).read_info().with_context(context)?;
    let info = reader.info();
    ensure!(
        [info.width, info.height] == size,
        "{}: {}×{} pixels; expected the image's {}×{}",
        target.display(),
        info.width,
        info.height,
        size[0],
        size[1]
    );
    let is_deep = (info.color_type, info.bit_depth) == (ColorType::Grayscale, BitDepth::Sixteen);
    ensure!(
        pixels == DensePixels::Classes || is_deep,
        "{}: {:?} pixels of {} bits; expected depth in grey levels of 16 bits",
        target.display(),
        info.color_type,
        info.bit_depth as u8
    );
    Ok(size)
}

/// The numbers that occur in a mask, and how many bits its pixels have.
///
/// # Errors
/// It cannot be read, or is no mask.
pub fn census(path: &Path) -> Result<([bool; 256], usize)> {
    Ok(decoded(path, DensePixels::Classes)?.census())
}

fn decoded(path: &Path, pixels: DensePixels) -> Result<DenseMap> {
    let mut map = DenseMap::default();
    let decode = |bytes: Vec<u8>| map.decode(&bytes, pixels, MOST_PIXELS);
    let decoded = std::fs::read(path).map_err(Into::into).and_then(decode);
    decoded.with_context(|| path.display().to_string())?;
    Ok(map)
}

/// Checks the pixels of some masks.
///
/// # Errors
/// One has a number that stands for no class.
pub fn masks(paths: &[PathBuf], classes: &ClassMap, count: usize) -> Result<()> {
    paths.par_iter().try_for_each(|path| {
        let (found, _) = census(path)?;
        let unknown = |&class: &u8| found[usize::from(class)] && classes.get(class).is_none();
        match (0..=u8::MAX).find(unknown) {
            None => Ok(()),
            Some(class) => bail!(
                "{}: has pixels of class {class}, which is none of the {count} classes",
                path.display()
            ),
        }
    })
}

/// Checks the pixels of some depth maps of which `counts` says what stored depth counts.
///
/// # Errors
/// One has no pixel that counts.
pub fn depths(paths: &[PathBuf], counts: impl Fn(u16) -> bool + Sync) -> Result<()> {
    paths.par_iter().try_for_each(|path| {
        let map = decoded(path, DensePixels::Depth)?;
        ensure!(
            map.has_value(&counts),
            "{}: no pixel has a depth that counts; is the divisor to metres right?",
            path.display()
        );
        Ok(())
    })
}
