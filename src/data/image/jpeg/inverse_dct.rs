//! The inverse discrete cosine transform of 8×8 blocks, in integers.
//!
//! Factored as by Loeffler, Ligtenberg and Moschytz ("Practical fast 1-D DCT algorithms with 11
//! multiplications", 1989), with 13 fractional bits of factors and two more between the passes,
//! which is the precision of libjpeg's accurate method. Each pass works on eight columns at once.

use crate::image::simd::Avx2;
use crate::image::strips::sample;

/// Eight samples from one place of the lines of a plane, scaled as in [`Strips`](crate::image::strips::Strips).
pub(super) type Samples = [i16; 8];

/// Fractional bits of factors.
const FACTOR_BITS: u32 = 13;

/// Fractional bits of values between the passes.
const BETWEEN_BITS: u32 = 2;

const fn factor(value: f64) -> i32 {
    (value * (1 << FACTOR_BITS) as f64 + 0.5) as i32
}

/// Sums and differences of √2·cos(kπ/16), in the order of their use.
const FACTORS: [i32; 12] = [
    factor(0.541_196_100),
    factor(0.765_366_865),
    factor(1.847_759_065),
    factor(1.175_875_602),
    factor(1.961_570_560),
    factor(0.390_180_644),
    factor(0.899_976_223),
    factor(2.562_915_447),
    factor(1.501_321_110),
    factor(3.072_711_026),
    factor(2.053_119_869),
    factor(0.298_631_336),
];

/// The same transform as sums of products of two inputs each: of inputs 0 and 4 to the sum and the
/// difference, of 2 and 6 to the other even values, then for each odd value of 1 and 3, and of 5
/// and 7. Integers being exact, it makes no difference where they are multiplied out.
const PAIRS: [[i16; 2]; 12] = {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = FACTORS;
    let one = 1 << FACTOR_BITS;
    let pairs = [
        [one, one],
        [one, -one],
        [a + b, a],
        [a, a - c],
        [i - g + d - f, d],
        [d - f, d - g],
        [d, j - h + d - e],
        [d - h, d - e],
        [d - f, d - h],
        [k - h + d - f, d],
        [d - g, d - e],
        [d, l - g + d - e],
    ];
    let mut narrow = [[0; 2]; 12];
    let mut index = 0;
    while index < 12 {
        narrow[index] = [pairs[index][0] as i16, pairs[index][1] as i16];
        index += 1;
    }
    narrow
};

/// One dimension of the transform, without its scale of 1/√8; the result has [`FACTOR_BITS`]
/// more fractional bits. Names are of frequencies, "sum" and "difference" of butterflies.
#[inline(always)]
fn transform(input: [i32; 8]) -> [i32; 8] {
    let times = |value: i32, factor: i32| value.wrapping_mul(factor);
    let add = |a: i32, b: i32| a.wrapping_add(b);
    let subtract = |a: i32, b: i32| a.wrapping_sub(b);
    let [x0, x1, x2, x3, x4, x5, x6, x7] = input;

    // Even frequencies: a rotation by 6π/16 of 2 and 6, and sum and difference of 0 and 4.
    let rotated = times(add(x2, x6), FACTORS[0]);
    let even_2 = add(rotated, times(x2, FACTORS[1]));
    let even_6 = subtract(rotated, times(x6, FACTORS[2]));
    let sum = add(x0, x4) << FACTOR_BITS;
    let difference = subtract(x0, x4) << FACTOR_BITS;
    let evens = [
        add(sum, even_2),
        add(difference, even_6),
        subtract(difference, even_6),
        subtract(sum, even_2),
    ];

    // Odd frequencies: rotations that share their products.
    let (sum_73, sum_51) = (add(x7, x3), add(x5, x1));
    let shared = times(add(sum_73, sum_51), FACTORS[3]);
    let shared_73 = subtract(shared, times(sum_73, FACTORS[4]));
    let shared_51 = subtract(shared, times(sum_51, FACTORS[5]));
    let shared_71 = times(add(x7, x1), FACTORS[6]);
    let shared_53 = times(add(x5, x3), FACTORS[7]);
    let odd = |value: i32, factor: i32, shared: i32, other: i32| {
        add(subtract(times(value, factor), shared), other)
    };
    let odds = [
        odd(x1, FACTORS[8], shared_71, shared_51),
        odd(x3, FACTORS[9], shared_53, shared_73),
        odd(x5, FACTORS[10], shared_53, shared_51),
        odd(x7, FACTORS[11], shared_71, shared_73),
    ];
    std::array::from_fn(|place| match place {
        0..4 => add(evens[place], odds[place]),
        _ => subtract(evens[7 - place], odds[7 - place]),
    })
}

/// `value` without its lowest `bits`, rounded.
#[inline(always)]
fn rounded(value: i32, bits: u32) -> i32 {
    value.wrapping_add(1 << (bits - 1)) >> bits
}

/// The samples of a block: the eight of each place along the second index of `coefficients`.
/// `steps` are the coefficients' quantisation steps.
#[inline(always)]
pub(super) fn inverse_dct(
    coefficients: &[[i16; 8]; 8],
    steps: &[[i16; 8]; 8],
    avx2: Option<Avx2>,
    samples: &mut [Samples; 8],
) {
    match avx2 {
        Some(avx2) => avx2.inverse_dct(coefficients, steps, &PAIRS, samples),
        None => portable_inverse_dct(coefficients, steps, samples),
    }
}

fn portable_inverse_dct(
    coefficients: &[[i16; 8]; 8],
    steps: &[[i16; 8]; 8],
    samples: &mut [Samples; 8],
) {
    let mut between = [[0_i16; 8]; 8];
    for column in 0..8 {
        let dequantised =
            |row: usize| i32::from(coefficients[row][column].wrapping_mul(steps[row][column]));
        let column_out = transform(std::array::from_fn(dequantised));
        for row in 0..8 {
            between[column][row] = narrow(rounded(column_out[row], FACTOR_BITS - BETWEEN_BITS));
        }
    }
    for row in 0..8 {
        let row_out = transform(std::array::from_fn(|column| i32::from(between[column][row])));
        for column in 0..8 {
            // Three more bits for the scale of 1/√8 of each dimension.
            let level = rounded(row_out[column], FACTOR_BITS + BETWEEN_BITS + 3);
            samples[column][row] = sample(level);
        }
    }
}

fn narrow(value: i32) -> i16 {
    value.clamp(i16::MIN.into(), i16::MAX.into()) as i16
}

/// The samples of a block in an image that is reduced to `side` (4, 2 or 1) for each eight: the
/// transform of that size, of the lowest frequencies.
#[inline(always)]
pub(super) fn reduced_inverse_dct(
    coefficients: &[[i16; 8]; 8],
    steps: &[[i16; 8]; 8],
    side: usize,
    samples: &mut [Samples; 8],
) {
    let mut between = [[0.0; 4]; 4];
    for column in 0..side {
        let dequantised = |row: usize| match row < side {
            true => f32::from(coefficients[row][column].wrapping_mul(steps[row][column])),
            false => 0.0,
        };
        let levels = short_transform(std::array::from_fn(dequantised), side);
        for (row, level) in levels.into_iter().enumerate() {
            between[row][column] = level;
        }
    }
    for (row, between) in between.into_iter().enumerate() {
        for (column, level) in short_transform(between, side).into_iter().enumerate() {
            samples[column][row] = sample((level + 32_768.5) as i32 - 32_768);
        }
    }
}

/// One dimension of the transform of `side` frequencies to as many levels.
#[inline(always)]
fn short_transform([x0, x1, x2, x3]: [f32; 4], side: usize) -> [f32; 4] {
    // Half the cosines of π/4, π/8 and 3π/8; 1/√8 is the first one, too.
    const COSINES: [f32; 3] = [0.353_553_4, 0.461_939_77, 0.191_341_72];
    let [mean, steep, flat] = COSINES;
    match side {
        1 => [mean * x0, 0.0, 0.0, 0.0],
        2 => [mean * (x0 + x1), mean * (x0 - x1), 0.0, 0.0],
        _ => {
            let evens = [mean * (x0 + x2), mean * (x0 - x2)];
            let odds = [steep * x1 + flat * x3, flat * x1 - steep * x3];
            [evens[0] + odds[0], evens[1] + odds[1], evens[1] - odds[1], evens[0] - odds[0]]
        }
    }
}

/// The one sample of a block that has nothing but a mean.
#[inline(always)]
pub(super) fn even_block(mean: i16, step: i16) -> [Samples; 8] {
    [[sample(rounded(i32::from(mean.wrapping_mul(step)), 3)); 8]; 8]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Vector instructions give what plain ones do, and both what the formula of the
        /// transform does (T.81, A.3.3), to within a level of rounding.
        #[test]
        fn the_transform_is_the_formulas(
            values in proptest::collection::vec(-60..60_i16, 64),
            sparse in 1..64_usize,
            step in 1..12_i16,
        ) {
            let at = |row: usize, column: usize| {
                if row * 8 + column < sparse { values[row * 8 + column] } else { 0 }
            };
            let coefficients: [[i16; 8]; 8] =
                std::array::from_fn(|row| std::array::from_fn(|column| at(row, column)));
            let steps = [[step; 8]; 8];
            let (mut plain, mut vector) = ([[0; 8]; 8], [[0; 8]; 8]);
            inverse_dct(&coefficients, &steps, None, &mut plain);
            inverse_dct(&coefficients, &steps, Avx2::detect(), &mut vector);
            prop_assert_eq!(plain, vector);
            for (x, samples) in plain.iter().enumerate() {
                for (y, &found) in samples.iter().enumerate() {
                    let expected = formula(&coefficients, 8, x, y) * f64::from(step);
                    let difference = f64::from(found) / 256.0 - expected.clamp(-128.0, 127.0);
                    prop_assert!(difference.abs() < 0.75, "{difference} at {x}, {y}");
                }
            }
            for side in [1, 2, 4] {
                reduced_inverse_dct(&coefficients, &steps, side, &mut plain);
                for (x, y) in (0..side * side).map(|place| (place / side, place % side)) {
                    let expected = formula(&coefficients, side, x, y) * f64::from(step);
                    let found = f64::from(plain[x][y]) / 256.0;
                    let difference = found - expected.clamp(-128.0, 127.0);
                    prop_assert!(difference.abs() < 0.51, "{difference} at {x}, {y} of {side}");
                }
            }
        }
    }

    /// The level at a place of a block of `side`, from as many of its frequencies each way.
    fn formula(coefficients: &[[i16; 8]; 8], side: usize, x: usize, y: usize) -> f64 {
        let wave = |place: usize, frequency: usize| {
            let turns = (2 * place + 1) as f64 * frequency as f64 / (4 * side) as f64;
            let scale = if frequency == 0 { 0.5_f64.sqrt() } else { 1.0 };
            (turns * std::f64::consts::TAU).cos() * scale / 2.0
        };
        let mut level = 0.0;
        for (v, row) in coefficients.iter().enumerate().take(side) {
            for (u, &coefficient) in row.iter().enumerate().take(side) {
                level += f64::from(coefficient) * wave(x, u) * wave(y, v);
            }
        }
        level
    }

    #[test]
    fn a_mean_alone_is_the_transforms_first_coefficient() {
        for mean in [-1024, -100, -3, 0, 4, 5, 700, 1023] {
            let mut coefficients = [[0; 8]; 8];
            coefficients[0][0] = mean;
            let mut samples = [[1; 8]; 8];
            inverse_dct(&coefficients, &[[3; 8]; 8], None, &mut samples);
            assert_eq!(samples, even_block(mean, 3));
        }
    }
}
