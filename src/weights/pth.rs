//! State dicts that `torch.save` wrote (`.pth`, `.pt`): a zip archive with one pickle, which
//! describes the tensors, and one uncompressed member per storage, which holds their numbers.
//!
//! The pickle is read as data ([`super::pickle`]); the numbers stay in the mapped file.

use std::io::{Cursor, Read};
use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use tch::Kind;
use zip::{CompressionMethod, ZipArchive};

use super::container::{Container, Piece};
use super::pickle::{Id, Node, Pickle};

/// Keys under which training programs put the state dict, beside optimizer and arguments.
const STATE_DICT_KEYS: [&str; 2] = ["model", "state_dict"];

/// Adds the tensors of the archive `bytes`, which is to be file `index`.
///
/// # Errors
/// The archive is damaged, holds no state dict, or one of the state dict's entries is something
/// else than a dense tensor.
pub(super) fn add(
    container: &mut Container,
    index: usize,
    bytes: &[u8],
    part: Option<&str>,
) -> Result<()> {
    let mut archive = Archive::open(bytes)?;
    let pickle = Pickle::read(&archive.read_member("data.pkl")?)?;
    let (entries, is_part) = state_dict(&pickle, part)?;
    container.is_part |= is_part;
    for &(name, value) in entries {
        let Some(name) = pickle.text(name) else { continue };
        let Some(described) = describe(&pickle, value).with_context(|| name.to_string())? else {
            continue;
        };
        match described.kind() {
            Ok(kind) => {
                let piece = archive.piece(&described, kind, index);
                container.insert(name.into(), piece.with_context(|| name.to_string())?)?;
            }
            Err(other) => drop(container.unreadable.insert(name.into(), other.into())),
        }
    }
    Ok(())
}

/// The entries of the state dict: the whole pickle, or what stands under a key of it, perhaps a few deep: the one
/// called `part` or the only one below it, else under one of the usual keys, else the only one there is. And whether
/// `part` was a key.
fn state_dict<'a>(pickle: &'a Pickle, part: Option<&str>) -> Result<(&'a [(Id, Id)], bool)> {
    let entries = match pickle.node(pickle.root) {
        Node::Dict(entries) => entries,
        Node::Call { callee, .. } => bail!(
            "the file holds a call of {}, which is not done here, instead of a state dict; save \
             `model.state_dict()`",
            pickle.global(*callee).unwrap_or("an unnamed function")
        ),
        _ => bail!("the file holds something else than a state dict"),
    };
    let mut found = Vec::new();
    collect_dicts(pickle, entries, String::new(), &mut found);
    let keys = || found.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(part) = part {
        let is_it = |key: &str| {
            key == part || key.strip_prefix(part).is_some_and(|rest| rest.starts_with('.'))
        };
        let mut there = found.iter().filter(|(key, _)| is_it(key));
        let exact = found.iter().find(|(key, _)| key == part);
        match (exact, there.next(), there.next()) {
            (Some((_, chosen)), _, _) | (None, Some((_, chosen)), None) => {
                return Ok((chosen, true));
            }
            (None, Some(_), Some(_)) => {
                bail!("the file holds several state dicts below `{part}`: {}", keys())
            }
            // Perhaps what names of tensors begin with.
            (None, None, _) => {
                let begins = |&(name, _): &(Id, Id)| {
                    let rest = pickle.text(name).and_then(|name| name.strip_prefix(part));
                    rest.is_some_and(|rest| rest.starts_with('.'))
                };
                match found.iter().find(|(_, entries)| entries.iter().any(begins)) {
                    Some((_, chosen)) => return Ok((chosen, false)),
                    None => {
                        let keys = keys();
                        bail!(
                            "nothing in the file is called `{part}`{}",
                            if keys.is_empty() {
                                keys
                            } else {
                                format!(": its state dicts are {keys}")
                            }
                        )
                    }
                }
            }
        }
    }
    let usual = STATE_DICT_KEYS.iter().find_map(|key| found.iter().find(|(own, _)| own == key));
    match (&found[..], usual) {
        // What stands at the top is the state dict, whatever else is there.
        ([(key, top), ..], _) if key.is_empty() => Ok((top, false)),
        ([(_, only)], _) => Ok((only, false)),
        ([], _) => Ok((entries, false)),
        (_, Some((key, chosen))) => {
            tracing::warn!(
                "the file holds several state dicts ({}); `{key}` is taken: FILE#KEY takes another",
                keys()
            );
            Ok((chosen, false))
        }
        _ => bail!("the file holds several state dicts ({}): choose one with FILE#KEY", keys()),
    }
}

/// How deep state dicts are looked for.
const DEPTH: usize = 3;

/// Adds every dict that has tensors under names, with the keys that lead to it.
fn collect_dicts<'a>(
    pickle: &'a Pickle,
    entries: &'a [(Id, Id)],
    at: String,
    found: &mut Vec<(String, &'a [(Id, Id)])>,
) {
    let is_tensor = |&(name, value): &(Id, Id)| {
        pickle.text(name).is_some() && describe(pickle, value).is_ok_and(|found| found.is_some())
    };
    let tensors = entries.iter().filter(|entry| is_tensor(entry)).count();
    let place = found.len();
    if tensors > 0 {
        found.push((at.clone(), entries));
    }
    if at.split('.').count() > DEPTH {
        return;
    }
    for &(name, value) in entries {
        if let (Some(name), Node::Dict(inner)) = (pickle.text(name), pickle.node(value)) {
            let below = if at.is_empty() { name.to_string() } else { format!("{at}.{name}") };
            collect_dicts(pickle, inner, below, found);
        }
    }
    // A state of random numbers beside a model is no model, and statistics within one none either.
    let counts = |entries: &[(Id, Id)]| entries.iter().filter(|entry| is_tensor(entry)).count();
    if tensors > 0 {
        let is_less = found[place + 1..].iter().any(|(_, inner)| counts(inner) > tensors);
        if is_less {
            found.remove(place);
        } else {
            found.truncate(place + 1);
        }
    }
}

/// A tensor as the pickle describes it.
struct Described<'a> {
    /// Class of the storage, such as `torch.FloatStorage`.
    storage_class: &'a str,
    /// Member of the archive, in `data/`.
    storage: &'a str,
    /// First element of the tensor in its storage.
    offset: i64,
    shape: Vec<i64>,
    strides: Vec<i64>,
}

impl Described<'_> {
    /// The number format, or its name where no weight has it.
    fn kind(&self) -> Result<Kind, &str> {
        match self.storage_class {
            "torch.FloatStorage" => Ok(Kind::Float),
            "torch.BFloat16Storage" => Ok(Kind::BFloat16),
            "torch.HalfStorage" => Ok(Kind::Half),
            "torch.DoubleStorage" => Ok(Kind::Double),
            other => Err(other),
        }
    }

    /// First and one-past-last element of the storage that the tensor looks at.
    fn elements(&self) -> Option<Range<usize>> {
        let from = usize::try_from(self.offset).ok()?;
        self.shape.iter().try_fold(1i64, |count, &size| count.checked_mul(size))?;
        let mut last = from;
        for (&size, &stride) in self.shape.iter().zip(&self.strides) {
            let (size, stride) = (usize::try_from(size).ok()?, usize::try_from(stride).ok()?);
            if size == 0 {
                return Some(from..from);
            }
            last = last.checked_add((size - 1).checked_mul(stride)?)?;
        }
        Some(from..last.checked_add(1)?)
    }

    /// Whether elements stand in the storage as in a dense tensor of this shape.
    fn is_dense(&self) -> bool {
        let mut expected: i64 = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&size, &stride)| {
            let fits = size == 1 || stride == expected;
            expected = expected.saturating_mul(size);
            fits
        })
    }
}

/// The tensor that `value` would be, or `None` for plain values (numbers, text, ...).
fn describe(pickle: &Pickle, value: Id) -> Result<Option<Described<'_>>> {
    let mut value = value;
    // A parameter wraps the call that makes its tensor; two wrappers are the most there are.
    for _ in 0..3 {
        let Node::Call { callee, arguments } = pickle.node(value) else { return Ok(None) };
        let callee = pickle.global(*callee).unwrap_or("an unnamed function");
        let arguments = pickle.tuple(*arguments).context("a call without arguments")?;
        match callee {
            "torch._utils._rebuild_tensor_v2" => return rebuild(pickle, arguments).map(Some),
            "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state" => {
                value = *arguments.first().context("a parameter without a tensor")?;
            }
            other => bail!("the entry is a call of {other}, which is not done here"),
        }
    }
    bail!("a parameter in a parameter in a parameter")
}

/// Arguments of `_rebuild_tensor_v2`: storage, offset, shape, strides, requires_grad, hooks.
fn rebuild<'a>(pickle: &'a Pickle, arguments: &[Id]) -> Result<Described<'a>> {
    let [storage, offset, shape, strides, ..] = arguments else {
        bail!("a tensor with too few arguments")
    };
    let numbers = |id: Id| -> Option<Vec<i64>> {
        pickle.tuple(id)?.iter().map(|&item| pickle.int(item)).collect()
    };
    let Node::Persistent(storage) = pickle.node(*storage) else {
        bail!("a tensor without a storage")
    };
    // ("storage", class, key, device, number of elements)
    let Some([_, class, key, ..]) = pickle.tuple(*storage) else {
        bail!("a storage with too few fields")
    };
    let described = Described {
        storage_class: pickle.global(*class).context("a storage without a class")?,
        storage: pickle.text(*key).context("a storage without a key")?,
        offset: pickle.int(*offset).context("a tensor without an offset")?,
        shape: numbers(*shape).context("a tensor without a shape")?,
        strides: numbers(*strides).context("a tensor without strides")?,
    };
    ensure!(described.shape.len() == described.strides.len(), "shape and strides do not match");
    Ok(described)
}

/// The zip archive.
struct Archive<'a> {
    zip: ZipArchive<Cursor<&'a [u8]>>,
    /// Folder in the archive in which everything lies, with its slash.
    root: String,
    length: usize,
}

impl<'a> Archive<'a> {
    fn open(bytes: &'a [u8]) -> Result<Self> {
        let zip = ZipArchive::new(Cursor::new(bytes))
            .context("not a whole zip archive (cut short or damaged)")?;
        let mut roots = zip.file_names().filter_map(|name| {
            let root = name.ok()?.strip_suffix("data.pkl")?.to_string();
            (root.is_empty() || root.ends_with('/')).then_some(root)
        });
        let root = roots.next().context("a zip archive, but not one that torch.save wrote")?;
        drop(roots);
        let mut archive = Self { zip, root, length: bytes.len() };
        if let Ok(order) = archive.read_member("byteorder") {
            ensure!(order == b"little", "its numbers are big-endian, which is not supported");
        }
        Ok(archive)
    }

    fn read_member(&mut self, name: &str) -> Result<Vec<u8>> {
        let path = format!("{}{name}", self.root);
        let mut member = self.zip.by_name(&path).with_context(|| path.clone())?;
        let mut contents = vec![];
        member.read_to_end(&mut contents).with_context(|| path.clone())?;
        Ok(contents)
    }

    /// The bytes of a storage in the archive.
    fn storage(&mut self, key: &str) -> Result<Range<usize>> {
        let path = format!("{}data/{key}", self.root);
        let member = self.zip.by_name(&path).with_context(|| path.clone())?;
        ensure!(
            member.compression() == CompressionMethod::Stored,
            "{path} is compressed; torch.save writes it plain"
        );
        let range = member.data_start().and_then(|start| {
            let start = usize::try_from(start).ok()?;
            Some(start..start.checked_add(usize::try_from(member.size()).ok()?)?)
        });
        range
            .filter(|range| range.end <= self.length)
            .with_context(|| format!("{path} reaches beyond the archive"))
    }

    /// Finds the bytes of a tensor.
    fn piece(&mut self, tensor: &Described, kind: Kind, file: usize) -> Result<Piece> {
        let storage = self.storage(tensor.storage)?;
        let width = kind.elt_size_in_bytes();
        let elements = tensor.elements().context("impossible shape or strides")?;
        ensure!(
            elements.end <= storage.len() / width,
            "the tensor reaches beyond its storage data/{}",
            tensor.storage
        );
        let range = storage.start + elements.start * width..storage.start + elements.end * width;
        let strides = (!tensor.is_dense()).then(|| tensor.strides.clone());
        Ok(Piece { file, range, kind, shape: tensor.shape.clone(), strides })
    }
}
