//! The training of heads: updates, test passes, checkpoints, until the last epoch or a signal.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow};
use tch::Tensor;
use tracing::{info, warn};

use super::config::{HeadConfig, HeadsConfig};
use super::figures::{EpochFigures, HeadResult, History};
use super::ground::Ground;
use super::outcome::HeadsOutcome;
use super::plan::Plan;
use super::test_pass::{Figures, TestPass};
use crate::artifacts::{StepMetrics, Stream, TraineeMetrics, paths};
use crate::data::{Batch, Dataset, Loader};
use crate::dist::Activity;
use crate::eval::Interrupted;
use crate::eval::dense::{
    DptShape, HeadSchedule, HeadShape, HeadTrainer, Share, UpdateNumbers, feature_dim,
};
use crate::native::{PeakMemory, guard, upload};
use crate::nn::Normalisation;
use crate::status;
use crate::train::checkpoint::{Checkpoint, Saver, Snapshot};
use crate::train::{RunLog, signals};
use crate::ui::screen::Phase;

/// How long images are waited for before the other ranks are looked at.
const WAIT: Duration = Duration::from_millis(100);

/// Heads under training.
struct Session<'a> {
    ground: &'a Ground<'a>,
    plan: Plan,
    trainers: Vec<HeadTrainer>,
    schedules: Vec<HeadSchedule>,
    /// The update whose loss was not finite, of each head.
    failed_at: Vec<Option<u64>>,
    /// Updates of which no pixel counted.
    skipped: u64,
    blocks: Vec<usize>,
    normalisation: Normalisation,
    dataset: Arc<Dataset>,
    stream: Stream,
    step: u64,
}

/// An update whose numbers are not read yet.
struct Pending {
    step: u64,
    /// Rate of the first head.
    rate: f64,
    /// How long its batch was waited for.
    waited: Duration,
    numbers: Vec<Option<UpdateNumbers>>,
    is_to_stop: Tensor,
}

/// Trains the heads of `ground` from `checkpoint` on, or from the beginning.
///
/// # Errors
/// Data, device, disk or another process fail; the last checkpoint stays.
pub fn train(ground: &Ground<'_>, checkpoint: Option<&Checkpoint>) -> Result<HeadsOutcome> {
    let mut session = Session::new(ground)?;
    if let Some(checkpoint) = checkpoint {
        session.restore(checkpoint)?;
    }
    let config = ground.config;
    let mut test = TestPass::new(ground, session.blocks.clone())?;
    let is_first = ground.group.is_first();
    let log = is_first.then(|| Log::open(&session)).transpose()?;
    let keep = config.checkpoint.keep;
    let (store, writers) = (ground.group.store(), config.checkpoint.writers);
    let mut saver = Saver::new(&config.run.dir, keep, store, writers);
    let ended = session.advance(&mut test, log, &mut saver);
    let saved = saver.finish(&|| ground.group.check_failure());
    let ended = ended?;
    saved?;
    test.clear()?;
    Ok(ended)
}

impl<'a> Session<'a> {
    fn new(ground: &'a Ground<'a>) -> Result<Self> {
        let Ground { config, group, set, .. } = ground;
        let dataset = Arc::new(set.training(&config.images(1), config.seed)?);
        let plan = Plan::new(&config.training, dataset.sample_count());
        let shape = HeadShape {
            features: feature_dim(ground.model()),
            outputs: ground.task().outputs(),
            dpt: DptShape::default(),
        };
        let (optimizer, compute, task) = (config.optimizer(), ground.compute(), ground.task());
        let trainer = |(number, head): (usize, &HeadConfig)| {
            let (name, seed) = ((&*head.name, head.kind), (config.seed, number as u64));
            HeadTrainer::new(name, (task, &shape), &optimizer, seed, group.device(), compute)
        };
        let trainers = guard(|| Ok(config.heads.iter().enumerate().map(trainer).collect()))?;
        let schedule = |head: &HeadConfig| plan.schedule(&config.training, head);
        let stream = Stream {
            seed: config.seed,
            dataset: dataset.fingerprint().to_string(),
            shuffle: *dataset.shuffle(),
            global_batch_size: config.training.global_batch_size,
        };
        Ok(Self {
            ground,
            plan,
            trainers,
            schedules: config.heads.iter().map(schedule).collect(),
            failed_at: vec![None; config.heads.len()],
            skipped: 0,
            blocks: ground.blocks(),
            normalisation: ground.normalisation()?,
            dataset,
            stream,
            step: 0,
        })
    }

    fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        for trainer in &mut self.trainers {
            trainer.restore(checkpoint)?;
        }
        self.step = checkpoint.manifest.step;
        let (then, now) = (&checkpoint.manifest.stream, &self.stream);
        if then != now && self.ground.group.is_first() {
            warn!(
                "data set, seed or batch are not the checkpoint's: other samples are seen from here on"
            );
        }
        info!(step = self.step, "continuing from {}", checkpoint.folder.display());
        Ok(())
    }

    fn advance(
        &mut self,
        test: &mut TestPass<'_>,
        mut log: Option<Log>,
        saver: &mut Saver,
    ) -> Result<HeadsOutcome> {
        let group = self.ground.group;
        let _computing = group.enter(Activity::Computing);
        if self.owes_a_test(log.as_ref())? && self.test(test, log.as_mut())? {
            return Ok(HeadsOutcome::Stopped(self.step));
        }
        let mut loader = self.loader()?;
        let monitor = loader.monitor();
        let _status = status::register("loader", move || monitor.status().to_string());
        let mut pending = VecDeque::new();
        let mut is_to_stop = false;
        while self.step < self.plan.updates && !is_to_stop {
            saver.check()?;
            group.begin_step(self.step + 1);
            let waited = Instant::now();
            self.wait_for(&mut loader)?;
            let batch = match loader.next_batch() {
                Ok(batch) => batch.context("the stream of batches ended early")?,
                Err(error) => return Err(self.keep(error, pending, log, saver)),
            };
            pending.push_back(self.update(&batch, waited.elapsed())?);
            self.step += 1;
            let ends_epoch = self.step.is_multiple_of(self.plan.updates_per_epoch);
            // Read an update late, so that the device has the next one to do meanwhile.
            let left = usize::from(!ends_epoch);
            while pending.len() > left {
                let Some(one) = pending.pop_front() else { break };
                is_to_stop |= self.read(one, log.as_mut())?;
            }
            if ends_epoch && !is_to_stop {
                is_to_stop = self.test(test, log.as_mut())?;
            }
            let every = self.ground.config.checkpoint.every;
            let is_due = every > 0 && self.step.is_multiple_of(every);
            if (ends_epoch || is_due) && !is_to_stop {
                self.save(saver)?;
            }
        }
        while let Some(one) = pending.pop_front() {
            self.read(one, log.as_mut())?;
        }
        if is_to_stop {
            self.save(saver)?;
            return Ok(HeadsOutcome::Stopped(self.step));
        }
        let results = log.map_or(Vec::new(), |log| log.finish(self));
        Ok(HeadsOutcome::Finished(results))
    }

    fn loader(&self) -> Result<Loader> {
        let Ground { config, group, worker_program, .. } = self.ground;
        let (plan, rank) = (self.plan, group.rank() as u64);
        let world_size = group.world_size() as u64;
        let most = plan.losses.div_ceil(world_size) * plan.images_per_loss;
        let images = config.images(most as usize);
        let ranges =
            (self.step..plan.updates).map(move |update| plan.range(update, rank, world_size));
        Loader::start(self.dataset.clone(), &images, worker_program, ranges)
    }

    /// Waits until a batch is there, and looks at the other ranks meanwhile.
    fn wait_for(&self, loader: &mut Loader) -> Result<()> {
        if loader.is_ready() {
            return Ok(());
        }
        let group = self.ground.group;
        let _waiting = group.enter(Activity::WaitingForData);
        group.until("images", || Ok(loader.is_ready_within(WAIT)))
    }

    /// Updates every head on a batch that was `waited` for, on one pass of the encoder.
    fn update(&mut self, batch: &Batch, waited: Duration) -> Result<Pending> {
        let Ground { config, group, .. } = self.ground;
        let side = config.training.crop_size as i64;
        let count = batch.images.len() as i64;
        let bytes = upload(batch.images(), &[count, side, side, 3], group.device())?;
        let targets = self.ground.targets(batch, &[count, side, side])?;
        let images = guard(|| Ok(self.normalisation.apply(&bytes)))?;
        let maps = self.ground.maps(&images, &self.blocks)?;
        let share = Share {
            images_per_loss: self.plan.images_per_loss as i64,
            losses: self.plan.losses as i64,
        };
        let rates: Vec<f64> = self.schedules.iter().map(|one| one.rate(self.step)).collect();
        let mut numbers = Vec::new();
        for (number, trainer) in self.trainers.iter_mut().enumerate() {
            if self.failed_at[number].is_some() {
                numbers.push(None);
                continue;
            }
            let own = self.ground.maps_of(trainer, &maps, &self.blocks);
            numbers.push(Some(trainer.update(&own, &targets, share, rates[number], group)?));
        }
        let asked = f32::from(u8::from(signals::stop_requested().is_some()));
        let is_to_stop = upload(&[asked], &[1], group.device())?;
        group.max(&is_to_stop)?;
        Ok(Pending { step: self.step + 1, rate: rates[0], waited, numbers, is_to_stop })
    }

    /// Whether all ranks are to stop after an update, whose numbers are recorded.
    fn read(&mut self, pending: Pending, log: Option<&mut Log>) -> Result<bool> {
        let mut heads = Vec::new();
        for (number, numbers) in pending.numbers.iter().enumerate() {
            let (loss, norm) = match numbers {
                Some(numbers) => guard(|| numbers.read())?,
                None => (Some(f64::NAN), f64::NAN),
            };
            let name = self.trainers[number].name().to_string();
            self.skipped += u64::from(loss.is_none() && number == 0);
            let is_finite = loss.is_none_or(f64::is_finite) && norm.is_finite();
            if !is_finite && self.failed_at[number].is_none() {
                self.failed_at[number] = Some(pending.step);
                if self.ground.group.is_first() {
                    warn!(
                        step = pending.step,
                        "the loss of `{name}` is not finite: it is not trained further"
                    );
                }
            }
            let loss = loss.unwrap_or(f64::NAN);
            heads.push(TraineeMetrics { name, loss, terms: Vec::new(), grad_norm: norm });
        }
        if let Some(log) = log {
            log.step(self, &pending, heads)?;
        }
        guard(|| Ok(pending.is_to_stop.double_value(&[0]) > 0.0))
    }

    /// Whether a signal came between the end of an epoch and its test, which is then to be made up for. Rank
    /// 0 knows the figures that there are.
    fn owes_a_test(&self, log: Option<&Log>) -> Result<bool> {
        let ends_epoch = self.step > 0 && self.step.is_multiple_of(self.plan.updates_per_epoch);
        if !ends_epoch || self.trained().next().is_none() {
            return Ok(false);
        }
        self.ground.group.any(log.is_some_and(|log| !log.history.has(self.step)))
    }

    /// Tests the heads at the end of an epoch, where it is time to. True if a signal ended it; of several
    /// ranks all finish theirs, since each has images of its own.
    fn test(&mut self, test: &mut TestPass<'_>, log: Option<&mut Log>) -> Result<bool> {
        let Ground { config, group, .. } = self.ground;
        let epoch = self.step / self.plan.updates_per_epoch;
        if !epoch.is_multiple_of(config.test.every) && self.step < self.plan.updates {
            return Ok(false);
        }
        let _evaluating = group.enter(Activity::Evaluating);
        let phase = Phase::begin(&format!("test after epoch {epoch}"), Some(test.image_count()));
        let trained: Vec<&HeadTrainer> = self.trained().collect();
        let begun = Instant::now();
        let figures = test.run(&trained, &|_| {
            phase.advance(group.world_size() as u64);
            match signals::stop_requested().filter(|_| group.is_alone()) {
                Some(_) => Err(Interrupted.into()),
                None => Ok(()),
            }
        });
        phase.finish();
        let figures = match figures {
            Err(error) if error.is::<Interrupted>() => return Ok(true),
            other => other?,
        };
        if let Some(log) = log {
            info!(epoch, test_seconds = begun.elapsed().as_secs_f64(), "tested all heads");
            log.figures(self, epoch, figures)?;
        }
        Ok(false)
    }

    /// The heads that have not failed.
    fn trained(&self) -> impl Iterator<Item = &HeadTrainer> {
        let pairs = self.trainers.iter().zip(&self.failed_at);
        pairs.filter(|(_, failed)| failed.is_none()).map(|(trainer, _)| trainer)
    }

    /// Saves the state after the last update before the training ends with an error of its data, which then says
    /// so. Of several processes the others would wait for this one's updates.
    fn keep(
        &mut self,
        error: Error,
        pending: VecDeque<Pending>,
        mut log: Option<Log>,
        saver: &mut Saver,
    ) -> Error {
        let group = self.ground.group;
        if !group.is_alone() || self.step == 0 {
            return error;
        }
        let read = pending.into_iter().try_for_each(|one| self.read(one, log.as_mut()).map(|_| ()));
        let saved = read.and_then(|()| self.save(saver));
        match saved.and_then(|()| saver.finish(&|| group.check_failure())) {
            Ok(()) => anyhow!(
                "{error:#}; the state after update {} is saved: the same command goes on from there",
                self.step
            ),
            Err(failed) => {
                warn!("the last state could not be saved: {failed:#}");
                error
            }
        }
    }

    fn save(&self, saver: &mut Saver) -> Result<()> {
        let group = self.ground.group;
        let _saving = group.enter(Activity::Saving);
        group.synchronize()?;
        let trainees = self.trainers.iter().map(HeadTrainer::state).collect();
        let position = self.step * self.plan.losses * self.plan.images_per_loss;
        let snapshot = Snapshot { step: self.step, position, stream: &self.stream, trainees };
        saver.save(&snapshot, &|| group.check_failure())
    }
}

/// What rank 0 writes down and shows.
struct Log {
    run: RunLog,
    history: History,
    since: Instant,
}

impl Log {
    fn open(session: &Session<'_>) -> Result<Self> {
        let HeadsConfig { run, log, heads, training, .. } = session.ground.config;
        let names: Vec<String> = heads.iter().map(|head| head.name.clone()).collect();
        let steps = session.step..session.plan.updates;
        Ok(Self {
            run: RunLog::of_trainees(
                &run.dir,
                log,
                &names,
                steps,
                (training.global_batch_size, session.ground.group.device()),
            )?,
            history: History::open(paths::figures(&run.dir), session.step)?,
            since: Instant::now(),
        })
    }

    /// Records an update that was read now.
    fn step(
        &mut self,
        session: &Session<'_>,
        pending: &Pending,
        trainees: Vec<TraineeMetrics>,
    ) -> Result<()> {
        let seconds = self.since.elapsed().as_secs_f64();
        self.since = Instant::now();
        let Pending { step, rate, waited, .. } = *pending;
        let Plan { losses, images_per_loss, updates_per_epoch, updates, .. } = session.plan;
        let metrics = StepMetrics {
            step,
            epoch: step as f64 / updates_per_epoch as f64,
            learning_rate: rate,
            images_seen: step * losses * images_per_loss,
            images_per_second: f64::NAN,
            data_wait_seconds: waited.as_secs_f64(),
            exchange_wait_seconds: None,
            step_seconds: f64::NAN,
            trainees,
            peak_memory_bytes: PeakMemory::of(session.ground.group.device()).map(|peak| peak.held),
            failed_images: session.dataset.failure_counts().failed,
            device: None,
        };
        self.run.add(metrics, seconds, step == updates)
    }

    /// Records what a test pass found of the heads that have not failed.
    fn figures(&mut self, session: &Session<'_>, epoch: u64, found: Vec<Figures>) -> Result<()> {
        let step = session.step;
        let mut scalars = Vec::new();
        let mut lines = Vec::new();
        for (trainer, figures) in session.trained().zip(found) {
            let head = trainer.name();
            let shown: Vec<String> =
                figures.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
            info!(epoch, "test of `{head}`: {}", shown.join(", "));
            scalars.extend(
                figures.iter().map(|(name, value)| (format!("test/{head}/{name}"), *value)),
            );
            lines.push(EpochFigures { epoch, step, head: head.to_string(), figures });
        }
        self.history.add(lines)?;
        self.run.scalars(step, &scalars)?;
        self.since = Instant::now();
        Ok(())
    }

    fn finish(self, session: &Session<'_>) -> Vec<HeadResult> {
        self.run.finish();
        if session.skipped > 0 {
            warn!("{} updates changed nothing: no pixel of their targets counted", session.skipped);
        }
        let heads = session.trainers.iter().zip(&session.failed_at);
        heads.map(|(head, failed)| self.history.result(head.name(), *failed)).collect()
    }
}
