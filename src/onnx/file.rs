//! A graph as a file, its weights in it or in another beside it.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use prost::Message;
use tch::{Kind, Tensor};

use super::graph::{Graph, data_type};
use super::proto::{Entry, Model, OperatorSet, TensorProto};

/// The version of the format that came with the operator set.
const IR_VERSION: i64 = 8;
const OPERATORS: i64 = 17;

/// Most bytes of weights that go into the graph's own file: protocol buffers end at 2 GiB.
const MOST_WITHIN: u64 = 1_900_000_000;

/// Weights in the other file begin at multiples of this, so that they can be mapped.
const ALIGNMENT: u64 = 4096;

/// Weights of fewer bytes stay in the graph's own file, where runtimes look for the sizes of shapes.
const LEAST_OUTSIDE: u64 = 1024;

/// Where weights go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Into the graph's own file as long as they fit.
    Within,
    Outside,
}

/// What a file says beside the graph.
pub struct Contents<'a> {
    pub graph: &'a Graph,
    /// Free text by keys.
    pub notes: Vec<(String, String)>,
}

/// Writes `contents` to `name` in `folder`; weights that do not go there, to the file of that name with `.data` behind it.
/// Says whether there is one.
///
/// # Errors
/// The disk is full.
pub fn write(
    contents: &Contents<'_>,
    folder: &Path,
    name: &str,
    placement: Placement,
) -> Result<bool> {
    let Contents { graph, notes } = contents;
    let total: u64 = graph.weights.iter().map(|(_, tensor)| bytes_of(tensor)).sum();
    let is_outside = placement == Placement::Outside || total > MOST_WITHIN;
    let data_name = format!("{name}.data");
    let data_path = folder.join(&data_name);
    let mut weights = Vec::new();
    let mut data = match is_outside {
        true => Some(Data::create(&data_path)?),
        false => None,
    };
    for (weight, tensor) in &graph.weights {
        let mut proto = TensorProto {
            dims: tensor.size(),
            data_type: data_type(tensor),
            name: weight.clone(),
            ..TensorProto::default()
        };
        match &mut data {
            Some(data) if bytes_of(tensor) >= LEAST_OUTSIDE => {
                proto.external_data = data.append(tensor, &data_name)?;
                proto.data_location = TensorProto::EXTERNAL;
            }
            _ => proto.raw_data = bytes(tensor)?,
        }
        weights.push(proto);
    }
    if let Some(data) = data {
        data.finish()?;
    }
    let entry = |(key, value): &(String, String)| Entry { key: key.clone(), value: value.clone() };
    let model = Model {
        ir_version: IR_VERSION,
        producer_name: "distill".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(graph.proto(weights)),
        opset_import: vec![OperatorSet { domain: String::new(), version: OPERATORS }],
        metadata_props: notes.iter().map(entry).collect(),
    };
    let path = folder.join(name);
    std::fs::write(&path, model.encode_to_vec())
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(is_outside)
}

/// The other file.
struct Data<'a> {
    path: &'a Path,
    file: BufWriter<File>,
    end: u64,
}

impl<'a> Data<'a> {
    fn create(path: &'a Path) -> Result<Self> {
        let file =
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path, file: BufWriter::new(file), end: 0 })
    }

    /// Adds a weight, and says where it is.
    fn append(&mut self, tensor: &Tensor, name: &str) -> Result<Vec<Entry>> {
        let start = self.end.next_multiple_of(ALIGNMENT);
        let numbers = bytes(tensor)?;
        let padding = vec![0; (start - self.end) as usize];
        let written = self.file.write_all(&padding).and_then(|()| self.file.write_all(&numbers));
        written.with_context(|| format!("cannot write {}", self.path.display()))?;
        self.end = start + numbers.len() as u64;
        let entry = |key: &str, value: String| Entry { key: key.into(), value };
        Ok(vec![
            entry("location", name.into()),
            entry("offset", start.to_string()),
            entry("length", numbers.len().to_string()),
        ])
    }

    fn finish(mut self) -> Result<()> {
        self.file.flush().with_context(|| format!("cannot write {}", self.path.display()))
    }
}

fn width(tensor: &Tensor) -> usize {
    if tensor.kind() == Kind::Int64 { 8 } else { 4 }
}

fn bytes_of(tensor: &Tensor) -> u64 {
    tensor.numel() as u64 * width(tensor) as u64
}

fn bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let mut bytes = vec![0; bytes_of(tensor) as usize];
    tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
    Ok(bytes)
}
