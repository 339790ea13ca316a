//! `config.json` of every family: what is read, and what is refused.

use std::fs;

use super::{distill, drawn};
use crate::support::workshop::{Finished, Workshop};

/// What a config.json says that is not known here is never ignored.
#[test]
fn a_config_that_says_something_else_is_refused() {
    let workshop = Workshop::new();
    let folder = workshop.path("model");
    let refused_of = |name: &str, change: &dyn Fn(&mut serde_json::Value), words: &[&str]| {
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        for file in ["config.json", "model.safetensors"] {
            fs::copy(drawn(name).join("model").join(file), folder.join(file)).unwrap();
        }
        let file = folder.join("config.json");
        let mut config = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        change(&mut config);
        fs::write(&file, config.to_string()).unwrap();
        let out = workshop.path("out").display().to_string();
        let from = folder.display().to_string();
        let arguments = ["export", "--weights", from.as_str(), "--out", out.as_str()];
        distill(&workshop, &arguments).fails(1, words);
    };
    let refused = |change: &dyn Fn(&mut serde_json::Value), words: &[&str]| {
        refused_of("dinov2", change, words);
    };
    let dinov3 = |key: &str, value: serde_json::Value, words: &[&str]| {
        refused_of("dinov3_vit", &|config| config[key] = value.clone(), words);
    };
    dinov3("rope_scaling", 2.into(), &["`rope_scaling`", "may change"]);
    dinov3("rope_theta", 0.5.into(), &["rope_theta", "0.5", "whole number"]);
    dinov3("hidden_act", "silu".into(), &["hidden_act", "silu", "gelu", "use_gated_mlp"]);
    dinov3("layer_norm_eps", 1e-6.into(), &["layer_norm_eps", "1e-6", "1e-5"]);
    dinov3("key_bias", true.into(), &["biases", "key"]);
    dinov3("intermediate_size", 100.into(), &["intermediate_size", "100", "48"]);
    dinov3("patch_size", serde_json::json!([14, 16]), &["patch_size", "square"]);
    refused(
        &|config| config["use_sandwich_norm"] = true.into(),
        &["`use_sandwich_norm`", "may change"],
    );
    refused(&|config| config["hidden_act"] = "relu".into(), &["hidden_act", "relu", "gelu"]);
    refused(&|config| config["qkv_bias"] = false.into(), &["qkv_bias"]);
    refused(&|config| config["hidden_size"] = 64.into(), &["dim 64 is noted", "48"]);
    refused(
        &|config| config["model_type"] = "beit".into(),
        &["`beit`", "`pixio`", "`dinov2`", "`dinov2_with_registers`"],
    );
    refused_of("vit", &|config| config["hidden_act"] = "quick_gelu".into(), &["quick_gelu"]);
    refused_of("vit", &|config| config["mask_ratio"] = 0.5.into(), &["`mask_ratio`"]);
    refused_of("vit", &|config| config["qkv_bias"] = false.into(), &["biases"]);
    refused_of("vit_mae", &|config| config["num_channels"] = 1.into(), &["num_channels"]);
    refused_of("clip", &|config| config["hidden_act"] = "relu".into(), &["relu", "`quick_gelu`"]);
    refused_of("clip", &|config| config["layer_norm_eps"] = 1e-6.into(), &["1e-6", "1e-5"]);
    refused_of("clip", &|config| config["attention_window"] = 7.into(), &["`attention_window`"]);
    refused_of(
        "clip",
        &|config| config["pruned_heads"] = serde_json::json!({"1": [0]}),
        &["`pruned_heads`"],
    );
    refused_of(
        "clip_whole",
        &|config| config["vision_resampler"] = 2.into(),
        &["`vision_resampler`"],
    );
    let nested = |key: &str, value: serde_json::Value, words: &[&str]| {
        let change = |config: &mut serde_json::Value| config["vision_config"][key] = value.clone();
        refused_of("clip_whole", &change, words);
    };
    nested("use_rope", true.into(), &["`use_rope`", "may change"]);
    nested(
        "model_type",
        "siglip_vision_model".into(),
        &["siglip_vision_model", "clip_vision_model"],
    );
    nested("num_channels", 4.into(), &["num_channels", "4"]);
    nested("intermediate_size", 96.into(), &["mlp width", "104"]);
    refused_of(
        "clip_whole",
        &|config| config["vision_config_dict"] = serde_json::json!({ "patch_size": 16 }),
        &["vision_config_dict", "patch_size", "14"],
    );
    refused_of("siglip", &|config| config["vision_use_head"] = false.into(), &["vision_use_head"]);
    refused_of(
        "siglip",
        &|config| config["model_type"] = "siglip2_vision_model".into(),
        &["NaFlex", "`siglip`", "`siglip_vision_model`", "`clip`", "`deit`"],
    );
    refused_of("deit", &|config| config["num_distillation_tokens"] = 2.into(), &["`num_dist"]);
    let size = [
        "data.input_size=60",
        "teacher.model={ family = \"dinov3_vit\", dim = 32, depth = 2, heads = 2 }",
    ];
    let plan = workshop.training(&size).arg("--dry-run").output().unwrap();
    Finished::of(plan).fails(2, &["data.input_size", "60", "16"]);
    // Other programs write whole numbers with a point.
    let config = folder.join("config.json");
    let model = drawn("dinov2").join("model");
    let text = fs::read_to_string(model.join("config.json")).unwrap();
    fs::write(&config, text.replace("\"mlp_ratio\": 4", "\"mlp_ratio\": 4.0")).unwrap();
    fs::copy(model.join("model.safetensors"), folder.join("model.safetensors")).unwrap();
    let arguments = ["export", "--weights", "model", "--out", "out"];
    distill(&workshop, &arguments).succeeds();
    let model = drawn("dinov3_vit").join("model");
    let text = fs::read_to_string(model.join("config.json")).unwrap();
    let whole = ["\"patch_size\": 14", "\"intermediate_size\": 96", "\"num_register_tokens\": 3"];
    let with_points = whole.iter().fold(text, |text, number| {
        assert!(text.contains(number), "{number}");
        text.replace(number, &format!("{number}.0"))
    });
    fs::write(&config, with_points).unwrap();
    fs::copy(model.join("model.safetensors"), folder.join("model.safetensors")).unwrap();
    distill(&workshop, &["export", "--weights", "model", "--out", "other"]).succeeds();
    let model = drawn("clip_whole").join("model");
    let text = fs::read_to_string(model.join("config.json")).unwrap();
    fs::write(&config, text.replace("\"intermediate_size\": 104", "\"intermediate_size\": 104.0"))
        .unwrap();
    fs::copy(model.join("model.safetensors"), folder.join("model.safetensors")).unwrap();
    distill(&workshop, &["export", "--weights", "model", "--out", "whole"]).succeeds();
    // Of CLIP no tensor tells the activation.
    fs::rename(folder.join("model.safetensors"), workshop.path("alone.safetensors")).unwrap();
    let alone = ["export", "--weights", "alone.safetensors", "--out", "third", "--heads", "3"];
    distill(&workshop, &alone).fails(1, &["activation", "quick_gelu", "config.json"]);
}
