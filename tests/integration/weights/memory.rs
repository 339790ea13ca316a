//! How much memory loading and exporting need. Each measurement is a process of its own: this
//! test binary, started again with one ignored test.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use distill::config::ExportFormat;
use distill::encoders::{EncoderSpec, EncoderWeights, export};
use distill::native::peak_memory;
use distill::weights::{Preprocessing, Strangers};
use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};

use crate::support::processes::{FOLDER, peak_of};

const WEIGHTS: &str = "weights.safetensors";
const IMAGE_SIZE: usize = 256;

/// Parameters of an encoder of this size, by original names.
fn parameters(size: &EncoderSpec) -> Vec<(String, Vec<usize>)> {
    let EncoderSpec { dim, depth, patch_size, class_tokens, mlp_ratio, .. } = *size;
    let tokens = class_tokens + (IMAGE_SIZE / patch_size).pow(2);
    let mut shapes = vec![
        ("cls_token".to_string(), vec![1, class_tokens, dim]),
        ("pos_embed".to_string(), vec![1, tokens, dim]),
    ];
    let mut module = |name: String, weight: Vec<usize>| {
        shapes.push((format!("{name}.bias"), vec![weight[0]]));
        shapes.push((format!("{name}.weight"), weight));
    };
    module("patch_embed.proj".into(), vec![dim, 3, patch_size, patch_size]);
    module("norm".into(), vec![dim]);
    for block in 0..depth {
        module(format!("blocks.{block}.norm1"), vec![dim]);
        module(format!("blocks.{block}.norm2"), vec![dim]);
        module(format!("blocks.{block}.attn.qkv"), vec![3 * dim, dim]);
        module(format!("blocks.{block}.attn.proj"), vec![dim, dim]);
        module(format!("blocks.{block}.mlp.fc1"), vec![mlp_ratio * dim, dim]);
        module(format!("blocks.{block}.mlp.fc2"), vec![dim, mlp_ratio * dim]);
    }
    shapes
}

/// Writes a file of zeros that takes no room on the disk; returns the size of the tensors.
fn write_sparse(path: &Path, size: &EncoderSpec, dtype: &str, width: usize) -> u64 {
    let mut header = Map::new();
    let mut offset = 0;
    for (name, shape) in parameters(size) {
        let end = offset + shape.iter().product::<usize>() * width;
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [offset, end] });
        header.insert(name, entry);
        offset = end;
    }
    let header = Value::Object(header).to_string();
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len((8 + header.len() + offset) as u64).unwrap();
    offset as u64
}

/// Loading a 1B encoder in bf16 peaks at less than 1.3 times the encoder's size.
#[test]
fn loading_a_1b_encoder_stays_under_1_3_times_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let size = EncoderSpec::named("pixio_vit1b16").unwrap();
    let bytes = write_sparse(&folder.path().join(WEIGHTS), &size, "BF16", 2);
    assert!((2_700_000_000..2_750_000_000).contains(&bytes), "{bytes} bytes are no 1B encoder");
    let peak = peak_of("weights::memory::child_loads", folder.path());
    println!("{bytes} bytes of weights loaded with a peak of {peak}");
    assert!(peak >= bytes, "the encoder cannot have been loaded in {peak} bytes");
    assert!(peak * 10 < bytes * 13, "peak {peak} for {bytes} bytes of weights");
}

/// Exporting writes tensor by tensor: the peak is far below the size of what is converted.
#[test]
fn exporting_streams() {
    let folder = tempfile::tempdir().unwrap();
    let size = EncoderSpec::named("pixio_vitl16").unwrap();
    let bytes = write_sparse(&folder.path().join(WEIGHTS), &size, "F32", 4);
    let peak = peak_of("weights::memory::child_exports", folder.path());
    println!("{bytes} bytes of weights exported with a peak of {peak}");
    assert!(peak * 2 < bytes, "peak {peak} for {bytes} bytes of weights");
}

#[test]
#[ignore = "a child process of loading_a_1b_encoder_stays_under_1_3_times_its_size"]
fn child_loads() {
    let path = Path::new(&std::env::var(FOLDER).unwrap()).join(WEIGHTS);
    let file = EncoderWeights::open(&path).unwrap().file;
    let targets: Vec<_> = file
        .shapes()
        .into_iter()
        .map(|(name, shape)| {
            (name.to_string(), Tensor::ones(&shape, (Kind::BFloat16, Device::Cpu)))
        })
        .collect();
    file.load_into(&targets, |_| false).unwrap();
    assert!(targets.iter().all(|(_, target)| !bool::try_from(target.any()).unwrap()));
    println!("\npeak {}", peak_memory().unwrap());
}

#[test]
#[ignore = "a child process of exporting_streams"]
fn child_exports() {
    let folder = std::path::PathBuf::from(std::env::var(FOLDER).unwrap());
    let file = EncoderWeights::open(&folder.join(WEIGHTS)).unwrap();
    let encoder = file.measure(None).unwrap();
    let formats = [ExportFormat::Hf];
    let out = folder.join("out");
    export(&file, &encoder, Preprocessing::IMAGENET, &formats, false, (&out, Strangers::Refuse))
        .unwrap();
    println!("\npeak {}", peak_memory().unwrap());
}
