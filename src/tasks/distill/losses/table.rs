//! The `[loss]` table: what of a student is compared with what of the teacher, and how.

use serde::{Deserialize, Serialize};

use super::comparison::Comparison;
use super::features::{Distance, Fuse};
use super::part::TokenPair;
use super::relation::Relation;
use crate::config::{Check, require};
use crate::nn::ProjectorKind;
use crate::train::objective::Losses;

/// How a student's tokens are compared with the teacher's: those after the last block by the keys of the table
/// itself, those after other blocks by [`Self::terms`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// What the whole of it is multiplied by.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: f64,
    /// What stands between the student's output and the comparison.
    #[serde(default, skip_serializing_if = "ProjectorKind::is_mlp")]
    pub projector: ProjectorKind,
    /// Weight of the relations between patch tokens; without it they are not compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gram: Option<f64>,
    /// Which patches each patch resembles; without it that is not compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relation: Option<Relation>,
    /// What else is compared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub terms: Vec<TermConfig>,
}

/// A comparison of tokens after blocks that it names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TermConfig {
    /// What its values in metrics and its projectors' parameters are called by.
    pub name: String,
    /// The student's blocks, counted from 0, or from the end where negative: -1 is the last.
    pub layers: Vec<i64>,
    /// The teacher's block for each of them; none: the same numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher_layers: Option<Vec<i64>>,
    /// Whether the student's tokens go through its final norm, whichever block they come from.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub norm: bool,
    #[serde(default)]
    pub class: Distance,
    #[serde(default)]
    pub patch: Distance,
    #[serde(default)]
    pub fuse: Fuse,
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: f64,
    /// What stands between the student's tokens and the comparison, one for each layer.
    #[serde(default, skip_serializing_if = "ProjectorKind::is_mlp")]
    pub projector: ProjectorKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gram: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relation: Option<Relation>,
}

impl Default for LossConfig {
    fn default() -> Self {
        Self {
            class: Distance::default(),
            patch: Distance::default(),
            fuse: Fuse::default(),
            weight: one(),
            projector: ProjectorKind::default(),
            gram: None,
            relation: None,
            terms: Vec::new(),
        }
    }
}

impl LossConfig {
    /// What of the tokens after the last blocks is compared.
    pub fn output(&self) -> Comparison {
        let Self { class, patch, fuse, gram, relation, .. } = *self;
        Comparison { class, patch, fuse, gram, relation }
    }

    /// The loss of one student's output, before its weight.
    ///
    /// # Panics
    /// If it is not compared, or where libtorch fails.
    pub fn compare(&self, tokens: &TokenPair) -> Losses {
        self.output().compare(tokens)
    }

    /// The first contradiction in the table, which stands at `key`, whatever the models are.
    ///
    /// # Errors
    /// Nothing is compared, a number is out of range, or names and lists do not fit each other.
    pub fn check(&self, key: &str) -> Check {
        self.output().check(key)?;
        check_weight(key, self.weight)?;
        for (number, term) in self.terms.iter().enumerate() {
            term.check(&format!("{key}.terms.{number}"))?;
            let name = &term.name;
            require(
                self.terms[..number].iter().all(|other| other.name != *name),
                format!("{key}.terms.{number}.name"),
                || format!("found `{name}` a second time, expected a name of its own"),
            )?;
        }
        let compares_something = self.output().is_any() || !self.terms.is_empty();
        require(compares_something, format!("{key}.patch"), || {
            format!(
                "found \"none\" like {key}.class, expected a distance for one of them at least, {key}.gram, \
                 {key}.relation or {key}.terms"
            )
        })
    }
}

impl TermConfig {
    /// What of the tokens is compared.
    pub fn comparison(&self) -> Comparison {
        let Self { class, patch, fuse, gram, relation, .. } = *self;
        Comparison { class, patch, fuse, gram, relation }
    }

    /// The student's blocks with the teacher's, as they are written.
    pub fn pairs(&self) -> impl Iterator<Item = (i64, i64)> {
        let teachers = self.teacher_layers.as_ref().unwrap_or(&self.layers);
        self.layers.iter().copied().zip(teachers.iter().copied())
    }

    fn check(&self, key: &str) -> Check {
        let name = &self.name;
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        require(
            name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(plain),
            format!("{key}.name"),
            || format!("found `{name}`, expected letters, digits, `-`, `_`, a letter first"),
        )?;
        require(!self.layers.is_empty(), format!("{key}.layers"), || {
            "found none, expected at least one of the student's blocks, such as [-1]".into()
        })?;
        let [own, teachers] = [Some(&self.layers), self.teacher_layers.as_ref()]
            .map(|layers| layers.map_or(self.layers.len(), Vec::len));
        require(own == teachers, format!("{key}.teacher_layers"), || {
            format!(
                "found {teachers} of the teacher's blocks for {own} of the student's in {key}.layers, expected \
                 one for each"
            )
        })?;
        require(self.comparison().is_any(), format!("{key}.patch"), || {
            format!(
                "found \"none\" like {key}.class, expected a distance for one of them at least, {key}.gram or \
                 {key}.relation"
            )
        })?;
        check_weight(key, self.weight)?;
        self.comparison().check(key)
    }
}

fn check_weight(key: &str, weight: f64) -> Check {
    require(weight > 0.0 && weight.is_finite(), format!("{key}.weight"), || {
        format!("found {weight}, expected a number above 0")
    })
}

fn one() -> f64 {
    1.0
}

fn is_one(weight: &f64) -> bool {
    *weight == one()
}

fn yes() -> bool {
    true
}

fn is_yes(norm: &bool) -> bool {
    *norm
}
