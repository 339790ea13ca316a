//! The tensors of a file or folder of weights, under the names that they have there.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Context, Result, ensure};
use tch::{Kind, Tensor};

use crate::native::MappedFile;

/// One stored tensor: which bytes of which mapped file, and how to read them.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    /// Index into [`Container::files`].
    pub file: usize,
    /// Byte range in that file.
    pub range: Range<usize>,
    pub kind: Kind,
    pub shape: Vec<i64>,
    /// Steps between elements along each dimension, where they are not those of a dense tensor.
    pub strides: Option<Vec<i64>>,
}

impl Piece {
    /// Copies the tensor out of `files`; the pages it was read from are given back.
    pub fn read(&self, files: &[MappedFile]) -> Result<Tensor> {
        let stored = match &self.strides {
            None => self.shape.clone(),
            Some(_) => vec![(self.range.len() / self.kind.elt_size_in_bytes()) as i64],
        };
        let bytes = stored.iter().product::<i64>() as usize * self.kind.elt_size_in_bytes();
        ensure!(bytes == self.range.len(), "a tensor's shape does not fill its bytes");
        let tensor = files[self.file]
            .visit(self.range.clone(), |data| Tensor::f_from_data_size(data, &stored, self.kind))?
            .context("cannot allocate memory for a tensor")?;
        Ok(match &self.strides {
            None => tensor,
            Some(strides) => tensor.f_as_strided(&self.shape, strides, 0)?,
        })
    }

    /// So many equal parts along the first dimension; none where a dense tensor cannot be divided so.
    pub fn divided(&self, count: usize) -> Option<Vec<Self>> {
        let rows = *self.shape.first()?;
        if count == 0 || self.strides.is_some() || rows % count as i64 != 0 {
            return None;
        }
        let bytes = self.range.len() / count;
        let part = |index: usize| {
            let mut part = self.clone();
            part.shape[0] = rows / count as i64;
            part.range.start = self.range.start + index * bytes;
            part.range.end = part.range.start + bytes;
            part
        };
        Some((0..count).map(part).collect())
    }

    /// Copies these elements of a dense tensor, counted in its flattened form, out of `files`.
    pub fn read_elements(&self, files: &[MappedFile], elements: Range<i64>) -> Result<Tensor> {
        let (count, width) = (self.shape.iter().product::<i64>(), self.kind.elt_size_in_bytes());
        ensure!(
            self.strides.is_none() && 0 <= elements.start && elements.end <= count,
            "elements {elements:?} are asked for of a tensor of shape {:?}",
            self.shape
        );
        let byte = |element: i64| self.range.start + element as usize * width;
        let range = byte(elements.start)..byte(elements.end);
        let shape = vec![elements.end - elements.start];
        Self { file: self.file, range, kind: self.kind, shape, strides: None }.read(files)
    }
}

/// Mapped files and the tensors in them, by the names they have there.
#[derive(Debug, Default)]
pub(super) struct Container {
    pub files: Vec<MappedFile>,
    pub tensors: BTreeMap<String, Piece>,
    /// Tensors of number formats that no weight has, with the format's name.
    pub unreadable: BTreeMap<String, String>,
    /// Whether the tensors are those under the key that was asked for.
    pub is_part: bool,
    /// Free text that stands in a safetensors header.
    pub metadata: BTreeMap<String, String>,
}

impl Container {
    /// Adds one tensor.
    pub fn insert(&mut self, name: String, piece: Piece) -> Result<()> {
        ensure!(!self.tensors.contains_key(&name), "the tensor {name} is there twice");
        self.tensors.insert(name, piece);
        Ok(())
    }
}
