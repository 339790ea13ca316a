//! GPUs, and what is computed with on them.

use std::path::Path;

use tch::{Cuda, Device};

use super::finding::Finding;
use crate::native::{
    Driver, Gpu, KernelSource, compile_kernels, cuda_version, describe, guard, libtorch_version,
    nccl_version,
};
use crate::nn::require_fp8;

/// The generation that kernels are compiled for where no GPU says its own: Hopper's.
const ANY_CAPABILITY: (i32, i32) = (9, 0);

const DRIVER: &str = "NVIDIA driver";

/// Number of GPUs that libtorch sees.
pub(super) fn count() -> usize {
    guard(|| Ok(Cuda::device_count())).unwrap_or(0).max(0) as usize
}

/// libtorch, the driver, each GPU, and what is used on them.
pub(super) fn look() -> Vec<Finding> {
    let cuda = cuda_version().unwrap_or(None);
    let gpus = count();
    let built = match &cuda {
        Some(cuda) => format!("{}, for CUDA {cuda}", libtorch_version()),
        None => format!("{}, for CPUs only", libtorch_version()),
    };
    let mut findings = vec![Finding::ok("libtorch", built)];
    let is_device_there = Path::new("/dev/nvidiactl").exists();
    let driver = Driver::find().map_err(|error| format!("{error:#}"));
    findings.push(of_driver(&driver, cuda.as_deref(), gpus, is_device_there));
    findings.extend((0..gpus).map(of_gpu));
    if gpus > 0 {
        findings.push(of_nccl(gpus));
        findings.push(of_compiler());
        findings.push(of_fp8());
    }
    findings
}

/// What the driver's words mean, given the CUDA that libtorch is for and the GPUs that it sees.
fn of_driver(
    driver: &Result<Option<Driver>, String>,
    cuda: Option<&str>,
    gpus: usize,
    is_device_there: bool,
) -> Finding {
    match driver {
        Ok(None) if is_device_there => Finding::problem(
            DRIVER,
            "/dev/nvidiactl is there, libcuda.so is not",
            "install NVIDIA's driver; a container is to be started with --gpus all",
        ),
        Ok(None) => Finding::ok(DRIVER, "none, and no GPU of NVIDIA's: the CPU computes"),
        Err(error) => Finding::problem(
            DRIVER,
            error.clone(),
            "see what nvidia-smi says; after an update of the driver, start the machine again",
        ),
        Ok(Some(driver)) => {
            let found = format!("for CUDA {}, {} GPUs", driver.cuda, driver.gpus);
            match cuda {
                None => Finding::warning(
                    DRIVER,
                    format!("{found}, and a libtorch for CPUs only"),
                    "build against a libtorch with CUDA, as scripts/distill brings it",
                ),
                Some(cuda) if major(cuda) > major(&driver.cuda) => Finding::problem(
                    DRIVER,
                    found,
                    format!("libtorch is for CUDA {cuda}: install a newer driver"),
                ),
                Some(_) if gpus < driver.gpus => Finding::problem(
                    DRIVER,
                    format!("{found}, of which libtorch sees {gpus}"),
                    "see whether nvidia-smi and another program that computes work at all",
                ),
                Some(_) if driver.gpus == 0 => Finding::warning(
                    DRIVER,
                    found,
                    "no GPU is given to this process: see CUDA_VISIBLE_DEVICES and the job's request",
                ),
                Some(_) => Finding::ok(DRIVER, found),
            }
        }
    }
}

fn major(version: &str) -> u32 {
    version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0)
}

fn of_gpu(number: usize) -> Finding {
    let device = Device::Cuda(number);
    // Memory that is taken and given back, and a product that is known.
    let tried = guard(|| {
        let ones = tch::Tensor::ones([64; 2], (tch::Kind::Float, device));
        Ok(ones.matmul(&ones).sum(tch::Kind::Float).double_value(&[]))
    });
    let name = describe(device);
    match tried {
        Ok(sum) if sum == 64f64.powi(3) => Finding::ok("GPU", name),
        Ok(sum) => Finding::problem(
            "GPU",
            format!("{name}: a product of ones sums to {sum}, not {}", 64f64.powi(3)),
            "this GPU computes wrongly: leave it out (CUDA_VISIBLE_DEVICES) and have it looked at",
        ),
        Err(error) => Finding::problem(
            "GPU",
            format!("{name}: {error:#}"),
            "see nvidia-smi: another process may hold its memory, or a compute mode exclude this one",
        ),
    }
}

fn of_nccl(gpus: usize) -> Finding {
    match nccl_version() {
        Ok(Some(version)) => Finding::ok("NCCL", version),
        Ok(None) if gpus > 1 => Finding::warning(
            "NCCL",
            "this build has none, and trains on one GPU",
            "build by scripts/distill, which brings the headers that are missing",
        ),
        Ok(None) => Finding::ok("NCCL", "this build has none; one GPU needs none"),
        Err(error) => Finding::problem("NCCL", format!("{error:#}"), "build by scripts/distill"),
    }
}

fn of_compiler() -> Finding {
    let gpu = guard(|| Gpu::of(Device::Cuda(0))).ok();
    let (major, minor) = gpu.map_or(ANY_CAPABILITY, |gpu| gpu.capability);
    match guard(|| compile_kernels(KernelSource::Training, (major, minor))) {
        Ok(_) => Finding::ok("NVRTC", format!("compiles the kernels for {major}.{minor}")),
        Err(error) => Finding::warning(
            "NVRTC",
            format!("{error:#}"),
            "libtorch's kernels are used instead, and take longer; libnvrtc comes with torch's wheel",
        ),
    }
}

fn of_fp8() -> Finding {
    match require_fp8(Device::Cuda(0)) {
        Ok(()) => Finding::ok("FP8", "computes"),
        // Nothing needs it.
        Err(error) => Finding::ok("FP8", format!("none: {error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    #[test]
    fn a_driver_that_does_not_fit_is_a_problem() {
        let of = |cuda: &str, gpus| Ok(Some(Driver { cuda: cuda.into(), gpus }));
        let verdict = |driver: &_, cuda, gpus, is_there| {
            let finding = of_driver(driver, cuda, gpus, is_there);
            assert_eq!(finding.advice.is_none(), finding.verdict == Verdict::Ok, "{finding:?}");
            finding.verdict
        };
        assert_eq!(verdict(&of("13.1", 2), Some("13.0"), 2, true), Verdict::Ok);
        assert_eq!(verdict(&of("12.8", 2), Some("13.0"), 0, true), Verdict::Problem, "too old");
        assert_eq!(verdict(&of("13.0", 2), Some("13.0"), 1, true), Verdict::Problem, "one unseen");
        assert_eq!(verdict(&of("13.0", 0), Some("13.0"), 0, true), Verdict::Warning);
        assert_eq!(verdict(&of("13.0", 1), None, 0, true), Verdict::Warning, "no CUDA in libtorch");
        assert_eq!(verdict(&Ok(None), Some("13.0"), 0, true), Verdict::Problem, "no library");
        assert_eq!(verdict(&Ok(None), Some("13.0"), 0, false), Verdict::Ok, "no GPU is no problem");
        assert_eq!(verdict(&Err("no device".into()), Some("13.0"), 0, true), Verdict::Problem);
    }
}
