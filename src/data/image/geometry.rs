//! How the pixels of a sample lie in those of its image: the same for every field of the sample.

use super::crop::CropBox;

/// What is cut of an image and resized: `crop`, resized to `size`, and of that `part`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// In pixels of the image.
    pub crop: CropBox,
    /// Height and width that the crop is resized to.
    pub size: [usize; 2],
    /// In pixels of the resized crop.
    pub part: CropBox,
}

/// One dimension of a geometry.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// First pixel of the crop, and how many it has.
    start: usize,
    length: usize,
    /// How many these are resized to.
    to: usize,
    /// First pixel of the part, and how many it has.
    first: usize,
    count: usize,
}

impl Geometry {
    /// Across.
    pub fn columns(&self) -> Line {
        let Self { crop, size: [_, to], part } = *self;
        let (start, length) = (crop.left, crop.width);
        Line { start, length, to, first: part.left, count: part.width }
    }

    /// Down.
    pub fn rows(&self) -> Line {
        let Self { crop, size: [to, _], part } = *self;
        let (start, length) = (crop.top, crop.height);
        Line { start, length, to, first: part.top, count: part.height }
    }
}

impl Line {
    /// How many pixels come out.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Behind the last pixel of the image that may be needed.
    pub fn end_source(&self) -> usize {
        self.start + self.length
    }

    /// For each pixel that comes out, the one of the image that its middle lies in.
    pub fn nearest(self) -> impl Iterator<Item = usize> {
        let Self { start, length, to, first, count } = self;
        (first..first + count).map(move |place| start + (2 * place + 1) * length / (2 * to))
    }
}
