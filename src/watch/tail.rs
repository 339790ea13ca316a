//! A text file that is followed as it grows, shrinks or is replaced.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// Bytes read at once at most, so that keys are answered while a large file is read for the first time.
const MOST_AT_ONCE: u64 = 8 << 20;
/// A longer line is none of a text file's, and dropped.
const LONGEST_LINE: usize = 16 << 20;
/// So many bytes before the place that was read up to tell whether the file is still the same.
const REMEMBERED: usize = 256;

/// A file and how far it was read.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    /// What tells the file from another that took its name.
    inode: Option<u64>,
    offset: u64,
    /// The last bytes before `offset`.
    before: Vec<u8>,
    /// The beginning of a line whose end is not there yet.
    unfinished: Vec<u8>,
}

/// What a look at a file brought.
#[derive(Debug, Default)]
pub struct News {
    /// Whole lines, without their ends.
    pub lines: Vec<Vec<u8>>,
    /// What was read before no longer stands: the file is gone, shorter or another; `lines` begin anew.
    pub is_anew: bool,
    /// More is there to be read at once.
    pub has_more: bool,
}

impl Tail {
    /// A file that nothing was read of; it need not be there yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, inode: None, offset: 0, before: Vec::new(), unfinished: Vec::new() }
    }

    /// Reads what came since the last look.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn look(&mut self) -> io::Result<News> {
        let mut file = match File::open(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let is_anew = self.inode.is_some();
                self.begin_anew(None);
                return Ok(News { is_anew, ..News::default() });
            }
            other => other?,
        };
        let facts = file.metadata()?;
        let mut news = News::default();
        if !self.is_same(&mut file, facts.ino(), facts.len())? {
            news.is_anew = self.inode.is_some();
            self.begin_anew(Some(facts.ino()));
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let mut read = Vec::new();
        file.take(MOST_AT_ONCE).read_to_end(&mut read)?;
        self.offset += read.len() as u64;
        news.has_more = self.offset < facts.len();
        self.before.extend_from_slice(&read[read.len().saturating_sub(REMEMBERED)..]);
        self.before.drain(..self.before.len().saturating_sub(REMEMBERED));
        self.take_lines(&read, &mut news.lines);
        Ok(news)
    }

    /// Whether what was read still stands at the beginning of the file, as far as a look can tell.
    fn is_same(&self, file: &mut File, inode: u64, length: u64) -> io::Result<bool> {
        if self.inode != Some(inode) || length < self.offset {
            return Ok(false);
        }
        let mut before = vec![0; self.before.len()];
        file.seek(SeekFrom::Start(self.offset - before.len() as u64))?;
        match file.read_exact(&mut before) {
            // It shrank since its length was asked for.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
            other => other.map(|()| before == self.before),
        }
    }

    fn begin_anew(&mut self, inode: Option<u64>) {
        self.inode = inode;
        self.offset = 0;
        self.before.clear();
        self.unfinished.clear();
    }

    fn take_lines(&mut self, read: &[u8], lines: &mut Vec<Vec<u8>>) {
        let mut parts = read.split(|&byte| byte == b'\n');
        self.unfinished.extend_from_slice(parts.next().unwrap_or_default());
        for part in parts {
            lines.push(std::mem::replace(&mut self.unfinished, part.to_vec()));
        }
        if self.unfinished.len() > LONGEST_LINE {
            self.unfinished.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    fn texts(news: &News) -> Vec<&str> {
        news.lines.iter().map(|line| std::str::from_utf8(line).unwrap()).collect()
    }

    /// Lines come once and whole, whatever writes break them; a file that is cut, rewritten in place, replaced or removed
    /// is read anew.
    #[test]
    fn a_file_is_followed_whatever_becomes_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut tail = Tail::new(path.clone());
        assert_eq!(texts(&tail.look().unwrap()), [""; 0], "it is not there yet");
        fs::write(&path, "one\ntw").unwrap();
        assert_eq!(texts(&tail.look().unwrap()), ["one"]);
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"o\nthree\n").unwrap();
        let news = tail.look().unwrap();
        assert_eq!((texts(&news), news.is_anew), (vec!["two", "three"], false));
        fs::write(&path, "one\n").unwrap();
        let news = tail.look().unwrap();
        assert_eq!((texts(&news), news.is_anew), (vec!["one"], true), "it was cut");
        fs::write(&path, "1\n2\n3\n4\n").unwrap();
        let news = tail.look().unwrap();
        assert_eq!((texts(&news), news.is_anew), (vec!["1", "2", "3", "4"], true), "rewritten");
        let other = folder.path().join("other");
        fs::write(&other, "1\n2\n3\n4\n5\n").unwrap();
        fs::rename(&other, &path).unwrap();
        let news = tail.look().unwrap();
        assert_eq!((news.lines.len(), news.is_anew), (5, true), "another took its name");
        fs::remove_file(&path).unwrap();
        assert!(tail.look().unwrap().is_anew);
        assert!(!tail.look().unwrap().is_anew);
    }

    /// A file that is larger than a look takes in comes in several.
    #[test]
    fn a_large_file_comes_in_pieces() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let lines = MOST_AT_ONCE as usize / 100 + 10;
        fs::write(&path, format!("{}\n", "x".repeat(99)).repeat(lines)).unwrap();
        let mut tail = Tail::new(path);
        let first = tail.look().unwrap();
        assert!(first.has_more && first.lines.len() < lines);
        let second = tail.look().unwrap();
        assert!(!second.has_more);
        assert_eq!(first.lines.len() + second.lines.len(), lines);
    }
}
