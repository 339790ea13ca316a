//! Named parameters: made once, in order, by the constructors of the models.

use std::collections::BTreeSet;

use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

use crate::draws::{Draws, Purpose};

/// Where and how parameters are made.
#[derive(Debug, Clone, Copy)]
pub enum Storage {
    /// Full shapes without memory: every tensor is one number seen many times. For counting.
    Shapes,
    /// Zeros on `device`, to be overwritten by loaded weights. Matrices are of kind `matrices`,
    /// everything of at most one dimension, class tokens and positions are float32.
    Empty { device: Device, matrices: Kind },
    /// Initial values drawn under `(seed, rng_stream)`, the same on every device.
    Drawn { device: Device, matrices: Kind, seed: u64, rng_stream: u64 },
}

/// The initial distribution of a parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    Zeros,
    Ones,
    /// Uniform in ±√(6 / (fan in + fan out)) (Glorot & Bengio, 2010), over the tensor seen as a
    /// matrix of its first dimension times the rest.
    XavierUniform,
    /// Uniform in ± this.
    Uniform(f64),
    /// Normal with this standard deviation.
    Normal(f64),
    /// Normal with this standard deviation, cut at ±2.
    TruncatedNormal(f64),
}

/// An ordered list of named parameters under construction, then in use.
pub struct Parameters {
    storage: Storage,
    prefix: String,
    entries: Vec<(String, Tensor)>,
    /// Names of those that training leaves as they are.
    fixed: BTreeSet<String>,
    /// Whether what is made now is one of these.
    is_fixing: bool,
}

impl Parameters {
    pub fn new(storage: Storage) -> Self {
        let (prefix, fixed) = (String::new(), BTreeSet::new());
        Self { storage, prefix, entries: Vec::new(), fixed, is_fixing: false }
    }

    /// Runs `build` with every name put under `scope`.
    pub fn scoped<T>(&mut self, scope: &str, build: impl FnOnce(&mut Self) -> T) -> T {
        let outer = self.prefix.len();
        self.prefix.push_str(scope);
        self.prefix.push('.');
        let built = build(self);
        self.prefix.truncate(outer);
        built
    }

    /// Runs `build`, whose parameters training leaves as they are: those that no loss reads.
    pub fn untrained<T>(&mut self, build: impl FnOnce(&mut Self) -> T) -> T {
        let outer = std::mem::replace(&mut self.is_fixing, true);
        let built = build(self);
        self.is_fixing = outer;
        built
    }

    /// Makes a parameter that takes part in matrix products.
    pub fn matrix(&mut self, name: &str, shape: &[i64]) -> Tensor {
        let kind = match self.storage {
            Storage::Shapes => Kind::Float,
            Storage::Empty { matrices, .. } | Storage::Drawn { matrices, .. } => matrices,
        };
        self.make(name, shape, kind, Init::XavierUniform)
    }

    /// Makes a float32 parameter.
    pub fn tensor(&mut self, name: &str, shape: &[i64], init: Init) -> Tensor {
        self.make(name, shape, Kind::Float, init)
    }

    /// Makes a float32 parameter that training leaves as it is, and that is drawn with these `values`.
    pub fn fixed(&mut self, name: &str, shape: &[i64], values: impl FnOnce() -> Tensor) -> Tensor {
        let make = |own: &mut Self| own.make(name, shape, Kind::Float, Init::Zeros);
        let mut tensor = self.untrained(make);
        if matches!(self.storage, Storage::Drawn { .. }) {
            tensor.copy_(&values());
        }
        tensor
    }

    /// Float32 zeros where the parameters are, which are none of them.
    pub fn constant_zeros(&self, shape: &[i64]) -> Tensor {
        let device = match self.storage {
            Storage::Shapes => Device::Cpu,
            Storage::Empty { device, .. } | Storage::Drawn { device, .. } => device,
        };
        Tensor::zeros(shape, (Kind::Float, device))
    }

    fn make(&mut self, name: &str, shape: &[i64], kind: Kind, init: Init) -> Tensor {
        let tensor = match self.storage {
            Storage::Shapes => Tensor::zeros([1], (kind, Device::Cpu)).expand(shape, false),
            Storage::Empty { device, .. } => Tensor::zeros(shape, (kind, device)),
            Storage::Drawn { device, seed, rng_stream, .. } => {
                let rng_stream = rng_stream << 32 | self.entries.len() as u64;
                draw(init, shape, seed, rng_stream).to_kind(kind).to_device(device)
            }
        };
        let name = format!("{}{name}", self.prefix);
        if self.is_fixing {
            self.fixed.insert(name.clone());
        }
        self.entries.push((name, tensor.shallow_clone()));
        tensor
    }

    /// Every parameter with its name, in the order of construction.
    pub fn named(&self) -> &[(String, Tensor)] {
        &self.entries
    }

    /// Those that training changes, sharing memory with the parameters.
    pub fn trained(&self) -> Vec<(String, Tensor)> {
        let mut trained = self.shared();
        trained.retain(|(name, _)| !self.fixed.contains(name));
        trained
    }

    /// The list of all, sharing memory with the parameters.
    pub fn shared(&self) -> Vec<(String, Tensor)> {
        self.entries.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect()
    }

    /// Takes those out whose names `is_apart` picks, in their order.
    pub fn split_off(&mut self, is_apart: impl Fn(&str) -> bool) -> Self {
        let entries = std::mem::take(&mut self.entries);
        let (apart, rest) = entries.into_iter().partition(|(name, _)| is_apart(name));
        self.entries = rest;
        let (prefix, fixed) = (String::new(), self.fixed.clone());
        Self { storage: self.storage, prefix, entries: apart, fixed, is_fixing: false }
    }

    /// How many numbers there are.
    pub fn count(&self) -> u64 {
        self.entries.iter().map(|(_, tensor)| tensor.numel() as u64).sum()
    }

    /// Makes every parameter a leaf that collects a gradient, but for those that stay as they are.
    pub fn train(&self) {
        for (_, tensor) in self.trained() {
            let _ = tensor.set_requires_grad(true);
        }
    }
}

/// Numbers are drawn in pieces of this many, each under its own position, so that large tensors
/// are filled by all cores and the result does not depend on how many there are.
const PIECE: usize = 1 << 16;

/// A float32 tensor of `shape` on the CPU.
fn draw(init: Init, shape: &[i64], seed: u64, rng_stream: u64) -> Tensor {
    let options = (Kind::Float, Device::Cpu);
    let fill = |number: &(dyn Fn(&mut Draws) -> f64 + Sync)| {
        let mut values = vec![0f32; shape.iter().product::<i64>() as usize];
        values.par_chunks_mut(PIECE).enumerate().for_each(|(piece, values)| {
            let mut draws = Draws::new(seed, Purpose::Weights, rng_stream, piece as u64);
            values.iter_mut().for_each(|value| *value = number(&mut draws) as f32);
        });
        // In place: a view would keep this memory also after the parameter has moved elsewhere.
        Tensor::from_slice(&values).resize_(shape)
    };
    match init {
        Init::Zeros => Tensor::zeros(shape, options),
        Init::Ones => Tensor::ones(shape, options),
        Init::XavierUniform => {
            let (rows, columns) = (shape[0], shape[1..].iter().product::<i64>());
            let bound = (6.0 / (rows + columns) as f64).sqrt();
            fill(&|draws| (2.0 * draws.uniform() - 1.0) * bound)
        }
        Init::Uniform(bound) => fill(&|draws| (2.0 * draws.uniform() - 1.0) * bound),
        Init::Normal(deviation) => fill(&|draws| normal(draws) * deviation),
        Init::TruncatedNormal(deviation) => fill(&|draws| {
            loop {
                let value = normal(draws) * deviation;
                if value.abs() <= 2.0 {
                    return value;
                }
            }
        }),
    }
}

/// A standard normal number (Box & Muller, 1958).
fn normal(draws: &mut Draws) -> f64 {
    let radius = (-2.0 * (1.0 - draws.uniform()).ln()).sqrt();
    radius * (std::f64::consts::TAU * draws.uniform()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(init: Init, shape: &[i64]) -> Tensor {
        draw(init, shape, 3, 4)
    }

    #[test]
    fn initial_values_follow_the_recipe() {
        let xavier = drawn(Init::XavierUniform, &[300, 100]);
        let bound = (6.0f64 / 400.0).sqrt();
        assert!(xavier.abs().max().double_value(&[]) <= bound);
        assert!((xavier.std(true).double_value(&[]) / (bound / 3f64.sqrt()) - 1.0).abs() < 0.02);
        let normal = drawn(Init::Normal(0.02), &[1, 8, 20_000]);
        assert!((normal.std(true).double_value(&[]) / 0.02 - 1.0).abs() < 0.02);
        assert!(normal.mean(Kind::Float).double_value(&[]).abs() < 2e-4);
        let cut = drawn(Init::TruncatedNormal(2.0), &[100_000]);
        assert!(cut.abs().max().double_value(&[]) <= 2.0);
    }

    #[test]
    fn shapes_need_no_memory() {
        let mut parameters = Parameters::new(Storage::Shapes);
        let tensor = parameters.matrix("huge", &[1 << 30, 1 << 20]);
        assert_eq!(tensor.size(), [1 << 30, 1 << 20]);
        assert_eq!(parameters.count(), 1 << 50);
    }
}
