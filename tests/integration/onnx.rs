//! Encoders as ONNX graphs, in the real onnxruntime.

use std::path::{Path, PathBuf};
use std::process::Command;

use distill::encoders::{EncoderWeights, Input, export_onnx};
use distill::onnx::Placement;
use distill::weights::Preprocessing;
use tch::{Kind, Tensor};

use crate::families::{drawn, load};
use crate::support::golden::{Tensors, assert_close, golden, read};
use crate::support::python::{python, run};
use crate::support::workshop::{Finished, Workshop};

/// What outputs may be off by, of their largest.
const TOLERANCE: f64 = 1e-4;

/// Drawn encoders of every family and form, and a side of images that is not always their own.
const MODELS: [(&str, usize); 11] = [
    ("dinov2", 56),
    ("dinov2_gated", 84),
    ("dinov2_with_registers", 28),
    ("dinov2_with_registers_gated", 56),
    ("dinov3_vit", 84),
    ("dinov3_vit_gated", 56),
    ("dinov3_vit_all_biases", 56),
    ("dinov3_vit_few_biases_gated", 28),
    ("vit", 84),
    ("vit_few_biases", 56),
    ("vit_mae", 28),
];

/// Three images for an exported graph.
fn give_pixels(folder: &Path, pixels: &Tensor) {
    Tensor::write_safetensors(&[("pixels", pixels)], folder.join("pixels.safetensors")).unwrap();
}

/// Runs all graphs.
fn run_graphs(folders: &[PathBuf]) -> Vec<Tensors> {
    run(python("onnx_outputs.py").args(folders));
    folders.iter().map(|folder| read(folder.join("outputs.safetensors"))).collect()
}

/// A graph gives what the encoder in `weights` does, alone and in a batch.
#[track_caller]
fn assert_same(name: &str, weights: &Path, pixels: &Tensor, found: &Tensors) {
    let (encoder, _, _) = load(weights);
    let _no_gradients = tch::no_grad_guard();
    let tokens = encoder.forward(&Input::whole(pixels.shallow_clone()), Kind::Float);
    let pooled = encoder.pooled(&tokens);
    let tokens = encoder.normalise(tokens);
    for (output, expected) in
        [("class_tokens", tokens.class()), ("patch_tokens", tokens.patches()), ("pooled", pooled)]
    {
        for batch in [1, 3] {
            let (key, expected) = (format!("{output}_{batch}"), expected.narrow(0, 0, batch));
            assert_eq!(found[&key].size(), expected.size(), "{name}: {key}");
            assert_close(&found[&key], &expected, TOLERANCE, &format!("{name}: {key}"));
        }
    }
}

/// Every family, plain and gated, with all biases and with few, at its own size and at others.
#[test]
fn graphs_give_what_their_encoders_do() {
    let out = tempfile::tempdir().unwrap();
    let native = golden("infer_native");
    let mut all: Vec<_> =
        MODELS.iter().map(|(name, size)| (*name, drawn(name).join("model"), *size)).collect();
    all.extend([("pixio", native.clone(), 64), ("pixio at 96", native, 96)]);
    let pixels = |size: usize| {
        let count = (3 * 3 * size * size) as i64;
        let side = size as i64;
        let numbers = Tensor::arange(count, (Kind::Double, tch::Device::Cpu));
        numbers.square().sin().to_kind(Kind::Float).view([3, 3, side, side])
    };
    let mut folders = Vec::new();
    for (number, (_, weights, size)) in all.iter().enumerate() {
        let folder = out.path().join(number.to_string());
        let opened = EncoderWeights::open(weights).unwrap();
        let encoder = opened.measure(None).unwrap();
        let placement = if number % 2 == 0 { Placement::Within } else { Placement::Outside };
        let preprocessing = Preprocessing::IMAGENET;
        export_onnx(&opened, &encoder, preprocessing, *size, placement, &folder).unwrap();
        assert_eq!(folder.join("model.onnx.data").is_file(), placement == Placement::Outside);
        give_pixels(&folder, &pixels(*size));
        folders.push(folder);
    }
    for ((name, weights, size), found) in all.iter().zip(run_graphs(&folders)) {
        assert_same(name, weights, &pixels(*size), &found);
    }
}

/// The command line writes such a graph, and says what it does not do.
#[test]
fn the_command_writes_a_graph_or_says_why_not() {
    let workshop = Workshop::new();
    let weights = drawn("dinov3_vit").join("model");
    let export = |more: &[&str]| -> Command {
        let mut command = workshop.command(&["export", "--weights", weights.to_str().unwrap()]);
        command.args(["--out", "graph"]).args(more);
        command
    };
    let of = |more: &[&str]| Finished::of(export(more).output().unwrap());
    let written = of(&["--format", "onnx", "--image-size", "28"]).succeeds();
    assert!(written.stdout.contains("model.onnx"), "{}", written.stdout);
    let folder = workshop.path("graph");
    let read_json = std::fs::read_to_string(folder.join("preprocessor_config.json")).unwrap();
    assert!(read_json.contains("\"shortest_edge\": 28"), "{read_json}");
    // As the real transformers computes it.
    let expected = read(drawn("dinov3_vit").join("outputs.safetensors"));
    let pixels = &expected["pixels_28"];
    give_pixels(&folder, &Tensor::cat(&[pixels, &pixels.narrow(0, 0, 1)], 0));
    let found = run_graphs(&[folder]).swap_remove(0);
    let patches = expected["last_hidden_state_28"].narrow(1, 4, 4);
    assert_close(&found["patch_tokens_3"].narrow(0, 0, 2), &patches, TOLERANCE, "patches");
    assert_close(&found["pooled_1"], &expected["pooled_28"].narrow(0, 0, 1), TOLERANCE, "pooled");

    of(&["--format", "onnx", "--image-size", "30"])
        .fails(2, &["--image-size: found 30", "a multiple of the encoder's patch, 14"]);
    of(&["--image-size", "28"]).fails(2, &["--image-size: is for --format onnx"]);
    for family in ["deit", "clip", "siglip"] {
        let weights = drawn(family).join("model");
        let mut command = workshop.command(&["export", "--weights", weights.to_str().unwrap()]);
        command.args(["--out", "none", "--format", "onnx"]);
        let refused = Finished::of(command.output().unwrap());
        assert!(matches!(refused.code, Some(1 | 2)), "{family}: {}", refused.stderr);
        assert!(refused.stderr.to_lowercase().contains(family), "{family}: {}", refused.stderr);
        assert!(!workshop.path("none").exists(), "{family}");
    }
    of(&["--format", "onnx", "--projector"]).fails(2, &["--projector", "--format pixio"]);
}
