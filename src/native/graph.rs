//! CUDA graphs: work of a GPU that is recorded once and replayed as a whole.

use std::ffi::c_char;

use anyhow::{Result, ensure};
use tch::Device;

use super::device::cuda_index;
use super::guard;
use super::shim::{Handle, check};

unsafe extern "C" {
    fn distill_side_stream_enter(cuda: i64, side: *mut Handle) -> *mut c_char;
    fn distill_side_stream_leave(side: Handle) -> *mut c_char;
    fn distill_release_cached_memory() -> *mut c_char;
    fn distill_graph_begin(sharing: Handle, graph: *mut Handle) -> *mut c_char;
    fn distill_graph_end(graph: Handle) -> *mut c_char;
    fn distill_graph_replay(graph: Handle) -> *mut c_char;
    fn distill_graph_free(graph: Handle);
}

/// A recorded computation. It reads and writes the same memory each time: what it reads and was made
/// outside has to live as long.
pub struct CudaGraph(Handle);

impl CudaGraph {
    /// Records the work that `compute` queues on the GPU `device`, after one run for what libraries set
    /// up at first use. Returns what `compute` returns of the recording: tensors without numbers until
    /// the graph has been replayed.
    ///
    /// `compute` must not wait for the GPU, nor draw random numbers. Its memory is shared with the graph
    /// `sharing`: replaying one overwrites what the other computes with, but not the tensors that
    /// its recording returned, while they live.
    ///
    /// # Errors
    /// There is no GPU, no memory left, or `compute` does something that cannot be recorded.
    pub fn record<T>(
        device: Device,
        sharing: Option<&Self>,
        compute: impl Fn() -> Result<T>,
    ) -> Result<(Self, T)> {
        ensure!(device.is_cuda(), "a CUDA graph needs a GPU");
        let side = SideStream::enter(device)?;
        drop(guard(&compute)?);
        // A graph's pool cannot take what that run has left behind in libtorch's.
        // SAFETY: no arguments; memory in use stays.
        check(unsafe { distill_release_cached_memory() })?;
        let mut graph = std::ptr::null_mut();
        let pool = sharing.map_or(std::ptr::null_mut(), |graph| graph.0);
        // SAFETY: null or a live graph; `graph` is written on success.
        check(unsafe { distill_graph_begin(pool, &mut graph) })?;
        let graph = Self(graph);
        let recorded = guard(&compute);
        // SAFETY: a live graph that is being recorded.
        let ended = check(unsafe { distill_graph_end(graph.0) });
        // What failed first tells more.
        let recorded = recorded?;
        ended?;
        side.leave()?;
        Ok((graph, recorded))
    }

    /// Queues the recorded work in the GPU's current stream.
    pub fn replay(&self) -> Result<()> {
        // SAFETY: a live graph that was recorded.
        check(unsafe { distill_graph_replay(self.0) })
    }
}

impl Drop for CudaGraph {
    fn drop(&mut self) {
        // SAFETY: made by the shim, freed once.
        unsafe { distill_graph_free(self.0) }
    }
}

/// Another stream than the usual one, current while this lives.
struct SideStream(Handle);

impl SideStream {
    fn enter(device: Device) -> Result<Self> {
        let mut side = std::ptr::null_mut();
        // SAFETY: `side` is written on success.
        check(unsafe { distill_side_stream_enter(cuda_index(device)?, &mut side) })?;
        Ok(Self(side))
    }

    /// Goes back to the usual stream, and says if that fails.
    fn leave(self) -> Result<()> {
        let side = std::mem::ManuallyDrop::new(self);
        // SAFETY: made by the shim; freed here, since it is not dropped.
        check(unsafe { distill_side_stream_leave(side.0) })
    }
}

impl Drop for SideStream {
    fn drop(&mut self) {
        // An error is on its way already.
        // SAFETY: made by the shim, freed once.
        let _ = check(unsafe { distill_side_stream_leave(self.0) });
    }
}
