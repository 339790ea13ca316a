//! How much memory the process has used, and giving some back.

use tch::Tensor;

unsafe extern "C" {
    fn distill_trim_heap();
}

/// Gives memory that was freed in the middle of the heap back to the system.
pub fn trim_heap() {
    // SAFETY: no arguments; glibc's allocator locks itself.
    unsafe { distill_trim_heap() }
}

/// Most resident memory of this process so far, in bytes; none where the system does not say.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Bytes of a tensor's numbers.
pub fn bytes_of(tensor: &Tensor) -> u64 {
    (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64
}

/// Memory that programs of this machine can still get, in bytes; none where the system does not say.
pub fn available_memory() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Resident memory of a process, in bytes, with every page divided by how many processes map it
/// (its proportional set size); none where the system does not say.
pub fn proportional_memory(process: u32) -> Option<u64> {
    let rollup = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup")).ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
