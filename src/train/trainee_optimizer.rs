//! One trainee's optimizer, with the exchange of its gradients between processes.

use anyhow::Result;
use tch::Tensor;

use super::clock::{Phase, StepClock, Telling};
use super::optimizer::AdamW;
use crate::config::{Precision, TrainConfig};
use crate::dist::{GradientExchange, ProcessGroup};
use crate::native::c10d::{ExchangeOptions, ExchangeStatistics};
use crate::native::guard;
use crate::train::objective::{StepHooks, Trainee};

/// One trainee's exchange and optimizer.
pub struct TraineeOptimizer {
    name: String,
    exchange: GradientExchange,
    optimizer: AdamW,
    /// Each process updates its share of the weights.
    sharded: bool,
}

impl TraineeOptimizer {
    /// The optimizer before the first step.
    pub fn new(group: &ProcessGroup, trainee: &Trainee, config: &TrainConfig) -> Result<Self> {
        let named = trainee.parameters.trained();
        let tensors: Vec<Tensor> = named.iter().map(|(_, t)| t.shallow_clone()).collect();
        let distributed = &config.distributed;
        let sharded = distributed.shard_optimizer && !group.is_alone();
        let options = ExchangeOptions {
            bucket_bytes: (distributed.bucket_megabytes * f64::from(1 << 20)) as usize,
            bfloat16: distributed.gradient_precision == Precision::Bf16,
            scatter: sharded,
        };
        let mut exchange = GradientExchange::new(group, &tensors, options)?;
        let shares = if sharded { exchange.divide(group, &tensors)? } else { None };
        let mut optimizer = AdamW::new(&trainee.parameters, &config.optimizer, shares);
        if !group.is_alone() {
            optimizer.keep_gradients();
        }
        Ok(Self { name: trainee.name.clone(), exchange, optimizer, sharded })
    }

    pub fn optimizer(&self) -> &AdamW {
        &self.optimizer
    }

    pub fn optimizer_mut(&mut self) -> &mut AdamW {
        &mut self.optimizer
    }

    /// What was sent of gradients so far.
    pub fn statistics(&self) -> ExchangeStatistics {
        self.exchange.statistics()
    }

    /// Whether [`Self::squared_norm`] is one part of several.
    pub fn is_sharded(&self) -> bool {
        self.sharded
    }

    /// Waits for the gradients of the last backward pass, and returns for how long.
    pub fn receive_gradients(&self, group: &ProcessGroup) -> Result<()> {
        self.exchange.finish(group)
    }

    /// The square of the gradient's norm, or this process's part of it: a scalar on the device.
    pub fn squared_norm(&self, group: &ProcessGroup) -> Result<Tensor> {
        let norm = self.optimizer.gradient_norm(group.is_first())?;
        guard(|| Ok(norm.square()))
    }

    /// Updates the weights, given the norm of the whole gradient, unless `skip` is 1 on the device.
    pub fn update(
        &mut self,
        group: &ProcessGroup,
        learning_rate: f64,
        norm: &Tensor,
        skip: &Tensor,
    ) -> Result<()> {
        self.optimizer.update(learning_rate, norm, skip)?;
        self.exchange.begin_gathering(group)
    }

    /// Waits until the device holds the weights that other processes updated.
    pub fn settle_weights(&mut self, group: &ProcessGroup) -> Result<()> {
        self.exchange.settle_weights(group)
    }

    /// Makes what is queued next wait for the weights that other processes updated.
    pub fn receive_weights(&mut self, group: &ProcessGroup) -> Result<()> {
        self.exchange.finish_gathering(group)
    }
}

/// The optimizers while the passes of one batch run.
pub struct TraineeHooks<'a> {
    pub group: &'a ProcessGroup,
    pub optimizers: &'a mut [TraineeOptimizer],
    /// Whether this batch is the step's last, whose backward passes exchange gradients.
    pub is_last: bool,
    pub clock: Option<&'a mut StepClock>,
    /// The phase that the host tells the device of.
    pub telling: Option<Telling>,
}

impl TraineeHooks<'_> {
    fn begin(&mut self, phase: Phase) -> Result<()> {
        // The phase before ends first.
        self.telling = None;
        self.telling = Some(phase.tell(|trainee| &self.optimizers[trainee].name));
        self.clock.as_mut().map_or(Ok(()), |clock| clock.begin(phase))
    }
}

impl StepHooks for TraineeHooks<'_> {
    fn before_targets(&mut self) -> Result<()> {
        self.begin(Phase::Targets)
    }

    fn before_forward(&mut self, trainee: usize) -> Result<()> {
        self.begin(Phase::Forward(trainee))?;
        self.optimizers[trainee].receive_weights(self.group)
    }

    fn before_backward(&mut self, trainee: usize) -> Result<()> {
        self.begin(Phase::Backward(trainee))?;
        if self.is_last { self.optimizers[trainee].exchange.expect() } else { Ok(()) }
    }
}
