//! What happens in the background of a save: every rank writes its share, the first one publishes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tracing::{debug_span, info};

use super::coordination::{SaveCoordination, WrittenFile};
use super::copying::{CopyMemory, Copying, Share, Source};
use super::folders::list;
use super::progress::SaveProgress;
use super::read::Checkpoint;
use crate::artifacts::{FORMAT, FileEntry, Identity, Manifest, Stream, file_name, paths};
use crate::dist::KvStore;
use crate::{durable, native, weights};

/// A checkpoint that has been saved, and what it took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Saved {
    pub step: u64,
    /// Seconds for which this rank did not train: waiting for an earlier save, and before the next update for
    /// the copies.
    pub stall_seconds: f64,
    /// Seconds until all ranks had written and the checkpoint had its name.
    pub total_seconds: f64,
    /// Bytes of all files.
    pub bytes: u64,
}

/// One save on one rank.
pub(super) struct Job {
    pub run: PathBuf,
    pub keep: usize,
    /// Step of a checkpoint that stays, too.
    pub best: Option<u64>,
    pub identity: Identity,
    pub store: Arc<dyn KvStore>,
    pub cancelled: Arc<AtomicBool>,
    pub step: u64,
    pub position: u64,
    pub stream: Stream,
    /// The step that was saved before this one.
    pub previous: Option<u64>,
    pub progress: Arc<SaveProgress>,
    pub started: Instant,
    pub copying: Copying,
}

impl Job {
    /// Copies and writes this rank's share, and sees to it that the checkpoint gets its name when all have.
    pub fn run(&self, share: Vec<Source>, memory: &mut CopyMemory) -> Result<Saved> {
        let saved = self.save(share, memory);
        self.progress.end(self.step, saved.is_ok());
        saved
    }

    fn save(&self, share: Vec<Source>, memory: &mut CopyMemory) -> Result<Saved> {
        let _span = debug_span!("write_checkpoint", step = self.step).entered();
        let coordination =
            SaveCoordination { store: &*self.store, step: self.step, cancelled: &self.cancelled };
        let bytes = native::guard(|| self.copy_and_publish(share, memory, &coordination))
            .map_err(|error| self.explain(coordination.fail(error)))?;
        let saved = Saved {
            step: self.step,
            stall_seconds: self.copying.stall().as_secs_f64(),
            total_seconds: self.started.elapsed().as_secs_f64(),
            bytes,
        };
        if self.store.rank() == 0 {
            let Saved { step, stall_seconds, total_seconds, bytes } = saved;
            info!(step, stall_seconds, total_seconds, bytes, "checkpoint saved");
            self.progress.at(self.step, "removing older checkpoints");
            self.prune()?;
        }
        Ok(saved)
    }

    fn copy_and_publish(
        &self,
        share: Vec<Source>,
        memory: &mut CopyMemory,
        coordination: &SaveCoordination,
    ) -> Result<u64> {
        self.progress.at(self.step, "copying this rank's share");
        let done = self.copying.done_when_dropped();
        let copied = memory.copy(share, &self.cancelled);
        drop(done);
        let share = copied.context("cannot copy the state to be saved")?;
        let bytes = self.write_and_publish(&share, coordination);
        memory.give_back(share);
        bytes
    }

    fn write_and_publish(&self, share: &[Share], coordination: &SaveCoordination) -> Result<u64> {
        let partial = self.partial();
        self.progress.at(self.step, "writing this rank's share");
        fs::create_dir_all(&partial)
            .with_context(|| format!("cannot create {}", partial.display()))?;
        let written = share.iter().map(|share| self.write(share)).collect::<Result<Vec<_>>>()?;
        coordination.put_written(&written)?;
        if self.store.rank() > 0 {
            self.progress.at(self.step, "waiting until rank 0 has published it");
            return coordination.wait_until_published();
        }
        self.progress.at(self.step, "waiting for the shares of the other ranks");
        let files = name_files(&partial, coordination.take_written()?)?;
        self.progress.at(self.step, "publishing");
        if let Some(step) = self.previous {
            SaveCoordination { step, ..*coordination }.forget()?;
        }
        let bytes = files.iter().map(|entry| entry.bytes).sum();
        self.write_manifest(files)?;
        publish(&partial, &paths::checkpoint(&self.run, self.step))?;
        coordination.put_published(bytes)?;
        Ok(bytes)
    }

    /// Where files are until the checkpoint is whole.
    fn partial(&self) -> PathBuf {
        paths::partial_checkpoint(&self.run, self.step)
    }

    /// Writes one file, through to the disk.
    fn write(&self, share: &Share) -> Result<WrittenFile> {
        let name = format!("{}.of-rank-{}", share.stem, self.store.rank());
        let go_on = || {
            ensure!(!self.cancelled.load(Ordering::Relaxed), "given up, because the run ends");
            Ok(())
        };
        let path = self.partial().join(&name);
        let written = weights::write_safetensors(&path, &share.tensors, &BTreeMap::new(), &go_on)?;
        let (stem, bytes, blake3) = (share.stem.clone(), written.bytes, written.blake3);
        Ok(WrittenFile { stem, name, bytes, blake3 })
    }

    fn write_manifest(&self, files: Vec<FileEntry>) -> Result<()> {
        let manifest = Manifest {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_string(),
            step: self.step,
            position: self.position,
            stream: self.stream.clone(),
            identity: self.identity.clone(),
            files,
        };
        let mut text = serde_json::to_vec_pretty(&manifest)?;
        text.push(b'\n');
        durable::write(&paths::manifest(&self.partial()), &text)
    }

    /// Says what a failure means for the run, and takes away what was written.
    fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        if self.store.rank() == 0 {
            // Otherwise the next start does.
            let _ = fs::remove_dir_all(self.partial());
        }
        let rest = match list(&self.run).unwrap_or_default().last() {
            Some((step, _)) => format!("the one of step {step} stays the newest"),
            None => "there is no earlier one".to_string(),
        };
        error.context(format!(
            "cannot save the checkpoint {} ({rest}; see that its disk has free space, then run \
             the same command again)",
            paths::checkpoint(&self.run, self.step).display()
        ))
    }

    /// Removes all checkpoints but the newest and the best. What is not whole, or of a later step than this one,
    /// is not this run's: it neither counts nor goes.
    fn prune(&self) -> Result<()> {
        let folders = list(&self.run)?;
        let own = folders.iter().rev().filter(|(step, _)| *step <= self.step);
        let whole = own.filter(|(step, folder)| Checkpoint::looks_whole(*step, folder));
        let older = whole.skip(self.keep);
        for (_, old) in older.filter(|(step, _)| Some(*step) != self.best) {
            fs::remove_dir_all(old)
                .with_context(|| format!("cannot remove the old checkpoint {}", old.display()))?;
        }
        Ok(())
    }
}

/// Gives the files of all ranks their final names, now that their numbers are known.
fn name_files(partial: &Path, written: Vec<Vec<WrittenFile>>) -> Result<Vec<FileEntry>> {
    let mut by_stem: BTreeMap<String, Vec<(usize, WrittenFile)>> = BTreeMap::new();
    for (rank, files) in written.into_iter().enumerate() {
        for file in files {
            by_stem.entry(file.stem.clone()).or_default().push((rank, file));
        }
    }
    let mut entries: Vec<FileEntry> = Vec::new();
    for (stem, files) in by_stem {
        let count = files.len();
        for (index, (rank, file)) in files.into_iter().enumerate() {
            let name = file_name(&stem, index + 1, count);
            ensure!(!entries.iter().any(|entry| entry.name == name), "two files are called {name}");
            fs::rename(partial.join(&file.name), partial.join(&name)).with_context(|| {
                format!(
                    "cannot rename {} of rank {rank} in {}: run.dir must be on a file system that \
                     all ranks share",
                    file.name,
                    partial.display()
                )
            })?;
            entries.push(FileEntry { name, bytes: file.bytes, blake3: file.blake3 });
        }
    }
    Ok(entries)
}

/// Gives a finished folder its final name, durably.
fn publish(partial: &Path, folder: &Path) -> Result<()> {
    let parent = folder.parent().context("a checkpoint stands in a folder")?;
    durable::sync_folder(partial)?;
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::rename(partial, folder)?;
    durable::sync_folder(parent)?;
    Ok(())
}
