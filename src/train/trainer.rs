//! The training loop, the same for every objective and any number of processes.

use std::collections::VecDeque;
use std::path::Path;

use anyhow::Result;
use tracing::{debug, info, warn};

use super::checkpoint::{Checkpoint, Saver, Snapshot, Stream};
use super::feed::Feed;
use super::learner::Learner;
use super::record::Record;
use super::schedule::Schedule;
use super::signals::{self, Signal};
use super::state::StudentState;
use super::step::{self, Begun};
use crate::config::{CheckpointConfig, TrainConfig};
use crate::dist::{Abandoned, Activity, Team, require_equal_weights};
use crate::native::DeviceMark;
use crate::objective::Objective;

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
    pub config: &'a TrainConfig,
    /// The run's directory.
    pub path: &'a Path,
    pub team: &'a Team,
    pub objective: &'a dyn Objective,
    pub schedule: &'a Schedule,
    /// Batches of this process in every step.
    pub batches_per_step: u64,
    /// Pictures of how training goes, if any.
    pub drawing: Option<Drawing<'a>>,
}

/// Pictures that the first process draws while training.
pub struct Drawing<'a> {
    /// Steps between them.
    pub every: u64,
    /// Gives the encoded PNG of the weights as they are.
    pub draw: Box<dyn Fn() -> Result<Vec<u8>> + 'a>,
}

impl State {
    /// The state before the first step.
    ///
    /// # Errors
    /// libtorch's message.
    pub fn new(
        team: &Team,
        objective: &dyn Objective,
        config: &TrainConfig,
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
    let team = run.team;
    team.progress(state.step);
    require_equal(run, state)?;
    team.doing(Activity::Computing);
    let mut progress = Progressing {
        record: team.is_first().then(|| Record::open(run, state.step)).transpose()?,
        since: DeviceMark::set(team.device())?,
        unread: VecDeque::new(),
        saved: state.step,
        is_to_stop: false,
    };
    let outcome = match progress.advance(run, state, feed, saver) {
        Ok(()) if progress.is_to_stop => Outcome::Stopped(signals::stop_requested()),
        Ok(()) => Outcome::Finished,
        Err(error) if error.is::<Abandoned>() => {
            progress.give_up(run, state, feed)?;
            Outcome::Stopped(signals::stop_requested())
        }
        Err(error) => return Err(error),
    };
    if progress.saved < state.step {
        state.save(run, saver)?;
    }
    if let Some(record) = progress.record {
        record.finish();
    }
    for (trainee, learner) in run.objective.trainees().iter().zip(&state.learners) {
        debug!("gradients of `{}` sent: {:?}", trainee.name, learner.statistics());
    }
    Ok(outcome)
}

/// Where a run of training is.
struct Progressing {
    record: Option<Record>,
    /// When the last step that was read was done.
    since: DeviceMark,
    /// Steps that the device was told and that were not read, at most two.
    unread: VecDeque<Begun>,
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
        feed: &mut Feed,
        saver: &mut Saver,
    ) -> Result<()> {
        let every = |steps: u64, step: u64| steps > 0 && step.is_multiple_of(steps);
        let total = run.schedule.total_steps();
        while state.step < total && !self.is_to_stop {
            saver.check()?;
            self.unread.push_back(step::begin(run, state, feed, None)?);
            let is_to_save = every(run.config.checkpoint.every, state.step);
            let is_to_compare = every(run.config.distributed.check_every, state.step);
            // Read a step late, so that the device has the next one to do meanwhile.
            let may_wait = !is_to_save && !is_to_compare && state.step < total;
            self.read(run, feed, usize::from(may_wait))?;
            if self.is_to_stop {
                self.read(run, feed, 0)?;
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

    /// Draws a picture of the weights after the last step. The other processes go on meanwhile.
    fn draw(&mut self, drawing: &Drawing, run: &Run, state: &mut State) -> Result<()> {
        let before = run.team.doing(Activity::Saving);
        for learner in &mut state.learners {
            learner.receive_weights(run.team)?;
        }
        run.team.settle()?;
        if let Some(record) = &mut self.record {
            record.picture(state.step, &(drawing.draw)()?)?;
        }
        run.team.doing(before);
        Ok(())
    }

    /// Reads what the device has been told, but for the last `left` steps.
    fn read(&mut self, run: &Run, feed: &Feed, left: usize) -> Result<()> {
        while self.unread.len() > left {
            let Some(begun) = self.unread.front() else { break };
            let done = begun.read(run, feed)?;
            let seconds = self.since.seconds_until(begun.read_at())?;
            let is_last = begun.step() == run.schedule.total_steps();
            if let Some(record) = &mut self.record {
                record.add(done.metrics, seconds, is_last)?;
            }
            self.is_to_stop |= done.is_to_stop;
            if let Some(begun) = self.unread.pop_front() {
                self.since = begun.into_read_at();
            }
        }
        Ok(())
    }

    /// Goes back to the state before a step that some process will not take part in.
    fn give_up(&mut self, run: &Run, state: &mut State, feed: &Feed) -> Result<()> {
        let team = run.team;
        // That step is no longer this process's.
        team.progress(state.step);
        for learner in &mut state.learners {
            learner.settle_weights(team)?;
        }
        self.read(run, feed, 0)?;
        team.end_collectives()
    }
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

/// Says what to lower where `error` is that the device has no memory left.
pub fn explain_memory(error: anyhow::Error, config: &TrainConfig) -> anyhow::Error {
    let text = format!("{error:#}");
    if !text.contains("out of memory") && !text.contains("can't allocate memory") {
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
