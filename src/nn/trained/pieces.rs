//! The pieces of a block that autograd sees. A linear layer is its weight `[to, from]` and its bias `[to]`.

use anyhow::{Context, Result};
use tch::Tensor;

use super::junction::{Join, Junction, Operand};
use super::products::{Product, weight_backward};
use crate::native::{Gradients, Joined, attach};
use crate::nn::activation::Activation;
use crate::nn::drop_path::BranchPath;
use crate::nn::layers::LayerNorm;

/// The residual stream, of which the last branch may still have to be added.
pub(in crate::nn) struct Stream {
    /// `[B, T, D]` float32.
    residual: Tensor,
    pending: Option<Pending>,
}

/// A branch that is to be added.
struct Pending {
    /// `[K, T, D]`, in the kind of products.
    branch: Tensor,
    /// The bias `[D]` that it ends with, if its gradient is to come from where the branch is added.
    bias: Option<Tensor>,
    path: BranchPath,
}

impl Stream {
    pub(in crate::nn) fn new(residual: Tensor) -> Self {
        Self { residual, pending: None }
    }

    /// With a branch to be added along its path. `bias` is that of the product it comes from, if [`leave`] left
    /// its gradient to this.
    pub(in crate::nn) fn with(
        self,
        branch: Tensor,
        bias: Option<&Tensor>,
        path: BranchPath,
    ) -> Self {
        let bias = bias.map(Tensor::shallow_clone);
        Self { pending: Some(Pending { branch, bias, path }), ..self }
    }

    /// The stream with everything added, `[B, T, D]`.
    pub(in crate::nn) fn settled(self, junction: Junction) -> Tensor {
        let Some(pending) = &self.pending else { return self.residual };
        let path = pending.path.shared();
        let sum = tch::no_grad(|| path.sum(&self.residual, &pending.branch));
        let with_bias = pending.bias.is_some();
        record(&self.inputs(), &[&sum], move |gradients| {
            let [of_sum] = exactly(gradients)?;
            let of_sum = of_sum.context("a gradient of the residual stream")?;
            let branch = junction.branch_backward(&path, &of_sum);
            let bias = with_bias.then_some(branch.sum);
            Ok([Some(of_sum), Some(branch.values)].into_iter().chain(bias.map(Some)).collect())
        });
        sum
    }

    /// What its gradients are of: the residual, then branch and bias if there are any.
    fn inputs(&self) -> Vec<&Tensor> {
        let pending = self.pending.as_ref();
        let of_pending = pending.map(|one| std::iter::once(&one.branch).chain(one.bias.as_ref()));
        std::iter::once(&self.residual).chain(of_pending.into_iter().flatten()).collect()
    }
}

/// The stream's sum and its norm's product, and what their backward pass needs.
struct Entered {
    junction: Junction,
    join: Join,
    with_bias: bool,
    sum: Tensor,
    normalised: Tensor,
    statistics: Tensor,
    product: Product,
}

impl Entered {
    /// Of the stream, its norm and the product with a linear layer: that product, and what is kept.
    fn forward(
        junction: Junction,
        stream: &Stream,
        norm: &LayerNorm,
        linear: [&Tensor; 2],
        next: BranchPath,
    ) -> Result<(Tensor, Self)> {
        let pending = stream.pending.as_ref();
        let added = pending.map(|one| (one.path.shared(), one.branch.size()[0]));
        let join = Join::new(added, next, norm);
        let residual = stream.residual.detach();
        let branch = pending.map(|one| one.branch.detach());
        let Joined { sum, normalised, rounded, statistics } =
            junction.join(&join, &residual, branch.as_ref(), linear[0])?;
        let input = Operand { numbers: normalised, rounded };
        let (output, product) = Product::forward(&junction, linear, &input)?;
        let normalised = input.numbers;
        let with_bias = pending.is_some_and(|one| one.bias.is_some());
        Ok((output, Self { junction, join, with_bias, sum, normalised, statistics, product }))
    }

    /// Gradients of norm and linear layer, then of the stream's inputs; given that of the product, its sum over all
    /// tokens, and that of the stream's sum.
    fn backward(
        &self,
        of_product: &Tensor,
        of_bias: Tensor,
        of_sum: Option<&Tensor>,
    ) -> Result<Gradients> {
        let weight = weight_backward(of_product, &self.normalised)?;
        let of_normalised = self.product.input_backward(&self.junction, of_product)?;
        let kept = [&self.sum, &self.statistics];
        let found = self.junction.join_backward(&self.join, kept, &of_normalised, of_sum)?;
        let mut gradients = vec![found.weight, found.bias, weight, of_bias, found.residual];
        if let Some(branch) = found.branch {
            gradients.push(branch.values);
            gradients.extend(self.with_bias.then_some(branch.sum));
        }
        Ok(gradients.into_iter().map(Some).collect())
    }
}

/// Inputs in the order of [`Entered::backward`]'s gradients.
fn entered_inputs<'a>(
    stream: &'a Stream,
    norm: &'a LayerNorm,
    [weight, bias]: [&'a Tensor; 2],
) -> Vec<&'a Tensor> {
    [vec![&norm.weight, &norm.bias, weight, bias], stream.inputs()].concat()
}

/// The beginning of a branch: the product of the stream's norm with `linear`, for the images of the branch's path
/// `next`, `[K, T, N]`; and the stream with everything added.
pub(in crate::nn) fn enter(
    junction: Junction,
    stream: Stream,
    norm: &LayerNorm,
    linear: [&Tensor; 2],
    next: BranchPath,
) -> (Tensor, Stream) {
    let (output, kept) =
        without_history(|| Entered::forward(junction, &stream, norm, linear, next));
    let sum = kept.sum.detach();
    let shape = output.size();
    record(&entered_inputs(&stream, norm, linear), &[&output, &sum], move |gradients| {
        let [of_output, of_sum] = exactly(gradients)?;
        let of_output = of_output.unwrap_or_else(|| zeros(&shape, &kept));
        let of_bias = kept.junction.column_sums(&of_output)?;
        kept.backward(&of_output, of_bias, of_sum.as_ref())
    });
    (output, Stream::new(sum))
}

/// The end of a branch: the product of `input` `[K, T, N]` with `linear`. The gradient of its bias is left to
/// where the product is added to the stream ([`Stream::with`]) unless `with_bias`.
pub(in crate::nn) fn leave(
    junction: Junction,
    input: &Tensor,
    linear: [&Tensor; 2],
    with_bias: bool,
) -> Tensor {
    let [weight, bias] = linear;
    let (held, output, product) = without_history(|| {
        let operand = junction.operand(input.detach(), weight)?;
        let (output, product) = Product::forward(&junction, linear, &operand)?;
        Ok((operand.numbers, output, product))
    });
    let mut inputs = vec![input, weight];
    inputs.extend(with_bias.then_some(bias));
    record(&inputs, &[&output], move |gradients| {
        let [of_output] = exactly(gradients)?;
        let of_output = of_output.context("a gradient of a branch")?;
        let of_weight = weight_backward(&of_output, &held)?;
        let of_input = product.input_backward(&junction, &of_output)?;
        let mut found = vec![Some(of_input), Some(of_weight)];
        if with_bias {
            found.push(Some(junction.column_sums(&of_output)?));
        }
        Ok(found)
    });
    output
}

/// A whole branch of norm, `fc1`, an activation and `fc2`, for the images of its path `next`: `[K, T, D]`; and the stream
/// with everything before added. The gradient of `fc2`'s bias is left as in [`leave`].
pub(in crate::nn) fn mlp(
    junction: Junction,
    stream: Stream,
    norm: &LayerNorm,
    ([fc1, fc2], activation): ([[&Tensor; 2]; 2], Activation),
    next: BranchPath,
    with_bias: bool,
) -> (Tensor, Stream) {
    let (hidden, kept, activated, output, product) = without_history(|| {
        let (hidden, kept) = Entered::forward(junction, &stream, norm, fc1, next)?;
        let activated = junction.activated(activation, &hidden, fc2[0])?;
        let (output, product) = Product::forward(&junction, fc2, &activated)?;
        Ok((hidden, kept, activated.numbers, output, product))
    });
    let sum = kept.sum.detach();
    let [weight, bias] = fc2;
    let mut inputs = entered_inputs(&stream, norm, fc1);
    inputs.push(weight);
    inputs.extend(with_bias.then_some(bias));
    let shape = output.size();
    record(&inputs, &[&output, &sum], move |gradients| {
        let [of_output, of_sum] = exactly(gradients)?;
        let of_output = of_output.unwrap_or_else(|| zeros(&shape, &kept));
        let of_weight = weight_backward(&of_output, &activated)?;
        drop(activated);
        let of_activated = product.input_backward(&junction, &of_output)?;
        let [of_hidden, of_bias] =
            junction.activation_backward(activation, &of_activated, &hidden)?;
        drop((of_activated, hidden));
        let mut found = kept.backward(&of_hidden, of_bias, of_sum.as_ref())?;
        found.push(Some(of_weight));
        if with_bias {
            found.push(Some(junction.column_sums(&of_output)?));
        }
        Ok(found)
    });
    (output, Stream::new(sum))
}

/// The gradient of something that nothing depends on.
fn zeros(shape: &[i64], kept: &Entered) -> Tensor {
    Tensor::zeros(shape, (kept.junction.compute, kept.sum.device()))
}

/// Computes what has a backward pass of its own.
///
/// # Panics
/// It fails; training runs under [`crate::native::guard`], which reports it.
fn without_history<T>(body: impl FnOnce() -> Result<T>) -> T {
    tch::no_grad(body).unwrap_or_else(|error| panic!("libtorch or a kernel: {error:#}"))
}

/// Makes the outputs depend on the inputs.
///
/// # Panics
/// As [`without_history`].
fn record(
    inputs: &[&Tensor],
    outputs: &[&Tensor],
    backward: impl FnOnce(Gradients) -> Result<Gradients> + Send + 'static,
) {
    attach(inputs, outputs, backward).unwrap_or_else(|error| panic!("libtorch: {error:#}"));
}

/// So many gradients.
fn exactly<const N: usize>(gradients: Gradients) -> Result<[Option<Tensor>; N]> {
    let count = gradients.len();
    gradients.try_into().ok().with_context(|| format!("{count} gradients where {N} are due"))
}
