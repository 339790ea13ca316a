//! The encoder as a graph.

use anyhow::Result;
use tch::Tensor;

use super::vit::LAYER_NORM_EPS as EPS;
use crate::encoders::drawing::{Drawing, Drawn, DrawnBlocks};
use crate::encoders::family::EncoderSpec;

pub(super) fn draw(spec: &EncoderSpec, drawing: &mut Drawing) -> Result<Drawn> {
    let EncoderSpec { depth, heads, registers, .. } = *spec;
    let positions = drawing.parameter("pos_embed")?;
    let mut prefix = vec![drawing.parameter("cls_token")? + positions.narrow(1, 0, 1)];
    if registers > 0 {
        prefix.push(drawing.parameter("register_tokens")?);
    }
    let of_patches = positions.narrow(1, 1, positions.size()[1] - 1);
    let patches = drawing.patches()?;
    let embedded = drawing.behind(&Tensor::cat(&prefix, 1), &patches, Some(&of_patches));
    let blocks = DrawnBlocks { depth, heads, eps: EPS, rotary: None };
    let all = drawing.blocks(embedded, &blocks)?;
    let tokens = drawing.norm("norm", &all, EPS)?;
    Ok(Drawn { pooled: drawing.first(&tokens, spec.prefix_tokens()), tokens })
}
