//! Bits of entropy-coded data, the most significant first.

/// Reads bits; a zero byte after 0xFF is left out, and any other mark ends the data.
/// It is passed to rare cases by value: its address is never taken, so it stays in registers.
#[derive(Debug, Clone, Copy)]
pub(super) struct BitReader<'a> {
    data: &'a [u8],
    at: usize,
    /// The next bits from the top; below `count` of them there may be more that are right.
    window: u64,
    count: u32,
    /// Zero bits that stand for data which are not there, so that no reading has to ask for
    /// their end.
    padding: u32,
}

impl<'a> BitReader<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0, window: 0, count: 0, padding: 0 }
    }

    /// Makes sure of 56 bits.
    #[inline(always)]
    pub fn refill(&mut self) {
        if let Some(chunk) = self.data.get(self.at..).and_then(<[u8]>::first_chunk) {
            let bytes = u64::from_be_bytes(*chunk);
            if !contains_0xff(bytes) {
                self.window |= bytes >> self.count;
                self.at += (63 - self.count as usize) >> 3;
                self.count |= 56;
                return;
            }
        }
        *self = self.refilled_bytewise();
    }

    /// Near 0xFF or the end.
    #[cold]
    #[inline(never)]
    fn refilled_bytewise(mut self) -> Self {
        while self.count < 56 {
            let byte = match self.data.get(self.at..) {
                Some([0xff, 0x00, ..]) => {
                    self.at += 2;
                    0xff
                }
                Some(&[byte, ..]) if byte != 0xff => {
                    self.at += 1;
                    byte
                }
                _ => {
                    self.padding = self.padding.saturating_add(8);
                    0
                }
            };
            self.window |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
        self
    }

    /// The next bits from the top. The first [`Self::refill`] minus what was consumed are sure.
    #[inline(always)]
    pub fn window(&self) -> u64 {
        self.window
    }

    /// Consumes `length` < 64 bits, which [`Self::refill`] has made available.
    #[inline(always)]
    pub fn consume(&mut self, length: u32) {
        self.window <<= length;
        self.count = self.count.wrapping_sub(length);
    }

    /// Goes back to an earlier `window`, `length` bits ago, before any refill since.
    #[inline(always)]
    pub fn restore(&mut self, window: u64, length: u32) {
        self.window = window;
        self.count += length;
    }

    /// Whether more was consumed than there was.
    pub fn is_overrun(&self) -> bool {
        self.padding > self.count
    }

    /// Goes on behind the next mark, which must be restart mark `number` (0 to 7).
    pub fn pass_restart(&mut self, number: u8) -> bool {
        let rest = self.data.get(self.at..).unwrap_or_default();
        let is_mark = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0x00 | 0xff);
        let Some(mark) = rest.windows(2).position(is_mark) else { return false };
        let found = rest[mark + 1] == 0xd0 + number;
        *self = Self { at: self.at + mark + 2, ..Self::new(self.data) };
        found
    }
}

/// Whether one of eight bytes is 0xFF: its complement is zero, and the only byte that both
/// borrows when one is taken from it and had no high bit before.
#[inline(always)]
fn contains_0xff(bytes: u64) -> bool {
    (!bytes).wrapping_sub(0x0101_0101_0101_0101) & bytes & 0x8080_8080_8080_8080 != 0
}

/// The signed number in the first `63 - shift` bits of `window` (T.81, F.2.2.1: a number that
/// begins with 0 is negative, the complement of its magnitude).
#[inline(always)]
pub(super) fn signed_value(window: u64, shift: u32) -> i16 {
    let negative = !((window as i64) >> 63) as u64;
    let magnitude = ((window ^ negative) >> 1) >> shift;
    (magnitude ^ negative).wrapping_sub(negative) as i16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stuffed_zeros_are_left_out_and_a_mark_ends_the_data() {
        let data = [1, 0xff, 0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0xff, 0xd3, 99, 98];
        let mut bits = BitReader::new(&data);
        let expected = [1, 0xff, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        for byte in expected {
            bits.refill();
            assert_eq!(bits.window() >> 56, byte);
            bits.consume(8);
        }
        assert!(!bits.is_overrun());
        bits.refill();
        bits.consume(1);
        assert!(bits.is_overrun());
        assert!(bits.pass_restart(3) && !bits.is_overrun());
        bits.refill();
        assert_eq!(bits.window() >> 48, 99 << 8 | 98);
        assert!(!bits.pass_restart(4));
    }

    #[test]
    fn any_byte_of_0xff_is_seen() {
        for place in 0..8 {
            assert!(contains_0xff(0xff << (place * 8)));
            assert!(!contains_0xff(0xfe << (place * 8)));
            assert!(!contains_0xff(0x7f80_fe00_0180_fe7f_u64.rotate_left(place * 8)));
        }
    }

    #[test]
    fn values_are_signed_by_their_first_bit() {
        let value = |bits: u64, size: u32| signed_value(bits << (64 - size), 63 - size);
        assert_eq!([value(0, 1), value(1, 1)], [-1, 1]);
        assert_eq!([value(0, 3), value(3, 3), value(4, 3), value(7, 3)], [-7, -4, 4, 7]);
        assert_eq!([value(0, 11), value(2047, 11)], [-2047, 2047]);
        assert_eq!(signed_value(u64::MAX, 63), 0);
    }
}
