//! Everything that is looked at, in the order in which it is told.

use std::path::Path;

use super::exchange::{PairDevice, among_ranks, between_two};
use super::finding::{Finding, Verdict};
use super::{disk, gpus, machine, network};
use crate::config::DeviceChoice;
use crate::dist::environment;
use crate::run::{device, worker_program};

/// What was found on this machine.
#[derive(Debug)]
pub struct Examination {
    pub findings: Vec<Finding>,
    /// This process's rank among those of its launcher.
    pub rank: usize,
}

impl Examination {
    /// Number of findings of this verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.findings.iter().filter(|finding| finding.verdict == verdict).count()
    }
}

/// Looks at this machine, and whether a run may lie at `run`. Under a launcher all its processes call this;
/// `stop` says whether this one was asked to stop.
pub fn examine(run: &Path, stop: fn() -> bool) -> Examination {
    let mut findings = gpus::look();
    let gpus = gpus::count();
    findings.extend(machine::look(gpus));
    findings.push(match worker_program() {
        Ok(_) => Finding::ok("worker program", "lies beside this one"),
        Err(error) => Finding::problem(
            "worker program",
            format!("{error:#}"),
            "put distill-worker beside distill, from the same build",
        ),
    });
    findings.extend(disk::look(run));
    let place = environment::of_this_process();
    findings.extend(network::look(&place));
    let rank = place.as_ref().ok().and_then(Option::as_ref).map_or(0, |of| of.rank);
    match &place {
        Ok(Some(of)) if of.world_size > 1 => {
            let device = device::find("run.device", DeviceChoice::Auto, of.local_rank);
            findings.push(match device {
                Ok(device) => among_ranks(of, device, stop),
                Err(error) => Finding::problem("exchange", error.message, "start fewer processes"),
            });
        }
        Ok(_) => {
            let device = if gpus > 1 { PairDevice::Cuda } else { PairDevice::Cpu };
            findings.extend(std::env::current_exe().map(|program| between_two(&program, device)));
        }
        // Told already.
        Err(_) => {}
    }
    Examination { findings, rank }
}
