//! The rendezvous: how the processes of a run join its store, and no other.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use tracing::info;

use super::environment::RankInfo;
use super::error::StoppedEarly;
use super::heartbeat::report_former_self;
use super::kv_store::KvStore;
use super::tcp_store::{Pause, TcpKvStore, some_of};

/// Key of the run that the store belongs to, written by rank 0.
const RUN: &str = "run";
/// Key under which rank 0 says that all have joined, or which ranks are missing.
const ALL: &str = "all";
/// Time for waiting ranks to read rank 0's last note.
const LONGEST_READING_OF_A_LAST_WORD: Duration = Duration::from_millis(1500);
/// When it is first said who is waited for, and how often from then on.
const FIRST_WORD: Duration = Duration::from_secs(8);
const PAUSE_BETWEEN_WORDS: Duration = Duration::from_secs(60);
/// Pause before a store that is not this attempt's is tried again.
const PAUSE_BEFORE_JOINING_AGAIN: Duration = Duration::from_millis(500);

/// Connects to the store of the run (`name` tells it from others) and waits until every rank has
/// joined.
///
/// The store found may be that of the attempt before, whose rank 0 has not noticed yet that the former
/// process of this rank is gone; then it is told so, and left.
///
/// # Errors
/// Not all join within `meeting`; the message says which ranks are missing, or what was found instead.
pub fn meet(
    rank_info: &RankInfo,
    name: &str,
    meeting: Duration,
    stop: fn() -> bool,
) -> Result<Arc<TcpKvStore>> {
    let serve = rank_info.rank == 0 && !rank_info.rendezvous.hosted_by_launcher;
    let name = format!("{name} on {} ranks", rank_info.world_size);
    let begun = Instant::now();
    loop {
        let left = meeting.saturating_sub(begun.elapsed()).max(PAUSE_BEFORE_JOINING_AGAIN);
        let store = TcpKvStore::open(rank_info, serve, left)?;
        let found = match enter(&store, rank_info, &name, left, stop) {
            Ok(None) => return Ok(Arc::new(store)),
            Ok(Some(found)) => found,
            // The rank 0 that kept this store has ended.
            Err(error) if error.is::<StoppedEarly>() => return Err(error),
            Err(error) if rank_info.rank > 0 && begun.elapsed() < meeting => format!("{error:#}"),
            Err(error) => return Err(error),
        };
        let rendezvous = &rank_info.rendezvous;
        ensure!(
            begun.elapsed() < meeting,
            "rank {} cannot join at {}:{} (MASTER_ADDR, MASTER_PORT): {found}",
            rank_info.rank,
            rendezvous.host,
            rendezvous.port
        );
        drop(store);
        ensure!(!stop(), StoppedEarly);
        thread::sleep(PAUSE_BEFORE_JOINING_AGAIN);
    }
}

/// Joins the run's store, or says why the store found is another one.
fn enter(
    store: &TcpKvStore,
    rank_info: &RankInfo,
    name: &str,
    meeting: Duration,
    stop: fn() -> bool,
) -> Result<Option<String>> {
    if rank_info.rank == 0 {
        store.set(RUN, name.as_bytes())?;
    }
    let Some(run) = store.wait_for(RUN, meeting, stop)? else {
        return Ok(Some("rank 0 has not joined".into()));
    };
    if run != name.as_bytes() {
        let other = String::from_utf8_lossy(&run);
        return Ok(Some(format!("another run uses this port ({other}): choose another one")));
    }
    if store.tcp().count(&here(rank_info.rank))? > 1 {
        // A second start of the same run, by mistake, must not end the first.
        if rank_info.rendezvous.attempt > 0 {
            report_former_self(store)?;
        }
        return Ok(Some("this rank of the run has joined already".into()));
    }
    if rank_info.rank == 0 {
        count_all(store, rank_info.world_size, meeting, stop)?;
        return Ok(None);
    }
    match store.wait_for(ALL, meeting + LONGEST_READING_OF_A_LAST_WORD, stop)? {
        Some(word) if word.is_empty() => Ok(None),
        Some(word) => bail!("{}", String::from_utf8_lossy(&word)),
        None => Ok(Some("rank 0 does not confirm that all ranks have joined".into())),
    }
}

/// Rank 0 counts for all, so that the store of a thousand ranks is not asked a million times.
fn count_all(store: &TcpKvStore, size: usize, meeting: Duration, stop: fn() -> bool) -> Result<()> {
    let begun = Instant::now();
    let mut next_word = begun + FIRST_WORD;
    let mut pause = Pause::default();
    let mut missing: Vec<usize> = (0..size).collect();
    loop {
        while let Some(&next) = missing.last()
            && store.get(&here(next))?.is_some()
        {
            missing.pop();
        }
        if missing.is_empty() {
            return store.set(ALL, b"");
        }
        ensure!(!stop(), StoppedEarly);
        if Instant::now() > next_word {
            next_word = Instant::now() + PAUSE_BETWEEN_WORDS;
            tell_waiting(&store.without_note(&missing, here)?, size);
        }
        if begun.elapsed() > meeting {
            let text = missing_text(&store.without_note(&missing, here)?, size, meeting);
            store.set(ALL, text.as_bytes())?;
            // It takes the store along when it ends: the others must have read this.
            thread::sleep(LONGEST_READING_OF_A_LAST_WORD);
            bail!(text);
        }
        pause.take();
    }
}

/// Says who is there and who is waited for, and in a person's shell how not to wait.
fn tell_waiting(absent: &[usize], size: usize) {
    let is_step = std::env::var_os("SLURM_STEP_NUM_TASKS").is_some();
    let shell = if is_step {
        "; in a shell of srun --pty alone, start it with srun -n 1, or unset SLURM_STEP_NUM_TASKS"
    } else {
        ""
    };
    let here = size - absent.len();
    info!("{here} of {size} ranks are here; waiting for ranks {}{shell}", some_of(absent));
}

fn here(rank: usize) -> String {
    format!("here/{rank}")
}

fn missing_text(missing: &[usize], size: usize, meeting: Duration) -> String {
    format!(
        "{} of {size} ranks did not come within {:.0} s: {}",
        missing.len(),
        meeting.as_secs_f64(),
        some_of(missing)
    )
}
