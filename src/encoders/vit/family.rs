//! [`Vit`] as two of the families.

use anyhow::Result;
use serde_json::Value;
use tch::Tensor;

use super::drawn;
use super::model::Model;
use super::names::{self, HUGGING_FACE, OWN};
use super::spec::{self, Kind, Vit};
use crate::encoders::checks::{
    require_all_or_no_qkv_biases, require_plain, require_positive, require_whole_gelu,
};
use crate::encoders::encoder::Encoder;
use crate::encoders::family::{Drawer, EncoderSpec, Family, StoredEncoder};
use crate::encoders::measuring;
use crate::encoders::whereabouts::Whereabouts;
use crate::nn::{Parameters, patch_flops, resize_positions, transformer_flops};
use crate::weights::{NameMap, WeightFile};

impl Family for Vit {
    fn name(&self) -> &'static str {
        self.model_type_name()
    }

    fn title(&self) -> &'static str {
        match self.kind {
            Kind::Plain => "ViT",
            Kind::OfAutoencoder => "MAE",
            Kind::Distilled => "DeiT",
        }
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
        require_plain(spec, self.class_tokens())?;
        require_all_or_no_qkv_biases(spec)?;
        let dim = spec.dim;
        match self.kind == Kind::OfAutoencoder && !dim.is_multiple_of(4) {
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
        Box::new(Model::new(parameters, spec, grid_size, self.kind))
    }

    fn flops(&self, spec: &EncoderSpec, patches: usize) -> f64 {
        let EncoderSpec { dim, depth, mlp_ratio, patch_size, .. } = *spec;
        transformer_flops(dim, depth, mlp_ratio, self.class_tokens() + patches)
            + patch_flops(dim, patch_size, patches)
    }

    fn resized(&self, _: &EncoderSpec, name: &str, parameter: &Tensor, grid_size: usize) -> Tensor {
        let side = grid_size as i64;
        match name {
            "pos_embed" => resize_positions(parameter, self.class_tokens() as i64, side, side),
            _ => parameter.shallow_clone(),
        }
    }

    fn hugging_face_names(&self, _: &EncoderSpec) -> &'static dyn NameMap {
        match self.kind {
            Kind::Distilled => &names::HUGGING_FACE_DISTILLED,
            _ => &HUGGING_FACE,
        }
    }

    fn own_names(&self) -> &'static dyn NameMap {
        match self.kind {
            Kind::Distilled => &names::OWN_DISTILLED,
            _ => &OWN,
        }
    }

    fn is_beside(&self, name: &str) -> bool {
        names::is_beside(name)
    }

    fn measure(&self, file: &WeightFile) -> Result<StoredEncoder> {
        self.measured(file)
    }

    fn stored_grid(&self, _: &EncoderSpec, file: &WeightFile) -> usize {
        measuring::stored_grid(file, self.class_tokens())
    }

    fn file_name(&self) -> &'static str {
        match self.kind {
            Kind::Plain => "vit.safetensors",
            Kind::OfAutoencoder => "vit_mae.safetensors",
            Kind::Distilled => "deit.safetensors",
        }
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
        // A second class token is not drawn.
        (self.kind != Kind::Distilled).then_some(drawn::draw as Drawer)
    }

    fn image_processor(&self) -> &'static str {
        match self.kind {
            Kind::Distilled => "DeiTImageProcessor",
            _ => "BitImageProcessor",
        }
    }
}
