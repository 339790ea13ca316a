//! Reads the chunks of the current and the next window ahead of their use.
//!
//! Samples of a window are read in a random order, but its chunks are long runs of neighbours:
//! read ahead as a whole, they come from disks, networks and object stores in long sequential
//! reads.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use crossbeam::channel::{Sender, unbounded};

use crate::dataset::Dataset;

use super::status::Progress;

/// Windows that are remembered, so that none is asked for twice.
const WINDOWS: usize = 64;

/// The thread that reads ahead. It receives the positions that are reached, and ends when their
/// sender is gone.
pub struct ReadAhead {
    reached: Sender<u64>,
    pub thread: JoinHandle<()>,
}

impl ReadAhead {
    /// Starts the thread.
    pub fn start(dataset: Arc<Dataset>, progress: Arc<Progress>) -> Result<Self> {
        let (reached, positions) = unbounded::<u64>();
        let thread = std::thread::Builder::new()
            .name("read-ahead".into())
            .spawn(move || {
                let mut ahead = Ahead { dataset, windows: VecDeque::new() };
                // Only the newest matters; workers read by themselves what comes too late here.
                while let Ok(position) = positions.recv() {
                    progress.reads_ahead.store(true, Ordering::Relaxed);
                    let newest = positions.try_iter().last().unwrap_or(position);
                    if let Err(error) = ahead.reach(newest) {
                        // Whoever needs these samples meets the same error, and reports it.
                        tracing::debug!("reading ahead: {error:#}");
                    }
                    progress.reads_ahead.store(false, Ordering::Relaxed);
                }
            })
            .context("cannot start a thread for reading ahead")?;
        Ok(Self { reached, thread })
    }

    /// Reports that the samples from `position` on are asked for now.
    pub fn reach(&self, position: u64) {
        // Without a listener nothing is read ahead, and workers read by themselves.
        let _ = self.reached.send(position);
    }
}

struct Ahead {
    dataset: Arc<Dataset>,
    windows: VecDeque<AheadWindow>,
}

/// A window of which some runs of samples are asked for already.
struct AheadWindow {
    id: (u64, u64),
    runs: Vec<Range<u64>>,
    asked: usize,
}

impl Ahead {
    /// Asks for all of the window at `position`, and for as much of the one after it as its own
    /// turn has advanced.
    fn reach(&mut self, position: u64) -> Result<()> {
        let turn = self.dataset.positions_of_a_turn();
        let advanced = position % self.dataset.sample_count() % turn;
        self.ask(position, 1.0)?;
        self.ask(position + turn, advanced as f64 / turn as f64)
    }

    fn ask(&mut self, position: u64, share: f64) -> Result<()> {
        let window = self.dataset.window_at(position);
        let known = self.windows.iter().position(|known| known.id == window.id());
        let known = known.unwrap_or_else(|| {
            if self.windows.len() == WINDOWS {
                self.windows.pop_front();
            }
            let runs = window.runs().collect();
            self.windows.push_back(AheadWindow { id: window.id(), runs, asked: 0 });
            self.windows.len() - 1
        });
        let AheadWindow { runs, asked, .. } = &mut self.windows[known];
        let wanted = (runs.len() as f64 * share).ceil() as usize;
        while *asked < wanted.min(runs.len()) {
            self.dataset.read_ahead(runs[*asked].clone())?;
            *asked += 1;
        }
        Ok(())
    }
}
