//! Exports of every family, in the real `transformers` and timm.

use std::fs;
use std::path::Path;

use tch::Tensor;

use super::{MODELS, TOLERANCE, assert_transformers_agree, distill, drawn, load};
use crate::support::golden::{assert_close, read};
use crate::support::python::{python, run};
use crate::support::workshop::Workshop;

/// Both forms of an export give the same tensors back, and `AutoModel` and `AutoImageProcessor` of `transformers` load
/// the one that is its own.
#[test]
fn exports_are_what_they_were() {
    let workshop = Workshop::new();
    let mut exports = Vec::new();
    for (name, family) in MODELS {
        let model = drawn(name).join("model");
        let path = |path: &Path| path.to_str().unwrap().to_string();
        let [own, hf] = ["own", "hf"].map(|form| workshop.path(&format!("{name}_{form}")));
        let export = |from: &str, to: &str, format: &str| {
            let arguments = ["export", "--weights", from, "--out", to, "--format", format];
            distill(&workshop, &arguments).succeeds();
        };
        export(&path(&model), &path(&own), "pixio");
        assert!(own.join(format!("{family}.safetensors")).exists(), "{name}");
        export(&path(&own), &path(&hf), "hf");
        let [(_, first, _), (_, last, _)] = [&model, &hf].map(|folder| load(folder));
        for ((one, expected), (other, found)) in first.named().iter().zip(last.named()) {
            assert_eq!((one, expected), (other, found), "{name}");
        }
        let outputs = read(drawn(name).join("outputs.safetensors"));
        exports.push((name, hf, outputs["last_hidden_state_56"].shallow_clone()));
    }
    let image = workshop.path("image.png");
    let colour = |x: u32, y: u32| image::Rgb([2 * x as u8, 3 * y as u8, (x * y / 40) as u8]);
    image::RgbImage::from_fn(90, 70, colour).save(&image).unwrap();
    let found = assert_transformers_agree(&exports, &["--image", image.to_str().unwrap()]);
    for ((name, hf, _), tensors) in exports.iter().zip(&found) {
        let size = load(hf).2.image_size as i64;
        let processed = &tensors["processed"];
        assert_eq!(processed.size(), [1, 3, size, size], "{name}");
        let first = found.iter().map(|tensors| &tensors["processed"]);
        let first = first.into_iter().find(|one| one.size() == processed.size()).unwrap();
        assert_close(processed, first, TOLERANCE, &format!("{name}'s image processor"));
    }
}

/// Models that hold an encoder beside something else, as they are stored: the same parameters are found in them.
#[test]
fn wrapped_models_hold_the_same_encoders() {
    let folder = tempfile::tempdir().unwrap();
    for (name, prefix, beside) in [
        ("vit", "vit.", &["classifier.weight"][..]),
        ("deit", "deit.", &["cls_classifier.weight", "distillation_classifier.bias"]),
        ("dinov2", "dinov2.", &["classifier.bias"]),
        ("clip", "vision_model.", &["visual_projection.weight"]),
        ("siglip", "vision_model.", &["classifier.weight"]),
        ("siglip", "model.backbone.", &["logit_scale"]),
    ] {
        let model = drawn(name).join("model");
        let stored = read(model.join("model.safetensors"));
        let names = stored.keys().map(|own| format!("{prefix}{own}"));
        let mut tensors: Vec<(String, &Tensor)> = names.zip(stored.values()).collect();
        let more = Tensor::ones([3, 2], (tch::Kind::Float, tch::Device::Cpu));
        tensors.extend(beside.iter().map(|name| (name.to_string(), &more)));
        let path = folder.path().join("model.safetensors");
        Tensor::write_safetensors(&tensors, &path).unwrap();
        fs::copy(model.join("config.json"), folder.path().join("config.json")).unwrap();
        let [(_, expected, _), (_, found, _)] = [&model, folder.path()].map(load);
        assert_eq!(found.named(), expected.named(), "{name} in {prefix}");
    }
}

/// Names of the models that timm has, too.
const IN_TIMM: [&str; 7] = [
    "vit",
    "vit_mae",
    "deit",
    "dinov2",
    "dinov2_gated",
    "dinov2_with_registers",
    "dinov2_with_registers_gated",
];

/// timm loads files of original names: those of plain models as they are, those of DINOv2 with registers or gated MLPs
/// by the way that it loads their original checkpoints.
#[test]
fn timm_loads_exports_of_original_names() {
    let workshop = Workshop::new();
    let outputs = |name| read(drawn(name).join("outputs.safetensors"));
    let pixels = workshop.path("pixels.safetensors");
    Tensor::write_safetensors(&[("images", &outputs("vit")["pixels_56"])], &pixels).unwrap();
    let mut command = python("timm_reference.py");
    command.arg(&pixels);
    let out = |name: &str| workshop.path(&format!("{name}.safetensors"));
    for name in IN_TIMM {
        let model = drawn(name).join("model").display().to_string();
        distill(&workshop, &["export", "--weights", &model, "--out", name, "--format", "original"])
            .succeeds();
        let family = MODELS.iter().find(|(model, _)| *model == name).unwrap().1;
        let file = workshop.path(name).join(format!("{family}.safetensors"));
        command.arg(name).arg(file).arg(out(name));
    }
    run(&mut command);
    for name in IN_TIMM {
        let expected = &outputs(name)["last_hidden_state_56"];
        assert_close(&read(out(name))["tokens"], expected, TOLERANCE, name);
    }
}
