//! What is measured of the encoders when training has ended.

use serde::{Deserialize, Serialize};

/// Measurements at the end of a run; none by default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluationConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub knn: Option<KnnConfig>,
}

/// k-NN classification of labelled images by their features.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnnConfig {
    /// Labelled shards whose images vote, in the forms that `data.shards` takes.
    pub reference: Vec<String>,
    /// Labelled shards whose images are classified.
    pub held_out: Vec<String>,
    /// Numbers of neighbours that vote; each gives an accuracy.
    #[serde(default = "neighbours")]
    pub neighbours: Vec<usize>,
    /// A vote weighs exp(cosine similarity / temperature).
    #[serde(default = "temperature")]
    pub temperature: f64,
    /// Most images that vote, spread evenly over their shards. Left out: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most_reference: Option<u64>,
    /// Most images that are classified, spread evenly over their shards. Left out: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most_held_out: Option<u64>,
}

impl KnnConfig {
    /// Numbers of neighbours of the published figures.
    pub const NEIGHBOURS: [usize; 4] = [10, 20, 100, 200];

    /// Temperature of the published figures.
    pub const TEMPERATURE: f64 = 0.07;
}

fn neighbours() -> Vec<usize> {
    KnnConfig::NEIGHBOURS.to_vec()
}
fn temperature() -> f64 {
    KnnConfig::TEMPERATURE
}
