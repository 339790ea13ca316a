//! A few bytes of images that tell a shard from one that is written anew with the same sizes.

/// Images from the first on that are looked into, and how many images have one of those behind them.
const FIRST: u64 = 8;
const ONE_OF: u64 = 64;

/// Bytes that are taken of an image: from its middle, as all begin alike.
pub const BYTES: u64 = 64;

/// Whether the image of this number is looked into.
pub fn is_looked_into(number: u64) -> bool {
    number < FIRST || number.is_multiple_of(ONE_OF)
}

/// Where the bytes of an image of `size` bytes lie that are taken: the first one's place, and how many.
pub fn middle(size: u64) -> (u64, u64) {
    let count = size.min(BYTES);
    ((size - count) / 2, count)
}
