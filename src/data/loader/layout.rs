//! How the samples of a batch lie in its slot.

use std::ops::Range;

/// The places of a batch in its slot: a plane for each field, the image first, and in each plane
/// sample after sample.
#[derive(Debug, Clone)]
pub struct BatchLayout {
    /// Bytes of each field of a sample.
    field_bytes: Vec<usize>,
    /// Room for so many samples in each plane.
    samples: usize,
}

impl BatchLayout {
    /// Of `samples` samples whose fields have `field_bytes`.
    pub fn new(field_bytes: Vec<usize>, samples: usize) -> Self {
        Self { field_bytes, samples }
    }

    /// Bytes of a slot.
    pub fn bytes(&self) -> usize {
        self.samples * self.field_bytes.iter().sum::<usize>()
    }

    /// Most samples of a batch.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// The bytes of a field of the first `samples` samples.
    pub fn plane(&self, field: usize, samples: usize) -> Range<usize> {
        let start = self.samples * self.field_bytes[..field].iter().sum::<usize>();
        start..start + samples * self.field_bytes[field]
    }

    /// The bytes of each field of the sample at `place` in the batch.
    pub fn sample(&self, place: usize) -> impl Iterator<Item = Range<usize>> {
        (0..self.field_bytes.len()).map(move |field| {
            let (start, bytes) = (self.plane(field, 0).start, self.field_bytes[field]);
            start + place * bytes..start + (place + 1) * bytes
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_follow_each_other_and_samples_fill_them() {
        let layout = BatchLayout::new(vec![12, 4, 8], 3);
        assert_eq!(layout.bytes(), 72);
        let planes: Vec<_> = (0..3).map(|field| layout.plane(field, 3)).collect();
        assert_eq!(planes, [0..36, 36..48, 48..72]);
        assert_eq!(layout.plane(1, 2), 36..44, "a batch may be smaller");
        let samples: Vec<Vec<_>> = (0..3).map(|place| layout.sample(place).collect()).collect();
        assert_eq!(samples[0], [0..12, 36..40, 48..56]);
        assert_eq!(samples[2], [24..36, 44..48, 64..72]);
    }
}
