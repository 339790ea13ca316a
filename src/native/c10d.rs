//! libtorch's distributed engine (c10d): the store where processes meet, process groups over Gloo
//! and NCCL, and the Reducer that exchanges gradients during a backward pass.
//!
//! Collectives here do not wait. A [`Work`] is waited for in short turns, so that its owner can
//! look in between whether the other processes still live; [`crate::dist`] does that.

use std::ffi::{CString, c_char, c_int};
use std::time::Duration;

use anyhow::{Context, Result};
use tch::{Device, Tensor};

use super::device::{cuda_index, make_current};
use super::shim::{Handle, check, free_message, handle, handles};

unsafe extern "C" {
    fn distill_prepare_environment();
    fn distill_set_variable(name: *const c_char, value: *const c_char);
    fn distill_store_open(
        host: *const c_char,
        port: u16,
        serve: bool,
        timeout_ms: i64,
        store: *mut Handle,
    ) -> *mut c_char;
    fn distill_store_prefixed(
        store: Handle,
        prefix: *const c_char,
        prefixed: *mut Handle,
    ) -> *mut c_char;
    fn distill_store_set(
        store: Handle,
        key: *const c_char,
        bytes: *const u8,
        length: usize,
    ) -> *mut c_char;
    fn distill_store_has(store: Handle, key: *const c_char, there: *mut bool) -> *mut c_char;
    fn distill_store_get(
        store: Handle,
        key: *const c_char,
        bytes: *mut *mut c_char,
        length: *mut usize,
    ) -> *mut c_char;
    fn distill_store_add(store: Handle, key: *const c_char, sum: *mut i64) -> *mut c_char;
    fn distill_store_delete(store: Handle, key: *const c_char) -> *mut c_char;
    fn distill_store_free(store: Handle);
    fn distill_collectives_are_queued(cuda: i64) -> bool;
    fn distill_group_create(
        store: Handle,
        rank: c_int,
        size: c_int,
        cuda: i64,
        address: *const c_char,
        timeout_ms: i64,
        group: *mut Handle,
    ) -> *mut c_char;
    fn distill_group_all_reduce(
        group: Handle,
        tensor: Handle,
        max: bool,
        work: *mut Handle,
    ) -> *mut c_char;
    fn distill_group_all_gather(
        group: Handle,
        whole: Handle,
        part: Handle,
        work: *mut Handle,
    ) -> *mut c_char;
    fn distill_group_check(group: Handle) -> *mut c_char;
    fn distill_group_abort(group: Handle) -> *mut c_char;
    fn distill_group_free(group: Handle);
    fn distill_work_wait(work: Handle, timeout_ms: i64, done: *mut bool) -> *mut c_char;
    fn distill_work_free(work: Handle);
    fn distill_reducer_create(
        group: Handle,
        parameters: *const Handle,
        count: usize,
        bucket_bytes: usize,
        bfloat16: bool,
        scatter: bool,
        reducer: *mut Handle,
    ) -> *mut c_char;
    fn distill_reducer_layout(
        reducer: Handle,
        bucket: *mut usize,
        position: *mut usize,
    ) -> *mut c_char;
    fn distill_reducer_expect(reducer: Handle) -> *mut c_char;
    fn distill_reducer_wait(reducer: Handle, timeout_ms: i64, done: *mut bool) -> *mut c_char;
    fn distill_reducer_statistics(reducer: Handle, early: *mut u64, all: *mut u64, bytes: *mut u64);
    fn distill_reducer_free(reducer: Handle);
}

fn text(text: &str) -> Result<CString> {
    CString::new(text).with_context(|| format!("a zero byte in {text:?}"))
}

fn milliseconds(time: Duration) -> i64 {
    time.as_millis().clamp(1, i64::MAX as u128) as i64
}

/// Sets the environment variables that keep c10d and NCCL from ending the process by themselves, and the
/// profiler from complaining, unless the user did. At the start of the program: the environment has no lock.
pub fn prepare_environment() {
    // SAFETY: called while there is one thread.
    unsafe { distill_prepare_environment() }
}

/// Sets the environment variable `name` for NCCL, unless it is set.
///
/// # Errors
/// A zero byte in one of them.
pub fn set_variable(name: &str, value: &str) -> Result<()> {
    let (name, value) = (text(name)?, text(value)?);
    // SAFETY: both live through the call. Called before the threads of c10d and NCCL exist, which read
    // the environment.
    unsafe { distill_set_variable(name.as_ptr(), value.as_ptr()) }
    Ok(())
}

/// A connection to the store in which processes leave each other bytes under keys (`TCPStore`).
pub struct Store(Handle);

// SAFETY: a TCPStore is made for many threads; it has a lock around every request.
unsafe impl Send for Store {}
// SAFETY: as above.
unsafe impl Sync for Store {}

impl Store {
    /// Connects to the store at `host:port`, which with `serve` this process keeps itself.
    ///
    /// # Errors
    /// Nobody answers there for `timeout`, or the port is taken.
    pub fn open(host: &str, port: u16, serve: bool, timeout: Duration) -> Result<Self> {
        let (host, mut store) = (text(host)?, std::ptr::null_mut());
        // SAFETY: `host` lives through the call; the handle is written on success.
        check(unsafe {
            distill_store_open(host.as_ptr(), port, serve, milliseconds(timeout), &mut store)
        })?;
        Ok(Self(store))
    }

    /// The same connection, with `prefix` before every key.
    ///
    /// # Errors
    /// The prefix has a zero byte.
    pub fn prefixed(&self, prefix: &str) -> Result<Self> {
        let (prefix, mut store) = (text(prefix)?, std::ptr::null_mut());
        // SAFETY: the new handle shares ownership of the connection.
        check(unsafe { distill_store_prefixed(self.0, prefix.as_ptr(), &mut store) })?;
        Ok(Self(store))
    }

    /// Puts `bytes` under `key`.
    pub fn set(&self, key: &str, bytes: &[u8]) -> Result<()> {
        let key = text(key)?;
        // SAFETY: key and bytes live through the call.
        check(unsafe { distill_store_set(self.0, key.as_ptr(), bytes.as_ptr(), bytes.len()) })
    }

    /// What is under `key`, if anything is.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let key = text(key)?;
        let mut there = false;
        // SAFETY: `key` lives through the calls; outputs are written on success. The bytes come
        // from malloc and are ours to free.
        unsafe {
            check(distill_store_has(self.0, key.as_ptr(), &mut there))?;
            if !there {
                return Ok(None);
            }
            let (mut bytes, mut length) = (std::ptr::null_mut(), 0);
            check(distill_store_get(self.0, key.as_ptr(), &mut bytes, &mut length))?;
            let value = std::slice::from_raw_parts(bytes.cast::<u8>(), length).to_vec();
            free_message(bytes);
            Ok(Some(value))
        }
    }

    /// Counts the calls for `key`, this one included.
    pub fn count(&self, key: &str) -> Result<i64> {
        let (key, mut sum) = (text(key)?, 0);
        // SAFETY: `key` lives through the call; the sum is written on success.
        check(unsafe { distill_store_add(self.0, key.as_ptr(), &mut sum) })?;
        Ok(sum)
    }

    /// Removes `key`, if it is there.
    pub fn delete(&self, key: &str) -> Result<()> {
        let key = text(key)?;
        // SAFETY: `key` lives through the call.
        check(unsafe { distill_store_delete(self.0, key.as_ptr()) })
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: made by the shim, freed once.
        unsafe { distill_store_free(self.0) }
    }
}

/// Whether collectives on `device` are queued there, as NCCL's are: no wait for one fails or holds up the
/// host, only [`Collectives::check`] tells of errors, and joining knows no time limit.
///
/// # Errors
/// A device that is neither the CPU nor a GPU.
pub fn are_queued(device: Device) -> Result<bool> {
    let cuda = cuda_index(device)?;
    // SAFETY: reads what was set before there were threads.
    Ok(unsafe { distill_collectives_are_queued(cuda) })
}

/// Processes that do collectives together: over Gloo on CPUs, over NCCL on GPUs.
pub struct Collectives(Handle);

// SAFETY: c10d's process groups may be used from any thread; that collectives are called in the
// same order on all processes is what the callers see to.
unsafe impl Send for Collectives {}
// SAFETY: as above; another thread may check and abort them, which is what c10d has abort for.
unsafe impl Sync for Collectives {}

impl Collectives {
    /// Joins the group of `size` processes that meet in `store`. On a CPU this process listens at
    /// `address`. NCCL knows no time limit: where its ranks do not reach each other, this does not return.
    ///
    /// # Errors
    /// Not all join within `timeout`, or the device has no backend in this build.
    pub fn join(
        store: &Store,
        (rank, size): (usize, usize),
        device: Device,
        address: &str,
        timeout: Duration,
    ) -> Result<Self> {
        let (address, mut group) = (text(address)?, std::ptr::null_mut());
        make_current(device)?;
        let cuda = cuda_index(device)?;
        let (rank, size) = (rank as c_int, size as c_int);
        // SAFETY: store and address live through the call; the group keeps the store alive.
        check(unsafe {
            let timeout = milliseconds(timeout);
            let address = address.as_ptr();
            distill_group_create(store.0, rank, size, cuda, address, timeout, &mut group)
        })?;
        Ok(Self(group))
    }

    /// Begins to replace `tensor` on all processes by the sum of all.
    pub fn sum(&self, tensor: &Tensor) -> Result<Work> {
        self.all_reduce(tensor, false)
    }

    /// Begins to replace each number of `tensor` on all processes by the largest of all.
    pub fn max(&self, tensor: &Tensor) -> Result<Work> {
        self.all_reduce(tensor, true)
    }

    fn all_reduce(&self, tensor: &Tensor, max: bool) -> Result<Work> {
        let mut work = std::ptr::null_mut();
        // SAFETY: a live tensor; the work keeps its memory alive.
        check(unsafe { distill_group_all_reduce(self.0, handle(tensor), max, &mut work) })?;
        Ok(Work(work))
    }

    /// Begins to fill `whole` with the `part`s of all processes, one after the other.
    pub fn all_gather(&self, whole: &Tensor, part: &Tensor) -> Result<Work> {
        let mut work = std::ptr::null_mut();
        // SAFETY: live tensors; the work keeps their memory alive.
        check(unsafe { distill_group_all_gather(self.0, handle(whole), handle(part), &mut work) })?;
        Ok(Work(work))
    }
}

impl Collectives {
    /// # Errors
    /// NCCL has found one in the meantime, such as a peer that is gone: on a GPU no wait would tell.
    pub fn check(&self) -> Result<()> {
        // SAFETY: a live group.
        check(unsafe { distill_group_check(self.0) })
    }

    /// Ends all collectives under way, wherever they are. The group is of no use afterwards.
    pub fn abort(&self) -> Result<()> {
        // SAFETY: a live group.
        check(unsafe { distill_group_abort(self.0) })
    }
}

impl Drop for Collectives {
    fn drop(&mut self) {
        // SAFETY: made by the shim, freed once; Reducers hold their own reference.
        unsafe { distill_group_free(self.0) }
    }
}

/// A collective under way.
pub struct Work(Handle);

impl Work {
    /// Waits for its end, but no longer than `patience`. On a GPU it is true at once: the
    /// collective is done before what the current stream does next.
    ///
    /// # Errors
    /// The collective failed, most often because another process was lost.
    pub fn is_done_within(&self, patience: Duration) -> Result<bool> {
        let mut done = false;
        // SAFETY: a live work.
        check(unsafe { distill_work_wait(self.0, milliseconds(patience), &mut done) })?;
        Ok(done)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // SAFETY: made by the shim, freed once.
        unsafe { distill_work_free(self.0) }
    }
}

/// How the gradients of one model are exchanged.
#[derive(Debug, Clone, Copy)]
pub struct ExchangeOptions {
    /// Gradients are sent in buckets of about this many bytes.
    pub bucket_bytes: usize,
    /// They travel in bfloat16 instead of float32.
    pub bfloat16: bool,
    /// Each process gets its share of the sums only.
    pub scatter: bool,
}

/// Where a parameter's gradient lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub bucket: usize,
    /// Its place among the bucket's parameters, which lie one after the other.
    pub position: usize,
}

/// What was sent since the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExchangeStatistics {
    pub buckets: u64,
    /// Buckets that were sent before the last one of their backward pass was full.
    pub early_buckets: u64,
    /// Bytes of gradients given to collectives.
    pub bytes: u64,
}

/// Exchanges the gradients of one model, bucket by bucket, during its backward pass
/// (`c10d::Reducer`, the engine inside DistributedDataParallel).
pub struct Reducer {
    handle: Handle,
    parameters: usize,
}

impl Reducer {
    /// # Errors
    /// The parameters are not leaves of one device and number format.
    pub fn new(
        group: &Collectives,
        parameters: &[Tensor],
        options: ExchangeOptions,
    ) -> Result<Self> {
        let mut reducer = std::ptr::null_mut();
        // SAFETY: live tensors, of which the reducer takes its own references.
        check(unsafe {
            distill_reducer_create(
                group.0,
                handles(parameters).as_ptr(),
                parameters.len(),
                options.bucket_bytes,
                options.bfloat16,
                options.scatter,
                &mut reducer,
            )
        })?;
        Ok(Self { handle: reducer, parameters: parameters.len() })
    }

    /// Where each parameter's gradient lies.
    pub fn layout(&self) -> Result<Vec<Place>> {
        let (mut buckets, mut positions) = (vec![0; self.parameters], vec![0; self.parameters]);
        // SAFETY: two arrays with one number for each parameter.
        check(unsafe {
            distill_reducer_layout(self.handle, buckets.as_mut_ptr(), positions.as_mut_ptr())
        })?;
        let pairs = buckets.into_iter().zip(positions);
        Ok(pairs.map(|(bucket, position)| Place { bucket, position }).collect())
    }

    /// Has the next backward pass exchange its gradients.
    pub fn expect(&self) -> Result<()> {
        // SAFETY: a live reducer.
        check(unsafe { distill_reducer_expect(self.handle) })
    }

    /// Waits until all gradients of the last backward pass have arrived, but no longer than
    /// `patience`; on a GPU the current stream waits instead.
    ///
    /// # Errors
    /// An exchange failed, most often because another process was lost.
    pub fn is_done_within(&self, patience: Duration) -> Result<bool> {
        let mut done = false;
        // SAFETY: a live reducer.
        check(unsafe { distill_reducer_wait(self.handle, milliseconds(patience), &mut done) })?;
        Ok(done)
    }

    pub fn statistics(&self) -> ExchangeStatistics {
        let (mut early, mut all, mut bytes) = (0, 0, 0);
        // SAFETY: a live reducer; three numbers to write.
        unsafe { distill_reducer_statistics(self.handle, &mut early, &mut all, &mut bytes) };
        ExchangeStatistics { buckets: all, early_buckets: early, bytes }
    }
}

impl Drop for Reducer {
    fn drop(&mut self) {
        // SAFETY: made by the shim, freed once.
        unsafe { distill_reducer_free(self.handle) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    unsafe extern "C" {
        fn distill_nccl_headers_check() -> *mut c_char;
    }

    /// Options of NCCL's groups are laid out by our headers and filled in by libtorch's code.
    #[test]
    fn headers_of_nccl_are_those_of_libtorch() {
        // SAFETY: asks for nothing.
        check(unsafe { distill_nccl_headers_check() }).unwrap();
    }
}
