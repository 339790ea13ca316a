//! The training loop, the same for every objective and any number of processes.

use std::collections::VecDeque;

use anyhow::Result;
use tracing::{debug, debug_span};

use super::checkpoint::Saver;
use super::prefetch::DevicePrefetcher;
use super::run::{Drawing, Run, State};
use super::run_log::RunLog;
use super::signals::{self, Signal};
use super::step::{self, PendingStep};
use crate::config::{CheckpointConfig, TrainConfig};
use crate::dist::{Abandoned, Activity, require_equal_weights};
use crate::native::DeviceEvent;

/// How training ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Finished,
    /// A signal to this process, or (`None`) to another one, asked to stop; the state is saved.
    Stopped(Option<Signal>),
}

/// Trains until the schedule ends or a signal asks to stop, saving as configured.
///
/// # Errors
/// Data, device, disk or another process fail, or a loss is not finite; the last checkpoint stays.
pub fn train(run: &Run, state: &mut State, prefetcher: &mut DevicePrefetcher) -> Result<Outcome> {
    let CheckpointConfig { keep, writers, .. } = run.config.checkpoint;
    let mut saver = Saver::new(run.path, keep, run.group.store(), writers);
    let outcome = take_steps(run, state, prefetcher, &mut saver);
    let _saving = run.group.enter(Activity::Saving);
    let _span = debug_span!("finish_checkpoint").entered();
    // Also where training has failed: the save under way is from before that.
    let saved = saver.finish(&|| run.group.check_failure());
    let outcome = outcome?;
    saved.map(|()| outcome)
}

fn take_steps(
    run: &Run,
    state: &mut State,
    prefetcher: &mut DevicePrefetcher,
    saver: &mut Saver,
) -> Result<Outcome> {
    let group = run.group;
    group.begin_step(state.step);
    require_equal(run, state)?;
    let _computing = group.enter(Activity::Computing);
    let _span = debug_span!("train").entered();
    let mut progress = Progressing {
        log: group.is_first().then(|| RunLog::open(run, state.step)).transpose()?,
        since: DeviceEvent::record(group.device())?,
        unread: VecDeque::new(),
        saved: state.step,
        is_to_stop: false,
    };
    let outcome = match progress.advance(run, state, prefetcher, saver) {
        Ok(()) if progress.is_to_stop => Outcome::Stopped(signals::stop_requested()),
        Ok(()) => Outcome::Finished,
        Err(error) if error.is::<Abandoned>() => {
            progress.give_up(run, state, prefetcher)?;
            Outcome::Stopped(signals::stop_requested())
        }
        Err(error) => return Err(error),
    };
    if progress.saved < state.step {
        state.save(run, saver)?;
    }
    if let Some(log) = progress.log {
        log.finish();
    }
    for (trainee, trainee_optimizer) in run.objective.trainees().iter().zip(&state.optimizers) {
        debug!("gradients of `{}` sent: {:?}", trainee.name, trainee_optimizer.statistics());
    }
    Ok(outcome)
}

/// The progress of the training loop.
struct Progressing {
    log: Option<RunLog>,
    /// When the last step that was read was done.
    since: DeviceEvent,
    /// Steps that are queued and not read, at most two.
    unread: VecDeque<PendingStep>,
    /// Step of the last checkpoint.
    saved: u64,
    is_to_stop: bool,
}

impl Progressing {
    /// Takes steps until the schedule ends, the processes agree to stop, or one of them gives a step
    /// up.
    fn advance(
        &mut self,
        run: &Run,
        state: &mut State,
        prefetcher: &mut DevicePrefetcher,
        saver: &mut Saver,
    ) -> Result<()> {
        let every = |steps: u64, step: u64| steps > 0 && step.is_multiple_of(steps);
        let total = run.schedule.total_steps();
        while state.step < total && !self.is_to_stop {
            saver.check()?;
            self.unread.push_back(step::begin(run, state, prefetcher, None)?);
            let is_to_save = every(run.config.checkpoint.every, state.step);
            let is_to_compare = every(run.config.distributed.check_every, state.step);
            // Read a step late, so that the device has the next one to do meanwhile.
            let may_wait = !is_to_save && !is_to_compare && state.step < total;
            self.read(run, prefetcher, usize::from(may_wait))?;
            if self.is_to_stop {
                self.read(run, prefetcher, 0)?;
            }
            if is_to_compare {
                require_equal(run, state)?;
            }
            if is_to_save {
                state.save(run, saver)?;
                self.saved = state.step;
            }
            if let Some(drawing) = run.drawing.as_ref().filter(|one| every(one.every, state.step)) {
                self.draw(drawing, run, state)?;
            }
        }
        Ok(())
    }

    /// Draws an image of the weights after the last step. The other processes go on meanwhile.
    fn draw(&mut self, drawing: &Drawing, run: &Run, state: &mut State) -> Result<()> {
        let _drawing = run.group.enter(Activity::Drawing);
        let _span = debug_span!("draw", step = state.step).entered();
        for trainee_optimizer in &mut state.optimizers {
            trainee_optimizer.receive_weights(run.group)?;
        }
        run.group.synchronize()?;
        if let Some(log) = &mut self.log {
            log.image(state.step, &(drawing.draw)()?)?;
        }
        Ok(())
    }

    /// Reads the numbers of queued steps, but for the last `left`.
    fn read(&mut self, run: &Run, prefetcher: &DevicePrefetcher, left: usize) -> Result<()> {
        while self.unread.len() > left {
            let Some(pending) = self.unread.front() else { break };
            let done = pending.read(run, prefetcher)?;
            let seconds = self.since.seconds_until(pending.read_at())?;
            let is_last = pending.step() == run.schedule.total_steps();
            if let Some(log) = &mut self.log {
                log.add(done.metrics, seconds, is_last)?;
            }
            self.is_to_stop |= done.is_to_stop;
            if let Some(pending) = self.unread.pop_front() {
                self.since = pending.into_read_at();
            }
        }
        Ok(())
    }

    /// Goes back to the state before a step that some process gave up.
    fn give_up(
        &mut self,
        run: &Run,
        state: &mut State,
        prefetcher: &DevicePrefetcher,
    ) -> Result<()> {
        let group = run.group;
        // That step is no longer this process's.
        group.begin_step(state.step);
        for trainee_optimizer in &mut state.optimizers {
            trainee_optimizer.settle_weights(group)?;
        }
        self.read(run, prefetcher, 0)?;
        group.end_collectives()
    }
}

/// # Errors
/// The processes do not hold the same weights.
fn require_equal(run: &Run, state: &mut State) -> Result<()> {
    for trainee_optimizer in &mut state.optimizers {
        trainee_optimizer.receive_weights(run.group)?;
    }
    let tensors = run.objective.trainees().iter().flat_map(|trainee| {
        trainee
            .parameters
            .named()
            .iter()
            .map(|(name, tensor)| (format!("{}/{name}", trainee.name), tensor.shallow_clone()))
    });
    require_equal_weights(run.group, state.step, &tensors.collect::<Vec<_>>())
}

/// Whether `error` is that the device has no memory left.
pub fn is_out_of_memory(error: &anyhow::Error) -> bool {
    let text = format!("{error:#}");
    text.contains("out of memory") || text.contains("can't allocate memory")
}

/// Adds what to lower, where `error` is that the device has no memory left.
pub fn explain_memory(error: anyhow::Error, config: &TrainConfig) -> anyhow::Error {
    if !is_out_of_memory(&error) {
        return error;
    }
    let batch = config.data.batch_size;
    error.context(format!(
        "out of memory: lower data.batch_size (now {batch}; with data.global_batch_size kept, \
         gradients are accumulated and the mathematics stays the same), set \
         recompute_blocks of what is trained (the same mathematics, a little slower), use \
         run.precision = \"bf16\", raise mask_ratio, or with several processes set \
         distributed.shard_optimizer = true; on a GPU nvidia-smi tells who else uses it"
    ))
}
