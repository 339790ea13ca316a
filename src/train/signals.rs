//! Signals that ask to stop: from Ctrl-C, from the cluster's scheduler, from a terminal that goes.

use std::fmt;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGXCPU, SIGXFSZ};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use signal_hook::low_level;
use tracing::warn;

use crate::{ONE_INTERRUPT, ending_signals};

/// Exit code of a process that a second Ctrl-C ends: 128 + SIGINT, as shells have it.
const INTERRUPTED: i32 = 130;

/// A request to save the run's state and end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal(i32);

impl fmt::Display for Signal {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, low_level::signal_name(self.0)) {
            (SIGINT, _) => text.write_str("Ctrl-C (SIGINT)"),
            (SIGXCPU, _) => text.write_str("SIGXCPU"),
            (_, Some(name)) => text.write_str(name),
            (number, None) => write!(text, "signal {number}"),
        }
    }
}

/// Number of the last signal caught, 0 for none.
static CAUGHT: AtomicI32 = AtomicI32::new(0);

/// From here on the [`ending_signals`] no longer end the process; [`stop_requested`] reports them. Only a
/// second SIGINT, half a second after the first one or later, ends it at once, with exit code 130. Calling this
/// again changes nothing.
pub fn install() -> Result<()> {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    if INSTALLED.set(()).is_err() {
        return Ok(());
    }
    // A file that may not grow is an error of writing, which tells its name and saves what can be saved.
    flag::register(SIGXFSZ, Arc::default()).context("cannot listen for signals")?;
    let signals = Signals::new(ending_signals()).context("cannot listen for signals")?;
    let listen = move || listen(signals);
    thread::Builder::new()
        .name("signals".into())
        .spawn(listen)
        .context("cannot start the thread that listens for signals")?;
    Ok(())
}

fn listen(mut signals: Signals) {
    let mut interrupted: Option<Instant> = None;
    for signal in signals.forever() {
        CAUGHT.store(signal, Ordering::Relaxed);
        if signal != SIGINT {
            continue;
        }
        match interrupted {
            Some(first) if first.elapsed() >= ONE_INTERRUPT => low_level::exit(INTERRUPTED),
            Some(_) => {}
            None => {
                interrupted = Some(Instant::now());
                warn!(
                    "Ctrl-C: ending as soon as what is done is kept; press it again to end without saving"
                );
            }
        }
    }
}

/// The signal that asked this process to stop, if one did since [`install`].
pub fn stop_requested() -> Option<Signal> {
    match CAUGHT.load(Ordering::Relaxed) {
        0 => None,
        signal => Some(Signal(signal)),
    }
}
