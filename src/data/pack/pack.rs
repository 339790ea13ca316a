//! Packs the images of a source into shards.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use rayon::prelude::*;

use distill_base::draws::{Draws, Purpose};

use crate::dataset::CLASSES;
use crate::labels::read_classes;

use super::encode::Encoding;
use super::folder::{self, Known};
use super::idx;
use super::source::Source;
use super::writer::ShardWriter;

/// Samples that are in memory at a time while packing.
const CHUNK: usize = 256;

/// What to pack and how.
#[derive(Debug, Clone)]
pub struct PackOptions {
    /// Folder of images, of class folders of images, or of IDX files.
    pub source: PathBuf,
    /// Folder for the shards; made if it does not exist.
    pub out: PathBuf,
    /// Shards are `PREFIX-000000.tar`, ...
    pub prefix: Option<String>,
    /// Samples in a shard; the last one has what is left.
    pub shard_samples: usize,
    pub encoding: Encoding,
    /// A `classes.json` whose numbers class folders get.
    pub classes: Option<PathBuf>,
}

/// What came out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packed {
    pub shards: Vec<PathBuf>,
    pub samples: u64,
    /// Bytes of all shards.
    pub bytes: u64,
    /// Images that could not be read.
    pub skipped: u64,
    /// Names of the classes in the order of their labels; empty without class folders.
    pub classes: Vec<String>,
}

/// Packs as `options` say. `progress` is told how many images of how many are done.
///
/// # Errors
/// The source has no readable image, the shards exist already, or writing fails. What was
/// written until then is removed.
pub fn pack(options: &PackOptions, progress: &dyn Fn(usize, usize)) -> Result<Packed> {
    ensure!(options.shard_samples > 0, "found 0 samples in a shard, expected at least 1");
    ensure!(options.source.is_dir(), "{}: is not a folder", options.source.display());
    let mut packed = Packed::default();
    let splits = idx::splits(&options.source)?;
    let sources: Vec<(String, Box<dyn Source>)> = if splits.is_empty() {
        let known = known_classes(options)?;
        let images = folder::Images::find(&options.source, options.encoding, known)?;
        packed.classes = images.classes().to_vec();
        vec![(options.prefix.clone().unwrap_or_else(|| "shard".into()), Box::new(images))]
    } else {
        let prefix = options.prefix.as_ref().map_or(String::new(), |prefix| format!("{prefix}-"));
        let named = splits.into_iter().map(|split| (format!("{prefix}{}", split.name()), split));
        named.map(|(name, split)| (name, Box::new(split) as Box<dyn Source>)).collect()
    };
    let total = sources.iter().map(|(_, source)| source.images()).sum();
    let mut done = 0;
    for (name, source) in &sources {
        let step = |images| {
            done += images;
            progress(done, total);
        };
        pack_source(options, name, source.as_ref(), &mut packed, step)?;
    }
    if !packed.classes.is_empty() {
        let path = options.out.join(CLASSES);
        let names = serde_json::to_string_pretty(&packed.classes)?;
        std::fs::write(&path, names + "\n").with_context(|| path.display().to_string())?;
    }
    Ok(packed)
}

/// The classes whose numbers are to be used: those that are named, or those of shards that are there.
fn known_classes(options: &PackOptions) -> Result<Option<Known>> {
    let there = options.out.join(CLASSES);
    let (path, are_named) = match &options.classes {
        Some(path) => (path, true),
        None if there.is_file() => (&there, false),
        None => return Ok(None),
    };
    let classes = read_classes(path)?;
    Ok(Some(Known { path: path.clone(), classes, are_named }))
}

fn pack_source(
    options: &PackOptions,
    prefix: &str,
    source: &dyn Source,
    packed: &mut Packed,
    mut step: impl FnMut(usize),
) -> Result<()> {
    let mut writer = ShardWriter::create(&options.out, prefix, options.shard_samples)?;
    let images = source.images();
    let order = Draws::new(0, Purpose::Order, 0, 0).choose(images, images);
    for chunk in order.chunks(CHUNK) {
        let made: Vec<_> = chunk.par_iter().map(|&index| source.samples(index)).collect();
        for samples in made {
            match samples {
                Ok(samples) => samples.iter().try_for_each(|sample| writer.add(sample))?,
                Err(error) => {
                    tracing::warn!("skipped: {error:#}");
                    packed.skipped += 1;
                }
            }
        }
        step(chunk.len());
    }
    if writer.samples() == 0 {
        bail!("{}: none of its {images} images can be read", options.source.display());
    }
    packed.samples += writer.samples();
    let (shards, bytes) = writer.finish()?;
    packed.shards.extend(shards);
    packed.bytes += bytes;
    Ok(())
}
