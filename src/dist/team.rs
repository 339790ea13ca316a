//! All processes of a run, as one of them sees them.

use std::mem::ManuallyDrop;
use std::net::{ToSocketAddrs, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tch::{Device, Tensor};

use super::pulse::{Activity, Pulse};
use super::store_board::StoreBoard;
use super::{Alone, Board, Place};
use crate::native::c10d::{DeviceMark, Group, Work};
use crate::native::guard;

/// How long a wait goes on before the signs of life are looked at.
const TURN: Duration = Duration::from_millis(100);

/// Some process will not take part in the step under way, because the run is to stop: the state
/// before that step is the one to save.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the step was given up, because a rank was asked to stop")]
pub struct Abandoned;

/// The processes that train together. Of a process that trains alone everything here returns at
/// once.
pub struct Team {
    place: Place,
    device: Device,
    timeout: Duration,
    /// Whether this process was asked to stop.
    stop: fn() -> bool,
    others: Option<Others>,
}

struct Others {
    /// Taken out in [`Team::leave`] only: after a failure its destructor could wait for the dead.
    group: ManuallyDrop<Group>,
    pulse: Pulse,
    board: Arc<StoreBoard>,
}

impl Team {
    /// A process without others. `stop` says whether it was asked to stop.
    pub fn alone(device: Device, stop: fn() -> bool) -> Self {
        Self { place: Place::alone(), device, timeout: Duration::MAX, stop, others: None }
    }

    /// Meets the other processes of the run, which must come within `meeting`. Whoever is then
    /// silent for `timeout` is held for dead.
    ///
    /// # Errors
    /// Not all come; the message says who is missing.
    pub fn join(
        place: Place,
        device: Device,
        meeting: Duration,
        timeout: Duration,
        stop: fn() -> bool,
    ) -> Result<Self> {
        let serve = place.rank == 0 && !place.rendezvous.hosted_by_launcher;
        let board = Arc::new(StoreBoard::open(&place, serve, meeting)?);
        await_all(&board, meeting)?;
        let pulse_board = Arc::new(StoreBoard::open(&place, false, meeting)?);
        let rendezvous = &place.rendezvous;
        let keeper = format!("{}:{}", rendezvous.host, rendezvous.port);
        let pulse = Pulse::start(pulse_board, timeout, keeper, stop)?;
        // The signs of life find a dead process first, and can tell which one it is.
        let patience = meeting + timeout * 2;
        let (ranks, address) = ((place.rank, place.world_size), own_address(&place, device)?);
        let store = board.store().prefixed("group")?;
        let group = Group::join(&store, ranks, device, &address, patience)
            .map_err(|error| pulse.blame(error))
            .context("the ranks cannot connect to each other")?;
        let others = Others { group: ManuallyDrop::new(group), pulse, board };
        Ok(Self { place, device, timeout, stop, others: Some(others) })
    }

    pub fn rank(&self) -> usize {
        self.place.rank
    }

    pub fn world_size(&self) -> usize {
        self.place.world_size
    }

    /// Whether no launcher started this process. A team of one that a launcher started does all
    /// that larger ones do.
    pub fn is_alone(&self) -> bool {
        self.others.is_none()
    }

    /// Who this process is.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The first process writes what all write once.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// A board of notes for one more thread of this process.
    ///
    /// # Errors
    /// The store does not answer.
    pub fn board(&self) -> Result<Arc<dyn Board>> {
        Ok(match self.others {
            None => Arc::new(Alone::default()),
            Some(_) => Arc::new(StoreBoard::open(&self.place, false, self.timeout)?),
        })
    }

    /// Puts up `note`, for all processes to [`Self::read`].
    ///
    /// # Errors
    /// The store is gone.
    pub fn write(&self, key: &str, note: &[u8]) -> Result<()> {
        match &self.others {
            None => Ok(()),
            Some(others) => others.board.put(key, note).map_err(|error| others.pulse.blame(error)),
        }
    }

    /// Waits for the note `key` of some other process.
    ///
    /// # Errors
    /// A process failed.
    ///
    /// # Panics
    /// Alone: nobody would write.
    pub fn read(&self, key: &str) -> Result<Vec<u8>> {
        let others = self.others.as_ref().expect("there are others");
        let mut note = None;
        others.until(|| {
            note = others.board.look(key)?;
            if note.is_none() {
                std::thread::sleep(TURN / 5);
            }
            Ok(note.is_some())
        })?;
        Ok(note.unwrap_or_default())
    }

    /// Replaces `tensor` by the sum over all processes.
    ///
    /// # Errors
    /// A process failed.
    pub fn sum(&self, tensor: &Tensor) -> Result<()> {
        self.collective(|group| group.sum(tensor))
    }

    /// Replaces each number of `tensor` by the largest of all processes.
    ///
    /// # Errors
    /// A process failed.
    pub fn max(&self, tensor: &Tensor) -> Result<()> {
        self.collective(|group| group.max(tensor))
    }

    /// The 1-D `part`s of all processes one after the other, on the host.
    ///
    /// # Errors
    /// A process failed.
    pub fn gather(&self, part: &Tensor) -> Result<Tensor> {
        let whole = guard(|| {
            let length = part.size1()? * self.world_size() as i64;
            Ok(Tensor::zeros([length], (part.kind(), part.device())))
        })?;
        if self.others.is_none() {
            return guard(|| Ok(part.to_device(Device::Cpu)));
        }
        self.collective(|group| group.all_gather(&whole, part))?;
        self.settle()?;
        guard(|| Ok(whole.to_device(Device::Cpu)))
    }

    fn collective(&self, begin: impl FnOnce(&Group) -> Result<Work>) -> Result<()> {
        let Some(others) = &self.others else { return Ok(()) };
        let work = begin(&others.group).map_err(|error| others.pulse.blame(error))?;
        others.until(|| work.is_done_within(TURN))
    }

    /// Waits until `done` says so; it returns after a short turn if it is not.
    ///
    /// # Errors
    /// That of `done`, a failed process, or [`Abandoned`].
    pub fn until(&self, done: impl FnMut() -> Result<bool>) -> Result<()> {
        match &self.others {
            Some(others) => others.until(done),
            None => Ok(()),
        }
    }

    /// Waits until the device has done all that it was told: what waits for another process on a GPU
    /// must not be waited for blindly.
    ///
    /// # Errors
    /// A process failed, or something that the device was told.
    pub fn settle(&self) -> Result<()> {
        let Some(others) = &self.others else { return Ok(()) };
        let Some(mark) = DeviceMark::set(self.device)? else { return Ok(()) };
        others.until(|| {
            let passed = mark.is_passed()?;
            if !passed {
                std::thread::sleep(Duration::from_micros(50));
            }
            Ok(passed)
        })
    }

    /// Group for exchanges; `None` alone.
    pub(super) fn group(&self) -> Option<&Group> {
        self.others.as_ref().map(|others| &*others.group)
    }

    /// Says that training gets on, and that `step` (from 1) is worked on.
    pub fn progress(&self, step: u64) {
        if let Some(others) = &self.others {
            others.pulse.progress(step);
        }
    }

    /// Says what this process does from here on, and gives what it did.
    pub fn doing(&self, activity: Activity) -> Activity {
        self.others.as_ref().map_or(activity, |others| others.pulse.doing(activity))
    }

    /// Whether any process was asked to stop.
    pub fn is_asked_to_stop(&self) -> bool {
        match &self.others {
            None => (self.stop)(),
            Some(others) => others.pulse.is_asked_to_stop(),
        }
    }

    /// Says that this process will not take part in `step`. All others that have begun it find out
    /// where they wait, and none can have finished it.
    ///
    /// # Errors
    /// The store is gone.
    pub fn abandon(&self, step: u64) -> Result<()> {
        match &self.others {
            None => Ok(()),
            Some(others) => others.pulse.abandon(step).map_err(|error| others.pulse.blame(error)),
        }
    }

    /// # Errors
    /// A process failed, or gave up the step that this one works on.
    pub fn check(&self) -> Result<()> {
        self.others.as_ref().map_or(Ok(()), |others| others.pulse.check_step())
    }

    /// # Errors
    /// A process failed.
    pub fn check_failure(&self) -> Result<()> {
        self.others.as_ref().map_or(Ok(()), |others| others.pulse.check())
    }

    /// Tells the others that this process ends with `error`.
    pub fn announce(&self, error: &anyhow::Error) {
        if let Some(others) = &self.others {
            others.pulse.announce(error);
        }
    }

    /// The end of a run that went well.
    ///
    /// # Errors
    /// A process failed at the last moment.
    pub fn leave(mut self) -> Result<()> {
        let Some(others) = self.others.take() else { return Ok(()) };
        let Others { group, pulse, board: _board } = others;
        pulse.leave()?;
        if !pulse.is_any_abandoned() {
            drop(ManuallyDrop::into_inner(group));
        }
        Ok(())
    }
}

impl Others {
    fn until(&self, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
        let before = self.pulse.doing(Activity::WaitingForOthers);
        loop {
            match done() {
                Ok(true) => break,
                Ok(false) => self.pulse.check_step()?,
                Err(error) => return Err(self.pulse.blame(error)),
            }
        }
        self.pulse.doing(before);
        Ok(())
    }
}

/// Waits until every rank has come to the store. Rank 0 counts them; the others wait for its word, so
/// that a store of a thousand ranks is not asked a million times.
fn await_all(board: &StoreBoard, timeout: Duration) -> Result<()> {
    const COMPLETE: &[u8] = b"";
    let (rank, size) = (board.rank(), board.world_size());
    board.put(&format!("here/{rank}"), b"")?;
    let begun = Instant::now();
    let mut missing: Vec<usize> = (0..size).collect();
    loop {
        if let Some(word) = board.look("all")? {
            ensure!(word == COMPLETE, "{}", String::from_utf8_lossy(&word));
            return Ok(());
        }
        let late = begun.elapsed() > timeout;
        if rank == 0 {
            while let Some(&next) = missing.last()
                && board.look(&format!("here/{next}"))?.is_some()
            {
                missing.pop();
            }
            if missing.is_empty() {
                board.put("all", COMPLETE)?;
            } else if late {
                let absent = absent(board, &missing)?;
                board.put("all", missing_text(&absent, size, timeout).as_bytes())?;
                // It takes the store along when it ends: the others must have read this.
                std::thread::sleep(TURN * 5);
            }
        } else {
            let patience = timeout + TURN * 10;
            ensure!(begun.elapsed() < patience, "rank 0 did not come within {patience:.0?}");
        }
        std::thread::sleep(TURN / 5);
    }
}

fn absent(board: &StoreBoard, candidates: &[usize]) -> Result<Vec<usize>> {
    let mut absent = Vec::new();
    for &rank in candidates {
        if board.look(&format!("here/{rank}"))?.is_none() {
            absent.push(rank);
        }
    }
    Ok(absent)
}

fn missing_text(missing: &[usize], size: usize, timeout: Duration) -> String {
    let some = missing.iter().take(16).map(usize::to_string).collect::<Vec<_>>().join(", ");
    format!(
        "{} of {size} ranks did not come within {:.0} s (distributed.timeout_seconds): {some}{}",
        missing.len(),
        timeout.as_secs_f64(),
        if missing.len() > 16 { ", ..." } else { "" }
    )
}

/// The address of this node on the network that leads to rank 0, where Gloo listens.
fn own_address(place: &Place, device: Device) -> Result<String> {
    let rendezvous = &place.rendezvous;
    let target = (rendezvous.host.as_str(), rendezvous.port);
    let fail = || format!("{}:{} (MASTER_ADDR, MASTER_PORT)", target.0, target.1);
    let target = target
        .to_socket_addrs()
        .with_context(fail)?
        .next()
        .ok_or_else(|| anyhow!("no address"))
        .with_context(fail)?;
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    // Nothing is sent: the system only chooses the way, and with it the address.
    let socket = UdpSocket::bind(any).and_then(|socket| socket.connect(target).map(|()| socket));
    let address = socket.and_then(|socket| socket.local_addr()).with_context(fail)?.ip();
    ensure!(
        device != Device::Cpu
            || !address.is_loopback()
            || place.local_world_size == place.world_size
            || std::env::var_os("GLOO_SOCKET_IFNAME").is_some(),
        "MASTER_ADDR {} leads to this node's own loopback address {address}, though the run has \
         other nodes: give an address that all nodes reach, or name this node's interface in \
         GLOO_SOCKET_IFNAME",
        rendezvous.host
    );
    Ok(address.to_string())
}
