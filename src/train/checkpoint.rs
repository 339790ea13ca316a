//! Saved training states: written whole or not at all, checked when read.
//!
//! `checkpoints/step-N/` holds for each trainee `NAME.safetensors` (weights) and
//! `NAME.optimizer.safetensors` (AdamW's moments), and `manifest.json` with every file's size and
//! BLAKE3 checksum. A checkpoint is written under another name, flushed to the disk and renamed,
//! so a folder with the final name is complete unless something damaged it later; that is what
//! the checksums find.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::optimizer::AdamW;
use crate::config::ShuffleConfig;
use crate::durable;
use crate::objective::Trainee;
use crate::weights::{self, TensorFile};

const MANIFEST: &str = "manifest.json";
const FORMAT: u32 = 1;

/// Which stream of samples and draws a state belongs to. Resuming is exact if it is the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    pub seed: u64,
    /// Fingerprint of the data set.
    pub dataset: String,
    pub shuffle: ShuffleConfig,
    pub global_batch_size: usize,
}

/// `manifest.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    /// Version of `distill` that wrote it.
    version: String,
    /// Optimizer steps done.
    pub step: u64,
    /// Samples of the global stream consumed.
    pub position: u64,
    pub stream: Stream,
    files: Vec<FileEntry>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct FileEntry {
    name: String,
    bytes: u64,
    blake3: String,
}

/// What is saved.
pub struct Snapshot<'a> {
    pub step: u64,
    pub position: u64,
    pub stream: &'a Stream,
    pub trainees: &'a [Trainee],
    pub optimizers: &'a [AdamW],
}

/// A checkpoint on disk whose checksums held when it was opened.
pub struct Checkpoint {
    pub folder: PathBuf,
    pub manifest: Manifest,
}

fn weights_file(name: &str) -> String {
    format!("{name}.safetensors")
}

fn optimizer_file(name: &str) -> String {
    format!("{name}.optimizer.safetensors")
}

fn root(run: &Path) -> PathBuf {
    run.join("checkpoints")
}

/// Saves `snapshot` under `run` and removes all but the newest `keep` checkpoints.
///
/// # Errors
/// A file cannot be written (a full disk, for example); earlier checkpoints stay as they were.
pub fn save(run: &Path, keep: usize, snapshot: &Snapshot) -> Result<PathBuf> {
    let root = root(run);
    let folder = root.join(format!("step-{}", snapshot.step));
    let partial = root.join(format!(".step-{}.partial", snapshot.step));
    let written = write_all(&partial, snapshot).and_then(|()| publish(&partial, &folder));
    if let Err(error) = written {
        let _ = fs::remove_dir_all(&partial);
        let rest = match list(run)?.last() {
            Some((step, _)) => format!("the one of step {step} stays the newest"),
            None => "there is no earlier one".to_string(),
        };
        return Err(error.context(format!(
            "cannot save the checkpoint {} ({rest}; free space on that disk, then run the same \
             command again)",
            folder.display()
        )));
    }
    for (_, old) in list(run)?.iter().rev().skip(keep) {
        fs::remove_dir_all(old)
            .with_context(|| format!("cannot remove the old checkpoint {}", old.display()))?;
    }
    info!(step = snapshot.step, "checkpoint saved");
    Ok(folder)
}

fn write_all(partial: &Path, snapshot: &Snapshot) -> Result<()> {
    if partial.exists() {
        fs::remove_dir_all(partial)?;
    }
    fs::create_dir_all(partial).with_context(|| format!("cannot create {}", partial.display()))?;
    let mut files = Vec::new();
    for (trainee, optimizer) in snapshot.trainees.iter().zip(snapshot.optimizers) {
        for (name, tensors) in [
            (weights_file(&trainee.name), trainee.parameters.shared()),
            (optimizer_file(&trainee.name), optimizer.state()),
        ] {
            let written =
                weights::write_safetensors(&partial.join(&name), &tensors, &BTreeMap::new())?;
            files.push(FileEntry { name, bytes: written.bytes, blake3: written.blake3 });
        }
    }
    let manifest = Manifest {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_string(),
        step: snapshot.step,
        position: snapshot.position,
        stream: snapshot.stream.clone(),
        files,
    };
    let path = partial.join(MANIFEST);
    let mut text = serde_json::to_vec_pretty(&manifest)?;
    text.push(b'\n');
    durable::write(&path, &text)
}

/// Gives a finished folder its final name, durably.
fn publish(partial: &Path, folder: &Path) -> Result<()> {
    let parent = folder.parent().context("a checkpoint stands in a folder")?;
    File::open(partial)?.sync_all()?;
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::rename(partial, folder)?;
    File::open(parent)?.sync_all()?;
    Ok(())
}

/// Checkpoint folders of a run by step, oldest first. Whether they are whole is not looked at.
fn list(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let root = root(run);
    if !root.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(&root).with_context(|| format!("cannot read {}", root.display()))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(step) = name.strip_prefix("step-").and_then(|step| step.parse().ok()) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// The newest checkpoint of a run that is whole; damaged ones are named in a warning and passed
/// over.
///
/// # Errors
/// There are checkpoints, but every one is damaged.
pub fn newest(run: &Path) -> Result<Option<Checkpoint>> {
    let folders = list(run)?;
    let mut damage = Vec::new();
    for (_, folder) in folders.iter().rev() {
        match Checkpoint::open(folder) {
            Ok(checkpoint) => return Ok(Some(checkpoint)),
            Err(error) => {
                warn!("passing over a damaged checkpoint: {error:#}");
                damage.push(format!("{error:#}"));
            }
        }
    }
    ensure!(
        damage.is_empty(),
        "no checkpoint of {} is whole: {}; to start again from nothing, use --resume never",
        run.display(),
        damage.join("; ")
    );
    Ok(None)
}

/// Renames the checkpoints of `run` that are later than `step`: training that goes on from there
/// must neither be taken for theirs nor overwrite them.
///
/// # Errors
/// A folder cannot be renamed.
pub fn set_aside_after(run: &Path, step: u64) -> Result<()> {
    for (_, folder) in list(run)?.into_iter().filter(|(later, _)| *later > step) {
        let aside = free_name(&folder);
        fs::rename(&folder, &aside)
            .with_context(|| format!("cannot rename {}", folder.display()))?;
        info!("the later checkpoint {} is now {}", folder.display(), aside.display());
    }
    Ok(())
}

/// `path` with `.old-1` or the first higher number that is not taken.
pub fn free_name(path: &Path) -> PathBuf {
    (1..)
        .map(|number| path.with_added_extension(format!("old-{number}")))
        .find(|aside| !aside.exists())
        .expect("numbers do not end")
}

/// Removes what an interrupted save left behind.
///
/// # Errors
/// The folder cannot be read or a leftover cannot be removed.
pub fn remove_partial(run: &Path) -> Result<()> {
    let root = root(run);
    if !root.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(&root).with_context(|| format!("cannot read {}", root.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "partial") {
            fs::remove_dir_all(&path)
                .with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

impl Checkpoint {
    /// Opens a checkpoint folder and checks every file against the manifest.
    ///
    /// # Errors
    /// A file is missing, has another size, or another checksum.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(MANIFEST);
        let text = fs::read(&path).with_context(|| {
            format!("{} is no checkpoint: cannot read its manifest", folder.display())
        })?;
        let manifest: Manifest = serde_json::from_slice(&text)
            .with_context(|| format!("{} is damaged", path.display()))?;
        if manifest.format != FORMAT {
            bail!("{} has format {}, this version reads {FORMAT}", path.display(), manifest.format);
        }
        for entry in &manifest.files {
            entry.check(folder)?;
        }
        Ok(Self { folder: folder.to_path_buf(), manifest })
    }

    /// Path of the weights of the trainee `name`.
    ///
    /// # Errors
    /// The checkpoint has no such trainee; the error lists those it has.
    pub fn weights(&self, name: &str) -> Result<PathBuf> {
        let file = weights_file(name);
        if !self.manifest.files.iter().any(|entry| entry.name == file) {
            let names: Vec<_> = self.trainees().map(|name| format!("`{name}`")).collect();
            bail!("{} has no student `{name}`, only {}", self.folder.display(), names.join(", "));
        }
        Ok(self.folder.join(file))
    }

    /// Names of the trainees.
    pub fn trainees(&self) -> impl Iterator<Item = &str> {
        self.manifest
            .files
            .iter()
            .filter_map(|entry| entry.name.strip_suffix(".optimizer.safetensors"))
    }

    /// Overwrites weights and optimizer states with the saved ones.
    ///
    /// # Errors
    /// The trainees are not those of the checkpoint, in names or shapes.
    pub fn restore(&self, trainees: &[Trainee], optimizers: &mut [AdamW]) -> Result<()> {
        for (trainee, optimizer) in trainees.iter().zip(optimizers) {
            let weights = TensorFile::open(&self.weights(&trainee.name)?)?;
            weights.copy_into(trainee.parameters.named())?;
            let state = optimizer.state();
            TensorFile::open(&self.folder.join(optimizer_file(&trainee.name)))?
                .copy_into(&state)?;
            optimizer.set_updates(state[0].1.double_value(&[]) as u64);
        }
        Ok(())
    }
}

impl FileEntry {
    fn check(&self, folder: &Path) -> Result<()> {
        let path = folder.join(&self.name);
        let bytes =
            fs::metadata(&path).with_context(|| format!("{} is missing", path.display()))?.len();
        ensure!(
            bytes == self.bytes,
            "{} is damaged: it has {bytes} bytes, its manifest says {}",
            path.display(),
            self.bytes
        );
        let mut hasher = blake3::Hasher::new();
        hasher
            .update_reader(File::open(&path)?)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let found = hasher.finalize().to_hex();
        ensure!(
            found.as_str() == self.blake3,
            "{} is damaged: its checksum is not the one in the manifest",
            path.display()
        );
        Ok(())
    }
}
