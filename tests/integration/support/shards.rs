//! Shards of small images, and what is read back from them.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use distill::config::{CurationConfig, DataConfig};
use distill::data::format::{ShardIndex, index_shard};
use distill::data::labels::Wanted;
use distill::data::{Dataset, Loader, Scratch};

pub const SIDE: usize = 32;

/// A member of a shard under construction.
pub type Member<'a> = (&'a str, Vec<u8>);

/// A JPEG of one colour, which tells images apart after decoding.
pub fn jpeg(red: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let pixels = [red, 100, 50].repeat(48 * 40);
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 95)
        .encode(&pixels, 48, 40, image::ExtendedColorType::Rgb8)
        .unwrap();
    bytes
}

pub fn corrupt_jpeg() -> Vec<u8> {
    let mut bytes = jpeg(0);
    bytes.truncate(bytes.len() - 30);
    bytes
}

pub fn write_tar(path: &Path, members: &[Member<'_>]) {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    std::fs::write(path, tar.into_inner().unwrap()).unwrap();
}

pub fn config(shards: &[&Path]) -> DataConfig {
    let shards: Vec<String> = shards.iter().map(|p| p.to_str().unwrap().to_string()).collect();
    let mut config: DataConfig =
        toml::from_str(&format!("shards = {shards:?}\ninput_size = {SIDE}\nworkers = 2")).unwrap();
    config.max_failed_share = 1.0;
    config
}

pub fn open(config: &DataConfig, seed: u64) -> Result<Dataset> {
    Dataset::open(config, seed, &|_, _| {})
}

pub fn start(
    dataset: Arc<Dataset>,
    config: &DataConfig,
    ranges: impl Iterator<Item = Range<u64>> + Send + 'static,
) -> Loader {
    let program = Path::new(env!("CARGO_BIN_EXE_distill-worker"));
    Loader::start(dataset, config, program, ranges).unwrap()
}

/// The index of a shard, made now.
pub fn scan(shard: &Path) -> Result<ShardIndex> {
    let length = shard.metadata()?.len();
    index_shard(&mut std::fs::File::open(shard)?, length, &Wanted::default(), &shard.display())
}

pub fn fill(dataset: &Dataset, position: u64) -> Result<(Vec<u8>, Option<u32>)> {
    let mut out = vec![0; dataset.sample_bytes()];
    let sample = dataset.fill(&mut Scratch::default(), position, &mut out)?;
    Ok((out, sample.and_then(|sample| sample.location.label)))
}

/// The scores of `images` images in one shard: name and (histogram, side, mae_loss).
pub fn curated(folder: &Path, images: &[(&str, f64, u64, f64)], without: &[&str]) -> DataConfig {
    let shards = folder.join("web");
    std::fs::create_dir_all(folder.join("json/web")).unwrap();
    std::fs::create_dir_all(&shards).unwrap();
    let names = images.iter().map(|image| image.0).chain(without.iter().copied());
    let members: Vec<Member<'_>> = names.map(|name| (name, jpeg(0))).collect();
    let labelled: Vec<(String, Vec<u8>)> = members
        .iter()
        .enumerate()
        .flat_map(|(number, (name, bytes))| {
            let key = name.split('.').next().unwrap();
            [(name.to_string(), bytes.clone()), (format!("{key}.cls"), number.to_string().into())]
        })
        .collect();
    let members: Vec<Member<'_>> =
        labelled.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    write_tar(&shards.join("0.tar"), &members);
    let scores: HashMap<&str, serde_json::Value> = images
        .iter()
        .map(|&(name, histogram, side, loss)| {
            let scores = serde_json::json!({
                "histogram_score": histogram, "height": side, "width": side + 1, "mae_loss": loss
            });
            (name, scores)
        })
        .collect();
    std::fs::write(folder.join("json/web/0.json"), serde_json::to_vec(&scores).unwrap()).unwrap();
    let mut config = config(&[&shards.join("*.tar")]);
    config.curation = Some(CurationConfig {
        json_root: folder.join("json"),
        min_histogram_score: 4.5,
        min_side: 320,
        sample_by_hardness: true,
    });
    config
}
