//! A decoded image.

use anyhow::{Result, ensure};

/// A decoded image, 8-bit RGB, rows from the top. Its memory is reused by the next decoding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
    /// `[height, width, 3]`.
    pub pixels: Vec<u8>,
}

/// # Errors
/// An image of this size has no pixels, or more than `data.max_pixels`.
pub(super) fn check_size(width: usize, height: usize, max_pixels: u64) -> Result<()> {
    ensure!(width > 0 && height > 0, "{width}×{height} pixels: nothing to see");
    ensure!(
        width as u64 * height as u64 <= max_pixels,
        "{width}×{height} pixels are more than data.max_pixels = {max_pixels}"
    );
    Ok(())
}
