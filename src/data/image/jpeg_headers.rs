//! JPEG files as other programs write them, before a decoder sees them (ITU-T T.81, annex B).

use std::borrow::Cow;

const START_OF_SCAN: u8 = 0xda;

/// The file as libjpeg takes it without a warning: without what lies between the segments before the pixels, and
/// with versions that it knows.
pub(super) fn prepared(bytes: &[u8]) -> Cow<'_, [u8]> {
    let mut at = 2;
    // Segments, without what lies between them.
    let mut kept: Vec<(usize, usize)> = vec![(0, 2)];
    let mut has_stray = false;
    let mut odd_versions = Vec::new();
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
        if kind == START_OF_SCAN {
            kept.push((at, bytes.len()));
            break;
        }
        if kind == 0xe0 && body.starts_with(b"JFIF\0") && body.get(5).is_some_and(|&v| v != 1) {
            odd_versions.push(at + 9);
        }
        // Adobe's colours are 0, 1 and 2; libjpeg takes others for 1.
        if kind == 0xee && body.starts_with(b"Adobe") && body.get(11).is_some_and(|&c| c > 2) {
            odd_versions.push(at + 15);
        }
        kept.push((at, at + 2 + length));
        at += 2 + length;
    }
    let is_complete = kept.last().is_some_and(|&(_, end)| end == bytes.len());
    let mut bytes = Cow::Borrowed(bytes);
    for at in odd_versions {
        bytes.to_mut()[at] = 1;
    }
    if has_stray && is_complete {
        let parts = kept.into_iter().flat_map(|(from, to)| &bytes[from..to]);
        bytes = Cow::Owned(parts.copied().collect());
    }
    bytes
}

/// Whether an end mark follows the first scan. Marks inside a scan's data are escaped, and
/// embedded previews lie in segments before it.
pub(super) fn has_end_of_image(bytes: &[u8]) -> bool {
    const END: &[u8] = &[0xff, 0xd9];
    let mut at = 2;
    while let Some(&[mark, kind, high, low]) = bytes.get(at..at + 4) {
        if mark != 0xff {
            return false;
        }
        if kind == 0xff {
            at += 1; // a fill byte
            continue;
        }
        if kind == START_OF_SCAN {
            return bytes.ends_with(END) || bytes[at..].windows(2).any(|pair| pair == END);
        }
        at += 2 + usize::from(u16::from_be_bytes([high, low]));
    }
    false
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

    /// Bytes between segments are left out, and without any a file is as it was.
    #[test]
    fn stray_bytes_are_left_out() {
        let plain = file(0xc0, [0x22, 0x11, 0x11], 3, &[]);
        assert!(matches!(prepared(&plain), Cow::Borrowed(_)));
        for stray in [&[0_u8][..], &[0x55, 0], &[0xff, 0]] {
            let bytes = file(0xc0, [0x22, 0x11, 0x11], 3, stray);
            assert_eq!(prepared(&bytes), plain, "{stray:x?}");
        }
        for cut in 0..plain.len() {
            let _ = prepared(&plain[..cut]);
        }
    }
}
