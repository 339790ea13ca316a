//! Checks of an encoder's numbers that families share.

use super::family::EncoderSpec;
use crate::nn::Biases;

/// The largest number that an encoder may have of anything: above any known one, and below what no machine holds.
const LARGEST: usize = 65_536;

/// # Errors
/// A number that must not be 0 is, or is beyond all reason: its key, and what is wrong.
pub(super) fn require_positive(spec: &EncoderSpec) -> Result<(), (&'static str, String)> {
    let EncoderSpec { dim, depth, heads, patch_size, class_tokens, mlp_ratio, .. } = *spec;
    for (key, value) in [
        ("dim", dim),
        ("depth", depth),
        ("heads", heads),
        ("patch_size", patch_size),
        ("class_tokens", class_tokens),
        ("mlp_ratio", mlp_ratio),
    ] {
        if value == 0 {
            return Err((key, "found 0, expected at least 1".into()));
        }
        if value > LARGEST {
            return Err((key, format!("found {value}, expected at most {LARGEST}")));
        }
    }
    Ok(())
}

/// # Errors
/// The heads do not divide the width.
pub(super) fn require_divisor(spec: &EncoderSpec) -> Result<(), (&'static str, String)> {
    let EncoderSpec { dim, heads, .. } = *spec;
    match dim.is_multiple_of(heads) {
        true => Ok(()),
        false => Err(("heads", format!("found {heads}, expected a divisor of the width {dim}"))),
    }
}

/// # Errors
/// Products are without a bias, or positions are rotary.
pub(super) fn require_all_biases(spec: &EncoderSpec) -> Result<(), (&'static str, String)> {
    if spec.biases != Biases::ALL {
        return Err(("biases", "found less than all, expected all".into()));
    }
    require_no_rotation(spec)
}

/// # Errors
/// Positions are rotary.
pub(super) fn require_no_rotation(spec: &EncoderSpec) -> Result<(), (&'static str, String)> {
    match spec.rope_theta {
        0 => Ok(()),
        theta => Err(("rope_theta", format!("found {theta}, expected 0, or `dinov3_vit`"))),
    }
}
