//! [`Clip`] as one of the families.

use anyhow::Result;
use serde_json::Value;
use tch::Tensor;

use super::model::Model;
use super::names::{HUGGING_FACE, OWN};
use super::spec::{Clip, TOWER, defaults, published, whereabouts};
use crate::encoders::encoder::Encoder;
use crate::encoders::family::{EncoderSpec, Family, StoredEncoder};
use crate::encoders::whereabouts::Whereabouts;
use crate::encoders::{measuring, towers};
use crate::nn::Parameters;
use crate::weights::{NameMap, WeightFile};

impl Family for Clip {
    fn name(&self) -> &'static str {
        TOWER.whole
    }

    fn title(&self) -> &'static str {
        "CLIP"
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
        "clip.safetensors"
    }

    fn model_type(&self) -> &'static str {
        TOWER.alone
    }

    fn model_types(&self) -> Vec<&'static str> {
        vec![TOWER.alone, TOWER.whole]
    }

    fn untrained(&self) -> Option<&'static str> {
        Some("the norm of its pooled vector")
    }

    fn untold(&self) -> Option<&'static str> {
        Some("the activation of its MLPs: OpenAI's have quick_gelu, others gelu")
    }

    fn read_config(&self, config: Value) -> Result<EncoderSpec> {
        TOWER.read(config, defaults()).map(|(spec, _)| spec)
    }

    fn write_config(&self, encoder: &StoredEncoder, file: &WeightFile) -> Result<Value> {
        TOWER.config_of(encoder, file)
    }

    fn image_processor(&self) -> &'static str {
        "CLIPImageProcessor"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What `transformers` 4 wrote of a whole CLIP: keys of every model, also about texts that are made, and the older
    /// form beside the newer one.
    #[test]
    fn old_forms_of_a_whole_model_are_read() {
        let mut config = json!({
            "_commit_hash": null,
            "architectures": ["CLIPModel"],
            "initializer_factor": 1.0,
            "logit_scale_init_value": 2.6592,
            "model_type": "clip",
            "projection_dim": 512,
            "text_config": { "hidden_size": 512, "bad_words_ids": null },
            "text_config_dict": null,
            "torch_dtype": "float32",
            "transformers_version": null,
            "vision_config": {
                "add_cross_attention": false,
                "dropout": 0.0,
                "early_stopping": false,
                "hidden_act": "gelu",
                "hidden_size": 1408,
                "intermediate_size": 6144,
                "model_type": "clip_vision_model",
                "num_attention_heads": 16,
                "num_beams": 1,
                "num_hidden_layers": 40,
                "patch_size": 14,
                "projection_dim": 512,
                "pruned_heads": {},
                "temperature": 1.0,
                "torchscript": false,
                "typical_p": 1.0,
                "use_bfloat16": false,
            },
            "vision_config_dict": { "hidden_size": 1408, "patch_size": 14 },
        });
        let spec = Clip.read_config(config.clone()).unwrap();
        assert_eq!(spec.name(), Some("clip_vitg14_laion"));
        config["vision_config"] = json!({});
        config["vision_config_dict"] = Value::Null;
        assert_eq!(Clip.read_config(config).unwrap().name(), Some("clip_vitb32"));
    }
}
