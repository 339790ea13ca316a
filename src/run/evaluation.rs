//! What a run measures of its encoders when training has ended.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::opening::opening;
use crate::artifacts::paths;
use crate::config::{DataConfig, EvaluationConfig, KnnConfig, Precision, TrainConfig};
use crate::data::{Dataset, EvaluationPass};
use crate::durable;
use crate::encoders;
use crate::eval::{self, Encoder, Features, ImageSource, knn};
use crate::native::guard;
use crate::tasks::{self, Setting, TaskConfig, TraineeConfig};
use crate::train::checkpoint::Checkpoint;
use crate::train::signals::{self, Signal};
use crate::ui::screen::Phase;

/// What was measured after a step.
#[derive(Debug, Serialize, Deserialize)]
pub struct Evaluation {
    step: u64,
    of: Subject,
    knn: Knn,
}

/// All that the figures depend on.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Subject {
    /// See [`Checkpoint::digest`].
    weights: String,
    config: EvaluationConfig,
    input_size: usize,
    mean: [f64; 3],
    std: [f64; 3],
    precision: Precision,
}

impl Subject {
    fn of(train: &TrainConfig, checkpoint: &Checkpoint) -> Self {
        let TrainConfig { data, run, evaluation, .. } = train;
        Self {
            weights: checkpoint.digest(),
            config: evaluation.clone(),
            input_size: data.input_size,
            mean: data.mean,
            std: data.std,
            precision: run.precision,
        }
    }
}

/// A signal came while encoders were measured. The run is complete but for that.
#[derive(Debug, thiserror::Error)]
#[error("stopped by {0} while encoders were measured; the same command goes on with that")]
pub struct Interrupted(pub Signal);

/// k-NN classification; one accuracy for each number of neighbours.
#[derive(Debug, Serialize, Deserialize)]
struct Knn {
    reference_pictures: usize,
    held_out_pictures: usize,
    temperature: f64,
    neighbours: Vec<usize>,
    encoders: Vec<ImageStats>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ImageStats {
    name: String,
    role: Role,
    /// Shares of the held-out images whose class was found.
    accuracies: Vec<f64>,
}

/// What an encoder is in the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    /// Before the first step, of drawn weights.
    Random,
    /// Before the first step, of the weights that the config names.
    Initial,
    Trained,
    Teacher,
}

/// An encoder of a run, as it is after training.
pub struct Trained<'a> {
    /// The encoders that were trained, in the order of the config.
    pub encoders: Vec<&'a dyn encoders::Encoder>,
    pub teacher: Option<&'a dyn encoders::Encoder>,
}

/// Measures what the config asks for of the newest `checkpoint`, whose encoders are `trained`, unless that
/// was done before, and writes it down in the run's directory. Nothing where it asks for nothing.
///
/// # Errors
/// Shards cannot be read or have no labels, the disk is full, or [`Interrupted`].
pub fn measure(
    task: &dyn TaskConfig,
    setting: &Setting,
    checkpoint: &Checkpoint,
    trained: &Trained,
) -> Result<Option<Evaluation>> {
    let train = task.train();
    let Some(config) = &train.evaluation.knn else { return Ok(None) };
    let file = paths::evaluation(&train.run.dir);
    let of = Subject::of(train, checkpoint);
    if let Some(done) = read(&file).filter(|done| done.of == of) {
        return Ok(Some(done));
    }
    let initial = tasks::initial_encoders(train, task.encoders(), setting.device);
    let mut named = Vec::new();
    let both = initial.iter().zip(&trained.encoders);
    for (encoder, (before, after)) in task.encoders().iter().zip(both) {
        let is_drawn = encoder.weights == TraineeConfig::RANDOM;
        let role = if is_drawn { Role::Random } else { Role::Initial };
        match before {
            Ok(before) => named.push((&*encoder.name, role, &**before)),
            Err(error) => warn!("what `{}` began with is not measured: {error:#}", encoder.name),
        }
        named.push((&*encoder.name, Role::Trained, *after));
    }
    named.extend(trained.teacher.map(|teacher| ("teacher", Role::Teacher, teacher)));
    let knn = measure_knn(train, setting, config, &named).context("evaluation.knn")?;
    let evaluation = Evaluation { step: checkpoint.manifest.step, of, knn };
    let mut text = serde_json::to_vec_pretty(&evaluation)?;
    text.push(b'\n');
    durable::write(&file, &text)?;
    Ok(Some(evaluation))
}

/// What an earlier call left; nothing where that cannot be read.
fn read(file: &Path) -> Option<Evaluation> {
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

fn measure_knn(
    train: &TrainConfig,
    setting: &Setting,
    config: &KnnConfig,
    named: &[(&str, Role, &dyn encoders::Encoder)],
) -> Result<Knn> {
    let compute = train.run.precision.kind();
    let encoders: Vec<_> =
        named.iter().map(|(.., model)| Encoder { model: *model, compute }).collect();
    let [reference, held_out] = Images::both(train, config);
    let worker_program = setting.images.as_ref().context("there are no images")?.worker_program;
    let features = |images: Images| {
        let phase = Phase::begin(&format!("features of {} images", images.side), None);
        let dataset = Arc::new(images.open()?);
        let source = ImageSource { dataset, config: &images.config, worker_program };
        let progress = |_, _| {
            let stop = signals::stop_requested();
            stop.map_or(Ok(()), |signal| Err(Interrupted(signal).into()))
        };
        let found = guard(|| eval::features(&encoders, &source, setting.device, &progress))?;
        phase.finish();
        Ok::<_, anyhow::Error>(found)
    };
    let (reference, held_out) = (features(reference)?, features(held_out)?);
    let mut measured = Vec::new();
    for ((name, role, _), pair) in named.iter().zip(reference.iter().zip(&held_out)) {
        let KnnConfig { neighbours, temperature, .. } = config;
        // One encoder's at a time, where they are compared.
        let [reference, held_out] =
            guard(|| Ok([pair.0, pair.1].map(|features| features.to_device(setting.device))))?;
        let accuracies = knn::accuracies(&reference, &held_out, neighbours, *temperature)?;
        measured.push(ImageStats { name: name.to_string(), role: *role, accuracies });
    }
    Ok(Knn {
        reference_pictures: reference.first().map_or(0, Features::count),
        held_out_pictures: held_out.first().map_or(0, Features::count),
        temperature: config.temperature,
        neighbours: config.neighbours.clone(),
        encoders: measured,
    })
}

/// Labelled images, seen as the run sees images.
struct Images {
    /// `reference` or `held-out`.
    side: &'static str,
    key: &'static str,
    config: DataConfig,
    pass: EvaluationPass,
}

impl Images {
    /// Those that vote, and those that are classified.
    fn both(train: &TrainConfig, knn: &KnnConfig) -> [Self; 2] {
        let of = |side, key, shards: &[String], most: Option<u64>| Self {
            side,
            key,
            config: DataConfig { shards: shards.to_vec(), curation: None, ..train.data.clone() },
            pass: EvaluationPass {
                most_samples: most.unwrap_or(u64::MAX),
                ..EvaluationPass::WHOLE
            },
        };
        [
            of("reference", "evaluation.knn.reference", &knn.reference, knn.most_reference),
            of("held-out", "evaluation.knn.held_out", &knn.held_out, knn.most_held_out),
        ]
    }

    fn open(&self) -> Result<Dataset> {
        opening(&format!("opening {} shards", self.side), |progress| {
            Dataset::for_evaluation(&self.config, self.key, self.pass, progress)
        })
    }
}

/// Finds out what cannot be measured in the end before anything is trained.
///
/// # Errors
/// Shards cannot be read, have no labels, or are fewer images than have to vote.
pub fn check(train: &TrainConfig) -> Result<()> {
    let Some(config) = &train.evaluation.knn else { return Ok(()) };
    let check_images = |images: &Images| {
        let dataset = images.open()?;
        let ends =
            [0, dataset.sample_count().saturating_sub(1)].map(|position| dataset.label(position));
        let is_labelled = ends.into_iter().collect::<Result<Vec<_>>>()?.iter().any(Option::is_some);
        ensure!(
            is_labelled,
            "{}: neither the first nor the last image of {:?} has a label: a `.cls` member with its \
             class; `distill data pack` makes labels of class folders",
            images.key,
            images.config.shards
        );
        Ok(dataset.sample_count())
    };
    let [reference, held_out] = Images::both(train, config);
    let references = check_images(&reference)?;
    check_images(&held_out)?;
    knn::check(&config.neighbours, config.temperature, references)
        .context("evaluation.knn.neighbours")
}

impl Evaluation {
    /// A table for people.
    pub fn table(&self) -> String {
        let Knn { reference_pictures, held_out_pictures, neighbours, encoders, .. } = &self.knn;
        let mut table = format!(
            "k-NN on {held_out_pictures} held-out images, {reference_pictures} vote; right are, of \
             the nearest\n{:27}",
            ""
        );
        table.extend(neighbours.iter().map(|count| format!("{count:>9}")));
        for ImageStats { name, role, accuracies } in encoders {
            let role = match role {
                Role::Random => "random",
                Role::Initial => "before",
                Role::Trained => "trained",
                Role::Teacher => "",
            };
            table += &format!("\n  {name:<16} {role:<8}");
            table.extend(accuracies.iter().map(|right| format!("{:>7.1} %", 100.0 * right)));
        }
        table + "\n"
    }
}
