//! A run from its configuration to exported and measured encoders: what all tasks have in common.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Error, Result};
use tch::Device;
use tracing::{debug_span, info, warn};

use super::evaluation::{self, Trained};
use super::export::export_all;
use super::identity::{comments, compare_data, note_data, tell_schedule};
use super::opening::open_dataset;
use super::options::Options;
use super::outcome::{Outcome, Stop, Summary};
use super::plan::schedule;
use super::worker_program::worker_program;
use super::{setup, while_training};
use crate::artifacts::{EvaluationResult, Identity, Stream, paths};
use crate::config::{Precision, TrainConfig};
use crate::data::{Dataset, Loader, RankBatches};
use crate::dist::{Activity, ProcessGroup};
use crate::eval::Interrupted;
use crate::native::guard;
use crate::status;
use crate::tasks::{self, Models, Setting, TaskConfig};
use crate::train::checkpoint::{self, Checkpoint};
use crate::train::prefetch::DevicePrefetcher;
use crate::train::schedule::Schedule;
use crate::train::{self, Drawing, Run, State, explain_memory, signals};
use crate::viz;

/// Where the first process leaves word for the others that the run is complete.
const ENDED: &str = "ended";

/// Trains the encoders of `config`, or goes on with that, exports them and measures what is asked for.
///
/// Under a launcher all its processes call this. SIGINT and SIGTERM no longer end the process from
/// then on, but the run: see [`Outcome::Stopped`].
pub fn train(config: &dyn TaskConfig, options: &Options) -> Result<Outcome> {
    let outcome = setup::with_group(
        config.train(),
        |device| config.require_abilities(device),
        |error| explain_memory(error, config.train()),
        |group, device| train_and_export(config.boxed(), options, group, device),
    )?;
    let early = || Outcome::Stopped { at: Stop::Start, signal: signals::stop_requested() };
    Ok(outcome.unwrap_or_else(early))
}

fn train_and_export(
    mut task: Box<dyn TaskConfig>,
    options: &Options,
    group: &ProcessGroup,
    device: Device,
) -> Result<Outcome> {
    // Held by the first process until the end.
    let (mut run_directory, checkpoint, mut identity) =
        debug_span!("open_run").in_scope(|| setup::open_run(&mut *task, options, group))?;
    // A run that cannot go on as it is configured now stays what it was.
    let take_back = |_: &Error| {
        if let (Some(run), Some(_)) = (&run_directory, &checkpoint) {
            run.take_back_config();
        }
    };
    let begun = (checkpoint.as_ref(), options.accept_changes);
    let dataset = open_data(&*task, group, &mut identity, begun).inspect_err(take_back)?;
    let worker = options.worker_program.clone().map_or_else(worker_program, Ok)?;
    let images = tasks::Images { dataset: &dataset, worker_program: &worker };
    let setting = Setting { group, device, images: Some(images) };
    let loaded = debug_span!("load_models")
        .in_scope(|| models_and_state(&*task, &setting, checkpoint.as_ref()));
    let (models, mut state) = loaded.inspect_err(take_back)?;
    let setting_of = |key: &str| identity.settings.get(key);
    let teacher = setting_of("teacher.weights").map(|weights| {
        let size = setting_of("teacher.input_size");
        size.map_or(weights.clone(), |size| format!("{weights} at {size} pixels"))
    });
    state.identity = identity;
    let profiled = options.profile.clone();
    let from = (checkpoint.as_ref(), profiled);
    let outcome = take_steps(&*task, &setting, &*models, &mut state, from)?;
    let step = state.step;
    if let Some(run) = &mut run_directory {
        // Of another data set it is known only since the other processes have read the configuration.
        run.write_config(&(comments(&state.identity) + &task.to_toml()))?;
    }
    // What comes needs the weights only, and may need the memory.
    drop(state);
    match outcome {
        train::Outcome::Finished => conclude(&*task, &setting, &*models, (step, teacher)),
        train::Outcome::Stopped(signal) => {
            Ok(Outcome::Stopped { at: Stop::Training { step }, signal })
        }
    }
}

/// The data set, which goes into the `identity`, and is compared with that of the checkpoint.
fn open_data(
    task: &dyn TaskConfig,
    group: &ProcessGroup,
    identity: &mut Identity,
    (checkpoint, accepts): (Option<&Checkpoint>, bool),
) -> Result<Arc<Dataset>> {
    let config = &task.decoded();
    let dataset = debug_span!("open_dataset")
        .in_scope(|| setup::open_dataset(config, group, || open_dataset(config)))?;
    if group.is_first() {
        match checkpoint {
            Some(checkpoint) => compare_data(identity, &checkpoint.manifest, &dataset, accepts)?,
            None => note_data(identity, &dataset),
        }
        evaluation::check(task.train())?;
    }
    Ok(Arc::new(dataset))
}

fn models_and_state(
    task: &dyn TaskConfig,
    setting: &Setting,
    checkpoint: Option<&Checkpoint>,
) -> Result<(Box<dyn Models>, State)> {
    let Setting { group, images, .. } = setting;
    let images = images.as_ref().context("a run trains on images")?;
    let models = task.models(setting, checkpoint.is_none())?;
    let stream = stream(task.train(), images.dataset);
    let mut state = State::new(group, &*models, task.train(), stream)?;
    if let Some(checkpoint) = checkpoint {
        state.restore(&*models, checkpoint).context(
            "what was trained does not fit into what would be trained: another run.dir, or --resume never, \
             begins anew",
        )?;
        let own = paths::checkpoint(&task.train().run.dir, state.step);
        let same = |path: &Path| path.canonicalize().ok();
        state.is_kept = same(&own).is_some_and(|own| Some(own) == same(&checkpoint.folder));
    }
    Ok((models, state))
}

/// Says how many images a step has, and how they come about.
fn tell_steps(config: &TrainConfig, ranks: usize, samples: u64, schedule: &Schedule) {
    let (global, batch) = (config.data.images_per_step(), config.data.batch_size);
    let passes = global.div_ceil(ranks).div_ceil(batch);
    let of_steps = schedule.total_steps() as f64 * global as f64 / samples as f64;
    info!(
        "{} steps of {global} images: {ranks} processes, {passes} passes of {} images each; {of_steps:.1} \
         passes over {samples} samples",
        schedule.total_steps(),
        batch.min(global.div_ceil(ranks)),
    );
    if let Some(warning) = bf16_sums(config.distributed.gradient_precision, ranks) {
        warn!("{warning}");
    }
    if global as u64 > samples {
        warn!(
            "a step of {global} images is more than the {samples} samples of the data set: each step sees \
             every one {:.1} times",
            global as f64 / samples as f64
        );
    }
}

/// Ranks whose sums in bf16 are no longer those of their gradients: a number of 8 bits loses what is less than
/// a 256th of it, which is what each of 256 equal gradients is of their sum.
const RANKS_TOO_MANY_FOR_BF16: usize = 256;

/// What is to be said of sums in this precision over so many ranks.
fn bf16_sums(precision: Precision, ranks: usize) -> Option<String> {
    (precision == Precision::Bf16 && ranks >= RANKS_TOO_MANY_FOR_BF16).then(|| {
        format!(
            "distributed.gradient_precision = \"bf16\" adds the gradients of {ranks} ranks in bf16, whose sums \
             lose what is less than a 256th of them: gradients come out too small, above all with \
             distributed.shard_optimizer, which adds rank after rank. \"fp32\" adds exactly"
        )
    })
}

/// Trains from where `state` is to the end of the schedule, or until a signal comes.
fn take_steps(
    task: &dyn TaskConfig,
    setting: &Setting,
    models: &dyn Models,
    state: &mut State,
    (checkpoint, profiled): (Option<&Checkpoint>, Option<RangeInclusive<u64>>),
) -> Result<train::Outcome> {
    let Setting { group, device, images } = setting;
    let config = task.train();
    let images = images.as_ref().context("a run trains on images")?;
    let named = while_training::named(config)?;
    let evaluating = while_training::evaluating(&named, config, setting, models, task.encoders())?;
    let schedule = schedule(config, images.dataset);
    if let Some(checkpoint) = checkpoint.filter(|_| group.is_first()) {
        let rate = schedule.learning_rate(state.step);
        tell_schedule(&checkpoint.manifest, schedule.total_steps(), rate);
    }
    if state.step >= schedule.total_steps() {
        info!(step = state.step, "this run is complete; nothing is left to train");
    }
    if group.is_first() {
        tell_steps(config, group.world_size(), images.dataset.sample_count(), &schedule);
    }
    let global_batch = config.data.images_per_step() as u64;
    let steps_left = schedule.total_steps().saturating_sub(state.step);
    let batches = RankBatches {
        positions: state.position..state.position + steps_left * global_batch,
        global_batch,
        batch: config.data.batch_size as u64,
        rank: group.rank() as u64,
        world_size: group.world_size() as u64,
    };
    let decoded = task.decoded().data;
    let loader =
        Loader::start(images.dataset.clone(), &decoded, images.worker_program, batches.ranges())?;
    let monitor = loader.monitor();
    let _status = status::register("loader", move || monitor.status().to_string());
    let mut prefetcher = DevicePrefetcher::new(Box::new(loader), &decoded, *device)?;
    let run = Run {
        config,
        path: &config.run.dir,
        group,
        objective: models,
        schedule: &schedule,
        batches_per_step: batches.per_step(),
        flops_per_image: task.flops_per_image(),
        profiled,
        drawing: models.drawing(setting).map(as_png),
        evaluating,
    };
    train::train(&run, state, &mut prefetcher)
}

/// Has a task's images put into one sheet.
fn as_png(drawing: tasks::Drawing<'_>) -> Drawing<'_> {
    let tasks::Drawing { every, draw } = drawing;
    let draw = move || {
        let columns = draw()?;
        let columns = guard(|| {
            let marked = |column: &tasks::Column| match &column.masked {
                Some(masked) => viz::greyed(&column.images, masked),
                None => column.images.shallow_clone(),
            };
            Ok(columns.iter().map(marked).collect::<Vec<_>>())
        })?;
        viz::sheet_of_columns(&columns)
    };
    Drawing { every, draw: Box::new(draw) }
}

/// What is done when training has ended: the first process exports, all of them measure.
fn conclude(
    config: &dyn TaskConfig,
    setting: &Setting,
    models: &dyn Models,
    (step, teacher): (u64, Option<String>),
) -> Result<Outcome> {
    let (train, group) = (config.train(), setting.group);
    let mut checkpoint = None;
    if group.is_first() && !(train.export.formats.is_empty() && train.evaluation.is_empty()) {
        let _exporting = group.enter(Activity::Exporting);
        // Opened once: that reads and checks all of it.
        let newest =
            debug_span!("open_checkpoint").in_scope(|| checkpoint::newest(&train.run.dir))?;
        let newest = checkpoint.insert(newest.context("the run has no checkpoint to export")?);
        debug_span!("export").in_scope(|| export_all(config, newest))?;
    }
    match evaluate(config, setting, models, (checkpoint.as_ref(), teacher)) {
        Ok(evaluations) if group.is_first() => {
            let summary = Summary::read(config, step, evaluations)?;
            group.publish(ENDED, b"")?;
            Ok(Outcome::Finished(Some(Box::new(summary))))
        }
        // The others stay until all is done: a launcher could not start rank 0 anew without them.
        Ok(_) => group.wait_for(ENDED).map(|_| Outcome::Finished(None)),
        Err(error) if error.is::<Interrupted>() => {
            Ok(Outcome::Stopped { at: Stop::Evaluation, signal: signals::stop_requested() })
        }
        Err(error) => Err(error),
    }
}

/// Measures the encoders as the configuration asks for.
fn evaluate(
    config: &dyn TaskConfig,
    setting: &Setting,
    models: &dyn Models,
    (checkpoint, teacher): (Option<&Checkpoint>, Option<String>),
) -> Result<Vec<EvaluationResult>> {
    let _span = debug_span!("evaluate").entered();
    if config.train().evaluation.is_empty() {
        return Ok(Vec::new());
    }
    let _evaluating = setting.group.enter(Activity::Evaluating);
    let trained = Trained { encoders: models.encoders(), teacher: models.teacher() };
    evaluation::measure(config, setting, checkpoint.map(|of| (of, teacher)), &trained)
}

fn stream(config: &TrainConfig, dataset: &Dataset) -> Stream {
    Stream {
        seed: config.seed,
        dataset: dataset.fingerprint().to_string(),
        shuffle: config.data.shuffle,
        global_batch_size: config.data.images_per_step(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_sums_over_many_ranks_are_warned_of() {
        assert_eq!(bf16_sums(Precision::Fp32, 1024), None);
        assert_eq!(bf16_sums(Precision::Bf16, 255), None);
        let warning = bf16_sums(Precision::Bf16, 256).unwrap();
        assert!(warning.contains("256 ranks") && warning.contains("fp32"), "{warning}");
    }
}
