//! The training of heads: updates, test passes, checkpoints, until the last epoch or a signal.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow};
use tch::{Kind, Tensor};
use tracing::{info, warn};

use super::config::HeadConfig;
use super::ground::Ground;
use super::log::{Log, Update};
use super::outcome::HeadsOutcome;
use super::plan::Plan;
use super::test_pass::TestPass;
use crate::artifacts::{Stream, TraineeMetrics};
use crate::data::{Batch, Dataset, Loader};
use crate::dist::Activity;
use crate::eval::Interrupted;
use crate::eval::dense::{
    DptShape, HeadSchedule, HeadShape, HeadTrainer, Share, UpdateNumbers, feature_dim,
};
use crate::native::{guard, upload};
use crate::nn::Normalisation;
use crate::status;
use crate::train::checkpoint::{Checkpoint, Saver, Snapshot};
use crate::train::signals;
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
    /// The step that was saved last.
    saved: u64,
    /// Why this rank has no images any more.
    data_error: Option<Error>,
}

/// What ranks tell each other with an update: the greatest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Word {
    GoOn,
    Stop,
    /// A rank had no images: the update is void.
    Void,
}

/// An update whose numbers are not read yet.
struct Pending {
    step: u64,
    /// Rate of the first head.
    rate: f64,
    /// How long its batch was waited for.
    waited: Duration,
    numbers: Vec<Option<UpdateNumbers>>,
    /// The [`Word`] of all ranks.
    word: Tensor,
    /// The buffers of each head before the update.
    buffers: Vec<Vec<Tensor>>,
}

impl Pending {
    fn word(&self) -> Result<Word> {
        let found = guard(|| Ok(self.word.int64_value(&[0])))?;
        let mut words = [Word::GoOn, Word::Stop, Word::Void].into_iter();
        words.find(|word| *word as i64 == found).with_context(|| format!("no word is {found}"))
    }
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
    let steps = session.step..session.plan.updates;
    let open = || Log::open(config, session.plan, steps, ground.group.device());
    let log = is_first.then(open).transpose()?;
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
            saved: 0,
            data_error: None,
        })
    }

    fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        for trainer in &mut self.trainers {
            trainer.restore(checkpoint)?;
        }
        self.step = checkpoint.manifest.step;
        self.saved = self.step;
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
        let mut word = Word::GoOn;
        while self.step < self.plan.updates && word == Word::GoOn {
            saver.check()?;
            group.begin_step(self.step + 1);
            let waited = Instant::now();
            let batch = self.next_batch(&mut loader)?;
            pending.push_back(self.update(batch.as_ref(), waited.elapsed())?);
            self.step += 1;
            let ends_epoch = self.step.is_multiple_of(self.plan.updates_per_epoch);
            let every = self.ground.config.checkpoint.every;
            let is_due = ends_epoch || (every > 0 && self.step.is_multiple_of(every));
            // Read an update late, so that the device has the next one to do meanwhile.
            word = self.read_until(usize::from(!is_due), &mut pending, &mut log)?;
            if ends_epoch && word == Word::GoOn && self.test(test, log.as_mut())? {
                word = Word::Stop;
            }
            if is_due && word == Word::GoOn {
                log.as_mut().map_or(Ok(()), Log::before_save)?;
                self.save(saver)?;
            }
        }
        match word.max(self.read_until(0, &mut pending, &mut log)?) {
            Word::GoOn => {
                let names = self.trainers.iter().map(HeadTrainer::name);
                let heads = names.zip(self.failed_at.iter().copied());
                Ok(HeadsOutcome::Finished(
                    log.map_or(Vec::new(), |log| log.finish(self.skipped, heads)),
                ))
            }
            Word::Stop => {
                self.save(saver)?;
                Ok(HeadsOutcome::Stopped(self.step))
            }
            Word::Void => self.end_without_images(saver),
        }
    }

    /// The next batch. None if its images cannot be read, now or before: the other ranks learn of that
    /// with the update, which would else wait for this rank.
    fn next_batch(&mut self, loader: &mut Loader) -> Result<Option<Batch>> {
        if self.data_error.is_some() {
            return Ok(None);
        }
        self.wait_for(loader)?;
        match loader.next_batch() {
            Ok(batch) => Ok(Some(batch.context("the stream of batches ended early")?)),
            Err(error) => {
                self.data_error = Some(error);
                Ok(None)
            }
        }
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

    /// Updates every head on a batch that was `waited` for, on one pass of the encoder. Without a batch it
    /// takes its part in what the ranks do together, and nothing is learned.
    fn update(&mut self, batch: Option<&Batch>, waited: Duration) -> Result<Pending> {
        let Ground { config, group, .. } = self.ground;
        let side = config.training.crop_size as i64;
        let (rank, world_size) = (group.rank() as u64, group.world_size() as u64);
        let range = self.plan.range(self.step, rank, world_size);
        let count = (range.end - range.start) as i64;
        let shape = [count, side, side, 3];
        let bytes = match batch {
            Some(batch) => upload(batch.images(), &shape, group.device())?,
            None => guard(|| Ok(Tensor::zeros(shape, (Kind::Uint8, group.device()))))?,
        };
        let targets = self.ground.targets(batch, &[count, side, side])?;
        let images = guard(|| Ok(self.normalisation.apply(&bytes)))?;
        let maps = self.ground.maps(&images, &self.blocks)?;
        let share = Share {
            images_per_loss: self.plan.images_per_loss as i64,
            losses: self.plan.losses as i64,
            is_void: batch.is_none(),
        };
        let buffers = self.trainers.iter().map(HeadTrainer::buffers).collect::<Result<_>>()?;
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
        let word = match batch {
            None => Word::Void,
            Some(_) if signals::stop_requested().is_some() => Word::Stop,
            Some(_) => Word::GoOn,
        };
        let word = upload(&[word as i64], &[1], group.device())?;
        group.max(&word)?;
        Ok(Pending { step: self.step + 1, rate: rates[0], waited, numbers, word, buffers })
    }

    /// Reads and records the numbers of updates until `left` of them are unread. A void one is taken back,
    /// with those after it, which are void, too.
    fn read_until(
        &mut self,
        left: usize,
        pending: &mut VecDeque<Pending>,
        log: &mut Option<Log>,
    ) -> Result<Word> {
        let mut word = Word::GoOn;
        while pending.len() > left
            && let Some(one) = pending.pop_front()
        {
            let said = one.word()?;
            word = word.max(said);
            if said == Word::Void {
                self.take_back(one, pending)?;
                break;
            }
            self.read(&one, log.as_mut())?;
        }
        Ok(word)
    }

    /// Goes back to before the void update `first`, and those `after` it.
    fn take_back(&mut self, first: Pending, after: &mut VecDeque<Pending>) -> Result<()> {
        let Pending { step, buffers, .. } = &first;
        self.step = step - 1;
        for (number, (trainer, buffers)) in self.trainers.iter_mut().zip(buffers).enumerate() {
            let void = std::iter::once(&first).chain(after.iter());
            let updates = void.filter(|update| update.numbers[number].is_some()).count();
            trainer.take_back(updates as u64, buffers)?;
        }
        after.clear();
        Ok(())
    }

    /// Records the numbers of an update.
    fn read(&mut self, pending: &Pending, log: Option<&mut Log>) -> Result<()> {
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
            let Pending { step, rate, waited, .. } = *pending;
            let failed_images = self.dataset.failure_counts().failed;
            log.step(Update { step, rate, waited, failed_images }, heads)?;
        }
        Ok(())
    }

    /// Whether a signal came between the end of an epoch and its test, which is then to be made up for. Rank
    /// 0 knows the figures that there are.
    fn owes_a_test(&self, log: Option<&Log>) -> Result<bool> {
        let ends_epoch = self.step > 0 && self.step.is_multiple_of(self.plan.updates_per_epoch);
        if !ends_epoch || self.trained().next().is_none() {
            return Ok(false);
        }
        self.ground.group.any(log.is_some_and(|log| !log.has_figures(self.step)))
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
            let names = self.trained().map(|head| head.name().to_string());
            log.figures(self.step, epoch, names.zip(figures).collect())?;
        }
        Ok(false)
    }

    /// The heads that have not failed.
    fn trained(&self) -> impl Iterator<Item = &HeadTrainer> {
        let pairs = self.trainers.iter().zip(&self.failed_at);
        pairs.filter(|(_, failed)| failed.is_none()).map(|(trainer, _)| trainer)
    }

    /// Saves the state after the last update that counts, where some rank has no images any more. That rank
    /// ends with its error, for which the others wait.
    fn end_without_images(&mut self, saver: &mut Saver) -> Result<HeadsOutcome> {
        let group = self.ground.group;
        let saved = match self.saved == self.step {
            true => Ok(()),
            false => self.save(saver).and_then(|()| saver.finish(&|| group.check_failure())),
        };
        let Some(error) = self.data_error.take() else {
            return saved.and_then(|()| {
                group.await_reason()?;
                Ok(HeadsOutcome::Stopped(self.step))
            });
        };
        match saved {
            Ok(()) if self.step > 0 => Err(anyhow!(
                "{error:#}; the state after update {} is saved: the same command goes on from there",
                self.step
            )),
            Ok(()) => Err(error),
            Err(failed) => {
                warn!("the last state could not be saved: {failed:#}");
                Err(error)
            }
        }
    }

    fn save(&mut self, saver: &mut Saver) -> Result<()> {
        let group = self.ground.group;
        let _saving = group.enter(Activity::Saving);
        group.synchronize()?;
        let trainees = self.trainers.iter().map(HeadTrainer::state).collect();
        let position = self.step * self.plan.losses * self.plan.images_per_loss;
        let snapshot = Snapshot { step: self.step, position, stream: &self.stream, trainees };
        let alive = || group.check_failure();
        // Heads are small.
        saver.save(&snapshot, &alive)?.wait(&alive)?;
        self.saved = self.step;
        Ok(())
    }
}
