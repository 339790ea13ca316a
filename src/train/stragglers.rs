//! Ranks that the others wait for.

use crate::artifacts::SlowestRank;
use crate::dist::{Pace, RankPace};

/// Steps over which ranks are compared.
const WINDOW: u64 = 100;

/// Compares the ranks of a run, over and over.
#[derive(Debug, Default)]
pub struct Stragglers {
    /// What each rank had spent when they were compared last.
    before: Vec<Pace>,
}

impl Stragglers {
    /// The rank that was busy for longest, once all `ranks` have taken another hundred steps.
    pub fn look(&mut self, ranks: &[RankPace]) -> Option<SlowestRank> {
        let now: Vec<Pace> = ranks.iter().map(|one| one.pace).collect();
        if self.before.len() != now.len() {
            self.before = now;
            return None;
        }
        let spent: Vec<Pace> =
            now.iter().zip(&self.before).map(|(now, before)| *now - *before).collect();
        if spent.iter().any(|pace| pace.steps < WINDOW) {
            return None;
        }
        self.before = now;
        let (place, slowest) =
            spent.iter().enumerate().max_by(|(_, a), (_, b)| a.busy().total_cmp(&b.busy()))?;
        let excess = |(number, (name, seconds)): (usize, (&'static str, f64))| {
            (name, seconds - median(spent.iter().map(|pace| pace.parts()[number].1)))
        };
        let parts = slowest.parts().into_iter().enumerate().map(excess);
        let (part, _) = parts.max_by(|(_, a), (_, b)| a.total_cmp(b))?;
        Some(SlowestRank {
            rank: ranks[place].rank,
            host: ranks[place].host.clone(),
            steps: slowest.steps,
            seconds: slowest.busy(),
            median_seconds: median(spent.iter().map(Pace::busy)),
            part: part.to_string(),
        })
    }
}

/// The lower of the two in the middle where there are two: of two ranks the faster one.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paces(of: &[(u64, [f64; 4])]) -> Vec<RankPace> {
        let pace = |&(steps, [seconds, data, exchange, saving]): &(u64, [f64; 4])| {
            let times = steps as f64;
            let [seconds, data, exchange, saving] =
                [seconds, data, exchange, saving].map(|one| one * times);
            Pace { steps, seconds, data, exchange, saving }
        };
        let of_rank = |(rank, one)| RankPace { rank, host: format!("host{rank}"), pace: pace(one) };
        of.iter().enumerate().map(of_rank).collect()
    }

    /// The one that waits least for the others is the slowest, in the part where it differs most.
    #[test]
    fn who_waits_least_is_waited_for() {
        let mut stragglers = Stragglers::default();
        assert_eq!(stragglers.look(&[]), None);
        let start = [(0, [0.0; 4]); 4];
        assert_eq!(stragglers.look(&paces(&start)), None, "there is nothing to compare with yet");
        // A second a step: data, exchange and saving of each.
        let ranks = |steps| {
            [
                (steps, [1.0, 0.1, 0.4, 0.0]),
                (steps, [1.0, 0.1, 0.4, 0.0]),
                (steps, [1.0, 0.5, 0.0, 0.0]),
                (steps, [1.0, 0.1, 0.3, 0.1]),
            ]
        };
        assert_eq!(stragglers.look(&paces(&ranks(99))), None, "too few steps");
        let found = stragglers.look(&paces(&ranks(110))).unwrap();
        assert_eq!((found.rank, &*found.host, &*found.part), (2, "host2", "data"));
        assert_eq!(found.steps, 110);
        assert!((found.seconds - 1.0).abs() < 1e-9 && (found.median_seconds - 0.6).abs() < 1e-9);
        assert!(found.is_straggler());
        assert_eq!(stragglers.look(&paces(&ranks(150))), None, "each window begins anew");
        let even = [(300, [1.0, 0.1, 0.02, 0.0]); 4];
        assert!(
            !Stragglers { before: vec![Pace::default(); 4] }
                .look(&paces(&even))
                .unwrap()
                .is_straggler()
        );
    }
}
