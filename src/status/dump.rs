//! A dump on SIGQUIT: what all that is registered says, and the threads.

use std::sync::OnceLock;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use signal_hook::consts::SIGQUIT;
use signal_hook::iterator::Signals;

use super::{registry, threads};

/// When this process began to listen.
static LISTENS_SINCE: OnceLock<Instant> = OnceLock::new();

/// From here on SIGQUIT no longer ends this process: a thread hands a dump to `write`, section by
/// section, and the process goes on. `who` says which process of a run it is. Calling this again
/// changes nothing.
///
/// # Errors
/// The operating system refuses the signal handler or the thread.
pub fn dump_on_quit(who: String, write: fn(&str)) -> Result<()> {
    if LISTENS_SINCE.set(Instant::now()).is_err() {
        return Ok(());
    }
    let mut signals = Signals::new([SIGQUIT]).context("cannot listen for SIGQUIT")?;
    thread::Builder::new()
        .name("status".into())
        .spawn(move || signals.forever().for_each(|_| dump(&who, write)))
        .context("cannot start a thread that answers SIGQUIT")?;
    Ok(())
}

fn dump(who: &str, write: fn(&str)) {
    let up = LISTENS_SINCE.get().map_or(0.0, |since| since.elapsed().as_secs_f64());
    let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let process = std::process::id();
    write(&format!("status of {who} ({node}, process {process}), up {up:.1} s\n"));
    for (name, describe) in registry::all() {
        // One after the other: who does not answer hides nothing of those before.
        write(&section(name, &describe()));
    }
    let threads = threads::describe();
    write(&section("threads", &format!("name: state, where it waits\n{}", threads.join("\n"))));
    write(&format!("end of the status of {who}\n"));
}

/// The first line after the name, the others indented below it.
fn section(name: &str, text: &str) -> String {
    format!("  {name}: {}\n", text.trim_end().replace('\n', "\n    "))
}

#[cfg(test)]
mod tests {
    use super::section;

    #[test]
    fn further_lines_are_indented() {
        assert_eq!(section("loader", "2 of 4\nworker 7\n"), "  loader: 2 of 4\n    worker 7\n");
    }
}
