//! Lifelines: ports at which processes listen as long as they live. The system answers there even for a
//! process that hangs, so who is refused at a port that answered before knows that its process is gone,
//! long before silence alone may tell; a host or network that is gone refuses nothing.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::shared::{Answer, Seen, Shared, locked};
use crate::dist::activity::Activity;

/// Silence after which a process's port is tried: longer than rank 0 takes between two looks.
const LONGEST_SILENCE: Duration = Duration::from_millis(5500);
/// How long an answer may take.
const LONGEST_ANSWER: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(100);

/// The port of this process.
pub(super) struct Lifeline {
    listener: TcpListener,
    pub address: SocketAddr,
}

impl Lifeline {
    /// Listens at a free port of `address`, this node's as rank 0 reaches it.
    ///
    /// # Errors
    /// The address is not this node's.
    pub fn open(address: IpAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((address, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// Lets go of those who asked, before the system's list of them is full.
    pub fn drain(&self) {
        while self.listener.accept().is_ok() {}
    }
}

impl Answer {
    /// What is known after the port was tried.
    fn after(self, outcome: io::Result<TcpStream>) -> Self {
        match outcome {
            Ok(_) => Self::Lives,
            Err(error) if self == Self::Lives && error.kind() == ErrorKind::ConnectionRefused => {
                Self::Gone
            }
            // A network that is down for a while.
            Err(_) if self == Self::Lives => Self::Lives,
            Err(_) => Self::Unreachable,
        }
    }
}

/// Tries the ports of processes: each once at the beginning, and then those of the silent. In rank 0, which
/// sees the signs of all.
pub(super) fn watch(shared: Arc<Shared>) {
    while !shared.ended.load(Ordering::Relaxed) {
        let due: Vec<usize> = {
            let seen = locked(&shared.seen);
            (0..seen.len()).filter(|&place| is_due(&seen[place])).collect()
        };
        for place in due {
            let address = locked(&shared.seen)[place].sign.as_ref().and_then(|sign| sign.lifeline);
            let Some(address) = address else { continue };
            // Not under the lock: it may take a second.
            let outcome = TcpStream::connect_timeout(&address, LONGEST_ANSWER);
            let seen = &mut locked(&shared.seen)[place];
            seen.answer = seen.answer.after(outcome);
            seen.asked = Some(Instant::now());
        }
        thread::sleep(PAUSE);
    }
}

fn is_due(seen: &Seen) -> bool {
    let Some(sign) = &seen.sign else { return false };
    match seen.answer {
        Answer::NotAsked => true,
        Answer::Lives => {
            let is_rested = seen.asked.is_none_or(|asked| asked.elapsed() > LONGEST_SILENCE / 2);
            sign.activity != Activity::Left && seen.alive.elapsed() > LONGEST_SILENCE && is_rested
        }
        Answer::Unreachable | Answer::Gone => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_refused_where_it_was_answered_knows() {
        let lifeline = Lifeline::open([127, 0, 0, 1].into()).unwrap();
        let ask = || TcpStream::connect_timeout(&lifeline.address, LONGEST_ANSWER);
        let lives = Answer::NotAsked.after(ask());
        assert_eq!(lives, Answer::Lives);
        lifeline.drain();
        let address = lifeline.address;
        drop(lifeline);
        let refused = || TcpStream::connect_timeout(&address, LONGEST_ANSWER);
        assert_eq!(lives.after(refused()), Answer::Gone);
        assert_eq!(Answer::NotAsked.after(refused()), Answer::Unreachable);
        let cut = || Err(io::Error::from(ErrorKind::TimedOut));
        assert_eq!(lives.after(cut()), Answer::Lives);
    }
}
