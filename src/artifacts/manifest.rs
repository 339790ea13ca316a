//! `manifest.json`: what a checkpoint is of, and which files it consists of.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::data::config::ShuffleConfig;
use crate::status::Progress;

/// The format of checkpoints that this version writes and reads.
pub const FORMAT: u32 = 1;

/// Bytes read at once while checking: enough to keep all cores busy with hashing.
const CHUNK: usize = 1 << 24;

/// What a checkpoint says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    /// Version of `distill` that wrote it.
    pub version: String,
    /// Optimizer steps done.
    pub step: u64,
    /// Samples of the global stream consumed.
    pub position: u64,
    pub stream: Stream,
    /// Empty where an earlier version wrote it.
    #[serde(default)]
    pub identity: Identity,
    pub files: Vec<FileEntry>,
}

/// What a state was trained with, beside its [`Stream`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// Every setting that changes what is learned, by its key; the content of what a path names, too.
    pub settings: BTreeMap<String, String>,
    /// What was otherwise before, the oldest first.
    #[serde(default)]
    pub history: Vec<Change>,
    /// Steps of the whole schedule.
    pub total_steps: u64,
    /// Learning rate of the last step.
    pub learning_rate: f64,
}

/// A setting that changed while a run went on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub key: String,
    /// Its value, up to and with this step.
    pub value: String,
    pub until: u64,
}

/// Which stream of samples and draws a state belongs to. Resuming is exact if it is the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    pub seed: u64,
    /// Fingerprint of the data set.
    pub dataset: String,
    pub shuffle: ShuffleConfig,
    pub global_batch_size: usize,
}

/// A file of a checkpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FileEntry {
    pub name: String,
    pub bytes: u64,
    pub blake3: String,
}

/// What a file holds of a trainee.
#[derive(Debug, Clone, Copy)]
pub enum Holds {
    Weights,
    Optimizer,
}

/// What the files' names begin with.
pub fn stem(trainee: &str, holds: Holds) -> String {
    match holds {
        Holds::Weights => trainee.to_string(),
        Holds::Optimizer => format!("{trainee}.optimizer"),
    }
}

/// Name of the file `number` (from 1) of `count` that hold something together.
pub fn file_name(stem: &str, number: usize, count: usize) -> String {
    match count {
        1 => format!("{stem}.safetensors"),
        _ => format!("{stem}-{number:05}-of-{count:05}.safetensors"),
    }
}

/// The stem of a file's name.
fn stem_of(file: &str) -> Option<&str> {
    let name = file.strip_suffix(".safetensors")?;
    let share = || -> Option<&str> {
        let (rest, count) = name.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let is_number = |text: &str| text.len() >= 5 && text.bytes().all(|b| b.is_ascii_digit());
        (is_number(number) && is_number(count)).then_some(stem)
    };
    Some(share().unwrap_or(name))
}

impl Manifest {
    /// Names of the files that hold this of a trainee.
    pub fn files_of(&self, trainee: &str, holds: Holds) -> Vec<&str> {
        let stem = stem(trainee, holds);
        let whole = file_name(&stem, 1, 1);
        let names = || self.files.iter().map(|entry| entry.name.as_str());
        // A trainee may be called like a share, and then has the only file of that name.
        match names().find(|name| *name == whole) {
            Some(name) => vec![name],
            None => names().filter(|name| stem_of(name) == Some(&stem)).collect(),
        }
    }

    /// Names of the trainees, in the order of their files.
    pub fn trainees(&self) -> Vec<&str> {
        let stems = self.files.iter().filter_map(|entry| stem_of(&entry.name));
        let mut names: Vec<&str> =
            stems.filter_map(|stem| stem.strip_suffix(".optimizer")).collect();
        names.dedup();
        names
    }
}

impl FileEntry {
    /// Compares the file in `folder` with what stands here.
    ///
    /// # Errors
    /// It is missing, has another size, or another checksum.
    pub fn check(&self, folder: &Path, progress: Option<&dyn Progress>) -> Result<()> {
        let path = folder.join(&self.name);
        let mut file =
            File::open(&path).with_context(|| format!("{} is missing", path.display()))?;
        let cannot_read = || format!("cannot read {}", path.display());
        let bytes = file.metadata().with_context(cannot_read)?.len();
        ensure!(
            bytes == self.bytes,
            "{} is damaged: it has {bytes} bytes, its manifest says {}",
            path.display(),
            self.bytes
        );
        let mut hasher = blake3::Hasher::new();
        let mut buffer = Vec::with_capacity(CHUNK.min(bytes as usize));
        while file.by_ref().take(CHUNK as u64).read_to_end(&mut buffer).with_context(cannot_read)?
            > 0
        {
            hasher.update_rayon(&buffer);
            buffer.clear();
            if let Some(progress) = progress {
                progress.beat();
            }
        }
        ensure!(
            hasher.finalize().to_hex().as_str() == self.blake3,
            "{} is damaged: its checksum is not the one in the manifest",
            path.display()
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files of trainees with confusing names are told apart.
    #[test]
    fn files_are_found_by_trainee() {
        let names = [
            "a-00001-of-00002.safetensors",
            "a-00002-of-00002.safetensors",
            "a.optimizer-00001-of-00002.safetensors",
            "a.optimizer-00002-of-00002.safetensors",
            "a-1-of-2.safetensors",
            "a-1-of-2.optimizer.safetensors",
            "ab.safetensors",
            "ab.optimizer.safetensors",
        ];
        let entry = |name: &&str| FileEntry { name: name.to_string(), bytes: 0, blake3: "".into() };
        let shuffle = Default::default();
        let stream = Stream { seed: 0, dataset: "".into(), shuffle, global_batch_size: 1 };
        let files = names.iter().map(entry).collect();
        let version = "0".into();
        let identity = Identity::default();
        let manifest =
            Manifest { format: FORMAT, version, step: 0, position: 0, stream, identity, files };
        assert_eq!(manifest.trainees(), ["a", "a-1-of-2", "ab"]);
        for (trainee, count) in [("a", 2), ("a-1-of-2", 1), ("ab", 1), ("b", 0)] {
            for holds in [Holds::Weights, Holds::Optimizer] {
                let found = manifest.files_of(trainee, holds);
                assert_eq!(found.len(), count, "{trainee} {holds:?}: {found:?}");
                let stem = stem(trainee, holds);
                for (index, name) in found.into_iter().enumerate() {
                    assert_eq!(name, file_name(&stem, index + 1, count));
                }
            }
        }
    }
}
