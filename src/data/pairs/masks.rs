//! Masks as they are downloaded, and as they are converted to classes from 0.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::check::census;
use super::list::Pair;
use crate::image::ClassMap;
use crate::image::IGNORED_CLASS;

/// What the numbers in masks stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MaskForm {
    /// 0 is nothing, classes are from 1.
    Official,
    /// Classes are from 0, 255 is nothing.
    Converted,
}

impl MaskForm {
    /// The map of stored numbers to `classes` classes.
    pub fn map(self, classes: u8) -> ClassMap {
        ClassMap::new(|stored| match (self, stored) {
            (Self::Official, 0) | (Self::Converted, IGNORED_CLASS) => Some(IGNORED_CLASS),
            (Self::Official, _) => Some(stored - 1).filter(|&class| class < classes),
            (Self::Converted, _) => Some(stored).filter(|&class| class < classes),
        })
    }
}

/// What form these masks of `classes` classes are in, told by the numbers that occur in them: the last
/// class's own number, or 0 with no 255, are official; 255 is converted.
///
/// # Errors
/// A mask cannot be read; nothing tells, or there are signs of both: then it has to be said.
pub fn masks_of(name: &str, masks: &[impl AsRef<Path>], classes: u8) -> Result<MaskForm> {
    let mut seen = [false; 256];
    for mask in masks {
        let (found, _) = census(mask.as_ref())?;
        seen.iter_mut().zip(found).for_each(|(seen, found)| *seen |= found);
    }
    let (has_last, has_none) = (seen[usize::from(classes)], seen[usize::from(IGNORED_CLASS)]);
    let looked = masks.len();
    match (has_last, has_none) {
        (true, true) => bail!(
            "{name}: some of {looked} masks have {classes}, as downloaded masks do, and some 255, as \
             converted ones do: are two downloads mixed? Say masks = \"official\" or \"converted\""
        ),
        (true, false) => Ok(MaskForm::Official),
        (false, true) => Ok(MaskForm::Converted),
        (false, false) => bail!(
            "{name}: nothing in {looked} masks tells whether they are as downloaded (0 is nothing, classes \
             are 1 to {classes}) or converted (classes are 0 to {}, 255 is nothing): say masks = \
             \"official\" or \"converted\"",
            classes - 1
        ),
    }
}

/// The form of the masks of a known data set, told by some of them unless it is `given`.
pub fn form_of(
    name: &str,
    given: Option<MaskForm>,
    root: &Path,
    pairs: &[Pair],
    classes: u8,
) -> Result<MaskForm> {
    if let Some(form) = given {
        return Ok(form);
    }
    let every = pairs.len().div_ceil(64).max(1);
    let masks: Vec<PathBuf> =
        pairs.iter().step_by(every).map(|pair| root.join(&pair.target)).collect();
    masks_of(name, &masks, classes)
}
