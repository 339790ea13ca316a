//! Signals that ask to stop: from Ctrl-C, or from the cluster's scheduler.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Exit code of a process that a second Ctrl-C ends: 128 + SIGINT, as shells have it.
const INTERRUPTED: i32 = 130;

/// A request to save the run's state and end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM: a scheduler that wants its machine back.
    Terminate,
}

impl fmt::Display for Signal {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        text.write_str(match self {
            Signal::Interrupt => "Ctrl-C (SIGINT)",
            Signal::Terminate => "SIGTERM",
        })
    }
}

/// Number of the last signal caught, 0 for none.
static CAUGHT: OnceLock<Arc<AtomicUsize>> = OnceLock::new();

/// From here on SIGINT and SIGTERM no longer end the process; [`stop_requested`] reports them.
/// Only a second SIGINT ends it at once, with exit code 130. Calling this again changes nothing.
pub fn install() -> Result<()> {
    let caught = Arc::new(AtomicUsize::new(0));
    if CAUGHT.set(caught.clone()).is_err() {
        return Ok(());
    }
    // Actions run in the order of registration: the first SIGINT finds `interrupted` unset.
    let interrupted = Arc::new(AtomicBool::new(false));
    flag::register_conditional_shutdown(SIGINT, INTERRUPTED, interrupted.clone())
        .and_then(|_| flag::register(SIGINT, interrupted))
        .and_then(|_| flag::register_usize(SIGINT, caught.clone(), SIGINT as usize))
        .and_then(|_| flag::register_usize(SIGTERM, caught, SIGTERM as usize))
        .context("cannot listen for SIGINT and SIGTERM")?;
    Ok(())
}

/// The signal that asked this process to stop, if one did since [`install`].
pub fn stop_requested() -> Option<Signal> {
    match CAUGHT.get()?.load(Ordering::Relaxed) as i32 {
        SIGINT => Some(Signal::Interrupt),
        SIGTERM => Some(Signal::Terminate),
        _ => None,
    }
}
