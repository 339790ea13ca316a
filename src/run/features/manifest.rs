//! `features.json`: what made the features of a folder.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tch::Kind;

use crate::durable;

const FILE: &str = "features.json";

/// Which tokens are kept beside the pooled vector of each image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum FeatureTokens {
    /// Class tokens after the final norm
    Class,
    /// Patch tokens after the final norm
    Patches,
}

/// What kind of files features are written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum FileFormat {
    /// One file a part
    Safetensors,
    /// One file a part and tensor, as numpy.load reads them
    Npy,
}

/// The format of numbers in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum NumberFormat {
    Fp32,
    Fp16,
}

impl NumberFormat {
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Fp32 => Kind::Float,
            Self::Fp16 => Kind::Half,
        }
    }
}

/// Everything that features depend on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub version: u32,
    /// What the encoder was called, and its published name or numbers.
    pub weights: String,
    pub encoder: String,
    /// Tells its weights from any others.
    pub digest: String,
    /// What the images were called.
    pub images: Vec<String>,
    /// Tells the images from any others.
    pub data: String,
    /// Images at all places of the data, those without features too.
    pub samples: u64,
    pub input_size: usize,
    pub precision: String,
    pub tokens: Vec<FeatureTokens>,
    pub format: FileFormat,
    pub store: NumberFormat,
    /// Width of a token, class tokens of an image, rows and columns of its patches.
    pub dim: i64,
    pub class_tokens: i64,
    pub grid: [i64; 2],
    /// Places in a part, and number of parts.
    pub part_images: u64,
    pub parts: u64,
    /// Images that have features, once all parts are there.
    pub rows: Option<u64>,
}

impl Manifest {
    /// Version of the folder's layout.
    pub(super) const VERSION: u32 = 1;

    /// Places in a part: about so many bytes of numbers.
    pub(super) fn usual_part(bytes_of_image: u64) -> u64 {
        const BYTES: u64 = 256 << 20;
        (BYTES / bytes_of_image.max(1)).clamp(1, 1 << 16)
    }

    /// The one in `folder`, if there is one.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let read = serde_json::from_slice(&text);
        read.map(Some).with_context(|| format!("{} is damaged", path.display()))
    }

    /// Refuses to go on with features that others made, and says by what.
    ///
    /// # Errors
    /// A setting differs.
    pub(super) fn require_same(&self, there: &Self, folder: &Path) -> Result<()> {
        let fields = |manifest: &Self| match serde_json::to_value(manifest) {
            Ok(Value::Object(fields)) => fields,
            _ => serde_json::Map::new(),
        };
        let (own, theirs) = (fields(self), fields(there));
        // Names of the same weights and images may change, and whether all is there.
        let is_free = |key: &str| ["weights", "images", "rows"].contains(&key);
        for (key, value) in own.iter().filter(|(key, _)| !is_free(key)) {
            let found = theirs.get(key).unwrap_or(&Value::Null);
            if found != value {
                bail!(
                    "--out {}: there are features of another kind ({key} is {found}, and would be \
                     {value}): name another folder, or delete that one",
                    folder.display()
                );
            }
        }
        Ok(())
    }

    /// Writes it to `folder`.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        durable::write(&folder.join(FILE), &serde_json::to_vec_pretty(self)?)
    }
}
