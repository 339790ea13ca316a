//! [`Activation`]: what stands between the two products of a plain MLP.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// The function between the two products of a plain MLP, named as `transformers` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activation {
    /// GELU by the error function (Hendrycks & Gimpel, 2016).
    #[serde(rename = "gelu")]
    Gelu,
    /// Their approximation of it by a hyperbolic tangent.
    #[serde(rename = "gelu_pytorch_tanh")]
    GeluTanh,
    /// Their approximation of it by a logistic function, `x · σ(1.702 · x)`.
    #[serde(rename = "quick_gelu")]
    QuickGelu,
}

/// What the logistic approximation multiplies its input by.
const QUICK: f64 = 1.702;

impl Activation {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Gelu, Self::GeluTanh, Self::QuickGelu];

    /// Its name in configurations and in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu_pytorch_tanh",
            Self::QuickGelu => "quick_gelu",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|activation| activation.name() == name)
    }

    /// libtorch's name of its approximation; none for what is no GELU of libtorch's.
    fn approximation(self) -> Option<&'static str> {
        match self {
            Self::Gelu => Some("none"),
            Self::GeluTanh => Some("tanh"),
            Self::QuickGelu => None,
        }
    }

    /// Its values; in place where no gradient will ask for the input.
    pub(super) fn of(self, mut input: Tensor) -> Tensor {
        match (self.approximation(), input.requires_grad()) {
            (Some(approximation), true) => input.gelu(approximation),
            (Some(approximation), false) => input.gelu_(approximation),
            (None, true) => &input * (&input * QUICK).sigmoid(),
            (None, false) => {
                let gate = (&input * QUICK).sigmoid_();
                input.g_mul_(&gate)
            }
        }
    }

    /// Its values, and the input stays what it is.
    pub(super) fn values(self, input: &Tensor) -> Result<Tensor> {
        match self.approximation() {
            Some(approximation) => Ok(input.f_gelu(approximation)?),
            None => Ok(input.f_mul(&input.f_mul_scalar(QUICK)?.f_sigmoid_()?)?),
        }
    }

    /// The gradient of its `input`, given that of its values.
    pub(super) fn backward(self, gradient: &Tensor, input: &Tensor) -> Result<Tensor> {
        if let Some(approximation) = self.approximation() {
            return Ok(input.f_gelu_backward(gradient, approximation)?);
        }
        // σ + 1.702 · x · σ · (1 − σ)
        let gate = input.f_mul_scalar(QUICK)?.f_sigmoid_()?;
        let slope = &gate + (input * QUICK) * &gate * (1.0 - &gate);
        Ok(gradient.f_mul(&slope)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    /// Values and slopes against float64 and its differences.
    #[test]
    fn activations_are_their_formulas() {
        let x = Tensor::linspace(-6.0, 6.0, 97, (Kind::Double, Device::Cpu));
        let formula = |activation, x: &Tensor| match activation {
            Activation::Gelu => x * 0.5 * (1.0 + (x / 2f64.sqrt()).erf()),
            Activation::GeluTanh => {
                let inner: Tensor =
                    (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                x * 0.5 * (1.0 + inner.tanh())
            }
            Activation::QuickGelu => x / (1.0 + (x * -1.702).exp()),
        };
        for activation in Activation::ALL {
            let near = |found: &Tensor, expected: &Tensor, within: f64| {
                let off = (found - expected).abs().max().double_value(&[]);
                assert!(off < within, "{activation:?}: {off}");
            };
            let expected = formula(activation, &x);
            near(&activation.values(&x).unwrap(), &expected, 1e-12);
            near(&activation.of(x.copy()), &expected, 1e-12);
            let step = 1e-5;
            let slope = (formula(activation, &(&x + step)) - formula(activation, &(&x - step)))
                / (2.0 * step);
            near(&activation.backward(&x.ones_like(), &x).unwrap(), &slope, 1e-8);
            let leaf = x.copy().set_requires_grad(true);
            activation.of(&leaf + 0.0).sum(Kind::Double).backward();
            near(&leaf.grad(), &slope, 1e-8);
            assert_eq!(Activation::named(activation.name()), Some(activation));
        }
        assert_eq!(Activation::named("relu"), None);
    }
}
