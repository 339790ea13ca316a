//! AdamW over one trainee's parameters, or over this process's shares of them.

use std::ops::Range;

use anyhow::{Context, Result};
use tch::{Device, Kind, Tensor};

use super::checkpoint::{Checkpoint, Part, StateTensor, TraineeState};
use super::objective::Trainee;
use crate::config::OptimizerConfig;
use crate::dist::Share;
use crate::native::{self, AdamWStep, guard};
use crate::nn::Parameters;

/// Name of the number of updates in an optimizer's state.
const UPDATES: &str = "updates";

/// What is updated together: parameters, or parts of them, that share a weight decay.
#[derive(Default)]
struct Group {
    weight_decay: f64,
    members: Vec<Member>,
    /// What is updated, and its moments, in the order of `members`.
    weights: Vec<Tensor>,
    first_moments: Vec<Tensor>,
    second_moments: Vec<Tensor>,
}

/// Where a group's weights belong.
struct Member {
    name: String,
    parameter: Tensor,
    /// Which of the flattened parameter's numbers; none for all of them.
    range: Option<Range<i64>>,
    /// Other processes update the same numbers, and rank 0 counts their gradient.
    common: bool,
}

/// AdamW (Loshchilov & Hutter, 2019). Unless told otherwise its weight decay spares tensors of at most
/// one dimension.
pub struct AdamW {
    groups: [Group; 2],
    parameters: Vec<Tensor>,
    /// Gradients keep their memory, which belongs to their exchange.
    gradients_stay: bool,
    /// Updates done.
    updates: u64,
    device: Device,
    config: OptimizerConfig,
}

impl AdamW {
    /// An optimizer that has done no update yet. With `shares` it updates these only, and the other
    /// processes' shares must be gathered.
    pub fn new(
        parameters: &Parameters,
        config: &OptimizerConfig,
        shares: Option<Vec<Share>>,
    ) -> Self {
        Self::with_decay(parameters, config, shares, |parameter| parameter.dim() > 1)
    }

    /// One whose weight decay spares no tensor.
    pub fn decaying_all(parameters: &Parameters, config: &OptimizerConfig) -> Self {
        Self::with_decay(parameters, config, None, |_| true)
    }

    fn with_decay(
        parameters: &Parameters,
        config: &OptimizerConfig,
        shares: Option<Vec<Share>>,
        decays: fn(&Tensor) -> bool,
    ) -> Self {
        let named = parameters.trained();
        let mut groups = [0.0, config.weight_decay]
            .map(|weight_decay| Group { weight_decay, ..Group::default() });
        let whole = || {
            let member = |(name, tensor): &(String, Tensor)| {
                let member = Member {
                    name: name.clone(),
                    parameter: tensor.shallow_clone(),
                    range: None,
                    common: false,
                };
                (member, tensor.shallow_clone())
            };
            named.iter().map(member).collect::<Vec<_>>()
        };
        let part = |share: Share| {
            let (name, tensor) = &named[share.parameter];
            let (parameter, range) = (tensor.shallow_clone(), Some(share.range));
            (Member { name: name.clone(), parameter, range, common: share.common }, share.weights)
        };
        let members = shares.map_or_else(whole, |shares| shares.into_iter().map(part).collect());
        for (member, weights) in members {
            let group = &mut groups[usize::from(decays(&member.parameter))];
            group.first_moments.push(zeros_like(&weights));
            group.second_moments.push(zeros_like(&weights));
            group.weights.push(weights);
            group.members.push(member);
        }
        let device = named[0].1.device();
        let parameters = named.iter().map(|(_, tensor)| tensor.shallow_clone()).collect();
        Self {
            groups,
            parameters,
            gradients_stay: false,
            updates: 0,
            device,
            config: config.clone(),
        }
    }

    /// The norm of the gradients of what this optimizer updates, before clipping, a scalar on the
    /// device. Of numbers that several processes update, only `counts_common` counts them.
    pub fn gradient_norm(&self, counts_common: bool) -> Result<Tensor> {
        let members = self.groups.iter().flat_map(|group| &group.members);
        let counted = members.filter(|member| counts_common || !member.common);
        let gradients = counted.map(Member::gradient).collect::<Result<Vec<_>>>()?;
        if gradients.is_empty() {
            return guard(|| Ok(Tensor::zeros([], (Kind::Float, self.device))));
        }
        native::gradient_norm(&gradients)
    }

    /// Clips to the configured norm (`norm` is that of the whole gradient), updates unless `skip`
    /// is 1 on the device, and forgets the gradients, or sets them to zero.
    pub fn update(&mut self, learning_rate: f64, norm: &Tensor, skip: &Tensor) -> Result<()> {
        self.updates += 1;
        // Filled on the device: a copy from the host would wait for it.
        let step = guard(|| Ok(Tensor::full([], self.updates as f64, (Kind::Float, self.device))))?;
        for group in self.groups.iter().filter(|group| !group.members.is_empty()) {
            let gradients =
                group.members.iter().map(Member::gradient).collect::<Result<Vec<_>>>()?;
            if let Some(limit) = self.config.clip_grad_norm {
                let factor = tch::no_grad(|| (limit / (norm + 1e-6)).clamp_max(1.0));
                native::scale_gradients(&gradients, &factor)?;
            }
            native::fused_adamw(
                &group.weights,
                &gradients,
                &group.first_moments,
                &group.second_moments,
                &step,
                skip,
                AdamWStep {
                    learning_rate,
                    betas: self.config.betas,
                    eps: self.config.eps,
                    weight_decay: group.weight_decay,
                },
            )?;
        }
        match self.gradients_stay {
            true => native::zero_gradients(&self.parameters),
            false => native::clear_gradients(&self.parameters),
        }
    }

    /// Does not count the last `updates`, which were skipped.
    pub fn take_back(&mut self, updates: u64) {
        self.updates -= updates;
    }

    /// From here on updates set gradients to zero instead of giving their memory back.
    pub fn keep_gradients(&mut self) {
        self.gradients_stay = true;
    }

    /// What a checkpoint holds of `trainee`, which this optimizer updates. The tensors share memory
    /// with the weights and moments that are trained.
    pub fn state_of(&self, trainee: &Trainee) -> TraineeState {
        let whole = |(name, tensor)| StateTensor { name, tensor, part: None };
        TraineeState {
            name: trainee.name.clone(),
            weights: trainee.parameters.shared().into_iter().map(whole).collect(),
            optimizer: self.state(),
        }
    }

    /// Overwrites the weights of `trainee` and this optimizer's state with the saved ones.
    ///
    /// # Errors
    /// The trainee is not one of the checkpoint, in name or shapes.
    pub fn restore(&mut self, trainee: &Trainee, checkpoint: &Checkpoint) -> Result<()> {
        self.restore_state(&self.state_of(trainee), checkpoint)
    }

    /// As [`Self::restore`], of `state`, which is [`Self::state_of`] with perhaps more weights.
    ///
    /// # Errors
    /// Those of [`Self::restore`].
    pub fn restore_state(&mut self, state: &TraineeState, checkpoint: &Checkpoint) -> Result<()> {
        checkpoint.fill(state)?;
        let updates = state.optimizer.iter().find(|tensor| tensor.name == UPDATES);
        let updates = updates.context("an optimizer counts its updates")?;
        self.updates = updates.tensor.f_double_value(&[])? as u64;
        Ok(())
    }

    /// Both moments of everything that this process updates, and the number of updates, which comes
    /// first. The moments share memory with the optimizer's own.
    pub fn state(&self) -> Vec<StateTensor> {
        let updates = Tensor::from(self.updates as f64);
        let mut state =
            vec![StateTensor { name: UPDATES.to_string(), tensor: updates, part: None }];
        for group in &self.groups {
            for (index, member) in group.members.iter().enumerate() {
                for (kind, moments) in
                    [("first", &group.first_moments), ("second", &group.second_moments)]
                {
                    let part = member
                        .range
                        .as_ref()
                        .map(|range| Part { start: range.start, whole: member.parameter.size() });
                    let name = format!("{kind}_moment.{}", member.name);
                    state.push(StateTensor { name, tensor: moments[index].shallow_clone(), part });
                }
            }
        }
        state
    }
}

impl Member {
    fn gradient(&self) -> Result<Tensor> {
        let gradient = self.parameter.grad();
        match &self.range {
            None => Ok(gradient),
            Some(range) => {
                guard(|| Ok(gradient.view([-1]).narrow(0, range.start, range.end - range.start)))
            }
        }
    }
}

fn zeros_like(tensor: &Tensor) -> Tensor {
    Tensor::zeros(tensor.size(), (Kind::Float, tensor.device()))
}
