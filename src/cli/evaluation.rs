//! What a run measures of its encoders when training has ended.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::training::Start;
use super::{models, training, worker_program};
use crate::config::{DataConfig, EvaluationConfig, KnnConfig, TaskConfig, TrainConfig};
use crate::data::{Dataset, EvaluationPass};
use crate::durable;
use crate::eval::{self, Encoder, Features, PictureSource, knn};
use crate::model::{Vit, kind_of};
use crate::native::guard;
use crate::train::screen::Phase;

/// In the run's directory.
const FILE: &str = "evaluation.json";

/// What was measured after a step.
#[derive(Debug, Serialize, Deserialize)]
pub struct Evaluation {
    step: u64,
    /// What was asked for.
    config: EvaluationConfig,
    knn: Knn,
}

/// k-NN classification; one accuracy for each number of neighbours.
#[derive(Debug, Serialize, Deserialize)]
struct Knn {
    reference_pictures: usize,
    held_out_pictures: usize,
    temperature: f64,
    neighbours: Vec<usize>,
    encoders: Vec<Measured>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Measured {
    name: String,
    role: Role,
    /// Shares of the held-out pictures whose class was found.
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
    pub encoders: Vec<&'a Vit>,
    pub teacher: Option<&'a Vit>,
}

/// Measures what the config asks for, unless that was done after this `step` already, and writes it down
/// in the run's directory. Nothing where it asks for nothing.
///
/// # Errors
/// Shards cannot be read or have no labels, or the disk is full.
pub fn measure<C: TaskConfig>(
    start: &Start<C>,
    step: u64,
    trained: &Trained,
) -> Result<Option<Evaluation>> {
    let train = start.config.train();
    let Some(config) = &train.evaluation.knn else { return Ok(None) };
    let file = train.run.dir.join(FILE);
    if let Some(done) = read(&file).filter(|d| (d.step, &d.config) == (step, &train.evaluation)) {
        return Ok(Some(done));
    }
    let initial = models::initial_encoders(start.config, start.device)?;
    let mut named = Vec::new();
    let both = initial.iter().zip(&trained.encoders);
    for (encoder, (before, after)) in start.config.encoders().iter().zip(both) {
        let is_drawn = encoder.weights == models::RANDOM;
        let role = if is_drawn { Role::Random } else { Role::Initial };
        named.extend([(&*encoder.name, role, before), (&*encoder.name, Role::Trained, *after)]);
    }
    named.extend(trained.teacher.map(|teacher| ("teacher", Role::Teacher, teacher)));
    let knn = measure_knn(start, config, &named).context("evaluation.knn")?;
    let evaluation = Evaluation { step, config: train.evaluation.clone(), knn };
    let mut text = serde_json::to_vec_pretty(&evaluation)?;
    text.push(b'\n');
    durable::write(&file, &text)?;
    Ok(Some(evaluation))
}

/// What an earlier call left; nothing where that cannot be read.
fn read(file: &Path) -> Option<Evaluation> {
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

fn measure_knn<C: TaskConfig>(
    start: &Start<C>,
    config: &KnnConfig,
    named: &[(&str, Role, &Vit)],
) -> Result<Knn> {
    let train = start.config.train();
    let compute = kind_of(train.run.precision);
    let encoders: Vec<_> = named.iter().map(|(.., vit)| Encoder { vit, compute }).collect();
    let features = |patterns: &[String], most: Option<u64>, what: &str| {
        let most_samples = most.unwrap_or(u64::MAX);
        features(
            train,
            patterns,
            EvaluationPass { most_samples, ..EvaluationPass::WHOLE },
            |source| {
                let phase = Phase::begin(what, Some(source.dataset.sample_count()));
                let progress = |done: usize, _: usize| phase.reach(done as u64);
                let found = guard(|| eval::features(&encoders, source, start.device, &progress))?;
                phase.finish();
                Ok(found)
            },
        )
    };
    let reference = features(&config.reference, config.most_reference, "features of neighbours")?;
    let held_out =
        features(&config.held_out, config.most_held_out, "features of held-out pictures")?;
    let mut encoders = Vec::new();
    for ((name, role, _), (reference, held_out)) in
        named.iter().zip(reference.iter().zip(&held_out))
    {
        let KnnConfig { neighbours, temperature, .. } = config;
        let accuracies = knn::accuracies(reference, held_out, neighbours, *temperature)?;
        encoders.push(Measured { name: name.to_string(), role: *role, accuracies });
    }
    Ok(Knn {
        reference_pictures: reference.first().map_or(0, Features::count),
        held_out_pictures: held_out.first().map_or(0, Features::count),
        temperature: config.temperature,
        neighbours: config.neighbours.clone(),
        encoders,
    })
}

/// Has `extract` go over the pictures of these shards, seen as the run sees pictures.
fn features(
    train: &TrainConfig,
    patterns: &[String],
    pass: EvaluationPass,
    extract: impl FnOnce(&PictureSource) -> Result<Vec<Features>>,
) -> Result<Vec<Features>> {
    let config = DataConfig { shards: patterns.to_vec(), curation: None, ..train.data.clone() };
    let dataset = training::opening(|progress| Dataset::for_evaluation(&config, pass, progress))?;
    let dataset = Arc::new(dataset);
    extract(&PictureSource { dataset, config: &config, worker_program: &worker_program()? })
}

impl Evaluation {
    /// A table for people.
    pub fn table(&self) -> String {
        let Knn { reference_pictures, held_out_pictures, neighbours, encoders, .. } = &self.knn;
        let mut table = format!(
            "k-NN on {held_out_pictures} held-out pictures, {reference_pictures} vote; right are, of \
             the nearest\n{:27}",
            ""
        );
        table.extend(neighbours.iter().map(|count| format!("{count:>9}")));
        for Measured { name, role, accuracies } in encoders {
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
