//! The output of several processes, merged line by line.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// How many of a process's last lines are kept, and how much of each.
const KEPT_LINES: usize = 20;
const KEPT_BYTES_OF_A_LINE: usize = 1000;

/// A longer line is cut into pieces of this size, so that output without line ends needs no more
/// memory than that.
const LONGEST_LINE: u64 = 1 << 20;

/// The last lines of a process.
#[derive(Debug, Clone, Default)]
pub(super) struct LastLines(Arc<Mutex<VecDeque<String>>>);

impl LastLines {
    fn add(&self, line: &[u8]) {
        let kept = String::from_utf8_lossy(&line[..line.len().min(KEPT_BYTES_OF_A_LINE)]);
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == KEPT_LINES {
            lines.pop_front();
        }
        lines.push_back(kept.into_owned());
    }

    pub(super) fn take(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }
}

/// Hands on each line of `from`, to its end, in one write that begins with `prefix`.
///
/// Output that is not taken is lost: the process must not wait for a reader that is gone.
pub(super) fn merge(
    from: impl Read,
    prefix: &str,
    mut to: impl Write,
    last_lines: Option<&LastLines>,
) {
    let mut from = BufReader::new(from);
    let mut line = prefix.as_bytes().to_vec();
    while read_line(&mut from, &mut line) {
        if let Some(last_lines) = last_lines {
            last_lines.add(&line[prefix.len()..]);
        }
        line.push(b'\n');
        let _ = to.write_all(&line).and_then(|()| to.flush());
        line.truncate(prefix.len());
    }
}

/// Adds the next line, without its end, whatever its bytes are; false if there is none.
fn read_line(from: &mut impl BufRead, line: &mut Vec<u8>) -> bool {
    // An error of reading a pipe has no meaning beyond that there is no more to read.
    let read = from.take(LONGEST_LINE).read_until(b'\n', line).unwrap_or(0);
    if line.ends_with(b"\n") {
        line.pop();
    }
    read > 0
}

/// Standard output or standard error, locked for a line at a time.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stream {
    Out,
    Err,
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Out => io::stdout().lock().write_all(bytes),
            Self::Err => io::stderr().lock().write_all(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Out => io::stdout().flush(),
            Self::Err => io::stderr().flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(bytes: &[u8]) -> (Vec<u8>, Vec<String>) {
        let (mut out, last) = (Vec::new(), LastLines::default());
        merge(bytes, "[rank 3] ", &mut out, Some(&last));
        (out, last.take())
    }

    /// Every byte arrives, an unfinished last line too, and whether it is UTF-8 or not.
    #[test]
    fn each_line_gets_the_prefix() {
        let (out, last) = merged(b"one\n\ntwo \xff\xfe\rx\nlast");
        let expected = b"[rank 3] one\n[rank 3] \n[rank 3] two \xff\xfe\rx\n[rank 3] last\n";
        assert_eq!(out, expected);
        assert_eq!(last, ["one", "", "two \u{fffd}\u{fffd}\rx", "last"]);
        assert_eq!(merged(b"").0, b"");
    }

    /// A process may write without end: memory is bounded, and so is what an error shows of it.
    #[test]
    fn endless_lines_are_cut() {
        let size = LONGEST_LINE as usize * 5 / 2;
        let (out, last) = merged(&vec![b'x'; size]);
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 3);
        assert_eq!(out.iter().filter(|byte| **byte == b'x').count(), size);
        assert!(last.iter().all(|line| line.len() == KEPT_BYTES_OF_A_LINE));
    }

    #[test]
    fn the_last_twenty_lines_are_kept() {
        let text: String = (0..50).map(|number| format!("line {number}\n")).collect();
        let (_, last) = merged(text.as_bytes());
        assert_eq!(last.len(), KEPT_LINES);
        assert_eq!((last[0].as_str(), last[19].as_str()), ("line 30", "line 49"));
    }

    /// A reader that is gone does not stop the reading, which would stop the process.
    #[test]
    fn output_that_nobody_takes_is_read_to_its_end() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut from = io::Cursor::new(b"one\ntwo\n");
        merge(&mut from, "", Gone, None);
        assert_eq!(from.position(), 8);
    }
}
