//! Dense targets of an image, as PNG files have them: segmentation masks and depth maps.
//!
//! Their pixels are numbers, not colours: indices stay indices, whether the file has them as grey or
//! through a palette, and nothing is interpolated. A target is cut as its image is and sampled at
//! the nearest pixel.

use std::io::Cursor;

use anyhow::{Context, Result, bail, ensure};
use png::{BitDepth, ColorType, Decoder, Limits, Transformations};
use serde::{Deserialize, Serialize};

use super::decode::contain_panics;
use super::pixels::check_size;

/// What the pixels of a dense target are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DensePixels {
    /// Classes from 0 to 255: palette indices or grey levels of at most 8 bits, as they are stored.
    /// One byte each.
    #[default]
    Classes,
    /// Grey levels of at most 16 bits, as they are stored. Two bytes each, in the machine's order.
    Depth,
}

impl DensePixels {
    /// Bytes of a pixel.
    pub fn bytes(self) -> usize {
        match self {
            Self::Classes => 1,
            Self::Depth => 2,
        }
    }
}

/// What each stored class stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassMap(Vec<Option<u8>>);

impl ClassMap {
    /// The map of each stored class from 0 to 255; none of one that there must not be.
    pub fn new(of_class: impl Fn(u8) -> Option<u8>) -> Self {
        Self((0..=u8::MAX).map(of_class).collect())
    }

    /// What a stored class stands for; none where there must be no such class.
    pub fn get(&self, stored: u8) -> Option<u8> {
        self.0[usize::from(stored)]
    }

    fn of(&self, class: u16) -> Result<u8> {
        let known = u8::try_from(class).ok().and_then(|class| self.get(class));
        known.with_context(|| {
            let known = self.0.iter().flatten().filter(|&&class| class != IGNORED_CLASS);
            let count = known.max().map_or(0, |&most| usize::from(most) + 1);
            format!("a pixel of class {class}, which is none of the {count} classes")
        })
    }
}

/// The class of pixels that do not count.
pub const IGNORED_CLASS: u8 = u8::MAX;

/// A decoded dense target. Its memory is reused by the next one.
#[derive(Debug, Default)]
pub struct DenseMap {
    /// In pixels.
    width: usize,
    /// In pixels.
    height: usize,
    /// Bits of a pixel: 1, 2, 4, 8 or 16, the first pixel of a byte in its high bits.
    bits: usize,
    /// Bytes of a row.
    stride: usize,
    rows: Vec<u8>,
}

impl DenseMap {
    /// Decodes the PNG file `encoded`, whose pixels are `pixels`.
    ///
    /// # Errors
    /// No PNG file, a damaged or truncated one, one of more than `max_pixels`, or pixels of another
    /// kind.
    pub fn decode(&mut self, encoded: &[u8], pixels: DensePixels, max_pixels: u64) -> Result<()> {
        contain_panics(|| self.decode_png(encoded, pixels, max_pixels))
    }

    fn decode_png(&mut self, encoded: &[u8], pixels: DensePixels, max_pixels: u64) -> Result<()> {
        ensure!(encoded.starts_with(b"\x89PNG"), "not a PNG image");
        // Two bytes hold any pixel; the rest is for rows and metadata.
        let bytes = usize::try_from(max_pixels.saturating_mul(2).saturating_add(16 << 20))?;
        let mut decoder = Decoder::new_with_limits(Cursor::new(encoded), Limits { bytes });
        decoder.set_transformations(Transformations::IDENTITY);
        let mut reader = decoder.read_info()?;
        let info = reader.info();
        let (width, height) = (info.width as usize, info.height as usize);
        check_size(width, height, max_pixels)?;
        let (color, depth) = (info.color_type, info.bit_depth);
        match (color, depth, pixels) {
            (ColorType::Indexed, _, DensePixels::Classes) => {}
            (ColorType::Grayscale, BitDepth::Sixteen, DensePixels::Classes) => {
                bail!("16-bit grey levels; expected classes of at most 8 bits")
            }
            (ColorType::Grayscale, ..) => {}
            (_, _, DensePixels::Classes) => {
                bail!("{color:?} pixels; expected classes, as palette indices or grey levels")
            }
            (_, _, DensePixels::Depth) => bail!("{color:?} pixels; expected grey levels"),
        }
        let bits = depth as usize;
        let stride = (width * bits).div_ceil(8);
        self.rows.resize(stride * height, 0);
        reader.next_frame(&mut self.rows)?;
        (self.width, self.height, self.bits, self.stride) = (width, height, bits, stride);
        Ok(())
    }

    /// [`Self::decode`], for an image of this width and height.
    ///
    /// # Errors
    /// [`Self::decode`]'s, or the target has another size.
    pub fn decode_for(
        &mut self,
        image: (usize, usize),
        encoded: &[u8],
        pixels: DensePixels,
        max_pixels: u64,
    ) -> Result<()> {
        self.decode(encoded, pixels, max_pixels)?;
        let Self { width, height, .. } = *self;
        ensure!(
            (width, height) == image,
            "{width}×{height} pixels; expected the image's {}×{}",
            image.0,
            image.1
        );
        Ok(())
    }

    /// Fills `out` with the pixels that lie in these columns and rows: classes by `classes`,
    /// [`IGNORED_CLASS`] or depth 0 where there is none.
    ///
    /// # Errors
    /// `out` has another size, a column or row is not in the target, or a class is not known.
    pub fn pick(
        &self,
        [columns, rows]: [&Vec<Option<usize>>; 2],
        pixels: DensePixels,
        classes: Option<&ClassMap>,
        out: &mut [u8],
    ) -> Result<()> {
        let width = columns.len() * pixels.bytes();
        ensure!(
            out.len() == width * rows.len() && !out.is_empty(),
            "{} bytes do not hold {}×{} pixels",
            out.len(),
            columns.len(),
            rows.len()
        );
        let within =
            |places: &[Option<usize>], length| places.iter().flatten().all(|&at| at < length);
        ensure!(within(columns, self.width) && within(rows, self.height), "not in the target");
        for (row, out) in rows.iter().zip(out.chunks_exact_mut(width)) {
            let row = row.map(|row| &self.rows[row * self.stride..][..self.stride]);
            let value = |column: &Option<usize>| Some(self.value(row?, (*column)?));
            match pixels {
                DensePixels::Classes => {
                    for (to, column) in out.iter_mut().zip(columns) {
                        *to = match (value(column), classes) {
                            (None, _) => IGNORED_CLASS,
                            (Some(class), None) => class as u8,
                            (Some(class), Some(classes)) => classes.of(class)?,
                        };
                    }
                }
                DensePixels::Depth => {
                    for (to, column) in out.as_chunks_mut::<2>().0.iter_mut().zip(columns) {
                        *to = value(column).unwrap_or(0).to_ne_bytes();
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether any pixel is one that `is_wanted` takes.
    pub fn has_value(&self, is_wanted: impl Fn(u16) -> bool) -> bool {
        self.rows
            .chunks_exact(self.stride.max(1))
            .take(self.height)
            .any(|row| (0..self.width).any(|column| is_wanted(self.value(row, column))))
    }

    /// The classes that occur, as stored; and of how many bits a pixel is.
    pub fn census(&self) -> ([bool; 256], usize) {
        let mut found = [false; 256];
        for row in self.rows.chunks_exact(self.stride.max(1)).take(self.height) {
            (0..self.width).for_each(|column| {
                if let Some(found) = found.get_mut(usize::from(self.value(row, column))) {
                    *found = true;
                }
            });
        }
        (found, self.bits)
    }

    /// The pixel in `column` of `row`.
    fn value(&self, row: &[u8], column: usize) -> u16 {
        match self.bits {
            16 => u16::from_be_bytes([row[2 * column], row[2 * column + 1]]),
            8 => u16::from(row[column]),
            bits => {
                let at = column * bits;
                let mask = (1 << bits) - 1;
                u16::from(row[at / 8] >> (8 - bits - at % 8) & mask)
            }
        }
    }

    /// Bytes of memory held.
    pub fn held_bytes(&self) -> usize {
        self.rows.capacity()
    }
}
