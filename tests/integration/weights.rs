//! Weights: every form they are read from, what is said when they do not fit, how they are
//! written and exported, and how much memory that takes.

mod errors;
mod export;
mod forms;
mod memory;
mod pth;

use std::collections::BTreeMap;
use std::path::Path;

use crate::support::golden::golden;
use crate::support::python::{python, run};
use distill::encoders::EncoderWeights;
use tch::{Device, Kind, Tensor};

/// Tensors by name.
type Tensors = BTreeMap<String, Tensor>;

/// All tensors of a file, read by the loader under test.
fn read_all(path: &Path) -> Tensors {
    let file = EncoderWeights::open(path).unwrap().file;
    file.shapes().keys().map(|&name| (name.into(), file.read(name).unwrap())).collect()
}

/// All tensors of a safetensors file, read by libtorch's bindings and no code of this project.
fn read_independently(path: &Path) -> Tensors {
    Tensor::read_safetensors(path).unwrap().into_iter().collect()
}

/// Fresh tensors of the same names and shapes, filled with zeros.
fn targets_like(tensors: &Tensors, kind: Kind) -> Vec<(String, Tensor)> {
    let empty = |tensor: &Tensor| Tensor::zeros(tensor.size(), (kind, Device::Cpu));
    tensors.iter().map(|(name, tensor)| (name.clone(), empty(tensor))).collect()
}

/// The error that loading `path` into tensors like `model` gives.
fn load_error(path: &Path, model: &Tensors) -> String {
    let weights = match EncoderWeights::open(path) {
        Ok(weights) => weights,
        Err(error) => return format!("{error:#}"),
    };
    let error = weights.load_into(&targets_like(model, Kind::Float));
    format!("{:#}", error.expect_err("these weights should not load"))
}

/// Asserts that two sets of tensors have the same names, shapes, kinds and numbers.
fn assert_same(found: &Tensors, expected: &Tensors) {
    let names = |tensors: &Tensors| tensors.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected));
    for (name, expected) in expected {
        let found = &found[name];
        assert_eq!((found.size(), found.kind()), (expected.size(), expected.kind()), "{name}");
        assert!(found.equal(expected), "{name} has other numbers");
    }
}

/// Saves tensors for a test to read.
fn save(path: &Path, tensors: &Tensors) {
    let tensors: Vec<_> =
        tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
    distill::weights::write_safetensors(path, &tensors, &BTreeMap::new(), &|| Ok(())).unwrap();
}
