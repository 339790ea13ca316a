//! What a file or folder of weights holds, before anyone asks what the names mean.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use tch::{Kind, Tensor};

use super::{header, pth};
use crate::native::MappedFile;

/// The names of a Hugging Face folder's files.
pub(super) const CONFIG: &str = "config.json";
pub(super) const MODEL: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// The one file of an export in the original layout.
pub(super) const PIXIO_MODEL: &str = "pixio.safetensors";

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
    /// Free text that stands in a safetensors header.
    pub metadata: BTreeMap<String, String>,
}

impl Container {
    /// Opens a folder or file of any supported form, told by its contents.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Self::open_folder(path);
        }
        Self::open_files(&[path.to_path_buf()])
    }

    /// Opens files that hold the tensors of one model together.
    pub fn open_files(paths: &[PathBuf]) -> Result<Self> {
        let mut container = Self::default();
        for path in paths {
            container.add_file(path)?;
        }
        Ok(container)
    }

    fn open_folder(folder: &Path) -> Result<Self> {
        let mut container = Self::default();
        if let Some(name) = [MODEL, PIXIO_MODEL].iter().find(|name| folder.join(name).is_file()) {
            container.add_file(&folder.join(name))?;
            return Ok(container);
        }
        let index = folder.join(INDEX);
        ensure!(
            index.is_file(),
            "{} holds no weights: expected {MODEL}, {INDEX} or {PIXIO_MODEL} in it",
            folder.display()
        );
        container.add_shards(folder, &index)?;
        Ok(container)
    }

    /// Adds the tensors of a split model; `index` says which file holds which.
    fn add_shards(&mut self, folder: &Path, index: &Path) -> Result<()> {
        #[derive(Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let at_index = || index.display().to_string();
        let text = std::fs::read_to_string(index).with_context(at_index)?;
        let Index { weight_map } = serde_json::from_str(&text).with_context(at_index)?;
        let mut shards: Vec<&String> = weight_map.values().collect();
        shards.sort();
        shards.dedup();
        for shard in shards {
            let mut parts = Path::new(shard).components();
            ensure!(
                matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)),
                "{}: `{shard}` is not the name of a file beside it",
                index.display()
            );
            self.add_file(&folder.join(shard))
                .with_context(|| format!("{} names {shard}", index.display()))?;
        }
        for (name, shard) in &weight_map {
            ensure!(
                self.tensors.contains_key(name) || self.unreadable.contains_key(name),
                "{}: {name} should be in {shard}, but is not there",
                index.display()
            );
        }
        Ok(())
    }

    fn add_file(&mut self, path: &Path) -> Result<()> {
        let file = MappedFile::open(path)?;
        let at_file = || path.display().to_string();
        let index = self.files.len();
        match sniff(&file)? {
            Form::Safetensors => header::add(self, index, file.bytes()).with_context(at_file)?,
            Form::TorchZip => pth::add(self, index, file.bytes()).with_context(at_file)?,
        }
        self.files.push(file);
        Ok(())
    }

    /// Adds one tensor.
    pub fn insert(&mut self, name: String, piece: Piece) -> Result<()> {
        ensure!(!self.tensors.contains_key(&name), "the tensor {name} is there twice");
        self.tensors.insert(name, piece);
        Ok(())
    }
}

enum Form {
    Safetensors,
    TorchZip,
}

/// What kind of file this is, by its first bytes.
fn sniff(file: &MappedFile) -> Result<Form> {
    let path = file.path().display();
    let bytes = file.bytes();
    if bytes.starts_with(b"PK\x03\x04") {
        return Ok(Form::TorchZip);
    }
    if bytes.get(8) == Some(&b'{') || path.to_string().ends_with(".safetensors") {
        if bytes.starts_with(b"version https://git-lfs") {
            bail!("{path} is a Git LFS pointer, not the weights; fetch them with `git lfs pull`");
        }
        return Ok(Form::Safetensors);
    }
    if bytes.first() == Some(&0x80) {
        bail!(
            "{path} is in the format that torch.save wrote before version 1.6, which is not read \
             here; write it anew with a current PyTorch: \
             torch.save(torch.load(OLD, weights_only=True), NEW)"
        );
    }
    bail!("{path} is neither a safetensors file nor a state dict that torch.save wrote")
}
