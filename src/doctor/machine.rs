//! Processor, memory, limits and threads.

use std::env;
use std::path::Path;

use rustix::fs::statvfs;
use rustix::process::{Resource, getrlimit};

use super::finding::{Finding, in_words};
use crate::native::{available_memory, cpu_capability};

const SHARED_MEMORY: &str = "/dev/shm";
/// What NCCL needs of it for the GPUs of one machine, generously.
const ENOUGH_SHARED_MEMORY: u64 = 1 << 30;
/// Shards, workers and connections of a run with eight GPUs stay below it.
const ENOUGH_FILES: u64 = 4096;
/// A run without workers and with few shards stays below it.
const FEWEST_FILES: u64 = 256;

/// All of it, on a machine where libtorch sees so many GPUs.
pub(super) fn look(gpus: usize) -> Vec<Finding> {
    let mut findings = vec![instructions()];
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    findings.push(of_cores(cores, count_of(online.trim()).unwrap_or(cores)));
    findings.push(of_threads(env::var("OMP_NUM_THREADS").ok().as_deref(), cores));
    findings.push(match available_memory() {
        Some(bytes) => Finding::ok("memory", format!("{} free", in_words(bytes))),
        None => Finding::ok("memory", "the system does not say"),
    });
    let shared = statvfs(SHARED_MEMORY).ok().map(|facts| facts.f_blocks * facts.f_frsize);
    findings.push(of_shared_memory(shared, gpus));
    findings.push(of_open_files(getrlimit(Resource::Nofile).maximum));
    findings.extend(other_limits());
    findings
}

fn instructions() -> Finding {
    const NAME: &str = "instruction sets";
    let taken = cpu_capability().unwrap_or_else(|error| format!("unknown: {error:#}"));
    let own = instruction_sets().join(", ");
    let found = format!("{own}; libtorch takes its kernels for {taken}");
    match taken.as_str() {
        "DEFAULT" => Finding::warning(
            NAME,
            found,
            "ATEN_CPU_CAPABILITY is to be unset; a processor without AVX2 computes several times slower",
        ),
        _ => Finding::ok(NAME, found),
    }
}

#[cfg(target_arch = "x86_64")]
fn instruction_sets() -> Vec<&'static str> {
    let sets = [
        ("AVX2", is_x86_feature_detected!("avx2")),
        ("FMA", is_x86_feature_detected!("fma")),
        ("AVX-512", is_x86_feature_detected!("avx512f")),
        ("AVX-512 BF16", is_x86_feature_detected!("avx512bf16")),
        ("AVX-512 VNNI", is_x86_feature_detected!("avx512vnni")),
    ];
    sets.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn instruction_sets() -> Vec<&'static str> {
    vec![env::consts::ARCH]
}

/// How many numbers a list such as `0-3,8` names.
fn count_of(list: &str) -> Option<usize> {
    let ranges = list.split(',').map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(last.parse::<usize>().ok()? + 1 - first.parse::<usize>().ok()?)
    });
    ranges.sum()
}

fn of_cores(cores: usize, online: usize) -> Finding {
    let found = format!("{cores} of the machine's {online}");
    match (cores, online) {
        (1, 2..) => Finding::warning(
            "cores",
            found,
            "this process is bound to one core: mpirun needs --bind-to none, srun --cpus-per-task, a \
             container more --cpus",
        ),
        _ => Finding::ok("cores", found),
    }
}

fn of_threads(asked: Option<&str>, cores: usize) -> Finding {
    const NAME: &str = "threads";
    let Some(text) = asked.filter(|text| !text.is_empty()) else {
        return Finding::ok(NAME, format!("OMP_NUM_THREADS is unset: libtorch takes {cores}"));
    };
    let found = format!("OMP_NUM_THREADS={text}");
    match text.split(',').next().and_then(|first| first.trim().parse::<usize>().ok()) {
        None | Some(0) => Finding::warning(
            NAME,
            format!("{found} is no number of threads"),
            "unset it, or set a number from 1 on",
        ),
        Some(threads) if threads > cores => Finding::warning(
            NAME,
            format!("{found}, on {cores} cores"),
            "threads would wait for each other: unset it, or set at most the number of cores",
        ),
        Some(_) => Finding::ok(NAME, found),
    }
}

fn of_shared_memory(bytes: Option<u64>, gpus: usize) -> Finding {
    let advice = "NCCL exchanges between the GPUs of a machine through it: start the container with \
                  --ipc host or --shm-size 8g";
    match bytes {
        Some(bytes) if bytes < ENOUGH_SHARED_MEMORY && gpus > 1 => {
            Finding::warning(SHARED_MEMORY, in_words(bytes), advice)
        }
        None if gpus > 1 => Finding::problem(SHARED_MEMORY, "is missing", advice),
        Some(bytes) => Finding::ok(SHARED_MEMORY, in_words(bytes)),
        None => Finding::ok(SHARED_MEMORY, "is missing; without several GPUs nothing needs it"),
    }
}

/// The hard limit is looked at: a run raises its own up to it.
fn of_open_files(hard: Option<u64>) -> Finding {
    const NAME: &str = "open files";
    let advice =
        "raise the hard limit: ulimit -Hn, LimitNOFILE of the service, or docker's --ulimit nofile";
    match hard {
        Some(files) if files < FEWEST_FILES => {
            Finding::problem(NAME, format!("at most {files}"), advice)
        }
        Some(files) if files < ENOUGH_FILES => {
            Finding::warning(NAME, format!("at most {files}"), advice)
        }
        Some(files) => Finding::ok(NAME, format!("up to {files}")),
        None => Finding::ok(NAME, "any number"),
    }
}

/// Limits that are unlimited on most machines, where they are not.
fn other_limits() -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(bytes) = getrlimit(Resource::Fsize).current {
        findings.push(Finding::warning(
            "size of files",
            format!("at most {}", in_words(bytes)),
            "a larger checkpoint cannot be saved: ulimit -f unlimited",
        ));
    }
    if let Some(bytes) = getrlimit(Resource::As).current {
        findings.push(Finding::warning(
            "address space",
            format!("at most {}", in_words(bytes)),
            "mapped weights and CUDA need far more of it than memory: ulimit -v unlimited",
        ));
    }
    let locked = getrlimit(Resource::Memlock).current;
    if let (Some(bytes), true) = (locked, Path::new("/sys/class/infiniband").exists()) {
        findings.push(Finding::warning(
            "locked memory",
            format!("at most {}", in_words(bytes)),
            "InfiniBand needs it unlimited: ulimit -l unlimited",
        ));
    }
    if let Some(processes @ ..1024) = getrlimit(Resource::Nproc).current {
        findings.push(Finding::warning(
            "processes",
            format!("at most {processes} of this user"),
            "each rank starts a decoding worker a core, and threads count too: ulimit -u",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    #[test]
    fn threads_and_cores_that_do_not_fit_are_told() {
        let verdict = |text: &str| of_threads(Some(text), 4).verdict;
        let cases = ["4", "", "2,1", "5", "0", "many"].map(verdict);
        use Verdict::{Ok, Warning};
        assert_eq!(cases, [Ok, Ok, Ok, Warning, Warning, Warning]);
        assert_eq!(of_cores(1, 64).verdict, Warning);
        assert_eq!([of_cores(1, 1).verdict, of_cores(8, 64).verdict], [Ok, Ok]);
        assert_eq!(count_of("0-3,8"), Some(5));
        assert_eq!(count_of(""), None);
    }

    #[test]
    fn small_limits_are_told_where_they_matter() {
        use Verdict::{Ok, Problem, Warning};
        let shared = |bytes, gpus| of_shared_memory(bytes, gpus).verdict;
        assert_eq!(shared(Some(64 << 20), 2), Warning, "docker's default");
        assert_eq!([shared(Some(64 << 20), 1), shared(Some(8 << 30), 8)], [Ok, Ok]);
        assert_eq!([shared(None, 8), shared(None, 0)], [Problem, Ok]);
        let files =
            [Some(64), Some(1024), Some(65536), None].map(|hard| of_open_files(hard).verdict);
        assert_eq!(files, [Problem, Warning, Ok, Ok]);
    }
}
