//! Opens files and folders of weights of every supported form, told by their contents.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::container::Container;
use super::{header, pth};
use crate::native::MappedFile;

/// What describes the model in a Hugging Face folder.
pub const CONFIG: &str = "config.json";
/// The tensors in a Hugging Face folder.
pub const MODEL: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

impl Container {
    /// Opens a folder or file of any supported form, told by its contents. Beside the files of a
    /// Hugging Face folder, one of `file_names` may stand in a folder.
    pub fn open(path: &Path, file_names: &[&str]) -> Result<Self> {
        if path.is_dir() {
            return Self::open_folder(path, file_names);
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

    fn open_folder(folder: &Path, file_names: &[&str]) -> Result<Self> {
        let mut container = Self::default();
        let mut single = [MODEL].iter().chain(file_names);
        if let Some(name) = single.find(|name| folder.join(name).is_file()) {
            container.add_file(&folder.join(name))?;
            return Ok(container);
        }
        let index = folder.join(INDEX);
        ensure!(
            index.is_file(),
            "{} holds no weights: expected {MODEL}{} or {INDEX} in it",
            folder.display(),
            file_names.iter().map(|name| format!(", {name}")).collect::<String>()
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
