//! The threads of this process, and where the kernel has them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Thread numbers that a line names at most.
const NUMBERS_IN_A_LINE: usize = 8;

/// One thread.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Thread {
    name: String,
    /// As in `ps`: R runs, S sleeps, D waits for a device or a file system, T is stopped.
    state: char,
    /// Where it waits in the kernel; `-` where the kernel does not say.
    waits_in: String,
}

/// A line for all threads that have a name, a state and a wait in common: these, and their numbers.
pub(super) fn describe() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/proc/self/task") else { return Vec::new() };
    let mut groups: BTreeMap<Thread, Vec<u32>> = BTreeMap::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        let number = path.file_name().and_then(|name| name.to_str()?.parse().ok());
        // One that has ended meanwhile has no more to say.
        if let (Some(number), Some(thread)) = (number, read(&path)) {
            groups.entry(thread).or_default().push(number);
        }
    }
    groups.into_iter().map(|(thread, numbers)| line(&thread, numbers)).collect()
}

fn read(task: &Path) -> Option<Thread> {
    let text = |file: &str| fs::read_to_string(task.join(file)).ok();
    let stat = text("stat")?;
    // The name before it may hold brackets and spaces.
    let state = stat.rsplit_once(')')?.1.trim_start().chars().next()?;
    let waits_in = text("wchan").filter(|place| !matches!(place.trim(), "" | "0"));
    Some(Thread {
        name: text("comm")?.trim_end().to_string(),
        state,
        waits_in: waits_in.map_or_else(|| "-".into(), |place| place.trim().to_string()),
    })
}

fn line(thread: &Thread, mut numbers: Vec<u32>) -> String {
    numbers.sort_unstable();
    let some = numbers.iter().take(NUMBERS_IN_A_LINE).map(u32::to_string);
    let more = if numbers.len() > NUMBERS_IN_A_LINE { ", ..." } else { "" };
    let count = if numbers.len() > 1 { format!(" ×{}", numbers.len()) } else { String::new() };
    format!(
        "{}{count}: {} {} ({}{more})",
        thread.name,
        thread.state,
        thread.waits_in,
        some.collect::<Vec<_>>().join(", ")
    )
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    /// Threads of one name that wait alike share a line.
    #[test]
    fn threads_are_named_and_counted() {
        let (end, wait) = channel::<()>();
        let wait = std::sync::Arc::new(std::sync::Mutex::new(wait));
        let start = |_| {
            let wait = wait.clone();
            let run = move || assert!(wait.lock().unwrap().recv().is_err());
            thread::Builder::new().name("waits (here)".into()).spawn(run).unwrap()
        };
        let threads: Vec<_> = (0..2).map(start).collect();
        let is_told = || describe().iter().any(|line| line.starts_with("waits (here) ×2: S "));
        let told = (0..500).any(|_| {
            thread::sleep(std::time::Duration::from_millis(10));
            is_told()
        });
        assert!(told, "{:?}", describe());
        drop(end);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}
