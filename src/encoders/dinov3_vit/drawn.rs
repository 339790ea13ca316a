//! The encoder as a graph.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use super::vit::{LAYER_NORM_EPS as EPS, rotary_shape};
use crate::encoders::drawing::{Drawing, Drawn, DrawnBlocks};
use crate::encoders::family::EncoderSpec;

pub(super) fn draw(spec: &EncoderSpec, drawing: &mut Drawing) -> Result<Drawn> {
    let EncoderSpec { depth, heads, .. } = *spec;
    let prefix = [drawing.parameter("cls_token")?, drawing.parameter("register_tokens")?];
    let patches = drawing.patches()?;
    let embedded = drawing.behind(&Tensor::cat(&prefix, 1), &patches, None);
    let grid = [drawing.grid_size(); 2];
    let rotary = rotary_shape(spec).table(grid, None, (Kind::Float, Device::Cpu));
    let blocks = DrawnBlocks { depth, heads, eps: EPS, rotary: Some(&rotary) };
    let all = drawing.blocks(embedded, &blocks)?;
    let tokens = drawing.norm("norm", &all, EPS)?;
    Ok(Drawn { pooled: drawing.first(&tokens, spec.prefix_tokens()), tokens })
}
