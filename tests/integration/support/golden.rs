//! Golden cases: where they are, and how near numbers come to them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

/// A file or folder of the golden cases.
pub fn golden(name: &str) -> PathBuf {
    let root = std::env::var_os("GOLDEN_DIR").map(PathBuf::from);
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    // Another folder of cases need not have all files.
    root.map(|root| root.join(name)).filter(|path| path.exists()).unwrap_or_else(|| own.join(name))
}

/// Golden folders that hold all of these files.
pub fn cases(files: &[&str]) -> Vec<PathBuf> {
    let root = std::env::var_os("GOLDEN_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"), PathBuf::from);
    let entries = std::fs::read_dir(&root).unwrap_or_else(|e| panic!("{}: {e}", root.display()));
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|folder| files.iter().all(|file| folder.join(file).exists()))
        .collect();
    found.sort();
    found
}

pub type Tensors = HashMap<String, Tensor>;

pub fn read(path: PathBuf) -> Tensors {
    let found = Tensor::read_safetensors(&path);
    found.unwrap_or_else(|e| panic!("{}: {e}", path.display())).into_iter().collect()
}

/// ‖found − expected‖ / ‖expected‖.
pub fn relative_error(found: &Tensor, expected: &Tensor) -> f64 {
    let on_host = |tensor: &Tensor| tensor.to_device(Device::Cpu).to_kind(Kind::Double);
    let (found, expected) = (on_host(found), on_host(expected));
    let norm = expected.norm().double_value(&[]);
    (found - expected).norm().double_value(&[]) / norm.max(f64::MIN_POSITIVE)
}

#[track_caller]
pub fn assert_close(found: &Tensor, expected: &Tensor, tolerance: f64, what: &str) {
    assert_eq!(found.size(), expected.size(), "{what}");
    let error = relative_error(&found.detach(), expected);
    assert!(error <= tolerance, "{what}: relative error {error:.2e} > {tolerance:.0e}");
}
