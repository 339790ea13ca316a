//! MNIST-style files: `NAME-images-idx3-ubyte` and `NAME-labels-idx1-ubyte`, plain or gzipped.
//!
//! The format: two zero bytes, a type (8: unsigned byte), the number of dimensions, each
//! dimension as a big-endian 32-bit number, then the values.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use flate2::read::MultiGzDecoder;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

use super::source::{Sample, Source};
use crate::source::list;

const IMAGES: &str = "-images-idx3-ubyte";
const LABELS: &str = "-labels-idx1-ubyte";

/// Grey images of one size with their labels.
pub(crate) struct Split {
    name: String,
    height: u32,
    width: u32,
    /// `[images, height, width]`.
    pixels: Vec<u8>,
    /// Empty if there is no file of labels.
    labels: Vec<u8>,
}

/// The splits in `folder`, by name; none if it holds no such file.
///
/// # Errors
/// A file is damaged, or labels and images do not match.
pub(crate) fn splits(folder: &Path) -> Result<Vec<Split>> {
    let files = list(folder)?;
    let mut splits = Vec::new();
    for path in &files {
        let file_name = path.file_name().unwrap_or_default().to_string_lossy();
        let plain_name = file_name.strip_suffix(".gz").unwrap_or(&file_name);
        let Some(name) = plain_name.strip_suffix(IMAGES) else { continue };
        if splits.iter().any(|split: &Split| split.name == name) {
            continue; // both plain and gzipped
        }
        splits.push(read_split(&files, path, name)?);
    }
    Ok(splits)
}

fn read_split(files: &[PathBuf], file: &Path, name: &str) -> Result<Split> {
    let (dimensions, pixels) = read(file, 3)?;
    let [count, height, width] = dimensions[..] else { bail!("three dimensions are read") };
    let labels_name = format!("{name}{LABELS}");
    let is_labels = |path: &&PathBuf| {
        let file_name = path.file_name().unwrap_or_default().to_string_lossy();
        file_name.strip_suffix(".gz").unwrap_or(&file_name) == labels_name
    };
    let mut labels = Vec::new();
    if let Some(path) = files.iter().find(is_labels) {
        labels = read(path, 1)?.1;
        ensure!(
            labels.len() == count as usize,
            "{}: has {} labels for {count} images",
            path.display(),
            labels.len()
        );
    }
    ensure!(count * height * width > 0, "{}: holds no image", file.display());
    let (height, width) = (u32::try_from(height)?, u32::try_from(width)?);
    Ok(Split { name: name.to_string(), height, width, pixels, labels })
}

/// Dimensions and values of a file.
fn read(path: &Path, rank: usize) -> Result<(Vec<u64>, Vec<u8>)> {
    let attempt = || -> Result<_> {
        let mut bytes = Vec::new();
        let mut file = File::open(path)?;
        if path.extension().is_some_and(|extension| extension == "gz") {
            MultiGzDecoder::new(file).read_to_end(&mut bytes)?;
        } else {
            file.read_to_end(&mut bytes)?;
        }
        let header = 4 + 4 * rank;
        ensure!(bytes.len() >= header, "truncated header");
        ensure!(
            bytes[..4] == [0, 0, 8, rank as u8],
            "found magic bytes {:?}, expected {:?}",
            &bytes[..4],
            [0, 0, 8, rank]
        );
        let dimensions: Vec<u64> = bytes[4..header]
            .as_chunks()
            .0
            .iter()
            .map(|&number| u64::from(u32::from_be_bytes(number)))
            .collect();
        let values = bytes.split_off(header);
        let expected = dimensions.iter().try_fold(1u64, |product, &d| product.checked_mul(d));
        ensure!(
            expected == Some(values.len() as u64),
            "found {} values for dimensions {dimensions:?}",
            values.len()
        );
        Ok((dimensions, values))
    };
    attempt().with_context(|| format!("{}: is not a whole IDX file", path.display()))
}

impl Split {
    /// What comes before `-images` in the file's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Number of images.
    pub(crate) fn count(&self) -> usize {
        self.pixels.len() / self.image_bytes()
    }

    /// Width and height of every image, in pixels.
    pub(crate) fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// The grey levels of an image, row after row.
    pub(crate) fn grey(&self, index: usize) -> &[u8] {
        &self.pixels[index * self.image_bytes()..][..self.image_bytes()]
    }

    /// The class of an image, where there is a file of labels.
    pub(crate) fn label(&self, index: usize) -> Option<u8> {
        self.labels.get(index).copied()
    }

    /// An image as a grey PNG.
    pub(crate) fn png(&self, index: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let (width, height) = self.size();
        let encoder = PngEncoder::new(&mut bytes);
        encoder.write_image(self.grey(index), width, height, ExtendedColorType::L8)?;
        Ok(bytes)
    }

    fn image_bytes(&self) -> usize {
        (self.height * self.width) as usize
    }
}

impl Source for Split {
    fn images(&self) -> usize {
        self.count()
    }

    fn samples(&self, index: usize) -> Result<Vec<Sample>> {
        let (bytes, label) = (self.png(index)?, self.label(index).map(u32::from));
        Ok(vec![Sample { bytes, extension: "png", name: String::new(), label }])
    }
}
