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
/// What older versions of transformers wrote.
const OLD_INDEX: &str = "pytorch_model.bin.index.json";

impl Container {
    /// Opens a folder or file of any supported form, told by its contents. Beside the files of a
    /// Hugging Face folder, one of `file_names` may stand in a folder.
    ///
    /// Of a state dict that holds several, `part` names one by its key.
    pub fn open(path: &Path, file_names: &[&str], part: Option<&str>) -> Result<Self> {
        let mut container = Self::default();
        match path.is_dir() {
            true => container.add_folder(path, file_names, part)?,
            false => container.add_file(path, part)?,
        }
        Ok(container)
    }

    /// Opens files that hold the tensors of one model together.
    pub fn open_files(paths: &[PathBuf]) -> Result<Self> {
        let mut container = Self::default();
        for path in paths {
            container.add_file(path, None)?;
        }
        Ok(container)
    }

    fn add_folder(&mut self, folder: &Path, file_names: &[&str], part: Option<&str>) -> Result<()> {
        let mut single = [MODEL].iter().chain(file_names);
        if let Some(name) = single.find(|name| folder.join(name).is_file()) {
            return self.add_file(&folder.join(name), part);
        }
        let indexes = [INDEX, OLD_INDEX].map(|name| folder.join(name));
        if let Some(index) = indexes.iter().find(|index| index.is_file()) {
            return self.add_shards(folder, index);
        }
        // What older versions of transformers, and other programs, wrote.
        match &files_with(folder, &["safetensors", "bin", "pth", "pt"])?[..] {
            [only] if !only.to_string_lossy().contains("-of-") => self.add_file(only, part),
            _ => bail!(
                "{} holds no weights: expected {MODEL}{} or {INDEX} in it{}",
                folder.display(),
                file_names.iter().map(|name| format!(", {name}")).collect::<String>(),
                what_is_in(folder)
            ),
        }
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
            self.add_file(&folder.join(shard), None)
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

    fn add_file(&mut self, path: &Path, part: Option<&str>) -> Result<()> {
        let file = MappedFile::open(path)?;
        let at_file = || path.display().to_string();
        let index = self.files.len();
        match sniff(&file)? {
            Form::Safetensors => header::add(self, index, file.bytes()).with_context(at_file)?,
            Form::TorchZip => {
                pth::add(self, index, file.bytes(), part).with_context(at_file)?;
            }
        }
        self.files.push(file);
        Ok(())
    }
}

/// The files in `folder` with one of these endings, sorted; those of optimizers are none.
fn files_with(folder: &Path, endings: &[&str]) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let ending = path.extension().is_some_and(|own| endings.iter().any(|one| own == *one));
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let is_state = name.starts_with("optimizer") || name.contains(".optimizer");
            ending && path.is_file() && !is_state && !name.starts_with('.')
        })
        .collect();
    files.sort();
    Ok(files)
}

/// What a folder without weights seems to be, and the way on; empty if nothing tells.
fn what_is_in(folder: &Path) -> String {
    let has = |name: &str| folder.join(name).exists();
    let first_in = |name: &str| {
        let entries = std::fs::read_dir(folder.join(name)).ok()?;
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        paths.into_iter().find(|path| path.is_dir())
    };
    let found = files_with(folder, &["safetensors", "bin", "pth", "pt"]).unwrap_or_default();
    if has("checkpoints") && has("config.toml") || has("exports") {
        return match first_in("exports") {
            Some(export) => {
                format!("; it is the directory of a run: name its export {}", export.display())
            }
            None => format!(
                "; it is the directory of a run: `distill export --run {}` writes its encoders",
                folder.display()
            ),
        };
    }
    if let Some(snapshot) = first_in("snapshots") {
        return format!("; it is a hub's cache: name {}", snapshot.display());
    }
    if files_with(folder, &["distcp"]).is_ok_and(|files| !files.is_empty()) || has(".metadata") {
        return format!("; {}", of_distributed_checkpoint(folder));
    }
    let of_others = ["tf_model.h5", "model.onnx", "flax_model.msgpack"];
    if let Some(other) = of_others.into_iter().find(|name| found.is_empty() && has(name)) {
        return format!("; it has {other}, which is not read: save it as safetensors");
    }
    if let (Some(first), true) = (first_in(""), found.is_empty()) {
        let below = files_with(&first, &["safetensors", "bin", "pth", "pt"]).unwrap_or_default();
        if !below.is_empty() {
            return format!("; its folders have some: name one, such as {}", first.display());
        }
    }
    match &found[..] {
        [] if has("config.json") => "; it has a config.json, but no weights beside it".into(),
        [] => String::new(),
        [first, ..] if first.to_string_lossy().contains("-of-") => {
            format!("; it has {} parts of a model, but no {INDEX}", found.len())
        }
        [first, ..] => {
            format!(
                "; it has {} files of weights, such as {}: name one",
                found.len(),
                first.display()
            )
        }
    }
}

/// What to do with a distributed checkpoint of torch, whose parts are no file of their own.
fn of_distributed_checkpoint(folder: &Path) -> String {
    format!(
        "it is a distributed checkpoint of torch: `python -m torch.distributed.checkpoint.format_utils dcp_to_torch \
         {} weights.pth` makes one file of it, which is read",
        folder.display()
    )
}

enum Form {
    Safetensors,
    TorchZip,
}

/// What kind of file this is, by its first bytes.
fn sniff(file: &MappedFile) -> Result<Form> {
    let path = file.path().display();
    let bytes = file.bytes();
    if file.path().extension().is_some_and(|ending| ending == "distcp") {
        let folder = file.path().parent().unwrap_or(Path::new("."));
        bail!("{path} is no file of its own: {}", of_distributed_checkpoint(folder));
    }
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
