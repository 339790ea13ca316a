//! Samples in the layout that resizing works on.

/// Lines that lie side by side.
pub const LINES: usize = 32;

/// The level of the sample 0.
pub const MIDDLE: i32 = 128;

/// Fractional bits of samples.
pub const SAMPLE_FRACTION: u32 = 8;

/// The sample of `level - MIDDLE`.
#[inline(always)]
pub fn sample(level: i32) -> i16 {
    (level.clamp(-MIDDLE, MIDDLE - 1) << SAMPLE_FRACTION) as i16
}

/// A plane of samples, cut into strips of [`LINES`] lines each. A strip holds the samples of all its
/// lines at one place together, place after place, so that one vector instruction works on many
/// lines. What a line is (a row of an image or a column), the user decides.
///
/// A sample is a level less [`MIDDLE`] with [`SAMPLE_FRACTION`] bits, so that it fills 16 bits.
#[derive(Debug, Default)]
pub struct Strips {
    samples: Vec<[i16; LINES]>,
    /// Samples of a line.
    pub length: usize,
    pub lines: usize,
}

impl Strips {
    /// Resizes to `lines` of `length` samples, whose values are then arbitrary.
    pub fn set_size(&mut self, lines: usize, length: usize) {
        (self.lines, self.length) = (lines, length);
        self.samples.resize(lines.div_ceil(LINES) * length, [0; LINES]);
    }

    /// Place after place of the lines from `strip * LINES` on.
    #[inline(always)]
    pub fn strip(&self, strip: usize) -> &[[i16; LINES]] {
        &self.samples[strip * self.length..][..self.length]
    }

    #[inline(always)]
    pub fn strip_mut(&mut self, strip: usize) -> &mut [[i16; LINES]] {
        &mut self.samples[strip * self.length..][..self.length]
    }

    /// Bytes of memory held.
    pub fn held_bytes(&self) -> usize {
        self.samples.capacity() * size_of::<[i16; LINES]>()
    }
}
