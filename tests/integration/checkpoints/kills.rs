//! SIGKILL at any moment of a save in the background.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use distill::train::checkpoint;

use crate::support::workshop::Workshop;

/// The last step of the workshop's schedule, taken longer.
const STEPS: u64 = 40;

/// Whether a save is under way or was broken off.
fn is_saving(checkpoints: &Path) -> bool {
    let entries = fs::read_dir(checkpoints).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().to_string_lossy().ends_with(".partial"))
}

/// A run that saves at every step and is killed in the middle of saves, at moments that differ,
/// has a whole checkpoint each time, and ends bit for bit where an undisturbed one ends.
#[test]
fn killed_while_saving_the_checkpoint_before_is_whole() {
    let workshop = Workshop::new();
    let settings = |run, every: u64| {
        let model = "students.0.model={dim=192, depth=4, heads=2, patch_size=8}".to_string();
        let epochs = format!("schedule.epochs={}", STEPS / 2);
        [format!("run.dir={run}"), format!("checkpoint.every={every}"), model, epochs]
    };
    let (killed, whole) = (settings("killed", 1), settings("whole", STEPS));
    let (killed, whole) =
        (killed.each_ref().map(String::as_str), whole.each_ref().map(String::as_str));
    let (run, checkpoints) = (workshop.path("killed"), workshop.path("killed/checkpoints"));
    let mut broken_off = 0;
    for kill in 0..8 {
        let mut child = workshop.start(&killed);
        let started = Instant::now();
        let newest = || {
            let names = workshop.checkpoints("killed");
            names.iter().filter_map(|name| name.strip_prefix("step-")?.parse().ok()).max()
        };
        let before: Option<u64> = checkpoints.exists().then(newest).flatten();
        // Two steps on, so that a save is not the first one of its process.
        let later = |found: Option<u64>| found > Some(before.unwrap_or(0) + 1);
        while !(checkpoints.exists() && later(newest()) && is_saving(&checkpoints)) {
            assert!(child.try_wait().unwrap().is_none(), "the run ended before it was killed");
            assert!(started.elapsed() < Duration::from_secs(120), "waited too long");
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(Duration::from_millis(4 * kill));
        child.kill().unwrap();
        child.wait().unwrap();
        broken_off += u32::from(is_saving(&checkpoints));
        let found = checkpoint::newest(&run).unwrap().unwrap();
        assert_eq!(Some(found.manifest.step), newest(), "the newest one is whole");
    }
    assert!(broken_off >= 2, "only {broken_off} of 8 kills hit a save");
    workshop.train(&killed).succeeds();
    workshop.train(&whole).succeeds();
    assert_eq!(workshop.checkpoint("killed", STEPS), workshop.checkpoint("whole", STEPS));
}
