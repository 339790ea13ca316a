//! Writes safetensors files, one tensor in memory at a time.
//!
//! The `safetensors` crate's own writer is not used: it gives a map's metadata in changing order,
//! cannot report an error while a tensor is fetched, and neither hashes nor syncs what it writes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use safetensors::tensor::TensorInfo;
use serde_json::{Map, Value};
use tch::{Kind, Tensor};

use super::header;
use super::weight_file::WeightFile;
use crate::status;

/// Elements copied out of a tensor at once: enough to keep all cores busy with hashing.
const CHUNK: i64 = 1 << 22;
/// Bytes from which hashing on several cores beside the writing pays.
const WORTH_SHARING: usize = 1 << 18;

/// What is to be written of one tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorPlan {
    pub name: String,
    pub kind: Kind,
    pub shape: Vec<i64>,
}

impl TensorPlan {
    fn bytes(&self) -> usize {
        self.shape.iter().product::<i64>() as usize * self.kind.elt_size_in_bytes()
    }
}

/// A file that was written whole and has reached the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Size of the file in bytes.
    pub bytes: u64,
    /// BLAKE3 of the whole file, in hexadecimal.
    pub blake3: String,
}

/// A safetensors file being written. The same tensors and metadata always give the same bytes.
pub struct SafetensorsWriter {
    path: PathBuf,
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    bytes: u64,
    /// What is on its way from a tensor to the file.
    buffer: Vec<u8>,
    /// Tensors still to come, the next one last.
    left: Vec<TensorPlan>,
}

impl SafetensorsWriter {
    /// Creates `path` and writes the header. Tensors then follow in the order of
    /// [`SafetensorsWriter::next`]: wider number formats first, so that all stay aligned, then by
    /// name.
    ///
    /// # Errors
    /// A number format that is not stored, two tensors of one name, or the disk.
    pub fn create(
        path: &Path,
        mut tensors: Vec<TensorPlan>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let file = File::create(path).with_context(|| at(path))?;
        tensors.sort_by(|a, b| {
            let width = |plan: &TensorPlan| plan.kind.elt_size_in_bytes();
            width(b).cmp(&width(a)).then_with(|| a.name.cmp(&b.name))
        });
        let header = header(&tensors, metadata).with_context(|| at(path))?;
        tensors.reverse();
        let mut writer = Self {
            path: path.to_path_buf(),
            file: BufWriter::new(file),
            hasher: blake3::Hasher::new(),
            bytes: 0,
            buffer: Vec::new(),
            left: tensors,
        };
        writer.put(&(header.len() as u64).to_le_bytes())?;
        writer.put(&header)?;
        Ok(writer)
    }

    /// The tensor to be written next.
    pub fn next(&self) -> Option<&TensorPlan> {
        self.left.last()
    }

    /// Writes the next tensor, from whichever device it is on.
    ///
    /// # Errors
    /// It is not the planned one, or the disk is full.
    pub fn write(&mut self, tensor: &Tensor) -> Result<()> {
        let plan = self.left.pop().context("more tensors than planned")?;
        ensure!(
            tensor.size() == plan.shape && tensor.kind() == plan.kind,
            "{} was planned as {:?} {:?}, but is {:?} {:?}",
            plan.name,
            plan.kind,
            plan.shape,
            tensor.kind(),
            tensor.size()
        );
        let flat = tensor.f_detach()?.f_to(tch::Device::Cpu)?.f_contiguous()?.f_view([-1])?;
        let count = flat.size()[0];
        let width = plan.kind.elt_size_in_bytes();
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(buffer.len().max(CHUNK.min(count) as usize * width), 0);
        for from in (0..count).step_by(CHUNK as usize) {
            let length = CHUNK.min(count - from);
            let bytes = &mut buffer[..length as usize * width];
            flat.f_narrow(0, from, length)?.f_copy_data_u8(bytes, length as usize)?;
            self.put(bytes)?;
            status::beat();
        }
        self.buffer = buffer;
        Ok(())
    }

    /// Brings the file to the disk.
    ///
    /// # Errors
    /// Tensors are left to be written, or the disk is full.
    pub fn finish(mut self) -> Result<Written> {
        ensure!(self.left.is_empty(), "{}: {} tensors left out", at(&self.path), self.left.len());
        self.file.flush().with_context(|| at(&self.path))?;
        self.file.get_ref().sync_all().with_context(|| at(&self.path))?;
        Ok(Written { bytes: self.bytes, blake3: self.hasher.finalize().to_hex().to_string() })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let Self { file, hasher, .. } = self;
        let written = if bytes.len() < WORTH_SHARING {
            hasher.update(bytes);
            file.write_all(bytes)
        } else {
            let hash = || {
                hasher.update_rayon(bytes);
            };
            rayon::join(hash, || file.write_all(bytes)).1
        };
        self.bytes += bytes.len() as u64;
        written.with_context(|| at(&self.path))
    }
}

/// Writes `tensors` to `path`, through the CPU one at a time, and brings them to the disk.
///
/// # Errors
/// As of [`SafetensorsWriter`]; or `go_on`, which is asked before each tensor, says no.
pub fn write_safetensors(
    path: &Path,
    tensors: &[(String, Tensor)],
    metadata: &BTreeMap<String, String>,
    go_on: &dyn Fn() -> Result<()>,
) -> Result<Written> {
    let by_name: BTreeMap<&str, &Tensor> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let plan = |(name, tensor): &(String, Tensor)| TensorPlan {
        name: name.clone(),
        kind: tensor.kind(),
        shape: tensor.size(),
    };
    let plans = tensors.iter().map(plan).collect();
    let mut writer = SafetensorsWriter::create(path, plans, metadata)?;
    while let Some(plan) = writer.next() {
        go_on()?;
        writer.write(by_name[plan.name.as_str()])?;
    }
    writer.finish()
}

/// Writes tensors under new names; one with several names is split among them along its first
/// dimension.
pub fn write_renamed<'a>(
    path: &Path,
    weights: &WeightFile,
    renamed: impl Iterator<Item = (&'a str, Vec<String>)>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let shapes = weights.shapes();
    let mut plans = vec![];
    let mut sources: BTreeMap<String, (&str, usize, usize)> = BTreeMap::new();
    for (name, new_names) in renamed {
        let kind = weights.kind(name).with_context(|| format!("{name} is missing"))?;
        let mut shape = shapes[name].clone();
        let parts = new_names.len();
        if let Some(rows) = shape.first_mut().filter(|_| parts > 1) {
            ensure!(*rows % parts as i64 == 0, "{name} cannot be split into {parts}");
            *rows /= parts as i64;
        }
        for (part, new_name) in new_names.into_iter().enumerate() {
            plans.push(TensorPlan { name: new_name.clone(), kind, shape: shape.clone() });
            sources.insert(new_name, (name, part, parts));
        }
    }
    let mut writer = SafetensorsWriter::create(path, plans, metadata)?;
    while let Some(plan) = writer.next() {
        let (name, part, parts) = sources[&plan.name];
        let tensor = weights.read(name)?;
        writer.write(&part_of(&tensor, part, parts)?)?;
    }
    writer.finish()?;
    Ok(())
}

/// One of `parts` equal slices along the first dimension.
pub fn part_of(tensor: &Tensor, part: usize, parts: usize) -> Result<Tensor> {
    if parts == 1 {
        return Ok(tensor.shallow_clone());
    }
    let rows = tensor.size()[0] / parts as i64;
    Ok(tensor.f_narrow(0, part as i64 * rows, rows)?)
}

fn at(path: &Path) -> String {
    format!("cannot write {}", path.display())
}

/// The header's JSON, filled up with spaces to a multiple of eight bytes.
fn header(tensors: &[TensorPlan], metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let mut entries = Map::new();
    if !metadata.is_empty() {
        entries.insert("__metadata__".into(), serde_json::to_value(metadata)?);
    }
    let mut offset = 0;
    for plan in tensors {
        let end = offset + plan.bytes();
        let info = TensorInfo {
            dtype: header::dtype_of(plan.kind).with_context(|| plan.name.clone())?,
            shape: plan.shape.iter().map(|&size| size as usize).collect(),
            data_offsets: (offset, end),
        };
        let before = entries.insert(plan.name.clone(), serde_json::to_value(info)?);
        ensure!(before.is_none(), "two tensors are called {}", plan.name);
        offset = end;
    }
    let mut header = serde_json::to_vec(&Value::Object(entries))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}
