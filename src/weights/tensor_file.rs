//! [`TensorFile`]: a file of tensors of any names, such as an optimizer's state.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tch::{Kind, Tensor};

use super::container::Container;

/// An opened tensor file, mapped, of which only the header has been read.
pub struct TensorFile {
    path: PathBuf,
    container: Container,
}

impl TensorFile {
    /// Opens a safetensors file.
    ///
    /// # Errors
    /// The file is missing, damaged, or of another form.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_path_buf(), container: Container::open(path, &[], None)? })
    }

    /// Names, shapes and number formats of all tensors.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &[i64], Kind)> {
        let tensors = self.container.tensors.iter();
        tensors.map(|(name, piece)| (name.as_str(), &piece.shape[..], piece.kind))
    }

    /// Copies consecutive elements of a tensor, counted in its flattened form, into one dimension.
    ///
    /// # Errors
    /// There is no such tensor, or it has fewer elements.
    pub fn read(&self, name: &str, elements: Range<i64>) -> Result<Tensor> {
        let piece = self.container.tensors.get(name).context("it is not there");
        piece
            .and_then(|piece| piece.read_elements(&self.container.files, elements))
            .with_context(|| format!("{}: {name}", self.path.display()))
    }
}
