//! A state that is copied to host memory while training goes on: what is copied where, and when it is done.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tch::{Device, Tensor};

use super::pinned::PinnedMemory;
use crate::native::{bytes_of, copy_to_host};

/// How often a wait looks at whether the run has failed.
const RUN_CHECK_POLL: Duration = Duration::from_millis(100);
/// About how many bytes are copied between two looks at whether the save is given up.
const AT_ONCE: u64 = 1 << 30;

/// What is to be copied: memory of the training itself.
pub(super) struct Source {
    /// The file that it goes to.
    pub stem: String,
    /// Its name there.
    pub name: String,
    pub tensor: Tensor,
}

/// What this rank writes into one file: names there, and copies in host memory.
pub(super) struct Share {
    /// What the file's name begins with.
    pub stem: String,
    pub tensors: Vec<(String, Tensor)>,
}

/// Host memory for copies. To write to memory that was used before takes half as long as to fresh memory.
#[derive(Default)]
pub(super) struct CopyMemory {
    earlier: BTreeMap<(String, String), Tensor>,
    pinned: Option<PinnedMemory>,
}

impl CopyMemory {
    pub fn pinned(pinned: PinnedMemory) -> Self {
        Self { earlier: BTreeMap::new(), pinned: Some(pinned) }
    }

    /// Memory for a copy of `source`.
    fn take(&mut self, source: &Source) -> Result<Tensor> {
        let Source { stem, name, tensor } = source;
        let earlier = self.earlier.remove(&(stem.clone(), name.clone()));
        let fits = |copy: &Tensor| copy.size() == tensor.size() && copy.kind() == tensor.kind();
        if let Some(copy) = earlier.filter(fits) {
            return Ok(copy);
        }
        match self.pinned.as_mut().and_then(|pinned| pinned.take(tensor)) {
            Some(piece) => Ok(piece),
            None => Ok(Tensor::f_empty(tensor.size(), (tensor.kind(), Device::Cpu))?),
        }
    }

    /// Takes back what [`Self::copy`] gave.
    pub fn give_back(&mut self, shares: Vec<Share>) {
        for Share { stem, tensors } in shares {
            let entry = |(name, tensor)| ((stem.clone(), name), tensor);
            self.earlier.extend(tensors.into_iter().map(entry));
        }
    }

    /// Copies `sources`, those of a file one after another.
    ///
    /// # Errors
    /// There is no memory, the device fails, or the save was given up.
    pub fn copy(&mut self, sources: Vec<Source>, cancelled: &AtomicBool) -> Result<Vec<Share>> {
        let targets = sources.iter().map(|source| self.take(source)).collect::<Result<Vec<_>>>()?;
        let (mut from, mut to, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut shares: Vec<Share> = Vec::new();
        for (Source { stem, name, tensor }, target) in sources.into_iter().zip(targets) {
            bytes += bytes_of(&tensor);
            from.push(tensor.f_detach()?);
            to.push(target.shallow_clone());
            if bytes >= AT_ONCE {
                ensure!(!cancelled.load(Ordering::Relaxed), "given up, because the run ends");
                copy_to_host(&from, &to)?;
                from.clear();
                to.clear();
                bytes = 0;
            }
            match shares.last_mut() {
                Some(share) if share.stem == stem => share.tensors.push((name, target)),
                _ => shares.push(Share { stem, tensors: vec![(name, target)] }),
            }
        }
        copy_to_host(&from, &to)?;
        Ok(shares)
    }
}

/// A state that is being copied. It must not be changed before [`Self::wait`] has returned.
#[derive(Debug, Clone)]
#[must_use = "what is saved may be changed only when it is copied"]
pub struct Copying(Arc<(Mutex<Progress>, Condvar)>);

#[derive(Debug)]
struct Progress {
    is_done: bool,
    /// For how long training has not gone on because of this save.
    stall: Duration,
    /// Since when training waits for the copies, if it does.
    waiting: Option<Instant>,
}

/// Says that the copies are done when it is dropped, however the thread that makes them ends.
pub(super) struct Done(Copying);

impl Copying {
    /// One that has held up training for `stall` already.
    pub(super) fn new(stall: Duration) -> Self {
        Self(Arc::new((
            Mutex::new(Progress { is_done: false, stall, waiting: None }),
            Condvar::new(),
        )))
    }

    pub(super) fn done_when_dropped(&self) -> Done {
        Done(self.clone())
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the copies are made, or have failed, which the saver tells. `alive` is called now and then,
    /// and its error ends the wait.
    ///
    /// # Errors
    /// Those of `alive`.
    pub fn wait(&self, alive: &dyn Fn() -> Result<()>) -> Result<()> {
        let mut progress = self.progress();
        if !progress.is_done {
            progress.waiting = Some(Instant::now());
        }
        while !progress.is_done {
            let waited = self.0.1.wait_timeout(progress, RUN_CHECK_POLL);
            let (again, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            progress = again;
            if timeout.timed_out() {
                drop(progress);
                alive()?;
                progress = self.progress();
            }
        }
        Ok(())
    }

    /// For how long training did not go on because of the save, once the copies are made.
    pub fn stall(&self) -> Duration {
        self.progress().stall
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        let mut progress = self.0.progress();
        progress.is_done = true;
        if let Some(since) = progress.waiting.take() {
            progress.stall += since.elapsed();
        }
        self.0.0.1.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use anyhow::bail;

    use super::*;

    /// The stall is what was given and the time waited, not the time of copying.
    #[test]
    fn only_waiting_is_a_stall() {
        let copying = Copying::new(Duration::from_millis(5));
        let done = copying.done_when_dropped();
        let begun = Instant::now();
        let thread = thread::spawn(move || {
            thread::sleep(Duration::from_millis(150));
            drop(done);
        });
        thread::sleep(Duration::from_millis(50));
        copying.wait(&|| Ok(())).unwrap();
        let (stall, whole) = (copying.stall(), begun.elapsed());
        assert!(stall >= Duration::from_millis(5) && stall + Duration::from_millis(45) < whole);
        thread.join().unwrap();
        copying.wait(&|| bail!("not asked")).unwrap();
        assert_eq!(copying.stall(), stall);
    }

    /// A run that fails is not held up by copies.
    #[test]
    fn a_failed_run_does_not_wait() {
        let copying = Copying::new(Duration::ZERO);
        let _done = copying.done_when_dropped();
        assert!(copying.wait(&|| bail!("rank 1 has died")).is_err());
    }
}
