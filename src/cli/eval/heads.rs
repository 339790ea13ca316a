//! `distill eval depth` and `distill eval segmentation`: heads on a frozen encoder.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use toml::{Table, Value};
use tracing::warn;

use super::source::SourceArgs;
use crate::cli::exit::{DONE, RESUME_ME};
use crate::cli::output::print;
use crate::config::{ConfigError, DeviceChoice, Precision, apply_overrides, read_table};
use crate::data::pairs::KnownSet;
use crate::eval::dense::HeadKind;
use crate::run::Options;
use crate::run::heads::{HeadResult, HeadsConfig, HeadsOutcome, train_heads};
use crate::train::run_directory::Resume;

/// The data sets of depth.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum DepthSet {
    Nyuv2,
    Kitti,
}

/// The data sets of segmentation.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum SegmentationSet {
    Ade20k,
    Pascal,
    Loveda,
}

impl From<DepthSet> for KnownSet {
    fn from(set: DepthSet) -> Self {
        match set {
            DepthSet::Nyuv2 => Self::Nyuv2,
            DepthSet::Kitti => Self::Kitti,
        }
    }
}

impl From<SegmentationSet> for KnownSet {
    fn from(set: SegmentationSet) -> Self {
        match set {
            SegmentationSet::Ade20k => Self::Ade20k,
            SegmentationSet::Pascal => Self::Pascal,
            SegmentationSet::Loveda => Self::Loveda,
        }
    }
}

/// What is trained, on what, how. Options stand above what a file says.
#[derive(Debug, Args)]
pub(super) struct HeadsArgs<S: ValueEnum + Clone + Send + Sync + 'static> {
    /// A TOML file, such as those in configs/eval; configs/eval/reference.toml comments every key
    #[arg(long, value_name = "FILE", required_unless_present = "dataset")]
    config: Option<PathBuf>,
    /// The data set, in the layout that it is downloaded in
    #[arg(long, value_enum, requires = "root")]
    dataset: Option<S>,
    /// The folder of the data set
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Heads to train, all on one pass of the encoder
    #[arg(long, value_enum, value_delimiter = ',')]
    head: Vec<HeadKind>,
    #[command(flatten)]
    encoder: SourceArgs,
    /// Directory of this training [default: runs/eval-DATASET]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Epochs of the heads
    #[arg(long, value_name = "N")]
    epochs: Option<u64>,
    /// Where to compute
    #[arg(long, value_enum)]
    device: Option<DeviceChoice>,
    /// Number format of matrix products
    #[arg(long, value_enum)]
    precision: Option<Precision>,
    /// Override a key of the config, for example test.every=5 or training.crop_size=224
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Where to start: `auto` continues, `never` moves an earlier training aside, a path continues from
    /// that checkpoint folder
    #[arg(long, value_name = "auto|never|PATH", default_value = "auto")]
    resume: Resume,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// Wrong arguments, data or weights; a full disk.
pub(super) fn run<S>(args: HeadsArgs<S>) -> Result<u8>
where
    S: ValueEnum + Into<KnownSet> + Clone + Send + Sync + 'static,
{
    let json = args.json;
    let options = Options { resume: args.resume.clone(), ..Options::default() };
    let config = config(args)?;
    match train_heads(&config, &options)? {
        HeadsOutcome::Stopped(step) => {
            warn!(step, "stopped by a signal; the state is saved, the same command continues");
            Ok(RESUME_ME)
        }
        // A rank after rank 0 has nothing to say.
        HeadsOutcome::Finished(results) if results.is_empty() => Ok(DONE),
        HeadsOutcome::Finished(results) => {
            print(&if json { as_json(&config, &results)? } else { table(&config, &results) })?;
            Ok(DONE)
        }
    }
}

/// The tables of the file, if there is one, under what the options say.
fn config<S>(args: HeadsArgs<S>) -> Result<HeadsConfig, ConfigError>
where
    S: ValueEnum + Into<KnownSet> + Clone + Send + Sync + 'static,
{
    let file = args.config.clone().unwrap_or_default();
    let mut table = match &args.config {
        Some(file) => read_table(file, &args.set)?,
        None => apply_overrides(Table::new(), &args.set)?,
    };
    let path = |path: &PathBuf| Value::String(path.display().to_string());
    if let (Some(dataset), Some(root)) = (args.dataset, &args.root) {
        let known: KnownSet = dataset.into();
        put(&mut table, "data", "dataset", known.name().into());
        put(&mut table, "data", "root", path(root));
        if args.out.is_none() && args.config.is_none() {
            put(&mut table, "run", "dir", format!("runs/eval-{}", known.name()).into());
        }
    } else if let Some(root) = &args.root {
        put(&mut table, "data", "root", path(root));
    }
    let encoder = args.encoder.source();
    if encoder.weights.is_some() || encoder.run.is_some() {
        // What the file says is of another encoder.
        table.remove("encoder");
    }
    for (key, value) in Table::try_from(encoder).expect("every option has a TOML form") {
        put(&mut table, "encoder", &key, value);
    }
    if let Some(out) = &args.out {
        put(&mut table, "run", "dir", path(out));
    }
    if let Some(epochs) = args.epochs {
        put(&mut table, "training", "epochs", (epochs as i64).into());
    }
    for (key, name) in [
        ("device", args.device.map(|device| name_of(&device))),
        ("precision", args.precision.map(|precision| name_of(&precision))),
    ] {
        if let Some(name) = name {
            put(&mut table, "run", key, name.into());
        }
    }
    let heads: Vec<Value> = args
        .head
        .iter()
        .map(|kind| Value::Table([("kind".to_string(), kind.name().into())].into_iter().collect()))
        .collect();
    if !heads.is_empty() {
        table.insert("heads".into(), heads.into());
    } else if !table.contains_key("heads") {
        let linear = Table::from_iter([("kind".to_string(), Value::from("linear"))]);
        table.insert("heads".into(), vec![Value::Table(linear)].into());
    }
    HeadsConfig::from_table(table).map_err(|(key, message)| ConfigError { file, key, message })
}

fn put(table: &mut Table, name: &str, key: &str, value: Value) {
    let entry = table.entry(name).or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(inner) = entry {
        inner.insert(key.into(), value);
    }
}

fn name_of(value: &impl ValueEnum) -> String {
    value.to_possible_value().map_or(String::new(), |value| value.get_name().to_string())
}

/// One JSON object in a line.
fn as_json(config: &HeadsConfig, results: &[HeadResult]) -> Result<String> {
    let head = |result: &HeadResult| {
        let last: serde_json::Map<String, serde_json::Value> =
            result.last.iter().map(|(name, value)| (name.clone(), (*value).into())).collect();
        let best: serde_json::Map<String, serde_json::Value> = result
            .best
            .iter()
            .map(|(name, value, epoch)| {
                (name.clone(), serde_json::json!({ "value": value, "epoch": epoch }))
            })
            .collect();
        serde_json::json!({ "head": result.head, "last": last, "best_of_epochs_on_test": best,
                            "failed_at": result.failed_at })
    };
    let object = serde_json::json!({
        "data": config.data.name(),
        "encoder": config.encoder.describe(),
        "epochs": config.training.epochs,
        "heads": results.iter().map(head).collect::<Vec<_>>(),
    });
    Ok(serde_json::to_string(&object)? + "\n")
}

fn table(config: &HeadsConfig, results: &[HeadResult]) -> String {
    let mut text = format!(
        "{}, frozen encoder {}\n{:<24}{:>12}{:>12}  (best of {} epochs on the test split)\n",
        config.data.name(),
        config.encoder.describe(),
        "",
        "last epoch",
        "best",
        config.training.epochs
    );
    for result in results {
        text += &format!("head {}", result.head);
        match result.failed_at {
            Some(step) => {
                text += &format!(": failed, its loss was not finite after update {step}\n")
            }
            None => text.push('\n'),
        }
        for ((name, last), (_, best, epoch)) in result.last.iter().zip(&result.best) {
            text += &format!("  {name:<22}{last:>12.4}{best:>12.4}  epoch {epoch}\n");
        }
    }
    text
}
