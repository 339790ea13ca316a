//! Exports: what other programs make of them, and the command that writes them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use distill::artifacts::Stream;
use distill::config::{ExportFormat, ShuffleConfig};
use distill::dist::LocalStore;
use distill::encoders::{EncoderSpec, EncoderWeights, export};
use distill::tasks;
use distill::tasks::distill::DistillConfig;
use distill::tasks::distill::{Distillation, Teacher};
use distill::train::checkpoint::{Saver, Snapshot};
use distill::train::objective::Objective;
use distill::train::optimizer::AdamW;
use distill::weights::{Preprocessing, Strangers};
use tch::{Device, Kind};
use tempfile::TempDir;

use super::{assert_same, golden, python, read_all, read_independently, run};

/// `distill export` with these arguments.
fn distill_export(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_distill"));
    command.arg("export").args(arguments).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Exports the golden encoder from its original names to the Hugging Face layout.
fn exported(out: &Path) {
    let file = EncoderWeights::open(&golden("infer_native/pixio.safetensors")).unwrap();
    let encoder = file.measure(Some(4)).unwrap();
    let written = export(
        &file,
        &encoder,
        Preprocessing::IMAGENET,
        &[ExportFormat::Hf],
        false,
        (out, Strangers::Refuse),
    )
    .unwrap();
    let names = ["config.json", "model.safetensors", "preprocessor_config.json"];
    assert_eq!(written, names.map(|name| out.join(name)));
}

/// Largest difference of two tensors, relative to the second's norm.
fn relative_difference(found: &tch::Tensor, expected: &tch::Tensor) -> f64 {
    ((found - expected).norm() / expected.norm()).double_value(&[])
}

/// From original names to the files that transformers itself wrote for the same encoder.
#[test]
fn hugging_face_export_equals_what_transformers_writes() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("deep/export");
    exported(&out);
    let config = |folder: &Path| -> serde_json::Value {
        serde_json::from_str(&fs::read_to_string(folder.join("config.json")).unwrap()).unwrap()
    };
    assert_eq!(config(&out), config(&golden("infer_native")));
    let model = "model.safetensors";
    assert_same(
        &read_independently(&out.join(model)),
        &read_independently(&golden("infer_native").join(model)),
    );
}

/// The real transformers loads an export with no tensor missing or left over, and computes from
/// it the tokens that the golden case expects; its image processor gives images of the size.
#[test]
fn transformers_loads_the_export() {
    let folder = tempfile::tempdir().unwrap();
    let (out, result) = (folder.path().join("export"), folder.path().join("result.safetensors"));
    exported(&out);
    let expected_path = golden("infer_native/expected.safetensors");
    run(python("hf_reference.py").args([&out, &result]).arg("--pixels").arg(&expected_path));
    let (found, expected) = (read_independently(&result), read_independently(&expected_path));
    let key = "last_hidden_state";
    let difference = relative_difference(&found[key], &expected[key]);
    assert!(difference < 1e-4, "tokens differ by {difference:e}");
    run(python("hf_reference.py")
        .args([&out, &result])
        .arg("--image")
        .arg(golden("crops/large.jpg")));
    let pixels = &read_independently(&result)["pixel_values"];
    assert_eq!(pixels.size(), [1, 3, 64, 64]);
    let spread = pixels.std(true).double_value(&[]);
    assert!((0.1..3.0).contains(&spread), "pixels are not normalised: deviation {spread}");
}

/// There and back again: the export in original names has the encoder's tensors, notes the heads,
/// and leaves the projector out unless it is asked for.
#[test]
fn pixio_export_keeps_names_and_notes_the_heads() {
    let folder = tempfile::tempdir().unwrap();
    let student = golden("distill_mask/student0.init.safetensors");
    let all = read_independently(&student);
    for projector in [false, true] {
        let out = folder.path().join(format!("projector_{projector}"));
        let mut arguments = vec!["--weights", text(&student), "--heads", "4", "--format", "pixio"];
        arguments.extend(["--out", text(&out)]);
        arguments.extend(projector.then_some("--projector"));
        let output = distill_export(&arguments);
        assert!(output.status.success(), "{output:?}");
        let expected = all
            .iter()
            .filter(|(name, _)| projector || !name.starts_with("last_proj."))
            .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()))
            .collect();
        assert_same(&read_independently(&out.join("pixio.safetensors")), &expected);
        let size = EncoderSpec { patch_size: 8, ..EncoderSpec::new(48, 2, 4) };
        assert_eq!(EncoderWeights::open(&out).unwrap().declared(), Some(size));
        let again = folder.path().join(format!("again_{projector}"));
        let output = distill_export(&["--weights", text(&out), "--out", text(&again)]);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(EncoderWeights::open(&again).unwrap().measure(None).unwrap().spec, size);
    }
}

/// Both layouts can stand in one folder, and an export can be written over an earlier one.
#[test]
fn an_export_replaces_an_export_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let file = EncoderWeights::open(&golden("infer_native")).unwrap();
    let encoder = file.measure(None).unwrap();
    let write = |formats: &[ExportFormat]| {
        export(&file, &encoder, Preprocessing::IMAGENET, formats, false, (&out, Strangers::Refuse))
    };
    assert_eq!(write(&[ExportFormat::Hf, ExportFormat::Original]).unwrap().len(), 4);
    assert_eq!(write(&[ExportFormat::Hf]).unwrap().len(), 3);
    assert!(!out.join("pixio.safetensors").exists(), "the earlier export is still there");
    fs::write(out.join("thesis.txt"), "precious").unwrap();
    let error = format!("{:#}", write(&[ExportFormat::Original]).unwrap_err());
    assert!(error.contains("thesis.txt, which is no part of an export"), "{error}");
    assert!(out.join("thesis.txt").exists() && out.join("config.json").exists());
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "temporary folders are left: {left:?}");
    let source = folder.path().join("source");
    fs::create_dir(&source).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(golden("infer_native").join(name), source.join(name)).unwrap();
    }
    let output = distill_export(&["--weights", text(&source), "--out", text(&source)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("holds the weights themselves"));
    assert_same(&read_all(&source), &read_all(&golden("infer_native")));
}

/// A run directory with checkpoints of one student at two steps.
fn run_directory() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let config = r#"
        [run]
        dir = "run"
        [teacher]
        model = { dim = 64, depth = 2, heads = 4, patch_size = 8 }
        weights = "random"
        [[students]]
        name = "small"
        model = { dim = 48, depth = 2, heads = 4, patch_size = 8 }
        [data]
        shards = ["*.tar"]
        input_size = 64
        mean = [0.5, 0.4, 0.3]
        [schedule]
        epochs = 1.0
    "#;
    fs::create_dir(&run).unwrap();
    fs::write(run.join("config.toml"), config).unwrap();
    let config = tasks::load_as::<DistillConfig>(&run.join("config.toml"), &[]).unwrap();
    let drawn = Teacher::drawn(Device::Cpu, Kind::Float, 0);
    let teacher = Teacher::new(drawn, config.teacher.model, 8);
    let objective = Distillation::new(&config, teacher, Device::Cpu, Kind::Float);
    let trainees = objective.trainees();
    let optimizer = AdamW::new(&trainees[0].parameters, &config.train.optimizer, None);
    let mut saver = Saver::new(&run, 2, Arc::new(LocalStore::default()), 1);
    let stream = Stream {
        seed: 0,
        dataset: String::new(),
        shuffle: ShuffleConfig::default(),
        global_batch_size: 64,
    };
    for (step, weights) in [(2, "init"), (10, "final")] {
        let weights = golden(&format!("distill_mask/student0.{weights}.safetensors"));
        let stored = EncoderWeights::open(&weights).unwrap().file;
        stored.load_into(trainees[0].parameters.named(), |_| false).unwrap();
        let trainees_state = vec![optimizer.state_of(&trainees[0])];
        let snapshot =
            Snapshot { step, position: step * 64, stream: &stream, trainees: trainees_state };
        saver.save(&snapshot, &|| Ok(())).unwrap().wait(&|| Ok(())).unwrap();
        saver.finish(&|| Ok(())).unwrap();
    }
    (folder, run)
}

/// A student of a run is exported from the newest checkpoint or the one asked for, with the run's
/// normalisation.
#[test]
fn a_student_of_a_run_is_exported() {
    let (folder, run) = run_directory();
    for (step, weights) in [(None, "final"), (Some("2"), "init")] {
        let out = folder.path().join(weights);
        let mut arguments = vec!["--run", text(&run), "--student", "small", "--out", text(&out)];
        arguments.extend(step.iter().flat_map(|step| ["--checkpoint", *step]));
        let output = distill_export(&arguments);
        assert!(output.status.success(), "{output:?}");
        let expected = golden(&format!("distill_mask/student0.{weights}.safetensors"));
        let mut expected = read_independently(&expected);
        expected.retain(|name, _| !name.starts_with("last_proj."));
        assert_same(&read_all(&out), &expected);
        let config = EncoderWeights::open(&out).unwrap().declared().unwrap();
        assert_eq!((config.heads, config.patch_size), (4, 8));
        let processor = Preprocessing::read(&out.join("preprocessor_config.json")).unwrap();
        assert_eq!(processor.mean, [0.5, 0.4, 0.3]);
    }
}

/// Wrong arguments give exit code 2 and name what would be right.
#[test]
fn wrong_arguments_are_explained() {
    let (folder, run) = run_directory();
    let out = folder.path().join("out");
    let student = |name| vec!["--run", text(&run), "--student", name, "--out", text(&out)];
    let weights = golden("infer_native");
    let projector = vec!["--weights", text(&weights), "--projector", "--out", text(&out)];
    for (arguments, code, says) in [
        (student("large"), 2, "no student `large`; it has small"),
        (projector, 2, "--format pixio"),
        (vec!["--out", text(&out)], 2, "--weights"),
        ([student("small"), vec!["--checkpoint", "7"]].concat(), 1, "step-7"),
    ] {
        let output = distill_export(&arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
        assert!(error.contains(says) && !error.contains("backtrace"), "{error}");
        assert!(!out.exists(), "{arguments:?} left an export");
    }
}

/// What training would refuse is not exported: weights that are no numbers, pixels in another range, heads that the
/// config.json beside a file contradicts. An encoder without normalisation has none in its export.
#[test]
fn what_training_would_refuse_is_not_exported() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    exported(&model);
    let out = folder.path().join("out");
    let export = |path: &Path, more: &[&str]| {
        let _ = fs::remove_dir_all(&out);
        let output =
            distill_export(&[&["--weights", text(path), "--out", text(&out)], more].concat());
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let file = model.join("model.safetensors");
    let (code, error) = export(&file, &["--heads", "2"]);
    assert!(code == Some(1) && error.contains("2 attention heads are asked for"), "{error}");
    assert_eq!(export(&file, &[]).0, Some(0), "its heads are those of the config.json beside it");

    let processor = model.join("preprocessor_config.json");
    let before = fs::read_to_string(&processor).unwrap();
    let change = |from: &str, to: &str| {
        assert!(before.contains(from), "{before}");
        fs::write(&processor, before.replace(from, to)).unwrap();
    };
    change("\"do_rescale\": true", "\"do_rescale\": false");
    let (code, error) = export(&model, &[]);
    assert!(code == Some(1) && error.contains("do_rescale is false"), "{error}");
    change("\"do_normalize\": true", "\"do_normalize\": false");
    assert_eq!(export(&model, &[]).0, Some(0));
    let Preprocessing { mean, std } =
        Preprocessing::read(&out.join("preprocessor_config.json")).unwrap();
    assert_eq!((mean, std), ([0.0; 3], [1.0; 3]));

    let mut bytes = fs::read(&file).unwrap();
    let end = bytes.len() - 4;
    bytes[end..].copy_from_slice(&f32::INFINITY.to_le_bytes());
    fs::write(&file, bytes).unwrap();
    let (code, error) = export(&model, &[]);
    assert!(code == Some(1) && error.contains("are not finite numbers"), "{error}");
    assert!(!out.exists());
}
