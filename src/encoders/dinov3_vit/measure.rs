//! What the shapes of stored weights tell of their encoder.

use anyhow::{Result, bail, ensure};
use tch::Kind;

use super::spec::{IMAGE_SIZE, ROPE_THETA, spec};
use crate::encoders::family::{EncoderSpec, StoredEncoder};
use crate::encoders::measuring::shape;
use crate::nn::Biases;
use crate::weights::WeightFile;

/// The numbers of the encoder in `file`; heads, which no shape tells, are left 0.
///
/// # Errors
/// A tensor is missing, or is of no such encoder.
pub(super) fn measure(file: &WeightFile) -> Result<StoredEncoder> {
    let shape = |name: &str| shape(file, name);
    let [1, 1, dim] = shape("cls_token")?[..] else { bail!("cls_token is not [1, 1, width]") };
    let [_, 3, patch_size, _] = shape("patch_embed.proj.weight")?[..] else {
        bail!("patch_embed.proj.weight is not [width, 3, patch, patch]")
    };
    let has = |name: &str| file.shape(&format!("blocks.0.{name}")).is_some();
    let gated = has("mlp.w12.weight");
    let last = if gated { "mlp.w3" } else { "mlp.fc2" };
    let hidden = shape(&format!("blocks.0.{last}.weight"))?.get(1).copied().unwrap_or(0);
    ensure!(
        dim > 0 && hidden.is_multiple_of(dim),
        "the MLP's hidden width {hidden} is no multiple of {dim}"
    );
    let is_there = |block: &usize| file.shape(&format!("blocks.{block}.ls1.gamma")).is_some();
    require_periods(file)?;
    let spec = EncoderSpec {
        patch_size,
        registers: shape("register_tokens")?.get(1).copied().unwrap_or(0),
        mlp_ratio: hidden / dim,
        gated,
        biases: Biases {
            query: has("attn.q_bias"),
            key: has("attn.k_bias"),
            value: has("attn.v_bias"),
            proj: has("attn.proj.bias"),
            mlp: has(&format!("{last}.bias")),
        },
        ..spec(dim, (0..).take_while(is_there).count(), 0)
    };
    // No tensor counts patches.
    let patches = (IMAGE_SIZE / patch_size.max(1)).max(1);
    Ok(StoredEncoder { spec, image_size: patches * patch_size })
}

/// How far the periods of an original checkpoint may be off, some of which are stored in bf16.
const PERIOD_TOLERANCE: f64 = 0.02;

/// # Errors
/// An original checkpoint holds the periods of rotary positions, and they follow from another theta.
fn require_periods(file: &WeightFile) -> Result<()> {
    const NAME: &str = "rope_embed.periods";
    let shape = file.shape(NAME).unwrap_or_default();
    let [count @ 2..=i64::MAX] = shape[..] else { return Ok(()) };
    let last = file.read(NAME)?.get(count - 1).to_kind(Kind::Double).double_value(&[]);
    let expected = (ROPE_THETA as f64).powf(1.0 - 1.0 / count as f64);
    ensure!(
        (last / expected - 1.0).abs() < PERIOD_TOLERANCE,
        "{NAME} ends with {last}, where a theta of {ROPE_THETA} gives {expected:.2}; only a \
         config.json with `rope_theta` names another"
    );
    Ok(())
}
