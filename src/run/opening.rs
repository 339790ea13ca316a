//! Data sets opened in sight of who waits for them.

use std::sync::OnceLock;

use anyhow::Result;
use tracing::info;

use crate::config::TrainConfig;
use crate::data::{Dataset, ShardProgress};
use crate::ui::screen::Phase;

/// The data set that a run trains on.
///
/// # Errors
/// Shards cannot be read.
pub fn open_dataset(config: &TrainConfig) -> Result<Dataset> {
    let dataset =
        opening("opening shards", |progress| Dataset::open(&config.data, config.seed, progress))?;
    if config.data.curation.is_some() {
        let selection = dataset.selection();
        info!(
            "curation keeps {} of {} images: {} have no scores, {} a histogram_score that is too low, {} are \
             too small, {} have a mae_loss of 0",
            selection.kept,
            selection.images(),
            selection.without_scores,
            selection.low_histogram_score,
            selection.small,
            selection.never_drawn
        );
    }
    Ok(dataset)
}

/// Runs `open` and shows its progress under this label.
pub fn opening(
    label: &str,
    open: impl FnOnce(ShardProgress) -> Result<Dataset>,
) -> Result<Dataset> {
    let phase = OnceLock::new();
    let dataset = open(&|_, shards| {
        phase.get_or_init(|| Phase::begin(label, Some(shards as u64))).advance(1);
    })?;
    if let Some(phase) = phase.into_inner() {
        phase.finish();
    }
    Ok(dataset)
}
