//! The training loop, the same for every objective and any number of processes.

use std::collections::VecDeque;
use std::mem;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow};
use tracing::{debug, debug_span, info, warn};

use super::checkpoint::Saver;
use super::evaluating::Best;
use super::metrics::unix_seconds;
use super::prefetch::DevicePrefetcher;
use super::profile::Profile;
use super::run::{Drawing, Run, State};
use super::run_log::RunLog;
use super::signals::{self, Signal};
use super::sound_end::SoundEnd;
use super::step::{self, PendingStep};
use super::stragglers::Stragglers;
use crate::artifacts::{EvaluationLine, MetricsLines, paths};
use crate::config::{CheckpointConfig, TrainConfig};
use crate::dist::{Abandoned, Activity, Pace, require_equal_weights};
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
    state.prepare_saves(run, &mut saver)?;
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
    let evaluating = run.evaluating.as_ref().filter(|_| group.is_first());
    let by = evaluating.and_then(|evaluating| evaluating.best.as_ref());
    let before = evaluated_before(run, state.step)?;
    let mut progress = Progressing {
        log: group.is_first().then(|| RunLog::open(run, state.step)).transpose()?,
        since: DeviceEvent::record(group.device())?,
        unread: VecDeque::new(),
        // A checkpoint of another run is this one's when it is saved.
        saved: if state.is_kept { state.step } else { 0 },
        is_to_stop: false,
        best: by.map(|by| Best::of(by, &before)),
        begun: Instant::now(),
        evaluating: Duration::ZERO,
        saving: Duration::ZERO,
        stragglers: Stragglers::default(),
        profile: Profile::of(run.profiled.as_ref(), state.step),
    };
    if let Some(step) = progress.best.as_ref().and_then(Best::step) {
        saver.keep_best(step);
    }
    progress.make_up(run, state, saver, &before)?;
    let outcome = match progress.advance(run, state, prefetcher, saver) {
        Ok(()) if progress.is_to_stop => Outcome::Stopped(signals::stop_requested()),
        Ok(()) => Outcome::Finished,
        Err(error) if error.is::<Abandoned>() => {
            progress.give_up(run, state, prefetcher)?;
            progress.save_last(run, state, saver)?;
            group.await_reason()?;
            Outcome::Stopped(signals::stop_requested())
        }
        Err(error) => match error.downcast::<SoundEnd>() {
            Ok(end) => return Err(progress.keep(end, run, state, prefetcher, saver)),
            Err(error) => return Err(error),
        },
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

/// What was evaluated up to `step`: the first process knows.
fn evaluated_before(run: &Run, step: u64) -> Result<Vec<EvaluationLine>> {
    if run.evaluating.is_none() || !run.group.is_first() {
        return Ok(Vec::new());
    }
    let lines = MetricsLines::read(run.path).context("cannot read the run's metrics")?;
    let due = run.evaluating.as_ref().map_or(&[][..], |evaluating| &evaluating.due);
    let (own, others): (Vec<_>, Vec<_>) = lines
        .evaluations
        .into_iter()
        .filter(|line| line.step <= step && due.iter().any(|one| one.name == line.evaluation))
        .partition(|line| due.iter().any(|one| one.is_of(line)));
    if let Some(last) = others.last() {
        warn!(
            "figures of `{}` up to step {} are of other images or settings: later ones are not compared with them",
            last.evaluation, last.step
        );
    }
    Ok(own)
}

/// The progress of the training loop.
struct Progressing<'a> {
    log: Option<RunLog>,
    /// When the last step that was read was done.
    since: DeviceEvent,
    /// Steps that are queued and not read, at most two.
    unread: VecDeque<PendingStep>,
    /// Step of the last checkpoint.
    saved: u64,
    is_to_stop: bool,
    /// On the first process, which alone knows what was found before.
    best: Option<Best<'a>>,
    begun: Instant,
    /// How much of the time since went into evaluations.
    evaluating: Duration,
    /// How much of the time since the last step that was read went into saving and drawing.
    saving: Duration,
    stragglers: Stragglers,
    profile: Profile,
}

/// Steps between two looks at how the ranks spend them.
const LOOK_EVERY: u64 = 10;

impl Progressing<'_> {
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
            self.profile.before(state.step + 1, run.group)?;
            self.unread.push_back(step::begin(run, state, prefetcher, None)?);
            self.profile.after(state.step, run.group, run.path)?;
            self.saving += state.take_waited();
            let is_to_save = every(run.config.checkpoint.every, state.step);
            let is_to_compare = every(run.config.distributed.check_every, state.step);
            // Read a step late, so that the device has the next one to do meanwhile.
            let due = run.evaluating.as_ref().map_or(Vec::new(), |one| one.due_after(state.step));
            let may_wait = !is_to_save && !is_to_compare && due.is_empty() && state.step < total;
            self.read(run, prefetcher, usize::from(may_wait))?;
            if self.is_to_stop {
                self.read(run, prefetcher, 0)?;
            }
            if is_to_compare {
                require_equal(run, state)?;
            }
            let is_best = self.evaluate(run, state, &due)?;
            if is_best {
                saver.keep_best(state.step);
            }
            if is_to_save || is_best {
                self.log(RunLog::before_save)?;
                let begun = Instant::now();
                state.save(run, saver)?;
                self.saving += begun.elapsed();
                self.saved = state.step;
            }
            if let Some(drawing) = run.drawing.as_ref().filter(|one| every(one.every, state.step)) {
                self.draw(drawing, run, state)?;
            }
        }
        // A schedule that ends before the last step that is to be recorded, or a signal.
        self.profile.end(state.step, run.group, run.path)
    }

    /// Makes up for evaluations of the step that training goes on from, where a signal came before them.
    fn make_up(
        &mut self,
        run: &Run,
        state: &mut State,
        saver: &mut Saver,
        before: &[EvaluationLine],
    ) -> Result<()> {
        let Some(evaluating) = &run.evaluating else { return Ok(()) };
        let step = state.step;
        let mut owed = Vec::new();
        for place in evaluating.due_after(step) {
            let name = &evaluating.due[place].name;
            let is_done = before.iter().any(|line| line.step == step && line.evaluation == *name);
            if run.group.any(run.group.is_first() && !is_done)? {
                owed.push(place);
            }
        }
        // Its checkpoint is there, being what training goes on from.
        if self.evaluate(run, state, &owed)? {
            saver.keep_best(step);
        }
        Ok(())
    }

    /// Makes the evaluations at these places of the weights after the last step. True if they are the
    /// best so far.
    fn evaluate(&mut self, run: &Run, state: &mut State, due: &[usize]) -> Result<bool> {
        let Some(evaluating) = run.evaluating.as_ref().filter(|_| !due.is_empty()) else {
            return Ok(false);
        };
        if self.is_to_stop {
            return Ok(false);
        }
        let _evaluating = run.group.enter(Activity::Evaluating);
        let _span = debug_span!("evaluate", step = state.step).entered();
        for trainee_optimizer in &mut state.optimizers {
            trainee_optimizer.receive_weights(run.group)?;
        }
        run.group.synchronize()?;
        let mut is_best = false;
        for &place in due {
            let begun = Instant::now();
            let measured = (evaluating.measure)(place);
            // Other processes are in the midst of it, and would wait.
            let measured = match run.group.is_alone() {
                true => measured.map_err(SoundEnd::beside)?,
                false => measured?,
            };
            let Some(measurements) = measured else {
                self.is_to_stop = true;
                return Ok(false);
            };
            self.evaluating += begun.elapsed();
            let line = EvaluationLine {
                time: unix_seconds(),
                step: state.step,
                evaluation: evaluating.due[place].name.clone(),
                seconds: begun.elapsed().as_secs_f64(),
                measurements,
                of: Some(evaluating.due[place].of.clone()),
            };
            is_best |= self.best.as_mut().is_some_and(|best| best.offer(&line));
            self.record(&line)?;
        }
        // Steps are not to blame for the time.
        self.since = DeviceEvent::record(run.group.device())?;
        run.group.any(is_best)
    }

    /// Writes down what was found, and what it costs.
    fn record(&mut self, line: &EvaluationLine) -> Result<()> {
        let Some(log) = &mut self.log else { return Ok(()) };
        log.evaluation(line)?;
        let figures: Vec<String> = line
            .measurements
            .iter()
            .map(|one| format!("{} {} {:.1} %", one.encoder, one.metric, 100.0 * one.value))
            .collect();
        let share = self.evaluating.as_secs_f64() / self.begun.elapsed().as_secs_f64();
        info!(
            step = line.step,
            seconds = line.seconds,
            "evaluated `{}`: {}; evaluations take {:.1} % of the time",
            line.evaluation,
            figures.join(", "),
            100.0 * share
        );
        Ok(())
    }

    /// Draws an image of the weights after the last step. The other processes go on meanwhile.
    fn draw(&mut self, drawing: &Drawing, run: &Run, state: &mut State) -> Result<()> {
        let begun = Instant::now();
        let _drawing = run.group.enter(Activity::Drawing);
        let _span = debug_span!("draw", step = state.step).entered();
        for trainee_optimizer in &mut state.optimizers {
            trainee_optimizer.receive_weights(run.group)?;
        }
        run.group.synchronize()?;
        if let Some(log) = &mut self.log {
            let drawn = (drawing.draw)().and_then(|png| log.image(state.step, &png));
            drawn.map_err(SoundEnd::beside)?;
        }
        self.saving += begun.elapsed();
        Ok(())
    }

    /// Reads the numbers of queued steps, but for the last `left`.
    fn read(&mut self, run: &Run, prefetcher: &DevicePrefetcher, left: usize) -> Result<()> {
        while self.unread.len() > left {
            let Some(pending) = self.unread.front() else { break };
            let done = pending.read(run, prefetcher)?;
            let seconds = self.since.seconds_until(pending.read_at())?;
            let step = pending.step();
            let is_last = step == run.schedule.total_steps();
            run.group.took(Pace {
                steps: 1,
                seconds,
                data: pending.data_wait,
                exchange: done.metrics.exchange_wait_seconds.unwrap_or(0.0),
                saving: mem::take(&mut self.saving).as_secs_f64(),
            });
            if let Some(log) = self.log.as_mut().filter(|_| step.is_multiple_of(LOOK_EVERY))
                && let Some(slowest) = self.stragglers.look(&run.group.paces())
            {
                log.slowest(step, slowest);
            }
            self.log(|log| log.add(done.metrics, seconds, is_last))?;
            self.is_to_stop |= done.is_to_stop;
            if let Some(pending) = self.unread.pop_front() {
                self.since = pending.into_read_at();
            }
        }
        Ok(())
    }

    /// Writes to the log, where this process keeps it.
    fn log(&mut self, write: impl FnOnce(&mut RunLog) -> Result<()>) -> Result<()> {
        let Some(log) = &mut self.log else { return Ok(()) };
        write(log).map_err(|error| {
            // It is not tried again while the state is saved.
            self.log = None;
            SoundEnd::beside(error)
        })
    }

    /// Saves the last state that is sound before the run ends with an error, which then says so.
    fn keep(
        &mut self,
        end: SoundEnd,
        run: &Run,
        state: &mut State,
        prefetcher: &DevicePrefetcher,
        saver: &mut Saver,
    ) -> Error {
        let SoundEnd { error, skipped } = end;
        let saved = self.save_sound(skipped, run, state, prefetcher, saver);
        if let Some(log) = self.log.take() {
            log.finish();
        }
        match saved {
            Ok(()) if self.saved > 0 => anyhow!(
                "{error:#}; the state after step {} is saved in {}: the same command goes on from there",
                self.saved,
                paths::checkpoint(run.path, self.saved).display()
            ),
            Ok(()) => error,
            Err(failed) => {
                warn!("the last state could not be saved: {failed:#}");
                error
            }
        }
    }

    /// Saves the state after the last step, or before the `skipped` one.
    fn save_sound(
        &mut self,
        skipped: Option<u64>,
        run: &Run,
        state: &mut State,
        prefetcher: &DevicePrefetcher,
        saver: &mut Saver,
    ) -> Result<()> {
        let skipped = match skipped {
            Some(step) => Some(step),
            None => {
                run.group.abandon(state.step + 1)?;
                match self.give_up(run, state, prefetcher) {
                    Ok(()) => None,
                    Err(error) => error.downcast::<SoundEnd>()?.skipped,
                }
            }
        };
        if let Some(step) = skipped {
            // All processes read the same numbers, and do the same.
            self.unread.clear();
            for trainee_optimizer in &mut state.optimizers {
                trainee_optimizer.settle_weights(run.group)?;
            }
            state.take_back(step - 1);
        }
        self.save_last(run, state, saver)
    }

    /// Saves the state after the last step, unless it was saved, and waits until it is written.
    fn save_last(&mut self, run: &Run, state: &mut State, saver: &mut Saver) -> Result<()> {
        if self.saved < state.step {
            state.save(run, saver)?;
            saver.finish(&|| run.group.check_failure())?;
            self.saved = state.step;
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
        group.end_collectives(state.step)
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
