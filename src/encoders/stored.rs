//! [`EncoderWeights`]: an encoder's stored weights, under the names of its family.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;
use tch::{Kind, Tensor};
use tracing::info;

use super::families::FAMILIES;
use super::family::{EncoderSpec, Family, StoredEncoder};
use super::foreign::family_of;
use crate::hub::{self, Address};
use crate::native::{bytes_of, guard, trim_heap};
use crate::weights::{CONFIG, NameMap, WeightFile};

/// Key of a safetensors header under which this program notes the encoder's numbers.
pub(super) const ENCODER_KEY: &str = "encoder";

/// Files that `config.json` beside them describes.
const FILES_BESIDE_CONFIG: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];

/// Bytes of tensors that were read and freed, after which memory goes back to the system.
const MOST_KEPT: u64 = 64 << 20;

/// Opened weights of an encoder, and perhaps of what is trained beside it.
pub struct EncoderWeights {
    /// The tensors, under the names of the family's parameters.
    pub file: WeightFile,
    family: &'static dyn Family,
    /// The encoder that is noted beside the tensors; the only place that tells the number of heads.
    declared: Option<EncoderSpec>,
    /// What the tensors' names look like that is not read here.
    foreign: Option<&'static str>,
}

impl EncoderWeights {
    /// Opens weights of any form, told by what is there: a Hugging Face folder (`config.json` and
    /// `model.safetensors`, or shards and `model.safetensors.index.json`), the folder of an
    /// export, a safetensors file of any layout of a family, or a state dict of `torch.save`; or such a folder of a
    /// hub, `hf://owner/name`, which is fetched.
    ///
    /// # Errors
    /// A file is missing, damaged, or of another form; the names are of no family.
    ///
    /// Behind `#`, a path may say which of several it means: a key of a state dict, or what the names begin with.
    pub fn open(path: &Path) -> Result<Self> {
        let file_names: Vec<_> = FAMILIES.iter().map(|family| family.file_name()).collect();
        let (path, part) = split_part(path);
        let path = fetched(path, hub::weights)?;
        let (path, part) = (path.as_path(), part.as_deref());
        let file = WeightFile::open(path, &file_names, part)?;
        let declared = match file.metadata(ENCODER_KEY) {
            Some(text) => Some(
                serde_json::from_str(text)
                    .with_context(|| format!("{}: header entry `encoder`", path.display()))?,
            ),
            None if path.is_dir() && path.join(CONFIG).is_file() => {
                Some(read_config(&path.join(CONFIG))?)
            }
            // A file of such a folder; what stands beside another may be another's.
            None if path
                .file_name()
                .is_some_and(|name| FILES_BESIDE_CONFIG.iter().any(|own| name == *own)) =>
            {
                read_config(&path.with_file_name(CONFIG)).ok()
            }
            None => None,
        };
        let foreign = family_of(&file.shapes().into_keys().collect::<Vec<_>>());
        let open = || {
            // A key of a state dict has been taken.
            let part = part.filter(|_| !file.is_part());
            let file = within(file, declared.as_ref(), part)?;
            let (family, layout) = recognise(&file, declared.as_ref())?;
            let foreign = foreign.filter(|_| !knows_all(&file, family, layout));
            Ok(Self { file: file.renamed(layout)?, family, declared, foreign })
        };
        open().map_err(|error| named(foreign, error))
    }

    /// The weights that a trainee with an encoder of this `family` has in a checkpoint of this
    /// program.
    ///
    /// # Errors
    /// Two tensors have one name.
    pub fn of_trainee(file: WeightFile, family: &'static dyn Family) -> Result<Self> {
        Ok(Self { file: file.renamed(family.own_names())?, family, declared: None, foreign: None })
    }

    /// The encoder where `config.json` or the file's header notes it, heads included.
    pub fn declared(&self) -> Option<EncoderSpec> {
        self.declared
    }

    /// The encoder's numbers: all but the heads from the shapes of the tensors, the heads from
    /// `heads`, else from where they are noted, else from the published encoder of these numbers.
    ///
    /// # Errors
    /// A tensor is missing, what is noted beside the tensors contradicts them, or nothing tells
    /// the number of heads, or what else the family needs.
    pub fn measure(&self, heads: Option<usize>) -> Result<StoredEncoder> {
        if let (Some(untold), None) = (self.family.untold(), self.declared) {
            bail!(
                "{}: nothing tells {untold}; put the config.json of these weights beside them, or name their folder",
                self.file.path().display()
            )
        }
        self.measure_with(heads)
    }

    fn measure_with(&self, heads: Option<usize>) -> Result<StoredEncoder> {
        let path = self.file.path().display();
        let measured = self.family.measure(&self.file).with_context(|| path.to_string());
        let measured = measured.map_err(|error| named(self.foreign, error))?;
        let spec = measured.spec;
        if let Some(declared) = self.declared {
            ensure!(
                spec.completed_by(&declared) == declared,
                "{path}: {}",
                difference(&spec, &declared)
            );
            ensure!(
                heads.is_none_or(|heads| heads == declared.heads),
                "{path}: {} attention heads are asked for, but what stands beside the tensors says {}",
                heads.unwrap_or_default(),
                declared.heads
            );
        }
        let mut published = self.family.published().into_iter().map(|(_, published)| published);
        let published = published.find(|published| spec.completed_by(published) == *published);
        let spec = self.declared.map_or(spec, |declared| spec.completed_by(&declared));
        let heads = heads
            .or(self.declared.map(|declared| declared.heads))
            .or(published.map(|published| published.heads))
            .with_context(|| {
                format!(
                    "{path}: nothing tells the number of attention heads of this encoder (width \
                     {}, depth {}); give it with --heads",
                    spec.dim, spec.depth
                )
            })?;
        ensure!(
            heads > 0 && spec.dim.is_multiple_of(heads),
            "{path}: {heads} attention heads do not divide the width {}",
            spec.dim
        );
        Ok(StoredEncoder { spec: EncoderSpec { heads, ..spec }, ..measured })
    }

    /// [`Self::measure`] of a trainee that was built as `model`, which tells what no shape does.
    ///
    /// # Errors
    /// As of [`Self::measure`].
    pub fn measure_trainee(&self, model: &EncoderSpec) -> Result<StoredEncoder> {
        let stored = self.measure_with(Some(model.heads))?;
        Ok(StoredEncoder { spec: stored.spec.completed_by(model), ..stored })
    }

    /// Checks that the file has exactly the encoder's parameters `targets`, beside what the family's
    /// checkpoints have else.
    ///
    /// # Errors
    /// All differences, in one message.
    pub fn check_fit(&self, targets: &[(String, Tensor)]) -> Result<()> {
        let fits = self.file.check_fit(targets, |name| self.family.is_beside(name));
        fits.map_err(|error| named(self.foreign, error))
    }

    /// Checks besides that all values are numbers, of which it has one tensor in memory at a time.
    ///
    /// # Errors
    /// As of [`Self::check_fit`]; or values are not finite.
    pub fn check_values(&self, targets: &[(String, Tensor)]) -> Result<()> {
        self.check_fit(targets)?;
        let (mut counts, mut freed) = (Vec::new(), 0);
        for (name, _) in targets {
            let tensor = self.file.read(name)?;
            counts.push(count_odd(&tensor)?);
            freed += bytes_of(&tensor);
            drop(tensor);
            // What is freed in pieces of some megabytes stays with the process otherwise.
            if freed > MOST_KEPT {
                trim_heap();
                freed = 0;
            }
        }
        require_finite(targets, &counts).with_context(|| self.file.path().display().to_string())
    }

    /// Fills the encoder's parameters; see [`WeightFile::load_into`].
    ///
    /// # Errors
    /// As of [`Self::check_fit`]; or a tensor could not be read or copied.
    pub fn load_into(&self, targets: &[(String, Tensor)]) -> Result<()> {
        let loaded = self.file.load_into(targets, |name| self.family.is_beside(name));
        loaded.map_err(|error| named(self.foreign, error))?;
        let counts = targets.iter().map(|(_, tensor)| count_odd(tensor));
        let counts = counts.collect::<Result<Vec<_>>>()?;
        require_finite(targets, &counts).with_context(|| self.file.path().display().to_string())
    }
}

/// The error, begun with the name of the family that the weights seem to be of.
fn named(foreign: Option<&'static str>, error: anyhow::Error) -> anyhow::Error {
    let Some(family) = foreign else { return error };
    let known: Vec<_> = FAMILIES.iter().map(|family| family.title()).collect();
    if known.contains(&family) {
        return error.context(format!("these look like the weights of {family}"));
    }
    error.context(format!(
        "these look like the weights of {family}, and only encoders of {} are read",
        known.join(" and ")
    ))
}

/// How many values of a tensor are not finite, as a number on its device.
fn count_odd(tensor: &Tensor) -> Result<Tensor> {
    guard(|| Ok(tensor.isfinite().logical_not().sum(Kind::Int64)))
}

/// # Errors
/// A weight is no number, and a loss of it would be none: which, and how many.
fn require_finite(targets: &[(String, Tensor)], counts: &[Tensor]) -> Result<()> {
    if counts.is_empty() {
        return Ok(());
    }
    let counts = guard(|| Ok(Vec::<i64>::try_from(Tensor::stack(counts, 0))?))?;
    let mut odd = targets.iter().zip(counts).filter(|(_, count)| *count > 0);
    let Some(((name, _), count)) = odd.next() else { return Ok(()) };
    let others = match odd.count() {
        0 => String::new(),
        others => format!(", and of {others} other tensors"),
    };
    bail!("{count} values of `{name}`{others} are not finite numbers")
}

/// In which numbers the tensors differ from what is noted beside them.
fn difference(tensors: &EncoderSpec, noted: &EncoderSpec) -> String {
    let (found, noted) = (tensors.numbers(), noted.numbers());
    let differs = |(name, value): &(&String, &Value)| {
        *name != "heads" && found.get(*name).is_some_and(|own| own != *value)
    };
    let all: Vec<String> = noted
        .iter()
        .filter(differs)
        .map(|(name, value)| {
            format!("{} {value} is noted, the tensors have {}", name.replace('_', " "), found[name])
        })
        .collect();
    format!("what is noted beside the tensors is another encoder: {}", all.join("; "))
}

/// Numbers with a point that are whole, which other programs write, as whole ones.
fn with_whole_numbers(value: Value) -> Value {
    match value {
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 1e15 => {
                (float as i64).into()
            }
            _ => Value::Number(number),
        },
        Value::Array(items) => items.into_iter().map(with_whole_numbers).collect(),
        Value::Object(fields) => {
            fields.into_iter().map(|(name, value)| (name, with_whole_numbers(value))).collect()
        }
        other => other,
    }
}

/// The encoder that the weights at `path` say they are: by `config.json`, or the header of this program's files; none
/// where nothing says so.
///
/// # Errors
/// What stands there cannot be read, or describes no encoder that is known.
pub fn declared_at(path: &Path) -> Result<Option<EncoderSpec>> {
    let config = fetched(split_part(path).0, hub::description)?.join(CONFIG);
    match config.is_file() {
        true => read_config(&config).map(Some),
        false => Ok(EncoderWeights::open(path)?.declared()),
    }
}

/// Model types that could be taken for one that is read, and why they are not.
const NOT_READ: [(&[&str], &str); 1] = [(
    &["siglip2", "siglip2_vision_model"],
    "SigLIP 2's NaFlex encoder takes patches of images of any shape, each with its own positions, and not squares; \
     SigLIP 2's checkpoints of a fixed resolution are of model_type `siglip`, and are read",
)];

/// The encoder that a `config.json` describes.
fn read_config(path: &Path) -> Result<EncoderSpec> {
    let context = || path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(context)?;
    // Some editors put a mark before the first character.
    let text = text.trim_start_matches('\u{feff}');
    let config: Value = serde_json::from_str(text).with_context(context)?;
    let config = with_whole_numbers(config);
    let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or("nothing");
    let family = FAMILIES.iter().find(|family| family.model_types().contains(&model_type));
    let family = family.with_context(|| {
        let known = FAMILIES.iter().flat_map(|family| family.model_types());
        let known = known.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ");
        let refused = NOT_READ.iter().find(|(names, _)| names.contains(&model_type));
        let why = refused.map(|(_, why)| format!(" ({why})")).unwrap_or_default();
        format!("{}: model_type is `{model_type}`{why}, expected {known}", path.display())
    })?;
    family.read_config(config).with_context(context)
}

/// The file or folder of the weights at `path`: without what stands behind its `#`, and fetched where a hub has them.
///
/// # Errors
/// They cannot be fetched.
pub fn located(path: &Path) -> Result<PathBuf> {
    fetched(split_part(path).0, hub::weights)
}

/// `path`, or the folder that `fetch` makes of the address of a hub that it is.
fn fetched(path: PathBuf, fetch: impl FnOnce(&Address) -> Result<PathBuf>) -> Result<PathBuf> {
    let text = path.to_string_lossy();
    if Address::is_meant(&text) { fetch(&Address::parse(&text)?) } else { Ok(path) }
}

/// A path, and what stands behind its `#` unless there is a file of that name.
fn split_part(path: &Path) -> (PathBuf, Option<String>) {
    let text = path.to_string_lossy();
    match text.rsplit_once('#') {
        Some((path, part)) if !Path::new(&*text).exists() => (path.into(), Some(part.to_string())),
        _ => (path.to_path_buf(), None),
    }
}

/// What every encoder has, and nothing else.
const PATCHES: &str = "patch_embed.proj.weight";

/// Fewer tensors with places below a prefix are a coincidence.
const LEAST_PLACED: usize = 4;

/// The file's tensors below the prefix that an encoder's names have in it, such as `teacher.backbone.`: the one
/// that `part` names, or the only one; all of them where no prefix is needed.
fn within(
    file: WeightFile,
    declared: Option<&EncoderSpec>,
    part: Option<&str>,
) -> Result<WeightFile> {
    if part.is_none() && recognise(&file, declared).is_ok() {
        return Ok(file);
    }
    let families = declared.map_or_else(|| FAMILIES.to_vec(), |declared| vec![declared.family]);
    let layouts: Vec<_> = families.iter().flat_map(|family| family.layouts()).collect();
    let shapes = file.shapes();
    let ends = shapes.keys().flat_map(|name| name.match_indices('.').map(|(at, _)| &name[..=at]));
    let prefixes: BTreeSet<String> = ends.map(str::to_string).collect();
    // A tower of texts has blocks of the same names, and so has what lies below an encoder's own names.
    let is_encoder = |prefix: &String| {
        layouts.iter().any(|layout| {
            file.placed_below(prefix, *layout) >= LEAST_PLACED
                && file.has_below(prefix, *layout, PATCHES)
        })
    };
    let mut found: Vec<String> = prefixes.into_iter().filter(is_encoder).collect();
    if let Some(part) = part {
        found.retain(|prefix| prefix.trim_end_matches('.') == part);
    }
    match &found[..] {
        [prefix] => {
            info!("{}: the encoder is what begins with `{prefix}`", file.path().display());
            Ok(file.below(prefix))
        }
        [] => match part {
            None => Ok(file),
            Some(part) => bail!(
                "{}: nothing in it is called `{part}`: its tensors are {}{}",
                file.path().display(),
                shapes.keys().take(4).copied().collect::<Vec<_>>().join(", "),
                if shapes.len() > 4 { ", …" } else { "" }
            ),
        },
        several => bail!(
            "{}: there are several encoders, which begin with {}: choose one with {}#{}",
            file.path().display(),
            several.join(", "),
            file.path().display(),
            several[0].trim_end_matches('.')
        ),
    }
}

/// Whether `family` has a place for every tensor of the file, or knows it as what stands beside the encoder.
fn knows_all(file: &WeightFile, family: &dyn Family, layout: &dyn NameMap) -> bool {
    let beside = file.shapes().into_keys().filter(|name| family.is_beside(name)).count();
    file.known_to(layout) + beside >= file.shapes().len()
}

/// The family and layout that the file's names belong to.
fn recognise(
    file: &WeightFile,
    declared: Option<&EncoderSpec>,
) -> Result<(&'static dyn Family, &'static dyn NameMap)> {
    let families = match declared {
        Some(declared) => vec![declared.family],
        None => FAMILIES.to_vec(),
    };
    let layouts = families
        .iter()
        .flat_map(|family| family.layouts().into_iter().map(|layout| (*family, layout)));
    // Names of one family may be some of another's: it is the one that knows most of them, and of those the first.
    let known = layouts.map(|(family, layout)| (file.known_to(layout), family, layout));
    let most = known.reduce(|most, other| if other.0 > most.0 { other } else { most });
    if let Some((1.., family, layout)) = most {
        return Ok((family, layout));
    }
    let titles: Vec<_> = families.iter().map(|family| family.title()).collect();
    let layouts = families.iter().flat_map(|family| family.layouts());
    let mut layouts: Vec<_> = layouts.map(NameMap::layout).collect();
    let mut seen = BTreeSet::new();
    layouts.retain(|layout| seen.insert(*layout));
    let names: Vec<_> = file.shapes().into_keys().collect();
    Err(anyhow!(
        "{}: these are not the weights of a {} encoder: none of its {} tensors has a name of the {} \
         (first: {})",
        file.path().display(),
        titles.join(" or "),
        names.len(),
        layouts.join(" or the "),
        names[..names.len().min(5)].join(", ")
    ))
}
