//! The state of a data set, for what depends on more than its order.

use super::Dataset;
use crate::source::Stamp;

impl Dataset {
    /// A checksum of what is read: the samples, and the states that their shards or files were in. Unlike
    /// [`Self::fingerprint`], it changes with whatever is written to them.
    pub fn state(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.fingerprint().as_bytes());
        for entry in self.shards.iter() {
            let Stamp { size, version } = entry.stamp;
            hasher.update(&size.to_le_bytes());
            hasher.update(&version.to_le_bytes());
        }
        hasher.finalize().to_hex()[..32].to_string()
    }
}
