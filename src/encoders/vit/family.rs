//! [`Vit`] as two of the families.

use anyhow::Result;
use serde_json::Value;
use tch::Tensor;

use super::drawn;
use super::model::Model;
use super::names::{self, HUGGING_FACE, OWN};
use super::spec::{self, Vit};
use crate::encoders::checks::{require_divisor, require_no_rotation, require_positive};
use crate::encoders::encoder::Encoder;
use crate::encoders::family::{Drawer, EncoderSpec, Family, StoredEncoder};
use crate::encoders::measuring;
use crate::encoders::whereabouts::Whereabouts;
use crate::nn::{Biases, Parameters, patch_flops, resize_positions, transformer_flops};
use crate::weights::{NameMap, WeightFile};

impl Family for Vit {
    fn name(&self) -> &'static str {
        self.model_type_name()
    }

    fn title(&self) -> &'static str {
        if self.is_autoencoders { "MAE" } else { "ViT" }
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
        require_divisor(spec)?;
        require_no_rotation(spec)?;
        let EncoderSpec { dim, class_tokens, registers, gated, biases, .. } = *spec;
        if class_tokens != 1 {
            return Err(("class_tokens", format!("found {class_tokens}, expected 1")));
        }
        if registers > 0 {
            return Err(("registers", format!("found {registers}, expected 0")));
        }
        if gated {
            return Err(("gated", "found true, expected false".into()));
        }
        if ![Biases::ALL, Biases::WITHOUT_QKV].contains(&biases) {
            let expected = "expected all, or [\"proj\", \"mlp\"]";
            return Err(("biases", format!("found others, {expected}")));
        }
        match self.is_autoencoders && !dim.is_multiple_of(4) {
            true => {
                let expected = "expected a multiple of 4 for the sines of fixed positions";
                Err(("dim", format!("found {dim}, {expected}")))
            }
            false => Ok(()),
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
        Box::new(Model::new(parameters, spec, grid_size, self.is_autoencoders))
    }

    fn flops(&self, spec: &EncoderSpec, patches: usize) -> f64 {
        let EncoderSpec { dim, depth, mlp_ratio, patch_size, .. } = *spec;
        transformer_flops(dim, depth, mlp_ratio, 1 + patches)
            + patch_flops(dim, patch_size, patches)
    }

    fn resized(&self, _: &EncoderSpec, name: &str, parameter: &Tensor, grid_size: usize) -> Tensor {
        let side = grid_size as i64;
        match name {
            "pos_embed" => resize_positions(parameter, 1, side, side),
            _ => parameter.shallow_clone(),
        }
    }

    fn hugging_face_names(&self, _: &EncoderSpec) -> &'static dyn NameMap {
        &HUGGING_FACE
    }

    fn own_names(&self) -> &'static dyn NameMap {
        &OWN
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
        if self.is_autoencoders { "vit_mae.safetensors" } else { "vit.safetensors" }
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
