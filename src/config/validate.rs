//! Checks between values, before any file or device is touched.

use std::path::PathBuf;

use super::TrainConfig;
use super::load::KeyError;
use crate::data::MOST_WORKERS;
use crate::data::labels::LabelRule;

/// More than anybody means: a slip of the hand is told at once, and not by a machine that has no memory left.
const MOST_PREFETCHED: usize = 10_000;
pub const LARGEST_INPUT: usize = 8192;
const MOST_THREADS: usize = 4096;
const LARGEST_BATCH: usize = 1 << 20;

/// The outcome of a check: the first key at fault, and what is wrong with it.
pub type Check = Result<(), KeyError>;

/// Fails with `key` and `message` unless `holds`.
pub fn require(holds: bool, key: impl Into<String>, message: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err((key.into(), message())) }
}

impl TrainConfig {
    /// The first contradiction as (key, what was found and what was expected).
    pub fn validate(&self) -> Check {
        // Most often a variable that is not set.
        require(!self.run.dir.as_os_str().is_empty(), "run.dir", || {
            "found ``, expected a folder".into()
        })?;
        let threads = self.run.threads;
        require(threads <= MOST_THREADS, "run.threads", || {
            format!("found {threads}, expected at most {MOST_THREADS}, or 0 for one per core")
        })?;
        self.check_data()?;
        self.check_curation()?;
        self.check_optimizer()?;
        self.check_schedule()?;
        require(self.checkpoint.every > 0, "checkpoint.every", || {
            "found 0, expected at least one step".into()
        })?;
        require(self.checkpoint.keep > 0, "checkpoint.keep", || {
            "found 0, expected at least one checkpoint".into()
        })?;
        let pinned = self.checkpoint.pinned_gigabytes;
        require((0.0..1e6).contains(&pinned), "checkpoint.pinned_gigabytes", || {
            format!("found {pinned}, expected a number of at least 0")
        })?;
        require(self.checkpoint.writers > 0, "checkpoint.writers", || {
            "found 0, expected at least one rank".into()
        })?;
        self.check_distributed()?;
        require(self.log.every > 0, "log.every", || "found 0, expected at least one step".into())
    }

    fn check_distributed(&self) -> Check {
        let distributed = &self.distributed;
        require(
            distributed.bucket_megabytes > 0.0 && distributed.bucket_megabytes <= 1e6,
            "distributed.bucket_megabytes",
            || format!("found {}, expected a number above 0", distributed.bucket_megabytes),
        )?;
        require(
            (1.0..=1e6).contains(&distributed.timeout_seconds),
            "distributed.timeout_seconds",
            || format!("found {}, expected 1 to 1000000", distributed.timeout_seconds),
        )
    }

    fn check_data(&self) -> Check {
        let data = &self.data;
        require(!data.shards.is_empty(), "data.shards", || {
            "found an empty list, expected at least one path or pattern".into()
        })?;
        let is_named = data.shards.iter().all(|pattern| !pattern.trim().is_empty());
        require(is_named, "data.shards", || {
            "found an empty path, expected shards: is a variable not set?".into()
        })?;
        let is_empty =
            |path: &Option<PathBuf>| path.as_ref().is_some_and(|path| path.as_os_str().is_empty());
        for (key, path) in [("index_dir", &data.index_dir), ("cache_dir", &data.cache_dir)] {
            require(!is_empty(path), format!("data.{key}"), || {
                "found ``, expected a folder".into()
            })?;
        }
        require((1..=LARGEST_BATCH).contains(&data.batch_size), "data.batch_size", || {
            format!("found {}, expected 1 to {LARGEST_BATCH} images", data.batch_size)
        })?;
        require(data.workers <= MOST_WORKERS, "data.workers", || {
            format!(
                "found {}, expected at most {MOST_WORKERS}, or 0 for one per core",
                data.workers
            )
        })?;
        require(
            (1..=MOST_PREFETCHED).contains(&data.prefetch_batches),
            "data.prefetch_batches",
            || format!("found {}, expected 1 to {MOST_PREFETCHED} batches", data.prefetch_batches),
        )?;
        require(data.input_size <= LARGEST_INPUT, "data.input_size", || {
            format!("found {}, expected at most {LARGEST_INPUT} pixels", data.input_size)
        })?;
        require(data.global_batch_size != Some(0), "data.global_batch_size", || {
            "found 0, expected at least one image".into()
        })?;
        data.shuffle.check().map_err(|(key, message)| (format!("data.shuffle.{key}"), message))?;
        let [least, most] = data.crop_scale;
        require(0.0 < least && least <= most && most <= 1.0, "data.crop_scale", || {
            format!("found [{least}, {most}], expected 0 < least <= most <= 1")
        })?;
        let [least, most] = data.crop_ratio;
        require(0.0 < least && least <= most && most.is_finite(), "data.crop_ratio", || {
            format!("found [{least}, {most}], expected 0 < least <= most")
        })?;
        require(data.std.iter().all(|&s| s > 0.0), "data.std", || {
            format!("found {:?}, expected three numbers above 0", data.std)
        })?;
        // Numbers for pixels from 0 to 255 would make every image next to nothing.
        for (key, values) in [("data.mean", data.mean), ("data.std", data.std)] {
            require(values.iter().all(|value| (0.0..=1.0).contains(value)), key, || {
                format!(
                    "found {values:?}, expected numbers for pixels from 0 to 1: divide those for 0 to 255 by 255"
                )
            })?;
        }
        require((0.0..=1.0).contains(&data.max_failed_share), "data.max_failed_share", || {
            format!("found {}, expected a share between 0 and 1", data.max_failed_share)
        })?;
        if let Err(message) = LabelRule::new(&data.label, None) {
            return require(false, "data.label", || message);
        }
        require(
            (0.0..1.0).contains(&data.max_bad_shard_share),
            "data.max_bad_shard_share",
            || {
                let found = data.max_bad_shard_share;
                format!("found {found}, expected a share from 0 to less than 1")
            },
        )?;
        // A dozen pieces: fewer would be evicted before they are read.
        let gigabytes = data.cache_gigabytes;
        require(gigabytes.is_finite() && gigabytes >= 0.1, "data.cache_gigabytes", || {
            format!("found {gigabytes}, expected at least 0.1")
        })
    }

    fn check_curation(&self) -> Check {
        let Some(curation) = &self.data.curation else { return Ok(()) };
        require(
            curation.min_histogram_score.is_finite(),
            "data.curation.min_histogram_score",
            || format!("found {}, expected a finite number", curation.min_histogram_score),
        )
    }

    fn check_optimizer(&self) -> Check {
        let optimizer = &self.optimizer;
        require(
            optimizer.learning_rate.is_none() || optimizer.base_learning_rate.is_none(),
            "optimizer.base_learning_rate",
            || "found beside learning_rate, expected one of the two".into(),
        )?;
        let rates = [
            ("learning_rate", optimizer.learning_rate.unwrap_or(0.0)),
            ("base_learning_rate", optimizer.base_learning_rate.unwrap_or(0.0)),
            ("min_learning_rate", optimizer.min_learning_rate),
            ("weight_decay", optimizer.weight_decay),
        ];
        for (name, value) in rates {
            require(value >= 0.0 && value.is_finite(), format!("optimizer.{name}"), || {
                format!("found {value}, expected a finite number of at least 0")
            })?;
        }
        require(optimizer.betas.iter().all(|b| (0.0..1.0).contains(b)), "optimizer.betas", || {
            format!("found {:?}, expected two numbers in [0, 1)", optimizer.betas)
        })?;
        require(optimizer.eps > 0.0, "optimizer.eps", || {
            format!("found {}, expected a number above 0", optimizer.eps)
        })?;
        require(
            optimizer.clip_grad_norm.is_none_or(|norm| norm > 0.0),
            "optimizer.clip_grad_norm",
            || "expected a number above 0; leave the key out for no clipping".into(),
        )
    }

    fn check_schedule(&self) -> Check {
        let schedule = &self.schedule;
        require(schedule.epochs > 0.0 && schedule.epochs.is_finite(), "schedule.epochs", || {
            format!("found {}, expected a number above 0", schedule.epochs)
        })?;
        require(
            (0.0..=schedule.epochs).contains(&schedule.warmup_epochs),
            "schedule.warmup_epochs",
            || {
                format!(
                    "found {}, expected 0 to schedule.epochs ({})",
                    schedule.warmup_epochs, schedule.epochs
                )
            },
        )?;
        require(schedule.steps_per_epoch != Some(0), "schedule.steps_per_epoch", || {
            "found 0, expected at least one step".into()
        })
    }
}
