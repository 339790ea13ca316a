//! The settings of the memory bank.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use toml::Table;

use crate::config::{Check, KeyError, require};
use crate::data::pairs::{KnownSource, OwnSet, PairSource};

/// Segmentation of the test images of a data set by labelled patches of its training images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryBank {
    /// A data set of masks: a known one, or a description of one's own.
    #[serde(deserialize_with = "pairs")]
    pub data: PairSource,
    /// How many patches of the bank vote for a patch.
    #[serde(default = "neighbours")]
    pub neighbours: usize,
    /// A vote weighs exp(cosine similarity / temperature).
    #[serde(default = "temperature")]
    pub temperature: f64,
    /// Most patches that are kept, 4 · (D + K) bytes each, for each encoder: on the host while they are
    /// gathered, then on the device.
    #[serde(default = "bank")]
    pub bank: usize,
    /// What the choice of patches follows from.
    #[serde(default)]
    pub seed: u64,
    /// Most training images that patches are taken of, spread evenly over all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most_reference: Option<u64>,
    /// Most test images, spread evenly over all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most_held_out: Option<u64>,
}

/// What holds where nothing else is said.
pub struct Defaults;

impl Defaults {
    pub const NEIGHBOURS: usize = 30;
    pub const TEMPERATURE: f64 = 0.02;
    /// 2.9 GB for D = 1280 and 150 classes.
    pub const BANK: usize = 500_000;
}

fn neighbours() -> usize {
    Defaults::NEIGHBOURS
}
fn temperature() -> f64 {
    Defaults::TEMPERATURE
}
fn bank() -> usize {
    Defaults::BANK
}

/// The table `data`, with an error that is about the form it has.
fn pairs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PairSource, D::Error> {
    let table = Table::deserialize(deserializer)?;
    let source = match table.contains_key("dataset") {
        true => table.try_into::<KnownSource>().map(PairSource::Known),
        false => table.try_into::<OwnSet>().map(PairSource::Own),
    };
    source.map_err(|error| D::Error::custom(error.message()))
}

impl MemoryBank {
    /// Those of a data set, with every default.
    pub fn new(data: PairSource) -> Self {
        Self {
            data,
            neighbours: neighbours(),
            temperature: temperature(),
            bank: bank(),
            seed: 0,
            most_reference: None,
            most_held_out: None,
        }
    }

    /// Number of classes.
    ///
    /// # Errors
    /// The data set is one of depth.
    pub(super) fn classes(&self) -> Result<usize, KeyError> {
        let message = || {
            format!(
                "found `{}`, a data set of depth, expected one of masks, whose classes patches vote for; \
                 `distill eval depth` measures depth",
                self.data.name()
            )
        };
        self.data.classes().ok_or_else(|| ("data".into(), message()))
    }

    /// # Errors
    /// A setting is out of its range, or the data set is one of depth.
    pub(super) fn check_all(&self) -> Check {
        self.classes()?;
        let Self { neighbours, temperature, bank, most_reference, most_held_out, .. } = self;
        for (key, most) in [("most_reference", most_reference), ("most_held_out", most_held_out)] {
            require(*most != Some(0), key, || "found 0, expected at least one image".into())?;
        }
        require(*neighbours > 0, "neighbours", || "found 0, expected at least one".into())?;
        require(*temperature > 0.0 && temperature.is_finite(), "temperature", || {
            format!("found {temperature}, expected a number above 0")
        })?;
        // The numbers of neighbours are kept in 32 bits.
        require((*neighbours..1 << 31).contains(bank), "bank", || {
            format!(
                "found {bank}, expected at least the {neighbours} neighbours, and less than 2^31"
            )
        })
    }
}
