//! Attempts one after the other, until one does not fail or none is left.

use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGCHLD, SIGQUIT};
use signal_hook::iterator::Signals;
use tracing::warn;

use super::attempt::Attempt;
use super::ending::Ending;
use super::plan::Launch;
use crate::ending_signals;

/// Runs the processes to their end, with as many new attempts as are allowed. They die with the
/// thread that calls this, so it must be the main one.
///
/// # Errors
/// A process cannot be started, or one cannot be ended. Failures of the processes themselves are in
/// the [`Ending`].
pub fn launch(launch: &Launch) -> Result<Ending> {
    let signals = listen()?;
    for attempt in 0.. {
        let port = match launch.port {
            Some(port) => port,
            None => free_port()?,
        };
        let ending = Attempt::start(launch, attempt, port)?.see_through(&signals)?;
        let Ending::Failed(failure) = &ending else { return Ok(ending) };
        let is_retried = !failure.was_asked_to_stop
            && failure.how.code() != launch.usage_code
            && attempt < launch.max_restarts;
        if !is_retried {
            return Ok(ending);
        }
        warn!(
            "{failure}\nrestart {} of {}: all processes start again, from the newest checkpoint",
            attempt + 1,
            launch.max_restarts
        );
    }
    unreachable!("attempts end by returning")
}

/// From here on these signals no longer end this process, but come out of the receiver.
fn listen() -> Result<Receiver<i32>> {
    let signals = ending_signals().iter().chain(&[SIGQUIT, SIGCHLD]);
    let mut signals = Signals::new(signals).context("cannot listen for signals")?;
    let (sender, receiver) = channel();
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || signals.forever().try_for_each(|signal| sender.send(signal)))
        .context("cannot start a thread")?;
    Ok(receiver)
}

/// A port of this machine that nobody listens on at the moment.
fn free_port() -> Result<u16> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .context("cannot find a free port on 127.0.0.1; name one with --master-port")
}
