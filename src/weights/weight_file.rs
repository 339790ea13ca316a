//! [`WeightFile`]: stored weights under the names that a model gives its parameters.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tch::{Kind, Tensor};

use super::container::{Container, Piece};
use super::name_map::{NameMap, Place};
use crate::native::{self, MappedFile};
use crate::status;

/// Prefixes that wrappers of any model put before every name.
const WRAPPERS: [&str; 2] = ["module.", "_orig_mod."];

/// Parts of names that wrappers of modules put between others: those of `torch.compile`, of data parallelism and of
/// recomputation.
const INNER_WRAPPERS: [&str; 5] = [
    "module",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
];

/// The tensors under names without wrappers, unless two would then have one.
fn without_wrappers(tensors: BTreeMap<String, Piece>) -> BTreeMap<String, Piece> {
    let plain = |name: &String| {
        let parts = name.split('.').filter(|part| !INNER_WRAPPERS.contains(part));
        parts.collect::<Vec<_>>().join(".")
    };
    let names: BTreeSet<String> = tensors.keys().map(plain).collect();
    match names.len() == tensors.len() {
        true => tensors.into_iter().map(|(name, piece)| (plain(&name), piece)).collect(),
        false => tensors,
    }
}

/// One parameter: a stored tensor, or several that are stacked along their first dimension.
pub(super) struct Entry {
    pub pieces: Vec<Piece>,
    /// The names that the file gives them.
    pub own_names: Vec<String>,
}

impl Entry {
    /// Shape of the whole, or `None` where the pieces cannot be stacked.
    pub fn shape(&self) -> Option<Vec<i64>> {
        let mut shape = self.pieces[0].shape.clone();
        for piece in &self.pieces[1..] {
            if shape.is_empty() || shape.get(1..) != piece.shape.get(1..) {
                return None;
            }
            shape[0] += piece.shape[0];
        }
        Some(shape)
    }
}

/// Whether the tensor that a file calls `name` is one or several parameters of the model.
fn is_known(names: &dyn NameMap, name: &str) -> bool {
    names.place(name).is_some() || !names.parameters_in(name).is_empty()
}

/// Bytes that [`WeightFile::digest`] has in memory at a time.
const DIGEST_STRETCH: usize = 1 << 28;

/// Opened weights: files are mapped, and only their headers have been read.
pub struct WeightFile {
    pub(super) path: PathBuf,
    files: Vec<MappedFile>,
    pub(super) entries: BTreeMap<String, Entry>,
    /// What stands in place of tensors that cannot be used, by their names in the file.
    pub(super) unreadable: BTreeMap<String, String>,
    /// Free text that stands in a safetensors header.
    metadata: BTreeMap<String, String>,
    /// See [`Self::is_part`].
    is_part: bool,
    /// How the file's own names became those of the parameters; none if they are the same.
    pub(super) names: Option<&'static dyn NameMap>,
}

impl WeightFile {
    /// Tells these weights from any others: a BLAKE3 checksum of all bytes of their files.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn digest(&self) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        for file in &self.files {
            let bytes = file.bytes().len();
            for start in (0..bytes).step_by(DIGEST_STRETCH) {
                let stretch = start..bytes.min(start + DIGEST_STRETCH);
                file.visit(stretch, |bytes| _ = hasher.update_rayon(bytes))?;
            }
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// Opens weights of any form, told by what is there: a Hugging Face folder
    /// (`model.safetensors`, or shards and `model.safetensors.index.json`), a folder with one of
    /// `file_names`, a safetensors file, or a state dict of `torch.save` (plain, or under `model` or
    /// `state_dict`), of which nothing is executed. Tensors have the names that the file gives them.
    ///
    /// # Errors
    /// A file is missing, damaged, or of another form.
    pub fn open(path: &Path, file_names: &[&str], part: Option<&str>) -> Result<Self> {
        ensure!(
            path.exists(),
            "{0} does not exist{1}",
            path.display(),
            match path.is_relative() && path.components().count() == 2 {
                true => format!("; if a hub's model is meant, it is hf://{}", path.display()),
                false => String::new(),
            }
        );
        Ok(Self::from_container(path, Container::open(path, file_names, part)?))
    }

    /// Opens the files over which a model's tensors are divided; `path` is what they are called
    /// together.
    ///
    /// # Errors
    /// As of [`Self::open`]; or two files hold a tensor of one name.
    pub fn open_files(path: &Path, files: &[PathBuf]) -> Result<Self> {
        Ok(Self::from_container(path, Container::open_files(files)?))
    }

    fn from_container(path: &Path, container: Container) -> Self {
        let Container { files, tensors, unreadable, metadata, is_part } = container;
        let tensors = without_wrappers(tensors);
        let entry = |(name, piece): (String, Piece)| {
            (name.clone(), Entry { pieces: vec![piece], own_names: vec![name] })
        };
        let entries = tensors.into_iter().map(entry).collect();
        let names = None;
        Self { path: path.to_path_buf(), files, entries, unreadable, metadata, names, is_part }
    }

    /// Whether these are the tensors under the key of a state dict that was asked for.
    pub fn is_part(&self) -> bool {
        self.is_part
    }

    /// How many of the tensors whose names begin with `prefix` have their place in `names` without it.
    pub fn placed_below(&self, prefix: &str, names: &dyn NameMap) -> usize {
        let below = self.entries.keys().filter_map(|name| name.strip_prefix(prefix));
        below.filter(|name| is_known(names, name)).count()
    }

    /// Whether one of the tensors whose names begin with `prefix` is `parameter` in `names` without it.
    pub fn has_below(&self, prefix: &str, names: &dyn NameMap, parameter: &str) -> bool {
        let mut below = self.entries.keys().filter_map(|name| name.strip_prefix(prefix));
        below.any(|name| names.place(name).is_some_and(|place| place.name == parameter))
    }

    /// The tensors whose names begin with `prefix`, without it; the others are left.
    pub fn below(mut self, prefix: &str) -> Self {
        let entries = std::mem::take(&mut self.entries).into_iter();
        let stripped = entries.filter_map(|(name, entry)| {
            let name = name.strip_prefix(prefix)?.to_string();
            let own_names = vec![name.clone()];
            Some((name, Entry { own_names, ..entry }))
        });
        self.entries = stripped.collect();
        self
    }

    /// How many of the file's tensors have their place in `names`.
    pub fn known_to(&self, names: &dyn NameMap) -> usize {
        let wrapped = self.wrapped(names);
        self.entries.keys().filter(|name| is_known(names, &name[wrapped..])).count()
    }

    /// The file under the names of the parameters that `names` finds a place for; other tensors keep
    /// those that they have in the file.
    ///
    /// # Errors
    /// Two tensors belong in one place.
    pub fn renamed(mut self, names: &'static dyn NameMap) -> Result<Self> {
        let wrapped = self.wrapped(names);
        self.names = Some(names);
        let mut in_parts: BTreeMap<String, Vec<Option<(String, Piece)>>> = BTreeMap::new();
        for (name, Entry { mut pieces, .. }) in std::mem::take(&mut self.entries) {
            let own_name = name[wrapped..].to_string();
            let piece = pieces.pop().expect("a stored tensor is in one piece");
            match names.place(&own_name) {
                Some(Place { name, part: Some(part) }) => {
                    let count = names.stored_names(&name).len();
                    let parts = in_parts.entry(name);
                    let parts = parts.or_insert_with(|| (0..count).map(|_| None).collect());
                    parts[part] = Some((own_name, piece));
                }
                Some(Place { name, part: None }) => self.insert(name, vec![(own_name, piece)])?,
                None => self.insert_divided(own_name, piece, names)?,
            }
        }
        for (name, parts) in in_parts {
            let absent: Vec<_> = names
                .stored_names(&name)
                .into_iter()
                .zip(&parts)
                .filter_map(|(own_name, stored)| stored.is_none().then_some(own_name))
                .collect();
            if absent.is_empty() {
                self.insert(name, parts.into_iter().flatten().collect())?;
            } else {
                self.unreadable.insert(name, format!("it lacks {}", absent.join(" and ")));
            }
        }
        Ok(self)
    }

    /// Length of the prefixes that all names share because the model was wrapped.
    fn wrapped(&self, names: &dyn NameMap) -> usize {
        let mut length = 0;
        if self.entries.is_empty() {
            return length;
        }
        let wrappers = || WRAPPERS.iter().chain(names.wrappers());
        while let Some(prefix) = wrappers()
            .find(|prefix| self.entries.keys().all(|name| name[length..].starts_with(**prefix)))
        {
            length += prefix.len();
        }
        length
    }

    /// A tensor without one place: the parameters that it holds, or what it is in the file.
    fn insert_divided(
        &mut self,
        own_name: String,
        piece: Piece,
        names: &dyn NameMap,
    ) -> Result<()> {
        let parameters = names.parameters_in(&own_name);
        let Some(parts) = piece.divided(parameters.len()) else {
            return self.insert(own_name.clone(), vec![(own_name, piece)]);
        };
        for (parameter, part) in parameters.into_iter().zip(parts) {
            if let Some(parameter) = parameter {
                self.insert(parameter, vec![(own_name.clone(), part)])?;
            }
        }
        Ok(())
    }

    fn insert(&mut self, name: String, stored: Vec<(String, Piece)>) -> Result<()> {
        let (own_names, pieces) = stored.into_iter().unzip();
        let before = self.entries.insert(name.clone(), Entry { pieces, own_names });
        ensure!(before.is_none(), "{}: {name} is there under two names", self.path.display());
        Ok(())
    }

    /// Where the weights are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the file's names are called.
    pub fn layout(&self) -> &'static str {
        self.names.map_or("names of its own", NameMap::layout)
    }

    /// What a safetensors header notes under `key`.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// The shape of a tensor, where the file has it whole.
    pub fn shape(&self, name: &str) -> Option<Vec<i64>> {
        self.entries.get(name).and_then(Entry::shape)
    }

    /// Names and shapes of all tensors; those that are stored in parts show as the one that they
    /// make, such as query, key and value as `[3·D, D]`.
    pub fn shapes(&self) -> BTreeMap<&str, Vec<i64>> {
        let shape_of = |entry: &Entry| entry.shape().unwrap_or_default();
        self.entries.iter().map(|(name, entry)| (name.as_str(), shape_of(entry))).collect()
    }

    /// The number format in which a tensor is stored.
    pub fn kind(&self, name: &str) -> Option<Kind> {
        self.entries.get(name).map(|entry| entry.pieces[0].kind)
    }

    /// Reads one tensor to the CPU, in the number format it is stored in.
    ///
    /// # Errors
    /// There is no such tensor, or its parts do not fit together.
    pub fn read(&self, name: &str) -> Result<Tensor> {
        let context = || format!("{}: {name}", self.path.display());
        let entry = self.entries.get(name).with_context(|| format!("{}: not there", context()))?;
        let read = |piece: &Piece| piece.read(&self.files).with_context(context);
        if let [piece] = &entry.pieces[..] {
            return read(piece);
        }
        let pieces = entry.pieces.iter().map(read).collect::<Result<Vec<_>>>()?;
        let kind = entry.pieces[0].kind;
        Ok(Tensor::f_cat(&pieces, 0).with_context(context)?.to_kind(kind))
    }

    /// Fills `targets` (name, existing tensor of the wanted shape, kind and device), one tensor at a
    /// time, converting the number format. `ignore` says which tensors the file may hold beyond the
    /// targets.
    ///
    /// # Errors
    /// One error lists all that is missing, unexpected or of another shape; nothing has been
    /// copied then. Otherwise a tensor could not be read or copied.
    pub fn load_into(
        &self,
        targets: &[(String, Tensor)],
        ignore: impl Fn(&str) -> bool,
    ) -> Result<()> {
        self.check_fit(targets, ignore)?;
        let mut copies = vec![];
        for (name, target) in targets {
            let mut row = 0;
            for piece in &self.entries[name].pieces {
                copies.push((name, piece, target, row));
                row += piece.shape.first().copied().unwrap_or(0);
            }
        }
        // In the order of the files, so that disks read ahead.
        copies.sort_by_key(|(_, piece, ..)| (piece.file, piece.range.start));
        for (name, piece, target, row) in copies {
            self.copy(piece, target, row)
                .with_context(|| format!("{}: {name}", self.path.display()))?;
            status::beat();
        }
        tracing::debug!(
            path = %self.path.display(),
            layout = self.layout(),
            tensors = targets.len(),
            peak_memory = native::peak_memory(),
            "weights loaded"
        );
        Ok(())
    }

    /// Copies one stored tensor to rows `row..` of `target`.
    fn copy(&self, piece: &Piece, target: &Tensor, row: i64) -> Result<()> {
        let stored = piece.read(&self.files)?;
        tch::no_grad(|| {
            let mut rows = match piece.shape.first() {
                Some(&count) => target.f_narrow(0, row, count)?,
                None => target.shallow_clone(),
            };
            rows.f_copy_(&stored)
        })
        .context("cannot copy it to the model")
    }
}
