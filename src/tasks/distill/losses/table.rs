//! The `[loss]` table: which parts a loss has.

use serde::{Deserialize, Serialize};

use super::features::{Distance, Features, Fuse};
use super::gram::Gram;
use super::part::{LossPart, TokenPair};
use super::relation::Relation;
use crate::config::{Check, require};
use crate::train::objective::Losses;

/// How student tokens are compared with the teacher's.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossConfig {
    /// Distance over class tokens, or `none`.
    #[serde(default)]
    pub class: Distance,
    /// Distance over the patch tokens that the student sees.
    #[serde(default)]
    pub patch: Distance,
    #[serde(default)]
    pub fuse: Fuse,
    /// Weight of the relations between patch tokens; without it they are not compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gram: Option<f64>,
    /// Which patches each patch resembles; without it that is not compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relation: Option<Relation>,
}

impl LossConfig {
    /// The parts that are turned on.
    fn parts(&self) -> Vec<Box<dyn LossPart>> {
        let mut parts: Vec<Box<dyn LossPart>> = Vec::new();
        if self.has_features() {
            let Self { class, patch, fuse, .. } = *self;
            parts.push(Box::new(Features { class, patch, fuse }));
        }
        if let Some(weight) = self.gram {
            parts.push(Box::new(Gram { weight }));
        }
        if let Some(relation) = self.relation {
            parts.push(Box::new(relation));
        }
        parts
    }

    /// Whether tokens themselves are compared.
    fn has_features(&self) -> bool {
        [self.class, self.patch] != [Distance::None; 2]
    }

    /// The loss of one student's tokens: the sum of its parts' totals, and all of their terms.
    ///
    /// # Panics
    /// If no part is turned on, which [`Self::check`] refuses, or where libtorch fails.
    pub fn compare(&self, tokens: &TokenPair) -> Losses {
        let parts = self.parts().into_iter().map(|part| part.compare(tokens));
        let sum = parts.reduce(|sum, part| Losses {
            total: sum.total + part.total,
            terms: sum.terms.into_iter().chain(part.terms).collect(),
        });
        sum.expect("a loss compares something")
    }

    /// # Errors
    /// Nothing is compared, or a weight is out of range.
    pub fn check(&self) -> Check {
        let relation = self.relation.unwrap_or(Relation { weight: 1.0, temperature: 1.0 });
        for (key, weight) in
            [("loss.gram", self.gram.unwrap_or(1.0)), ("loss.relation.weight", relation.weight)]
        {
            require(weight > 0.0 && weight.is_finite(), key, || {
                format!("found {weight}, expected a number above 0, or no such key to turn it off")
            })?;
        }
        // Below, float32's exponentials leave nothing but the token itself.
        let temperature = relation.temperature;
        require((0.01..=100.0).contains(&temperature), "loss.relation.temperature", || {
            format!("found {temperature}, expected a number from 0.01 to 100")
        })?;
        let compares_something =
            self.has_features() || self.gram.is_some() || self.relation.is_some();
        require(compares_something, "loss.patch", || {
            "found \"none\" like loss.class, expected a distance for one of them at least, \
             loss.gram or loss.relation"
                .into()
        })
    }
}
