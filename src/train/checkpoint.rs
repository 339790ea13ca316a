//! Finding checkpoints. (The lead's file replaces this one.)

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The newest checkpoint in the folder `checkpoints` of a run.
///
/// # Errors
/// The folder cannot be read.
pub fn newest(checkpoints: &Path) -> Result<Option<PathBuf>> {
    let mut steps = vec![];
    for entry in std::fs::read_dir(checkpoints)
        .with_context(|| format!("cannot read {}", checkpoints.display()))?
    {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(step) = name.strip_prefix("step-").and_then(|step| step.parse::<u64>().ok()) {
            steps.push((step, path));
        }
    }
    Ok(steps.into_iter().max().map(|(_, path)| path))
}
