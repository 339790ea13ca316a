//! Encoders of other families than Pixio's, against the real classes of `transformers` with drawn weights: outputs,
//! gradients, exports; and each as teacher and as student of whole runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use distill::encoders::{Encoder, EncoderWeights, Input, StoredEncoder};
use distill::nn::{FrozenFormat, Junctions, Parameters, Storage};
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;

use crate::support::golden::{Tensors, assert_close, read};
use crate::support::python::{python, run};
use crate::support::workshop::{Finished, Workshop};

/// Names of the models that the tests' Python draws, and of their families.
const MODELS: [(&str, &str); 11] = [
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
        }
        assert_eq!(of_passes[0], of_passes[1], "{name}: recomputed blocks change bits");
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

/// Both forms of an export give the same tensors back, and `transformers` loads the one that is its own.
#[test]
fn exports_are_what_they_were() {
    let workshop = Workshop::new();
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
        let out = workshop.path("out.safetensors");
        let pixels = workshop.path("pixels.safetensors");
        let outputs = read(drawn(name).join("outputs.safetensors"));
        Tensor::write_safetensors(&[("images", &outputs["pixels_56"])], &pixels).unwrap();
        run(python("hf_reference.py").arg(&hf).arg(&out).arg("--pixels").arg(&pixels));
        let theirs = read(out);
        let expected = &outputs["last_hidden_state_56"];
        assert_close(&theirs["last_hidden_state"], expected, TOLERANCE, name);
    }
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
        for words in ["8 class tokens as their mean", "7 × 7", "4 × 4"] {
            assert!(plan.stdout.contains(words), "{name}: `{words}` is not in {}", plan.stdout);
        }
        train("taught", &[student, &weights]);
        let found = losses(&workshop, "taught");
        assert!(found.last().unwrap() < &(0.9 * found[0]), "{name} teaches: {found:?}");

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
        let (out, export) =
            (workshop.path("out.safetensors"), workshop.path("learned/exports/one"));
        let pixels = workshop.path("pixels.safetensors");
        let outputs = read(drawn(name).join("outputs.safetensors"));
        Tensor::write_safetensors(&[("images", &outputs["pixels_56"])], &pixels).unwrap();
        run(python("hf_reference.py").arg(&export).arg(&out).arg("--pixels").arg(&pixels));
        let (encoder, _parameters, _) = load(&export);
        let input = Input::whole(outputs["pixels_56"].shallow_clone());
        let ours = tch::no_grad(|| encoder.normalise(encoder.forward(&input, Kind::Float)).all);
        assert_close(&ours, &read(out)["last_hidden_state"], TOLERANCE, name);
    }
}

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
}
