//! Random damage to tar files.

use std::io::{Read, Seek, SeekFrom};

use distill::data::format::index_shard;
use distill::data::labels::Wanted;
use proptest::prelude::*;

use super::tars::{names, repair_checksums, start};
use crate::support::shards::jpeg;

/// A reader that fails a test in which more is read than a few passes over the file, or from
/// behind its end.
struct Watched<'a> {
    bytes: &'a [u8],
    position: u64,
    /// Calls that are still allowed.
    budget: u64,
}

impl Watched<'_> {
    fn new(bytes: &[u8]) -> Watched<'_> {
        Watched { bytes, position: 0, budget: 100 + bytes.len() as u64 / 64 }
    }

    fn spend(&mut self) {
        self.budget = self.budget.checked_sub(1).expect("scanning goes round in circles");
        let length = self.bytes.len() as u64;
        assert!(self.position <= length, "byte {} of {length} is asked for", self.position);
    }
}

impl Read for Watched<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        self.spend();
        let read = (&self.bytes[self.position as usize..]).read(out)?;
        self.position += read as u64;
        Ok(read)
    }
}

impl Seek for Watched<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.position = match to {
            SeekFrom::Start(at) => at,
            SeekFrom::Current(distance) => {
                assert!(distance >= 0, "a shard far away is read in one pass");
                self.position.checked_add_signed(distance).unwrap()
            }
            SeekFrom::End(distance) => {
                (self.bytes.len() as u64).checked_add_signed(distance).unwrap()
            }
        };
        self.spend();
        Ok(self.position)
    }
}

/// A shard with a bit of everything.
fn sample_shard() -> Vec<u8> {
    start()
        .member(b'0', "first.cls", b"5")
        .pax(b"17 path=b/c.jpeg\n")
        .file("short.jpg")
        .member(b'L', "././@LongLink", &[b"n".repeat(150), b".png\0".to_vec()].concat())
        .member(b'0', "n", &[7; 9000])
        .member(b'S', "sparse.jpg", &[0; 600])
        .pax(b"22 GNU.sparse.major=1\n25 GNU.sparse.name=e.jpg\n")
        .file("GNUSparseFile.1/e.jpg")
        .member(b'0', "last.webp", &jpeg(1))
        .end()
}

/// What is done to a shard.
#[derive(Debug, Clone)]
struct Damage {
    flips: Vec<(usize, u8)>,
    /// Bytes that are copied: from where, to where, how many.
    splice: (usize, usize, usize),
    cut: usize,
    /// Whether headers get the right checksum again, so that damage gets past it.
    repaired: bool,
}

impl Damage {
    fn any() -> impl Strategy<Value = Self> {
        let length = sample_shard().len();
        let flips = prop::collection::vec((0..length, any::<u8>()), 0..12);
        let splice = (0..length, 0..length, 0..4000usize);
        let cut = prop_oneof![3 => Just(length), 1 => 0..length];
        let all = (flips, splice, cut, prop::bool::weighted(0.8));
        all.prop_map(|(flips, splice, cut, repaired)| Self { flips, splice, cut, repaired })
    }

    fn done(self) -> Vec<u8> {
        let mut shard = sample_shard();
        for (place, value) in self.flips {
            shard[place] ^= value;
        }
        let (from, to, count) = self.splice;
        let count = count.min(shard.len() - from.max(to));
        shard.copy_within(from..from + count, to);
        shard.truncate(self.cut);
        if self.repaired {
            repair_checksums(&mut shard);
        }
        shard
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// Whatever is flipped, cut or moved in a shard, indexing it ends soon, in an error or in
    /// rows that lie in the file.
    #[test]
    fn random_damage_never_leads_astray(damage in Damage::any()) {
        let shard = damage.done();
        let length = shard.len() as u64;
        if let Ok(index) = index_shard(&mut Watched::new(&shard), length, &Wanted::default(), &"random") {
            prop_assert!(index.rows() > 0);
            prop_assert!(index.offsets.is_sorted_by(|one, next| one < next));
            for row in 0..index.rows() {
                prop_assert!(index.offsets[row] + u64::from(index.sizes[row]) <= length);
                prop_assert!(!index.name(row).contains(char::is_control));
            }
        }
    }
}

/// The shard that random damage begins with is sound: otherwise nothing would be tested.
#[test]
fn the_shard_to_be_damaged_is_read() {
    let shard = sample_shard();
    let index =
        index_shard(&mut Watched::new(&shard), shard.len() as u64, &Wanted::default(), &"sound")
            .unwrap();
    let long = format!("{}.png", "n".repeat(150));
    assert_eq!(names(&index), ["first.jpg", "b/c.jpeg", &long, "last.webp"]);
}
