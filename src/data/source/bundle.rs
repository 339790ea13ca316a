//! Files of their own that are read as one shard.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use rayon::prelude::*;

use super::segment::{Segment, read_segments};
use super::stamp::Stamp;

/// How many missing files an error names.
const MOST_NAMED: usize = 20;

/// The files of some samples, as if they lay one behind the other in one shard: a sample's fields are
/// byte ranges of that, as in any shard. Two bundles are the same if their names, sizes and the times
/// of their files are.
#[derive(Debug)]
pub struct Bundle {
    name: String,
    files: Vec<BundleFile>,
    samples: Vec<BundledSample>,
    /// Names of the classes in the order of their labels, where they have names.
    classes: Vec<String>,
    stamp: Stamp,
}

#[derive(Debug)]
struct BundleFile {
    path: Arc<Path>,
    /// First byte in the bundle.
    start: u64,
}

/// A sample of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleFiles {
    pub image: PathBuf,
    /// Its dense targets, as many for every sample.
    pub targets: Vec<PathBuf>,
    /// Class of the image, where it has one.
    pub label: Option<u32>,
}

/// Where the bytes of a sample lie in the bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundledSample {
    pub image: Range<u64>,
    pub targets: Vec<Range<u64>>,
    pub label: Option<u32>,
}

impl Bundle {
    /// The bundle of these samples, whose `name` is for messages.
    ///
    /// # Errors
    /// Files that are not there: all of them, up to twenty by name.
    pub fn new(name: &str, samples: &[SampleFiles]) -> Result<Self> {
        let paths: Vec<&Path> = samples.iter().flat_map(SampleFiles::files).collect();
        let stamps: Vec<_> = paths.par_iter().map(|path| Stamp::from_file(path)).collect();
        let missing: Vec<String> = paths
            .iter()
            .zip(&stamps)
            .filter_map(|(path, stamp)| Some((path, stamp.as_ref().err()?)))
            .map(|(path, error)| format!("{} ({error})", path.display()))
            .collect();
        if !missing.is_empty() {
            let more = missing.len().saturating_sub(MOST_NAMED);
            let named = missing[..missing.len() - more].join(", ");
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            bail!(
                "{name}: {} of {} files cannot be read: {named}{more}",
                missing.len(),
                paths.len()
            );
        }
        ensure!(!paths.is_empty(), "{name}: there are no samples");
        let mut hasher = blake3::Hasher::new();
        let (mut files, mut size) = (Vec::new(), 0);
        for (path, stamp) in paths.iter().zip(stamps) {
            let Stamp { size: length, version } = stamp?;
            hasher.update(path.as_os_str().as_encoded_bytes());
            hasher.update(&length.to_le_bytes());
            hasher.update(&version.to_le_bytes());
            files.push((BundleFile { path: (*path).into(), start: size }, length));
            size += length;
        }
        let version =
            hasher.finalize().as_bytes()[..8].iter().fold(0, |n, &b| n << 8 | u64::from(b));
        let mut ranges = files.iter().map(|(file, length)| file.start..file.start + length);
        let mut next = || ranges.next().expect("a range for each file");
        let samples = samples
            .iter()
            .map(|sample| BundledSample {
                image: next(),
                targets: sample.targets.iter().map(|_| next()).collect(),
                label: sample.label,
            })
            .collect();
        let files = files.into_iter().map(|(file, _)| file).collect();
        let (name, classes) = (name.to_string(), Vec::new());
        Ok(Self { name, files, samples, classes, stamp: Stamp { size, version } })
    }

    /// The same, whose labels are numbers of these classes.
    #[must_use]
    pub fn with_classes(self, classes: Vec<String>) -> Self {
        Self { classes, ..self }
    }

    /// Names of the classes in the order of their labels; empty where they have none.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// For messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The samples, in the order that they were given in.
    pub fn samples(&self) -> &[BundledSample] {
        &self.samples
    }

    /// The file whose bytes these are, or the beginning of them. An empty file begins where the next one does.
    pub fn file_of(&self, range: &Range<u64>) -> &Path {
        let number = match range.is_empty() {
            true => self.files.partition_point(|file| file.start < range.start),
            false => self.file_number(range.start),
        };
        &self.files[number.min(self.files.len() - 1)].path
    }

    pub(super) fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// The file of a `range`, which is no more than one.
    pub(super) fn locate(&self, range: Range<u64>) -> Segment {
        let file = &self.files[self.file_number(range.start)];
        let length = range.end.saturating_sub(range.start);
        Segment { path: file.path.clone(), offset: range.start - file.start, length }
    }

    /// So many bytes from `place` on of the file that `range` is of; none where it cannot be read any more.
    pub fn peek(&self, range: Range<u64>, place: u64, count: u64) -> Option<Vec<u8>> {
        let Segment { path, offset, .. } = self.locate(range);
        let mut bytes = Vec::new();
        let part = Segment { path, offset: offset + place, length: count };
        read_segments(&[part], &mut bytes).ok().map(|()| bytes)
    }

    fn file_number(&self, offset: u64) -> usize {
        self.files.partition_point(|file| file.start <= offset).saturating_sub(1)
    }

    fn key(&self) -> (&str, u64, u64) {
        (&self.name, self.stamp.size, self.stamp.version)
    }
}

impl SampleFiles {
    fn files(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(&self.image).chain(&self.targets).map(PathBuf::as_path)
    }
}

impl PartialEq for Bundle {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Bundle {}

impl Hash for Bundle {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl PartialOrd for Bundle {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Bundle {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Empty files stand between others without being taken for them.
    #[test]
    fn ranges_find_their_files_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let sample = |image, target| SampleFiles { image, targets: vec![target], label: Some(3) };
        let samples = [
            sample(file("a", b"12345"), file("b", b"67")),
            sample(file("c", b"8"), file("d", b"9abc")),
        ];
        let bundle = Bundle::new("two", &samples).unwrap();
        assert_eq!(bundle.stamp().size, 12);
        for (sample, files) in bundle.samples().iter().zip(&samples) {
            let ranges = [sample.image.clone(), sample.targets[0].clone()];
            for (range, path) in ranges.into_iter().zip(files.files()) {
                let segment = bundle.locate(range.clone());
                assert_eq!((&*segment.path, segment.offset), (path, 0));
                assert_eq!(segment.length, path.metadata().unwrap().len());
                assert_eq!(bundle.file_of(&range), path);
            }
        }
    }

    #[test]
    fn every_missing_file_counts_and_twenty_are_named() {
        let missing = |number: usize| SampleFiles {
            image: format!("/nowhere/{number}.jpg").into(),
            targets: Vec::new(),
            label: None,
        };
        let samples: Vec<_> = (0..25).map(missing).collect();
        let error = Bundle::new("list", &samples).unwrap_err().to_string();
        assert!(
            error.starts_with("list: 25 of 25 files cannot be read: /nowhere/0.jpg"),
            "{error}"
        );
        assert_eq!(error.matches("/nowhere/").count(), 20);
        assert!(error.ends_with("and 5 more"), "{error}");
    }
}
