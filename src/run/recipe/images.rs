//! The images that a recipe is for.

use std::path::Path;

use anyhow::Result;
use indicatif::HumanCount;

use super::wishes::Wishes;
use crate::data::config::DataConfig;
use crate::data::source::Splits;
use crate::data::{Dataset, EvaluationPass};
use crate::run::opening::opening;

/// What was found of them.
pub struct FoundImages {
    /// As `data.shards` takes them.
    pub shards: Vec<String>,
    /// Those that k-NN measures with; empty where there are none, or no labels.
    pub held_out: Vec<String>,
    pub samples: u64,
    /// Whether they have classes.
    pub are_labelled: bool,
}

impl FoundImages {
    /// Looks for images, splits and labels.
    ///
    /// # Errors
    /// A folder or shards cannot be read, or hold no image.
    pub fn find(wishes: &Wishes) -> Result<Self> {
        let (mut shards, mut held_out) = (Vec::new(), wishes.held_out.clone());
        for place in &wishes.images {
            if !Path::new(place).is_dir() {
                shards.push(place.clone());
                continue;
            }
            let splits = Splits::of(Path::new(place))?;
            shards.push(splits.training);
            if wishes.held_out.is_empty() {
                held_out.extend(splits.held_out);
            }
        }
        let (samples, are_labelled) = look(&shards, "--images")?;
        if !are_labelled || held_out.is_empty() || !look(&held_out, "--held-out")?.1 {
            held_out.clear();
        }
        Ok(Self { shards, held_out, samples, are_labelled })
    }

    pub fn in_words(&self) -> String {
        let Self { shards, held_out, samples, are_labelled } = self;
        let labelled = if *are_labelled { "with classes" } else { "without classes" };
        let held_out = match held_out.is_empty() {
            true => String::new(),
            false => format!("; held out: {}", held_out.join(", ")),
        };
        format!("{} in {}, {labelled}{held_out}", HumanCount(*samples), shards.join(", "))
    }
}

/// How many images there are, and whether the first and the last have a class.
fn look(shards: &[String], key: &str) -> Result<(u64, bool)> {
    let config = DataConfig::minimal(shards.to_vec());
    let open = |progress: crate::data::ShardProgress<'_>| {
        Dataset::for_evaluation(&config, key, EvaluationPass::WHOLE, progress)
    };
    let dataset = opening("looking at images", open)?;
    let samples = dataset.sample_count();
    let ends = [0, samples.saturating_sub(1)].map(|place| dataset.label(place));
    let [first, last] = ends;
    Ok((samples, first?.is_some() && last?.is_some()))
}
