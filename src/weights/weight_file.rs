//! [`WeightFile`]: stored weights under original Pixio names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use tch::{Kind, Tensor};

use super::container::{CONFIG, Container, Piece};
use super::hugging_face;
use super::names::{self, Layout, Place};
use crate::config::EncoderSize;
use crate::native::{self, MappedFile};
use crate::status;

/// Prefixes that wrappers put before every name.
const WRAPPERS: [&str; 3] = ["module.", "_orig_mod.", "pixio."];
/// Key of a safetensors header under which this program notes the encoder's size.
pub(super) const ENCODER_KEY: &str = "encoder";

/// One parameter: a stored tensor, or three that are stacked along their first dimension.
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

/// Opened weights: files are mapped, and only their headers have been read.
pub struct WeightFile {
    pub(super) path: PathBuf,
    pub(super) layout: Layout,
    files: Vec<MappedFile>,
    pub(super) entries: BTreeMap<String, Entry>,
    /// What stands in place of tensors that cannot be used, by their names in the file.
    pub(super) unreadable: BTreeMap<String, String>,
    /// Encoder size noted beside the tensors; the only place that tells the number of heads.
    pub(super) declared: Option<EncoderSize>,
}

impl WeightFile {
    /// Opens weights of any form, told by what is there: a Hugging Face folder (`config.json` and
    /// `model.safetensors`, or shards and `model.safetensors.index.json`), the folder of an
    /// export, a safetensors file of either layout, or a state dict of `torch.save` (plain, or
    /// under `model` or `state_dict`), of which nothing is executed.
    ///
    /// # Errors
    /// A file is missing, damaged, or of another form; the names are of neither layout.
    pub fn open(path: &Path) -> Result<Self> {
        ensure!(path.exists(), "{} does not exist", path.display());
        let container = Container::open(path)?;
        let declared = match container.metadata.get(ENCODER_KEY) {
            Some(text) => Some(
                serde_json::from_str(text)
                    .with_context(|| format!("{}: header entry `encoder`", path.display()))?,
            ),
            None if path.is_dir() && path.join(CONFIG).is_file() => {
                Some(hugging_face::read_config(&path.join(CONFIG))?)
            }
            None => None,
        };
        Self::arrange(path, container, declared)
    }

    /// Opens the files over which a model's tensors are divided; `path` is what they are called
    /// together.
    ///
    /// # Errors
    /// As of [`Self::open`]; or two files hold a tensor of one name.
    pub fn open_files(path: &Path, files: &[PathBuf]) -> Result<Self> {
        Self::arrange(path, Container::open_files(files)?, None)
    }

    /// Sorts stored tensors under original names.
    fn arrange(path: &Path, container: Container, declared: Option<EncoderSize>) -> Result<Self> {
        let Container { files, tensors, unreadable, .. } = container;
        let tensors = unwrap_names(tensors);
        let layout = names::recognise(tensors.keys().map(String::as_str)).ok_or_else(|| {
            let found: Vec<_> = tensors.keys().take(5).map(String::as_str).collect();
            anyhow!(
                "{}: these are not the weights of a Pixio encoder: neither Hugging Face nor \
                 original names among its {} tensors (first: {})",
                path.display(),
                tensors.len(),
                found.join(", ")
            )
        })?;
        let (path, entries) = (path.to_path_buf(), BTreeMap::new());
        let mut file = Self { path, layout, files, entries, unreadable, declared };
        match layout {
            Layout::HuggingFace => file.insert_renamed(tensors)?,
            Layout::Pixio => {
                for (name, piece) in tensors {
                    file.insert(name.clone(), vec![(name, piece)])?;
                }
            }
        }
        Ok(file)
    }

    /// Takes up tensors with Hugging Face names; query, key and value of a block become one entry.
    fn insert_renamed(&mut self, tensors: BTreeMap<String, Piece>) -> Result<()> {
        let mut fused: BTreeMap<String, [Option<(String, Piece)>; 3]> = BTreeMap::new();
        for (own_name, piece) in tensors {
            match names::from_hugging_face(&own_name) {
                Some(Place { name, third: Some(third) }) => {
                    fused.entry(name).or_default()[third] = Some((own_name, piece));
                }
                Some(Place { name, third: None }) => self.insert(name, vec![(own_name, piece)])?,
                None => self.insert(own_name.clone(), vec![(own_name, piece)])?,
            }
        }
        for (name, thirds) in fused {
            let absent: Vec<_> = names::to_hugging_face(&name)
                .into_iter()
                .zip(&thirds)
                .filter_map(|(own_name, stored)| stored.is_none().then_some(own_name))
                .collect();
            if absent.is_empty() {
                self.insert(name, thirds.into_iter().flatten().collect())?;
            } else {
                self.unreadable.insert(name, format!("it lacks {}", absent.join(" and ")));
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

    /// The family that the file's names belong to.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Names and shapes of all tensors, by original names; query, key and value show as the one
    /// fused tensor `[3·D, D]`. Tensors that no encoder has keep the names they have in the file.
    pub fn shapes(&self) -> BTreeMap<&str, Vec<i64>> {
        let shape_of = |entry: &Entry| entry.shape().unwrap_or_default();
        self.entries.iter().map(|(name, entry)| (name.as_str(), shape_of(entry))).collect()
    }

    /// The number format in which a tensor is stored.
    pub fn kind(&self, name: &str) -> Option<Kind> {
        self.entries.get(name).map(|entry| entry.pieces[0].kind)
    }

    /// The encoder's size where `config.json` or the file's header notes it, heads included.
    pub fn declared_size(&self) -> Option<EncoderSize> {
        self.declared
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

    /// Fills `targets` (original name, existing tensor of the wanted shape, kind and device), one
    /// tensor at a time, converting the number format.
    ///
    /// `ignore` says which tensors the file may hold beyond the targets, by original name where
    /// they have one; [`super::beside_encoder`] is the usual choice.
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
            layout = %self.layout,
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

/// Takes off prefixes that all names share because the model was wrapped.
fn unwrap_names(mut tensors: BTreeMap<String, Piece>) -> BTreeMap<String, Piece> {
    let shared = |tensors: &BTreeMap<String, Piece>| {
        let all = |prefix: &&str| tensors.keys().all(|name| name.starts_with(*prefix));
        WRAPPERS.into_iter().find(all)
    };
    while !tensors.is_empty()
        && let Some(prefix) = shared(&tensors)
    {
        let unwrap = |(name, piece): (String, Piece)| (name[prefix.len()..].to_string(), piece);
        tensors = tensors.into_iter().map(unwrap).collect();
    }
    tensors
}
