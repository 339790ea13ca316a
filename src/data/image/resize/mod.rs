//! Bicubic resizing, to within a level of Pillow's.
//!
//! Each direction is a pass of its own: every output pixel is a weighted sum of the input pixels
//! near it, with the cubic convolution kernel of a = -1/2 (Keys, "Cubic Convolution Interpolation
//! for Digital Image Processing", 1981), widened when shrinking (antialias). Plain loops over 16-bit
//! integers, compiled for several vector instruction sets and chosen by what the processor has.
//!
//! An image's components are resized for themselves. Chroma of fewer samples is smoothed by the
//! very weights that resize it, so that it need not be brought to the image's size before, and
//! only the result becomes RGB.

use std::ops::Range;

use anyhow::{Result, ensure};
use multiversion::multiversion;

use crate::image::crop::CropBox;
use crate::image::decode::Image;
use crate::image::filter_weights::{FRACTION, PixelWeights, Span, Weights};
use crate::image::jpeg::{Colour, Extent, Frame, TakeStrip};
use crate::image::simd::{Avx2, transpose_8x8};
use crate::image::strips::{LINES, MIDDLE, SAMPLE_FRACTION, Strips, sample};

/// Values of the same place of [`LINES`] lines; place after place they are a square tile.
type Tile = [[i16; LINES]; LINES];

const EMPTY: Tile = [[0; LINES]; LINES];

/// Bits that products of samples and weights lose, for sums in 16 bits.
const LOST: u32 = 15;

/// Fractional bits of sums. The bit less than samples have is for what lies beyond black and
/// white.
const SUM_FRACTION: u32 = SAMPLE_FRACTION + FRACTION - LOST;

/// Resizes crops to Pillow's `crop(...).resize(..., BICUBIC)`. Holds memory for the next one.
#[derive(Debug, Default)]
pub struct CropResizer {
    pixel_weights: PixelWeights,
    across: PlaneWeights,
    down: PlaneWeights,
    source: [Strips; 3],
    halfway: [Strips; 3],
}

/// What is resized: one plane of grey, or three.
struct Planes<'a> {
    samples: &'a [Strips; 3],
    /// Of each plane, across and down.
    extents: [[Extent; 2]; 3],
    /// Pixels of the image for a pixel of these each way.
    reduction: usize,
    colour: Colour,
}

/// What a crop is resized to, and what of that is wanted.
#[derive(Debug, Clone, Copy)]
struct Target {
    /// Height and width.
    size: [usize; 2],
    part: CropBox,
}

impl Target {
    fn whole([height, width]: [usize; 2]) -> Self {
        Self { size: [height, width], part: CropBox { left: 0, top: 0, width, height } }
    }

    fn columns(self) -> Range<usize> {
        self.part.left..self.part.left + self.part.width
    }

    fn rows(self) -> Range<usize> {
        self.part.top..self.part.top + self.part.height
    }
}

/// Weights of one pass for the first plane and for the others.
#[derive(Debug, Default)]
struct PlaneWeights([Weights; 2]);

impl PlaneWeights {
    fn set(&mut self, pixels: &PixelWeights, offset: usize, extents: [Extent; 3]) {
        let [first, others] = &mut self.0;
        first.set(pixels, offset, extents[0]);
        others.set(pixels, offset, extents[1]);
    }

    #[inline(always)]
    fn of(&self, plane: usize) -> &Weights {
        &self.0[plane.min(1)]
    }
}

/// Whether Pillow resizes the height before the width: since version 13.0, if the height shrinks
/// by more than twice the pixels that the width does (found by comparing 1,476 random sizes).
/// Older versions always begin with the width. At sharp edges the order shows by several levels.
pub fn is_height_first(crop: CropBox, [height, width]: [usize; 2]) -> bool {
    crop.height > height + 2 * crop.width.saturating_sub(width)
}

impl CropResizer {
    /// Resizes the pixels of `image` inside `crop`, and none outside, to `out`
    /// `[height, width, 3]`.
    ///
    /// # Errors
    /// The box is empty or does not lie in the image, or `out` has another size.
    pub fn resize(
        &mut self,
        image: &Image,
        crop: CropBox,
        size: [usize; 2],
        out: &mut [u8],
    ) -> Result<()> {
        check_box(crop, image.width, image.height)?;
        self.resize_pixels(image, crop, crop, Target::whole(size), out)
    }

    /// Resizes the whole `image` to `size` (height, width), and fills `out`
    /// `[part.height, part.width, 3]` with `part` of the result. Only what that takes is done, so a
    /// long thin image costs no more than another one.
    ///
    /// # Errors
    /// The part is empty or does not lie in the result, or `out` has another size.
    pub fn resize_part(
        &mut self,
        image: &Image,
        size: [usize; 2],
        part: CropBox,
        out: &mut [u8],
    ) -> Result<()> {
        check_box(part, size[1], size[0])?;
        let Image { width, height, .. } = *image;
        let target = Target { size, part };
        let across = Span::new(0, width, 1).touched(size[1], target.columns());
        let down = Span::new(0, height, 1).touched(size[0], target.rows());
        let (left, top) = (across.start, down.start);
        let needed = CropBox { left, top, width: across.len(), height: down.len() };
        check_box(needed, width, height)?;
        let whole = CropBox { left: 0, top: 0, width, height };
        self.resize_pixels(image, whole, needed, target, out)
    }

    /// Resizes `crop` to `target`, for which the pixels in `needed` are enough.
    fn resize_pixels(
        &mut self,
        image: &Image,
        crop: CropBox,
        needed: CropBox,
        target: Target,
        out: &mut [u8],
    ) -> Result<()> {
        let pixels = image.width * image.height;
        ensure!(image.pixels.len() == pixels * 3, "not {pixels} pixels");
        let mut source = std::mem::take(&mut self.source);
        split(image, needed, is_height_first(crop, target.size), &mut source);
        let extent = |first| Extent { pixels: 1, count: usize::MAX, first };
        let extents = [[extent(needed.left), extent(needed.top)]; 3];
        let planes = Planes { samples: &source, extents, reduction: 1, colour: Colour::Rgb };
        let result = self.resize_planes(&planes, crop, target, out);
        self.source = source;
        result
    }

    /// Resizes decoded `samples` of a JPEG image inside `crop`, whose lines are columns of the
    /// image if [`is_height_first`], to `out` `[height, width, 3]`.
    ///
    /// # Errors
    /// `out` has another size.
    pub fn resize_samples(
        &mut self,
        samples: &[Strips; 3],
        frame: &Frame,
        crop: CropBox,
        size: [usize; 2],
        out: &mut [u8],
    ) -> Result<()> {
        let last = frame.component_count() - 1;
        let extents = [0, 1, 2].map(|component| frame.extents(component.min(last), crop));
        let Frame { reduction, colour, .. } = *frame;
        let planes = Planes { samples, extents, reduction, colour };
        self.resize_planes(&planes, crop, Target::whole(size), out)
    }

    /// Resizes a JPEG image inside `crop`, which is not [`is_height_first`], while it is decoded,
    /// to `out` `[height, width, 3]`. `decode` hands its strips on to the function that it is
    /// given: samples that were just made are still in the processor's cache.
    ///
    /// # Errors
    /// `decode`'s, or `out` has another size.
    pub fn resize_strips(
        &mut self,
        frame: &Frame,
        crop: CropBox,
        size: [usize; 2],
        out: &mut [u8],
        decode: impl FnOnce(TakeStrip<'_>) -> Result<()>,
    ) -> Result<()> {
        check_size(out, size)?;
        let last = frame.component_count() - 1;
        let components = [0, 1, 2].map(|component| component.min(last));
        let extents = components.map(|component| frame.extents(component, crop));
        self.set_weights(&extents, frame.reduction, crop, Target::whole(size));
        let Self { across, down, halfway, .. } = self;
        for (component, halfway) in halfway.iter_mut().enumerate().take(last + 1) {
            halfway.set_size(size[1], frame.sample_rows(component, crop));
        }
        decode(&mut |component, strip, places| {
            resize_strip(places, across.of(component), strip, &mut halfway[component]);
        })?;
        let passes = SecondPass { planes: &halfway[..=last], weights: down };
        resize_second(&passes, frame.colour, false, size[1], out);
        Ok(())
    }

    fn resize_planes(
        &mut self,
        planes: &Planes<'_>,
        crop: CropBox,
        target: Target,
        out: &mut [u8],
    ) -> Result<()> {
        let &Planes { samples, extents, reduction, colour } = planes;
        check_size(out, [target.part.height, target.part.width])?;
        self.set_weights(&extents, reduction, crop, target);
        let Self { across, down, halfway, .. } = self;
        let height_first = is_height_first(crop, target.size);
        let (first, second) = if height_first { (down, across) } else { (across, down) };
        let planes = if colour == Colour::Grey { 1 } else { 3 };
        for (plane, (source, halfway)) in samples.iter().zip(&mut *halfway).enumerate().take(planes)
        {
            resize_first(source, first.of(plane), halfway);
        }
        let passes = SecondPass { planes: &halfway[..planes], weights: second };
        resize_second(&passes, colour, height_first, target.part.width, out);
        Ok(())
    }

    fn set_weights(
        &mut self,
        extents: &[[Extent; 2]; 3],
        reduction: usize,
        crop: CropBox,
        target: Target,
    ) {
        let [height, width] = target.size;
        let Self { pixel_weights, across, down, .. } = self;
        let span = Span::new(crop.left, crop.width, reduction);
        pixel_weights.set(span, width, target.columns());
        across.set(pixel_weights, span.first(), extents.map(|[across, _]| across));
        let span = Span::new(crop.top, crop.height, reduction);
        pixel_weights.set(span, height, target.rows());
        down.set(pixel_weights, span.first(), extents.map(|[_, down]| down));
    }

    /// Bytes of memory held for pixels.
    pub fn held_bytes(&self) -> usize {
        self.source.iter().chain(&self.halfway).map(Strips::held_bytes).sum()
    }
}

fn check_size(out: &[u8], [height, width]: [usize; 2]) -> Result<()> {
    let fits = out.len() == height * width * 3 && !out.is_empty();
    ensure!(fits, "{} bytes do not hold {width}×{height} pixels", out.len());
    Ok(())
}

/// # Errors
/// The box is empty or does not lie in an image of this size.
pub fn check_box(crop: CropBox, width: usize, height: usize) -> Result<()> {
    let fits = |start: usize, length: usize, whole: usize| {
        length > 0 && start.checked_add(length).is_some_and(|end| end <= whole)
    };
    let inside = fits(crop.left, crop.width, width) && fits(crop.top, crop.height, height);
    ensure!(inside, "{crop:?} is not in the image");
    Ok(())
}

/// Red, green and blue of the pixels inside `crop`.
fn split(image: &Image, crop: CropBox, lines_are_columns: bool, planes: &mut [Strips; 3]) {
    let (lines, length) = match lines_are_columns {
        true => (crop.width, crop.height),
        false => (crop.height, crop.width),
    };
    for (channel, plane) in planes.iter_mut().enumerate() {
        plane.set_size(lines, length);
        for y in 0..crop.height {
            let row = &image.pixels[((crop.top + y) * image.width + crop.left) * 3..];
            for (x, pixel) in row.as_chunks::<3>().0[..crop.width].iter().enumerate() {
                let (line, place) = if lines_are_columns { (x, y) } else { (y, x) };
                let level = i32::from(pixel[channel]) - MIDDLE;
                plane.strip_mut(line / LINES)[place][line % LINES] = sample(level);
            }
        }
    }
}

/// The weighted sum of values from the first place on, with [`SUM_FRACTION`] bits.
#[inline(always)]
fn weighted_sum(
    places: &[[i16; LINES]],
    weights: &[i16],
    avx2: Option<Avx2>,
    sums: &mut [i16; LINES],
) {
    match avx2 {
        Some(avx2) => avx2.weighted_sum(places, weights, sums),
        None => portable_weighted_sum(places, weights, sums),
    }
}

fn portable_weighted_sum(places: &[[i16; LINES]], weights: &[i16], sums: &mut [i16; LINES]) {
    *sums = [0; LINES];
    for (values, &weight) in places.iter().zip(weights) {
        for (sum, &value) in sums.iter_mut().zip(values) {
            let product = i32::from(value) * i32::from(weight) + (1 << (LOST - 1));
            *sum = sum.wrapping_add((product >> LOST) as i16);
        }
    }
}

/// The same as samples, between black and white.
#[inline(always)]
fn limited_sum(
    places: &[[i16; LINES]],
    weights: &[i16],
    avx2: Option<Avx2>,
    samples: &mut [i16; LINES],
) {
    match avx2 {
        Some(avx2) => avx2.limited_sum(places, weights, samples),
        None => {
            portable_weighted_sum(places, weights, samples);
            for sample in samples {
                *sample = (*sample).saturating_add(*sample).min(127 << SAMPLE_FRACTION);
            }
        }
    }
}

/// `source` with another length of its lines, whose places become lines.
fn resize_first(source: &Strips, weights: &Weights, out: &mut Strips) {
    out.set_size(weights.places(), source.lines);
    for strip in 0..source.lines.div_ceil(LINES) {
        resize_strip(source.strip(strip), weights, strip, out);
    }
}

/// The same for the samples of one strip; `out` has its size already.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2", "x86_64+sse4.1"))]
fn resize_strip(places: &[[i16; LINES]], weights: &Weights, strip: usize, out: &mut Strips) {
    let avx2 = Avx2::detect();
    let (mut tile, mut turned) = (EMPTY, EMPTY);
    let lines = (out.length - strip * LINES).min(LINES);
    for first in (0..weights.places()).step_by(LINES) {
        for (place, values) in (first..weights.places()).zip(&mut tile) {
            let (start, weights) = weights.at(place);
            limited_sum(&places[start..], weights, avx2, values);
        }
        transpose(&tile, &mut turned);
        let to = &mut out.strip_mut(first / LINES)[strip * LINES..][..lines];
        to.copy_from_slice(&turned[..lines]);
    }
}

/// What the second pass works on: planes after the first one, and weights.
struct SecondPass<'a> {
    planes: &'a [Strips],
    weights: &'a PlaneWeights,
}

/// The second pass, and from its components to RGB in `out`, `width` pixels a row.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2", "x86_64+sse4.1"))]
fn resize_second(
    pass: &SecondPass<'_>,
    colour: Colour,
    lines_are_rows: bool,
    width: usize,
    out: &mut [u8],
) {
    let avx2 = Avx2::detect();
    let (lines, length) = (pass.planes[0].lines, pass.weights.of(0).places());
    let (mut tiles, mut turned) = ([EMPTY; 3], EMPTY);
    for strip in 0..lines.div_ceil(LINES) {
        for first in (0..length).step_by(LINES) {
            for (plane, tile) in (0..pass.planes.len()).zip(&mut tiles) {
                let places = pass.planes[plane].strip(strip);
                for (place, values) in (first..length).zip(tile.iter_mut()) {
                    let (start, weights) = pass.weights.of(plane).at(place);
                    weighted_sum(&places[start..], weights, avx2, values);
                }
                if lines_are_rows {
                    transpose(tile, &mut turned);
                    *tile = turned;
                }
            }
            let (mut x, mut y) = (strip * LINES, first);
            if lines_are_rows {
                (x, y) = (y, x);
            }
            store(&tiles, colour, &mut out[(y * width + x) * 3..], width, width - x, avx2);
        }
    }
}

/// Stores tiles as RGB from the start of `out` on, as far as there are rows, up to `columns`.
#[inline(always)]
fn store(
    tiles: &[Tile; 3],
    colour: Colour,
    out: &mut [u8],
    width: usize,
    columns: usize,
    avx2: Option<Avx2>,
) {
    let columns = columns.min(LINES);
    let mut pixels = [0; LINES * 3];
    let mut planes = [[0; LINES]; 3];
    for (row, to) in out.chunks_mut(width * 3).take(LINES).enumerate() {
        if to.len() < columns * 3 {
            return;
        }
        to_rgb(tiles.each_ref().map(|tile| &tile[row]), colour, &mut planes);
        if let Some(to) = to.first_chunk_mut()
            && columns == LINES
        {
            interleave(&planes, avx2, to);
        } else {
            interleave(&planes, avx2, &mut pixels);
            to[..columns * 3].copy_from_slice(&pixels[..columns * 3]);
        }
    }
}

#[inline(always)]
fn interleave(planes: &[[u8; LINES]; 3], avx2: Option<Avx2>, to: &mut [u8; LINES * 3]) {
    if let Some(avx2) = avx2 {
        return avx2.interleave(planes, to);
    }
    for (place, pixel) in to.as_chunks_mut().0.iter_mut().enumerate() {
        *pixel = [planes[0][place], planes[1][place], planes[2][place]];
    }
}

/// Fractional bits of the factors of colours.
const COLOUR_FRACTION: u32 = 14;

const fn colour_factor(value: f64) -> i32 {
    (value * (1 << COLOUR_FRACTION) as f64 + 0.5) as i32
}

/// Sums to levels of red, green and blue.
#[inline(always)]
fn to_rgb(sums: [&[i16; LINES]; 3], colour: Colour, rgb: &mut [[u8; LINES]; 3]) {
    const SHIFT: u32 = COLOUR_FRACTION + SUM_FRACTION;
    let level = |sum: i32| ((sum >> SHIFT) + MIDDLE).clamp(0, 255) as u8;
    let scaled = |sum: i16| (i32::from(sum) << COLOUR_FRACTION) + (1 << (SHIFT - 1));
    let [first, second, third] = sums;
    let [red, green, blue] = rgb;
    if colour == Colour::YCbCr {
        for place in 0..LINES {
            let luma = scaled(first[place]);
            let (cb, cr) = (i32::from(second[place]), i32::from(third[place]));
            red[place] = level(luma + cr * const { colour_factor(1.402) });
            let less = cb * const { colour_factor(0.344_136) };
            green[place] = level(luma - less - cr * const { colour_factor(0.714_136) });
            blue[place] = level(luma + cb * const { colour_factor(1.772) });
        }
        return;
    }
    let planes = if colour == Colour::Grey { [first; 3] } else { sums };
    for (levels, sums) in rgb.iter_mut().zip(planes) {
        for (to, &sum) in levels.iter_mut().zip(sums) {
            *to = level(scaled(sum));
        }
    }
}

#[inline(always)]
fn transpose(tile: &Tile, turned: &mut Tile) {
    for (part, rows) in tile.as_chunks::<8>().0.iter().enumerate() {
        for (to, column) in turned.as_chunks_mut::<8>().0.iter_mut().zip(0..) {
            transpose_8x8(rows, column, to, part);
        }
    }
}

#[cfg(test)]
mod tests;
