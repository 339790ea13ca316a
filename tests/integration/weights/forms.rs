//! Every form of weights gives the same tensors.

use std::collections::BTreeMap;
use std::fs;

use distill::encoders::{EncoderSpec, EncoderWeights, FAMILIES};
use distill::weights::write_safetensors;
use tch::{Kind, Tensor};

use super::{Tensors, assert_same, golden, read_all, read_independently, save, targets_like};

/// The Hugging Face folder and the original file of one encoder load as the same parameters.
#[test]
fn both_layouts_give_the_same_tensors() {
    for case in ["infer_native", "infer_interp"] {
        let expected = read_independently(&golden(case).join("pixio.safetensors"));
        for (path, layout) in [
            (golden(case), "Hugging Face layout"),
            (golden(case).join("model.safetensors"), "Hugging Face layout"),
            (golden(case).join("pixio.safetensors"), "original Pixio layout"),
        ] {
            assert_eq!(EncoderWeights::open(&path).unwrap().file.layout(), layout);
            assert_same(&read_all(&path), &expected);
        }
    }
}

/// `shapes` shows query, key and value as the one tensor that the model has.
#[test]
fn shapes_show_the_fused_tensor() {
    let weights = EncoderWeights::open(&golden("infer_native")).unwrap();
    let shapes = weights.file.shapes();
    assert_eq!(shapes["blocks.2.attn.qkv.weight"], [192, 64]);
    assert_eq!(shapes["blocks.2.attn.qkv.bias"], [192]);
    assert_eq!(shapes["pos_embed"], [1, 72, 64]);
    assert_eq!(shapes.len(), 6 + 3 * 12);
}

/// The encoder's numbers come from config.json where it is there, else from shapes and `heads`.
#[test]
fn encoder_numbers_are_found() {
    let size = EncoderSpec { patch_size: 8, ..EncoderSpec::new(64, 3, 4) };
    let folder = EncoderWeights::open(&golden("infer_native")).unwrap();
    assert_eq!(folder.declared(), Some(size));
    let stored = folder.measure(None).unwrap();
    assert_eq!((stored.spec, stored.image_size), (size, 64));
    let file = EncoderWeights::open(&golden("infer_native/pixio.safetensors")).unwrap();
    assert_eq!(file.declared(), None);
    assert_eq!(file.measure(Some(4)).unwrap(), stored);
    let error = format!("{:#}", file.measure(None).unwrap_err());
    assert!(error.contains("--heads") && error.contains("width 64"), "{error}");
    assert!(file.measure(Some(5)).is_err(), "5 heads do not divide a width of 64");
}

/// A model that is split into shards loads through its index.
#[test]
fn split_folder_loads() {
    let folder = tempfile::tempdir().unwrap();
    let whole = read_independently(&golden("infer_native/model.safetensors"));
    let mut weight_map = BTreeMap::new();
    for shard in 0..3 {
        let name = format!("model-0000{}-of-00003.safetensors", shard + 1);
        let part: Tensors = whole
            .iter()
            .enumerate()
            .filter(|(index, _)| index % 3 == shard)
            .map(|(_, (key, tensor))| (key.clone(), tensor.shallow_clone()))
            .collect();
        weight_map.extend(part.keys().map(|key| (key.clone(), name.clone())));
        save(&folder.path().join(name), &part);
    }
    let index = serde_json::json!({ "metadata": { "total_size": 1 }, "weight_map": weight_map });
    fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    fs::copy(golden("infer_native/config.json"), folder.path().join("config.json")).unwrap();
    let expected = read_independently(&golden("infer_native/pixio.safetensors"));
    assert_same(&read_all(folder.path()), &expected);
}

/// The names that transformers 5.23 uses in memory, here under a wrapper's prefix, load too.
#[test]
fn in_memory_names_load() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let rename = |name: &str| {
        [
            ("encoder.layer.", "layers."),
            ("attention.attention.query", "attention.q_proj"),
            ("attention.attention.key", "attention.k_proj"),
            ("attention.attention.value", "attention.v_proj"),
            ("attention.output.dense", "attention.o_proj"),
            ("intermediate.dense", "mlp.fc1"),
            ("output.dense", "mlp.fc2"),
            ("norm1", "layernorm_before"),
            ("norm2", "layernorm_after"),
        ]
        .iter()
        .fold(format!("module.{name}"), |name, (from, to)| name.replace(from, to))
    };
    let stored = read_independently(&golden("infer_native/model.safetensors"));
    save(&path, &stored.into_iter().map(|(name, tensor)| (rename(&name), tensor)).collect());
    let expected = read_independently(&golden("infer_native/pixio.safetensors"));
    assert_same(&read_all(&path), &expected);
}

/// Every number format of a file is converted to every number format of a model, from either
/// layout, and parameters that ask for gradients are filled as well.
#[test]
fn number_formats_are_converted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let expected = read_independently(&golden("infer_native/pixio.safetensors"));
    for layout in ["model.safetensors", "pixio.safetensors"] {
        let original = read_independently(&golden("infer_native").join(layout));
        for stored in [Kind::Float, Kind::BFloat16, Kind::Half, Kind::Double] {
            let convert =
                |(name, tensor): (&String, &Tensor)| (name.clone(), tensor.to_kind(stored));
            save(&path, &original.iter().map(convert).collect());
            let file = EncoderWeights::open(&path).unwrap().file;
            for wanted in [Kind::Float, Kind::BFloat16, Kind::Double] {
                let mut targets = targets_like(&expected, wanted);
                for (_, target) in &mut targets {
                    *target = target.set_requires_grad(true);
                }
                file.load_into(&targets, |_| false).unwrap();
                for (name, target) in targets {
                    let through = expected[&name].to_kind(stored).to_kind(wanted);
                    assert!(target.equal(&through), "{name}: {stored:?} to {wanted:?}");
                }
            }
        }
    }
}

/// A student's projector and a pre-training checkpoint's decoder are no obstacle to a model
/// without them, and are loaded where the model has them.
#[test]
fn tensors_beside_the_encoder_are_optional() {
    for (case, beside) in [
        ("distill_mask/student0.init.safetensors", "last_proj."),
        ("pretrain/init.safetensors", "decoder_"),
    ] {
        let all = read_independently(&golden(case));
        let weights = EncoderWeights::open(&golden(case)).unwrap();
        let encoder: Tensors = all
            .iter()
            .filter(|(name, _)| !FAMILIES[0].is_beside(name))
            .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()))
            .collect();
        assert!(encoder.len() < all.len() && all.keys().any(|name| name.starts_with(beside)));
        weights.load_into(&targets_like(&encoder, Kind::Float)).unwrap();
        let targets = targets_like(&all, Kind::Float);
        weights.file.load_into(&targets, |_| false).unwrap();
        assert_same(&targets.into_iter().collect(), &all);
    }
}

/// What is written is the same bytes each time, is what the size and checksum say, and is read
/// back by libtorch's bindings: mixed number formats, scalars, empty and strided tensors.
#[test]
fn written_files_are_deterministic_and_whole() {
    let folder = tempfile::tempdir().unwrap();
    let wide = Tensor::arange(3_000_000, (Kind::Float, tch::Device::Cpu)).view([1500, 2000]);
    let tensors = vec![
        ("b.wide".to_string(), wide.tr()),
        ("a.half".to_string(), wide.narrow(1, 7, 3).to_kind(Kind::BFloat16)),
        ("c.double".to_string(), Tensor::from(0.1f64)),
        ("a.empty".to_string(), Tensor::zeros([0, 4], (Kind::Float, tch::Device::Cpu))),
    ];
    let metadata: BTreeMap<_, _> =
        ["z", "a", "m"].map(|key| (key.to_string(), "text".to_string())).into();
    let (first, second) =
        (folder.path().join("1.safetensors"), folder.path().join("2.safetensors"));
    let written = write_safetensors(&first, &tensors, &metadata, &|| Ok(())).unwrap();
    let reversed: Vec<_> =
        tensors.iter().rev().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
    assert_eq!(write_safetensors(&second, &reversed, &metadata, &|| Ok(())).unwrap(), written);
    let bytes = fs::read(&first).unwrap();
    assert_eq!(bytes, fs::read(&second).unwrap());
    assert_eq!(bytes.len() as u64, written.bytes);
    assert_eq!(blake3::hash(&bytes).to_hex().as_str(), written.blake3);
    assert_same(&read_independently(&first), &tensors.into_iter().collect());
}
