//! Who this process is among others, and how they find each other.

use std::io::ErrorKind;
use std::net::{IpAddr, TcpListener, ToSocketAddrs};

use nix::ifaddrs::getifaddrs;

use super::finding::Finding;
use crate::config::ConfigError;
use crate::dist::RankInfo;

/// The port of the examples in docs/CLUSTERS.md.
const USUAL_PORT: u16 = 29500;

/// What the launcher's variables `place` say, and whether the network fits them.
pub(super) fn look(place: &Result<Option<RankInfo>, ConfigError>) -> Vec<Finding> {
    let mut findings = vec![of_launcher(place)];
    let own_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    findings.push(of_host_name(&own_name, addresses_of(&own_name)));
    findings.push(of_interfaces());
    let rank_info = place.as_ref().ok().and_then(Option::as_ref);
    if let Some(rank_info) = rank_info.filter(|rank_info| rank_info.world_size > 1) {
        findings.push(of_master(rank_info, addresses_of(&rank_info.rendezvous.host)));
    }
    let (port, is_own) = match rank_info {
        // Whoever listens there by now is who should.
        Some(of) if of.rank > 0 || of.rendezvous.hosted_by_launcher => return findings,
        Some(of) if of.rendezvous.port > 0 => (of.rendezvous.port, true),
        _ => (USUAL_PORT, false),
    };
    findings.push(of_port(port, is_own, TcpListener::bind(("0.0.0.0", port)).map(drop)));
    findings
}

fn of_launcher(place: &Result<Option<RankInfo>, ConfigError>) -> Finding {
    const NAME: &str = "launcher";
    match place {
        Ok(None) => Finding::ok(NAME, "none: one process"),
        Ok(Some(of)) => Finding::ok(
            NAME,
            format!(
                "rank {} of {}, {} of {} on this node",
                of.rank, of.world_size, of.local_rank, of.local_world_size
            ),
        ),
        Err(error) => Finding::problem(
            NAME,
            error.to_string(),
            "start every process through one launcher, or unset its variables",
        ),
    }
}

fn addresses_of(host: &str) -> Result<Vec<IpAddr>, String> {
    let found = (host, 0).to_socket_addrs().map_err(|error| error.to_string())?;
    let mut addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    addresses.dedup();
    Ok(addresses)
}

fn listed(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn of_host_name(name: &str, addresses: Result<Vec<IpAddr>, String>) -> Finding {
    match addresses {
        Ok(addresses) => Finding::ok("host name", format!("{name} is {}", listed(&addresses))),
        Err(error) => Finding::warning(
            "host name",
            format!("{name} has no address: {error}"),
            "several nodes need one: add it to /etc/hosts, or give addresses as MASTER_ADDR",
        ),
    }
}

fn of_interfaces() -> Finding {
    const NAME: &str = "interfaces";
    let Ok(all) = getifaddrs() else { return Finding::ok(NAME, "the system does not say") };
    let four = all.filter_map(|one| {
        let address = one.address?.as_sockaddr_in()?.ip();
        (!address.is_loopback()).then(|| format!("{} {address}", one.interface_name))
    });
    let found: Vec<String> = four.collect();
    match found.is_empty() {
        true => Finding::ok(NAME, "loopback alone: one machine"),
        false => Finding::ok(NAME, found.join(", ")),
    }
}

fn of_master(rank_info: &RankInfo, addresses: Result<Vec<IpAddr>, String>) -> Finding {
    const NAME: &str = "MASTER_ADDR";
    let host = &rank_info.rendezvous.host;
    let advice = "give a name or an address of rank 0's node that all nodes reach";
    let is_one_node = rank_info.local_world_size == rank_info.world_size;
    match addresses {
        Err(error) => Finding::problem(NAME, format!("{host} has no address: {error}"), advice),
        Ok(addresses) if !is_one_node && addresses.iter().all(IpAddr::is_loopback) => {
            let found =
                format!("{host} is {} on this node, and there are others", listed(&addresses));
            Finding::problem(NAME, found, advice)
        }
        Ok(addresses) => Finding::ok(NAME, format!("{host} is {}", listed(&addresses))),
    }
}

fn of_port(port: u16, is_own: bool, bound: std::io::Result<()>) -> Finding {
    let Err(error) = bound else { return Finding::ok("port", format!("{port} is free")) };
    let found = match error.kind() {
        ErrorKind::AddrInUse => format!("{port} is taken by another program"),
        _ => format!("{port} cannot be listened at: {error}"),
    };
    match is_own {
        true => Finding::problem("port", found, "set another MASTER_PORT for all ranks"),
        false => Finding::warning("port", found, "of several nodes give --master-port another one"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    #[test]
    fn what_keeps_ranks_apart_is_told() {
        use Verdict::{Ok as Good, Problem, Warning};
        let mut of_two = RankInfo { world_size: 2, local_world_size: 2, ..RankInfo::alone() };
        let loopback = || Ok(vec![IpAddr::from([127, 0, 0, 1])]);
        assert_eq!(of_master(&of_two, loopback()).verdict, Good, "one node");
        of_two.local_world_size = 1;
        assert_eq!(of_master(&of_two, loopback()).verdict, Problem, "two nodes");
        assert_eq!(of_master(&of_two, Err("unknown".into())).verdict, Problem);
        assert_eq!(of_host_name("a", Err("unknown".into())).verdict, Warning);
        let taken = || Err(ErrorKind::AddrInUse.into());
        assert_eq!(of_port(1, true, taken()).verdict, Problem);
        assert_eq!(of_port(1, false, taken()).verdict, Warning);
        assert!(addresses_of("no-such-host.invalid").is_err());
    }
}
