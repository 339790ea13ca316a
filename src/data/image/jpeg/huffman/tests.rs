use proptest::prelude::*;

use super::*;

/// Codes of all lengths for symbols in a random order, with the end of block among the short
/// or the long ones.
fn lists() -> impl Strategy<Value = CodeList> {
    let symbols: Vec<u8> = (0..=255)
        .filter(|symbol| symbol & 15 < 11 && (symbol & 15 > 0 || symbol % 240 == 0))
        .collect();
    (Just(symbols).prop_shuffle(), proptest::collection::vec(0..4_u8, LONGEST_CODE)).prop_map(
        |(symbols, weights)| {
            let (mut counts, mut used, mut room) = ([0; LONGEST_CODE], 0, 1_usize);
            for (count, &weight) in counts.iter_mut().zip(&weights) {
                room *= 2;
                *count = usize::from(weight).min(room - 1).min(symbols.len() - used) as u8;
                used += usize::from(*count);
                room -= usize::from(*count);
            }
            let rest = room.saturating_sub(1).min(symbols.len() - used).min(200);
            counts[LONGEST_CODE - 1] += rest as u8;
            used += rest;
            CodeList::new(counts, &symbols[..used.max(1)]).unwrap()
        },
    )
}

/// Bits as an encoder writes them, with a zero byte after each 0xFF.
#[derive(Default)]
struct BitWriter(Vec<bool>);

impl BitWriter {
    fn write(&mut self, value: u32, length: u32) {
        self.0.extend((0..length).rev().map(|bit| value >> bit & 1 == 1));
    }

    fn write_symbol(&mut self, list: &CodeList, symbol: u8) {
        let (mut code, mut index) = (0, 0);
        for (length, &count) in (1..).zip(&list.counts) {
            for &own in &list.symbols[index..index + usize::from(count)] {
                if own == symbol {
                    return self.write(code, length);
                }
                code += 1;
            }
            index += usize::from(count);
            code <<= 1;
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let byte = |bits: &[bool]| {
            (0..8).fold(0, |byte, bit| byte << 1 | u8::from(*bits.get(bit).unwrap_or(&true)))
        };
        let stuffed = |byte| if byte == 0xff { vec![0xff, 0] } else { vec![byte] };
        self.0.chunks(8).map(byte).flat_map(stuffed).collect()
    }
}

proptest! {
    /// Blocks come out as they went in, whatever the codes, and reading over them ends at the
    /// same place.
    #[test]
    fn blocks_are_read_as_written(
        list in lists(),
        choices in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u16>()), 1..400),
    ) {
        let order: Order = std::array::from_fn(|place| place.min(64) as u8);
        let (mut writer, mut blocks) = (BitWriter::default(), Vec::new());
        let (mut block, mut place) = ([0_i16; 64], 1);
        for (choice, magnitude) in choices {
            let symbol = *choice.get(&list.symbols);
            let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
            if symbol != 0 && place + run > 63 {
                continue;
            }
            writer.write_symbol(&list, symbol);
            if size > 0 {
                let bits = u32::from(magnitude) & ((1 << size) - 1);
                writer.write(bits, size);
                let value = if bits >> (size - 1) == 1 { bits as i32 } else { bits as i32 - (1 << size) + 1 };
                block[place + run] = value as i16;
            }
            place += run + 1;
            if symbol == 0 || place == 64 {
                blocks.push(block);
                (block, place) = ([0; 64], 1);
            }
        }
        let bytes = writer.bytes();
        let table = AcTable::new(&list);
        let (mut reader, mut skipper) = (BitReader::new(&bytes), BitReader::new(&bytes));
        for block in blocks {
            let mut found: Coefficients = [0; 128];
            reader.refill();
            prop_assert!(table.read(&mut reader, &order, &mut found).is_ok());
            prop_assert_eq!(&found[..64], &block[..]);
            skipper.refill();
            prop_assert!(table.skip(&mut skipper).is_ok());
            skipper.refill();
            reader.refill();
            prop_assert_eq!(reader.window() >> 8, skipper.window() >> 8);
        }
        prop_assert!(!reader.is_overrun());
    }
}
