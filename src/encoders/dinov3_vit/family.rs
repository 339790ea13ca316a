//! [`Dinov3Vit`] as one of the families.

use anyhow::Result;
use serde_json::Value;
use tch::Tensor;

use super::spec::{self, Dinov3Vit, NAME};
use super::{drawn, hugging_face, measure, names, vit};
use crate::encoders::checks::{require_divisor, require_positive, require_whole_gelu};
use crate::encoders::encoder::Encoder;
use crate::encoders::family::{Drawer, EncoderSpec, Family, StoredEncoder};
use crate::encoders::whereabouts::Whereabouts;
use crate::nn::{Parameters, block_flops, patch_flops};
use crate::weights::{NameMap, WeightFile};

impl Family for Dinov3Vit {
    fn name(&self) -> &'static str {
        NAME
    }

    fn title(&self) -> &'static str {
        "DINOv3"
    }

    fn published(&self) -> Vec<(&'static str, EncoderSpec)> {
        spec::published()
    }

    fn whereabouts(&self, name: &str) -> Whereabouts {
        spec::whereabouts(name)
    }

    fn defaults(&self) -> EncoderSpec {
        spec::spec(384, 12, 6)
    }

    fn check(&self, spec: &EncoderSpec) -> Result<(), (&'static str, String)> {
        require_positive(spec)?;
        require_whole_gelu(spec)?;
        require_divisor(spec)?;
        if spec.class_tokens != 1 {
            return Err(("class_tokens", format!("found {}, expected 1", spec.class_tokens)));
        }
        if spec.rope_theta == 0 {
            return Err(("rope_theta", "found 0, expected at least 1".into()));
        }
        let of_head = spec.dim / spec.heads;
        match of_head.is_multiple_of(4) {
            true => Ok(()),
            false => {
                let found = format!("found {}, which gives heads of width {of_head}", spec.heads);
                Err(("heads", format!("{found}, expected a multiple of 4 for rotary positions")))
            }
        }
    }

    fn takes_masks(&self) -> bool {
        true
    }

    /// No parameter depends on the grid.
    fn build(&self, parameters: &mut Parameters, spec: &EncoderSpec, _: usize) -> Box<dyn Encoder> {
        Box::new(vit::Vit::new(parameters, spec))
    }

    fn flops(&self, spec: &EncoderSpec, patches: usize) -> f64 {
        let EncoderSpec { dim, depth, mlp_ratio, gated, patch_size, .. } = *spec;
        let tokens = spec.prefix_tokens() + patches;
        block_flops((dim, depth), (dim * mlp_ratio, gated), tokens)
            + patch_flops(dim, patch_size, patches)
    }

    fn resized(&self, _: &EncoderSpec, _: &str, parameter: &Tensor, _: usize) -> Tensor {
        parameter.shallow_clone()
    }

    fn hugging_face_names(&self, spec: &EncoderSpec) -> &'static dyn NameMap {
        if spec.gated { &names::GATED } else { &names::PLAIN }
    }

    fn own_names(&self) -> &'static dyn NameMap {
        &names::OWN
    }

    fn layouts(&self) -> Vec<&'static dyn NameMap> {
        vec![&names::PLAIN, &names::GATED, &names::OWN, &names::ORIGINAL]
    }

    fn is_beside(&self, name: &str) -> bool {
        names::is_beside(name)
    }

    fn measure(&self, file: &WeightFile) -> Result<StoredEncoder> {
        measure::measure(file)
    }

    fn stored_grid(&self, _: &EncoderSpec, _: &WeightFile) -> usize {
        0
    }

    fn file_name(&self) -> &'static str {
        "dinov3_vit.safetensors"
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

    /// Numbers of parameters are those that the paper gives, which counts the token of masked patches too.
    #[test]
    fn published_sizes_have_their_parameters() {
        for (name, millions) in [
            ("dinov3_vits16", 21.6),
            ("dinov3_vits16plus", 28.7),
            ("dinov3_vitb16", 85.7),
            ("dinov3_vitl16", 303.1),
            ("dinov3_vith16plus", 840.6),
            ("dinov3_vit7b16", 6716.0),
        ] {
            let spec = EncoderSpec::named(name).unwrap();
            let mut parameters = Parameters::new(Storage::Shapes);
            spec.build(&mut parameters, 1);
            let found = parameters.count() as f64 / 1e6;
            assert!((found / millions - 1.0).abs() < 2e-3, "{name}: {found}");
            Dinov3Vit.check(&spec).unwrap();
        }
    }
}
