//! What lies between products, by our own kernels or by libtorch's operators.

use std::sync::Once;

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use crate::native::{
    BranchGradient, JoinGradients, Joined, Joining, RoundedRows, RowNorm, TrainingKernels,
    layer_norm_backward, training_kernels_fit,
};
use crate::nn::activation::Activation;
use crate::nn::drop_path::BranchPath;
use crate::nn::fp8::{fits_fp8, rounded_rows};
use crate::nn::layers::LayerNorm;

/// How the numbers between products are computed.
#[derive(Clone, Copy)]
pub(in crate::nn) struct Junction {
    kernels: Option<&'static TrainingKernels>,
    /// The kind of products.
    pub compute: Kind,
    /// Products with at least so many weights are in FP8.
    fp8: Option<usize>,
}

/// Where a branch is added, and the norm behind: what a backward pass needs beside activations.
pub(super) struct Join {
    /// The way of the branch that is added, and for how many images it is.
    pub added: Option<(BranchPath, i64)>,
    /// The way of the branch that follows.
    pub next: BranchPath,
    /// Weight and bias, `[D]`, without history.
    pub norm: [Tensor; 2],
    pub eps: f64,
}

/// Numbers that a product takes, and the same in e4m3 where there is someone who takes that.
pub(super) struct Operand {
    /// `[..., from]`.
    pub numbers: Tensor,
    pub rounded: Option<RoundedRows>,
}

impl Join {
    pub(super) fn new(
        added: Option<(BranchPath, i64)>,
        next: BranchPath,
        norm: &LayerNorm,
    ) -> Self {
        let of_norm = [&norm.weight, &norm.bias].map(Tensor::detach);
        Self { added, next, norm: of_norm, eps: norm.eps }
    }
}

impl Junction {
    /// For tokens of width `dim` on `device` and products in `compute`: by kernels where that can be. In bf16
    /// products with at least `fp8` weights are in FP8.
    pub(in crate::nn) fn new(
        device: Device,
        compute: Kind,
        [dim, hidden]: [usize; 2],
        fp8: Option<usize>,
    ) -> Self {
        static WARNED: Once = Once::new();
        let is_bf16 = compute == Kind::BFloat16;
        let fp8 = fp8.filter(|_| is_bf16);
        let fits = training_kernels_fit(dim) && hidden.is_multiple_of(8);
        if !device.is_cuda() || !is_bf16 || !fits {
            return Self { kernels: None, compute, fp8 };
        }
        let kernels = TrainingKernels::of(device).inspect_err(|why| {
            WARNED.call_once(|| {
                tracing::warn!("blocks are trained without kernels of their own, slower: {why}");
            });
        });
        Self { kernels: kernels.ok(), compute, fp8 }
    }

    /// Whether products with a weight are in FP8.
    fn takes_fp8(&self, weight: &Tensor) -> bool {
        self.fp8.is_some_and(|least| fits_fp8(weight, least))
    }

    /// Adds `branch` to `residual` `[B, T, D]` float32, if there is one, and normalises the sum as a product with
    /// `weight` takes it.
    pub(super) fn join(
        &self,
        join: &Join,
        residual: &Tensor,
        branch: Option<&Tensor>,
        weight: &Tensor,
    ) -> Result<Joined> {
        let round = self.takes_fp8(weight);
        if let Some(kernels) = self.kernels {
            let branch = branch.map(Tensor::contiguous);
            let residual = residual.contiguous();
            return with_joining(join, residual.size()[0], |joining| {
                kernels.join(joining, &residual, branch.as_ref(), round)
            });
        }
        let sum = match (&join.added, branch) {
            (Some((path, _)), Some(branch)) => path.sum(residual, branch),
            _ => residual.shallow_clone(),
        };
        let [weight, bias] = &join.norm;
        let (normalised, mean, scale) = join.next.select(&sum).f_native_layer_norm(
            weight.size(),
            Some(weight),
            Some(bias),
            join.eps,
        )?;
        let statistics = Tensor::f_cat(&[mean, scale], -1)?;
        let normalised = normalised.to_kind(self.compute);
        let rounded = round.then(|| self.rounded(&normalised)).transpose()?;
        Ok(Joined { sum, normalised, rounded, statistics })
    }

    /// The backward pass of [`Self::join`], which gave `sum` and `statistics`: given the gradients of what is
    /// normalised and of the sum.
    pub(super) fn join_backward(
        &self,
        join: &Join,
        [sum, statistics]: [&Tensor; 2],
        of_normalised: &Tensor,
        of_sum: Option<&Tensor>,
    ) -> Result<JoinGradients> {
        if let Some(kernels) = self.kernels {
            let of_normalised = of_normalised.contiguous();
            let of_sum = of_sum.map(Tensor::contiguous);
            let images = join.added.as_ref().map(|(_, images)| *images);
            return with_joining(join, sum.size()[0], |joining| {
                let gradients = (&of_normalised, of_sum.as_ref());
                kernels.join_backward(joining, [sum, statistics], images, gradients)
            });
        }
        let [mean, scale] = [0, 1].map(|at| statistics.narrow(-1, at, 1).contiguous());
        let [of_selected, weight, bias] = layer_norm_backward(
            &of_normalised.to_kind(Kind::Float),
            &join.next.select(sum),
            [&mean, &scale],
            join.norm.each_ref(),
        )?;
        let residual = match of_sum {
            Some(of_sum) => join.next.selected_backward(of_sum, &of_selected),
            None => join.next.selected_backward(&sum.zeros_like(), &of_selected),
        };
        let branch = join.added.as_ref().map(|(path, _)| self.branch_backward(path, &residual));
        Ok(JoinGradients { residual, branch, weight, bias })
    }

    /// The gradient of a branch, given that of the sum that it was added to.
    pub(super) fn branch_backward(&self, path: &BranchPath, of_sum: &Tensor) -> BranchGradient {
        let values = path.branch_backward(of_sum, self.compute);
        let sum = values.sum_dim_intlist([0, 1].as_slice(), false, Kind::Float);
        BranchGradient { values, sum }
    }

    /// Numbers `[..., K]` as a product with `weight` takes them.
    pub(super) fn operand(&self, numbers: Tensor, weight: &Tensor) -> Result<Operand> {
        let rounded = self.takes_fp8(weight).then(|| self.rounded(&numbers)).transpose()?;
        Ok(Operand { numbers, rounded })
    }

    /// An activation as a product with `weight` takes it: GELU by kernels where that can be.
    pub(super) fn activated(
        &self,
        activation: Activation,
        input: &Tensor,
        weight: &Tensor,
    ) -> Result<Operand> {
        match self.kernels_of(activation) {
            Some(kernels) if self.takes_fp8(weight) => {
                let (numbers, rows) = kernels.gelu_rounded(input)?;
                Ok(Operand { numbers, rounded: Some(rows) })
            }
            Some(kernels) => Ok(Operand { numbers: kernels.gelu(input)?, rounded: None }),
            None => self.operand(activation.values(input)?, weight),
        }
    }

    /// Rows `[..., K]` in e4m3.
    pub(super) fn rounded(&self, numbers: &Tensor) -> Result<RoundedRows> {
        match self.kernels {
            Some(kernels) => kernels.rounded(&numbers.contiguous()),
            None => Ok(rounded_rows(&numbers.f_flatten(0, -2)?)),
        }
    }

    /// A weight `[to, from]` float32 in e4m3, and turned.
    pub(super) fn rounded_weight(&self, weight: &Tensor) -> Result<[RoundedRows; 2]> {
        match self.kernels {
            Some(kernels) => kernels.rounded_weight(weight),
            None => {
                let turned = weight.f_transpose(0, 1)?.contiguous();
                Ok([rounded_rows(weight), rounded_rows(&turned)])
            }
        }
    }

    /// The kernels, where they know the activation.
    fn kernels_of(&self, activation: Activation) -> Option<&'static TrainingKernels> {
        self.kernels.filter(|_| activation == Activation::Gelu)
    }

    /// The gradient of an activation's `input`, given that of its output, and its sum over all tokens.
    pub(super) fn activation_backward(
        &self,
        activation: Activation,
        gradient: &Tensor,
        input: &Tensor,
    ) -> Result<[Tensor; 2]> {
        if let Some(kernels) = self.kernels_of(activation) {
            let (values, sum) = kernels.gelu_backward(&gradient.contiguous(), input)?;
            return Ok([values, sum]);
        }
        let values = activation.backward(gradient, input)?;
        let sum = self.column_sums(&values)?;
        Ok([values, sum])
    }

    /// The sum of `[B, T, N]` over all tokens, `[N]` float32.
    pub(super) fn column_sums(&self, numbers: &Tensor) -> Result<Tensor> {
        match self.kernels {
            Some(kernels) => kernels.column_sums(&numbers.contiguous()),
            None => Ok(numbers.f_sum_dim_intlist([0, 1].as_slice(), false, Kind::Float)?),
        }
    }
}

/// Hands `call` what a kernel takes of a join of `batch` images.
fn with_joining<T>(join: &Join, batch: i64, call: impl FnOnce(&Joining) -> Result<T>) -> Result<T> {
    let factors = join.added.as_ref().and_then(|(path, _)| path.factors(batch));
    let [weight, bias] = &join.norm;
    call(&Joining {
        factors: factors.as_ref(),
        branch_places: join.added.as_ref().and_then(|(path, _)| path.places()),
        places: join.next.places(),
        images: join.next.count(batch),
        norm: RowNorm { weight, bias, eps: join.eps },
    })
}
