//! The table of settings.

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::config::{Check, require};

/// How classifiers are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Solver {
    /// Stochastic gradient descent, one classifier for each learning rate
    Sgd,
    /// Logistic regression by L-BFGS, one for each strength
    Lbfgs,
}

/// Linear classification of labelled images by class and patch tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct Linear {
    /// Labelled shards of the images that are learnt
    #[arg(long, required = true, num_args = 1.., value_name = "PATTERN")]
    pub train: Vec<String>,
    /// Labelled shards of the images that the best classifier is chosen by [default: a tenth of the
    /// training images]
    #[arg(long, num_args = 1.., value_name = "PATTERN")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub validation: Vec<String>,
    /// Labelled shards of the images that it is tested on
    #[arg(long, required = true, num_args = 1.., value_name = "PATTERN")]
    pub test: Vec<String>,
    /// How classifiers are found
    #[arg(long, value_enum, default_value_t = Solver::Sgd)]
    #[serde(default = "solver")]
    pub solver: Solver,
    /// Learning rates of `sgd`, for 256 images in a step
    #[arg(long, value_name = "LR,...", value_delimiter = ',', default_values_t = LEARNING_RATES)]
    #[serde(default = "learning_rates")]
    pub learning_rates: Vec<f64>,
    /// Steps of `sgd`
    #[arg(long, value_name = "N", default_value_t = STEPS)]
    #[serde(default = "steps")]
    pub steps: u64,
    /// Images in a step of `sgd`
    #[arg(long, value_name = "N", default_value_t = IMAGES_PER_STEP)]
    #[serde(default = "images_per_step")]
    pub images_per_step: u32,
    /// Strengths of `lbfgs`: what the loss counts for against the weights' squares
    #[arg(long, value_name = "C,...", value_delimiter = ',', default_values_t = STRENGTHS)]
    #[serde(default = "strengths")]
    pub strengths: Vec<f64>,
    /// Few-shot: so many training images of each class, for logistic regressions of their own
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    #[serde(default)]
    pub shots: Vec<usize>,
    /// Times that few images are drawn, of which mean and deviation are told
    #[arg(long, value_name = "N", default_value_t = DRAWS)]
    #[serde(default = "draws")]
    pub draws: u64,
    /// What the order of `sgd` and the few images follow from
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    #[serde(default)]
    pub seed: u64,
    /// Take so many training images at most, spread evenly over all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most_train: Option<u64>,
    /// Take so many test images at most, spread evenly over all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most_test: Option<u64>,
}

/// DINOv2's, as are the steps: ten times over ImageNet.
const LEARNING_RATES: [f64; 13] =
    [1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1];
const STEPS: u64 = 12_500;
const IMAGES_PER_STEP: u32 = 1024;
const STRENGTHS: [f64; 5] = [0.01, 0.1, 1.0, 10.0, 100.0];
const DRAWS: u64 = 5;

fn solver() -> Solver {
    Solver::Sgd
}
fn learning_rates() -> Vec<f64> {
    LEARNING_RATES.to_vec()
}
fn steps() -> u64 {
    STEPS
}
fn images_per_step() -> u32 {
    IMAGES_PER_STEP
}
fn strengths() -> Vec<f64> {
    STRENGTHS.to_vec()
}
fn draws() -> u64 {
    DRAWS
}

impl Linear {
    /// Whether its numbers are such that classifiers can be trained.
    ///
    /// # Errors
    /// The setting at fault, what was found and what was expected.
    pub fn check_numbers(&self) -> Check {
        for (key, numbers) in
            [("learning_rates", &self.learning_rates), ("strengths", &self.strengths)]
        {
            let is_fine = |number: &f64| *number > 0.0 && number.is_finite();
            require(!numbers.is_empty() && numbers.iter().all(is_fine), key, || {
                format!("found {numbers:?}, expected numbers above 0")
            })?;
        }
        for (key, number) in [
            ("steps", self.steps),
            ("images_per_step", self.images_per_step.into()),
            ("draws", self.draws),
        ] {
            require(number > 0, key, || "found 0, expected a number above 0".into())?;
        }
        require(!self.shots.contains(&0), "shots", || {
            format!("found {:?}, expected numbers above 0", self.shots)
        })
    }
}
