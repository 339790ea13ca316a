//! Devices: their memory and progress, and copies to and from them.
//!
//! A GPU works through its queue while the host goes on. Nothing here waits for it: a
//! [`DeviceEvent`] says how far it is.

use std::ffi::{CStr, c_char, c_int};
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use tch::kind::Element;
use tch::{Device, Kind, Tensor};

use super::memory;
use super::shim::{Handle, check, handle};

unsafe extern "C" {
    fn distill_mark_set(cuda: i64, mark: *mut Handle) -> *mut c_char;
    fn distill_mark_passed(mark: Handle, passed: *mut bool) -> *mut c_char;
    fn distill_mark_elapsed(from: Handle, to: Handle, milliseconds: *mut f64) -> *mut c_char;
    fn distill_mark_free(mark: Handle);
    fn distill_upload(
        bytes: *const u8,
        kind: c_int,
        shape: *const i64,
        dimensions: usize,
        cuda: i64,
        tensor: *mut Handle,
    ) -> *mut c_char;
    fn distill_download(tensor: Handle, host: *mut Handle) -> *mut c_char;
    fn distill_exact_convolutions() -> *mut c_char;
    fn distill_libtorch_version() -> *const c_char;
    fn distill_make_current(cuda: i64) -> *mut c_char;
    fn distill_peak_memory(cuda: i64, allocated: *mut u64, reserved: *mut u64) -> *mut c_char;
    fn distill_gpu(
        cuda: i64,
        name: *mut c_char,
        length: usize,
        major: *mut c_int,
        minor: *mut c_int,
        memory: *mut u64,
    ) -> *mut c_char;
}

/// Has float32 convolutions on GPUs computed in float32 from here on: libtorch would round what goes into
/// them to TF32's ten bits, as it does not in matrix products.
///
/// # Errors
/// libtorch refuses.
pub fn exact_convolutions() -> Result<()> {
    // SAFETY: the call takes nothing; it sets a flag of libtorch's, or returns a message.
    check(unsafe { distill_exact_convolutions() })
}

/// Makes `device` this thread's: what libtorch allocates by itself lies there.
///
/// # Errors
/// There is no such GPU.
pub fn make_current(device: Device) -> Result<()> {
    // SAFETY: the call takes a number; it returns a message where there is no such GPU.
    check(unsafe { distill_make_current(cuda_index(device)?) })
}

/// The GPU's number; -1 for the CPU.
pub(super) fn cuda_index(device: Device) -> Result<i64> {
    match device {
        Device::Cpu => Ok(-1),
        Device::Cuda(number) => Ok(number as i64),
        other => bail!("{other:?} is not a device to train on"),
    }
}

/// Number of a kind in libtorch (`c10::ScalarType`).
fn scalar_type(kind: Kind) -> Result<c_int> {
    match kind {
        Kind::Uint8 => Ok(0),
        Kind::Int => Ok(3),
        Kind::Int64 => Ok(4),
        Kind::Float => Ok(6),
        other => bail!("{other:?} numbers are not sent to a device"),
    }
}

/// A point in a device's stream of work: a CUDA event, or an instant on a CPU.
pub enum DeviceEvent {
    /// A CPU is never behind.
    Cpu(Instant),
    Gpu(GpuEvent),
}

/// An event in the stream of a GPU.
pub struct GpuEvent(Handle);

impl DeviceEvent {
    /// An event after all work that was queued on `device` so far.
    pub fn record(device: Device) -> Result<Self> {
        let cuda = cuda_index(device)?;
        if cuda < 0 {
            return Ok(Self::Cpu(Instant::now()));
        }
        let mut event = std::ptr::null_mut();
        // SAFETY: `event` is written on success.
        check(unsafe { distill_mark_set(cuda, &mut event) })?;
        Ok(Self::Gpu(GpuEvent(event)))
    }

    /// Whether the device has reached it.
    ///
    /// # Errors
    /// Work that was queued before it failed.
    pub fn is_complete(&self) -> Result<bool> {
        let Self::Gpu(event) = self else { return Ok(true) };
        let mut passed = false;
        // SAFETY: a live event.
        check(unsafe { distill_mark_passed(event.0, &mut passed) })?;
        Ok(passed)
    }

    /// Seconds that the device took from here to a `later` event, both of them complete.
    ///
    /// # Errors
    /// One is not complete, or they are of different devices.
    pub fn seconds_until(&self, later: &Self) -> Result<f64> {
        match (self, later) {
            (Self::Cpu(from), Self::Cpu(to)) => Ok((*to - *from).as_secs_f64()),
            (Self::Gpu(from), Self::Gpu(to)) => {
                let mut milliseconds = 0.0;
                // SAFETY: live events.
                check(unsafe { distill_mark_elapsed(from.0, to.0, &mut milliseconds) })?;
                Ok(milliseconds / 1e3)
            }
            _ => bail!("events of different devices"),
        }
    }
}

impl Drop for GpuEvent {
    fn drop(&mut self) {
        // SAFETY: made by the shim, freed once.
        unsafe { distill_mark_free(self.0) }
    }
}

/// A tensor of `shape` on `device` with these `values`. Towards a GPU they go through pinned memory
/// and the copy runs by itself; `values` may be overwritten at once.
///
/// # Errors
/// The values do not fill the shape, the device has no memory left, or it is neither CPU nor CUDA.
pub fn upload<T: Element>(values: &[T], shape: &[i64], device: Device) -> Result<Tensor> {
    let expected = shape.iter().product::<i64>();
    ensure!(values.len() as i64 == expected, "{} numbers for a shape of {shape:?}", values.len());
    let cuda = cuda_index(device)?;
    let mut tensor: Handle = std::ptr::null_mut();
    let bytes = values.as_ptr().cast();
    let kind = scalar_type(T::KIND)?;
    // SAFETY: both slices outlive the call, and the shim copies as many numbers of this kind as the
    // shape has, which was checked; it writes a new tensor to `tensor`, or returns a message.
    unsafe {
        check(distill_upload(bytes, kind, shape.as_ptr(), shape.len(), cuda, &mut tensor))?;
        Ok(Tensor::from_ptr(tensor.cast()))
    }
}

/// A copy of numbers from a device to the host, under way.
pub struct Download {
    host: Tensor,
    arrived: DeviceEvent,
}

impl Download {
    /// Queues a copy of `tensor` to the host, after all work that was queued so far.
    pub fn begin(tensor: &Tensor) -> Result<Self> {
        let mut host: Handle = std::ptr::null_mut();
        // SAFETY: a live tensor; `host` is a new one of ours on success. libtorch's allocator keeps
        // its pinned memory until the copy is done, also if this is dropped before.
        let host = unsafe {
            check(distill_download(handle(tensor), &mut host))?;
            Tensor::from_ptr(host.cast())
        };
        Ok(Self { host, arrived: DeviceEvent::record(tensor.device())? })
    }

    /// An event that is complete once the numbers are there.
    pub fn arrived(&self) -> &DeviceEvent {
        &self.arrived
    }

    /// [`Self::arrived`], consuming the download.
    pub fn into_arrived(self) -> DeviceEvent {
        self.arrived
    }

    /// The numbers, flat.
    ///
    /// # Errors
    /// They have not arrived, or are not float32.
    pub fn numbers(&self) -> Result<Vec<f32>> {
        ensure!(self.arrived.is_complete()?, "numbers are read before they have arrived");
        Ok(Vec::<f32>::try_from(self.host.f_view([-1])?)?)
    }
}

/// Peak memory of a device in this process so far, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeakMemory {
    /// Taken by tensors.
    pub used: u64,
    /// Held by libtorch, of which tensors take theirs. On the CPU both are the process's own memory.
    pub held: u64,
}

impl PeakMemory {
    /// The peak of `device`; `None` where it is not known.
    pub fn of(device: Device) -> Option<Self> {
        let cuda = cuda_index(device).ok()?;
        if cuda < 0 {
            return memory::peak_memory().map(|bytes| Self { used: bytes, held: bytes });
        }
        let (mut used, mut held) = (0, 0);
        // SAFETY: two numbers to write.
        check(unsafe { distill_peak_memory(cuda, &mut used, &mut held) }).ok()?;
        Some(Self { used, held })
    }
}

/// A GPU, as its driver describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    pub name: String,
    /// Compute capability, as in 9.0.
    pub capability: (i32, i32),
    /// In bytes.
    pub memory: u64,
}

impl Gpu {
    /// The GPU behind `device`.
    ///
    /// # Errors
    /// It is no GPU, or this build has no CUDA headers to ask with.
    pub fn of(device: Device) -> Result<Self> {
        let cuda = cuda_index(device)?;
        ensure!(cuda >= 0, "a CPU is no GPU");
        let mut name = [0 as c_char; 256];
        let (mut major, mut minor, mut memory) = (0, 0, 0);
        // SAFETY: the shim writes at most the buffer's length, its final zero included.
        let name = unsafe {
            let length = name.len();
            check(distill_gpu(
                cuda,
                name.as_mut_ptr(),
                length,
                &mut major,
                &mut minor,
                &mut memory,
            ))?;
            CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned()
        };
        Ok(Self { name, capability: (major, minor), memory })
    }
}

/// The version of libtorch that this program was built with.
pub fn libtorch_version() -> &'static str {
    // SAFETY: a string literal of the shim's.
    let version = unsafe { CStr::from_ptr(distill_libtorch_version()) };
    version.to_str().unwrap_or("of an unknown version")
}

/// A device in words: `the CPU, 2 threads` or `GPU 0, NVIDIA H200, 139.8 GiB`.
pub fn describe(device: Device) -> String {
    match (device, Gpu::of(device)) {
        (Device::Cuda(number), Ok(gpu)) => {
            let memory = gpu.memory as f64 / f64::from(1 << 30);
            format!("GPU {number}, {}, {memory:.1} GiB", gpu.name)
        }
        (Device::Cuda(number), Err(_)) => format!("GPU {number}"),
        _ => format!("the CPU, {} threads", tch::get_num_threads()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_arrive_in_their_shape() {
        let mut bytes: Vec<u8> = (0..24).collect();
        let tensor = upload(&bytes, &[2, 3, 4], Device::Cpu).unwrap();
        bytes.fill(0);
        assert_eq!((tensor.size(), tensor.kind()), (vec![2, 3, 4], Kind::Uint8));
        let values = Vec::<u8>::try_from(tensor.flatten(0, -1)).unwrap();
        assert_eq!(values, (0..24).collect::<Vec<_>>());
        assert!(upload(&bytes, &[5, 5], Device::Cpu).is_err());
        let ids = upload(&[1i64, -2], &[2], Device::Cpu).unwrap();
        assert_eq!(Vec::<i64>::try_from(ids).unwrap(), [1, -2]);
    }

    #[test]
    fn a_download_keeps_what_was_there_when_it_began() {
        let mut tensor = upload(&[1f32, 2.5], &[2, 1], Device::Cpu).unwrap();
        let download = Download::begin(&tensor).unwrap();
        let _ = tensor.fill_(0.0);
        assert_eq!(download.numbers().unwrap(), [1.0, 2.5]);
    }

    #[test]
    fn marks_keep_the_time() {
        let before = DeviceEvent::record(Device::Cpu).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(5));
        let after = DeviceEvent::record(Device::Cpu).unwrap();
        assert!(before.is_complete().unwrap());
        assert!((0.005..1.0).contains(&before.seconds_until(&after).unwrap()));
    }
}
