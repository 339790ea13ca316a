//! One part of the features: its files, written whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::manifest::FileFormat;
use crate::durable;
use crate::weights::write_safetensors;

/// Name of the tensor of pooled vectors.
pub(super) const POOLED: &str = "pooled";

/// An image that has features.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Row {
    /// Its place in the data.
    pub position: u64,
    /// Its name in its shard or folder.
    pub key: String,
    pub shard: String,
    pub label: Option<u32>,
    /// A hash of the pixels that the encoder saw.
    pub hash: i64,
}

/// The features of a part, on the host.
pub(super) struct Part {
    /// Number of the part.
    pub number: u64,
    /// By name: `[rows, ...]` each.
    pub tensors: Vec<(&'static str, Tensor)>,
    pub rows: Vec<Row>,
}

/// The list of a part's images, written last: where it is, the part is whole.
pub(super) fn list_of(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("part-{number:05}.jsonl"))
}

/// Where the tensor `name` of a part is.
pub(super) fn file_of(folder: &Path, number: u64, name: &str, format: FileFormat) -> PathBuf {
    folder.join(match format {
        FileFormat::Safetensors => format!("part-{number:05}.safetensors"),
        FileFormat::Npy => format!("part-{number:05}.{name}.npy"),
    })
}

/// Images in a part that is there whole; none, where it is not.
pub(super) fn rows_of(folder: &Path, number: u64) -> Option<u64> {
    let text = fs::read(list_of(folder, number)).ok()?;
    Some(text.iter().filter(|byte| **byte == b'\n').count() as u64)
}

impl Part {
    /// Writes the part to `folder`, and brings it to the disk.
    ///
    /// # Errors
    /// The disk is full, or the folder cannot be written to.
    pub(super) fn write(mut self, folder: &Path, format: FileFormat) -> Result<()> {
        let labels: Vec<i64> =
            self.rows.iter().map(|row| row.label.map_or(-1, i64::from)).collect();
        let positions: Vec<i64> = self.rows.iter().map(|row| row.position as i64).collect();
        self.tensors.push(("labels", Tensor::from_slice(&labels)));
        self.tensors.push(("positions", Tensor::from_slice(&positions)));
        let file = |name: &str| file_of(folder, self.number, name, format);
        match format {
            FileFormat::Safetensors => {
                let tensors: Vec<(String, Tensor)> =
                    self.tensors.drain(..).map(|(name, it)| (name.to_string(), it)).collect();
                whole(&file(POOLED), |path| {
                    write_safetensors(path, &tensors, &BTreeMap::new(), &|| Ok(())).map(drop)
                })?;
            }
            FileFormat::Npy => {
                for (name, tensor) in &self.tensors {
                    whole(&file(name), |path| {
                        tensor.write_npy(path)?;
                        Ok(File::open(path)?.sync_all()?)
                    })?;
                }
            }
        }
        let mut list = Vec::new();
        for row in &self.rows {
            serde_json::to_writer(&mut list, row)?;
            list.write_all(b"\n")?;
        }
        durable::write(&list_of(folder, self.number), &list)
    }
}

/// Writes `path` under another name first.
fn whole(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let partial = path.with_added_extension("partial");
    write(&partial).with_context(|| partial.display().to_string())?;
    fs::rename(&partial, path).with_context(|| format!("cannot write {}", path.display()))
}

/// Room for the tensors of a part, batch by batch.
pub(super) struct Gathered {
    kind: Kind,
    tensors: BTreeMap<&'static str, Vec<Tensor>>,
}

impl Gathered {
    /// Room for numbers of this kind.
    pub(super) fn new(kind: Kind) -> Self {
        Self { kind, tensors: BTreeMap::new() }
    }

    /// Adds `[rows, ...]` from whichever device.
    pub(super) fn add(&mut self, name: &'static str, tensor: &Tensor) {
        let tensor = tensor.to_kind(self.kind).to_device(tch::Device::Cpu);
        self.tensors.entry(name).or_default().push(tensor);
    }

    /// All that was added, in one piece each; `shapes` are those of one image, for a part that has none.
    pub(super) fn finish(
        mut self,
        shapes: &[(&'static str, Vec<i64>)],
    ) -> Vec<(&'static str, Tensor)> {
        let whole = |(name, shape): &(&'static str, Vec<i64>)| {
            let pieces = self.tensors.remove(name).unwrap_or_default();
            let tensor = match pieces.is_empty() {
                true => {
                    let shape = [&[0], &shape[..]].concat();
                    Tensor::zeros(shape, (self.kind, tch::Device::Cpu))
                }
                false => Tensor::cat(&pieces, 0),
            };
            (*name, tensor)
        };
        shapes.iter().map(whole).collect()
    }
}
