//! The header of a safetensors file. The `safetensors` crate checks it against the file: offsets
//! in order and without gaps, shapes that fill their bytes, an end that is the file's end.

use anyhow::{Context, Result, ensure};
use safetensors::{Dtype, SafeTensors};
use tch::Kind;

use super::container::{Container, Piece};

/// Bytes of the header's length, which stand first in the file.
const LENGTH_BYTES: usize = 8;

/// Adds the tensors of the safetensors file `bytes`, which is to be file `index`.
///
/// # Errors
/// The file is cut short or its header does not describe it.
pub(super) fn add(container: &mut Container, index: usize, bytes: &[u8]) -> Result<()> {
    let (length, header) = SafeTensors::read_metadata(bytes)
        .context("not a whole safetensors file (cut short, or a damaged header)")?;
    let start = LENGTH_BYTES + length;
    ensure!(start + header.data_len() == bytes.len(), "the header does not describe the file");
    for (name, info) in header.tensors() {
        let Some(kind) = weight_kind(info.dtype) else {
            container.unreadable.insert(name, format!("{:?}", info.dtype));
            continue;
        };
        let (from, to) = info.data_offsets;
        let shape = info.shape.iter().map(|&size| size as i64).collect();
        let range = start + from..start + to;
        container.insert(name, Piece { file: index, range, kind, shape, strides: None })?;
    }
    container.metadata.extend(header.metadata().clone().unwrap_or_default());
    Ok(())
}

/// The number formats that weights have.
const KINDS: [(Dtype, Kind, &str); 4] = [
    (Dtype::F32, Kind::Float, "float32"),
    (Dtype::BF16, Kind::BFloat16, "bfloat16"),
    (Dtype::F16, Kind::Half, "float16"),
    (Dtype::F64, Kind::Double, "float64"),
];

fn weight_kind(dtype: Dtype) -> Option<Kind> {
    KINDS.iter().find(|known| known.0 == dtype).map(|known| known.1)
}

/// How a safetensors header calls this kind of tensor.
///
/// # Errors
/// It is not a format that weights have, nor of the whole numbers that stand beside features.
pub(super) fn dtype_of(kind: Kind) -> Result<Dtype> {
    if kind == Kind::Int64 {
        return Ok(Dtype::I64);
    }
    let known = KINDS.iter().find(|known| known.1 == kind);
    known.map(|known| known.0).with_context(|| format!("{kind:?} tensors are not stored"))
}

/// How PyTorch and `config.json` call this kind of tensor.
pub fn torch_name(kind: Kind) -> Option<&'static str> {
    KINDS.iter().find(|known| known.1 == kind).map(|known| known.2)
}
