//! Which rank writes each tensor that every rank holds whole.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The rank that writes each of the tensors of these sizes: over at most `writers` ranks spread
/// evenly over all, the largest tensor first, each to the rank with the least so far. All ranks come
/// to the same answer.
pub(super) fn owners(bytes: &[u64], writers: usize, world_size: usize) -> Vec<usize> {
    let writers = writers.clamp(1, world_size);
    let mut loads: BinaryHeap<_> = (0..writers).map(|writer| Reverse((0, writer))).collect();
    let mut by_size: Vec<usize> = (0..bytes.len()).collect();
    by_size.sort_by_key(|&index| Reverse(bytes[index]));
    let mut owners = vec![0; bytes.len()];
    for index in by_size {
        let Some(Reverse((load, writer))) = loads.pop() else { break };
        owners[index] = writer * world_size / writers;
        loads.push(Reverse((load + bytes[index], writer)));
    }
    owners
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// No rank writes more than the average and one tensor more, and only writers write.
        #[test]
        fn shares_are_balanced(
            bytes in prop::collection::vec(0u64..1_000_000, 0..200),
            writers in 1usize..20,
            world_size in 1usize..40,
        ) {
            let owners = owners(&bytes, writers, world_size);
            let mut loads = vec![0; world_size];
            for (&bytes, &owner) in bytes.iter().zip(&owners) {
                loads[owner] += bytes;
            }
            let writers = writers.min(world_size);
            let average = bytes.iter().sum::<u64>() / writers as u64;
            let largest = bytes.iter().copied().max().unwrap_or(0);
            prop_assert!(loads.iter().all(|&load| load <= average + largest));
            let mut distinct = owners.clone();
            distinct.sort_unstable();
            distinct.dedup();
            prop_assert!(distinct.len() <= writers);
            prop_assert_eq!(owners.len(), bytes.len());
        }
    }

    /// Few writers are on machines far apart, not all on the first.
    #[test]
    fn writers_are_spread() {
        let mut found = owners(&[1; 8], 4, 16);
        found.sort_unstable();
        assert_eq!(found, [0, 0, 4, 4, 8, 8, 12, 12]);
    }
}
