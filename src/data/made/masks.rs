//! Masks that are derived from labelled grey images: what is not dark is of the image's class.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use image::GrayImage;
use rayon::prelude::*;

use super::{file_of, folder_of, make_folder};
use crate::pack::idx::{self, Split};

/// What masks are made of.
#[derive(Debug, Clone)]
pub struct MasksOptions {
    /// Folder of MNIST-style files.
    pub source: PathBuf,
    /// Folder for the pairs, which must not exist.
    pub out: PathBuf,
    /// Images of each split, spread evenly over it; none: all.
    pub images: [Option<usize>; 2],
    /// The highest grey level of background.
    pub threshold: u8,
}

/// What the splits are called in MNIST-style files.
const NAMES: [&[&str]; 2] = [&["train"], &["t10k", "test"]];

/// Writes `{train,test}/{images,masks}/NNNNNN.png`, and gives the number of pairs of each split: grey images as
/// they are, and masks in which 0 is background and a pixel above the threshold has its image's label + 1. These
/// are no annotations: an object's dark parts count as background.
///
/// # Errors
/// The source has no such files or no labels, the folder exists, or it cannot be written.
pub fn masks(options: &MasksOptions) -> Result<[usize; 2]> {
    let MasksOptions { source, out, images, threshold } = options;
    ensure!(source.is_dir(), "{}: is not a folder", source.display());
    let splits = idx::splits(source)?;
    let mut counts = [0; 2];
    make_folder(out, |folder| {
        for (number, names) in NAMES.into_iter().enumerate() {
            let split = splits.iter().find(|split| names.contains(&split.name()));
            let split = split.with_context(|| {
                let known: Vec<&str> = splits.iter().map(Split::name).collect();
                format!(
                    "{}: expected NAME-images-idx3-ubyte[.gz] with the name {}; found: {}",
                    source.display(),
                    names.join(" or "),
                    if known.is_empty() { "none".into() } else { known.join(", ") }
                )
            })?;
            counts[number] = write_split(split, folder, number, images[number], *threshold)?;
        }
        Ok(())
    })?;
    Ok(counts)
}

fn write_split(
    split: &Split,
    root: &Path,
    number: usize,
    most: Option<usize>,
    threshold: u8,
) -> Result<usize> {
    let all = split.count();
    let count = most.map_or(all, |most| most.min(all));
    let [images, masks] = ["images", "masks"].map(|name| folder_of(root, number, name));
    let (images, masks) = (images?, masks?);
    (0..count).into_par_iter().try_for_each(|place| {
        let row = place * all / count;
        let label = split.label(row);
        let label = label.with_context(|| format!("{} has no labels", split.name()))?;
        // 255 does not count in masks.
        let class = label.checked_add(1).filter(|class| *class < 255);
        let class =
            class.with_context(|| format!("label {label} leaves no number for its class"))?;
        let of_pixel = |&grey: &u8| if grey > threshold { class } else { 0 };
        let mask: Vec<u8> = split.grey(row).iter().map(of_pixel).collect();
        let (width, height) = split.size();
        let mask = GrayImage::from_raw(width, height, mask).context("a mask has another size")?;
        let path = file_of(&masks, place);
        mask.save(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let path = file_of(&images, place);
        fs::write(&path, split.png(row)?)
            .with_context(|| format!("cannot write {}", path.display()))
    })?;
    Ok(count)
}
