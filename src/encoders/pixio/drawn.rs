//! The encoder as a graph.

use anyhow::Result;

use super::vit::LAYER_NORM_EPS as EPS;
use crate::encoders::drawing::{Drawing, Drawn, DrawnBlocks};
use crate::encoders::family::EncoderSpec;

pub(super) fn draw(spec: &EncoderSpec, drawing: &mut Drawing) -> Result<Drawn> {
    let EncoderSpec { depth, heads, class_tokens, .. } = *spec;
    let embedded = drawing.class_and_patches(class_tokens)?;
    let blocks = DrawnBlocks { depth, heads, eps: EPS, rotary: None };
    let all = drawing.blocks(embedded, &blocks)?;
    let pooled = drawing.mean_of_first(&all, class_tokens);
    Ok(Drawn { tokens: drawing.norm("norm", &all, EPS)?, pooled })
}
