//! Who can say what it does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Describe = Arc<dyn Fn() -> String + Send + Sync>;

struct Source {
    number: u64,
    name: &'static str,
    describe: Describe,
}

struct Sources {
    next: u64,
    all: Vec<Source>,
}

static SOURCES: Mutex<Sources> = Mutex::new(Sources { next: 0, all: Vec::new() });

fn sources() -> MutexGuard<'static, Sources> {
    SOURCES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Something is part of dumps until this is dropped.
#[must_use = "what is dropped is no part of dumps"]
#[derive(Debug)]
pub struct Registration(u64);

/// Makes what `describe` gives, lines of text under `name`, a part of every dump. It runs on another
/// thread while this one may hang, so it must hold no lock that is held over a wait.
pub fn register(
    name: &'static str,
    describe: impl Fn() -> String + Send + Sync + 'static,
) -> Registration {
    let mut sources = sources();
    let number = sources.next;
    sources.next += 1;
    sources.all.push(Source { number, name, describe: Arc::new(describe) });
    Registration(number)
}

impl Drop for Registration {
    fn drop(&mut self) {
        // What it holds is dropped without the lock: that may register or end something in turn.
        let dropped = {
            let mut sources = sources();
            let place = sources.all.iter().position(|source| source.number == self.0);
            place.map(|place| sources.all.remove(place))
        };
        drop(dropped);
    }
}

/// All that is registered, in the order of registration.
pub(super) fn all() -> Vec<(&'static str, Describe)> {
    sources().all.iter().map(|source| (source.name, source.describe.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_told_no_more() {
        let is_told = || all().iter().any(|(name, tell)| *name == "test" && tell() == "at work");
        let registration = register("test", || "at work".into());
        assert!(is_told());
        drop(registration);
        assert!(!is_told());
    }
}
