//! What this program is, for people who compare two of them.

use std::sync::OnceLock;

use crate::native::{cuda_version, libtorch_version};

static COMMIT: OnceLock<&'static str> = OnceLock::new();

/// Tells the commit that the program was built from, where that is known. At the start of the program.
pub(super) fn is_of(commit: Option<&'static str>) {
    if let Some(commit) = commit.filter(|commit| !commit.is_empty()) {
        // Told once.
        let _ = COMMIT.set(commit);
    }
}

/// As in `0.1.0 (commit 1a2b3c4d5e, libtorch 2.11.0, CUDA 13.0)`.
pub(super) fn long() -> &'static str {
    static LONG: OnceLock<String> = OnceLock::new();
    LONG.get_or_init(|| {
        let commit = COMMIT.get().map_or("unknown", |commit| commit);
        let cuda = match cuda_version() {
            Ok(Some(cuda)) => format!("CUDA {cuda}"),
            _ => "no CUDA".into(),
        };
        let (version, libtorch) = (env!("CARGO_PKG_VERSION"), libtorch_version());
        format!("{version} (commit {commit}, libtorch {libtorch}, {cuda})")
    })
}
