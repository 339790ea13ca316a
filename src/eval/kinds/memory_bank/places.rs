//! Which patches a bank keeps: equally many of each class where there are, drawn by priority.

use std::collections::BinaryHeap;

/// A patch that may be kept. Of a class those are kept that come first in the order of these fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// A draw.
    pub priority: u64,
    /// The patch's number among all of the reference.
    pub number: u64,
    /// Its main class.
    pub class: usize,
}

/// The places of a bank, and who has them.
///
/// Of n(c) patches of each class, min(n(c), L) are kept, L being the same for all and as large as the bank
/// permits; what is left over after that goes to the first classes that have more. What is kept does not depend
/// on the order in which patches are offered, and what one set of places turned away no union of sets keeps:
/// L only falls while patches come.
pub struct Places {
    most: usize,
    /// Of each class, its candidates and their places, the last of them on top.
    kept: Vec<BinaryHeap<(Candidate, usize)>>,
    count: usize,
    /// The places that were used and are not.
    free: Vec<usize>,
    /// Places that were ever used.
    used: usize,
}

impl Places {
    /// Places for `most` patches of so many `classes`.
    pub fn new(classes: usize, most: usize) -> Self {
        let kept = (0..classes).map(|_| BinaryHeap::new()).collect();
        Self { most, kept, count: 0, free: Vec::new(), used: 0 }
    }

    /// The place of a patch if it is kept, at most `most`; another patch may have had it until now.
    pub fn offer(&mut self, candidate: Candidate) -> Option<usize> {
        let place = self.free.pop().unwrap_or_else(|| {
            self.used += 1;
            self.used - 1
        });
        self.kept[candidate.class].push((candidate, place));
        self.count += 1;
        if self.count <= self.most {
            return Some(place);
        }
        // The last of the largest classes.
        let largest = self.kept.iter_mut().max_by_key(|kept| kept.len())?;
        let (_, left) = largest.pop()?;
        self.count -= 1;
        self.free.push(left);
        (left != place).then_some(place)
    }

    /// The patches that are kept, by their numbers, and their places.
    pub fn kept(&self) -> Vec<(Candidate, usize)> {
        let mut kept: Vec<_> = self.kept.iter().flatten().copied().collect();
        kept.sort_unstable_by_key(|(candidate, _)| candidate.number);
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draws::{Draws, Purpose};

    /// Patches of which class c has `counts[c]`, mixed.
    fn candidates(counts: &[usize], seed: u64) -> Vec<Candidate> {
        let classes = counts.iter().enumerate();
        let classes: Vec<usize> = classes.flat_map(|(class, &count)| vec![class; count]).collect();
        let mut draws = Draws::new(seed, Purpose::Bank, 0, 0);
        let order = draws.choose(classes.len(), classes.len());
        let candidate = |(number, place): (usize, usize)| Candidate {
            // Few, so that some are equal.
            priority: draws.below(20),
            number: number as u64,
            class: classes[place],
        };
        order.into_iter().enumerate().map(candidate).collect()
    }

    fn kept(classes: usize, most: usize, offered: &[Candidate]) -> Vec<Candidate> {
        let mut places = Places::new(classes, most);
        offered.iter().for_each(|candidate| _ = places.offer(*candidate));
        assert!(places.used <= most + 1, "{} places for {most}", places.used);
        places.kept().into_iter().map(|(candidate, _)| candidate).collect()
    }

    fn per_class(classes: usize, kept: &[Candidate]) -> Vec<usize> {
        let of = |class| kept.iter().filter(|candidate| candidate.class == class).count();
        (0..classes).map(of).collect()
    }

    /// Classes have equal shares; what rare ones leave goes to the others, the first ones first; a bank that
    /// is large enough keeps all; the kept are those of the lowest priorities.
    #[test]
    fn places_are_spread_over_classes() {
        let counts = [500, 3, 0, 40, 90];
        let all = candidates(&counts, 1);
        for (most, expected) in [
            (100, [33, 3, 0, 32, 32]),
            (8, [2, 2, 0, 2, 2]),
            (153, [55, 3, 0, 40, 55]),
            (154, [56, 3, 0, 40, 55]),
            (600, [467, 3, 0, 40, 90]),
            (633, counts),
            (10_000, counts),
        ] {
            let kept = kept(5, most, &all);
            assert_eq!(per_class(5, &kept), expected, "{most} places");
            for (class, &count) in expected.iter().enumerate() {
                let of = |list: &[Candidate]| {
                    let mut of: Vec<_> =
                        list.iter().copied().filter(|one| one.class == class).collect();
                    of.sort_unstable();
                    of
                };
                assert_eq!(of(&kept), of(&all)[..count]);
            }
        }
    }

    /// The bank is the same in whatever order, and in however many parts that each keep their own, patches
    /// are offered.
    #[test]
    fn any_division_keeps_the_same() {
        for seed in 0..20 {
            let counts = [200, 1, 60, 0, 30 + seed as usize];
            let all = candidates(&counts, seed);
            for most in [1, 4, 50, 111, 200, 400] {
                let expected = kept(5, most, &all);
                for parts in [2, 3, 7] {
                    let mut left: Vec<Candidate> = Vec::new();
                    for part in all.chunks(all.len().div_ceil(parts)) {
                        left.extend(kept(5, most, part));
                    }
                    assert_eq!(kept(5, most, &left), expected, "{most} in {parts} parts");
                    left.reverse();
                    assert_eq!(kept(5, most, &left), expected, "{most}, the other way round");
                }
            }
        }
    }

    /// A place that is handed out belongs to one patch, until that has to go.
    #[test]
    fn places_are_used_again() {
        let all = candidates(&[100, 20, 5], 3);
        let mut places = Places::new(3, 30);
        let mut owner = vec![None; 31];
        for candidate in &all {
            if let Some(place) = places.offer(*candidate) {
                owner[place] = Some(*candidate);
            }
        }
        for (candidate, place) in places.kept() {
            assert_eq!(owner[place], Some(candidate));
        }
    }
}
