//! What every client of a server has: its cryptography, and how long a request may take.

use std::sync::OnceLock;

/// A whole request may take this many times as long as silence may last: a server that sends a
/// byte now and then must not hold a run up.
pub(super) const REQUEST_PATIENCES: u32 = 10;

/// rustls wants to be told once a process which implementation it uses.
pub(super) fn choose_cryptography() {
    static CHOSEN: OnceLock<()> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        // An error means that somebody else chose one already, which is as good.
        _ = rustls::crypto::ring::default_provider().install_default();
    });
}
