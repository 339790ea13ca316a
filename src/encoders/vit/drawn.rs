//! The encoder as a graph.

use anyhow::Result;

use super::model::LAYER_NORM_EPS as EPS;
use crate::encoders::drawing::{Drawing, Drawn, DrawnBlocks};
use crate::encoders::family::EncoderSpec;

pub(super) fn draw(spec: &EncoderSpec, drawing: &mut Drawing) -> Result<Drawn> {
    let EncoderSpec { depth, heads, .. } = *spec;
    let embedded = drawing.class_and_patches(1)?;
    let blocks = DrawnBlocks { depth, heads, eps: EPS, rotary: None };
    let all = drawing.blocks(embedded, &blocks)?;
    let tokens = drawing.norm("norm", &all, EPS)?;
    Ok(Drawn { pooled: drawing.first(&tokens, 1), tokens })
}
