//! The kernels on the CPU: a block of as many threads as on a GPU, under the address sanitizer.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use distill::native::{
    BeforeRounding, KernelSource, RoundedRows, threads_of_row, threads_that_round,
};
use tch::{Kind, Tensor};

use super::{EPS, Rows};

/// The residual and the output of the kernel that adds and normalises.
pub fn run(rows: &Rows) -> (Tensor, Tensor) {
    let (residual, bytes) = normalised(rows, "");
    let output = Tensor::from_data_size(&bytes, &rows.residual.size(), Kind::BFloat16);
    (residual, output)
}

/// The residual and the rows of the kernel that rounds what it has normalised.
pub fn run_rounding(rows: &Rows) -> (Tensor, RoundedRows) {
    let (residual, bytes) = normalised(rows, "_e4m3");
    (residual, rounded(&bytes, rows.residual.size2().unwrap()))
}

/// What a kernel that only rounds makes of `numbers` `[rows, D]` bf16.
pub fn round(numbers: &Tensor, before: BeforeRounding) -> RoundedRows {
    let shape = numbers.size2().unwrap();
    let kernel = match before {
        BeforeRounding::Nothing => "round_e4m3",
        BeforeRounding::Gelu => "gelu_e4m3",
    };
    let threads = threads_that_round(shape.1 as usize);
    rounded(&output_of(kernel, shape, threads, &[numbers], "without"), shape)
}

/// The residual, and the bytes that come after it.
fn normalised(rows: &Rows, to: &str) -> (Tensor, Vec<u8>) {
    let (shape, kind) = (rows.residual.size2().unwrap(), rows.residual.kind());
    let number = if kind == Kind::BFloat16 { "bf16" } else { "float32" };
    let kernel = format!("add_layer_norm_{number}{to}");
    let given = [Some(&rows.residual), rows.branch.as_ref(), Some(&rows.weight), Some(&rows.bias)];
    let given: Vec<_> = given.into_iter().flatten().collect();
    let branch = if rows.branch.is_some() { "with" } else { "without" };
    let mut bytes = output_of(&kernel, shape, threads_of_row(shape.1 as usize), &given, branch);
    let output = bytes.split_off(bytes_of(&rows.residual).len());
    (Tensor::from_data_size(&bytes, &rows.residual.size(), kind), output)
}

/// Values and scales behind them.
fn rounded(bytes: &[u8], (rows, dim): (i64, i64)) -> RoundedRows {
    let (values, scales) = bytes.split_at((rows * dim) as usize);
    let values = Tensor::from_data_size(values, &[rows, dim], Kind::Uint8);
    RoundedRows {
        values: values.view_dtype(Kind::Float8e4m3fn),
        scales: Tensor::from_data_size(scales, &[rows, 1], Kind::Float),
    }
}

/// What a kernel writes, given these tensors.
fn output_of(
    kernel: &str,
    (rows, dim): (i64, i64),
    threads: usize,
    given: &[&Tensor],
    branch: &str,
) -> Vec<u8> {
    let mut arguments = vec![kernel.to_owned()];
    arguments.extend([rows as usize, dim as usize, threads].map(|number| number.to_string()));
    arguments.extend([EPS.to_string(), branch.to_owned()]);
    run_program(KernelSource::Frozen, &arguments, given)
}

/// What the program that runs kernels of `source` writes, given these arguments and tensors.
pub fn run_program(source: KernelSource, arguments: &[String], given: &[&Tensor]) -> Vec<u8> {
    let mut emulator = Command::new(built(source))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut numbers = emulator.stdin.take().unwrap();
    // It reads all before it writes.
    given.iter().for_each(|tensor| numbers.write_all(&bytes_of(tensor)).unwrap());
    drop(numbers);
    let done = emulator.wait_with_output().unwrap();
    assert!(done.status.success(), "the emulated kernel failed: {}", done.status);
    done.stdout
}

pub fn bytes_of(tensor: &Tensor) -> Vec<u8> {
    let numbers = tensor.numel();
    let mut bytes = vec![0; numbers * tensor.kind().elt_size_in_bytes()];
    tensor.copy_data_u8(&mut bytes, numbers);
    bytes
}

/// The program that runs kernels of `source`, compiled once for all tests of this process.
fn built(source: KernelSource) -> PathBuf {
    static BUILT: Mutex<Option<HashMap<&'static str, PathBuf>>> = Mutex::new(None);
    let name = source.name().strip_suffix(".cu").unwrap();
    let mut built = BUILT.lock().unwrap();
    let entry = built.get_or_insert_default().entry(name);
    entry.or_insert_with(|| build(name)).clone()
}

fn build(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}_on_cpu"));
    // Another process of these tests may be running it.
    let new = program.with_extension(std::process::id().to_string());
    let kernels = |file: &str| root.join("src/native/kernels").join(file).display().to_string();
    let done = Command::new("c++")
        .args(["-std=c++20", "-O1", "-pthread", "-Wall", "-Wextra", "-Werror"])
        .args(["-fsanitize=address,undefined", "-fno-sanitize-recover=all"])
        .arg(format!("-DKERNELS_ROWS=\"{}\"", kernels("rows.cuh")))
        .arg(format!("-DKERNELS_{}=\"{}\"", name.to_uppercase(), kernels(&format!("{name}.cu"))))
        .arg(root.join(format!("tests/integration/kernels/{name}_on_cpu.cpp")))
        .arg("-o")
        .arg(&new)
        .output()
        .expect("a C++ compiler: the build needs one too");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    std::fs::rename(new, &program).unwrap();
    program
}
