//! Encoders of other families than Pixio's, against the real classes of `transformers` with drawn weights: outputs,
//! gradients, exports; and each as teacher and as student of whole runs.

mod config;
mod exports;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use distill::encoders::{Encoder, EncoderSpec, EncoderWeights, Input, StoredEncoder};
use distill::nn::{FrozenFormat, Junctions, Parameters, Storage};
use distill::tasks::distill::mean_cosine;
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;

use crate::support::golden::{Tensors, assert_close, read};
use crate::support::python::{python, run};
use crate::support::workshop::{Finished, Workshop};

/// Names of the models that the tests' Python draws, and of their families.
const MODELS: [(&str, &str); 16] = [
    ("dinov2", "dinov2"),
    ("dinov2_gated", "dinov2"),
    ("dinov2_with_registers", "dinov2_with_registers"),
    ("dinov2_with_registers_gated", "dinov2_with_registers"),
    ("dinov3_vit", "dinov3_vit"),
    ("dinov3_vit_gated", "dinov3_vit"),
    ("dinov3_vit_all_biases", "dinov3_vit"),
    ("dinov3_vit_few_biases_gated", "dinov3_vit"),
    ("vit", "vit"),
    ("vit_few_biases", "vit"),
    ("vit_mae", "vit_mae"),
    ("deit", "deit"),
    ("clip", "clip"),
    ("clip_whole", "clip"),
    ("siglip", "siglip"),
    ("siglip_whole", "siglip"),
];

/// What outputs and gradients may be off by, of their largest.
const TOLERANCE: f64 = 1e-4;

/// The folder of a drawn model, made once for all tests.
pub fn drawn(name: &str) -> PathBuf {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        run(python("make_families.py").arg(folder.path()));
        folder
    });
    folder.path().join(name)
}

/// The encoder in a folder, with its parameters.
pub fn load(folder: &Path) -> (Box<dyn Encoder>, Parameters, StoredEncoder) {
    let weights = EncoderWeights::open(folder).unwrap();
    let stored = weights.measure(None).unwrap();
    let storage = Storage::Empty { device: Device::Cpu, matrices: Kind::Float };
    let mut parameters = Parameters::new(storage);
    let encoder = stored.spec.build(&mut parameters, stored.spec.grid_size(stored.image_size));
    weights.load_into(parameters.named()).unwrap();
    (encoder, parameters, stored)
}

/// Sizes of the images in `outputs`, in pixels.
fn sizes(outputs: &Tensors) -> Vec<i64> {
    outputs.keys().filter_map(|key| key.strip_prefix("pixels_")?.parse().ok()).collect()
}

/// Tokens after the final norm and the pooled vector are those of `transformers`, at the native and at other sizes,
/// plainly and frozen.
#[test]
fn outputs_are_those_of_transformers() {
    for (name, family) in MODELS {
        let outputs = read(drawn(name).join("outputs.safetensors"));
        assert_eq!(sizes(&outputs).len(), 3);
        for size in sizes(&outputs) {
            let (mut encoder, _parameters, stored) = load(&drawn(name).join("model"));
            assert_eq!(stored.spec.family.name(), family);
            let of = |what: &str| &outputs[&format!("{what}_{size}")];
            let input = Input::whole(of("pixels").shallow_clone());
            let assert_same = |encoder: &dyn Encoder, how: &str| {
                tch::no_grad(|| {
                    let tokens = match how {
                        "frozen" => encoder
                            .forward_frozen(&input, Kind::Float, &Junctions::default())
                            .unwrap(),
                        _ => encoder.forward(&input, Kind::Float),
                    };
                    let what = format!("{name}, {size} pixels, {how}");
                    assert_close(&encoder.pooled(&tokens), of("pooled"), TOLERANCE, &what);
                    let all = encoder.normalise(tokens).all;
                    assert_close(&all, of("last_hidden_state"), TOLERANCE, &what);
                });
            };
            assert_same(&*encoder, "plain");
            let format = FrozenFormat { compute: Kind::Float, residual: Kind::Float, fp8: false };
            let grid_size = size / stored.spec.patch_size as i64;
            tch::no_grad(|| encoder.freeze(format, grid_size));
            assert_same(&*encoder, "frozen");
            assert_same(&*encoder, "plain, of frozen weights");
        }
    }
}

/// Files of DINOv3's original names hold the same encoders; those with other rotary positions are refused.
#[test]
fn original_checkpoints_of_dinov3_are_those_of_transformers() {
    for (name, is_read) in
        [("dinov3_vit", true), ("dinov3_vit_gated", true), ("dinov3_vit_all_biases", false)]
    {
        let weights = EncoderWeights::open(&drawn(name).join("original.safetensors")).unwrap();
        let measured = weights.measure(Some(3));
        if !is_read {
            let error = format!("{:#}", measured.unwrap_err());
            assert!(error.contains("rope_embed.periods") && error.contains("theta"), "{error}");
            continue;
        }
        let (_, expected, stored) = load(&drawn(name).join("model"));
        assert_eq!(measured.unwrap().spec, stored.spec, "{name}");
        let storage = Storage::Empty { device: Device::Cpu, matrices: Kind::Float };
        let mut parameters = Parameters::new(storage);
        stored.spec.build(&mut parameters, 4);
        weights.load_into(parameters.named()).unwrap();
        assert_eq!(parameters.named(), expected.named(), "{name}");
    }
}

/// Gradients of every parameter are autograd's in `transformers`; recomputed blocks give the same bits.
#[test]
fn gradients_are_those_of_transformers() {
    for (name, _) in MODELS {
        let outputs = read(drawn(name).join("outputs.safetensors"));
        let size = sizes(&outputs).into_iter().find(|size| *size == 56).unwrap();
        let expected = EncoderWeights::open(&drawn(name).join("gradients")).unwrap();
        let mut of_passes = Vec::new();
        for recomputed in [0, 2] {
            let (encoder, parameters, _) = load(&drawn(name).join("model"));
            parameters.train();
            let input = Input::whole(outputs[&format!("pixels_{size}")].shallow_clone());
            let (tokens, rest) = match recomputed {
                0 => (encoder.forward(&input, Kind::Float), None),
                blocks => {
                    let (tokens, rest) = encoder.forward_recomputed(&input, Kind::Float, blocks);
                    (tokens, Some(rest))
                }
            };
            let loss = (encoder.normalise(tokens).all * &outputs["w"]).sum(Kind::Float);
            loss.backward();
            rest.map_or(Ok(()), |rest| rest()).unwrap();
            for (parameter, tensor) in &parameters.trained() {
                let theirs = expected.file.read(parameter).unwrap();
                let what = format!("{name}, gradient of {parameter}");
                assert_close(&tensor.grad(), &theirs, TOLERANCE, &what);
            }
            let gradients = parameters.trained().into_iter().map(|(_, tensor)| tensor.grad());
            of_passes.push(gradients.collect::<Vec<_>>());
            // What training leaves as it is, the tokens do not depend on.
            for (parameter, tensor) in parameters.named() {
                if !tensor.requires_grad() {
                    let theirs = expected.file.read(parameter).unwrap();
                    assert_eq!(theirs, theirs.zeros_like(), "{name}, {parameter}");
                }
            }
        }
        assert_eq!(of_passes[0], of_passes[1], "{name}: recomputed blocks change bits");
    }
}

/// In bf16 and in FP8, which the CPU imitates, the teacher's tokens stay near, with every activation and norm.
#[test]
fn frozen_formats_of_the_other_blocks_stay_near() {
    for (name, least) in [("deit", 0.99), ("clip", 0.99), ("siglip_whole", 0.99)] {
        let outputs = read(drawn(name).join("outputs.safetensors"));
        let expected = &outputs["last_hidden_state_56"];
        let input = Input::whole(outputs["pixels_56"].to_kind(Kind::BFloat16));
        for fp8 in [false, true] {
            let (mut encoder, _parameters, _) = load(&drawn(name).join("model"));
            let format = FrozenFormat { compute: Kind::BFloat16, residual: Kind::Float, fp8 };
            let found = tch::no_grad(|| {
                encoder.freeze(format, 4);
                let junctions = Junctions::default();
                let tokens = encoder.forward_frozen(&input, Kind::BFloat16, &junctions).unwrap();
                assert_eq!(encoder.pooled(&tokens).kind(), Kind::Float);
                encoder.normalise(tokens).all
            });
            assert_ne!(&found, expected);
            let cosine = mean_cosine(&found, expected);
            assert!(cosine > least, "{name}, fp8 {fp8}: {cosine}");
        }
    }
}

/// Parameters of published encoders, as their model cards and OpenCLIP's and timm's tables have them, for images of so
/// many pixels; of OpenCLIP's the product behind the pooled vector is counted too, which is not of the encoder.
#[test]
fn published_encoders_have_the_published_numbers() {
    for (name, image_size, beside, expected) in [
        ("clip_vitb32", 224, 0, 87_456_000.0),
        ("clip_vitl14", 224, 0, 303_179_776.0),
        ("clip_vith14_laion", 224, 1280 * 1024, 632.08e6),
        ("clip_vitg14_laion", 224, 1408 * 1024, 1012.65e6),
        ("clip_vitbigg14_laion", 224, 1664 * 1280, 1844.91e6),
        ("siglip_vitb16", 224, 0, 92_884_224.0),
        ("siglip_so400m14", 384, 0, 428_225_600.0),
        ("deit_b16", 224, 0, 85_800_192.0),
    ] {
        let spec = EncoderSpec::named(name).unwrap();
        let mut parameters = Parameters::new(Storage::Shapes);
        spec.build(&mut parameters, spec.grid_size(image_size));
        let found = (parameters.count() + beside) as f64;
        let digits = if expected % 1e4 == 0.0 && beside > 0 { 5e3 } else { 0.5 };
        assert!((found - expected).abs() <= digits, "{name}: {found}, expected {expected}");
        assert_eq!(spec.name(), Some(name));
        let written = format!("model = {}", spec.to_toml());
        let read: std::collections::BTreeMap<String, EncoderSpec> =
            toml::from_str(&written).unwrap();
        assert_eq!(read["model"], spec);
        // A product with a weight is two operations a token.
        let tokens = spec.grid_size(image_size).pow(2) + spec.class_tokens;
        let ratio = spec.flops(tokens - spec.class_tokens) / (2.0 * tokens as f64 * found);
        assert!((0.9..1.2).contains(&ratio), "{name}: {ratio}");
    }
}

/// Fixed positions are drawn as `transformers` makes them, and training leaves them.
#[test]
fn fixed_positions_are_those_of_transformers() {
    let expected = &read(drawn("vit_mae").join("outputs.safetensors"))["positions"];
    let (_, _, stored) = load(&drawn("vit_mae").join("model"));
    let (device, matrices) = (Device::Cpu, Kind::Float);
    let storage = Storage::Drawn { device, matrices, seed: 1, rng_stream: 0 };
    let mut parameters = Parameters::new(storage);
    stored.spec.build(&mut parameters, 4);
    parameters.train();
    let is_positions = |(name, _): &&(String, Tensor)| name == "pos_embed";
    let (_, positions) = parameters.named().iter().find(is_positions).unwrap();
    assert_close(positions, expected, 1e-6, "fixed positions");
    assert!(
        !positions.requires_grad() && !parameters.trained().iter().any(|one| is_positions(&one))
    );
}

fn distill(workshop: &Workshop, arguments: &[&str]) -> Finished {
    Finished::of(workshop.command(arguments).output().unwrap())
}

/// Exports by name, and the tokens `[B, T, D]` that each gives for the drawn images of 56 pixels.
type Exports = Vec<(&'static str, PathBuf, Tensor)>;

/// `AutoModel` loads the exports and gives their tokens; all that it computes for each, where Python is told `more`.
fn assert_transformers_agree(exports: &Exports, more: &[&str]) -> Vec<Tensors> {
    let folder = tempfile::tempdir().unwrap();
    let pixels = folder.path().join("pixels.safetensors");
    let images = &read(drawn("dinov2").join("outputs.safetensors"))["pixels_56"];
    Tensor::write_safetensors(&[("images", images)], &pixels).unwrap();
    let out = |name: &str| folder.path().join(format!("{name}.safetensors"));
    let mut command = python("hf_reference.py");
    for (place, (name, export, _)) in exports.iter().enumerate() {
        let also = if place == 0 { None } else { Some("--also") };
        command.args(also).arg(export).arg(out(name));
    }
    run(command.arg("--pixels").arg(&pixels).args(more));
    let theirs = exports.iter().map(|(name, _, expected)| {
        let tensors = read(out(name));
        assert_close(&tensors["last_hidden_state"], expected, TOLERANCE, name);
        tensors
    });
    theirs.collect()
}

fn losses(workshop: &Workshop, run: &str) -> Vec<f64> {
    let text = fs::read_to_string(workshop.path(run).join("metrics.jsonl")).unwrap();
    let rows = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    rows.map(|row| row["students"][0]["loss"].as_f64().unwrap()).collect()
}

/// Every family teaches a Pixio student of another patch size and number of class tokens, and every family's student
/// learns from it, half of its patches masked, paths skipped and blocks recomputed: losses fall, a run that was
/// stopped in between ends bit for bit as one that was not, and its export is loaded by `transformers`.
#[test]
fn every_family_teaches_and_learns() {
    let (kept, mut exports) = (tempfile::tempdir().unwrap(), Vec::new());
    for (name, family) in MODELS {
        let workshop = Workshop::new();
        let weights = format!("teacher.weights={}", drawn(name).join("model").display());
        let common = ["data.input_size=56", "schedule.epochs=6", "optimizer.learning_rate=3e-3"];
        let train = |run: &str, more: &[&str]| {
            let directory = format!("run.dir={run}");
            let mut command = workshop.training(&[&common[..], more, &[&directory]].concat());
            Finished::of(command.output().unwrap()).succeeds()
        };
        // The teacher's numbers are those of its config.json: the table names none.
        let config = fs::read_to_string(workshop.path("config.toml")).unwrap();
        let config = config.replace(
            "model = { dim = 48, depth = 2, heads = 4, patch_size = 8 }\nweights = \"random\"",
            &format!("weights = {:?}", drawn(name).join("model")),
        );
        fs::write(workshop.path("config.toml"), config).unwrap();
        let student = "students=[{ name = \"one\", model = { dim = 32, depth = 2, heads = 2, patch_size = 8 } }]";
        let plan = workshop.training(&[&common[..], &[student]].concat()).arg("--dry-run").output();
        let plan = Finished::of(plan.unwrap()).succeeds();
        let class = match family {
            "siglip" => "no class tokens",
            _ => "8 class tokens as their mean",
        };
        for words in [class, "7 × 7", "4 × 4"] {
            assert!(plan.stdout.contains(words), "{name}: `{words}` is not in {}", plan.stdout);
        }
        train("taught", &[student, &weights]);
        let found = losses(&workshop, "taught");
        assert!(found.last().unwrap() < &(0.9 * found[0]), "{name} teaches: {found:?}");
        if name.ends_with("_whole") {
            // Its students are those of the tower alone.
            continue;
        }

        let gated = name.ends_with("gated");
        let more = match name {
            "dinov3_vit_few_biases_gated" => ", biases = [], registers = 0, rope_theta = 30",
            "vit_few_biases" => ", biases = [\"proj\", \"mlp\"]",
            _ => "",
        };
        let student = format!(
            "students=[{{ name = \"one\", mask_ratio = 0.5, mask_grid = 1, drop_path = 0.3, \
             recompute_blocks = 1, model = {{ family = \"{family}\", dim = 32, depth = 2, heads = 2, \
             patch_size = 14, gated = {gated}{more} }} }}]"
        );
        let teacher = "teacher={ model = { dim = 48, depth = 2, heads = 4, patch_size = 8 }, weights = \"random\" }";
        let learn = |run: &str, more: &[&str]| {
            train(run, &[&[student.as_str(), teacher][..], more].concat());
        };
        learn("learned", &[]);
        let found = losses(&workshop, "learned");
        assert!(found.last().unwrap() < &(0.9 * found[0]), "{name} learns: {found:?}");
        learn("stopped", &["checkpoint.every=4", "schedule.steps_per_epoch=2"]);
        fs::remove_dir_all(workshop.path("stopped/checkpoints/step-12")).unwrap();
        learn("stopped", &["checkpoint.every=4", "schedule.steps_per_epoch=2"]);
        assert_eq!(
            workshop.checkpoint("learned", 12),
            workshop.checkpoint("stopped", 12),
            "{name} goes on bit for bit"
        );
        let exported =
            |run: &str| fs::read(workshop.path(run).join("exports/one/model.safetensors")).unwrap();
        assert!(exported("learned") == exported("stopped"), "{name}: exports differ");
        let export = kept.path().join(name);
        fs::rename(workshop.path("learned/exports/one"), &export).unwrap();
        let outputs = read(drawn(name).join("outputs.safetensors"));
        let (encoder, _parameters, _) = load(&export);
        let input = Input::whole(outputs["pixels_56"].shallow_clone());
        let ours = tch::no_grad(|| encoder.normalise(encoder.forward(&input, Kind::Float)).all);
        exports.push((name, export, ours));
    }
    assert_transformers_agree(&exports, &[]);
}

/// CLIP's tower teaches SigLIP's, which has no class token, and the other way round; where class tokens alone are
/// compared, there is nothing that they share.
#[test]
fn models_without_class_tokens_are_compared_by_patches() {
    for (teacher, student) in [("clip_whole", "siglip"), ("siglip", "clip"), ("deit", "siglip")] {
        let workshop = Workshop::new();
        let model = drawn(teacher).join("model");
        let config = fs::read_to_string(workshop.path("config.toml")).unwrap();
        let config = config.replace(
            "model = { dim = 48, depth = 2, heads = 4, patch_size = 8 }\nweights = \"random\"",
            &format!("weights = {model:?}"),
        );
        fs::write(workshop.path("config.toml"), config).unwrap();
        let students = format!(
            "students=[{{ name = \"one\", mask_ratio = 0.5, mask_grid = 1, model = {{ family = \"{student}\", \
             dim = 32, depth = 2, heads = 2, patch_size = 14, mlp_width = 72 }} }}]"
        );
        let common =
            ["data.input_size=56", "schedule.epochs=6", "optimizer.learning_rate=3e-3", &students];
        let run = |more: &[&str]| {
            Finished::of(workshop.training(&[&common[..], more].concat()).output().unwrap())
        };
        let found = run(&["run.dir=run"]).succeeds();
        assert!(found.stderr.contains("no class tokens"), "{}", found.stderr);
        let found = losses(&workshop, "run");
        assert!(found.last().unwrap() < &(0.9 * found[0]), "{teacher} → {student}: {found:?}");
        let words = ["students.0.model", "SigLIP", "share no tokens", "loss.patch"];
        run(&["run.dir=other", "loss.patch=none"]).fails(2, &words);
    }
}
