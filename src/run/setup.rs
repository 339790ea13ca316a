//! Setup of a run: its processes join, and agree on the configuration, the checkpoint to start from
//! and the data set.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Error, Result, ensure};
use serde::{Deserialize, Serialize};
use tch::Device;
use tracing::{debug_span, info};

use super::device;
use super::identity::{self, go_on, identity};
use super::options::Options;
use crate::artifacts::{Identity, paths};
use crate::config::{ConfigError, TrainConfig};
use crate::data::Dataset;
use crate::dist::{ProcessGroup, RankInfo, StoppedEarly, environment};
use crate::native::guard;
use crate::status;
use crate::tasks::TaskConfig;
use crate::train::checkpoint::Checkpoint;
use crate::train::run_directory::{Resume, RunDirectory};
use crate::train::signals;
use crate::ui::screen;

/// How much longer than the timeout the processes may take to meet: nodes do not start at one moment,
/// however soon a silent one is to be noticed later, and a restarted one waits for the others of the
/// attempt before to notice.
const EXTRA_TIME_TO_MEET: Duration = Duration::from_secs(60);

/// What rank 0 publishes about the run.
#[derive(Serialize, Deserialize)]
struct Start {
    /// The checkpoint that training goes on from.
    checkpoint: Option<PathBuf>,
    /// The resolved configuration.
    config: String,
    /// What of it is written, comments included.
    written: String,
    /// What was there before, which comes back if the run is refused.
    former: Option<String>,
}

/// Joins the processes of a run and does `work` with them, once `require` has said that the device can do
/// what is asked for. None if a signal came before all had joined. From then on SIGINT and SIGTERM no
/// longer end the process, and SIGQUIT prints what it does. Other ranks learn of an error, which `explain`
/// may add to.
///
/// # Errors
/// Not all processes join, or those of `require` and `work`.
pub fn with_group<T>(
    config: &TrainConfig,
    require: impl FnOnce(Device) -> Result<(), ConfigError>,
    explain: impl FnOnce(Error) -> Error,
    work: impl FnOnce(&ProcessGroup, Device) -> Result<T>,
) -> Result<Option<T>> {
    let rank_info = environment::of_this_process()?;
    answer_quit(rank_info.as_ref())?;
    let device = device::choose(&config.run, &rank_info.clone().unwrap_or_else(RankInfo::alone))?;
    require(device)?;
    device::tell(&config.run, &config.data, device);
    signals::install()?;
    let joining = debug_span!("join").entered();
    let group = match join(rank_info, config, device) {
        Ok(group) => group,
        Err(error) if error.is::<StoppedEarly>() => return Ok(None),
        Err(error) => return Err(error),
    };
    drop(joining);
    match guard(|| work(&group, device)).map_err(explain) {
        Ok(done) => group.leave().map(|()| Some(done)),
        Err(error) => {
            group.announce(&error);
            Err(error)
        }
    }
}

/// Opens the run's directory, on rank 0, and the checkpoint to start from, on all. From then on
/// `config` says how many images a step has.
///
/// # Errors
/// Those of [`open_directory`], or there are more processes than images of a step.
pub fn open_run(
    config: &mut dyn TaskConfig,
    options: &Options,
    group: &ProcessGroup,
) -> Result<(Option<RunDirectory>, Option<Checkpoint>, Identity)> {
    let dir = config.train().run.dir.clone();
    let mut found = Identity::default();
    let (run, checkpoint) = open_directory(dir, &options.resume, group, &mut |checkpoint| {
        settle_global_batch(config.train_mut(), group.world_size(), checkpoint)?;
        let mut comments = String::new();
        if group.is_first() {
            found = identity(config)?;
            if let Some(checkpoint) = checkpoint {
                go_on(&mut found, &checkpoint.manifest, options.accept_changes)?;
            }
            comments = identity::comments(&found);
        }
        Ok((comments, config.to_toml()))
    })?;
    Ok((run, checkpoint, found))
}

/// Gives comments and configuration for a run that starts from a checkpoint.
pub type Settle<'a> = &'a mut dyn FnMut(Option<&Checkpoint>) -> Result<(String, String)>;

/// Opens the directory `dir` of a run, on rank 0, and the checkpoint to start from, on all. `settle` gives
/// the resolved configuration, which may depend on that, and on rank 0 comments that come before it.
///
/// # Errors
/// The directory is in use or cannot be written, another process has another configuration or does
/// not see what rank 0 wrote, or those of `settle`.
pub fn open_directory(
    dir: PathBuf,
    resume: &Resume,
    group: &ProcessGroup,
    settle: Settle<'_>,
) -> Result<(Option<RunDirectory>, Option<Checkpoint>)> {
    if group.is_first() {
        let is_restart = group.rank_info().rendezvous.attempt > 0 || environment::is_requeued();
        let (mut run, checkpoint) = RunDirectory::open(dir, resume, is_restart)?;
        let (comments, config) = settle(checkpoint.as_ref())?;
        let written = comments + &config;
        run.write_config(&written)?;
        let folder = checkpoint.as_ref().map(|checkpoint| checkpoint.folder.clone());
        let former = run.former_config();
        let start = Start { checkpoint: folder, config, written, former };
        group.publish("start", &serde_json::to_vec(&start)?)?;
        return Ok((Some(run), checkpoint));
    }
    let start: Start = serde_json::from_slice(&group.wait_for("start")?)
        .context("rank 0 runs another version of distill")?;
    let written = paths::config(&dir);
    ensure!(
        std::fs::read_to_string(&written)
            .is_ok_and(|text| text == start.written || Some(text) == start.former),
        "rank {} does not see what rank 0 wrote to {}: run.dir must lie on storage that all nodes \
         share, under the same path",
        group.rank(),
        written.display()
    );
    let checkpoint = start.checkpoint.as_deref().map(Checkpoint::open_unverified).transpose()?;
    let (_, own) = settle(checkpoint.as_ref())?;
    if start.config != own {
        let first = |text: &str, other: &str| {
            let other: Vec<&str> = other.lines().collect();
            text.lines().find(|line| !other.contains(line)).unwrap_or("the same lines").to_string()
        };
        let (theirs, ours) = (first(&start.config, &own), first(&own, &start.config));
        return Err(ConfigError {
            file: PathBuf::new(),
            key: "--config".into(),
            message: format!(
                "all ranks must have the same configuration: rank {} has `{ours}`, rank 0 \
                 `{theirs}`",
                group.rank()
            ),
        }
        .into());
    }
    Ok((None, checkpoint))
}

/// Without `data.global_batch_size` a step has one batch of every process, unless the run was begun
/// with another number of them: then it keeps its global batch.
pub(super) fn settle_global_batch(
    config: &mut TrainConfig,
    ranks: usize,
    checkpoint: Option<&Checkpoint>,
) -> Result<(), ConfigError> {
    let begun_with = || checkpoint.map(|begun| begun.manifest.stream.global_batch_size);
    let global = config.data.global_batch_size.or_else(begun_with);
    let global = global.unwrap_or(config.data.batch_size * ranks);
    config.data.global_batch_size = Some(global);
    if global < ranks {
        return Err(ConfigError {
            file: PathBuf::new(),
            key: "data.global_batch_size".into(),
            message: format!(
                "found {global}, expected at least one image for each of {ranks} ranks"
            ),
        });
    }
    Ok(())
}

/// Opens the data set on all processes, on each node first on one of them, which may have to index
/// shards, and so that all see the same one.
///
/// # Errors
/// It cannot be opened, or is not that of rank 0.
pub fn open_dataset(
    config: &TrainConfig,
    group: &ProcessGroup,
    open: impl FnOnce() -> Result<Dataset>,
) -> Result<Dataset> {
    let rank_info = group.rank_info();
    let node = format!("dataset/{}", rank_info.node());
    if rank_info.local_rank > 0 {
        group.wait_for(&node)?;
    }
    let dataset = open()?;
    if rank_info.local_rank == 0 {
        group.publish(&node, b"")?;
    }
    let fingerprint = dataset.fingerprint().to_string() + dataset.content();
    if group.is_first() {
        group.publish("fingerprint", fingerprint.as_bytes())?;
    } else {
        ensure!(
            group.wait_for("fingerprint")? == fingerprint.as_bytes(),
            "rank {} does not see the data set of rank 0: data.shards ({}) must name the same \
             shards, with the same images, on all nodes",
            group.rank(),
            config.data.shards.join(", ")
        );
    }
    Ok(dataset)
}

/// From here on SIGQUIT prints what this process does, and where each of its threads is.
pub fn answer_quit(rank_info: Option<&RankInfo>) -> Result<()> {
    let who = rank_info.map_or_else(
        || "a run of one process".into(),
        |info| format!("rank {} of {}", info.rank, info.world_size),
    );
    // A terminal that is gone is no reason to end.
    status::dump_on_quit(who, |text| drop(screen::AboveBars.write_all(text.as_bytes())))
}

/// The process group: all processes that the launcher started, or this one alone.
///
/// # Errors
/// Not all processes join, or a signal asks to stop.
pub fn join(
    rank_info: Option<RankInfo>,
    config: &TrainConfig,
    device: Device,
) -> Result<ProcessGroup> {
    let asked_to_stop = || signals::stop_requested().is_some();
    let Some(rank_info) = rank_info else { return Ok(ProcessGroup::alone(device, asked_to_stop)) };
    let timeout = Duration::from_secs_f64(config.distributed.timeout_seconds);
    let (size, local) = (rank_info.world_size, rank_info.local_world_size);
    info!("rank {} of {size}, {local} on this node, on {device:?}", rank_info.rank);
    let meeting = timeout + EXTRA_TIME_TO_MEET;
    let name = config.run.dir.display().to_string();
    ProcessGroup::join(rank_info, device, &name, meeting, timeout, asked_to_stop)
}
