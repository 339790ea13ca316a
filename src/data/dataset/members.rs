//! What the images of an evaluation pass are called in their shards.

use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use crate::format::ShardIndex;
use crate::source::ShardAddress;

use super::dataset::Dataset;

/// An image in its shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Number of the shard, for [`Dataset::shard`].
    pub shard: usize,
    /// Name in the tar file, as curation's JSON files have it.
    pub name: String,
}

impl Dataset {
    /// Where shard `number` is.
    ///
    /// # Panics
    /// If there is no such shard.
    pub fn shard(&self, number: usize) -> &ShardAddress {
        &self.shards[number].shard
    }

    /// Class of the image that stands at `position` of an evaluation pass, where it has one.
    ///
    /// # Errors
    /// The position is behind the pass, or its shard's index cannot be read any more.
    pub fn label(&self, position: u64) -> Result<Option<u32>> {
        ensure!(position < self.sample_count(), "position {position} is behind the pass");
        Ok(self.location(self.order.sample_at(position))?.label)
    }

    /// The samples of shard `number`; in an evaluation pass over all samples, their positions.
    ///
    /// # Panics
    /// If there is no such shard.
    pub fn samples_of_shard(&self, number: usize) -> Range<u64> {
        self.catalogue.samples_of(number)
    }

    /// Shards and names of the images that stand at `positions` of an evaluation pass. The index
    /// of each shard is read once, so ask for a batch at a time.
    ///
    /// # Errors
    /// A position is behind the pass, or an index cannot be read any more.
    pub fn members(&self, positions: Range<u64>) -> Result<Vec<Member>> {
        let mut open: Option<(usize, Arc<ShardIndex>)> = None;
        let mut members = Vec::new();
        for position in positions {
            ensure!(position < self.sample_count(), "position {position} is behind the pass");
            let location = self.location(self.order.sample_at(position))?;
            let shard = location.shard;
            let index = match &open {
                Some((number, index)) if *number == shard => index.clone(),
                _ => self.indexes.open(self.shard(shard))?.index,
            };
            let row = index.row_at(&location.image);
            let row = row.with_context(|| self.unreadable(&location))?;
            members.push(Member { shard, name: index.name(row).to_string() });
            open = Some((shard, index));
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Cursor;
    use std::path::Path;

    use image::{ImageFormat, Rgb, RgbImage};
    use tempfile::TempDir;

    use super::*;
    use crate::config::{CurationConfig, DataConfig};
    use crate::dataset::curation::{Scores, write_scores};
    use crate::dataset::{EvaluationPass, Scratch};

    const SIDE: usize = 8;

    fn png(width: u32, height: u32, pixel: impl Fn(u32, u32) -> [u8; 3]) -> Vec<u8> {
        let image = RgbImage::from_fn(width, height, |x, y| Rgb(pixel(x, y)));
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    /// Of one colour, with the image's number as red.
    fn numbered(number: u8) -> Vec<u8> {
        png(10 + u32::from(number), 9, |_, _| [number, 0, 0])
    }

    fn write_shard(path: &Path, members: &[(String, Vec<u8>)]) {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, bytes) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, name, bytes.as_slice()).unwrap();
        }
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, tar.into_inner().unwrap()).unwrap();
    }

    /// Three shards of five images, which are numbered through; image 7 does not decode.
    fn shards() -> (TempDir, DataConfig) {
        let folder = tempfile::tempdir().unwrap();
        for shard in 0..3 {
            let member = |number: u8| {
                let bytes = if number == 7 { vec![7; 200] } else { numbered(number) };
                (format!("p{number}.png"), bytes)
            };
            let members: Vec<_> = (shard * 5..shard * 5 + 5).map(member).collect();
            write_shard(&folder.path().join(format!("web/{shard}.tar")), &members);
        }
        let pattern = folder.path().join("web/*.tar").display().to_string();
        let config = DataConfig {
            input_size: SIDE,
            max_failed_share: 1.0,
            ..DataConfig::minimal(vec![pattern])
        };
        (folder, config)
    }

    fn pass(most_samples: u64) -> EvaluationPass {
        EvaluationPass { most_samples, measure: true }
    }

    fn open(config: &DataConfig, pass: EvaluationPass) -> Result<Dataset> {
        Dataset::for_evaluation(config, "shards", pass, &|_, _| {})
    }

    /// The number and the width of each image, told by its pixels; nothing where they are black.
    fn seen(dataset: &Dataset) -> Vec<Option<(u8, u32)>> {
        let mut scratch = Scratch::default();
        let see = |position| {
            let mut out = vec![99; SIDE * SIDE * 3];
            let sample = dataset.fill(&mut scratch, position, &mut out).unwrap();
            let black = out.iter().all(|&level| level == 0);
            assert!(sample.is_some() || black, "what is missing is black");
            sample.map(|sample| (out[0], sample.image.width))
        };
        (0..dataset.sample_count()).map(see).collect()
    }

    /// Every image once, as they lie in the shards; one that does not decode leaves a gap and
    /// moves nobody.
    #[test]
    fn a_pass_takes_everything_once_and_in_order() {
        let (_folder, config) = shards();
        let dataset = open(&config, EvaluationPass::WHOLE).unwrap();
        let expected: Vec<_> =
            (0..15).map(|n: u8| (n != 7).then_some((n, 10 + u32::from(n)))).collect();
        assert_eq!(seen(&dataset), expected);
        let counts = dataset.failure_counts();
        assert_eq!((counts.tried, counts.failed), (15, 1));
        assert_eq!(dataset.samples_of_shard(1), 5..10);
        let behind = dataset.fill(&mut Scratch::default(), 15, &mut [0; SIDE * SIDE * 3]);
        assert!(behind.unwrap_err().to_string().contains("position 15"));
        let strict = DataConfig { max_failed_share: 0.0, ..config };
        let strict = open(&strict, EvaluationPass::WHOLE).unwrap();
        let error = strict.fill(&mut Scratch::default(), 7, &mut [0; SIDE * SIDE * 3]).unwrap_err();
        assert!(error.to_string().contains("data.max_failed_share"), "{error:#}");
    }

    /// A part of the pass is spread over all shards, and members are named by it.
    #[test]
    fn most_samples_are_an_even_spread() {
        let (_folder, config) = shards();
        let dataset = open(&config, pass(5)).unwrap();
        let numbers: Vec<u8> = seen(&dataset).into_iter().map(|seen| seen.unwrap().0).collect();
        assert_eq!(numbers, [0, 3, 6, 9, 12]);
        let members = dataset.members(0..5).unwrap();
        let named: Vec<_> = members.iter().map(|m| (m.shard, m.name.as_str())).collect();
        assert_eq!(
            named,
            [(0, "p0.png"), (0, "p3.png"), (1, "p6.png"), (1, "p9.png"), (2, "p12.png")]
        );
        assert_eq!(dataset.shard(2).file_name(), "2.tar");
        assert!(dataset.members(4..6).is_err());
    }

    /// What is measured is the whole image, not what is cut of it; and only where it is asked for.
    #[test]
    fn the_whole_image_is_measured() {
        let folder = tempfile::tempdir().unwrap();
        // The central square of the second is of one colour.
        let halves = png(40, 20, |x, _| if x < 20 { [0; 3] } else { [255; 3] });
        let edges = png(40, 20, |x, _| if x < 10 { [0; 3] } else { [255; 3] });
        let members = [("a.png".into(), halves), ("b.png".into(), edges)];
        write_shard(&folder.path().join("0.tar"), &members);
        let pattern = folder.path().join("0.tar").display().to_string();
        let config = DataConfig { input_size: SIDE, ..DataConfig::minimal(vec![pattern]) };
        let image = |pass, position| {
            let mut out = [0; SIDE * SIDE * 3];
            let dataset = open(&config, pass).unwrap();
            let sample = dataset.fill(&mut Scratch::default(), position, &mut out).unwrap();
            sample.unwrap().image
        };
        let expected = [1.0, 0.25 * 2.0 + 0.75 * (4.0f64 / 3.0).log2()];
        for (position, expected) in expected.into_iter().enumerate() {
            let found = image(pass(u64::MAX), position as u64);
            assert_eq!((found.width, found.height), (40, 20));
            assert!((found.histogram_entropy.unwrap() - expected).abs() < 1e-12);
            let plain = image(EvaluationPass::WHOLE, position as u64);
            assert_eq!(plain.histogram_entropy, None);
        }
    }

    /// Scores that a pass found are what curation of the next run reads: its thresholds hold for
    /// them, in training and in the next pass, and sampling by hardness in training alone.
    #[test]
    fn written_scores_are_read_by_curation() {
        let (folder, config) = shards();
        let dataset = open(&config, pass(u64::MAX)).unwrap();
        let json_root = folder.path().join("deep/scores");
        for shard in 0..dataset.shard_count() {
            let positions = dataset.samples_of_shard(shard);
            let mut scores = BTreeMap::new();
            for (member, position) in
                dataset.members(positions.clone()).unwrap().iter().zip(positions)
            {
                let mut out = [0; SIDE * SIDE * 3];
                let sample = dataset.fill(&mut Scratch::default(), position, &mut out).unwrap();
                let Some(sample) = sample else { continue };
                assert_eq!(member.name, format!("p{}.png", out[0]));
                let of_image = Scores {
                    // Those of one colour have none of their own.
                    histogram_score: sample.image.histogram_entropy.map(|bits| bits + 5.0),
                    height: Some(f64::from(sample.image.height)),
                    width: Some(f64::from(sample.image.width)),
                    // The first counts as never hard.
                    mae_loss: Some(f64::from(out[0]) / 15.0),
                };
                scores.insert(member.name.clone(), of_image);
            }
            write_scores(&json_root, dataset.shard(shard), &scores).unwrap();
        }
        let curation = CurationConfig {
            json_root: json_root.clone(),
            min_histogram_score: 4.5,
            min_side: 9,
            sample_by_hardness: true,
        };
        let curated = DataConfig { curation: Some(curation), ..config.clone() };
        let training = Dataset::open(&curated, 0, &|_, _| {}).unwrap();
        let selection = training.selection();
        let counts = (selection.kept, selection.without_scores, selection.never_drawn);
        assert_eq!(counts, (13, 1, 1));
        let mut drawn = [0u32; 15];
        let mut out = [0; SIDE * SIDE * 3];
        for position in 0..1500 {
            training.fill(&mut Scratch::default(), position, &mut out).unwrap();
            drawn[usize::from(out[0])] += 1;
        }
        assert!(drawn[14] > 5 * drawn[1].max(1), "{drawn:?}");
        let all = open(&curated, EvaluationPass::WHOLE).unwrap();
        let numbers: Vec<u8> = seen(&all).into_iter().map(|seen| seen.unwrap().0).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14]);
    }
}
