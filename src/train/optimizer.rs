//! AdamW over one trainee's parameters.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use super::state::StateTensor;
use crate::config::OptimizerConfig;
use crate::model::Parameters;
use crate::native::{self, AdamWStep};

/// Name of the number of updates in [`AdamW::state`].
pub const UPDATES: &str = "updates";

/// Parameters that share a weight decay, with their moments in the same order.
struct Group {
    weight_decay: f64,
    parameters: Vec<Tensor>,
    first_moments: Vec<Tensor>,
    second_moments: Vec<Tensor>,
}

/// AdamW (Loshchilov & Hutter, 2019) whose weight decay spares tensors of at most one dimension.
pub struct AdamW {
    groups: Vec<Group>,
    /// Parameter names of each group, in its order.
    names: Vec<Vec<String>>,
    /// Updates done.
    updates: u64,
    device: Device,
    config: OptimizerConfig,
}

impl AdamW {
    /// An optimizer that has done no update yet.
    pub fn new(parameters: &Parameters, config: &OptimizerConfig) -> Self {
        let (mut groups, mut names) = (Vec::new(), Vec::new());
        for decays in [false, true] {
            let members = || {
                parameters.named().iter().filter(move |(_, tensor)| (tensor.dim() > 1) == decays)
            };
            groups.push(Group {
                weight_decay: if decays { config.weight_decay } else { 0.0 },
                parameters: members().map(|(_, tensor)| tensor.shallow_clone()).collect(),
                first_moments: members().map(|(_, tensor)| zeros_like(tensor)).collect(),
                second_moments: members().map(|(_, tensor)| zeros_like(tensor)).collect(),
            });
            names.push(members().map(|(name, _)| name.clone()).collect());
        }
        let device = parameters.named()[0].1.device();
        Self { groups, names, updates: 0, device, config: config.clone() }
    }

    /// The norm of all gradients together, before clipping: a scalar on the device.
    ///
    /// # Errors
    /// libtorch's message.
    pub fn gradient_norm(&self) -> Result<Tensor> {
        native::gradient_norm(&self.gradients())
    }

    /// Clips to the configured norm (`norm` is what [`Self::gradient_norm`] gave), updates every
    /// parameter, and forgets the gradients.
    ///
    /// # Errors
    /// libtorch's message.
    pub fn update(&mut self, learning_rate: f64, norm: &Tensor) -> Result<()> {
        if let Some(limit) = self.config.clip_grad_norm {
            let factor = tch::no_grad(|| (limit / (norm + 1e-6)).clamp_max(1.0));
            native::scale_gradients(&self.gradients(), &factor)?;
        }
        self.updates += 1;
        let step = Tensor::from(self.updates as f32).to_device(self.device);
        for group in &self.groups {
            let gradients: Vec<Tensor> = group.parameters.iter().map(Tensor::grad).collect();
            native::fused_adamw(
                &group.parameters,
                &gradients,
                &group.first_moments,
                &group.second_moments,
                &step,
                AdamWStep {
                    learning_rate,
                    betas: self.config.betas,
                    eps: self.config.eps,
                    weight_decay: group.weight_decay,
                },
            )?;
            native::clear_gradients(&group.parameters)?;
        }
        Ok(())
    }

    fn gradients(&self) -> Vec<Tensor> {
        self.groups.iter().flat_map(|group| &group.parameters).map(Tensor::grad).collect()
    }

    /// What a checkpoint must hold beside the weights: both moments of every parameter and the
    /// number of updates ([`UPDATES`]). The moments share memory with the optimizer's own.
    pub fn state(&self) -> Vec<StateTensor> {
        let whole = |name, tensor| StateTensor { name, tensor, part: None };
        let mut state = vec![whole(UPDATES.to_string(), Tensor::from(self.updates as f64))];
        for (group, names) in self.groups.iter().zip(&self.names) {
            for (index, name) in names.iter().enumerate() {
                for (kind, moments) in
                    [("first", &group.first_moments), ("second", &group.second_moments)]
                {
                    let name = format!("{kind}_moment.{name}");
                    state.push(whole(name, moments[index].shallow_clone()));
                }
            }
        }
        state
    }

    /// Says that the moments behind [`Self::state`] were overwritten by those after `updates`.
    pub fn set_updates(&mut self, updates: u64) {
        self.updates = updates;
    }
}

fn zeros_like(tensor: &Tensor) -> Tensor {
    Tensor::zeros(tensor.size(), (Kind::Float, tensor.device()))
}
