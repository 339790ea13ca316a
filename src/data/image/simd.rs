//! Vector instructions where plain loops are not turned into them: the inverse DCT and exchanging
//! rows and columns. Every function has a portable twin, which says what it computes.

#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, transpose_8x8};

#[cfg(not(target_arch = "x86_64"))]
pub use portable::{Avx2, transpose_8x8};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// Proof that the processor has AVX2.
    #[derive(Debug, Clone, Copy)]
    pub struct Avx2(());

    impl Avx2 {
        /// `Some` where there is AVX2.
        pub fn detect() -> Option<Self> {
            is_x86_feature_detected!("avx2").then_some(Self(()))
        }

        /// The inverse DCT of `coefficients` times `steps`, row by row: for each place along the
        /// second index, its eight levels less 128 as samples of 8 fractional bits. `factors` are
        /// of pairs of inputs, as `data::image::jpeg::inverse_dct` has them.
        #[inline(always)]
        pub fn inverse_dct(
            self,
            coefficients: &[[i16; 8]; 8],
            steps: &[[i16; 8]; 8],
            factors: &[[i16; 2]; 12],
            samples: &mut [[i16; 8]; 8],
        ) {
            // SAFETY: a value of this type exists only where AVX2 was found.
            unsafe { inverse_dct(coefficients, steps, factors, samples) }
        }

        /// The sum of `values` times `weights`, each product over 2^15 and rounded.
        #[inline(always)]
        pub fn weighted_sum(self, values: &[[i16; 32]], weights: &[i16], to: &mut [i16; 32]) {
            // SAFETY: a value of this type exists only where AVX2 was found.
            unsafe { weighted_sum::<false>(values, weights, to) }
        }

        /// Twice [`Self::weighted_sum`], but no less than -2^15 and no more than 127 · 2^8.
        #[inline(always)]
        pub fn limited_sum(self, values: &[[i16; 32]], weights: &[i16], to: &mut [i16; 32]) {
            // SAFETY: a value of this type exists only where AVX2 was found.
            unsafe { weighted_sum::<true>(values, weights, to) }
        }

        /// Red, green and blue by turns.
        #[inline(always)]
        pub fn interleave(self, planes: &[[u8; 32]; 3], to: &mut [u8; 96]) {
            // SAFETY: a value of this type exists only where AVX2 was found.
            unsafe { interleave(planes, to) }
        }
    }

    #[inline(always)]
    fn load(values: &[i16; 8]) -> __m128i {
        // SAFETY: the reference is to 16 readable bytes; no alignment is asked for.
        unsafe { _mm_loadu_si128(std::ptr::from_ref(values).cast()) }
    }

    #[inline(always)]
    fn store(values: __m128i, to: &mut [i16; 8]) {
        // SAFETY: the reference is to 16 writable bytes; no alignment is asked for.
        unsafe { _mm_storeu_si128(std::ptr::from_mut(to).cast(), values) }
    }

    /// Exchanges rows and columns of the 8×8 values of `from` in part `part_from` of its columns,
    /// to part `part_to` of the columns of `to`. A part is eight of them.
    #[inline(always)]
    pub fn transpose_8x8<const WIDTH: usize>(
        from: &[[i16; WIDTH]; 8],
        part_from: usize,
        to: &mut [[i16; WIDTH]; 8],
        part_to: usize,
    ) {
        // SAFETY: every x86-64 processor has SSE2.
        unsafe {
            let mut rows = [_mm_setzero_si128(); 8];
            for (row, from) in rows.iter_mut().zip(from) {
                *row = load(&from.as_chunks().0[part_from]);
            }
            for (row, to) in transposed(rows).into_iter().zip(to) {
                store(row, &mut to.as_chunks_mut().0[part_to]);
            }
        }
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn transposed([a, b, c, d, e, f, g, h]: [__m128i; 8]) -> [__m128i; 8] {
        let pairs = |a, b| [_mm_unpacklo_epi16(a, b), _mm_unpackhi_epi16(a, b)];
        let fours = |a, b| [_mm_unpacklo_epi32(a, b), _mm_unpackhi_epi32(a, b)];
        let eights = |a, b| [_mm_unpacklo_epi64(a, b), _mm_unpackhi_epi64(a, b)];
        let ([ab_low, ab_high], [cd_low, cd_high]) = (pairs(a, b), pairs(c, d));
        let ([ef_low, ef_high], [gh_low, gh_high]) = (pairs(e, f), pairs(g, h));
        let ([above_01, above_23], [below_01, below_23]) =
            (fours(ab_low, cd_low), fours(ef_low, gh_low));
        let ([above_45, above_67], [below_45, below_67]) =
            (fours(ab_high, cd_high), fours(ef_high, gh_high));
        let ([row_0, row_1], [row_2, row_3]) =
            (eights(above_01, below_01), eights(above_23, below_23));
        let ([row_4, row_5], [row_6, row_7]) =
            (eights(above_45, below_45), eights(above_67, below_67));
        [row_0, row_1, row_2, row_3, row_4, row_5, row_6, row_7]
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn weighted_sum<const LIMITED: bool>(
        values: &[[i16; 32]],
        weights: &[i16],
        to: &mut [i16; 32],
    ) {
        let mut sums = [_mm256_setzero_si256(); 2];
        for (values, &weight) in values.iter().zip(weights) {
            let weight = _mm256_set1_epi16(weight);
            let (halves, _) = values.as_chunks::<16>();
            for (sum, half) in sums.iter_mut().zip(halves) {
                // SAFETY: the reference is to 32 readable bytes; no alignment is asked for.
                let half = unsafe { _mm256_loadu_si256(std::ptr::from_ref(half).cast()) };
                *sum = _mm256_add_epi16(*sum, _mm256_mulhrs_epi16(half, weight));
            }
        }
        if LIMITED {
            let white = _mm256_set1_epi16(127 << 8);
            for sum in &mut sums {
                *sum = _mm256_min_epi16(_mm256_adds_epi16(*sum, *sum), white);
            }
        }
        for (sum, half) in sums.iter().zip(to.as_chunks_mut::<16>().0) {
            // SAFETY: the reference is to 32 writable bytes; no alignment is asked for.
            unsafe { _mm256_storeu_si256(std::ptr::from_mut(half).cast(), *sum) };
        }
    }

    /// For each 16 bytes of three interleaved planes and for each plane: which of the plane's 16
    /// bytes comes where.
    const INTERLEAVED: [[[i8; 16]; 3]; 3] = {
        let mut places = [[[-1; 16]; 3]; 3];
        let mut byte = 0;
        while byte < 48 {
            places[byte / 16][byte % 3][byte % 16] = (byte / 3) as i8;
            byte += 1;
        }
        places
    };

    #[inline]
    #[target_feature(enable = "avx2")]
    fn interleave(planes: &[[u8; 32]; 3], to: &mut [u8; 96]) {
        let (parts, _) = to.as_chunks_mut::<16>();
        for (part, to) in parts.iter_mut().enumerate() {
            let mut bytes = _mm_setzero_si128();
            for (plane, places) in planes.iter().zip(&INTERLEAVED[part % 3]) {
                let half = &plane.as_chunks::<16>().0[part / 3];
                // SAFETY: both references are to 16 readable bytes; no alignment is asked for.
                let (half, places) = unsafe {
                    let places = _mm_loadu_si128(std::ptr::from_ref(places).cast());
                    (_mm_loadu_si128(std::ptr::from_ref(half).cast()), places)
                };
                bytes = _mm_or_si128(bytes, _mm_shuffle_epi8(half, places));
            }
            // SAFETY: the reference is to 16 writable bytes; no alignment is asked for.
            unsafe { _mm_storeu_si128(std::ptr::from_mut(to).cast(), bytes) };
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn inverse_dct(
        coefficients: &[[i16; 8]; 8],
        steps: &[[i16; 8]; 8],
        factors: &[[i16; 2]; 12],
        samples: &mut [[i16; 8]; 8],
    ) {
        let mut pairs = [_mm256_setzero_si256(); 12];
        for (pair, &[first, second]) in pairs.iter_mut().zip(factors) {
            *pair = _mm256_set1_epi32(i32::from(second) << 16 | i32::from(first as u16));
        }
        let mut rows = [_mm_setzero_si128(); 8];
        for ((row, coefficients), steps) in rows.iter_mut().zip(coefficients).zip(steps) {
            *row = _mm_mullo_epi16(load(coefficients), load(steps));
        }
        let rows = transposed(transform::<11>(rows, &pairs));
        let levels = transform::<18>(rows, &pairs);
        let (black, white) = (_mm_set1_epi16(-128), _mm_set1_epi16(127));
        for (to, level) in samples.iter_mut().zip(levels) {
            let level = _mm_max_epi16(_mm_min_epi16(level, white), black);
            store(_mm_slli_epi16::<8>(level), to);
        }
    }

    /// One dimension, rounded by `BITS` bits to 16 bits. Every product is of two inputs with a
    /// pair of `factors`, which one instruction adds up.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn transform<const BITS: i32>(input: [__m128i; 8], factors: &[__m256i; 12]) -> [__m128i; 8] {
        let [x0, x1, x2, x3, x4, x5, x6, x7] = input;
        let (x04, x26, x13, x57) = (pairs(x0, x4), pairs(x2, x6), pairs(x1, x3), pairs(x5, x7));
        let half = _mm256_set1_epi32(1 << (BITS - 1));
        let sum = _mm256_add_epi32(_mm256_madd_epi16(x04, factors[0]), half);
        let difference = _mm256_add_epi32(_mm256_madd_epi16(x04, factors[1]), half);
        let even_2 = _mm256_madd_epi16(x26, factors[2]);
        let even_6 = _mm256_madd_epi16(x26, factors[3]);
        let evens = [
            _mm256_add_epi32(sum, even_2),
            _mm256_add_epi32(difference, even_6),
            _mm256_sub_epi32(difference, even_6),
            _mm256_sub_epi32(sum, even_2),
        ];
        let mut out = [_mm_setzero_si128(); 8];
        for place in 0..4 {
            let odd = _mm256_add_epi32(
                _mm256_madd_epi16(x13, factors[4 + place * 2]),
                _mm256_madd_epi16(x57, factors[5 + place * 2]),
            );
            let first = _mm256_srai_epi32::<BITS>(_mm256_add_epi32(evens[place], odd));
            let last = _mm256_srai_epi32::<BITS>(_mm256_sub_epi32(evens[place], odd));
            // Four lanes of each by turns; brought together, one after the other.
            let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(first, last));
            out[place] = _mm256_castsi256_si128(packed);
            out[7 - place] = _mm256_extracti128_si256::<1>(packed);
        }
        out
    }

    /// The values of `a` and `b` by turns.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn pairs(a: __m128i, b: __m128i) -> __m256i {
        _mm256_set_m128i(_mm_unpackhi_epi16(a, b), _mm_unpacklo_epi16(a, b))
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod portable {
    /// There is none.
    #[derive(Debug, Clone, Copy)]
    pub enum Avx2 {}

    impl Avx2 {
        /// `None`.
        pub fn detect() -> Option<Self> {
            None
        }

        /// Never called.
        pub fn inverse_dct(
            self,
            _: &[[i16; 8]; 8],
            _: &[[i16; 8]; 8],
            _: &[[i16; 2]; 12],
            _: &mut [[i16; 8]; 8],
        ) {
            match self {}
        }

        /// Never called.
        pub fn weighted_sum(self, _: &[[i16; 32]], _: &[i16], _: &mut [i16; 32]) {
            match self {}
        }

        /// Never called.
        pub fn limited_sum(self, _: &[[i16; 32]], _: &[i16], _: &mut [i16; 32]) {
            match self {}
        }

        /// Never called.
        pub fn interleave(self, _: &[[u8; 32]; 3], _: &mut [u8; 96]) {
            match self {}
        }
    }

    /// Exchanges rows and columns of the 8×8 values of `from` in part `part_from` of its columns,
    /// to part `part_to` of the columns of `to`. A part is eight of them.
    pub fn transpose_8x8<const WIDTH: usize>(
        from: &[[i16; WIDTH]; 8],
        part_from: usize,
        to: &mut [[i16; WIDTH]; 8],
        part_to: usize,
    ) {
        for (column, to) in to.iter_mut().enumerate() {
            for (row, from) in from.iter().enumerate() {
                to[part_to * 8 + row] = from[part_from * 8 + column];
            }
        }
    }
}
