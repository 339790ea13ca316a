//! JPEG files as other programs write them, before a decoder sees them: bytes between segments are left out, and
//! what the decoder would read wrongly is refused (ITU-T T.81, annex B).

use std::borrow::Cow;

use anyhow::{Result, bail, ensure};

const START_OF_SCAN: u8 = 0xda;

/// The file as the decoder reads it right.
///
/// # Errors
/// It would not: arithmetic coding, scans of single components in a frame that is not progressive, chroma with more
/// samples than luma.
pub(super) fn prepared(bytes: &[u8]) -> Result<Cow<'_, [u8]>> {
    let mut at = 2;
    let mut frame: Option<Frame> = None;
    // Segments, without what lies between them.
    let mut kept: Vec<(usize, usize)> = vec![(0, 2)];
    let mut has_stray = false;
    while let Some(&[mark, kind, high, low]) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        if mark != 0xff || kind == 0 {
            // As libjpeg does: on to the next mark.
            has_stray = true;
            at += 1;
            continue;
        }
        if kind == 0xff {
            at += 1; // a fill byte
            continue;
        }
        let length = usize::from(u16::from_be_bytes([high, low]));
        let Some(body) = bytes.get(at + 4..at + 2 + length) else { break };
        match kind {
            0xc9..=0xcb | 0xcd..=0xcf => bail!("JPEG: arithmetic coding is not read"),
            0xc0..=0xc3 | 0xc5..=0xc7 => frame = Frame::read(kind, body),
            START_OF_SCAN => {
                if let Some(frame) = &frame {
                    frame.check(body)?;
                }
                kept.push((at, bytes.len()));
                break;
            }
            _ => {}
        }
        kept.push((at, at + 2 + length));
        at += 2 + length;
    }
    let is_complete = kept.last().is_some_and(|&(_, end)| end == bytes.len());
    Ok(match has_stray && is_complete {
        true => kept.into_iter().flat_map(|(from, to)| &bytes[from..to]).copied().collect(),
        false => Cow::Borrowed(bytes),
    })
}

/// What a frame's header says.
struct Frame {
    is_progressive: bool,
    /// Samples across and down of each component.
    sampling: Vec<[u8; 2]>,
}

impl Frame {
    fn read(kind: u8, body: &[u8]) -> Option<Self> {
        let components = body.get(6..)?.as_chunks::<3>().0;
        let sampling = components.iter().map(|&[_, both, _]| [both >> 4, both & 15]).collect();
        Some(Self { is_progressive: kind == 0xc2, sampling })
    }

    /// Whether the decoder reads such a frame right, whose first scan has this header.
    fn check(&self, scan: &[u8]) -> Result<()> {
        let scanned = usize::from(scan.first().copied().unwrap_or_default());
        ensure!(
            self.is_progressive || scanned >= self.sampling.len(),
            "JPEG: its first scan has {scanned} of {} components, which is not read",
            self.sampling.len()
        );
        let [luma, chroma @ ..] = &self.sampling[..] else { return Ok(()) };
        let is_finer = |own: &[u8; 2]| own[0] > luma[0] || own[1] > luma[1];
        ensure!(
            !chroma.iter().any(is_finer),
            "JPEG: a colour has more samples than brightness, which is not read"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u16 + 2).to_be_bytes();
        [&[0xff, kind], &length[..], body].concat()
    }

    /// A file of a frame of three components with these samplings and a scan of so many of them, with bytes between
    /// its segments.
    fn file(kind: u8, sampling: [u8; 3], scanned: u8, stray: &[u8]) -> Vec<u8> {
        let [a, b, c] = sampling;
        let frame = segment(kind, &[8, 0, 8, 0, 8, 3, 1, a, 0, 2, b, 1, 3, c, 1]);
        let scan = segment(0xda, &[&[scanned][..], &[1; 5]].concat());
        [&[0xff, 0xd8][..], &segment(0xdb, &[0; 65]), stray, &frame, stray, &scan, &[7, 0xff, 0xd9]]
            .concat()
    }

    /// What is read wrongly is refused with its reason, and nothing else is.
    #[test]
    fn what_would_be_wrong_is_refused() {
        let outcome = |kind, sampling, scanned| {
            let bytes = file(kind, sampling, scanned, &[]);
            prepared(&bytes).map(|found| found.len()).map_err(|error| error.to_string())
        };
        for sampling in [[0x11; 3], [0x21, 0x11, 0x11], [0x22, 0x11, 0x11], [0x22, 0x21, 0x12]] {
            assert!(outcome(0xc0, sampling, 3).is_ok(), "{sampling:x?}");
            assert!(outcome(0xc2, sampling, 1).is_ok(), "{sampling:x?}");
            assert!(outcome(0xc0, sampling, 1).unwrap_err().contains("1 of 3 components"));
            assert!(outcome(0xc9, sampling, 3).unwrap_err().contains("arithmetic"));
        }
        for sampling in [[0x11, 0x21, 0x11], [0x11, 0x11, 0x22], [0x21, 0x11, 0x12]] {
            assert!(outcome(0xc0, sampling, 3).unwrap_err().contains("more samples"));
        }
    }

    /// Bytes between segments are left out, and without any a file is as it was.
    #[test]
    fn stray_bytes_are_left_out() {
        let plain = file(0xc0, [0x22, 0x11, 0x11], 3, &[]);
        assert!(matches!(prepared(&plain).unwrap(), Cow::Borrowed(_)));
        for stray in [&[0_u8][..], &[0x55, 0], &[0xff, 0]] {
            let bytes = file(0xc0, [0x22, 0x11, 0x11], 3, stray);
            assert_eq!(prepared(&bytes).unwrap(), plain, "{stray:x?}");
        }
        for cut in 0..plain.len() {
            let _ = prepared(&plain[..cut]);
        }
    }
}
