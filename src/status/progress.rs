//! Progress of long work, noted where the work is done and not where it was begun.

use std::cell::RefCell;
use std::sync::Arc;

/// Where progress is noted.
pub trait Progress: Send + Sync {
    /// A piece of work is done: a batch, a tensor, a part of a file.
    fn beat(&self);
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<dyn Progress>>> = const { RefCell::new(None) };
}

/// Notes, for whoever waits for this thread, that it has done a piece of work. Where nobody has asked
/// for that ([`note_progress_in`]), nothing happens.
pub fn beat() {
    CURRENT.with_borrow(|current| {
        if let Some(progress) = current {
            progress.beat();
        }
    });
}

/// Where progress of this thread is noted, for threads that work on its behalf.
pub fn progress() -> Option<Arc<dyn Progress>> {
    CURRENT.with_borrow(Clone::clone)
}

/// From here on [`beat`] on this thread is noted in `progress`. Returns where it was noted before.
pub fn note_progress_in(progress: Option<Arc<dyn Progress>>) -> Option<Arc<dyn Progress>> {
    CURRENT.replace(progress)
}
