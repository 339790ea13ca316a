//! A backend of process groups that fails as NCCL does, for machines without what makes NCCL fail. Its
//! collectives move no numbers: they begin, are waited for without holding up the host, and never tell a
//! wait that something is wrong.

use std::ffi::{CString, c_char};
use std::time::Duration;

unsafe extern "C" {
    fn distill_stand_in_install(
        connects: bool,
        queue: i64,
        failing_rank: i64,
        error_after_ms: i64,
        error: *const c_char,
        abort_ms: i64,
    );
}

/// What is wrong with it. The default is that nothing is.
#[derive(Debug, Clone)]
pub struct StandIn {
    /// Whether joining ever returns.
    pub connects: bool,
    /// So many collectives can be begun; the next call blocks until another thread aborts them all, as a
    /// GPU's full queue does.
    pub queue: u32,
    /// On this rank, so long after a collective was begun, NCCL's watchdog has this to say about it.
    pub error: Option<(usize, Duration, &'static str)>,
    /// How long an abort takes.
    pub abort: Duration,
}

impl Default for StandIn {
    fn default() -> Self {
        Self { connects: true, queue: u32::MAX, error: None, abort: Duration::ZERO }
    }
}

impl StandIn {
    /// Puts it in place of the backends of all groups that this process makes from now on, on any device.
    pub fn install(&self) {
        let milliseconds = |time: Duration| time.as_millis() as i64;
        let (rank, after, text) = self.error.unwrap_or((0, Duration::ZERO, ""));
        let rank = self.error.map_or(-1, |_| rank as i64);
        let text = CString::new(text).expect("no zero byte");
        // SAFETY: the text lives through the call, which copies it.
        unsafe {
            distill_stand_in_install(
                self.connects,
                i64::from(self.queue),
                rank,
                milliseconds(after),
                text.as_ptr(),
                milliseconds(self.abort),
            );
        }
    }
}

// Links libtorch, whose code the stand-in calls.
use torch_sys as _;
