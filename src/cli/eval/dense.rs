//! `distill eval dense`: what the command line says of the memory bank.

use std::path::PathBuf;

use clap::Args;
use toml::{Table, Value};

use super::heads::SegmentationSet;
use crate::config::{ConfigError, read_table, read_tables};
use crate::data::pairs::{KnownSet, PairSource};
use crate::eval::kinds::memory_bank::{Defaults, MemoryBank};

/// The data set, and how its patches vote.
#[derive(Debug, Args)]
pub(super) struct DenseSettings {
    /// The data set, in the layout that it is downloaded in
    #[arg(long, value_enum, requires = "root", required_unless_present = "data")]
    dataset: Option<SegmentationSet>,
    /// The folder of the data set
    #[arg(long, value_name = "DIR", requires = "dataset")]
    root: Option<PathBuf>,
    /// A TOML file that describes the data set instead, as the table [data] of configs/eval/reference.toml
    /// does: in that table, or at its top
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dataset", "root"])]
    data: Option<PathBuf>,
    /// Patches of the bank that vote for a patch
    #[arg(long, value_name = "K", default_value_t = Defaults::NEIGHBOURS)]
    neighbours: usize,
    /// A neighbour's vote weighs exp(cosine similarity / temperature)
    #[arg(long, value_name = "T", default_value_t = Defaults::TEMPERATURE)]
    temperature: f64,
    /// Most patches that are kept, 4 (D + classes) bytes each: 2.9 GB for half a million of 1280 numbers
    #[arg(long, value_name = "N", default_value_t = Defaults::BANK)]
    bank: usize,
    /// What the choice of patches follows from
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Take patches of so many training images at most, spread evenly over all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    most_reference: Option<u64>,
    /// Take so many test images at most, spread evenly over all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    most_held_out: Option<u64>,
}

impl DenseSettings {
    /// The settings of the evaluation.
    ///
    /// # Errors
    /// The file cannot be read, or is not what it should be.
    pub(super) fn settings(self) -> Result<MemoryBank, ConfigError> {
        let of_data = match (self.data, self.dataset, self.root) {
            (Some(file), ..) => read_file(file)?,
            (None, Some(dataset), Some(root)) => {
                let known: KnownSet = dataset.into();
                MemoryBank::new(PairSource::known(known, root))
            }
            _ => {
                let message = "expected --dataset and --root, or --data".into();
                return Err(ConfigError { file: PathBuf::new(), key: "--data".into(), message });
            }
        };
        let Self { neighbours, temperature, bank, seed, most_reference, most_held_out, .. } = self;
        Ok(MemoryBank {
            neighbours,
            temperature,
            bank,
            seed,
            most_reference,
            most_held_out,
            ..of_data
        })
    }
}

/// Those of the data set that `file` describes.
fn read_file(file: PathBuf) -> Result<MemoryBank, ConfigError> {
    let mut table = read_table(&file, &[])?;
    // A configuration of heads has other tables beside it, which are about other things.
    let data = table.remove("data").unwrap_or(Value::Table(table));
    let table = Table::from_iter([("data".to_string(), data)]);
    read_tables(table).map_err(|(key, message)| ConfigError { file, key, message })
}
