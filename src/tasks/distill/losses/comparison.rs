//! What of two models' tokens is compared: the parts of a loss.

use super::features::{Distance, Features, Fuse};
use super::gram::Gram;
use super::part::{LossPart, TokenPair};
use super::relation::Relation;
use crate::config::{Check, require};
use crate::train::objective::Losses;

/// The parts of a loss over a pair of tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Distance over class tokens.
    pub class: Distance,
    /// Distance over the patch tokens that the student sees.
    pub patch: Distance,
    pub fuse: Fuse,
    /// Weight of the relations between patch tokens, if they are compared.
    pub gram: Option<f64>,
    pub relation: Option<Relation>,
}

impl Comparison {
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

    /// Whether tokens themselves are compared, which must have one width.
    pub fn has_features(&self) -> bool {
        [self.class, self.patch] != [Distance::None; 2]
    }

    /// Whether anything is compared.
    pub fn is_any(&self) -> bool {
        self.has_features() || self.gram.is_some() || self.relation.is_some()
    }

    /// Whether of the tokens themselves those of classes are all that is compared.
    pub fn is_of_class_alone(&self) -> bool {
        self.class != Distance::None && self.patch == Distance::None
    }

    /// The sum of the parts' totals, and all of their terms.
    ///
    /// # Panics
    /// If no part is turned on, or where libtorch fails.
    pub fn compare(&self, tokens: &TokenPair) -> Losses {
        let parts = self.parts().into_iter().map(|part| part.compare(tokens));
        let sum = parts.reduce(|sum, part| Losses {
            total: sum.total + part.total,
            terms: sum.terms.into_iter().chain(part.terms).collect(),
        });
        sum.expect("a loss compares something")
    }

    /// The first number out of range, in the table at `key`.
    ///
    /// # Errors
    /// There is one.
    pub fn check(&self, key: &str) -> Check {
        let relation = self.relation.unwrap_or(Relation { weight: 1.0, temperature: 1.0 });
        for (name, weight) in
            [("gram", self.gram.unwrap_or(1.0)), ("relation.weight", relation.weight)]
        {
            require(weight > 0.0 && weight.is_finite(), format!("{key}.{name}"), || {
                format!("found {weight}, expected a number above 0, or no such key to turn it off")
            })?;
        }
        // Below, float32's exponentials leave nothing but the token itself.
        let temperature = relation.temperature;
        require(
            (0.01..=100.0).contains(&temperature),
            format!("{key}.relation.temperature"),
            || format!("found {temperature}, expected a number from 0.01 to 100"),
        )
    }

    /// What is compared how, in words: `class cosine, patch l1, gram`.
    pub fn words(&self) -> String {
        let mut words = Vec::new();
        for (what, distance) in [("class", self.class), ("patch", self.patch)] {
            if distance != Distance::None {
                words.push(format!("{what} {}", distance.name()));
            }
        }
        if let Some(weight) = self.gram {
            words.push(format!("gram × {weight}"));
        }
        if let Some(Relation { weight, temperature }) = self.relation {
            words.push(format!("relation × {weight} at temperature {temperature}"));
        }
        words.join(", ")
    }
}
