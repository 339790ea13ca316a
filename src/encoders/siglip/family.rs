//! [`Siglip`] as one of the families.

use anyhow::{Result, ensure};
use serde_json::Value;
use tch::Tensor;

use super::model::Model;
use super::names::{HUGGING_FACE, OWN};
use super::spec::{Siglip, TOWER, defaults, published, whereabouts};
use crate::encoders::encoder::Encoder;
use crate::encoders::family::{EncoderSpec, Family, StoredEncoder};
use crate::encoders::whereabouts::Whereabouts;
use crate::encoders::{measuring, towers};
use crate::nn::Parameters;
use crate::weights::{NameMap, WeightFile};

impl Family for Siglip {
    fn name(&self) -> &'static str {
        TOWER.whole
    }

    fn title(&self) -> &'static str {
        "SigLIP"
    }

    fn published(&self) -> Vec<(&'static str, EncoderSpec)> {
        published()
    }

    fn whereabouts(&self, name: &str) -> Whereabouts {
        whereabouts(name)
    }

    fn defaults(&self) -> EncoderSpec {
        defaults()
    }

    fn check(&self, spec: &EncoderSpec) -> Result<(), (&'static str, String)> {
        TOWER.check(spec)
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
        Box::new(Model::new(parameters, spec, grid_size))
    }

    fn flops(&self, spec: &EncoderSpec, patches: usize) -> f64 {
        TOWER.flops(spec, patches)
    }

    fn resized(&self, _: &EncoderSpec, name: &str, parameter: &Tensor, grid_size: usize) -> Tensor {
        TOWER.resized(name, parameter, grid_size)
    }

    fn hugging_face_names(&self, _: &EncoderSpec) -> &'static dyn NameMap {
        &HUGGING_FACE
    }

    fn own_names(&self) -> &'static dyn NameMap {
        &OWN
    }

    fn is_beside(&self, name: &str) -> bool {
        towers::is_beside(name)
    }

    fn measure(&self, file: &WeightFile) -> Result<StoredEncoder> {
        TOWER.measure(file, defaults())
    }

    fn stored_grid(&self, _: &EncoderSpec, file: &WeightFile) -> usize {
        measuring::stored_grid(file, TOWER.class_tokens)
    }

    fn file_name(&self) -> &'static str {
        "siglip.safetensors"
    }

    fn model_type(&self) -> &'static str {
        TOWER.alone
    }

    fn model_types(&self) -> Vec<&'static str> {
        vec![TOWER.alone, TOWER.whole]
    }

    fn untrained(&self) -> Option<&'static str> {
        Some("what pools its tokens")
    }

    fn read_config(&self, config: Value) -> Result<EncoderSpec> {
        let (spec, own) = TOWER.read(config, defaults())?;
        ensure!(
            own.get("vision_use_head").is_none_or(|has_head| *has_head == true),
            "vision_use_head is {}, expected true: without what pools its tokens, such an encoder is not read",
            own["vision_use_head"]
        );
        Ok(spec)
    }

    fn write_config(&self, encoder: &StoredEncoder, file: &WeightFile) -> Result<Value> {
        let mut config = TOWER.config_of(encoder, file)?;
        config["vision_use_head"] = true.into();
        Ok(config)
    }

    fn image_processor(&self) -> &'static str {
        "SiglipImageProcessor"
    }
}
