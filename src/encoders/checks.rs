//! Checks of an encoder's numbers that families share.

use super::family::EncoderSpec;
use crate::nn::{Activation, Biases};

/// The largest number that an encoder may have of anything: above any known one, and below what no machine holds.
const LARGEST: usize = 65_536;

/// # Errors
/// A number that must not be 0 is, or is beyond all reason: its key, and what is wrong.
pub(super) fn require_positive(spec: &EncoderSpec) -> Result<(), (&'static str, String)> {
    require_positive_numbers(spec)?;
    require_reasonable("class_tokens", spec.class_tokens)
}

/// [`require_positive`] of an encoder that may have no class tokens.
///
/// # Errors
/// Those of [`require_positive`].
pub(super) fn require_positive_numbers(spec: &EncoderSpec) -> Result<(), (&'static str, String)> {
    let EncoderSpec { dim, depth, heads, patch_size, mlp_ratio, mlp_width, .. } = *spec;
    let numbers = [
        ("dim", dim),
        ("depth", depth),
        ("heads", heads),
        ("patch_size", patch_size),
        ("mlp_ratio", mlp_ratio),
        ("mlp_width", mlp_width.max(1)),
    ];
    numbers.into_iter().try_for_each(|(key, value)| require_reasonable(key, value))
}

fn require_reasonable(key: &'static str, value: usize) -> Result<(), (&'static str, String)> {
    match value {
        0 => Err((key, "found 0, expected at least 1".into())),
        1..=LARGEST => Ok(()),
        _ => Err((key, format!("found {value}, expected at most {LARGEST}"))),
    }
}

/// # Errors
/// There is another number of class tokens, or what no encoder of a plain block has: registers, a gate, positions
/// that are rotary.
pub(super) fn require_plain(
    spec: &EncoderSpec,
    class_tokens: usize,
) -> Result<(), (&'static str, String)> {
    require_divisor(spec)?;
    require_no_rotation(spec)?;
    let EncoderSpec { registers, gated, .. } = *spec;
    if spec.class_tokens != class_tokens {
        let found = spec.class_tokens;
        return Err(("class_tokens", format!("found {found}, expected {class_tokens}")));
    }
    if registers > 0 {
        return Err(("registers", format!("found {registers}, expected 0")));
    }
    match gated {
        true => Err(("gated", "found true, expected false".into())),
        false => Ok(()),
    }
}

/// # Errors
/// The MLP's hidden layer is no multiple of the width, or another function than GELU stands behind it.
pub(super) fn require_whole_gelu(spec: &EncoderSpec) -> Result<(), (&'static str, String)> {
    let EncoderSpec { mlp_width, activation, .. } = *spec;
    if mlp_width > 0 {
        return Err(("mlp_width", format!("found {mlp_width}, expected a whole mlp_ratio")));
    }
    match activation {
        Activation::Gelu => Ok(()),
        other => Err(("activation", format!("found \"{}\", expected \"gelu\"", other.name()))),
    }
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
/// Products are without a bias, and not just those of queries, keys and values.
pub(super) fn require_all_or_no_qkv_biases(
    spec: &EncoderSpec,
) -> Result<(), (&'static str, String)> {
    match [Biases::ALL, Biases::WITHOUT_QKV].contains(&spec.biases) {
        true => Ok(()),
        false => Err(("biases", "found others, expected all, or [\"proj\", \"mlp\"]".into())),
    }
}

/// # Errors
/// Positions are rotary.
pub(super) fn require_no_rotation(spec: &EncoderSpec) -> Result<(), (&'static str, String)> {
    match spec.rope_theta {
        0 => Ok(()),
        theta => Err(("rope_theta", format!("found {theta}, expected 0, or `dinov3_vit`"))),
    }
}
