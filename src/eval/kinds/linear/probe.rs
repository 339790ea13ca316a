//! One encoder's classifiers, from features to figures.

use anyhow::{Context, Result, ensure};
use tch::{Device, Tensor};

use super::few_shot::{self, Spread};
use super::grid::{Heads, Plan};
use super::logistic::Logistic;
use super::settings::{Linear, Solver};
use super::vectors::{Input, Labelled, classes, split};

/// Features of a set of images, by one encoder.
pub struct Images<'a> {
    /// Mean class token, then mean patch token, both after the final norm: `[N, 2D]` float32.
    pub vectors: &'a Tensor,
    /// Class of each image.
    pub labels: &'a [u32],
}

/// What was found of an encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Share of the test images whose class the chosen classifier finds.
    pub top1: f64,
    /// That of the validation images, by which it was chosen.
    pub validation: f64,
    /// What the chosen one is, for people.
    pub chosen: String,
    /// For each number of images of a class.
    pub shots: Vec<Spread>,
}

/// A classifier that may be chosen.
struct Candidate {
    name: String,
    validation: f64,
    test: f64,
}

/// Trains on `train`, or where there are no validation images on nine tenths of it, chooses by validation,
/// and tests; computed on `device`.
///
/// # Errors
/// There is one class alone, there are too few images to hold some out, or every classifier failed.
pub fn probe(
    settings: &Linear,
    train: &Images<'_>,
    validation: Option<&Images<'_>>,
    test: &Images<'_>,
    device: Device,
) -> Result<Found> {
    let known = classes(train.labels);
    ensure!(
        known.len() > 1,
        "all training images are of one class: there is nothing to tell apart"
    );
    let labelled =
        |images: &Images<'_>| Labelled::new(images.vectors, images.labels, &known, device);
    let (all, test) = (labelled(train), labelled(test));
    let (fitted, validation) = match validation {
        Some(validation) => (None, labelled(validation)),
        None => {
            let [rows, held_out] = split(train.labels)?;
            (Some(all.select(&rows)), all.select(&held_out))
        }
    };
    let fitted = fitted.as_ref().unwrap_or(&all);
    let classes = known.len() as i64;
    let candidates = match settings.solver {
        Solver::Sgd => grid(settings, fitted, &validation, &test, classes)?,
        Solver::Lbfgs => regressions(settings, fitted, &validation, &test, classes)?,
    };
    // Of equal ones the first.
    let best = candidates
        .into_iter()
        .reduce(|best, one| if one.validation > best.validation { one } else { best });
    let best = best.filter(|best| best.validation > 0.0);
    let Candidate { name, validation, test: top1 } =
        best.context("no classifier finds the class of a validation image")?;
    let spread = |&shots: &usize| {
        few_shot::spread(&all, &test, classes, shots, settings.draws, settings.seed)
    };
    let shots = settings.shots.iter().map(spread).collect::<Result<Vec<_>>>()?;
    Ok(Found { top1, validation, chosen: name, shots })
}

/// A classifier for each learning rate and input, those of an input trained at once.
fn grid(
    settings: &Linear,
    train: &Labelled,
    validation: &Labelled,
    test: &Labelled,
    classes: i64,
) -> Result<Vec<Candidate>> {
    let plan = Plan {
        learning_rates: &settings.learning_rates,
        steps: settings.steps,
        batch: settings.images_per_step as i64,
        seed: settings.seed,
    };
    let mut candidates = Vec::new();
    for input in Input::ALL {
        let heads = Heads::train(&plan, input, train, classes);
        let shares = heads.accuracies(validation)?.into_iter().zip(heads.accuracies(test)?);
        let named = settings.learning_rates.iter().zip(shares);
        candidates.extend(named.map(|(rate, (validation, test))| {
            let name = format!("learning rate {rate}, {}", input.name());
            Candidate { name, validation, test }
        }));
    }
    Ok(candidates)
}

/// A logistic regression for each strength and input.
fn regressions(
    settings: &Linear,
    train: &Labelled,
    validation: &Labelled,
    test: &Labelled,
    classes: i64,
) -> Result<Vec<Candidate>> {
    let mut candidates = Vec::new();
    for input in Input::ALL {
        for &strength in &settings.strengths {
            let regression = Logistic::fit(input, train, classes, strength);
            candidates.push(Candidate {
                name: format!("strength {strength}, {}", input.name()),
                validation: regression.accuracy(validation)?,
                test: regression.accuracy(test)?,
            });
        }
    }
    Ok(candidates)
}
