//! Exports an encoder in the layouts that other programs load.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde_json::Value;

use super::families::FAMILIES;
use super::family::StoredEncoder;
use super::stored::{ENCODER_KEY, EncoderWeights};
use crate::config::ExportFormat;
use crate::durable;
use crate::nn::{Parameters, Projector, Storage};
use crate::weights::{
    CONFIG, MODEL, PREPROCESSOR, Preprocessing, Strangers, WeightFile, replace_folder,
    write_renamed,
};

/// Writes the encoder in `weights` to the folder `out`, in each of `formats`; returns the files.
///
/// `hf` writes `config.json`, `model.safetensors` and `preprocessor_config.json`; the other one
/// safetensors file under this program's names, with the projector (`last_proj.*`) if `projector`.
/// Number formats stay as stored. Everything is written to a temporary folder beside `out`, which
/// then takes its place; a folder that was there is replaced if it holds nothing but an export.
///
/// # Errors
/// Tensors of the encoder are missing, `out` holds other files, or the disk is full.
pub fn export(
    weights: &EncoderWeights,
    encoder: &StoredEncoder,
    preprocessing: Preprocessing,
    formats: &[ExportFormat],
    projector: bool,
    (out, strangers): (&Path, Strangers),
) -> Result<Vec<PathBuf>> {
    let file = &weights.file;
    ensure!(!holds(out, file.path()), "{} holds the weights themselves", out.display());
    let names = parameters(weights, encoder)?;
    // Everything that an export's folder may hold.
    let mut files = vec![CONFIG, MODEL, PREPROCESSOR];
    files.extend(FAMILIES.iter().map(|family| family.file_name()));
    replace_folder(out, (&files, strangers), |folder| {
        for format in formats {
            match format {
                ExportFormat::Hf => {
                    write_hugging_face(file, encoder, preprocessing, &names, folder)?;
                }
                ExportFormat::Original => write_original(file, encoder, &names, projector, folder)?,
            }
        }
        Ok(())
    })?;
    Ok(files.iter().map(|file| out.join(file)).filter(|file| file.is_file()).collect())
}

/// The names of the encoder's parameters, all of which `weights` must hold, and nothing that would make it
/// another encoder.
fn parameters(weights: &EncoderWeights, encoder: &StoredEncoder) -> Result<Vec<String>> {
    let file = &weights.file;
    let names = encoder.spec.family.parameters(&encoder.spec);
    let missing: Vec<&str> =
        names.iter().map(String::as_str).filter(|name| file.kind(name).is_none()).collect();
    ensure!(
        missing.is_empty(),
        "{} ({}) lacks {} tensors of the encoder: {}",
        file.path().display(),
        file.layout(),
        missing.len(),
        missing[..missing.len().min(10)].join(", ")
    );
    let mut shapes = Parameters::new(Storage::Shapes);
    encoder.spec.build(&mut shapes, encoder.spec.grid_size(encoder.image_size));
    weights.check_values(shapes.named())?;
    Ok(names)
}

fn write_hugging_face(
    file: &WeightFile,
    encoder: &StoredEncoder,
    preprocessing: Preprocessing,
    names: &[String],
    folder: &Path,
) -> Result<()> {
    let family = encoder.spec.family;
    write_json(&folder.join(CONFIG), &family.write_config(encoder, file)?)?;
    let processor = preprocessing.to_json(encoder.image_size, family.image_processor());
    write_json(&folder.join(PREPROCESSOR), &processor)?;
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    let layout = family.hugging_face_names(&encoder.spec);
    let renamed = names.iter().map(|name| (name.as_str(), layout.stored_names(name)));
    write_renamed(&folder.join(MODEL), file, renamed, &metadata)
}

/// Writes the encoder under this program's names.
fn write_original(
    file: &WeightFile,
    encoder: &StoredEncoder,
    names: &[String],
    projector: bool,
    folder: &Path,
) -> Result<()> {
    let shapes = file.shapes();
    let projector = shapes.keys().filter(|name| projector && Projector::owns(name));
    let kept = names.iter().map(String::as_str).chain(projector.copied());
    let metadata = BTreeMap::from([
        ("format".to_string(), "pt".to_string()),
        (ENCODER_KEY.to_string(), serde_json::to_string(&encoder.spec)?),
    ]);
    let unchanged = kept.map(|name| (name, vec![name.to_string()]));
    write_renamed(&folder.join(encoder.spec.family.file_name()), file, unchanged, &metadata)
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    durable::write(path, format!("{value:#}\n").as_bytes())
}

/// Whether `path` is the folder `out` or something in it.
fn holds(out: &Path, path: &Path) -> bool {
    match (out.canonicalize(), path.canonicalize()) {
        (Ok(out), Ok(path)) => path.starts_with(out),
        _ => false,
    }
}
