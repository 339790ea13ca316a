//! Where pairs come from.

use std::path::PathBuf;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::known::KnownSet;
use super::list::Split;
use super::masks::MaskForm;
use super::own::{OwnSet, OwnTask};
use super::set::PairSet;

/// A data set of pairs, as a configuration names it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PairSource {
    Known(KnownSource),
    Own(OwnSet),
}

/// One of the known data sets on this disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownSource {
    pub dataset: KnownSet,
    pub root: PathBuf,
    /// A list of the training pairs, where it is not the one that is looked for below the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_list: Option<PathBuf>,
    /// The same of the test pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_list: Option<PathBuf>,
    /// What form masks are in, where that cannot be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masks: Option<MaskForm>,
}

impl PairSource {
    /// The data set `dataset` below `root`, its lists found there.
    pub fn known(dataset: KnownSet, root: PathBuf) -> Self {
        Self::Known(KnownSource { dataset, root, train_list: None, test_list: None, masks: None })
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        match self {
            Self::Known(known) => known.dataset.name(),
            Self::Own(own) => &own.name,
        }
    }

    /// Number of classes of its masks, by its description; none where targets are depths.
    pub fn classes(&self) -> Option<usize> {
        match self {
            Self::Known(known) => known.dataset.classes(),
            Self::Own(OwnSet { targets: OwnTask::Segmentation { classes, .. }, .. }) => {
                Some(*classes)
            }
            Self::Own(OwnSet { targets: OwnTask::Depth { .. }, .. }) => None,
        }
    }

    /// Makes and checks the lists, and looks at the files.
    ///
    /// # Errors
    /// Folders, lists or files are missing, or are not what they should be.
    pub fn open(&self) -> Result<PairSet> {
        match self {
            Self::Own(own) => own.open(),
            Self::Known(KnownSource { dataset, root, train_list, test_list, masks }) => {
                let lists = [
                    dataset.pairs(root, Split::Train, train_list.as_deref())?,
                    dataset.pairs(root, Split::Test, test_list.as_deref())?,
                ];
                let task = dataset.task(root, &lists, *masks)?;
                PairSet::new(dataset.name().to_string(), root.clone(), task, lists)
            }
        }
    }
}
