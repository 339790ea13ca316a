//! Locks of files, where there are some.

use std::io;

use rustix::io::Errno;

/// Whether a file system says by `error` that it has no locks, as Lustre without `-o flock` and some of NFS.
pub fn are_missing(error: &io::Error) -> bool {
    let codes = [Errno::NOLCK, Errno::NOSYS, Errno::OPNOTSUPP, Errno::NOTSUP];
    error.raw_os_error().is_some_and(|code| codes.iter().any(|known| known.raw_os_error() == code))
}
