//! [`Dinov2`] as one of the families.

use anyhow::Result;
use serde_json::Value;
use tch::Tensor;

use super::drawn;
use super::names::{self, HUGGING_FACE, ORIGINAL};
use super::spec::{self, Dinov2, hidden};
use super::vit;
use crate::encoders::checks::{
    require_all_biases, require_divisor, require_positive, require_whole_gelu,
};
use crate::encoders::encoder::Encoder;
use crate::encoders::family::{Drawer, EncoderSpec, Family, StoredEncoder};
use crate::encoders::measuring;
use crate::encoders::whereabouts::Whereabouts;
use crate::nn::{Parameters, block_flops, patch_flops};
use crate::weights::{NameMap, WeightFile};

impl Family for Dinov2 {
    fn name(&self) -> &'static str {
        self.model_type_name()
    }

    fn title(&self) -> &'static str {
        if self.has_registers { "DINOv2 with registers" } else { "DINOv2" }
    }

    fn published(&self) -> Vec<(&'static str, EncoderSpec)> {
        self.sizes()
    }

    fn whereabouts(&self, name: &str) -> Whereabouts {
        spec::whereabouts(name)
    }

    fn defaults(&self) -> EncoderSpec {
        self.spec(768, 12, 12)
    }

    fn check(&self, spec: &EncoderSpec) -> Result<(), (&'static str, String)> {
        require_positive(spec)?;
        require_whole_gelu(spec)?;
        require_divisor(spec)?;
        require_all_biases(spec)?;
        if spec.class_tokens != 1 {
            return Err(("class_tokens", format!("found {}, expected 1", spec.class_tokens)));
        }
        match (self.has_registers, spec.registers) {
            (true, 0) => Err(("registers", "found 0, expected at least 1, or `dinov2`".into())),
            (false, 1..) => {
                let found = spec.registers;
                Err(("registers", format!("found {found}, expected `dinov2_with_registers`")))
            }
            _ => Ok(()),
        }
    }

    fn takes_masks(&self) -> bool {
        true
    }

    fn build(
        &self,
        parameters: &mut Parameters,
        spec: &EncoderSpec,
        grid_size: usize,
    ) -> Box<dyn Encoder> {
        Box::new(vit::Vit::new(parameters, spec, grid_size))
    }

    fn flops(&self, spec: &EncoderSpec, patches: usize) -> f64 {
        let tokens = spec.prefix_tokens() + patches;
        block_flops((spec.dim, spec.depth), (hidden(spec), spec.gated), tokens)
            + patch_flops(spec.dim, spec.patch_size, patches)
    }

    fn resized(&self, _: &EncoderSpec, name: &str, parameter: &Tensor, grid_size: usize) -> Tensor {
        let side = grid_size as i64;
        match name {
            "pos_embed" => vit::resize(parameter, self.has_registers, (side, side)),
            _ => parameter.shallow_clone(),
        }
    }

    fn hugging_face_names(&self, _: &EncoderSpec) -> &'static dyn NameMap {
        &HUGGING_FACE
    }

    fn own_names(&self) -> &'static dyn NameMap {
        &ORIGINAL
    }

    fn is_beside(&self, name: &str) -> bool {
        names::is_beside(name)
    }

    fn measure(&self, file: &WeightFile) -> Result<StoredEncoder> {
        self.measured(file)
    }

    fn stored_grid(&self, _: &EncoderSpec, file: &WeightFile) -> usize {
        measuring::stored_grid(file, 1)
    }

    fn file_name(&self) -> &'static str {
        if self.has_registers { "dinov2_with_registers.safetensors" } else { "dinov2.safetensors" }
    }

    fn model_type(&self) -> &'static str {
        self.model_type_name()
    }

    fn read_config(&self, config: Value) -> Result<EncoderSpec> {
        self.spec_of_config(config)
    }

    fn write_config(&self, encoder: &StoredEncoder, file: &WeightFile) -> Result<Value> {
        self.config_of(encoder, file)
    }

    fn drawer(&self) -> Option<Drawer> {
        Some(drawn::draw)
    }

    fn image_processor(&self) -> &'static str {
        "BitImageProcessor"
    }
}
