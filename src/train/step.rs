//! One optimizer step: the device is told all of it, and its numbers are read a step later.
//!
//! The host does not wait for the device within a step, so the device always has something to do. On
//! a CPU, which does at once what it is told, the same happens in the same order.

use std::time::Duration;

use anyhow::Result;

use super::clock::{Phase, StepClock};
use super::feed::Feed;
use super::learner::LearningPasses;
use super::metrics::StepMetrics;
use super::report::{Numbers, Report, report, require_finite};
use super::signals;
use super::trainer::{Run, State};
use crate::dist::{Abandoned, Activity, Team};
use crate::native::DeviceMark;
use crate::objective::MicroBatch;

/// How long signals and the other processes' failures may go unnoticed while data are waited for.
const PATIENCE: Duration = Duration::from_millis(200);

/// A step that the device has been told, and whose numbers the host has not yet read.
pub struct Begun {
    /// All that the host knows already.
    metrics: StepMetrics,
    report: Report,
    /// After the update.
    pub end: DeviceMark,
    /// Marks between its phases, where they were asked for.
    pub clock: Option<StepClock>,
}

/// What the host reads of a step.
pub struct Done {
    pub metrics: StepMetrics,
    /// The processes agree that the run is to stop.
    pub is_to_stop: bool,
}

/// Tells the device one optimizer step, and counts it as done.
///
/// # Errors
/// Among others [`Abandoned`]: then nothing has changed.
pub fn begin(
    run: &Run,
    state: &mut State,
    feed: &mut Feed,
    mut clock: Option<StepClock>,
) -> Result<Begun> {
    let team = run.team;
    let global_batch = state.stream.global_batch_size;
    let learning_rate = run.schedule.learning_rate(state.step);
    let mut losses = Vec::new();
    for number in 1..=run.batches_per_step {
        tick(&mut clock, Phase::Data)?;
        let batch = next_batch(team, state.step + 1, feed)?;
        let share = (batch.positions.end - batch.positions.start) as f64 / global_batch as f64;
        let is_last = number == run.batches_per_step;
        let clock = clock.as_mut();
        let mut passes = LearningPasses { team, learners: &mut state.learners, is_last, clock };
        losses.push((share, run.objective.accumulate(&batch, share, &mut passes)?));
    }
    tick(&mut clock, Phase::Exchange)?;
    let mut exchange_wait = Duration::ZERO;
    for learner in &state.learners {
        exchange_wait += learner.receive_gradients(team)?;
    }
    tick(&mut clock, Phase::Update)?;
    let waited = feed.take_waited().as_secs_f64();
    let stop = if is_asked_to_stop(team) { 1.0 } else { 0.0 };
    let own = [waited / team.world_size() as f64, feed.failed() as f64, stop];
    let (verdict, report) = report(team, &losses, &state.learners, own)?;
    if !team.is_alone() {
        // That all processes took part must be sure before weights change: one may give the step up.
        // AdamW then gives the device enough to do while it is told the next step.
        team.past(report.arrived())?;
    }
    for (learner, norm) in state.learners.iter_mut().zip(&verdict.norms) {
        learner.update(team, learning_rate, norm, &verdict.skip)?;
    }
    state.step += 1;
    state.position += global_batch as u64;
    let metrics = StepMetrics {
        step: state.step,
        epoch: run.schedule.epoch(state.step),
        learning_rate,
        images_seen: state.position,
        images_per_second: 0.0,
        data_wait_seconds: 0.0,
        exchange_wait_seconds: (!team.is_alone()).then_some(exchange_wait.as_secs_f64()),
        step_seconds: 0.0,
        students: Vec::new(),
        peak_memory_bytes: None,
        failed_pictures: 0,
    };
    Ok(Begun { metrics, report, end: DeviceMark::set(team.device())?, clock })
}

fn tick(clock: &mut Option<StepClock>, phase: Phase) -> Result<()> {
    clock.as_mut().map_or(Ok(()), |clock| clock.begin(phase))
}

impl Begun {
    /// Which step it is, from 1.
    pub fn step(&self) -> u64 {
        self.metrics.step
    }

    /// Waits until the device has the step's numbers.
    ///
    /// # Errors
    /// One is not finite, or a process failed; among others [`Abandoned`].
    pub fn read(&self, run: &Run, feed: &Feed) -> Result<Done> {
        let trainees = run.objective.trainees().iter();
        let names: Vec<&str> = trainees.map(|trainee| trainee.name.as_str()).collect();
        let numbers = self.report.read(run.team, &names)?;
        require_finite(self.step(), &numbers)?;
        let Numbers { students, sums: [waited, failed, stop], .. } = numbers;
        let metrics = StepMetrics {
            data_wait_seconds: waited,
            students,
            peak_memory_bytes: feed.peak_memory(),
            failed_pictures: failed as u64,
            ..self.metrics.clone()
        };
        Ok(Done { metrics, is_to_stop: stop > 0.0 })
    }

    /// A mark that the device passed when it had the numbers.
    pub fn read_at(&self) -> &DeviceMark {
        self.report.arrived()
    }

    /// [`Self::read_at`] for longer than the rest.
    pub fn into_read_at(self) -> DeviceMark {
        self.report.into_arrived()
    }
}

/// Whether any process got a signal, as far as this one knows.
fn is_asked_to_stop(team: &Team) -> bool {
    team.is_asked_to_stop() || signals::stop_requested().is_some()
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
