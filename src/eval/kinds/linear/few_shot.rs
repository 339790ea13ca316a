//! Classification from few images of each class.

use anyhow::Result;

use super::logistic::Logistic;
use super::vectors::{Input, Labelled};
use crate::dist::ProcessGroup;
use crate::draws::{Draws, Purpose};

/// What regressions of few images are fitted with: their strength, see [`Logistic`].
const STRENGTH: f64 = 1.0;

/// Accuracies over several draws.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    pub mean: f64,
    /// With n − 1 as divisor; 0 for one draw.
    pub deviation: f64,
}

/// Accuracy on `test` of logistic regressions of `shots` images of each of `classes` classes of `train`,
/// over so many `draws`, which the processes of `group` divide. A class of fewer images gives all that it has.
pub fn spread(
    [train, test]: [&Labelled; 2],
    classes: i64,
    shots: usize,
    (draws, seed): (u64, u64),
    group: &ProcessGroup,
) -> Result<Spread> {
    let mut members = vec![Vec::new(); classes as usize];
    for (row, class) in (0i64..).zip(Vec::<i64>::try_from(&train.classes)?) {
        members[class as usize].push(row);
    }
    let accuracies = group.divide(draws as usize, |own| {
        let fit = |&draw: &usize| {
            let rows = drawn(&members, shots, seed, draw as u64);
            let input = Input::ClassAndPatches;
            let regression = Logistic::fit(input, &train.select(&rows), classes, STRENGTH);
            Ok([regression.accuracy(test)?])
        };
        own.iter().map(fit).collect()
    })?;
    Ok(Spread::of(accuracies.as_flattened()))
}

/// So many rows of each class, whose rows are `members`: a function of seed, draw and number of shots.
fn drawn(members: &[Vec<i64>], shots: usize, seed: u64, draw: u64) -> Vec<i64> {
    let mut draws = Draws::new(seed, Purpose::Sample, shots as u64, draw);
    let of_class = |rows: &Vec<i64>| {
        let chosen = draws.choose(rows.len(), shots);
        chosen.into_iter().map(|place| rows[place]).collect::<Vec<_>>()
    };
    members.iter().flat_map(of_class).collect()
}

impl Spread {
    fn of(values: &[f64]) -> Self {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Self { mean, deviation: (squares / (count - 1.0).max(1.0)).sqrt() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each class gives its share, another one in another draw, the same in the same.
    #[test]
    fn draws_are_of_every_class() {
        let members = vec![(0..40).collect(), (40..43).collect(), (43..90).collect()];
        let rows = drawn(&members, 5, 7, 0);
        let of = |from, to| rows.iter().filter(|row| (from..to).contains(*row)).count();
        assert_eq!([of(0, 40), of(40, 43), of(43, 90)], [5, 3, 5]);
        assert_eq!(rows, drawn(&members, 5, 7, 0));
        assert_ne!(rows, drawn(&members, 5, 7, 1));
        assert_ne!(rows, drawn(&members, 5, 8, 0));
    }

    #[test]
    fn the_deviation_is_that_of_a_sample() {
        let spread = Spread::of(&[0.5, 0.7, 0.9]);
        assert!((spread.mean - 0.7).abs() < 1e-12 && (spread.deviation - 0.2).abs() < 1e-12);
        assert_eq!(Spread::of(&[0.25]), Spread { mean: 0.25, deviation: 0.0 });
    }
}
