//! [`Pixio`] as one of the families.

use anyhow::Result;
use serde_json::Value;
use tch::Tensor;

use super::names::{self, HUGGING_FACE, ORIGINAL};
use super::spec::{self, NAME, Pixio};
use super::vit::Vit;
use super::{drawn, hugging_face, measure};
use crate::encoders::checks::{
    require_all_biases, require_divisor, require_positive, require_whole_gelu,
};
use crate::encoders::encoder::Encoder;
use crate::encoders::family::{Drawer, EncoderSpec, Family, StoredEncoder};
use crate::encoders::measuring;
use crate::encoders::whereabouts::Whereabouts;
use crate::nn::{Parameters, patch_flops, resize_positions, transformer_flops};
use crate::weights::{NameMap, WeightFile};

impl Family for Pixio {
    fn name(&self) -> &'static str {
        NAME
    }

    fn title(&self) -> &'static str {
        "Pixio"
    }

    fn published(&self) -> Vec<(&'static str, EncoderSpec)> {
        spec::published()
    }

    fn whereabouts(&self, name: &str) -> Whereabouts {
        spec::whereabouts(name)
    }

    fn defaults(&self) -> EncoderSpec {
        spec::spec(768, 12, 12)
    }

    fn check(&self, spec: &EncoderSpec) -> Result<(), (&'static str, String)> {
        require_positive(spec)?;
        require_whole_gelu(spec)?;
        require_divisor(spec)?;
        require_all_biases(spec)?;
        if spec.registers > 0 {
            return Err(("registers", format!("found {}, expected 0", spec.registers)));
        }
        match spec.gated {
            true => Err(("gated", "found true, expected false".into())),
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
        Box::new(Vit::new(parameters, spec, grid_size))
    }

    fn flops(&self, spec: &EncoderSpec, patches: usize) -> f64 {
        let EncoderSpec { dim, depth, mlp_ratio, patch_size, class_tokens, .. } = *spec;
        transformer_flops(dim, depth, mlp_ratio, class_tokens + patches)
            + patch_flops(dim, patch_size, patches)
    }

    fn resized(
        &self,
        spec: &EncoderSpec,
        name: &str,
        parameter: &Tensor,
        grid_size: usize,
    ) -> Tensor {
        let (class_tokens, grid_size) = (spec.class_tokens as i64, grid_size as i64);
        match name {
            "pos_embed" => resize_positions(parameter, class_tokens, grid_size, grid_size),
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
        measure::measure(file)
    }

    fn stored_grid(&self, spec: &EncoderSpec, file: &WeightFile) -> usize {
        measuring::stored_grid(file, spec.class_tokens)
    }

    fn parameters(&self, spec: &EncoderSpec) -> Vec<String> {
        names::parameters(spec.depth)
    }

    fn file_name(&self) -> &'static str {
        "pixio.safetensors"
    }

    fn model_type(&self) -> &'static str {
        NAME
    }

    fn read_config(&self, config: Value) -> Result<EncoderSpec> {
        hugging_face::read_config(config)
    }

    fn write_config(&self, encoder: &StoredEncoder, file: &WeightFile) -> Result<Value> {
        hugging_face::write_config(encoder, file)
    }

    fn drawer(&self) -> Option<Drawer> {
        Some(drawn::draw)
    }

    fn image_processor(&self) -> &'static str {
        "BitImageProcessor"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Storage;

    /// Matrix products and attention, with two operations a weight and token.
    #[test]
    fn operations_are_those_of_the_published_encoder() {
        let size = EncoderSpec::named("pixio_vit5b16").unwrap();
        let ratio = size.flops(256) / (2.0 * 264.0 * 48.0 * 12.0 * 3072.0 * 3072.0);
        assert!((1.013..1.016).contains(&ratio), "{ratio}");
    }

    /// An export holds what the model has.
    #[test]
    fn the_listed_parameters_are_those_of_the_model() {
        let spec = EncoderSpec::new(8, 3, 2);
        let mut parameters = Parameters::new(Storage::Shapes);
        spec.build(&mut parameters, 4);
        let mut built: Vec<_> = parameters.named().iter().map(|(name, _)| name.clone()).collect();
        let mut listed = Pixio.parameters(&spec);
        built.sort();
        listed.sort();
        assert_eq!(built, listed);
    }
}
