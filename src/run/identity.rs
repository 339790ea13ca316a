//! What a run was trained with: told by its checkpoints, and compared when it goes on.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use toml::{Table, Value};
use tracing::warn;

use crate::artifacts::{Change, Identity, Manifest};
use crate::config::ConfigError;
use crate::data::Dataset;
use crate::encoders::EncoderWeights;
use crate::tasks::{TaskConfig, TraineeConfig};

/// Settings, or tables of them, that change nothing about what is learned: where and how fast it happens, what
/// is told of it. Shards are known by the data set's fingerprint, the teacher by its weights' content.
const BESIDE: [&str; 28] = [
    "run.dir",
    "run.device",
    "run.threads",
    "checkpoint",
    "distributed.bucket_megabytes",
    "distributed.timeout_seconds",
    "distributed.check_every",
    "distributed.shard_optimizer",
    "log",
    "export",
    "evaluation",
    "reconstructions",
    "data.shards",
    "data.batch_size",
    "data.workers",
    "data.prefetch_batches",
    "data.cache_dir",
    "data.cache_gigabytes",
    "data.index_dir",
    "data.max_failed_share",
    "data.bad_shards",
    "data.max_bad_shard_share",
    "data.max_pixels",
    "data.label",
    "data.classes",
    "teacher.weights",
    "teacher.fused_kernels",
    "teacher.cuda_graph",
];

/// The same in the table of anything that is trained.
const BESIDE_OF_TRAINEES: &str = "recompute_blocks";

/// Settings whose change a run may go on with: it is told.
const ALLOWED: [&str; 2] = ["optimizer.", "schedule."];

const TEACHER: &str = "teacher.weights";
const SHARDS: &str = "data.shards";
const IMAGES: &str = "data.shards (bytes of images)";
const BATCH: &str = "data.batch_size";

/// What identities of earlier versions say nothing of.
const NOTED_LATER: [&str; 4] = ["distributed.gradient_precision", SHARDS, IMAGES, BATCH];

/// What identities of earlier versions note, though it is for evaluations alone.
const NO_LONGER: [&str; 2] = ["data.label", "data.classes"];

/// Of a model, what its weights' shapes follow from.
const OF_SHAPES: [&str; 9] = [
    "family",
    "dim",
    "depth",
    "patch_size",
    "class_tokens",
    "registers",
    "mlp_ratio",
    "mlp_width",
    "gated",
];

/// Of a loss, what its projectors' names and shapes follow from.
const OF_LOSSES: [&str; 2] = ["projector", "name"];

/// What a run of `config` is trained with.
///
/// # Errors
/// The teacher's weights cannot be read.
pub(super) fn identity(config: &dyn TaskConfig) -> Result<Identity> {
    let table: Table = config.to_toml().parse().context("a configuration is TOML")?;
    let mut identity = Identity::default();
    flatten("", &Value::Table(table), &mut identity);
    let skips =
        |(key, mode): (&String, &String)| key.ends_with(".drop_path_mode") && mode == "\"skip\"";
    if identity.settings.iter().any(skips) {
        // Which images of a batch skip a branch then depends on how many there are.
        let batch = config.train().data.batch_size;
        identity.settings.insert(BATCH.into(), batch.to_string());
    }
    if let Some((_, weights)) = config.teacher() {
        if weights == TraineeConfig::RANDOM {
            identity.settings.insert(TEACHER.into(), weights.into());
            return Ok(identity);
        }
        let digest = EncoderWeights::open(Path::new(weights)).and_then(|open| open.file.digest());
        let digest = digest.with_context(|| format!("{TEACHER} = \"{weights}\""))?;
        identity.settings.insert(TEACHER.into(), format!("{weights}{}", mark(&digest)));
    }
    Ok(identity)
}

/// What of an identity the `dataset` is.
pub(super) fn note_data(identity: &mut Identity, dataset: &Dataset) {
    let value = format!(
        "{} samples in {} shards{}",
        dataset.sample_count(),
        dataset.shard_count(),
        mark(dataset.fingerprint())
    );
    identity.settings.insert(SHARDS.into(), value);
    identity.settings.insert(IMAGES.into(), mark(dataset.content()).trim_start().into());
}

/// Behind a value: what tells its content from any other.
fn mark(digest: &str) -> String {
    format!(" [{}]", &digest[..16])
}

/// Adds every setting below `key` that counts.
fn flatten(key: &str, value: &Value, identity: &mut Identity) {
    let last = key.rsplit('.').next().unwrap_or_default();
    if BESIDE.contains(&key) || last == BESIDE_OF_TRAINEES {
        return;
    }
    let below =
        |name: &str| if key.is_empty() { name.to_string() } else { format!("{key}.{name}") };
    match value {
        Value::Table(table) => {
            table.iter().for_each(|(name, value)| flatten(&below(name), value, identity));
        }
        Value::Array(items) if items.iter().any(Value::is_table) => {
            let items = items.iter().enumerate();
            items.for_each(|(number, value)| flatten(&below(&number.to_string()), value, identity));
        }
        _ => _ = identity.settings.insert(key.to_string(), value.to_string()),
    }
}

/// A setting that is not what it was: its key, and both values where there are any.
type Difference = (String, [Option<String>; 2]);

fn differences(then: &Identity, now: &Identity) -> Vec<Difference> {
    let new = now.settings.keys().filter(|key| !then.settings.contains_key(*key));
    let all = then.settings.keys().chain(new).filter(|key| !NO_LONGER.contains(&key.as_str()));
    let both = all
        .map(|key| (key.clone(), [then, now].map(|identity| identity.settings.get(key).cloned())));
    let differs = |(key, [then, now]): &Difference| match then {
        None if NOTED_LATER.contains(&key.as_str()) => false,
        _ => content(then) != content(now),
    };
    // Of a student that only one of both has, its name says enough.
    let is_told = |(key, values): &Difference| match student_of(key) {
        Some(table) if !key.ends_with(".name") => {
            let name = format!("{table}.name");
            let has = |identity: &Identity| identity.settings.contains_key(&name);
            values.iter().all(Option::is_some) || has(then) && has(now)
        }
        _ => true,
    };
    both.filter(differs).filter(is_told).collect()
}

/// The table of a student that `key` is in.
fn student_of(key: &str) -> Option<&str> {
    let number = key.strip_prefix("students.")?.split('.').next()?;
    Some(&key[.."students.".len() + number.len()])
}

/// Whether a checkpoint's state is of no use to a run in which `key` is another than it was.
fn needs_new_state((key, [_, now]): &Difference, then: &Identity) -> bool {
    if student_of(key).is_some() && key.ends_with(".name") {
        let had =
            |(key, name): (&String, &String)| key.ends_with(".name") && Some(name) == now.as_ref();
        return now.is_some() && !then.settings.iter().any(had);
    }
    let (table, last) = key.rsplit_once('.').unwrap_or_default();
    let is_trained = table.ends_with(".model") && table != "teacher.model" || table == "decoder";
    // Parameters beside an encoder.
    let is_beside =
        OF_LOSSES.contains(&last) && (key.starts_with("loss.") || key.contains(".loss."));
    is_trained && OF_SHAPES.contains(&last)
        || is_beside
        || ["teacher.model.dim", "teacher.targets"].contains(&key.as_str())
}

/// What of a value counts: of a path, the content that it names.
fn content(value: &Option<String>) -> Option<&str> {
    value.as_deref().map(|value| match value.rfind(" [") {
        Some(at) if value.ends_with(']') && !value.starts_with('[') => &value[at..],
        _ => value,
    })
}

/// Compares what a run is `now` with what `checkpoint` was trained with, names what differs, and gives `now` the
/// history of that.
///
/// # Errors
/// What differs changes what is learned, and that is not accepted.
pub(super) fn go_on(
    now: &mut Identity,
    checkpoint: &Manifest,
    accepts: bool,
) -> Result<(), ConfigError> {
    let then = &checkpoint.identity;
    now.history.clone_from(&then.history);
    if then.settings.is_empty() {
        return Ok(());
    }
    // Not known yet: see `compare_data`.
    let known = |(key, _): &Difference| key != SHARDS && key != IMAGES;
    let found: Vec<Difference> = differences(then, now).into_iter().filter(known).collect();
    let unfit: Vec<&Difference> =
        found.iter().filter(|difference| needs_new_state(difference, then)).collect();
    if let Some((key, _)) = unfit.first() {
        let texts: Vec<String> =
            unfit.iter().map(|(key, values)| told(key, values, checkpoint.step)).collect();
        let message = format!(
            "what was trained does not fit into what would be trained: {}. Another run.dir, or --resume never, \
             begins anew",
            texts.join("; ")
        );
        return Err(ConfigError { file: PathBuf::new(), key: key.clone(), message });
    }
    accept(now, checkpoint, found, accepts)
}

/// Compares the data set of a run, which `now` has a note of, with that of `checkpoint`, as [`go_on`] does with
/// its settings.
///
/// # Errors
/// It is another, and that is not accepted.
pub(super) fn compare_data(
    now: &mut Identity,
    checkpoint: &Manifest,
    dataset: &Dataset,
    accepts: bool,
) -> Result<(), ConfigError> {
    let then = &checkpoint.stream.dataset;
    note_data(now, dataset);
    let difference = |key: &str| {
        let values = [&checkpoint.identity, &*now].map(|one| one.settings.get(key).cloned());
        (key.to_string(), values)
    };
    let mut found = Vec::new();
    if *then != dataset.fingerprint() {
        let (key, [before, after]) = difference(SHARDS);
        let before = before.unwrap_or_else(|| format!("another data set{}", mark(then)));
        found.push((key, [Some(before), after]));
    } else if let (key, [Some(before), after]) = difference(IMAGES)
        && Some(&before) != after.as_ref()
    {
        found.push((key, [Some(before), after]));
    }
    accept(now, checkpoint, found, accepts)
}

/// What is said of a setting that is another.
fn told(key: &str, [before, after]: &[Option<String>; 2], step: u64) -> String {
    let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".into());
    format!("`{key}` was {} up to step {step}, and is {}", shown(before), shown(after))
}

/// Names what was `found` to differ, and gives `now` the history of that.
///
/// # Errors
/// What differs changes what is learned, and that is not accepted.
fn accept(
    now: &mut Identity,
    checkpoint: &Manifest,
    found: Vec<Difference>,
    accepts: bool,
) -> Result<(), ConfigError> {
    let step = checkpoint.step;
    let (mut refused, mut first) = (Vec::new(), None);
    for (key, values) in found {
        let text = told(&key, &values, step);
        let [before, _] = values.map(|value| value.unwrap_or_else(|| "nothing".into()));
        // What a trainee begins with was read at the first step.
        let is_allowed = ALLOWED.iter().any(|known| key.starts_with(known))
            || (key.ends_with(".weights") && key != TEACHER);
        if accepts || is_allowed {
            warn!("{text} from here on");
        } else {
            first.get_or_insert_with(|| key.clone());
            refused.push(text);
        }
        now.history.push(Change { key, value: before, until: step });
    }
    let Some(key) = first else { return Ok(()) };
    let message = format!(
        "what is learned would be another thing from here on: {}. --accept-changes goes on so; another \
         run.dir, or --resume never, begins anew",
        refused.join("; ")
    );
    Err(ConfigError { file: PathBuf::new(), key, message })
}

/// The history as comments of a configuration.
pub(super) fn comments(identity: &Identity) -> String {
    let line =
        |Change { key, value, until }: &Change| format!("# up to step {until}: {key} = {value}\n");
    identity.history.iter().map(line).collect()
}

/// Says what another length of the schedule means for a run that goes on after `checkpoint`.
pub(super) fn tell_schedule(checkpoint: &Manifest, total: u64, rate: f64) {
    let Identity { total_steps, learning_rate, .. } = checkpoint.identity;
    let step = checkpoint.step;
    if total_steps == 0 || total_steps == total {
        return;
    }
    if step >= total {
        warn!(
            "the run is at step {step}, past the end of a schedule of {total} steps (it had {total_steps}): \
             nothing more is trained"
        );
    } else {
        warn!(
            "the schedule had {total_steps} steps, and has {total}: the learning rate goes from \
             {learning_rate:.3e} at step {step} to {rate:.3e}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoders::EncoderSpec;
    use crate::nn::ProjectorKind;
    use crate::tasks::distill::{DistillConfig, TargetForm};

    fn config() -> DistillConfig {
        let size = EncoderSpec::new(32, 2, 2);
        let mut config = DistillConfig::minimal("run", size);
        config.students.push(TraineeConfig::minimal("one", size));
        config
    }

    fn keys(change: impl Fn(&mut DistillConfig)) -> Vec<String> {
        let mut other = config();
        change(&mut other);
        let (then, now) = (identity(&config()).unwrap(), identity(&other).unwrap());
        differences(&then, &now).into_iter().map(|(key, _)| key).collect()
    }

    /// What is learned is told apart, and nothing else.
    #[test]
    fn settings_that_count_are_found() {
        assert!(keys(|_| {}).is_empty());
        let beside = keys(|config| {
            config.train.run.dir = "elsewhere".into();
            config.train.log.every = 7;
            config.train.checkpoint.every = 3;
            config.train.data.workers = 9;
            config.students[0].recompute_blocks = 1;
        });
        assert_eq!(beside, Vec::<String>::new());
        let decay = keys(|config| config.train.optimizer.weight_decay = 0.5);
        assert_eq!(decay, ["optimizer.weight_decay"]);
        assert_eq!(keys(|config| config.train.data.mean[0] = 0.5), ["data.mean"]);
        assert_eq!(keys(|config| config.students[0].mask_ratio = 0.25), ["students.0.mask_ratio"]);
        assert_eq!(keys(|config| config.train.seed = 3), ["seed"]);
        assert_eq!(keys(|config| config.teacher.norm = true), ["teacher.norm"]);
        assert_eq!(keys(|config| config.teacher.input_size = Some(64)), ["teacher.input_size"]);
        assert_eq!(keys(|config| config.loss.weight = 2.0), ["loss.weight"]);
        let own = keys(|config| _ = config.students[0].loss.insert("gram".into(), 0.5.into()));
        assert_eq!(own, ["students.0.loss.gram"]);
    }

    /// Parameters beside an encoder are part of a state, too.
    #[test]
    fn other_projectors_need_a_new_state() {
        let then = identity(&config()).unwrap();
        let is_new = |change: fn(&mut DistillConfig)| {
            let mut other = config();
            change(&mut other);
            let found = differences(&then, &identity(&other).unwrap());
            assert!(!found.is_empty());
            found.iter().any(|one| needs_new_state(one, &then))
        };
        assert!(is_new(|config| config.loss.projector = ProjectorKind::Linear));
        assert!(is_new(|config| config.teacher.targets = TargetForm::Standardised));
        assert!(is_new(|config| {
            _ = config.students[0].loss.insert("projector".into(), "linear".into())
        }));
        assert!(is_new(|config| {
            let text = "name = \"early\"\nlayers = [0]";
            config.loss.terms.push(toml::from_str(text).unwrap());
        }));
        assert!(!is_new(|config| config.loss.weight = 2.0));
    }

    /// A path counts by what it names.
    #[test]
    fn content_counts_and_no_path() {
        let same = |a: &str, b: &str| content(&Some(a.into())) == content(&Some(b.into()));
        assert!(same("a/b [12]", "c [12]"));
        assert!(!same("a [12]", "a [13]"));
        assert!(!same("[0.1, 0.2]", "[0.1, 0.3]"));
    }
}
