//! Opening checkpoints, and states out of files that other numbers of ranks have written.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rayon::prelude::*;
use tch::Kind;

use super::state::{Part, StateTensor, TraineeState, parse_stored_name};
use crate::artifacts::{FORMAT, FileEntry, Holds, Manifest, paths};
use crate::status;
use crate::weights::{TensorFile, WeightFile};

/// A checkpoint on disk.
pub struct Checkpoint {
    pub folder: PathBuf,
    pub manifest: Manifest,
}

impl Checkpoint {
    /// Opens a checkpoint folder and checks every file against the manifest.
    ///
    /// # Errors
    /// A file is missing, has another size, or another checksum.
    pub fn open(folder: &Path) -> Result<Self> {
        let checkpoint = Self::open_unverified(folder)?;
        let progress = status::progress();
        let check = |entry: &FileEntry| entry.check(folder, progress.as_deref());
        checkpoint.manifest.files.par_iter().try_for_each(check)?;
        Ok(checkpoint)
    }

    /// Opens a checkpoint folder whose files another rank has checked.
    ///
    /// # Errors
    /// The manifest is missing, damaged, or of another format.
    pub fn open_unverified(folder: &Path) -> Result<Self> {
        let path = paths::manifest(folder);
        let text = fs::read(&path).with_context(|| {
            format!("{} is no checkpoint: cannot read its manifest", folder.display())
        })?;
        let manifest: Manifest = serde_json::from_slice(&text)
            .with_context(|| format!("{} is damaged", path.display()))?;
        if manifest.format != FORMAT {
            bail!("{} has format {}, this version reads {FORMAT}", path.display(), manifest.format);
        }
        Ok(Self { folder: folder.to_path_buf(), manifest })
    }

    /// Whether it is of `step`, and every file of the manifest is there with its size: what can be told without
    /// reading them.
    pub(super) fn looks_whole(step: u64, folder: &Path) -> bool {
        let has_size = |entry: &FileEntry| {
            fs::metadata(folder.join(&entry.name)).is_ok_and(|found| found.len() == entry.bytes)
        };
        Self::open_unverified(folder)
            .is_ok_and(|one| one.manifest.step == step && one.manifest.files.iter().all(has_size))
    }

    /// Tells this checkpoint from any other: a checksum of its files' checksums.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for entry in &self.manifest.files {
            hasher.update(format!("{} {}\n", entry.name, entry.blake3).as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// The weights of the trainee `name`, in however many files they are.
    ///
    /// # Errors
    /// The checkpoint has no such trainee; the error lists those it has.
    pub fn weights(&self, name: &str) -> Result<WeightFile> {
        let files = self.files_of(name, Holds::Weights)?;
        match &files[..] {
            [file] => WeightFile::open(file, &[], None),
            _ => WeightFile::open_files(&self.folder.join(name), &files),
        }
    }

    /// Overwrites the tensors of `state`, which may be whole or parts, however they were saved.
    ///
    /// # Errors
    /// Names or shapes differ, or elements were not saved.
    pub fn fill(&self, state: &TraineeState) -> Result<()> {
        for (holds, targets) in
            [(Holds::Weights, &state.weights), (Holds::Optimizer, &state.optimizer)]
        {
            let files = self.files_of(&state.name, holds)?;
            let fits = Stored::open(&files)?.copy_into(targets);
            fits.with_context(|| match &files[..] {
                [file] => file.display().to_string(),
                [first, ..] => format!("{} and those beside it", first.display()),
                [] => String::new(),
            })?;
        }
        Ok(())
    }

    fn files_of(&self, name: &str, holds: Holds) -> Result<Vec<PathBuf>> {
        let files = self.manifest.files_of(name, holds);
        if files.is_empty() {
            let names = self.manifest.trainees();
            let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
            bail!("{} has no trainee `{name}`, only {}", self.folder.display(), names.join(", "));
        }
        Ok(files.into_iter().map(|file| self.folder.join(file)).collect())
    }
}

/// Files of tensors, whole or in parts.
struct Stored {
    files: Vec<TensorFile>,
    /// What is stored of each tensor, by first element.
    tensors: BTreeMap<String, Vec<Piece>>,
}

/// Consecutive elements of a tensor.
struct Piece {
    /// Index into [`Stored::files`], and the name there.
    file: usize,
    stored_name: String,
    elements: Range<i64>,
    whole: Vec<i64>,
    kind: Kind,
}

impl Stored {
    fn open(paths: &[PathBuf]) -> Result<Self> {
        let files = paths.iter().map(|path| TensorFile::open(path)).collect::<Result<Vec<_>>>()?;
        let mut tensors: BTreeMap<String, Vec<Piece>> = BTreeMap::new();
        for (file, opened) in files.iter().enumerate() {
            for (stored_name, shape, kind) in opened.tensors() {
                let (name, part) = parse_stored_name(stored_name)?;
                let Part { start, whole } =
                    part.unwrap_or_else(|| Part { start: 0, whole: shape.to_vec() });
                let elements = start..start + shape.iter().product::<i64>();
                let stored_name = stored_name.to_string();
                let piece = Piece { file, stored_name, elements, whole, kind };
                tensors.entry(name.to_string()).or_default().push(piece);
            }
        }
        for pieces in tensors.values_mut() {
            pieces.sort_by_key(|piece| piece.elements.start);
        }
        Ok(Self { files, tensors })
    }

    /// Overwrites `targets`; nothing has been copied if they do not fit.
    fn copy_into(&self, targets: &[StateTensor]) -> Result<()> {
        let plans = targets.iter().map(|target| self.plan(target)).collect::<Result<Vec<_>>>()?;
        // A rank that owns no part of a tensor does not know the tensor.
        if targets.iter().all(|target| target.part.is_none()) {
            ensure!(
                self.tensors.len() == targets.len(),
                "it has {} tensors, expected {}",
                self.tensors.len(),
                targets.len()
            );
        }
        for (target, plan) in targets.iter().zip(plans) {
            self.copy(target, plan).with_context(|| target.name.clone())?;
        }
        Ok(())
    }

    /// Where the elements of `target` are: pieces, and the elements to take of each.
    fn plan(&self, target: &StateTensor) -> Result<Vec<(&Piece, Range<i64>)>> {
        let name = &target.name;
        let pieces = self.tensors.get(name).with_context(|| format!("it has no tensor {name}"))?;
        let whole = target.whole();
        let Range { start: mut next, end } = target.elements();
        let mut plan = Vec::new();
        for piece in pieces {
            ensure!(
                piece.whole == whole && piece.kind == target.tensor.kind(),
                "{name} is {:?} {:?}, expected {:?} {whole:?}",
                piece.kind,
                piece.whole,
                target.tensor.kind(),
            );
            if next < end && piece.elements.contains(&next) {
                let taken = next..end.min(piece.elements.end);
                next = taken.end;
                plan.push((piece, taken));
            }
        }
        ensure!(next >= end, "{name} was not saved whole: element {next} is in no file");
        Ok(plan)
    }

    fn copy(&self, target: &StateTensor, plan: Vec<(&Piece, Range<i64>)>) -> Result<()> {
        let flat = target.tensor.f_detach()?.f_view([-1])?;
        let first = target.elements().start;
        for (piece, Range { start, end }) in plan {
            let within = start - piece.elements.start..end - piece.elements.start;
            let values = self.files[piece.file].read(&piece.stored_name, within)?;
            tch::no_grad(|| flat.f_narrow(0, start - first, end - start)?.f_copy_(&values))?;
        }
        Ok(())
    }
}
