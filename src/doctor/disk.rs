//! The file system that a run is to lie on.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{Advice, fadvise, statvfs};

use super::finding::{Finding, in_words};

/// Bytes that are written and read to time the disk.
const TRIED: usize = 64 << 20;
/// Below it a checkpoint of a large model takes minutes; in bytes a second.
const SLOW: f64 = 50e6;
/// Below it a few checkpoints fill the disk.
const LITTLE_SPACE: u64 = 10 << 30;

/// Whether a run directory may lie at `place`: written to, locked, with room, and how fast.
pub(super) fn look(place: &Path) -> Vec<Finding> {
    let folder = existing(place);
    let trial = tempfile::Builder::new().prefix(".distill-doctor-").tempdir_in(&folder);
    let trial = match trial {
        Ok(trial) => trial,
        Err(error) => {
            return vec![Finding::problem(
                "run directory",
                format!("nothing can be written in {}: {error}", folder.display()),
                "choose another run.dir, and name it here by --run",
            )];
        }
    };
    let free = statvfs(&folder).map(|facts| facts.f_bavail * facts.f_frsize);
    vec![
        of_space(&folder, free.ok()),
        of_locks(try_locks(&trial.path().join("lock"))),
        of_speed(try_speed(&trial.path().join("speed"))),
    ]
}

/// `place`, or the nearest folder above it that is there.
fn existing(place: &Path) -> PathBuf {
    let whole = std::path::absolute(place).unwrap_or_else(|_| place.to_path_buf());
    let found = whole.ancestors().find(|folder| folder.is_dir());
    found.unwrap_or(Path::new("/")).to_path_buf()
}

fn of_space(folder: &Path, free: Option<u64>) -> Finding {
    const NAME: &str = "run directory";
    let Some(free) = free else {
        return Finding::ok(NAME, format!("{} can be written to", folder.display()));
    };
    let found = format!("{} in {}", in_words(free), folder.display());
    if free < LITTLE_SPACE {
        let advice = "a checkpoint takes 12 bytes a trained number: free some space, or choose another run.dir";
        return Finding::warning(NAME, format!("only {found}"), advice);
    }
    Finding::ok(NAME, format!("{found} are free"))
}

/// Whether a second holder of a lock is refused.
fn try_locks(path: &Path) -> io::Result<bool> {
    let (first, second) = (File::create(path)?, File::create(path)?);
    first.try_lock().map_err(io::Error::from)?;
    match second.try_lock() {
        Err(TryLockError::WouldBlock) => Ok(true),
        Ok(()) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn of_locks(tried: io::Result<bool>) -> Finding {
    let advice = "a run there is not guarded against a second one of the same run.dir: mount it with locks \
                  (Lustre: -o flock)";
    match tried {
        Ok(true) => Finding::ok("file locks", "hold"),
        Ok(false) => Finding::warning("file locks", "are given to two at once", advice),
        Err(error) => Finding::warning("file locks", format!("none: {error}"), advice),
    }
}

/// Bytes a second that are written until they are on the disk, and read again.
fn try_speed(path: &Path) -> io::Result<[f64; 2]> {
    // Nothing that a file system would compress away.
    let mut state = 1u64;
    let block: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    })
    .take(1 << 20)
    .collect();
    let begun = Instant::now();
    let mut file = File::create(path)?;
    for _ in 0..TRIED / block.len() {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    let written = TRIED as f64 / begun.elapsed().as_secs_f64();
    let mut file = File::open(path)?;
    // Else the system's memory would be timed. Where that is refused, it is.
    let _ = fadvise(&file, 0, None, Advice::DontNeed);
    let begun = Instant::now();
    let mut buffer = block;
    while file.read(&mut buffer)? > 0 {}
    let read = TRIED as f64 / begun.elapsed().as_secs_f64();
    fs::remove_file(path)?;
    Ok([written, read])
}

fn of_speed(tried: io::Result<[f64; 2]>) -> Finding {
    const NAME: &str = "disk";
    match tried {
        Ok([written, read]) => {
            let [megabytes_written, megabytes_read] = [written, read].map(|rate| rate / 1e6);
            let found = format!(
                "writes {megabytes_written:.0} MB/s, reads {megabytes_read:.0} MB/s ({} MiB tried)",
                TRIED >> 20
            );
            if written < SLOW {
                let advice = "checkpoints take long to write, beside the training: set checkpoint.every higher, \
                              or take a faster disk";
                return Finding::warning(NAME, found, advice);
            }
            Finding::ok(NAME, found)
        }
        Err(error) => Finding::problem(
            NAME,
            format!("{} MiB cannot be written: {error}", TRIED >> 20),
            "free some space, look at quotas, or choose another run.dir",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    #[test]
    fn a_file_system_is_judged_by_what_it_does() {
        let folder = tempfile::tempdir().unwrap();
        let nested = folder.path().join("not/there");
        assert_eq!(existing(&nested), folder.path());
        let found = look(&nested);
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(found[1], Finding::ok("file locks", "hold"));
        assert!(fs::read_dir(folder.path()).unwrap().next().is_none(), "something is left");
        use Verdict::{Ok as Good, Problem, Warning};
        let space =
            [Some(1 << 30), Some(1 << 40), None].map(|free| of_space(&nested, free).verdict);
        assert_eq!(space, [Warning, Good, Good]);
        assert_eq!(of_locks(Ok(false)).verdict, Warning);
        assert_eq!(of_speed(Ok([1e6, 1e9])).verdict, Warning);
        assert_eq!(of_speed(Err(io::ErrorKind::StorageFull.into())).verdict, Problem);
    }
}
