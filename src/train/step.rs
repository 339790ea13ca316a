//! One optimizer step: all of it is queued on the device, and its numbers are read a step later.
//!
//! The host does not wait for the device within a step, so the device always has something to do. On
//! a CPU, which does queued work at once, the same happens in the same order.

use std::time::Duration;

use anyhow::Result;
use tracing::debug_span;

use super::clock::{Phase, StepClock, Telling};
use super::prefetch::DevicePrefetcher;
use super::run::{Run, State};
use super::signals;
use super::sound_end::SoundEnd;
use super::step_numbers::{PendingNumbers, StepNumbers, require_finite, sum_over_ranks};
use super::trainee_optimizer::TraineeHooks;
use crate::artifacts::StepMetrics;
use crate::dist::{Abandoned, Activity, ProcessGroup};
use crate::native::DeviceEvent;
use crate::train::objective::MicroBatch;

/// How long signals and the other processes' failures may go unnoticed while data are waited for.
const STOP_POLL: Duration = Duration::from_millis(200);

/// A step that is queued on the device, and whose numbers the host has not yet read.
pub struct PendingStep {
    /// The metrics that the host knows already.
    metrics: StepMetrics,
    numbers: PendingNumbers,
    /// Seconds that this process waited for images.
    pub data_wait: f64,
    /// After the last backward pass, and when the gradients of all processes were there.
    exchange_wait: Option<(DeviceEvent, DeviceEvent)>,
    /// After the update.
    pub end: DeviceEvent,
    /// Marks between its phases, where they were asked for.
    pub clock: Option<StepClock>,
}

/// What the host reads of a step.
pub struct Done {
    pub metrics: StepMetrics,
    /// The processes agree that the run is to stop.
    pub is_to_stop: bool,
}

/// Queues one optimizer step on the device, and counts it as done.
///
/// # Errors
/// Among others [`Abandoned`]: then nothing has changed.
pub fn begin(
    run: &Run,
    state: &mut State,
    prefetcher: &mut DevicePrefetcher,
    mut clock: Option<StepClock>,
) -> Result<PendingStep> {
    let group = run.group;
    let global_batch = state.stream.global_batch_size;
    let learning_rate = run.schedule.learning_rate(state.step);
    let _step = debug_span!("step", step = state.step + 1).entered();
    let mut losses = Vec::new();
    for number in 1..=run.batches_per_step {
        let data = begin_phase(&mut clock, Phase::Data)?;
        let batch = next_batch(group, state.step + 1, prefetcher)?;
        drop(data);
        let share = (batch.positions.end - batch.positions.start) as f64 / global_batch as f64;
        let is_last = number == run.batches_per_step;
        let (optimizers, clock) = (&mut state.optimizers, clock.as_mut());
        let mut hooks = TraineeHooks { group, optimizers, is_last, clock, telling: None };
        losses.push((share, run.objective.accumulate(&batch, share, &mut hooks)?));
    }
    let exchange = begin_phase(&mut clock, Phase::Exchange)?;
    let mark = || (!group.is_alone()).then(|| DeviceEvent::record(group.device())).transpose();
    let passed = mark()?;
    for trainee_optimizer in &state.optimizers {
        trainee_optimizer.receive_gradients(group)?;
    }
    let exchange_wait = passed.zip(mark()?);
    drop(exchange);
    let _update = begin_phase(&mut clock, Phase::Update)?;
    let waited = prefetcher.take_waited().as_secs_f64();
    let stop = if is_asked_to_stop(group) { 1.0 } else { 0.0 };
    let own = [waited / group.world_size() as f64, prefetcher.failed() as f64, stop];
    let (verdict, numbers) = sum_over_ranks(group, &losses, &state.optimizers, own)?;
    if !group.is_alone() {
        // Weights change only when all processes took part: one may give the step up.
        // AdamW then keeps the device busy while the next step is queued.
        group.wait_event(numbers.arrived())?;
    }
    state.await_copies(group)?;
    let skip = state.skip_from_now_on(&verdict.skip)?;
    for (trainee_optimizer, norm) in state.optimizers.iter_mut().zip(&verdict.norms) {
        trainee_optimizer.update(group, learning_rate, norm, &skip)?;
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
        exchange_wait_seconds: None,
        step_seconds: 0.0,
        trainees: Vec::new(),
        flops_per_second: None,
        mfu: None,
        peak_memory_bytes: None,
        failed_images: 0,
        device: None,
        slowest_rank: None,
    };
    let end = DeviceEvent::record(group.device())?;
    Ok(PendingStep { metrics, numbers, data_wait: waited, exchange_wait, end, clock })
}

/// Marks the beginning of a phase that no trainee has part in.
fn begin_phase(clock: &mut Option<StepClock>, phase: Phase) -> Result<Telling> {
    clock.as_mut().map_or(Ok(()), |clock| clock.begin(phase))?;
    Ok(phase.tell(|_| ""))
}

impl PendingStep {
    /// Which step it is, from 1.
    pub fn step(&self) -> u64 {
        self.metrics.step
    }

    /// Waits until the device has the step's numbers.
    ///
    /// # Errors
    /// One is not finite, or a process failed; among others [`Abandoned`].
    pub fn read(&self, run: &Run, prefetcher: &DevicePrefetcher) -> Result<Done> {
        let _span = debug_span!("read_numbers", step = self.step()).entered();
        let trainees = run.objective.trainees().iter();
        let names: Vec<&str> = trainees.map(|trainee| trainee.name.as_str()).collect();
        let numbers = self.numbers.read(run.group, &names)?;
        let is_finite = require_finite(self.step(), &numbers);
        is_finite.map_err(|error| SoundEnd::skipped(error, self.step()))?;
        let StepNumbers { trainees, sums: [waited, failed, stop], .. } = numbers;
        let exchange_wait = self.exchange_wait.as_ref();
        let exchange_wait = exchange_wait.map(|(from, to)| from.seconds_until(to)).transpose()?;
        let metrics = StepMetrics {
            data_wait_seconds: waited,
            exchange_wait_seconds: exchange_wait,
            trainees,
            peak_memory_bytes: prefetcher.peak_memory(),
            failed_images: failed as u64,
            ..self.metrics.clone()
        };
        Ok(Done { metrics, is_to_stop: stop > 0.0 })
    }

    /// The event after which the host can read the numbers.
    pub fn read_at(&self) -> &DeviceEvent {
        self.numbers.arrived()
    }

    /// [`Self::read_at`], consuming the step.
    pub fn into_read_at(self) -> DeviceEvent {
        self.numbers.into_arrived()
    }
}

/// Whether any process got a signal, as far as this one knows.
fn is_asked_to_stop(group: &ProcessGroup) -> bool {
    group.is_asked_to_stop() || signals::stop_requested().is_some()
}

/// The next batch. One that may never come, as when a network is down, is not waited for after a
/// signal: the step is given up. While batches come, processes that must agree finish their step;
/// one that trains alone gives it up at once: with many accumulation steps it could outlast the time
/// that a scheduler grants.
fn next_batch(
    group: &ProcessGroup,
    step: u64,
    prefetcher: &mut DevicePrefetcher,
) -> Result<MicroBatch> {
    group.begin_step(step);
    let _waiting = group.enter(Activity::WaitingForData);
    loop {
        group.check()?;
        let is_to_stop = is_asked_to_stop(group);
        if !(is_to_stop && group.is_alone()) && prefetcher.is_ready_within(STOP_POLL) {
            break;
        }
        if is_to_stop {
            group.abandon(step)?;
            return Err(Abandoned.into());
        }
    }
    prefetcher.next_batch().map_err(SoundEnd::beside)
}
