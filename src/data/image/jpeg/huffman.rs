//! Huffman codes of DC differences and AC coefficients, in tables that one look-up of the next
//! bits answers (ITU-T T.81, annexes C and F).

use super::bits::{BitReader, signed_value};

/// Bits that look-ups go by. Wider tables hold more pairs of symbols, but less of the first
/// cache.
const DC_BITS: u32 = 9;
const AC_BITS: u32 = 11;

/// Longest code, and the longest value of a known coefficient.
const LONGEST_CODE: usize = 16;
const LONGEST_VALUE: u8 = 15;

/// Values of more bits than this occur in no 8-bit image and take the slow way.
const COMMON_VALUE: u8 = 11;

/// Entropy-coded data that no encoder writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Corrupt;

/// Codes as a file defines them: how many there are of 1 to 16 bits, and their symbols in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CodeList {
    counts: [u8; LONGEST_CODE],
    symbols: Vec<u8>,
}

/// A symbol and the length of its code in bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Code {
    length: u32,
    symbol: u8,
}

impl CodeList {
    /// `None` if there are more codes of a length than there is room for.
    pub fn new(counts: [u8; LONGEST_CODE], symbols: &[u8]) -> Option<Self> {
        let mut room = 1_i32;
        for &count in &counts {
            room = room * 2 - i32::from(count);
            if room < 0 {
                return None;
            }
        }
        (!symbols.is_empty()).then(|| Self { counts, symbols: symbols.to_vec() })
    }

    /// The code that the bits from the top of `window` begin with.
    fn find(&self, window: u64) -> Option<Code> {
        let (mut first, mut index) = (0, 0);
        for (length, &count) in (1..).zip(&self.counts) {
            let count = u64::from(count);
            let offset = (window >> (64 - length)).wrapping_sub(first);
            if offset < count {
                return Some(Code { length, symbol: self.symbols[index + offset as usize] });
            }
            first = (first + count) << 1;
            index += count as usize;
        }
        None
    }

    /// For each beginning of `bits` bits, its code if that is no longer.
    fn by_beginning(&self, bits: u32, codes: &mut Vec<Option<Code>>) {
        codes.clear();
        let mut symbols = self.symbols.iter();
        for (length, &count) in (1..=bits).zip(&self.counts) {
            for &symbol in symbols.by_ref().take(usize::from(count)) {
                let end = codes.len() + (1 << (bits - length));
                codes.resize(end, Some(Code { length, symbol }));
            }
        }
        codes.resize(1 << bits, None);
    }
}

/// Look-ups of DC differences.
#[derive(Debug)]
pub(super) struct DcTable {
    list: CodeList,
    /// Bits of the code, and of code and value; zeros where the code is longer.
    entries: Box<[[u8; 2]; 1 << DC_BITS]>,
}

impl DcTable {
    pub fn new(list: &CodeList) -> Self {
        let mut codes = Vec::new();
        list.by_beginning(DC_BITS, &mut codes);
        let mut entries = Box::new([[0; 2]; 1 << DC_BITS]);
        for (entry, code) in entries.iter_mut().zip(&codes) {
            if let Some(Code { length, symbol }) = *code
                && symbol <= COMMON_VALUE
            {
                *entry = [length as u8, length as u8 + symbol];
            }
        }
        Self { list: list.clone(), entries }
    }

    pub fn is_of(&self, list: &CodeList) -> bool {
        self.list == *list
    }

    /// The next difference. Refills before, and leaves 35 bits for sure.
    #[inline(always)]
    pub fn difference(&self, bits: &mut BitReader<'_>) -> Result<i16, Corrupt> {
        bits.refill();
        let window = bits.window();
        let [code, total] = self.entries[(window >> (64 - DC_BITS)) as usize];
        if total == 0 {
            let value;
            (*bits, value) = self.rare_difference(*bits)?;
            return Ok(value);
        }
        bits.consume(u32::from(total));
        let size = u32::from(total - code);
        Ok(signed_value(window << (code & 63), 63 - (size & 63)))
    }

    #[cold]
    #[inline(never)]
    fn rare_difference<'a>(
        &self,
        mut bits: BitReader<'a>,
    ) -> Result<(BitReader<'a>, i16), Corrupt> {
        let window = bits.window();
        let code = self.list.find(window).filter(|code| code.symbol <= LONGEST_VALUE);
        let Code { length, symbol } = code.ok_or(Corrupt)?;
        bits.consume(length + u32::from(symbol));
        bits.refill();
        Ok((bits, signed_value(window << length, 63 - u32::from(symbol))))
    }
}

/// Look-ups of AC coefficients: up to two at a time, the first with its value.
#[derive(Debug)]
pub(super) struct AcTable {
    list: CodeList,
    entries: Box<[AcEntry; 1 << AC_BITS]>,
}

/// What the next bits say. Two symbols, `first` and `second`, of which either may be missing:
/// `first` lies in the bits that were looked up, of `second` only the code must.
///
/// One number, from its lowest bits: bits to consume (8), places from here to the first
/// coefficient (8) and to the second (8), places to go on (8), bits before the second value (8),
/// shift for the second value (8), first value (16).
#[derive(Debug, Clone, Copy, Default)]
struct AcEntry(u64);

/// As places to a coefficient: there is none. Such a coefficient is written behind the block.
const NOWHERE: u64 = 64;

/// As places to go on: to the block's end.
const END_OF_BLOCK: u64 = 128;

/// As places to go on: the code is long or unknown, look further.
const RARE: u64 = 192;

impl AcEntry {
    fn new(first: Option<(u64, i16)>, rest: Rest) -> Self {
        let Rest { total, second, advance, before, shift } = rest;
        let (to_first, value) = first.unwrap_or((NOWHERE, 0));
        Self(
            total
                | to_first << 8
                | second << 16
                | advance << 24
                | before << 32
                | shift << 40
                | u64::from(value as u16) << 48,
        )
    }

    #[inline(always)]
    fn total(self) -> u32 {
        (self.0 & 63) as u32
    }

    #[inline(always)]
    fn to_first(self) -> usize {
        (self.0 >> 8 & 0xff) as usize
    }

    #[inline(always)]
    fn to_second(self) -> usize {
        (self.0 >> 16 & 0xff) as usize
    }

    #[inline(always)]
    fn advance(self) -> usize {
        (self.0 >> 24 & 0xff) as usize
    }

    #[inline(always)]
    fn first_value(self) -> i16 {
        (self.0 >> 48) as i16
    }

    #[inline(always)]
    fn second_value(self, window: u64) -> i16 {
        signed_value(window << (self.0 >> 32 & 63), (self.0 >> 40 & 63) as u32)
    }
}

/// What an entry says besides its first symbol.
struct Rest {
    total: u64,
    second: u64,
    advance: u64,
    before: u64,
    shift: u64,
}

impl Rest {
    fn nothing(total: u64, advance: u64) -> Self {
        Self { total, second: NOWHERE, advance, before: 0, shift: 63 }
    }
}

/// Where a block stands after a look-up.
enum Progress {
    /// At this coefficient.
    At(usize),
    Finished,
}

/// Coefficients of a block, and room behind them for those that are none.
pub(super) type Coefficients = [i16; 128];

/// For each place in the zigzag, where the coefficient is stored; behind the block from 64 on.
pub(super) type Order = [u8; 128];

impl AcTable {
    pub fn new(list: &CodeList) -> Self {
        let mut codes = Vec::new();
        list.by_beginning(AC_BITS, &mut codes);
        let mut entries = Box::new([AcEntry::default(); 1 << AC_BITS]);
        for (beginning, entry) in entries.iter_mut().enumerate() {
            *entry = ac_entry(beginning, &codes);
        }
        Self { list: list.clone(), entries }
    }

    pub fn is_of(&self, list: &CodeList) -> bool {
        self.list == *list
    }

    /// Reads a block's coefficients after the first one into their places, which are zero.
    /// Needs 35 bits.
    #[inline(always)]
    pub fn read(
        &self,
        bits: &mut BitReader<'_>,
        order: &Order,
        coefficients: &mut Coefficients,
    ) -> Result<(), Corrupt> {
        let mut store = |place: usize, value: i16| {
            coefficients[usize::from(order[place & 127] & 127)] = value;
        };
        self.walk(bits, &mut store)
    }

    /// Reads over a block's coefficients after the first one. Needs 35 bits.
    #[inline(always)]
    pub fn skip(&self, bits: &mut BitReader<'_>) -> Result<(), Corrupt> {
        self.walk(bits, &mut |_, _| {})
    }

    #[inline(always)]
    fn walk(
        &self,
        bits: &mut BitReader<'_>,
        store: &mut impl FnMut(usize, i16),
    ) -> Result<(), Corrupt> {
        let mut place = match self.step(bits, 1, store)? {
            Progress::Finished => return Ok(()),
            Progress::At(place) => place,
        };
        loop {
            bits.refill();
            // A common entry takes 22 bits at most, so that 31 are left for a rare one.
            for _ in 0..2 {
                match self.step(bits, place, store)? {
                    Progress::Finished => return Ok(()),
                    Progress::At(next) => place = next,
                }
            }
        }
    }

    /// One look-up at `place` in the zigzag.
    #[inline(always)]
    fn step(
        &self,
        bits: &mut BitReader<'_>,
        place: usize,
        store: &mut impl FnMut(usize, i16),
    ) -> Result<Progress, Corrupt> {
        let window = bits.window();
        let entry = self.entries[(window >> (64 - AC_BITS)) as usize];
        store(place + entry.to_first(), entry.first_value());
        store(place + entry.to_second(), entry.second_value(window));
        bits.consume(entry.total());
        let next = place + entry.advance();
        if next < 64 {
            return Ok(Progress::At(next));
        }
        let after_first = place + entry.to_first() + 1;
        let ends = (END_OF_BLOCK as usize..RARE as usize).contains(&entry.advance());
        if ends && (after_first < 64 || entry.to_first() == NOWHERE as usize) {
            return Ok(Progress::Finished);
        }
        self.finish(bits, place, window, entry, store)
    }

    /// At a block's last coefficient, or a code that is not in the table.
    #[inline(always)]
    fn finish(
        &self,
        bits: &mut BitReader<'_>,
        place: usize,
        window: u64,
        entry: AcEntry,
        store: &mut impl FnMut(usize, i16),
    ) -> Result<Progress, Corrupt> {
        if entry.to_first() != NOWHERE as usize {
            let after_first = place + entry.to_first() + 1;
            if after_first == 64 {
                // What follows is the next block's.
                bits.restore(window, entry.total());
                let code = self.list.find(window).ok_or(Corrupt)?;
                bits.consume(code.length + u32::from(code.symbol & 15));
                return Ok(Progress::Finished);
            }
            if after_first > 64 {
                return Err(Corrupt);
            }
        }
        match place + entry.advance() {
            64 => Ok(Progress::Finished),
            _ if entry.advance() == RARE as usize => {
                let (symbol, value);
                (*bits, symbol, value) = self.rare(*bits)?;
                if symbol & 15 == 0 && symbol != 0xf0 {
                    return Ok(Progress::Finished);
                }
                let to = place + usize::from(symbol >> 4);
                store(to, value);
                match to {
                    0..63 => Ok(Progress::At(to + 1)),
                    63 => Ok(Progress::Finished),
                    _ => Err(Corrupt),
                }
            }
            _ => Err(Corrupt),
        }
    }

    #[cold]
    #[inline(never)]
    fn rare<'a>(&self, mut bits: BitReader<'a>) -> Result<(BitReader<'a>, u8, i16), Corrupt> {
        let window = bits.window();
        let Code { length, symbol } = self.list.find(window).ok_or(Corrupt)?;
        let size = u32::from(symbol & 15);
        bits.consume(length + size);
        Ok((bits, symbol, signed_value(window << length, 63 - size)))
    }
}

/// The entry for the [`AC_BITS`] bits `beginning`, from the codes that such bits begin with.
fn ac_entry(beginning: usize, codes: &[Option<Code>]) -> AcEntry {
    let rare = AcEntry::new(None, Rest::nothing(0, RARE));
    let Some(code) = codes[beginning] else { return rare };
    let (run, size) = (u64::from(code.symbol >> 4), code.symbol & 15);
    let length = u64::from(code.length);
    let end = length + u64::from(size);
    if size > COMMON_VALUE {
        return rare;
    }
    if size == 0 {
        let advance = if code.symbol == 0xf0 { 16 } else { END_OF_BLOCK };
        return AcEntry::new(None, Rest::nothing(length, advance));
    }
    if end > u64::from(AC_BITS) {
        let shift = 63 - u64::from(size);
        let rest = Rest { total: end, second: run, advance: run + 1, before: length, shift };
        return AcEntry::new(None, rest);
    }
    let window = (beginning as u64) << (64 - AC_BITS);
    let value = signed_value(window << length, 63 - u32::from(size));
    AcEntry::new(Some((run, value)), second_symbol(beginning << end, codes, end, run + 1))
}

/// What follows a first symbol of `end` bits, if its code is among the bits `rest` (the part
/// behind the first symbol, from the top of [`AC_BITS`] bits). `advance` is where the first
/// symbol leads.
fn second_symbol(rest: usize, codes: &[Option<Code>], end: u64, advance: u64) -> Rest {
    let alone = Rest::nothing(end, advance);
    let known = u64::from(AC_BITS) - end;
    let Some(code) = codes[rest & (codes.len() - 1)] else { return alone };
    let (run, size) = (u64::from(code.symbol >> 4), code.symbol & 15);
    let length = u64::from(code.length);
    if length > known || size > COMMON_VALUE {
        return alone;
    }
    let before = end + length;
    match (size, code.symbol) {
        (0, 0xf0) => Rest::nothing(before, advance + 16),
        (0, _) => Rest::nothing(before, END_OF_BLOCK),
        _ => Rest {
            total: before + u64::from(size),
            second: advance + run,
            advance: advance + run + 1,
            before,
            shift: 63 - u64::from(size),
        },
    }
}

#[cfg(test)]
mod tests;
