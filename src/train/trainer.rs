//! The training loop, the same for every objective and any number of processes.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use tracing::{debug, info, warn};

use super::checkpoint::{Checkpoint, Saver, Snapshot, Stream};
use super::feed::Feed;
use super::learner::{Learner, LearningPasses};
use super::metrics::{MetricsLog, StepMetrics};
use super::progress::Progress;
use super::report::{Report, report, require_finite};
use super::schedule::Schedule;
use super::signals::{self, Signal};
use super::state::StudentState;
use crate::config::{CheckpointConfig, Config};
use crate::dist::{Abandoned, Activity, Team, require_equal_weights};
use crate::objective::{MicroBatch, Objective};

/// How long signals and the other processes' failures may go unnoticed while data are waited for.
const PATIENCE: Duration = Duration::from_millis(200);

/// Learners and counters: with the trainees' weights, all that a checkpoint holds.
pub struct State {
    pub learners: Vec<Learner>,
    /// Optimizer steps done.
    pub step: u64,
    /// Samples of the global stream consumed.
    pub position: u64,
    pub stream: Stream,
}

/// How training ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Finished,
    /// A signal to this process (none: to another one) asked for an end; the state is saved.
    Stopped(Option<Signal>),
}

/// What a run of training stands on.
pub struct Run<'a> {
    pub config: &'a Config,
    /// The run's directory.
    pub path: &'a Path,
    pub team: &'a Team,
    pub objective: &'a dyn Objective,
    pub schedule: &'a Schedule,
    /// Batches of this process in every step.
    pub batches_per_step: u64,
}

impl State {
    /// The state before the first step.
    ///
    /// # Errors
    /// libtorch's message.
    pub fn new(
        team: &Team,
        objective: &dyn Objective,
        config: &Config,
        stream: Stream,
    ) -> Result<Self> {
        let learners =
            objective.trainees().iter().map(|trainee| Learner::new(team, trainee, config));
        Ok(Self { learners: learners.collect::<Result<_>>()?, step: 0, position: 0, stream })
    }

    /// Continues from a checkpoint. A stream that is not the checkpoint's is warned about: the
    /// run then goes on, but not on the samples that it would have seen.
    ///
    /// # Errors
    /// The checkpoint does not fit the trainees.
    pub fn restore(
        &mut self,
        team: &Team,
        objective: &dyn Objective,
        checkpoint: &Checkpoint,
    ) -> Result<()> {
        for (trainee, learner) in objective.trainees().iter().zip(&mut self.learners) {
            checkpoint.restore(trainee, learner.optimizer_mut())?;
        }
        let manifest = &checkpoint.manifest;
        (self.step, self.position) = (manifest.step, manifest.position);
        let (then, now) = (&manifest.stream, &self.stream);
        for (what, differs) in [
            ("seed", then.seed != now.seed),
            ("data set", then.dataset != now.dataset),
            ("shuffle", then.shuffle != now.shuffle),
            ("global batch size", then.global_batch_size != now.global_batch_size),
        ] {
            if differs && team.is_first() {
                warn!("the {what} is not the checkpoint's: from here on other samples are seen");
            }
        }
        info!(step = self.step, "continuing from {}", checkpoint.folder.display());
        Ok(())
    }

    fn save(&mut self, run: &Run, saver: &mut Saver) -> Result<()> {
        let before = run.team.doing(Activity::Saving);
        for learner in &mut self.learners {
            learner.receive_weights(run.team)?;
        }
        run.team.settle()?;
        let trainees = run.objective.trainees().iter().zip(&self.learners);
        let students =
            trainees.map(|(trainee, own)| StudentState::of(trainee, own.optimizer())).collect();
        let (step, position, stream) = (self.step, self.position, &self.stream);
        let snapshot = Snapshot { step, position, stream, students };
        saver.save(&snapshot, &|| run.team.check_failure())?;
        run.team.doing(before);
        Ok(())
    }
}

/// Trains until the schedule ends or a signal asks to stop, saving as configured.
///
/// # Errors
/// Data, device, disk or another process fail, or a loss is not finite; the last checkpoint stays.
pub fn train(run: &Run, state: &mut State, feed: &mut Feed) -> Result<Outcome> {
    let CheckpointConfig { keep, writers, .. } = run.config.checkpoint;
    let mut saver = Saver::new(run.path, keep, run.team.board(), writers);
    let outcome = take_steps(run, state, feed, &mut saver);
    run.team.doing(Activity::Saving);
    // Also where training has failed: the save under way is from before that.
    let saved = saver.finish(&|| run.team.check_failure());
    let outcome = outcome?;
    saved.map(|()| outcome)
}

fn take_steps(run: &Run, state: &mut State, feed: &mut Feed, saver: &mut Saver) -> Result<Outcome> {
    let (config, team) = (run.config, run.team);
    let total = run.schedule.total_steps();
    let mut record = team.is_first().then(|| Record::open(run, state.step)).transpose()?;
    let mut saved = state.step;
    let mut outcome = Outcome::Finished;
    team.progress(state.step);
    require_equal(run, state)?;
    team.doing(Activity::Computing);

    while state.step < total {
        saver.check()?;
        let since_step = Instant::now();
        let (metrics, is_to_stop) = match step(run, state, feed) {
            Ok(done) => done,
            Err(error) if error.is::<Abandoned>() => {
                give_up_step(run, state)?;
                outcome = Outcome::Stopped(signals::stop_requested());
                break;
            }
            Err(error) => return Err(error),
        };
        if let Some(record) = &mut record {
            record.add(metrics, since_step.elapsed(), state.step == total)?;
        }
        let check_every = config.distributed.check_every;
        if check_every > 0 && state.step.is_multiple_of(check_every) {
            require_equal(run, state)?;
        }
        if state.step.is_multiple_of(config.checkpoint.every) {
            state.save(run, saver)?;
            saved = state.step;
        }
        if is_to_stop {
            outcome = Outcome::Stopped(signals::stop_requested());
            break;
        }
    }
    if saved < state.step {
        state.save(run, saver)?;
    }
    if let Some(record) = record {
        record.progress.finish();
    }
    for (trainee, learner) in run.objective.trainees().iter().zip(&state.learners) {
        debug!("gradients of `{}` sent: {:?}", trainee.name, learner.statistics());
    }
    Ok(outcome)
}

/// One optimizer step; and whether the run is to stop after it, as all processes agree.
///
/// # Errors
/// Among others [`Abandoned`]: then nothing has changed.
fn step(run: &Run, state: &mut State, feed: &mut Feed) -> Result<(StepMetrics, bool)> {
    let team = run.team;
    let global_batch = state.stream.global_batch_size;
    let learning_rate = run.schedule.learning_rate(state.step);
    let mut losses = Vec::new();
    for number in 1..=run.batches_per_step {
        let batch = next_batch(team, state.step + 1, feed)?;
        let share = (batch.positions.end - batch.positions.start) as f64 / global_batch as f64;
        let is_last = number == run.batches_per_step;
        let mut passes = LearningPasses { team, learners: &mut state.learners, is_last };
        losses.push((share, run.objective.accumulate(&batch, share, &mut passes)?));
    }
    let mut exchange_wait = Duration::ZERO;
    for learner in &state.learners {
        exchange_wait += learner.receive_gradients(team)?;
    }
    let names = run.objective.trainees().iter().map(|trainee| trainee.name.as_str());
    let names: Vec<&str> = names.collect();
    let waited = feed.take_waited().as_secs_f64();
    let stop = if is_asked_to_stop(team) { 1.0 } else { 0.0 };
    let local = [waited / team.world_size() as f64, feed.failed() as f64, stop];
    let Report { students, norms, sums: [waited, failed, stop] } =
        report(team, &names, &losses, &state.learners, local, &run.config.loss)?;
    require_finite(state.step + 1, &students)?;
    for (learner, norm) in state.learners.iter_mut().zip(&norms) {
        learner.update(team, learning_rate, norm)?;
    }
    state.step += 1;
    state.position += global_batch as u64;
    let metrics = StepMetrics {
        step: state.step,
        epoch: run.schedule.epoch(state.step),
        learning_rate,
        images_seen: state.position,
        images_per_second: 0.0,
        data_wait_seconds: waited,
        exchange_wait_seconds: (!team.is_alone()).then_some(exchange_wait.as_secs_f64()),
        step_seconds: 0.0,
        students,
        peak_memory_bytes: feed.peak_memory(),
        failed_pictures: failed as u64,
    };
    Ok((metrics, stop > 0.0))
}

/// Whether any process got a signal, as far as this one knows.
fn is_asked_to_stop(team: &Team) -> bool {
    team.is_asked_to_stop() || signals::stop_requested().is_some()
}

/// Goes back to the state before a step that some process will not take part in.
fn give_up_step(run: &Run, state: &mut State) -> Result<()> {
    // That step is no longer this process's.
    run.team.progress(state.step);
    for learner in &mut state.learners {
        learner.settle_weights(run.team)?;
    }
    run.team.end_collectives()
}

/// The next batch. One that may never come, as when a network is down, is not waited for after a
/// signal: the step is given up. While batches come, processes that must agree finish their step;
/// one that trains alone gives it up at once: with many accumulation steps it could outlast the time
/// that a scheduler grants.
fn next_batch(team: &Team, step: u64, feed: &mut Feed) -> Result<MicroBatch> {
    team.progress(step);
    let before = team.doing(Activity::WaitingForData);
    loop {
        team.check()?;
        let is_to_stop = is_asked_to_stop(team);
        if !(is_to_stop && team.is_alone()) && feed.is_ready_within(PATIENCE) {
            break;
        }
        if is_to_stop {
            team.abandon(step)?;
            return Err(Abandoned.into());
        }
    }
    let batch = feed.next_batch()?;
    team.doing(before);
    Ok(batch)
}

/// # Errors
/// The processes do not hold the same weights.
fn require_equal(run: &Run, state: &mut State) -> Result<()> {
    for learner in &mut state.learners {
        learner.receive_weights(run.team)?;
    }
    let tensors = run.objective.trainees().iter().flat_map(|trainee| {
        trainee
            .parameters
            .named()
            .iter()
            .map(|(name, tensor)| (format!("{}/{name}", trainee.name), tensor.shallow_clone()))
    });
    require_equal_weights(run.team, state.step, &tensors.collect::<Vec<_>>())
}

/// What the first process writes down and shows.
struct Record {
    log: MetricsLog,
    progress: Progress,
    every: u64,
    global_batch: usize,
    /// Since the last line of the log.
    since: Instant,
    steps: u32,
    data_wait: f64,
    exchange_wait: f64,
}

impl Record {
    fn open(run: &Run, step: u64) -> Result<Self> {
        let config = run.config;
        let names: Vec<String> =
            run.objective.trainees().iter().map(|trainee| trainee.name.clone()).collect();
        let total = run.schedule.total_steps();
        Ok(Self {
            log: MetricsLog::open(run.path, config.log.tensorboard, step)?,
            progress: Progress::new(total, step + 1, &names, config.log.every),
            every: config.log.every,
            global_batch: config.data.images_per_step(),
            since: Instant::now(),
            steps: 0,
            data_wait: 0.0,
            exchange_wait: 0.0,
        })
    }

    fn add(&mut self, mut metrics: StepMetrics, time: Duration, is_last: bool) -> Result<()> {
        self.steps += 1;
        self.data_wait += metrics.data_wait_seconds;
        self.exchange_wait += metrics.exchange_wait_seconds.unwrap_or(0.0);
        metrics.step_seconds = time.as_secs_f64();
        metrics.images_per_second = self.global_batch as f64 / metrics.step_seconds;
        self.progress.update(&metrics);
        if metrics.step.is_multiple_of(self.every) || is_last {
            let steps = f64::from(self.steps);
            metrics.step_seconds = self.since.elapsed().as_secs_f64() / steps;
            metrics.data_wait_seconds = self.data_wait / steps;
            metrics.exchange_wait_seconds =
                metrics.exchange_wait_seconds.map(|_| self.exchange_wait / steps);
            metrics.images_per_second = self.global_batch as f64 / metrics.step_seconds;
            self.log.write(&metrics)?;
            (self.since, self.steps) = (Instant::now(), 0);
            (self.data_wait, self.exchange_wait) = (0.0, 0.0);
        }
        Ok(())
    }
}

/// Says what to lower where `error` is that the device has no memory left.
pub fn explain_memory(error: anyhow::Error, config: &Config) -> anyhow::Error {
    let text = format!("{error:#}");
    if !text.contains("out of memory") && !text.contains("can't allocate memory") {
        return error;
    }
    let batch = config.data.batch_size;
    error.context(format!(
        "out of memory: lower data.batch_size (now {batch}; with data.global_batch_size kept, \
         gradients are accumulated and the mathematics stays the same), use run.precision = \
         \"bf16\", raise the students' mask_ratio, or with several processes set \
         distributed.shard_optimizer = true"
    ))
}
