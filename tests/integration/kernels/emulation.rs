//! The kernels on the CPU: a block of as many threads as on a GPU, under the address sanitizer.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use distill::native::threads_of_row;
use tch::{Kind, Tensor};

use super::{EPS, Rows};

/// The residual and the output of the kernel.
pub fn run(rows: &Rows) -> (Tensor, Tensor) {
    let (count, dim) = rows.residual.size2().unwrap();
    let kind = rows.residual.kind();
    let mut emulator = Command::new(built())
        .arg(if kind == Kind::BFloat16 { "bf16" } else { "float32" })
        .args([count as usize, dim as usize, threads_of_row(dim as usize)].map(|n| n.to_string()))
        .args([EPS.to_string().as_str(), if rows.branch.is_some() { "with" } else { "without" }])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut numbers = emulator.stdin.take().unwrap();
    let given = [Some(&rows.residual), rows.branch.as_ref(), Some(&rows.weight), Some(&rows.bias)];
    // It reads all before it writes.
    given.into_iter().flatten().for_each(|tensor| numbers.write_all(&bytes_of(tensor)).unwrap());
    drop(numbers);
    let done = emulator.wait_with_output().unwrap();
    assert!(done.status.success(), "the emulated kernel failed: {}", done.status);
    let residual_bytes = bytes_of(&rows.residual).len();
    let (residual, output) = done.stdout.split_at(residual_bytes);
    let shape = [count, dim];
    (
        Tensor::from_data_size(residual, &shape, kind),
        Tensor::from_data_size(output, &shape, Kind::BFloat16),
    )
}

fn bytes_of(tensor: &Tensor) -> Vec<u8> {
    let numbers = tensor.numel();
    let mut bytes = vec![0; numbers * tensor.kind().elt_size_in_bytes()];
    tensor.copy_data_u8(&mut bytes, numbers);
    bytes
}

/// The emulator, compiled once for all tests of this process.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels_on_cpu");
        // Another process of these tests may be running it.
        let new = program.with_extension(std::process::id().to_string());
        let done = Command::new("c++")
            .args(["-std=c++20", "-O1", "-pthread", "-Wall", "-Wextra", "-Werror"])
            .args(["-fsanitize=address,undefined", "-fno-sanitize-recover=all"])
            .arg(format!("-DKERNELS=\"{}\"", root.join("src/native/kernels.cu").display()))
            .arg(root.join("tests/integration/kernels/on_cpu.cpp"))
            .arg("-o")
            .arg(&new)
            .output()
            .expect("a C++ compiler: the build needs one too");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        std::fs::rename(new, &program).unwrap();
        program
    })
}
