//! Features in files, in the place of an encoder and its images.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use tch::{Device, Kind, Tensor};

use super::manifest::{FileFormat, Manifest};
use super::part::{POOLED, Row, file_of, list_of};
use crate::config::{DeviceChoice, TrainConfig};
use crate::dist::ProcessGroup;
use crate::eval::{
    Features, Given, LeftOut, Measured, NamedEvaluation, Subject, folders_of, measure_stored,
};
use crate::run::measuring::as_option;
use crate::run::setup;
use crate::weights::WeightFile;

/// What features were made by.
#[derive(Debug, Clone, PartialEq)]
pub struct Maker {
    /// As the encoder was called.
    pub weights: String,
    /// Its published name or its numbers.
    pub encoder: String,
    pub input_size: usize,
    /// Number format of matrix products.
    pub precision: String,
}

/// Measures an evaluation whose settings name folders of features in the place of images. None, in a process after
/// the first of several.
///
/// # Errors
/// A folder has no features, not all of them, or those of another encoder; or there are too few of them.
pub fn measure_features(
    one: &NamedEvaluation,
    device: DeviceChoice,
) -> Result<Option<(Maker, Measured)>> {
    let mut train = TrainConfig::minimal("eval");
    train.run.device = device;
    let given = Given::OnCommandLine;
    let sets = folders_of(one, given)?;
    let mut maker: Option<(Manifest, PathBuf)> = None;
    let mut features = Vec::new();
    for folders in &sets {
        let read = |folder: &String| read(Path::new(folder), &mut maker);
        let parts = folders.iter().map(read).collect::<Result<Vec<_>>>()?;
        features.push(joined(parts));
    }
    let (manifest, _) = maker.context("no folder of features is named")?;
    let work = |group: &ProcessGroup, _: Device| {
        let subject =
            Subject { name: "encoder", role: crate::artifacts::Role::Trained, encoder: None };
        let measured = measure_stored(one, features, &subject, given, group)?;
        Ok(group.is_first().then_some(measured))
    };
    let measured = setup::with_group(&train, |_| Ok(()), |error| error, work).map_err(as_option)?;
    let Manifest { weights, encoder, input_size, precision, .. } = manifest;
    let maker = Maker { weights, encoder, input_size, precision };
    Ok(measured.flatten().map(|measured| (maker, measured)))
}

/// The labelled features of a folder, which are to be of the encoder that the folder before had.
fn read(folder: &Path, maker: &mut Option<(Manifest, PathBuf)>) -> Result<Features> {
    let place = folder.display();
    let manifest = Manifest::read(folder)?;
    let manifest = manifest.with_context(|| {
        format!("{place} has no features.json: distill features makes such folders")
    })?;
    ensure!(
        manifest.rows.is_some(),
        "{place} does not have all features yet: run its distill features again, which goes on"
    );
    let (first, other) = maker.get_or_insert_with(|| (manifest.clone(), folder.to_path_buf()));
    let made_by = |one: &Manifest| (one.digest.clone(), one.input_size, one.precision.clone());
    if made_by(first) != made_by(&manifest) {
        bail!(
            "the features in {} and {place} were made by different encoders, sizes or precisions",
            other.display()
        );
    }
    let (mut vectors, mut labels, mut hashes) = (Vec::new(), Vec::new(), Vec::new());
    let mut rows_of_all = 0;
    for part in 0..manifest.parts {
        let rows = rows(folder, part)?;
        rows_of_all += rows.len() as u64;
        let pooled = pooled(folder, part, manifest.format)?;
        let is_whole = pooled.size() == [rows.len() as i64, manifest.dim];
        ensure!(
            is_whole,
            "{place}: part {part} is damaged: delete its files and run distill features"
        );
        let labelled = (0i64..).zip(&rows).filter_map(|(row, of)| Some((row, of.label?, of.hash)));
        let labelled: Vec<(i64, u32, i64)> = labelled.collect();
        let places: Vec<i64> = labelled.iter().map(|(row, ..)| *row).collect();
        vectors.push(pooled.index_select(0, &Tensor::from_slice(&places)));
        labels.extend(labelled.iter().map(|(_, label, _)| *label));
        hashes.extend(labelled.iter().map(|(.., hash)| *hash));
    }
    ensure!(!labels.is_empty(), "{place}: no image has a label");
    let vectors = Tensor::cat(&vectors, 0);
    let length = vectors.square().sum_dim_intlist([1i64].as_slice(), true, Kind::Float).sqrt();
    let left_out = LeftOut {
        undecodable: manifest.samples - rows_of_all,
        without_label: rows_of_all - labels.len() as u64,
    };
    Ok(Features { vectors: vectors / length.clamp_min(1e-12), labels, hashes, left_out })
}

fn rows(folder: &Path, part: u64) -> Result<Vec<Row>> {
    let path = list_of(folder, part);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let read = text.lines().map(serde_json::from_str).collect::<Result<Vec<Row>, _>>();
    read.with_context(|| format!("{} is damaged", path.display()))
}

/// `[rows, D]` float32.
fn pooled(folder: &Path, part: u64, format: FileFormat) -> Result<Tensor> {
    let path = file_of(folder, part, POOLED, format);
    let read = || match format {
        FileFormat::Safetensors => WeightFile::open(&path, &[], None)?.read(POOLED),
        FileFormat::Npy => Ok(Tensor::read_npy(&path)?),
    };
    let read = read().with_context(|| path.display().to_string())?;
    Ok(read.to_kind(Kind::Float))
}

/// The features of several folders as one set.
fn joined(parts: Vec<Features>) -> Features {
    let vectors: Vec<&Tensor> = parts.iter().map(|part| &part.vectors).collect();
    let vectors = Tensor::cat(&vectors, 0);
    let mut all = Features::new(vectors, Vec::new());
    for part in parts {
        all.labels.extend(part.labels);
        all.hashes.extend(part.hashes);
        all.left_out.undecodable += part.left_out.undecodable;
        all.left_out.without_label += part.left_out.without_label;
    }
    all
}
