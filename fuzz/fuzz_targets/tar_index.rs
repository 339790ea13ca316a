//! Whatever bytes a shard has, indexing it ends in an error or in an index whose rows lie in it.

#![no_main]

use std::io::Cursor;

use distill_data::format::index_shard;
use distill_data::labels::Wanted;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|shard: &[u8]| {
    check(shard);
    check(&with_checksums(shard));
});

/// `shard` with the right checksum in whatever may be a header: nearly no mutation would get past
/// the checksums otherwise.
fn with_checksums(shard: &[u8]) -> Vec<u8> {
    let mut repaired = shard.to_vec();
    for block in repaired.as_chunks_mut::<512>().0 {
        let mut header = tar::Header::new_old();
        header.as_mut_bytes().copy_from_slice(block);
        if header.as_ustar().is_some() || header.as_gnu().is_some() {
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
    }
    repaired
}

fn check(shard: &[u8]) {
    let length = shard.len() as u64;
    let fields = ["png".to_string(), "mask.webp".to_string()];
    let wanted = Wanted { fields: fields.to_vec(), ..Wanted::default() };
    let Ok(index) = index_shard(&mut Cursor::new(shard), length, &wanted, &"fuzz") else { return };
    assert!(index.rows() > 0, "an index without an image is an error");
    assert_eq!(index.rows(), index.sizes.len());
    assert_eq!(index.rows(), index.labels.len());
    assert!(index.offsets.is_sorted_by(|one, next| one < next), "offsets ascend");
    for row in 0..index.rows() {
        let end = index.offsets[row] + u64::from(index.sizes[row]);
        assert!(end <= length, "row {row} ends at byte {end} of {length}");
        for field in &index.fields {
            assert!(field.range(row).end <= length, "a field of row {row} lies in the shard");
        }
        let name = index.name(row);
        assert!(!name.is_empty() && !name.contains(char::is_control), "row {row}: {name:?}");
        assert_eq!(index.row_at(index.offsets[row]), Some(row));
    }
}
