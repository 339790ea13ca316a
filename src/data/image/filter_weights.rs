//! The weights of bicubic resizing, as Pillow has them.

use std::ops::Range;

use multiversion::multiversion;

use super::jpeg::Extent;

/// Fractional bits of weights. With one before the point and the sign they fill 16 bits: at the
/// edges, weights above 1 occur.
pub const FRACTION: u32 = 14;

/// For each output place of a pass, how much the pixels near it count.
#[derive(Debug, Default)]
pub struct PixelWeights {
    starts: Vec<usize>,
    /// Where the weights of each output place end in `values`; they begin where the last end.
    ends: Vec<usize>,
    /// They sum to one for each output place.
    values: Vec<f32>,
}

/// Pixels along one dimension; of a reduced image, it may begin and end between them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    pub start: f64,
    pub length: f64,
}

impl Span {
    /// Of `length` pixels from `start` on, `reduction` of which are one.
    pub fn new(start: usize, length: usize, reduction: usize) -> Self {
        let reduced = |pixels| pixels as f64 / reduction as f64;
        Self { start: reduced(start), length: reduced(length) }
    }

    /// The first pixel.
    pub fn first(self) -> usize {
        self.start as usize
    }

    /// Number of pixels that it touches.
    fn pixels(self) -> usize {
        (self.start + self.length).ceil() as usize - self.first()
    }

    /// Of an output place, when this is resized to `to` of them: its middle, and the pixels that
    /// count, both from the first pixel on.
    #[inline(always)]
    fn reach(self, to: usize, place: usize) -> (f64, Range<usize>) {
        let scale = self.length / to as f64;
        let support = 2.0 * scale.max(1.0);
        let center = self.start.fract() + (place as f64 + 0.5) * scale;
        let start = (center - support + 0.5).max(0.0) as usize;
        let end = ((center + support + 0.5) as usize).min(self.pixels());
        (center, start..end)
    }

    /// The pixels that count for any of `places`, of which there is at least one.
    pub fn touched(self, to: usize, places: Range<usize>) -> Range<usize> {
        let (first, last) = (self.reach(to, places.start).1, self.reach(to, places.end - 1).1);
        self.first() + first.start..self.first() + last.end
    }
}

/// The same for samples, of which there may be fewer than pixels, in fixed point.
#[derive(Debug, Default)]
pub struct Weights {
    starts: Vec<usize>,
    ends: Vec<usize>,
    values: Vec<i16>,
    exact: Vec<f32>,
}

impl PixelWeights {
    /// Sets them for those `places` of the `to` that `span` is resized to, by the cubic convolution
    /// kernel of a = -1/2, widened when shrinking.
    pub fn set(&mut self, span: Span, to: usize, places: Range<usize>) {
        self.starts.clear();
        self.ends.clear();
        self.values.clear();
        let widening = (span.length / to as f64).max(1.0);
        for place in places {
            let (center, Range { start, end }) = span.reach(to, place);
            let distance = |x: usize| ((x as f64 - center + 0.5) * widening.recip()) as f32;
            self.values.extend((start..end).map(distance));
            self.starts.push(start);
            self.ends.push(self.values.len());
        }
        cubic(&mut self.values);
        let mut begin = 0;
        for &end in &self.ends {
            let values = &mut self.values[begin..end];
            let total: f32 = values.iter().sum();
            values.iter_mut().for_each(|value| *value /= total);
            begin = end;
        }
    }

    fn places(&self) -> impl Iterator<Item = (usize, &[f32])> {
        let begins = std::iter::once(&0).chain(&self.ends);
        let ranges = begins.zip(&self.ends).map(|(&begin, &end)| &self.values[begin..end]);
        self.starts.iter().copied().zip(ranges)
    }
}

/// Distances become values of the cubic convolution kernel with a = -1/2.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2", "x86_64+sse4.1"))]
fn cubic(values: &mut [f32]) {
    const A: f32 = -0.5;
    for value in values {
        let x = value.abs();
        let near = ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
        let far = (((x - 5.0) * x + 8.0) * x - 4.0) * A;
        let outer = if x < 2.0 { far } else { 0.0 };
        *value = if x < 1.0 { near } else { outer };
    }
}

impl Weights {
    /// Sets them from those of pixels, which are counted from pixel `offset` of the image on.
    pub fn set(&mut self, pixels: &PixelWeights, offset: usize, samples: Extent) {
        self.starts.clear();
        self.ends.clear();
        let mut exact = std::mem::take(&mut self.exact);
        exact.clear();
        for (start, weights) in pixels.places() {
            let first = match samples.pixels {
                1 => {
                    exact.extend_from_slice(weights);
                    offset + start
                }
                _ => fold(&mut exact, offset + start, weights, samples.count),
            };
            self.starts.push(first - samples.first);
            self.ends.push(exact.len());
        }
        self.exact = exact;
        self.round();
    }

    /// To fixed point. The weights of a place sum to exactly one: what rounding takes away or
    /// adds goes to the middle one.
    fn round(&mut self) {
        const ONE: f32 = (1 << FRACTION) as f32;
        // The conversion to a whole number cuts off, so it is made of a positive one.
        let fixed = |&weight: &f32| ((weight * ONE + 32_768.5) as i32 - 32_768) as i16;
        self.values.clear();
        self.values.extend(self.exact.iter().map(fixed));
        let mut begin = 0;
        for &end in &self.ends {
            let values = &mut self.values[begin..end];
            let sum: i32 = values.iter().map(|&value| i32::from(value)).sum();
            values[(end - begin) / 2] += ((1 << FRACTION) - sum) as i16;
            begin = end;
        }
    }

    /// Number of output places.
    pub fn places(&self) -> usize {
        self.starts.len()
    }

    /// The first input place of output `place`, and the weights from there on.
    #[inline(always)]
    pub fn at(&self, place: usize) -> (usize, &[i16]) {
        let begin = if place == 0 { 0 } else { self.ends[place - 1] };
        (self.starts[place], &self.values[begin..self.ends[place]])
    }
}

/// Adds to `folded` what weights of pixels, from `pixel` on, are of samples that are for two
/// pixels each: a pixel is 3/4 of its sample and 1/4 of the next one on its other side, at the
/// image's edge of the same (libjpeg's "fancy" upsampling). Gives the first of the samples, of
/// which the image has `count`.
fn fold(folded: &mut Vec<f32>, pixel: usize, weights: &[f32], count: usize) -> usize {
    let last = count - 1;
    let neighbour = |x: usize| match x % 2 {
        0 => (x / 2).saturating_sub(1),
        _ => (x / 2 + 1).min(last),
    };
    let first = (pixel.saturating_sub(1) / 2).min(last);
    let end = pixel + weights.len();
    let begin = folded.len();
    folded.resize(begin + (end / 2).min(last) - first + 1, 0.0);
    let folded = &mut folded[begin..];
    // A row of one or two samples is not smoothed.
    let share = if count > 2 { 0.75 } else { 1.0 };
    for (x, weight) in (pixel..).zip(weights) {
        folded[x / 2 - first] += weight * share;
        folded[neighbour(x) - first] += weight * (1.0 - share);
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIXELS: Extent = Extent { pixels: 1, count: usize::MAX, first: 0 };

    #[test]
    fn weights_sum_to_one_and_lie_inside() {
        let (mut pixels, mut weights) = (PixelWeights::default(), Weights::default());
        for (from, to) in [(1, 256), (3, 7), (256, 256), (300, 256), (5000, 256), (9, 1)] {
            pixels.set(Span::new(0, from, 1), to, 0..to);
            for samples in [PIXELS, Extent { pixels: 2, count: from.div_ceil(2), first: 0 }] {
                weights.set(&pixels, 0, samples);
                assert_eq!(weights.places(), to);
                for place in 0..to {
                    let (start, values) = weights.at(place);
                    assert!(start + values.len() <= from.min(samples.count));
                    let sum: i32 = values.iter().map(|&value| i32::from(value)).sum();
                    assert_eq!(sum, 1 << FRACTION, "{from} to {to} of {samples:?}");
                }
            }
        }
    }

    /// Resizing the samples is smoothing them to the image's size, then resizing that.
    #[test]
    fn folded_weights_are_those_of_smoothing_before() {
        let (whole, offset, from, to) = (41, 6, 30, 16);
        let samples: Vec<f32> = (0..21).map(|i| ((i * 37) % 101) as f32).collect();
        let smoothed = |x: usize| {
            let other =
                if x.is_multiple_of(2) { (x / 2).saturating_sub(1) } else { (x / 2 + 1).min(20) };
            samples[x / 2] * 0.75 + samples[other] * 0.25
        };
        let (mut pixels, mut weights) = (PixelWeights::default(), Weights::default());
        for offset in [0, offset, whole - from] {
            pixels.set(Span::new(0, from, 1), to, 0..to);
            weights.set(&pixels, offset, Extent { pixels: 2, count: 21, first: 0 });
            for (place, (start, exact)) in pixels.places().enumerate() {
                let pixels = exact.iter().zip(offset + start..);
                let expected: f32 = pixels.map(|(weight, x)| weight * smoothed(x)).sum();
                let (start, values) = weights.at(place);
                let product = |(&weight, sample): (&i16, &f32)| f32::from(weight) * sample;
                let found: f32 = values.iter().zip(&samples[start..]).map(product).sum();
                let found = found / (1 << FRACTION) as f32;
                assert!((found - expected).abs() < 0.05, "{found} for {expected} at {place}");
            }
        }
    }
}
