//! The `[loss]` table: which parts a loss has.

use serde::{Deserialize, Serialize};

use super::features::{Distance, Features, Fuse};
use super::part::{LossPart, TokenPair};
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
}

impl LossConfig {
    /// The parts that are turned on.
    fn parts(&self) -> Vec<Box<dyn LossPart>> {
        let features = Features { class: self.class, patch: self.patch, fuse: self.fuse };
        vec![Box::new(features)]
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
    /// Nothing is compared.
    pub fn check(&self) -> Check {
        require([self.class, self.patch] != [Distance::None; 2], "loss.patch", || {
            "found \"none\" like loss.class, expected a distance for one of them at least".into()
        })
    }
}
