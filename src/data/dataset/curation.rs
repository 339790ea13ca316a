//! Which web images are kept, by the JSON file of scores that stands for each shard.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::config::CurationConfig;

use crate::format::ShardIndex;
use crate::source::ShardAddress;
use distill_base::durable;

/// An image's entry in the JSON file. A missing or `null` score is no score.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Entropy of the colour histogram, in bits.
    pub histogram_score: Option<f64>,
    /// In pixels.
    pub height: Option<f64>,
    /// In pixels.
    pub width: Option<f64>,
    /// Loss of a masked autoencoder: how hard the image is.
    pub mae_loss: Option<f64>,
}

/// How many images are kept, and why the others are not. An image that fails several tests
/// counts for the first of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Selection {
    pub kept: u64,
    /// No entry in the JSON file, or one without a score that is needed.
    pub without_scores: u64,
    /// `histogram_score` is not above the least.
    pub low_histogram_score: u64,
    /// Width or height is below the least.
    pub small: u64,
    /// `mae_loss` is 0 or less, so sampling by hardness would never draw it.
    pub never_drawn: u64,
}

impl Selection {
    /// All images, kept or not.
    pub fn images(&self) -> u64 {
        self.kept + self.without_scores + self.low_histogram_score + self.small + self.never_drawn
    }
}

impl std::ops::AddAssign for Selection {
    fn add_assign(&mut self, other: Self) {
        self.kept += other.kept;
        self.without_scores += other.without_scores;
        self.low_histogram_score += other.low_histogram_score;
        self.small += other.small;
        self.never_drawn += other.never_drawn;
    }
}

/// What curation leaves of a shard.
pub struct Curated {
    /// Rows of the shard's index that are kept, ascending.
    pub rows: Vec<u32>,
    /// Probability with which each kept row is accepted when drawn; empty without sampling by
    /// hardness.
    pub acceptance: Vec<f32>,
    pub selection: Selection,
}

enum Verdict {
    Keep(f32),
    WithoutScores,
    LowHistogramScore,
    Small,
    NeverDrawn,
}

/// Applies the thresholds to the images of `shard`.
///
/// # Errors
/// The JSON file cannot be read or has another form.
pub fn curate(
    config: &CurationConfig,
    shard: &ShardAddress,
    index: &ShardIndex,
) -> Result<Curated> {
    let path = scores_path(&config.json_root, shard);
    let scores = read_scores(&path)?;
    let mut curated =
        Curated { rows: Vec::new(), acceptance: Vec::new(), selection: Selection::default() };
    for row in 0..index.rows() {
        let name = index.name(row);
        let scores = scores.get(name).or_else(|| scores.get(name.trim_start_matches("./")));
        let selection = &mut curated.selection;
        let count = match scores.map_or(Verdict::WithoutScores, |scores| judge(config, scores)) {
            Verdict::Keep(probability) => {
                curated.rows.push(row as u32);
                if config.sample_by_hardness {
                    curated.acceptance.push(probability);
                }
                &mut selection.kept
            }
            Verdict::WithoutScores => &mut selection.without_scores,
            Verdict::LowHistogramScore => &mut selection.low_histogram_score,
            Verdict::Small => &mut selection.small,
            Verdict::NeverDrawn => &mut selection.never_drawn,
        };
        *count += 1;
    }
    Ok(curated)
}

/// `JSON_ROOT/<shard's folder name>/<shard's name without .tar>.json`.
pub fn scores_path(json_root: &Path, shard: &ShardAddress) -> PathBuf {
    let absolute = shard.as_file().and_then(|path| std::path::absolute(path).ok());
    let shard = absolute.map_or_else(|| shard.clone(), ShardAddress::File);
    let name = shard.file_name();
    let stem = name.rsplit_once('.').map_or(&*name, |(stem, _)| stem);
    json_root.join(&*shard.folder_name()).join(format!("{stem}.json"))
}

/// Writes the scores of the images of `shard`, by member name, where curation reads them. What was
/// there is replaced whole.
///
/// # Errors
/// The folder cannot be made or written, or the disk is full.
pub fn write_scores(
    json_root: &Path,
    shard: &ShardAddress,
    scores: &BTreeMap<String, Scores>,
) -> Result<()> {
    let path = scores_path(json_root, shard);
    let folder = path.parent().unwrap_or(json_root);
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    let mut text = serde_json::to_vec(scores)?;
    text.push(b'\n');
    durable::write(&path, &text)
}

fn read_scores(path: &Path) -> Result<HashMap<String, Scores>> {
    let advice =
        || format!("{}: the scores that data.curation needs cannot be read", path.display());
    let text = std::fs::read(path).with_context(advice)?;
    serde_json::from_slice(&text).with_context(advice)
}

fn judge(config: &CurationConfig, scores: &Scores) -> Verdict {
    let Scores {
        histogram_score: Some(histogram), height: Some(height), width: Some(width), ..
    } = *scores
    else {
        return Verdict::WithoutScores;
    };
    if histogram <= config.min_histogram_score {
        return Verdict::LowHistogramScore;
    }
    if width.min(height) < config.min_side as f64 {
        return Verdict::Small;
    }
    match scores.mae_loss {
        _ if !config.sample_by_hardness => Verdict::Keep(1.0),
        None => Verdict::WithoutScores,
        Some(loss) if loss <= 0.0 => Verdict::NeverDrawn,
        Some(loss) => Verdict::Keep(loss.min(1.0) as f32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> CurationConfig {
        CurationConfig {
            json_root: PathBuf::from("scores"),
            min_histogram_score: 4.5,
            min_side: 320,
            sample_by_hardness: true,
        }
    }

    #[test]
    fn the_scores_of_a_shard_lie_under_its_folder_and_name() {
        let path =
            scores_path(Path::new("root"), &ShardAddress::File("web/part-3/00012.tar".into()));
        assert_eq!(path, Path::new("root/part-3/00012.json"));
    }

    #[test]
    fn thresholds_are_the_recipes() {
        let scores = |histogram_score, height, width, mae_loss| Scores {
            histogram_score: Some(histogram_score),
            height: Some(height),
            width: Some(width),
            mae_loss: Some(mae_loss),
        };
        let verdict = |scores| judge(&config(), &scores);
        assert!(matches!(verdict(scores(4.6, 320.0, 320.0, 0.25)), Verdict::Keep(p) if p == 0.25));
        assert!(matches!(verdict(scores(4.5, 320.0, 320.0, 0.5)), Verdict::LowHistogramScore));
        assert!(matches!(verdict(scores(9.0, 319.0, 900.0, 0.5)), Verdict::Small));
        assert!(matches!(verdict(scores(9.0, 900.0, 319.0, 0.5)), Verdict::Small));
        assert!(matches!(verdict(scores(9.0, 900.0, 900.0, 0.0)), Verdict::NeverDrawn));
        assert!(matches!(verdict(scores(9.0, 900.0, 900.0, 7.0)), Verdict::Keep(1.0)));
        let unknown = Scores { mae_loss: None, ..scores(9.0, 900.0, 900.0, 0.0) };
        assert!(matches!(verdict(unknown), Verdict::WithoutScores));
        let plain = CurationConfig { sample_by_hardness: false, ..config() };
        assert!(matches!(judge(&plain, &unknown), Verdict::Keep(1.0)));
    }
}
