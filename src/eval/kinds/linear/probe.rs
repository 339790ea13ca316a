//! One encoder's classifiers, from features to figures.

use anyhow::{Context, Result, ensure};
use tch::Tensor;

use super::few_shot::{self, Spread};
use super::grid::{Heads, Plan};
use super::logistic::Logistic;
use super::settings::{Linear, Solver};
use super::vectors::{Input, Labelled, classes, split};
use crate::dist::ProcessGroup;

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
/// and tests; the processes of `group` divide the classifiers, and all have what is found.
///
/// # Errors
/// There is one class alone, there are too few images to hold some out, every classifier failed, or another
/// process did.
pub fn probe(
    settings: &Linear,
    train: &Images<'_>,
    validation: Option<&Images<'_>>,
    test: &Images<'_>,
    group: &ProcessGroup,
) -> Result<Found> {
    let known = classes(train.labels);
    ensure!(
        known.len() > 1,
        "all training images are of one class: there is nothing to tell apart"
    );
    let labelled =
        |images: &Images<'_>| Labelled::new(images.vectors, images.labels, &known, group.device());
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
        Solver::Sgd => grid(settings, fitted, [&validation, &test], classes, group)?,
        Solver::Lbfgs => regressions(settings, fitted, [&validation, &test], classes, group)?,
    };
    // Of equal ones the first.
    let best = candidates
        .into_iter()
        .reduce(|best, one| if one.validation > best.validation { one } else { best });
    let best = best.filter(|best| best.validation > 0.0);
    let Candidate { name, validation, test: top1 } =
        best.context("no classifier finds the class of a validation image")?;
    let spread = |&shots: &usize| {
        few_shot::spread([&all, &test], classes, shots, (settings.draws, settings.seed), group)
    };
    let shots = settings.shots.iter().map(spread).collect::<Result<Vec<_>>>()?;
    Ok(Found { top1, validation, chosen: name, shots })
}

/// A classifier for each learning rate and input, those of an input trained at once.
fn grid(
    settings: &Linear,
    train: &Labelled,
    [validation, test]: [&Labelled; 2],
    classes: i64,
    group: &ProcessGroup,
) -> Result<Vec<Candidate>> {
    let rates = &settings.learning_rates;
    let mut candidates = Vec::new();
    for input in Input::ALL {
        let shares = group.divide(rates.len(), |own| {
            let learning_rates: Vec<f64> = own.iter().map(|&number| rates[number]).collect();
            if learning_rates.is_empty() {
                return Ok(Vec::new());
            }
            let plan = Plan {
                learning_rates: &learning_rates,
                steps: settings.steps,
                batch: settings.images_per_step as i64,
                seed: settings.seed,
            };
            let heads = Heads::train(&plan, input, train, classes);
            let pairs = heads.accuracies(validation)?.into_iter().zip(heads.accuracies(test)?);
            Ok(pairs.map(<[f64; 2]>::from).collect())
        })?;
        candidates.extend(rates.iter().zip(shares).map(|(rate, [validation, test])| {
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
    [validation, test]: [&Labelled; 2],
    classes: i64,
    group: &ProcessGroup,
) -> Result<Vec<Candidate>> {
    let strengths = &settings.strengths;
    let all: Vec<(Input, f64)> = Input::ALL
        .into_iter()
        .flat_map(|input| strengths.iter().map(move |&strength| (input, strength)))
        .collect();
    let shares = group.divide(all.len(), |own| {
        let fit = |&number: &usize| {
            let (input, strength) = all[number];
            let regression = Logistic::fit(input, train, classes, strength);
            Ok([regression.accuracy(validation)?, regression.accuracy(test)?])
        };
        own.iter().map(fit).collect()
    })?;
    let candidate = |(&(input, strength), [validation, test]): (&(Input, f64), [f64; 2])| {
        let name = format!("strength {strength}, {}", input.name());
        Candidate { name, validation, test }
    };
    Ok(all.iter().zip(shares).map(candidate).collect())
}
