//! Whether all processes hold the same weights.

use anyhow::{Result, bail};
use tch::{Kind, Tensor};

use super::process_group::ProcessGroup;
use crate::native::guard;

/// Compares a checksum of every tensor over all processes: the sum of its bits as integers, which
/// no change of a single number leaves as it was. On the device, in one collective of two numbers a
/// tensor.
///
/// # Errors
/// They differ: the first tensor that does, and the ranks that are not with the majority. Or a
/// collective failed.
pub fn require_equal_weights(
    group: &ProcessGroup,
    step: u64,
    tensors: &[(String, Tensor)],
) -> Result<()> {
    if group.world_size() == 1 {
        return Ok(());
    }
    let sums = guard(|| {
        let sum = |(_, tensor): &(String, Tensor)| {
            tensor.detach().contiguous().view_dtype(Kind::Int).sum(Kind::Int64)
        };
        Ok(Tensor::stack(&tensors.iter().map(sum).collect::<Vec<_>>(), 0))
    })?;
    let extremes = guard(|| Ok(Tensor::cat(&[&sums, &sums.neg()], 0)))?;
    group.max(&extremes)?;
    group.synchronize()?;
    let extremes = guard(|| Ok(Vec::<i64>::try_from(extremes)?))?;
    let (largest, smallest) = extremes.split_at(tensors.len());
    let Some(first) = largest.iter().zip(smallest).position(|(most, least)| *most != -least) else {
        return Ok(());
    };
    let all = group.gather(&sums.get(first as i64).view([1]))?;
    let odd = minority(&guard(|| Ok(Vec::<i64>::try_from(all)?))?);
    let whose = match group.world_size() {
        2 => "ranks 0 and 1 differ".to_string(),
        _ => {
            let odd = odd.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
            format!("rank {odd} are not those of the others")
        }
    };
    bail!(
        "the weights of {whose} after step {step}: `{}` is the first tensor that differs. Continue from the last checkpoint; if it happens again on the same \
         node, its memory or GPU is faulty",
        tensors[first].0
    )
}

/// Places of the values that are not the most frequent one.
fn minority(values: &[i64]) -> Vec<usize> {
    let count = |value: i64| values.iter().filter(|&&other| other == value).count();
    // The last of several maxima: with two processes it is rank 0 that is believed.
    let usual = values.iter().copied().rev().max_by_key(|&value| count(value));
    (0..values.len()).filter(|&rank| Some(values[rank]) != usual).collect()
}

#[cfg(test)]
mod tests {
    use super::minority;

    #[test]
    fn the_odd_one_is_named() {
        assert_eq!(minority(&[7, 7, 3, 7]), [2]);
        assert_eq!(minority(&[7, 3]), [1]);
        assert_eq!(minority(&[1, 2, 2, 1, 2]), [0, 3]);
    }
}
