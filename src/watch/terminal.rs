//! The terminal, taken for a while and given back as it was.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use rustix::event::{PollFd, PollFlags, Timespec, poll as event_of_files};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::frame::draw;
use super::view::View;
use super::watched::Watched;

/// Time between two looks at the run's files.
const PAUSE: Duration = Duration::from_millis(500);

/// Gives the terminal back when dropped, also by a panic.
struct Loan;

impl Drop for Loan {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = ratatui::try_restore();
    }
}

/// Lends the whole terminal to `work`; whatever comes of that, the screen, cursor and modes of before are back
/// afterwards.
///
/// # Errors
/// Those of `work`, or standard output is no terminal.
pub fn on_terminal<T>(work: impl FnOnce(&mut DefaultTerminal) -> Result<T>) -> Result<T> {
    let _loan = Loan;
    let mut terminal = ratatui::try_init().context("cannot take the terminal")?;
    work(&mut terminal)
}

/// Shows the run, as it grows, until the user or a signal ends that.
///
/// # Errors
/// The run's files cannot be read, or the terminal is lost.
pub fn show(watched: &mut Watched) -> Result<()> {
    let ending = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, ending.clone()).context("cannot listen to signals")?;
    }
    on_terminal(|terminal| {
        let mut view = View::default();
        let keyboard = Keyboard::find()?;
        while !ending.load(Ordering::Relaxed) {
            watched.look()?;
            terminal.draw(|frame| draw(frame, watched, &view, now()))?;
            if !take_keys(&keyboard, &mut view, watched)? {
                break;
            }
        }
        Ok(())
    })
}

/// Waits for keys until the files are to be looked at again. Whether the user stays.
fn take_keys(keyboard: &Keyboard, view: &mut View, watched: &Watched) -> Result<bool> {
    match keyboard.wait(if watched.has_more { Duration::ZERO } else { PAUSE })? {
        Waited::Closed => return Ok(false),
        Waited::Nothing => return Ok(true),
        Waited::Keys => {}
    }
    // All that was typed meanwhile, and then the screen.
    while poll(Duration::ZERO)? {
        if let Event::Key(key) = event::read().context("the terminal is lost")?
            && !view.takes(key, watched.names.len())
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Where keys come from. It is waited for here, because `crossterm` waits for ever, and busily, at a terminal that is
/// closed.
enum Keyboard {
    Stdin,
    Tty(File),
}

enum Waited {
    Nothing,
    Keys,
    /// The terminal is gone, and with it whoever could press a key.
    Closed,
}

impl Keyboard {
    /// As `crossterm` finds it.
    fn find() -> Result<Self> {
        if io::stdin().is_terminal() {
            return Ok(Self::Stdin);
        }
        File::open("/dev/tty").map(Self::Tty).context("there is no terminal to read keys from")
    }

    fn wait(&self, most: Duration) -> Result<Waited> {
        let stdin = io::stdin();
        let mut keys = [match self {
            Self::Stdin => PollFd::new(&stdin, PollFlags::IN),
            Self::Tty(tty) => PollFd::new(tty, PollFlags::IN),
        }];
        let most = Timespec::try_from(most).context("a time to wait")?;
        match event_of_files(&mut keys, Some(&most)) {
            Ok(0) | Err(Errno::INTR) => return Ok(Waited::Nothing),
            other => other.context("the terminal is lost")?,
        };
        let closed = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
        Ok(if keys[0].revents().intersects(closed) { Waited::Closed } else { Waited::Keys })
    }
}

fn poll(wait: Duration) -> Result<bool> {
    match event::poll(wait) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        other => other.context("the terminal is lost"),
    }
}

/// Seconds since 1970.
pub fn now() -> f64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap_or_default().as_secs_f64()
}
