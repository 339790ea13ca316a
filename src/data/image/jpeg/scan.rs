//! From entropy-coded data to the samples of a region.

use std::ops::Range;

use multiversion::multiversion;

use crate::image::simd::Avx2;
use crate::image::strips::{LINES, Strips};

use super::bits::BitReader;
use super::headers::{Component, ZIGZAG};
use super::huffman::{AcTable, Coefficients, Corrupt, DcTable, Order};
use super::inverse_dct::{Samples, even_block, inverse_dct, reduced_inverse_dct};

/// Blocks of a component that are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Region {
    pub columns: Range<usize>,
    pub rows: Range<usize>,
}

/// What reading a component's blocks takes.
pub(super) struct ScannedComponent<'a> {
    pub blocks: Component,
    pub region: Region,
    pub dc: &'a DcTable,
    pub ac: &'a AcTable,
    /// Quantisation steps in the order of the stored coefficients.
    pub steps: [[i16; 8]; 8],
    pub samples: &'a mut Strips,
}

/// Takes the strips of a component when they are complete: the component, the number of the strip,
/// and its samples.
pub type TakeStrip<'a> = &'a mut dyn FnMut(usize, usize, &[[i16; LINES]]);

/// A scan, and what of it is wanted.
pub(super) struct Scan<'a> {
    pub components: Vec<ScannedComponent<'a>>,
    pub restart_interval: usize,
    /// MCUs in a row of the image.
    pub columns: usize,
    pub data: &'a [u8],
    /// Whether lines are columns of the image instead of rows.
    pub lines_are_columns: bool,
    /// Samples of a block each way: 8, or 4, 2 or 1 of a reduced image.
    pub block_side: usize,
}

/// How a block's samples are made.
struct Kernel {
    lines_are_columns: bool,
    block_side: usize,
    /// Whether strips go by turns to the places of the first two.
    two_strips: bool,
    avx2: Option<Avx2>,
}

const STORED_BY_ROWS: Order = storage_order(false);
const STORED_BY_COLUMNS: Order = storage_order(true);

const fn storage_order(by_columns: bool) -> Order {
    let mut order = [64; 128];
    let mut index = 0;
    while index < 64 {
        let place = ZIGZAG[index];
        order[index] = if by_columns { place % 8 * 8 + place / 8 } else { place };
        index += 1;
    }
    order
}

/// Quantisation steps in the order of storage. More than 16 bits of a product occur in no
/// image that an encoder made.
pub(super) fn stored_steps(steps: &[u16; 64], lines_are_columns: bool) -> [[i16; 8]; 8] {
    let step = |row: usize, column: usize| match lines_are_columns {
        true => steps[column * 8 + row] as i16,
        false => steps[row * 8 + column] as i16,
    };
    std::array::from_fn(|row| std::array::from_fn(|column| step(row, column)))
}

/// Decodes the wanted blocks of `scan` and reads no further than the last of them. With `take`, each
/// component has room for two strips, which are handed on when they are complete.
#[multiversion(targets("x86_64+avx2+bmi1+bmi2+lzcnt"))]
pub(super) fn decode_scan(
    scan: &mut Scan<'_>,
    mut take: Option<TakeStrip<'_>>,
) -> Result<(), Corrupt> {
    let Scan { components, restart_interval, columns, data, .. } = scan;
    let last_row =
        |component: &ScannedComponent<'_>| (component.region.rows.end - 1) / component.blocks.down;
    let rows = components.iter().map(last_row).max().ok_or(Corrupt)? + 1;
    let kernel = Kernel {
        lines_are_columns: scan.lines_are_columns,
        block_side: scan.block_side,
        two_strips: take.is_some(),
        avx2: Avx2::detect(),
    };
    let mut bits = BitReader::new(data);
    let mut means = [0_i16; 3];
    let mut until_restart = *restart_interval;
    let mut restarts = 0_u8;
    for row in 0..rows {
        for column in 0..*columns {
            if *restart_interval > 0 {
                if until_restart == 0 {
                    if bits.is_overrun() || !bits.pass_restart(restarts % 8) {
                        return Err(Corrupt);
                    }
                    restarts = restarts.wrapping_add(1);
                    until_restart = *restart_interval;
                    means = [0; 3];
                }
                until_restart -= 1;
            }
            for (component, mean) in components.iter_mut().zip(&mut means) {
                let Component { across, down } = component.blocks;
                for block in 0..across * down {
                    // At most two blocks each way.
                    let (below, beside) = (block >> (across - 1), block & (across - 1));
                    let at = [row * down + below, column * across + beside];
                    read_block(&mut bits, component, mean, at, &kernel)?;
                }
            }
        }
        if bits.is_overrun() {
            return Err(Corrupt);
        }
        if let Some(take) = &mut take {
            hand_on_strips(components, row, kernel.block_side, take);
        }
    }
    Ok(())
}

/// Hands on the strips that the MCU row `row` completes.
fn hand_on_strips(
    components: &[ScannedComponent<'_>],
    row: usize,
    block_side: usize,
    take: TakeStrip<'_>,
) {
    for (index, component) in components.iter().enumerate() {
        let wanted = &component.region.rows;
        let all = wanted.len() * block_side;
        // How many strips are complete before an MCU row. Only the last one may have fewer lines.
        let strips = |row: usize| {
            let blocks = (row * component.blocks.down).clamp(wanted.start, wanted.end);
            let lines = (blocks - wanted.start) * block_side;
            if lines == all { lines.div_ceil(LINES) } else { lines / LINES }
        };
        for strip in strips(row)..strips(row + 1) {
            take(index, strip, component.samples.strip(strip % 2));
        }
    }
}

#[inline(always)]
fn read_block(
    bits: &mut BitReader<'_>,
    component: &mut ScannedComponent<'_>,
    mean: &mut i16,
    [row, column]: [usize; 2],
    kernel: &Kernel,
) -> Result<(), Corrupt> {
    *mean = mean.wrapping_add(component.dc.difference(bits)?);
    let Region { columns, rows: rows_wanted } = &component.region;
    if !(columns.contains(&column) && rows_wanted.contains(&row)) {
        return component.ac.skip(bits);
    }
    let &Kernel { lines_are_columns, block_side, two_strips, avx2 } = kernel;
    let order = if lines_are_columns { &STORED_BY_COLUMNS } else { &STORED_BY_ROWS };
    let mut coefficients: Coefficients = [0; 128];
    component.ac.read(bits, order, &mut coefficients)?;
    let is_even = coefficients[..64].iter().fold(0, |any, &c| any | c) == 0;
    coefficients[0] = *mean;
    let mut block = [[0; 8]; 8];
    let (rows, _) = coefficients.as_chunks();
    let rows = rows.first_chunk().ok_or(Corrupt)?;
    if is_even {
        block = even_block(*mean, component.steps[0][0]);
    } else if block_side < 8 {
        reduced_inverse_dct(rows, &component.steps, block_side, &mut block);
    } else {
        inverse_dct(rows, &component.steps, avx2, &mut block);
    }
    let at = [row - rows_wanted.start, column - columns.start];
    let [mut line, place] = if lines_are_columns { [at[1], at[0]] } else { at };
    if two_strips {
        line %= 2 * LINES / block_side;
    }
    if block_side == 8 {
        store_block::<8>(component.samples, line, place, &block);
    } else if block_side == 4 {
        store_block::<4>(component.samples, line, place, &block);
    } else if block_side == 2 {
        store_block::<2>(component.samples, line, place, &block);
    } else {
        store_block::<1>(component.samples, line, place, &block);
    }
    Ok(())
}

/// Stores the samples of the block that is `line` and `place` blocks away from the first.
#[inline(always)]
fn store_block<const SIDE: usize>(
    strips: &mut Strips,
    line: usize,
    place: usize,
    block: &[Samples; 8],
) {
    let (line, place) = (line * SIDE, place * SIDE);
    let strip = &mut strips.strip_mut(line / LINES)[place..place + SIDE];
    let within = line % LINES;
    for (to, samples) in strip.iter_mut().zip(block) {
        to[within..within + SIDE].copy_from_slice(&samples[..SIDE]);
    }
}
