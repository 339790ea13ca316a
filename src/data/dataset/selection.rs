//! What a data set takes from its shards: counted when it is opened, read when it is needed.

use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use tracing::warn;

use crate::config::{BadShards, CurationConfig, DataConfig};
use crate::format::{FieldColumn, ShardIndex};
use crate::source::{ShardAddress, Stamp};

use super::catalogue::ShardRows;
use super::curation::{self, Selection};
use super::index_cache::IndexCache;
use super::index_cache::ShardProgress;

/// What is remembered of a shard.
pub struct ShardEntry {
    pub shard: ShardAddress,
    /// The state of the shard that the places of its images are for.
    pub stamp: Stamp,
    pub selection: Selection,
    /// Checksum of the shard's index.
    index: [u8; 32],
    /// Changes where bytes of some images do.
    content: [u8; 32],
    /// Sum of the probabilities with which its images are accepted when drawn.
    accepted: f64,
    /// Changes with the places, labels and probabilities of the kept images.
    digest: blake3::Hash,
}

/// Reads what images of each of `shards` are kept.
///
/// # Errors
/// Shards or JSON files of scores are damaged, more of them than may be left out, or nothing is kept, or
/// nearly every draw would be rejected.
pub fn choose(
    shards: &[ShardAddress],
    indexes: &IndexCache,
    config: &DataConfig,
    progress: ShardProgress<'_>,
) -> Result<Vec<ShardEntry>> {
    let curation = config.curation.as_ref();
    let visited = IndexCache::visit(shards, progress, |shard| one(shard, indexes, curation));
    let chosen = leave_out_bad(visited, config)?;
    check(&chosen)?;
    if let Some(curation) = curation {
        warn_of_few_scores(&chosen, curation);
    }
    Ok(chosen)
}

/// The kept images of a shard.
///
/// # Errors
/// The shard or its JSON file is damaged, or not what it was when it was chosen.
pub fn rows(
    chosen: &ShardEntry,
    indexes: &IndexCache,
    curation: Option<&CurationConfig>,
) -> Result<ShardRows> {
    let shard = &chosen.shard;
    let cached = indexes.open(shard)?;
    let index = cached.index;
    let labelled = index.labelled() > 0;
    let rows = match curation {
        None => {
            let index = Arc::unwrap_or_clone(index);
            let labels = if labelled { index.labels } else { Vec::new() };
            let ShardIndex { offsets, sizes, fields, .. } = index;
            ShardRows { offsets, sizes, labels, fields, acceptance: Vec::new() }
        }
        Some(curation) => {
            let curated = curation::curate(curation, shard, &index)?;
            let kept = || curated.rows.iter().map(|&row| row as usize);
            let labels = kept().filter(|_| labelled).map(|row| index.labels[row]).collect();
            ShardRows {
                offsets: kept().map(|row| index.offsets[row]).collect(),
                sizes: kept().map(|row| index.sizes[row]).collect(),
                labels,
                fields: index.fields.iter().map(|field| pick(field, &curated.rows)).collect(),
                acceptance: curated.acceptance,
            }
        }
    };
    // A file that something has touched is the same where all lies as it did.
    let is_same = match shard {
        ShardAddress::File(_) => {
            (cached.head.digest, cached.head.content) == (chosen.index, chosen.content)
        }
        _ => cached.head.stamp == chosen.stamp,
    };
    ensure!(
        is_same && rows.offsets.len() as u64 == chosen.selection.kept,
        "{shard}: changed since the run began; restart it on the new state"
    );
    Ok(rows)
}

/// The rows of a column that are kept.
fn pick(column: &FieldColumn, rows: &[u32]) -> FieldColumn {
    let kept = || rows.iter().map(|&row| row as usize);
    FieldColumn {
        offsets: kept().map(|row| column.offsets[row]).collect(),
        sizes: kept().map(|row| column.sizes[row]).collect(),
    }
}

/// Names a data set by content: shard names, and the places, labels and probabilities of the kept
/// images.
pub fn fingerprint(chosen: &[ShardEntry]) -> String {
    let mut hasher = blake3::Hasher::new();
    for ShardEntry { shard, digest, .. } in chosen {
        hasher.update(blake3::hash(shard.file_name().as_bytes()).as_bytes());
        hasher.update(digest.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// Changes where bytes of some images do, though all lie as they did: those that [`ShardIndex::content`] is of.
pub fn content(chosen: &[ShardEntry]) -> String {
    let mut hasher = blake3::Hasher::new();
    chosen.iter().for_each(|one| _ = hasher.update(&one.content));
    hasher.finalize().to_hex().to_string()
}

fn one(
    shard: &ShardAddress,
    indexes: &IndexCache,
    curation: Option<&CurationConfig>,
) -> Result<ShardEntry> {
    let Some(curation) = curation else {
        let head = indexes.head(shard)?;
        let selection = Selection { kept: head.rows, ..Selection::default() };
        let (accepted, digest) = (head.rows as f64, blake3::Hash::from_bytes(head.digest));
        return Ok(ShardEntry {
            shard: shard.clone(),
            stamp: head.stamp,
            index: head.digest,
            content: head.content,
            selection,
            accepted,
            digest,
        });
    };
    let cached = indexes.open(shard)?;
    let curated = curation::curate(curation, shard, &cached.index)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&cached.head.digest);
    curated.rows.iter().for_each(|row| _ = hasher.update(&row.to_le_bytes()));
    curated.acceptance.iter().for_each(|share| _ = hasher.update(&share.to_le_bytes()));
    let sampled = !curated.acceptance.is_empty();
    let sum = || curated.acceptance.iter().map(|&share| f64::from(share)).sum();
    Ok(ShardEntry {
        shard: shard.clone(),
        stamp: cached.head.stamp,
        index: cached.head.digest,
        content: cached.head.content,
        selection: curated.selection,
        accepted: if sampled { sum() } else { curated.selection.kept as f64 },
        digest: hasher.finalize(),
    })
}

fn check(chosen: &[ShardEntry]) -> Result<()> {
    let mut selection = Selection::default();
    chosen.iter().for_each(|one| selection += one.selection);
    ensure!(
        selection.kept > 0,
        "data.curation keeps none of {} images: {} have no scores, {} a histogram_score that is \
         too low, {} are too small, {} have a mae_loss of 0",
        selection.images(),
        selection.without_scores,
        selection.low_histogram_score,
        selection.small,
        selection.never_drawn
    );
    let mean = chosen.iter().map(|one| one.accepted).sum::<f64>() / selection.kept as f64;
    ensure!(
        mean > 1e-4,
        "the mean mae_loss of {} kept images is {mean:.1e}, so nearly every draw would be \
         rejected; set data.curation.sample_by_hardness = false",
        selection.kept
    );
    Ok(())
}

/// Warns where a JSON file names less than half of its shard's images, as where its names are not those of the
/// members, or it is that of another shard.
fn warn_of_few_scores(chosen: &[ShardEntry], curation: &CurationConfig) {
    let has_few = |one: &&ShardEntry| {
        let Selection { without_scores, .. } = one.selection;
        without_scores * 2 > one.selection.images()
    };
    let Some(first) = chosen.iter().find(has_few) else { return };
    warn!(
        "{} of {} shards have scores for less than half of their images: {} has {} images without, of {}; \
         its scores are in {}, by member name",
        chosen.iter().filter(has_few).count(),
        chosen.len(),
        first.shard,
        first.selection.without_scores,
        first.selection.images(),
        curation::scores_path(&curation.json_root, &first.shard).display()
    );
}

/// Bad shards that a message names.
const NAMED: usize = 10;

/// What shards hold, without the bad ones where these may be left out.
fn leave_out_bad(visited: Vec<Result<ShardEntry>>, config: &DataConfig) -> Result<Vec<ShardEntry>> {
    let all = visited.len();
    let (mut chosen, mut bad) = (Vec::with_capacity(all), Vec::new());
    for result in visited {
        match result {
            Ok(entry) => chosen.push(entry),
            Err(error) => bad.push(error),
        }
    }
    if bad.is_empty() {
        return Ok(chosen);
    }
    let count = bad.len();
    if all == 1 {
        return Err(bad.remove(0));
    }
    let named: Vec<String> = bad.iter().take(NAMED).map(|error| format!("{error:#}")).collect();
    let mut list = named.join("\n    ");
    if count > NAMED {
        let more = count - NAMED;
        list += &format!("\n    and {more} more: distill data check names all");
    }
    match config.bad_shards {
        BadShards::Stop if count == 1 => {
            bail!("{list}; data.bad_shards = \"skip\" leaves such shards out")
        }
        BadShards::Stop => bail!(
            "{count} of {all} shards cannot be read; data.bad_shards = \"skip\" leaves such out:\n    {list}"
        ),
        BadShards::Skip if count as f64 > config.max_bad_shard_share * all as f64 => bail!(
            "{count} of {all} shards cannot be read, more than data.max_bad_shard_share = {}:\n    {list}",
            config.max_bad_shard_share
        ),
        BadShards::Skip => {
            warn!("{count} of {all} shards cannot be read, and are left out:\n    {list}");
            Ok(chosen)
        }
    }
}
