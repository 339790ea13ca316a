//! A JPEG decoder that decodes only what a crop needs.
//!
//! For the usual kind: 8 bits, Huffman codes, one scan. [`headers`] reads what comes before the
//! pixels and turns everything else down; [`scan`] walks through the entropy-coded data until the
//! last block that is wanted, with the tables of [`huffman`], and reads over those around the
//! crop; [`inverse_dct`] turns coefficients into samples. Those stay in their components, chroma at
//! its own size: resizing does the rest.

mod bits;
mod headers;
mod huffman;
mod inverse_dct;
mod scan;
#[cfg(test)]
mod tests;

use std::ops::Range;

use anyhow::{Result, anyhow};

use crate::image::crop::CropBox;
use crate::image::strips::{LINES, Strips};
pub use headers::{Colour, Frame};
use huffman::{AcTable, CodeList, DcTable};
pub use scan::TakeStrip;
use scan::{Region, Scan, ScannedComponent, decode_scan, stored_steps};

/// Decodes crops; holds tables and memory for the next image.
#[derive(Debug, Default)]
pub struct JpegDecoder {
    dc_tables: Vec<DcTable>,
    ac_tables: Vec<AcTable>,
    /// Of each component, the samples of the last region.
    pub samples: [Strips; 3],
}

/// How a crop lies in the stored samples of a component, along one dimension. All pixels are
/// decoded ones, of which there are fewer than the image's where it is reduced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Pixels for each sample: 1 or 2.
    pub pixels: usize,
    /// Samples of the image.
    pub count: usize,
    /// The first stored sample.
    pub first: usize,
}

/// Tables that are kept from image to image: most images of a data set have the same.
const KEPT_TABLES: usize = 6;

impl JpegDecoder {
    /// Decodes the samples for `crop`, which lies in the image, into [`Self::samples`]. Their
    /// lines are rows or columns of the image. `bytes` are those `frame` was read from.
    ///
    /// # Errors
    /// The entropy-coded data are damaged, or end too early.
    pub fn decode(
        &mut self,
        frame: &Frame,
        bytes: &[u8],
        crop: CropBox,
        lines_are_columns: bool,
    ) -> Result<()> {
        self.scan(frame, bytes, crop, lines_are_columns, None)
    }

    /// The same with rows for lines, strip by strip: each is given to `take` while it is still in
    /// the processor's cache, and then overwritten.
    pub fn decode_strips(
        &mut self,
        frame: &Frame,
        bytes: &[u8],
        crop: CropBox,
        take: TakeStrip<'_>,
    ) -> Result<()> {
        self.scan(frame, bytes, crop, false, Some(take))
    }

    fn scan(
        &mut self,
        frame: &Frame,
        bytes: &[u8],
        crop: CropBox,
        lines_are_columns: bool,
        take: Option<TakeStrip<'_>>,
    ) -> Result<()> {
        let dc = find_tables(&mut self.dc_tables, &frame.dc_codes, DcTable::is_of, DcTable::new);
        let ac = find_tables(&mut self.ac_tables, &frame.ac_codes, AcTable::is_of, AcTable::new);
        let mut components = Vec::with_capacity(3);
        for (index, samples) in self.samples.iter_mut().enumerate().take(dc.len()) {
            let region = region(frame, index, crop);
            let side = 8 / frame.reduction;
            let (across, down) = (region.columns.len() * side, region.rows.len() * side);
            let (lines, length) = if lines_are_columns { (across, down) } else { (down, across) };
            samples.set_size(if take.is_some() { 2 * LINES } else { lines }, length);
            components.push(ScannedComponent {
                blocks: frame.components[index],
                region,
                dc: &self.dc_tables[dc[index]],
                ac: &self.ac_tables[ac[index]],
                steps: stored_steps(&frame.quantisation[index], lines_are_columns),
                samples,
            });
        }
        let mut scan = Scan {
            components,
            restart_interval: frame.restart_interval,
            columns: frame.width.div_ceil(frame.components[0].across * 8),
            data: bytes.get(frame.data_start..).unwrap_or_default(),
            lines_are_columns,
            block_side: 8 / frame.reduction,
        };
        decode_scan(&mut scan, take).map_err(|_| anyhow!("JPEG: damaged or truncated data"))
    }

    /// Bytes of memory held for samples.
    pub fn held_bytes(&self) -> usize {
        self.samples.iter().map(Strips::held_bytes).sum()
    }
}

impl Frame {
    /// Components with samples.
    pub fn component_count(&self) -> usize {
        self.components.len()
    }

    /// Rows of a component's samples that are decoded for `crop`.
    pub fn sample_rows(&self, component: usize, crop: CropBox) -> usize {
        region(self, component, crop).rows.len() * (8 / self.reduction)
    }

    /// How `crop` lies in the stored samples of a component: across and down.
    pub fn extents(&self, component: usize, crop: CropBox) -> [Extent; 2] {
        let region = region(self, component, crop);
        let (luma, own) = (self.components[0], self.components[component]);
        let extent = |pixels: usize, length: usize, blocks: Range<usize>| Extent {
            pixels,
            count: length.div_ceil(self.reduction).div_ceil(pixels),
            first: blocks.start * 8 / self.reduction,
        };
        [
            extent(luma.across / own.across, self.width, region.columns),
            extent(luma.down / own.down, self.height, region.rows),
        ]
    }
}

/// The blocks that hold `crop`, and its neighbours where they count for it.
fn region(frame: &Frame, component: usize, crop: CropBox) -> Region {
    let (luma, own) = (frame.components[0], frame.components[component]);
    let side = 8 / frame.reduction;
    let blocks = |start: usize, length: usize, whole: usize, pixels: usize| {
        let whole = whole.div_ceil(frame.reduction);
        let end = (start + length).div_ceil(frame.reduction);
        let start = start / frame.reduction;
        let (first, last) = match pixels {
            1 => (start, end - 1),
            // Between two samples, a pixel takes from both (see the weights of resizing).
            _ => (start.saturating_sub(1) / 2, (end / 2).min(whole.div_ceil(2) - 1)),
        };
        first / side..last / side + 1
    };
    Region {
        columns: blocks(crop.left, crop.width, frame.width, luma.across / own.across),
        rows: blocks(crop.top, crop.height, frame.height, luma.down / own.down),
    }
}

/// Where in `tables` the one of each of `lists` is, built where it is not there.
fn find_tables<T>(
    tables: &mut Vec<T>,
    lists: &[CodeList],
    is_of: fn(&T, &CodeList) -> bool,
    build: fn(&CodeList) -> T,
) -> Vec<usize> {
    if tables.len() + lists.len() > KEPT_TABLES + 3 {
        tables.clear();
    }
    let mut find = |list| {
        tables.iter().position(|table| is_of(table, list)).unwrap_or_else(|| {
            tables.push(build(list));
            tables.len() - 1
        })
    };
    lists.iter().map(&mut find).collect()
}
