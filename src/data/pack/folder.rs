//! Folders of images; sub-folders are classes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::format::is_image_extension;

use super::encode::Encoding;
use super::source::{Sample, Source, list};

/// Longest part of a file's name that goes into a key; with it a key needs no long-name header.
const NAME_LENGTH: usize = 60;

/// The images of a folder.
pub(super) struct Images {
    files: Vec<(PathBuf, Option<u32>)>,
    classes: Vec<String>,
    encoding: Encoding,
}

impl Images {
    /// Finds images by extension: those in `source` itself have no label; or else those
    /// anywhere below each of its folders have the folder's number, in sorted order, as label.
    ///
    /// # Errors
    /// There is no image, or there are both kinds.
    pub(super) fn find(source: &Path, encoding: Encoding) -> Result<Self> {
        let name = source.display();
        let (folders, files): (Vec<_>, Vec<_>) =
            list(source)?.into_iter().partition(|path| path.is_dir());
        let mut files: Vec<_> =
            files.into_iter().filter(|file| is_image(file)).map(|file| (file, None)).collect();
        let unlabelled = files.len();
        let mut classes = Vec::new();
        for folder in folders {
            let mut images = Vec::new();
            collect(&folder, &mut images)?;
            if !images.is_empty() {
                let label = Some(classes.len() as u32);
                files.extend(images.into_iter().map(|file| (file, label)));
                classes.push(folder.file_name().unwrap_or_default().to_string_lossy().into_owned());
            }
        }
        ensure!(
            !files.is_empty(),
            "{name}: has no image (.jpg, .jpeg, .png, .webp) and no IDX files \
             (NAME-images-idx3-ubyte[.gz])"
        );
        ensure!(
            classes.is_empty() || unlabelled == 0,
            "{name}: has {unlabelled} images of its own beside folders of images; either all \
             images lie in class folders or none does"
        );
        Ok(Self { files, classes, encoding })
    }

    /// Names of the class folders, in the order of their labels.
    pub(super) fn classes(&self) -> &[String] {
        &self.classes
    }
}

impl Source for Images {
    fn images(&self) -> usize {
        self.files.len()
    }

    fn samples(&self, index: usize) -> Result<Vec<Sample>> {
        let (path, label) = &self.files[index];
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        let encoded = self.encoding.apply(bytes).with_context(|| path.display().to_string())?;
        let name = key_name(path);
        let sample =
            |(bytes, extension)| Sample { bytes, extension, name: name.clone(), label: *label };
        Ok(encoded.into_iter().map(sample).collect())
    }
}

fn is_image(path: &Path) -> bool {
    path.extension().is_some_and(|extension| is_image_extension(&extension.to_string_lossy()))
}

fn collect(folder: &Path, images: &mut Vec<PathBuf>) -> Result<()> {
    for path in list(folder)? {
        if path.is_dir() {
            collect(&path, images)?;
        } else if is_image(&path) {
            images.push(path);
        }
    }
    Ok(())
}

/// The file's name without extension, fit for a key: no dots, plain characters.
fn key_name(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    stem.chars().map(plain).take(NAME_LENGTH).collect()
}
