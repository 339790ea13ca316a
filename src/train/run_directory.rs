//! The folder of a run: one process at a time, nothing in it ever overwritten by another run.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tracing::{info, warn};

use super::checkpoint::{self, Checkpoint};
use crate::artifacts::paths;
use crate::durable;
use crate::file_locks;

/// Where training starts from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Resume {
    /// The newest whole checkpoint of the run, if there is one.
    #[default]
    Auto,
    /// Nothing: an earlier run in the same folder is moved aside.
    Never,
    /// This checkpoint.
    From(PathBuf),
}

impl std::str::FromStr for Resume {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "auto" => Self::Auto,
            "never" => Self::Never,
            path => Self::From(path.into()),
        })
    }
}

/// A run's folder, held against other processes until dropped.
pub struct RunDirectory {
    path: PathBuf,
    _lock: File,
    /// The configuration that was there before this process wrote its own.
    former_config: Option<Vec<u8>>,
}

impl RunDirectory {
    /// Creates or takes over the folder of a run and finds the checkpoint to start from. A restart
    /// by a launcher, or by a scheduler that queues a job again, goes on from what an earlier attempt has saved, whatever `resume` said of the
    /// beginning.
    ///
    /// # Errors
    /// Another process trains there, the folder cannot be written, or the checkpoint asked for
    /// is damaged.
    pub fn open(
        path: PathBuf,
        resume: &Resume,
        is_restart: bool,
    ) -> Result<(Self, Option<Checkpoint>)> {
        // A launcher's restart, and a job that its scheduler has queued again, continue what the first attempt
        // began.
        let resume = match resume {
            Resume::Never if is_restart => &Resume::Auto,
            resume => resume,
        };
        if *resume == Resume::Never && paths::checkpoints(&path).exists() {
            drop(Self::lock(&path)?);
            move_aside(&path)?;
        }
        let run = Self::lock(&path)?;
        checkpoint::remove_partial(&path)?;
        let start = match resume {
            Resume::Auto => {
                let newest = checkpoint::newest(&path)?;
                if let Some(newest) = &newest {
                    checkpoint::set_aside_damaged(&path, newest.manifest.step)?;
                }
                newest
            }
            Resume::Never => None,
            Resume::From(folder) => {
                let start = Checkpoint::open(folder)?;
                if is_restart
                    && let Some(later) = checkpoint::newest(&path)?
                    && later.manifest.step >= start.manifest.step
                {
                    return Ok((run, Some(later)));
                }
                checkpoint::set_aside_after(&path, start.manifest.step)?;
                Some(start)
            }
        };
        Ok((run, start))
    }

    /// Writes down the resolved configuration, as TOML.
    pub fn write_config(&mut self, toml: &str) -> Result<()> {
        let path = paths::config(&self.path);
        self.former_config = fs::read(&path).ok();
        durable::write(&path, toml.as_bytes())
    }

    /// The configuration that was there before this process wrote its own.
    pub fn former_config(&self) -> Option<String> {
        String::from_utf8(self.former_config.clone()?).ok()
    }

    /// Puts the configuration back that was there before: no step was trained with the other.
    pub fn take_back_config(&self) {
        let Some(former) = &self.former_config else { return };
        if let Err(error) = durable::write(&paths::config(&self.path), former) {
            warn!("its configuration of before could not be put back: {error:#}");
        }
    }

    fn lock(path: &Path) -> Result<Self> {
        let fail = || format!("cannot write to the run directory {}", path.display());
        fs::create_dir_all(paths::checkpoints(path)).with_context(fail)?;
        let lock = File::create(paths::lock(path)).with_context(fail)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_path_buf(), _lock: lock, former_config: None }),
            Err(TryLockError::WouldBlock) => bail!(
                "another process is training in {}; wait for it or choose another run.dir",
                path.display()
            ),
            Err(TryLockError::Error(error)) if file_locks::are_missing(&error) => {
                warn!(
                    "{} is not guarded against a second run: its file system has no locks ({error})",
                    path.display()
                );
                Ok(Self { path: path.to_path_buf(), _lock: lock, former_config: None })
            }
            Err(TryLockError::Error(error)) => Err(error).with_context(fail),
        }
    }
}

fn move_aside(path: &Path) -> Result<()> {
    let aside = checkpoint::free_name(path);
    fs::rename(path, &aside)
        .with_context(|| format!("cannot move {} to {}", path.display(), aside.display()))?;
    info!("the earlier run was moved to {}", aside.display());
    Ok(())
}
