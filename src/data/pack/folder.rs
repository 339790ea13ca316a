//! Folders of images; sub-folders are classes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::source::{ClassFolder, some_of};

use super::encode::Encoding;
use super::source::{Sample, Source};

/// Longest part of a file's name that goes into a key; with it a key needs no long-name header.
const NAME_LENGTH: usize = 60;

/// Classes that have their numbers already.
pub(super) struct Known {
    /// Where they stand.
    pub path: PathBuf,
    pub classes: Vec<String>,
    /// Whether a user has named them, rather than that they lie where shards go.
    pub are_named: bool,
}

impl Known {
    /// # Errors
    /// The list lies where shards go, and numbers other classes than `source` has.
    fn require_same(&self, source: &Path, classes: &[String]) -> Result<()> {
        let place = self.path.display();
        ensure!(
            self.are_named || self.classes == classes,
            "{place} numbers other classes ({}) than {} has ({}); to number them alike give --classes \
             {place}, else another --out",
            some_of(&self.classes),
            source.display(),
            some_of(classes)
        );
        Ok(())
    }
}

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
    /// There is no image, there are both kinds, or a class is not among those that are `known`.
    pub(super) fn find(source: &Path, encoding: Encoding, known: Option<Known>) -> Result<Self> {
        let mut found = ClassFolder::find(source)?;
        ensure!(
            !found.files.is_empty(),
            "{}: has no image (.jpg, .jpeg, .png, .webp) and no IDX files \
             (NAME-images-idx3-ubyte[.gz])",
            source.display()
        );
        if let Some(known) = known.filter(|_| !found.classes.is_empty()) {
            known.require_same(source, &found.classes)?;
            found = found.numbered_by(&known.classes, &known.path)?;
        }
        let ClassFolder { files, classes } = found;
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

/// The file's name without extension, fit for a key: no dots, plain characters.
fn key_name(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    stem.chars().map(plain).take(NAME_LENGTH).collect()
}
