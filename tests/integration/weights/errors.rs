//! What is said of weights that do not fit, or are not whole.

use std::fs;
use std::path::{Path, PathBuf};

use distill::encoders::EncoderWeights;
use tch::{Device, Kind, Tensor};

use super::{Tensors, golden, load_error, read_independently, save, targets_like};

fn zeros(shape: &[i64]) -> Tensor {
    Tensor::zeros(shape, (Kind::Float, Device::Cpu))
}

/// The parameters of the golden encoder, under original names.
fn model() -> Tensors {
    read_independently(&golden("infer_native/pixio.safetensors"))
}

/// Saves a changed copy of the golden encoder and gives the error of loading it.
fn error_of(layout: &str, change: impl FnOnce(&mut Tensors)) -> (String, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("changed.safetensors");
    let mut tensors = read_independently(&golden("infer_native").join(layout));
    change(&mut tensors);
    save(&path, &tensors);
    (load_error(&path, &model()), path)
}

fn assert_says(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}

/// One message lists what is missing, what is too much and what has another shape, under the
/// names that the file uses, with the file and its layout.
#[test]
fn one_error_lists_every_difference() {
    let (error, path) = error_of("pixio.safetensors", |tensors| {
        tensors.remove("norm.bias");
        tensors.remove("blocks.1.mlp.fc1.weight");
        tensors.insert("blocks.1.gate".into(), zeros(&[2]));
        tensors.insert("last_proj.0.weight".into(), zeros(&[2, 2]));
        tensors.insert("pos_embed".into(), zeros(&[1, 24, 64]));
    });
    assert_says(
        &error,
        &[
            &path.display().to_string(),
            "original Pixio layout",
            "missing (2): blocks.1.mlp.fc1.weight, norm.bias",
            "unexpected (1): blocks.1.gate",
            "wrong shape (1): pos_embed is [1, 24, 64], expected [1, 72, 64]",
        ],
    );
    assert!(!error.contains("last_proj"), "{error}");
    let (error, _) = error_of("model.safetensors", |tensors| {
        tensors.remove("layernorm.bias");
        tensors.remove("encoder.layer.1.attention.attention.key.bias");
        tensors.remove("encoder.layer.0.output.dense.weight");
        tensors.insert("encoder.layer.0.extra".into(), zeros(&[2]));
        tensors.insert("encoder.layer.2.attention.attention.value.bias".into(), zeros(&[3]));
    });
    assert_says(
        &error,
        &[
            "Hugging Face layout",
            "missing (3): encoder.layer.0.output.dense.weight, blocks.1.attn.qkv.bias (it lacks \
             encoder.layer.1.attention.attention.key.bias), layernorm.bias",
            "unexpected (1): encoder.layer.0.extra",
            "value.bias is [64] + [64] + [3], expected [192]",
        ],
    );
}

/// A long list is cut, and the whole difference comes first.
#[test]
fn other_width_and_depth_are_named_first() {
    let wide = golden("distill_mask/student0.init.safetensors");
    let error = load_error(&wide, &model());
    assert_says(
        &error,
        &[
            "does not fit the model: the weights have width 48, the config says 64; the weights \
             have 2 blocks, the config says 3",
            "missing (12)",
            "and 2 more",
        ],
    );
    assert!(error.lines().next().unwrap().contains("width 48"), "{error}");
    assert!(error.lines().count() == 3 && error.len() < 2500, "{error}");
}

/// A model is not half filled by weights that do not fit.
#[test]
fn nothing_is_copied_when_something_is_wrong() {
    let mut model = model();
    model.insert("blocks.9.norm1.weight".into(), zeros(&[64]));
    let targets = targets_like(&model, Kind::Float);
    let weights = EncoderWeights::open(&golden("infer_native")).unwrap();
    weights.load_into(&targets).unwrap_err();
    assert!(
        targets.iter().all(|(_, target)| target.abs().sum(Kind::Float).double_value(&[]) == 0.0)
    );
}

/// Writes `contents` as a file called `name` and gives the error of opening it.
fn open_error(name: &str, contents: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, contents).unwrap();
    let error = EncoderWeights::open(&path).err().expect("this should not open");
    let error = format!("{error:#}");
    assert!(error.contains(&path.display().to_string()), "no path in: {error}");
    error
}

fn with_header(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

/// Files that are cut short, that lie about themselves, or are something else.
#[test]
fn damaged_files_are_refused() {
    let whole = fs::read(golden("infer_native/pixio.safetensors")).unwrap();
    for length in [0, 7, 8, 100, 5000, whole.len() - 1] {
        let error = open_error("cut.safetensors", &whole[..length]);
        assert_says(&error, &["cut short"]);
    }
    let longer: Vec<u8> = whole.iter().copied().chain([0]).collect();
    assert_says(&open_error("longer.safetensors", &longer), &["safetensors"]);
    for (header, data) in [
        (r#"{"norm.weight":{"dtype":"F32","shape":[4],"data_offsets":[0,99]}}"#, 16),
        (r#"{"norm.weight":{"dtype":"F32","shape":[5],"data_offsets":[0,16]}}"#, 16),
        (r#"{"norm.weight":{"dtype":"F32","shape":[4],"data_offsets":[8,24]}}"#, 24),
        (r#"{"norm.weight":{"dtype":"F99","shape":[4],"data_offsets":[0,16]}}"#, 16),
        (r#"{"norm.weight":{"dtype":"F32","shape":[-4],"data_offsets":[0,16]}}"#, 16),
        (
            r#"{"norm.weight":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}"#,
            0,
        ),
        (r#"{"norm.weight":"#, 16),
    ] {
        open_error("lying.safetensors", &with_header(header, data));
    }
    open_error("huge.safetensors", &[[0xff; 8].as_slice(), b"{}"].concat());
    let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n";
    assert_says(&open_error("model.safetensors", lfs), &["Git LFS pointer", "git lfs pull"]);
    assert_says(&open_error("image.pth", b"\xff\xd8\xff\xe0 JFIF"), &["neither a safetensors"]);
}

/// Weights of another network are named as such.
#[test]
fn foreign_weights_are_refused() {
    let header = r#"{"conv1.weight":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#;
    let error = open_error("resnet.safetensors", &with_header(header, 16));
    assert_says(&error, &["not the weights of a Pixio or DINOv2", "conv1.weight"]);
    let missing = EncoderWeights::open(Path::new("/nonexistent/weights")).err().unwrap();
    assert_says(&format!("{missing:#}"), &["/nonexistent/weights does not exist"]);
}

/// A Hugging Face folder with something wrong in it.
#[test]
fn broken_folders_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = || format!("{:#}", EncoderWeights::open(folder.path()).err().unwrap());
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    assert_says(&error(), &["holds no weights", "model.safetensors.index.json"]);
    let index = "model.safetensors.index.json";
    write(index, r#"{"weight_map": {"layernorm.bias": "model-00001-of-00001.safetensors"}}"#);
    assert_says(&error(), &[index, "model-00001-of-00001.safetensors"]);
    fs::copy(
        golden("distill_mask/teacher.safetensors"),
        folder.path().join("model-00001-of-00001.safetensors"),
    )
    .unwrap();
    assert_says(&error(), &["layernorm.bias should be in model-00001-of-00001.safetensors"]);
    write(index, r#"{"weight_map": {"layernorm.bias": "../model.safetensors"}}"#);
    assert_says(&error(), &["`../model.safetensors` is not the name of a file beside it"]);
    write(index, "{");
    assert_says(&error(), &[index]);
    fs::copy(golden("infer_native/model.safetensors"), folder.path().join("model.safetensors"))
        .unwrap();
    let config = fs::read_to_string(golden("infer_native/config.json")).unwrap();
    for (from, to, says) in [
        (r#""pixio""#, r#""beit""#, "model_type is `beit`, expected `pixio`"),
        (r#""gelu""#, r#""silu""#, "hidden_act is `silu`"),
        ("1e-06", "1e-05", "layer_norm_eps is 1e-5"),
        (r#""hidden_size": 64,"#, "", "hidden_size"),
        (r#""patch_size": 8"#, r#""patch_size": [8, 4]"#, "expected a square"),
    ] {
        write("config.json", &config.replacen(from, to, 1));
        assert_says(&error(), &["config.json", says]);
    }
    write("config.json", &config.replace(r#""hidden_size": 64"#, r#""hidden_size": 128"#));
    let error = EncoderWeights::open(folder.path()).unwrap().measure(None).unwrap_err();
    assert_says(&format!("{error:#}"), &["another encoder", "128"]);
}

/// Whatever byte of a header is wrong: an error or tensors, never a panic.
#[test]
fn flipped_header_bytes_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flipped.safetensors");
    let whole = fs::read(golden("infer_native/pixio.safetensors")).unwrap();
    for position in (0..3000).step_by(7) {
        let mut bytes = whole.clone();
        bytes[position] ^= 1 << (position % 8);
        fs::write(&path, bytes).unwrap();
        if let Ok(weights) = EncoderWeights::open(&path) {
            let _ = weights.measure(Some(4));
            for name in weights.file.shapes().keys() {
                assert!(weights.file.read(name).is_ok(), "{name}");
            }
        }
    }
}
