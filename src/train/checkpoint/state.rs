//! What a checkpoint holds: named tensors, each held whole by every rank or in parts by several.

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use tch::Tensor;

use crate::native::bytes_of;

/// One named tensor of a training state, or this rank's part of it.
#[derive(Debug)]
pub struct StateTensor {
    /// The whole tensor's name.
    pub name: String,
    /// The values: the whole tensor, or the elements of `part`, in one dimension.
    pub tensor: Tensor,
    /// Which part this is; none for a tensor that every rank holds whole.
    pub part: Option<Part>,
}

/// Consecutive elements of a tensor of which several ranks hold a part each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The first element, counted in the flattened whole.
    pub start: i64,
    /// Shape of the whole.
    pub whole: Vec<i64>,
}

/// The state of one trainee, sharing memory with what is trained.
#[derive(Debug)]
pub struct TraineeState {
    pub name: String,
    pub weights: Vec<StateTensor>,
    pub optimizer: Vec<StateTensor>,
}

impl StateTensor {
    /// Shape of the whole tensor.
    pub fn whole(&self) -> Vec<i64> {
        match &self.part {
            Some(part) => part.whole.clone(),
            None => self.tensor.size(),
        }
    }

    /// The elements of the flattened whole that are here.
    pub fn elements(&self) -> Range<i64> {
        let start = self.part.as_ref().map_or(0, |part| part.start);
        start..start + self.tensor.numel() as i64
    }

    /// Bytes of what is here.
    pub fn bytes(&self) -> u64 {
        bytes_of(&self.tensor)
    }

    /// The name in a file: a part's has its range and the whole's shape after it, as in
    /// `first_moment.pos_embed[0..64/1x8x32]`. Brackets stand in no other name.
    ///
    /// # Errors
    /// The name has a bracket, or the part does not fit into the whole.
    pub(super) fn stored_name(&self) -> Result<String> {
        ensure!(!self.name.contains(['[', ']']), "the tensor name {} has a bracket", self.name);
        let Some(part) = &self.part else { return Ok(self.name.clone()) };
        let Range { start, end } = self.elements();
        let count: i64 = part.whole.iter().product();
        ensure!(
            self.tensor.dim() == 1 && 0 <= start && end <= count,
            "elements {start} to {end} in shape {:?} are no part of {} of shape {:?}",
            self.tensor.size(),
            self.name,
            part.whole
        );
        let shape: Vec<String> = part.whole.iter().map(i64::to_string).collect();
        Ok(format!("{}[{start}..{end}/{}]", self.name, shape.join("x")))
    }
}

/// Name and range of a stored part, and shape of its whole; none where the stored name is that of
/// a whole tensor.
///
/// # Errors
/// There are brackets, but not as [`StateTensor::stored_name`] puts them.
pub(super) fn parse_stored_name(stored: &str) -> Result<(&str, Option<Part>)> {
    let Some((name, rest)) = stored.split_once('[') else { return Ok((stored, None)) };
    let part = || -> Option<Part> {
        let (range, shape) = rest.strip_suffix(']')?.split_once('/')?;
        let start = range.split_once("..")?.0.parse().ok()?;
        let sizes = shape.split('x').filter(|size| !size.is_empty());
        let whole = sizes.map(|size| size.parse().ok()).collect::<Option<_>>()?;
        Some(Part { start, whole })
    };
    let part = part().with_context(|| format!("{stored} is not the name of a tensor's part"))?;
    Ok((name, Some(part)))
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    fn part(name: &str, start: i64, count: i64, whole: &[i64]) -> StateTensor {
        let tensor = Tensor::zeros([count], (Kind::Float, Device::Cpu));
        let part = Some(Part { start, whole: whole.to_vec() });
        StateTensor { name: name.into(), tensor, part }
    }

    /// A part's name in a file gives back what it was made from, whatever the name holds, and is
    /// the name of nothing else.
    #[test]
    fn names_of_parts_are_read_as_written() {
        for state in [
            part("first_moment.a.b", 3, 4, &[2, 5]),
            part("x3..4/5", 0, 0, &[0]),
            part("scalar", 0, 1, &[]),
        ] {
            let stored = state.stored_name().unwrap();
            let (name, found) = parse_stored_name(&stored).unwrap();
            assert_eq!((name, found), (&*state.name, state.part.clone()), "{stored}");
        }
        assert_eq!(parse_stored_name("a.b").unwrap(), ("a.b", None));
        for wrong in ["a[", "a[0..1]", "a[x..1/2]", "a[0..1/2y]", "a[0..1/2]b"] {
            assert!(parse_stored_name(wrong).is_err(), "{wrong}");
        }
    }

    /// What is no part of its whole, or could be taken for a part, is never written.
    #[test]
    fn odd_parts_have_no_name() {
        assert!(part("a", 7, 4, &[2, 5]).stored_name().is_err(), "beyond the whole");
        assert!(part("a", -1, 4, &[2, 5]).stored_name().is_err(), "before the whole");
        assert!(part("a[0..1/5]", 0, 1, &[5]).stored_name().is_err(), "brackets");
    }
}
