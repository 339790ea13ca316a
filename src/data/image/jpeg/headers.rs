//! What a JPEG file says before its pixels: frame, tables and scan (ITU-T T.81, annex B).

use super::huffman::CodeList;

/// Zigzag index to place in a block of 8×8 coefficients, row by row.
pub(super) const ZIGZAG: [u8; 64] = zigzag();

/// A frame of 8-bit samples in one Huffman-coded scan, with the samplings that are read here.
#[derive(Debug, Clone)]
pub struct Frame {
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
    /// What the components mean; one of them or three.
    pub colour: Colour,
    /// Pixels each way for a decoded one: 1, 2, 4 or 8.
    pub reduction: usize,
    pub(super) components: Vec<Component>,
    /// MCUs between restart marks; 0 for none.
    pub(super) restart_interval: usize,
    /// Where the entropy-coded data begin.
    pub(super) data_start: usize,
    /// Quantisation steps of a component, in the order of [`Component`]s, row by row.
    pub(super) quantisation: Vec<[u16; 64]>,
    pub(super) dc_codes: Vec<CodeList>,
    pub(super) ac_codes: Vec<CodeList>,
}

/// What the samples of an image mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    Grey,
    Rgb,
    /// Luma and two chroma components as in JFIF (ITU-R BT.601, full range).
    YCbCr,
}

/// A component's blocks per MCU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Component {
    pub across: usize,
    pub down: usize,
}

/// Segments read so far.
#[derive(Default)]
struct Segments {
    quantisation: [Option<[u16; 64]>; 4],
    dc_codes: [Option<CodeList>; 4],
    ac_codes: [Option<CodeList>; 4],
    start_of_frame: Option<StartOfFrame>,
    restart_interval: usize,
    is_jfif: bool,
    adobe_transform: Option<u8>,
}

struct StartOfFrame {
    width: usize,
    height: usize,
    components: Vec<FrameComponent>,
}

struct FrameComponent {
    id: u8,
    across: usize,
    down: usize,
    quantisation: usize,
}

impl Frame {
    /// Reads up to the first scan. `None` for everything that is not read here (progressive,
    /// arithmetic or lossless coding, several scans, CMYK, rare samplings) and for damage.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut segments = Segments::default();
        let mut at = 2;
        loop {
            let &[mark, kind, high, low] = bytes.get(at..)?.first_chunk()?;
            if mark != 0xff {
                return None;
            }
            if kind == 0xff {
                at += 1; // a fill byte
                continue;
            }
            let length = usize::from(u16::from_be_bytes([high, low]));
            let body = bytes.get(at + 4..at + 2 + length)?;
            at += 2 + length;
            match kind {
                0xc0 | 0xc1 => segments.read_frame(body)?,
                0xc4 => segments.read_codes(body)?,
                0xda => return segments.start_scan(body, at),
                0xdb => segments.read_quantisation(body)?,
                0xdd => segments.restart_interval = usize::from(pair(body)?),
                0xe0 => segments.is_jfif |= body.starts_with(b"JFIF\0"),
                0xee if body.starts_with(b"Adobe") => {
                    segments.adobe_transform = body.get(11).copied();
                }
                0xe1..=0xef | 0xfe => {}
                _ => return None,
            }
        }
    }
}

impl Segments {
    fn read_frame(&mut self, body: &[u8]) -> Option<()> {
        let (&[precision, h1, h0, w1, w0, count], components) = body.split_first_chunk()?;
        let known = precision == 8 && self.start_of_frame.is_none();
        if !known || !matches!(count, 1 | 3) || components.len() != usize::from(count) * 3 {
            return None;
        }
        let component = |&[id, sampling, table]: &[u8; 3]| FrameComponent {
            id,
            across: usize::from(sampling >> 4),
            down: usize::from(sampling & 15),
            quantisation: usize::from(table),
        };
        let (width, height) = (u16::from_be_bytes([w1, w0]), u16::from_be_bytes([h1, h0]));
        self.start_of_frame = Some(StartOfFrame {
            width: usize::from(width),
            height: usize::from(height),
            components: components.as_chunks().0.iter().map(component).collect(),
        });
        Some(())
    }

    fn read_codes(&mut self, mut body: &[u8]) -> Option<()> {
        while let Some((&[place, ref counts @ ..], rest)) = body.split_first_chunk::<17>() {
            let total = counts.iter().map(|&count| usize::from(count)).sum();
            let (symbols, rest) = rest.split_at_checked(total)?;
            let codes = match place >> 4 {
                0 => &mut self.dc_codes,
                1 => &mut self.ac_codes,
                _ => return None,
            };
            *codes.get_mut(usize::from(place & 15))? = Some(CodeList::new(*counts, symbols)?);
            body = rest;
        }
        body.is_empty().then_some(())
    }

    fn read_quantisation(&mut self, mut body: &[u8]) -> Option<()> {
        while let Some((&place, rest)) = body.split_first() {
            let bytes = 1 + usize::from(place >> 4 != 0);
            let (steps, rest) = rest.split_at_checked(64 * bytes)?;
            let mut table = [0; 64];
            for (step, &to) in steps.chunks_exact(bytes).zip(&ZIGZAG) {
                let value = step.iter().fold(0, |value, &byte| value << 8 | u16::from(byte));
                table[usize::from(to)] = value;
            }
            *self.quantisation.get_mut(usize::from(place & 15))? = Some(table);
            body = rest;
        }
        Some(())
    }

    fn start_scan(self, body: &[u8], data_start: usize) -> Option<Frame> {
        let frame = self.start_of_frame.as_ref()?;
        let count = frame.components.len();
        let (&scan_count, rest) = body.split_first()?;
        let (scanned, &[from, to, _]) = rest.split_last_chunk()?;
        let whole = usize::from(scan_count) == count && scanned.len() == count * 2;
        if !whole || (from, to) != (0, 63) || frame.width * frame.height == 0 {
            return None;
        }
        let (mut quantisation, mut dc_codes, mut ac_codes) = (vec![], vec![], vec![]);
        for (component, &[id, tables]) in frame.components.iter().zip(scanned.as_chunks().0) {
            if id != component.id {
                return None;
            }
            quantisation.push((*self.quantisation.get(component.quantisation)?)?);
            dc_codes.push(self.dc_codes.get(usize::from(tables >> 4))?.clone()?);
            ac_codes.push(self.ac_codes.get(usize::from(tables & 15))?.clone()?);
        }
        let colour = self.colour(&frame.components);
        Some(Frame {
            width: frame.width,
            height: frame.height,
            reduction: 1,
            components: known_sampling(&frame.components, colour)?,
            colour,
            restart_interval: self.restart_interval,
            data_start,
            quantisation,
            dc_codes,
            ac_codes,
        })
    }

    /// As libjpeg decides it: JFIF means YCbCr, then what Adobe's segment says, then the
    /// components' names.
    fn colour(&self, components: &[FrameComponent]) -> Colour {
        let names: Vec<u8> = components.iter().map(|component| component.id).collect();
        match (&names[..], self.adobe_transform) {
            ([_], _) => Colour::Grey,
            (_, _) if self.is_jfif => Colour::YCbCr,
            (_, Some(0)) | (b"RGB", None) => Colour::Rgb,
            _ => Colour::YCbCr,
        }
    }
}

/// Blocks per MCU, if chroma has one and luma one or two each way. A single component has one
/// block, whatever its sampling says.
fn known_sampling(components: &[FrameComponent], colour: Colour) -> Option<Vec<Component>> {
    let [luma, chroma @ ..] = components else { return None };
    if chroma.is_empty() {
        return (1..=4).contains(&luma.across).then(|| vec![Component { across: 1, down: 1 }]);
    }
    let full = (1, 1);
    let known = chroma.iter().all(|c| (c.across, c.down) == full)
        && matches!((luma.across, luma.down), (1 | 2, 1 | 2))
        && (colour == Colour::YCbCr || (luma.across, luma.down) == full);
    let blocks = |c: &FrameComponent| Component { across: c.across, down: c.down };
    known.then(|| components.iter().map(blocks).collect())
}

fn pair(body: &[u8]) -> Option<u16> {
    body.first_chunk().map(|&bytes| u16::from_be_bytes(bytes))
}

const fn zigzag() -> [u8; 64] {
    let mut order = [0; 64];
    let (mut row, mut column) = (0, 0);
    let mut index = 0;
    while index < 64 {
        order[index] = (row * 8 + column) as u8;
        let rising = (row + column) % 2 == 0;
        match (rising, row, column) {
            (true, _, 7) | (false, 0..=6, 0) => row += 1,
            (true, 0, _) | (false, 7, _) => column += 1,
            (true, ..) => (row, column) = (row - 1, column + 1),
            (false, ..) => (row, column) = (row + 1, column - 1),
        }
        index += 1;
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_zigzag_visits_every_place_along_the_diagonals() {
        assert_eq!(ZIGZAG[..10], [0, 1, 8, 16, 9, 2, 3, 10, 17, 24]);
        assert_eq!(ZIGZAG[60..], [61, 54, 47, 55, 62, 63][2..]);
        let mut sorted = ZIGZAG;
        sorted.sort_unstable();
        assert!(sorted.iter().enumerate().all(|(place, &found)| place == usize::from(found)));
    }
}
