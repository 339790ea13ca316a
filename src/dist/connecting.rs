//! How the processes of a run, once all have met, connect to each other for collectives.

use std::env;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::ifaddrs::getifaddrs;
use tch::Device;
use tracing::info;

use super::environment::RankInfo;
use super::error::StoppedEarly;
use super::heartbeat::Heartbeat;
use super::kv_store::KvStore;
use super::tcp_store::{TcpKvStore, some_of};
use crate::native::c10d::{Collectives, are_queued, set_variable};
use crate::native::{make_current, skip_destructors};

/// How often failures and signals are looked at meanwhile.
const POLL: Duration = Duration::from_millis(100);

/// How much longer than rank 0, which can say who is missing, the other ranks wait.
const EXTRA_PATIENCE: Duration = Duration::from_secs(5);

/// Which of a node's interfaces NCCL uses, and Gloo.
const NCCL_INTERFACE: &str = "NCCL_SOCKET_IFNAME";
const GLOO_INTERFACE: &str = "GLOO_SOCKET_IFNAME";

/// Connects this process to the others, within `patience`.
///
/// # Errors
/// The ranks do not connect in time: who is missing, or which interface was tried. A process fails, or
/// is asked to stop.
pub(super) fn connect(
    rank_info: &RankInfo,
    device: Device,
    store: &TcpKvStore,
    patience: Duration,
    heartbeat: &Heartbeat,
) -> Result<Arc<Collectives>> {
    let group_store = store.tcp().prefixed("group")?;
    let place = (rank_info.rank, rank_info.world_size);
    let fail = |error: anyhow::Error| {
        heartbeat.blame(error).context("the ranks cannot connect to each other")
    };
    if !are_queued(device)? {
        let address = own_address(rank_info)?;
        let joined = Collectives::join(&group_store, place, device, &address, patience);
        return joined.map(Arc::new).map_err(fail);
    }
    store.set(&key(rank_info.rank), b"")?;
    make_current(device)?;
    // NCCL has no time limit: a network that carries nothing would hold this thread for ever.
    let (sender, receiver) = sync_channel(1);
    thread::Builder::new().name("connect".into()).spawn(move || {
        let _ = sender.send(Collectives::join(&group_store, place, device, "", patience));
    })?;
    let limit = if rank_info.rank == 0 { patience } else { patience + EXTRA_PATIENCE };
    let begun = Instant::now();
    loop {
        match receiver.recv_timeout(POLL) {
            Ok(joined) => return joined.map(Arc::new).map_err(fail),
            Err(RecvTimeoutError::Disconnected) => bail!("the connecting thread has ended"),
            Err(RecvTimeoutError::Timeout) => {}
        }
        let check = || {
            heartbeat.check()?;
            ensure!(!heartbeat.is_asked_to_stop(), StoppedEarly);
            ensure!(begun.elapsed() < limit, not_connected(rank_info, patience));
            Ok(())
        };
        // That thread is left behind inside NCCL.
        check().inspect_err(|_| skip_destructors())?;
    }
}

/// Under which a rank says that it connects now.
fn key(rank: usize) -> String {
    format!("connecting/{rank}")
}

/// What rank 0 can tell of ranks that do not connect.
fn not_connected(rank_info: &RankInfo, patience: Duration) -> String {
    let size = rank_info.world_size;
    let begin =
        format!("NCCL has not connected the {size} ranks within {:.0} s", patience.as_secs_f64());
    let missing = missing(rank_info).unwrap_or_default();
    if !missing.is_empty() {
        return format!("{begin}: these did not come so far: {}", some_of(&missing));
    }
    let interface = env::var(NCCL_INTERFACE)
        .map_or_else(|_| "that NCCL chose".into(), |name| format!("`{name}`"));
    format!(
        "{begin}, though all have tried: does traffic between the nodes pass over the interface \
         {interface}? {NCCL_INTERFACE} names another one; NCCL_DEBUG=INFO says what NCCL does"
    )
}

/// Over a connection of its own: NCCL may hold the other one.
fn missing(rank_info: &RankInfo) -> Result<Vec<usize>> {
    if rank_info.rank > 0 {
        return Ok(Vec::new());
    }
    let store = TcpKvStore::open(rank_info, false, EXTRA_PATIENCE)?;
    store.without_note(&(0..rank_info.world_size).collect::<Vec<_>>(), key)
}

/// Has NCCL use the interface that leads to rank 0, unless the user named one or all ranks are on this
/// node: the one that it would take first may be a bridge of containers, or lead nowhere. Called while
/// nobody else reads the environment.
pub(super) fn lead_nccl(rank_info: &RankInfo) -> Result<()> {
    let is_one_node = rank_info.local_world_size == rank_info.world_size;
    if is_one_node || env::var_os(NCCL_INTERFACE).is_some() {
        return Ok(());
    }
    // Without a name NCCL looks for one itself.
    let Ok(address) = route_to_master(rank_info) else { return Ok(()) };
    let Some(interface) = interface_of(address).filter(|_| !address.is_loopback()) else {
        return Ok(());
    };
    info!("NCCL connects over {interface}, which leads to rank 0 ({NCCL_INTERFACE} names another)");
    // "=": this name, not all that begin with it.
    set_variable(NCCL_INTERFACE, &format!("={interface}"))
}

fn interface_of(address: IpAddr) -> Option<String> {
    let has_it = |storage: nix::sys::socket::SockaddrStorage| -> bool {
        let four = storage.as_sockaddr_in().map(|socket| IpAddr::from(socket.ip()));
        let six = storage.as_sockaddr_in6().map(|socket| IpAddr::from(socket.ip()));
        four.or(six) == Some(address)
    };
    let mut interfaces = getifaddrs().ok()?;
    interfaces.find(|one| one.address.is_some_and(has_it)).map(|one| one.interface_name)
}

/// The address of this node on the network that leads to rank 0, where Gloo listens.
fn own_address(rank_info: &RankInfo) -> Result<String> {
    let address = route_to_master(rank_info)?;
    ensure!(
        !address.is_loopback()
            || rank_info.local_world_size == rank_info.world_size
            || env::var_os(GLOO_INTERFACE).is_some(),
        "MASTER_ADDR {} leads to this node's own loopback address {address}, though the run has \
         other nodes: give an address that all nodes reach, or name this node's interface in \
         {GLOO_INTERFACE}",
        rank_info.rendezvous.host
    );
    Ok(address.to_string())
}

/// The address that this node sends from on its way to rank 0: of a name with several addresses, to the
/// first that there is a way to.
pub(super) fn route_to_master(rank_info: &RankInfo) -> Result<IpAddr> {
    let rendezvous = &rank_info.rendezvous;
    let master = (rendezvous.host.as_str(), rendezvous.port);
    let fail = || format!("{}:{} (MASTER_ADDR, MASTER_PORT)", master.0, master.1);
    let mut outcome = Err(anyhow!("no address"));
    for target in master.to_socket_addrs().with_context(fail)? {
        outcome = route_to(target).map_err(anyhow::Error::from);
        if outcome.is_ok() {
            break;
        }
    }
    outcome.with_context(fail)
}

fn route_to(target: SocketAddr) -> std::io::Result<IpAddr> {
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    // Nothing is sent: the system only chooses the way, and with it the address.
    let socket = UdpSocket::bind(any)?;
    socket.connect(target)?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_belongs_to_an_interface() {
        let here = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(interface_of(here).as_deref(), Some("lo"));
        assert_eq!(interface_of(IpAddr::from([192, 0, 2, 1])), None);
    }
}
