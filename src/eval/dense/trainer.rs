//! [`HeadTrainer`]: a head, its optimizer, and one update of it.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use super::heads::{Head, HeadKind, HeadShape, Pass, enlarge};
use super::task::{DenseLoss, DenseTask};
use crate::config::OptimizerConfig;
use crate::dist::ProcessGroup;
use crate::native::{exact_convolutions, guard};
use crate::nn::{Parameters, Storage};
use crate::train::checkpoint::{Checkpoint, StateTensor, TraineeState};
use crate::train::objective::Trainee;
use crate::train::optimizer::AdamW;

/// A head that is trained.
pub struct HeadTrainer {
    kind: HeadKind,
    task: DenseTask,
    head: Box<dyn Head>,
    /// What is updated.
    trainee: Trainee,
    /// What is kept as it is: parameters that the head has and does not use.
    unused: Parameters,
    optimizer: AdamW,
    compute: Kind,
}

/// A rank's part of a global batch, as its losses are averaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Images whose pixels make one loss together.
    pub images_per_loss: i64,
    /// Losses of the global batch, of all ranks.
    pub losses: i64,
    /// Whether a rank's images stand in for those that it could not read: then the update changes no
    /// parameter of any rank.
    pub is_void: bool,
}

/// What an update says, on the device: `[3]` float32. To be read when the device is there.
pub struct UpdateNumbers(Tensor);

impl UpdateNumbers {
    /// The mean loss of the batch, or none if no pixel of it counts, and the norm of its gradient.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn read(&self) -> Result<(Option<f64>, f64)> {
        let numbers = Vec::<f64>::try_from(self.0.f_to_kind(Kind::Double)?)?;
        let [loss, counted, norm] = numbers[..] else { unreachable!("there are three") };
        Ok(((counted > 0.0).then(|| loss / counted), norm))
    }
}

impl HeadTrainer {
    /// A head of initial values drawn under `(seed, rng_stream)` on `device`; `optimizer` decays all
    /// of its tensors alike. Convolutions run in `compute`, float32 ones exactly on a GPU too.
    pub fn new(
        (name, kind): (&str, HeadKind),
        (task, shape): (DenseTask, &HeadShape),
        optimizer: &OptimizerConfig,
        (seed, rng_stream): (u64, u64),
        device: Device,
        compute: Kind,
    ) -> Self {
        if compute == Kind::Float {
            exact_convolutions().unwrap_or_else(|error| panic!("libtorch: {error:#}"));
        }
        let storage = Storage::Drawn { device, matrices: Kind::Float, seed, rng_stream };
        let mut parameters = Parameters::new(storage);
        let head = kind.build(&mut parameters, shape);
        let unused = parameters.split_off(|name| kind.is_unused(name));
        parameters.train();
        let optimizer = AdamW::decaying_all(&parameters, optimizer);
        let trainee = Trainee { name: name.to_string(), parameters };
        Self { kind, task, head, trainee, unused, optimizer, compute }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.trainee.name
    }

    /// Its kind.
    pub fn kind(&self) -> HeadKind {
        self.kind
    }

    /// The head alone.
    pub fn head(&self) -> &dyn Head {
        &*self.head
    }

    /// All its tensors by name, sharing memory: parameters, those that are not used, and state.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        let mut tensors = self.trainee.parameters.shared();
        tensors.extend(self.unused.shared());
        tensors.extend(self.head.buffers());
        tensors
    }

    /// The gradients of the last [`Self::backward`], by name.
    pub fn gradients(&self) -> Vec<(String, Tensor)> {
        let named = self.trainee.parameters.named().iter();
        named.map(|(name, tensor)| (name.clone(), tensor.grad())).collect()
    }

    /// The prediction at every pixel of images of `size`: metres `[B, H, W]` or logits `[B, K, H, W]`.
    ///
    /// # Errors
    /// Another rank failed.
    pub fn predict(&self, maps: &[Tensor], size: [i64; 2], pass: Pass<'_>) -> Result<Tensor> {
        let output = self.head.output(maps, pass, self.compute)?;
        Ok(self.task.prediction(&enlarge(&output, size)))
    }

    /// What is added up over windows of `size`, `[N, K, H, W]`; see [`DenseTask::score`].
    ///
    /// # Errors
    /// libtorch fails.
    pub fn score(&self, maps: &[Tensor], size: [i64; 2]) -> Result<Tensor> {
        tch::no_grad(|| {
            let output = self.head.output(maps, Pass::Test, self.compute)?;
            guard(|| Ok(self.task.score(&enlarge(&output, size))))
        })
    }

    /// One update at `rate`, given the maps `[b, C, h, w]` and the targets `[b, H, W]` of this rank's
    /// part of the global batch. Losses are means over the pixels of `share.images_per_loss` images
    /// each, and the gradient is that of their mean; so it is the same for any number of ranks. A batch
    /// of which no pixel counts, or whose gradient is not finite, changes
    /// nothing but [buffers](Self::buffers) and the number of updates.
    ///
    /// # Errors
    /// Another rank failed, or the device has no memory left.
    pub fn update(
        &mut self,
        maps: &[Tensor],
        target: &Tensor,
        share: Share,
        rate: f64,
        group: &ProcessGroup,
    ) -> Result<UpdateNumbers> {
        let sums = self.backward(maps, target, share, group)?;
        if share.is_void {
            let gradients = self.gradients();
            guard(|| Ok(gradients.into_iter().for_each(|(_, mut one)| _ = one.fill_(f64::NAN))))?;
        }
        self.sum_gradients(&sums, group)?;
        let norm = self.optimizer.gradient_norm(true)?;
        let (skip, numbers) = guard(|| {
            let changes_nothing = sums.get(1).eq(0.0).logical_or(&norm.isfinite().logical_not());
            let numbers = Tensor::cat(&[sums, norm.view([1])], 0);
            Ok((changes_nothing.to_kind(Kind::Float), numbers))
        })?;
        self.optimizer.update(rate, &norm, &skip)?;
        Ok(UpdateNumbers(numbers))
    }

    /// Leaves this rank's share of the gradient; gives the sum of its losses that count, and their
    /// number: `[2]`.
    pub fn backward(
        &self,
        maps: &[Tensor],
        target: &Tensor,
        share: Share,
        group: &ProcessGroup,
    ) -> Result<Tensor> {
        let images = target.size()[0];
        let size = [target.size()[1], target.size()[2]];
        let mut sums = guard(|| Ok(Tensor::zeros([2], (Kind::Float, target.device()))))?;
        // A norm over the batch needs all images at once; else memory is that of one loss.
        let at_once = if self.head.joins_images() { images } else { share.images_per_loss };
        for first in (0..images).step_by(at_once.max(1) as usize) {
            let count = at_once.min(images - first);
            let part: Vec<Tensor> = maps.iter().map(|map| map.narrow(0, first, count)).collect();
            let output = self.head.output(&part, Pass::Training(group), self.compute)?;
            guard(|| {
                let total = self.losses(&output, &target.narrow(0, first, count), size, share);
                let (loss, found) = total;
                (loss / share.losses as f64).backward();
                sums += found;
                Ok(())
            })?;
        }
        Ok(sums)
    }

    /// The sum of the losses of some images, and `[2]`: that of those that count, and their number.
    fn losses(
        &self,
        output: &Tensor,
        target: &Tensor,
        size: [i64; 2],
        share: Share,
    ) -> (Tensor, Tensor) {
        let images = target.size()[0];
        let mut values = Vec::new();
        let mut counts = Vec::new();
        for first in (0..images).step_by(share.images_per_loss.max(1) as usize) {
            let count = share.images_per_loss.min(images - first);
            let enlarged = enlarge(&output.narrow(0, first, count), size);
            let prediction = self.task.prediction(&enlarged);
            let DenseLoss { value, counts: one } =
                self.task.loss(&prediction, &target.narrow(0, first, count));
            values.push(value);
            counts.push(one);
        }
        let [value, counts] =
            [values, counts].map(|scalars| Tensor::stack(&scalars, 0).sum(Kind::Float));
        let found = Tensor::stack(&[value.detach(), counts], 0);
        (value, found)
    }

    /// Has every rank hold the sums over all ranks of gradients and of `sums`.
    fn sum_gradients(&self, sums: &Tensor, group: &ProcessGroup) -> Result<()> {
        if group.is_alone() {
            return Ok(());
        }
        let named = self.trainee.parameters.named();
        let gradients: Vec<Tensor> = named.iter().map(|(_, tensor)| tensor.grad()).collect();
        let all: Vec<&Tensor> = gradients.iter().chain([sums]).collect();
        let flat = guard(|| {
            Ok(Tensor::cat(&all.iter().map(|tensor| tensor.flatten(0, -1)).collect::<Vec<_>>(), 0))
        })?;
        group.sum(&flat)?;
        guard(|| {
            let mut first = 0;
            for tensor in all {
                let count = tensor.numel() as i64;
                let summed = flat.narrow(0, first, count).view_as(tensor);
                tensor.shallow_clone().f_copy_(&summed)?;
                first += count;
            }
            Ok(())
        })
    }

    /// Copies of its state that is no parameter.
    ///
    /// # Errors
    /// The device has no memory left.
    pub fn buffers(&self) -> Result<Vec<Tensor>> {
        guard(|| Ok(self.head.buffers().iter().map(|(_, tensor)| tensor.copy()).collect()))
    }

    /// Does not count its last `updates`, which were void, and has the `buffers` from before them.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn take_back(&mut self, updates: u64, buffers: &[Tensor]) -> Result<()> {
        self.optimizer.take_back(updates);
        let own = self.head.buffers();
        guard(|| {
            own.into_iter().zip(buffers).try_for_each(|((_, to), from)| {
                to.shallow_clone().f_copy_(from)?;
                Ok(())
            })
        })
    }

    /// What a checkpoint holds of it; see [`AdamW::state_of`].
    pub fn state(&self) -> TraineeState {
        let mut state = self.optimizer.state_of(&self.trainee);
        let whole = |(name, tensor)| StateTensor { name, tensor, part: None };
        state.weights.extend(self.unused.shared().into_iter().map(whole));
        state.weights.extend(self.head.buffers().into_iter().map(whole));
        state
    }

    /// Goes on from what a checkpoint holds of it.
    ///
    /// # Errors
    /// It holds no such head.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let state = self.state();
        self.optimizer.restore_state(&state, checkpoint)
    }
}
