//! Whether a JPEG has all scans that its frame announces, which no decoder asks for (ITU-T T.81, B.2 and G.1.1.1).

use anyhow::{Result, ensure};

/// Marks of frames whose scans send coefficients bit by bit.
const PROGRESSIVE: [u8; 4] = [0xc2, 0xc6, 0xca, 0xce];
/// Marks of frames whose data are coded arithmetically.
const ARITHMETIC: [u8; 6] = [0xc9, 0xca, 0xcb, 0xcd, 0xce, 0xcf];
/// Marks between those of frames that are none.
const NO_FRAME: [u8; 3] = [0xc4, 0xc8, 0xcc];
const START_OF_IMAGE: u8 = 0xd8;
const START_OF_SCAN: u8 = 0xda;
const END_OF_IMAGE: u8 = 0xd9;

/// What was sent of a component.
struct Component {
    id: u8,
    /// Of each coefficient the lowest bit that was sent; none before the first.
    lowest_bits: [Option<u8>; 64],
}

/// Refuses a file that ends before its end mark, and one that lacks a scan: of a colour, or of a part of the
/// coefficients, of which the standard would have a progressive file send none, but no encoder does.
///
/// # Errors
/// What is missing.
pub(super) fn check_scans(bytes: &[u8]) -> Result<()> {
    let (mut components, mut is_progressive) = (Vec::new(), false);
    let mut has_end = false;
    for Segment { kind, body } in segments(bytes) {
        match kind {
            END_OF_IMAGE => has_end = true,
            START_OF_SCAN => note_scan(body, is_progressive, &mut components),
            _ if is_frame(kind) => {
                components = components_of(body);
                is_progressive = PROGRESSIVE.contains(&kind);
            }
            _ => {}
        }
    }
    ensure!(has_end, "truncated JPEG");
    let is_missing = |component: &&Component| component.lowest_bits == [None; 64];
    let missing = components.iter().filter(is_missing).count();
    ensure!(missing == 0, "JPEG: {missing} of its {} colours have no scan", components.len());
    let is_whole = |component: &Component| component.lowest_bits == [Some(0); 64];
    ensure!(components.iter().all(is_whole), "JPEG: some of its scans are missing");
    Ok(())
}

/// Whether its data are coded arithmetically: of such, no decoder can tell where they end early, since zeros at
/// their end are left out.
pub(crate) fn is_arithmetic(bytes: &[u8]) -> bool {
    if !bytes.starts_with(&[0xff, START_OF_IMAGE]) {
        return false;
    }
    let mut before = segments(bytes).take_while(|segment| segment.kind != START_OF_SCAN);
    before.any(|segment| ARITHMETIC.contains(&segment.kind))
}

struct Segment<'a> {
    kind: u8,
    body: &'a [u8],
}

fn is_frame(kind: u8) -> bool {
    (0xc0..=0xcf).contains(&kind) && !NO_FRAME.contains(&kind)
}

/// The segments up to the end mark. What lies between them is passed over, such as the data of a scan.
fn segments(bytes: &[u8]) -> impl Iterator<Item = Segment<'_>> {
    let mut at = 2;
    let mut is_over = false;
    std::iter::from_fn(move || {
        while !is_over {
            at += bytes.get(at..)?.iter().position(|&byte| byte == 0xff)?;
            let kind = *bytes.get(at + 1)?;
            match kind {
                0xff => at += 1,
                // Escapes and restart marks of a scan's data.
                0 | 1 | 0xd0..=0xd8 => at += 2,
                END_OF_IMAGE => {
                    is_over = true;
                    return Some(Segment { kind, body: &[] });
                }
                _ => {
                    let length = bytes.get(at + 2..)?.first_chunk().copied()?;
                    let end = at + 2 + usize::from(u16::from_be_bytes(length));
                    let body = bytes.get(at + 4..end)?;
                    at = end;
                    return Some(Segment { kind, body });
                }
            }
        }
        None
    })
}

fn components_of(frame: &[u8]) -> Vec<Component> {
    let components = frame.get(6..).unwrap_or_default().as_chunks::<3>().0;
    components.iter().map(|&[id, ..]| Component { id, lowest_bits: [None; 64] }).collect()
}

/// Notes what a scan sends.
fn note_scan(header: &[u8], is_progressive: bool, components: &mut [Component]) {
    let Some((&count, rest)) = header.split_first() else { return };
    let Some((ids, selection)) = rest.split_at_checked(2 * usize::from(count)) else { return };
    let (range, bits) = match *selection {
        [first, last, bits, ..] if is_progressive => (first..=last.min(63), bits),
        _ => (0..=63, 0),
    };
    // A scan refines the bits that the last one left, or is the first.
    let before = Some(bits >> 4);
    for [id, _] in ids.as_chunks().0 {
        for component in components.iter_mut().filter(|component| component.id == *id) {
            for place in range.clone() {
                let lowest = &mut component.lowest_bits[usize::from(place)];
                if before == Some(0) || *lowest == before {
                    *lowest = Some(bits & 15);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u16 + 2).to_be_bytes();
        [&[0xff, kind], &length[..], body].concat()
    }

    /// A file of two components with a frame of this `kind` and these scans: ids, first and last coefficient, bits.
    fn file(kind: u8, scans: &[(&[u8], [u8; 3])]) -> Vec<u8> {
        let frame = [8, 0, 8, 0, 8, 2, 1, 0x11, 0, 2, 0x11, 0];
        let scan = |(ids, selection): &(&[u8], [u8; 3])| {
            let each = ids.iter().flat_map(|&id| [id, 0]);
            let header = [ids.len() as u8].into_iter().chain(each).chain(*selection);
            [&segment(0xda, &header.collect::<Vec<_>>())[..], &[7, 0xff, 0, 0xff, 0xd3, 9]].concat()
        };
        let scans: Vec<u8> = scans.iter().flat_map(scan).collect();
        [
            &[0xff, 0xd8][..],
            &segment(0xe1, &[0xff, 0xd9]),
            &segment(kind, &frame),
            &scans,
            &[0xff, 0xd9],
        ]
        .concat()
    }

    fn said(bytes: &[u8]) -> String {
        check_scans(bytes).map_or_else(|error| error.to_string(), |()| "whole".into())
    }

    #[test]
    fn a_missing_scan_is_found() {
        const ALL: [u8; 3] = [0, 63, 0];
        for (scans, expected) in [
            (&[(&[1, 2][..], ALL)][..], "whole"),
            (&[(&[1], ALL), (&[2], ALL)], "whole"),
            (&[(&[1], ALL)], "JPEG: 1 of its 2 colours have no scan"),
            (&[], "JPEG: 2 of its 2 colours have no scan"),
        ] {
            assert_eq!(said(&file(0xc0, scans)), expected);
            assert_eq!(said(&file(0xc9, scans)), expected);
        }
        let progressive: &[(&[u8], [u8; 3])] = &[
            (&[1, 2], [0, 0, 0x01]),
            (&[1], [1, 63, 0x02]),
            (&[2], [1, 63, 0]),
            (&[1], [1, 63, 0x21]),
            (&[1, 2], [0, 0, 0x10]),
            (&[1], [1, 63, 0x10]),
        ];
        assert_eq!(said(&file(0xc2, progressive)), "whole");
        for missing in 0..progressive.len() {
            let rest = [&progressive[..missing], &progressive[missing + 1..]].concat();
            let said = said(&file(0xc2, &rest));
            assert!(
                said == "JPEG: some of its scans are missing",
                "without scan {missing}: {said}"
            );
        }
    }

    #[test]
    fn a_file_without_its_end_is_truncated() {
        let whole = file(0xc0, &[(&[1, 2], [0, 63, 0])]);
        for cut in 2..whole.len() {
            assert_eq!(said(&whole[..cut]), "truncated JPEG", "{cut} bytes");
        }
        assert!(is_arithmetic(&file(0xc9, &[])) && !is_arithmetic(&whole));
    }
}
