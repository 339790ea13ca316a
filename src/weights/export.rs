//! Exports an encoder in the layouts that other programs load.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tch::Tensor;

use super::container::{CONFIG, MODEL, PIXIO_MODEL};
use super::hugging_face::{PREPROCESSOR, Preprocessing, model_config};
use super::names;
use super::stored_encoder::StoredEncoder;
use super::weight_file::{ENCODER_KEY, WeightFile};
use super::write::{SafetensorsWriter, TensorPlan};
use crate::config::ExportFormat;
use crate::durable;

/// Everything that an export's folder may hold.
const FILES: [&str; 4] = [CONFIG, MODEL, PREPROCESSOR, PIXIO_MODEL];

/// Writes the encoder in `weights` to the folder `out`, in each of `formats`; returns the files.
///
/// `hf` writes `config.json`, `model.safetensors` and `preprocessor_config.json`; `pixio` writes
/// `pixio.safetensors` under original names, with the projector (`last_proj.*`) if `projector`.
/// Number formats stay as stored. Everything is written to a temporary folder beside `out`, which
/// then takes its place; a folder that was there is replaced if it holds nothing but an export.
///
/// # Errors
/// Tensors of the encoder are missing, `out` holds other files, or the disk is full.
pub fn export(
    weights: &WeightFile,
    encoder: &StoredEncoder,
    preprocessing: Preprocessing,
    formats: &[ExportFormat],
    projector: bool,
    out: &Path,
) -> Result<Vec<PathBuf>> {
    check_replaceable(out)?;
    ensure!(!holds(out, weights.path()), "{} holds the weights themselves", out.display());
    let names = encoder_names(weights, encoder)?;
    let parent = parent(out);
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let folder = tempfile::Builder::new()
        .prefix(".export.")
        .permissions(Permissions::from_mode(0o777))
        .tempdir_in(parent)
        .with_context(|| format!("cannot write to {}", parent.display()))?;
    for format in formats {
        match format {
            ExportFormat::Hf => {
                write_hugging_face(weights, encoder, preprocessing, &names, folder.path())?;
            }
            ExportFormat::Pixio => {
                write_pixio(weights, encoder, &names, projector, folder.path())?;
            }
        }
    }
    File::open(folder.path())?.sync_all()?;
    publish(folder, out)?;
    Ok(FILES.iter().map(|file| out.join(file)).filter(|file| file.is_file()).collect())
}

/// The parameters of an encoder of this size, all of which `weights` must hold.
fn encoder_names(weights: &WeightFile, encoder: &StoredEncoder) -> Result<Vec<String>> {
    let shapes = weights.shapes();
    let names = names::encoder_parameters(encoder.size.depth);
    let missing: Vec<&str> =
        names.iter().map(String::as_str).filter(|name| !shapes.contains_key(name)).collect();
    ensure!(
        missing.is_empty(),
        "{} ({}) lacks {} tensors of the encoder: {}",
        weights.path().display(),
        weights.layout(),
        missing.len(),
        missing[..missing.len().min(10)].join(", ")
    );
    Ok(names)
}

fn write_hugging_face(
    weights: &WeightFile,
    encoder: &StoredEncoder,
    preprocessing: Preprocessing,
    names: &[String],
    folder: &Path,
) -> Result<()> {
    let kind = weights.kind("patch_embed.proj.weight").context("no patch projection")?;
    write_json(&folder.join(CONFIG), &model_config(encoder, kind)?)?;
    write_json(&folder.join(PREPROCESSOR), &preprocessing.to_json(encoder.image_size))?;
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    let renamed = names.iter().map(|name| (name.as_str(), names::to_hugging_face(name)));
    write_model(&folder.join(MODEL), weights, renamed, &metadata)
}

fn write_pixio(
    weights: &WeightFile,
    encoder: &StoredEncoder,
    names: &[String],
    projector: bool,
    folder: &Path,
) -> Result<()> {
    let shapes = weights.shapes();
    let projector = shapes.keys().filter(|name| projector && name.starts_with("last_proj."));
    let kept = names.iter().map(String::as_str).chain(projector.copied());
    let metadata = BTreeMap::from([
        ("format".to_string(), "pt".to_string()),
        (ENCODER_KEY.to_string(), serde_json::to_string(&encoder.size)?),
    ]);
    let unchanged = kept.map(|name| (name, vec![name.to_string()]));
    write_model(&folder.join(PIXIO_MODEL), weights, unchanged, &metadata)
}

/// Writes tensors under new names; one with several names is split among them along its first
/// dimension.
fn write_model<'a>(
    path: &Path,
    weights: &WeightFile,
    renamed: impl Iterator<Item = (&'a str, Vec<String>)>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let shapes = weights.shapes();
    let mut plans = vec![];
    let mut sources: BTreeMap<String, (&str, usize, usize)> = BTreeMap::new();
    for (name, new_names) in renamed {
        let kind = weights.kind(name).with_context(|| format!("{name} is missing"))?;
        let mut shape = shapes[name].clone();
        let parts = new_names.len();
        if let Some(rows) = shape.first_mut().filter(|_| parts > 1) {
            ensure!(*rows % parts as i64 == 0, "{name} cannot be split into {parts}");
            *rows /= parts as i64;
        }
        for (part, new_name) in new_names.into_iter().enumerate() {
            plans.push(TensorPlan { name: new_name.clone(), kind, shape: shape.clone() });
            sources.insert(new_name, (name, part, parts));
        }
    }
    let mut writer = SafetensorsWriter::create(path, plans, metadata)?;
    while let Some(plan) = writer.next() {
        let (name, part, parts) = sources[&plan.name];
        let tensor = weights.read(name)?;
        writer.write(&part_of(&tensor, part, parts)?)?;
    }
    writer.finish()?;
    Ok(())
}

/// One of `parts` equal slices along the first dimension.
fn part_of(tensor: &Tensor, part: usize, parts: usize) -> Result<Tensor> {
    if parts == 1 {
        return Ok(tensor.shallow_clone());
    }
    let rows = tensor.size()[0] / parts as i64;
    Ok(tensor.f_narrow(0, part as i64 * rows, rows)?)
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    durable::write(path, format!("{value:#}\n").as_bytes())
}

/// The folder in which `out` is an entry.
fn parent(out: &Path) -> &Path {
    out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Refuses to replace a folder that holds anything but an export.
fn check_replaceable(out: &Path) -> Result<()> {
    if !out.exists() {
        return Ok(());
    }
    ensure!(out.is_dir(), "{} is there and is not a folder", out.display());
    let context = || format!("cannot read {}", out.display());
    for entry in fs::read_dir(out).with_context(context)? {
        let name = entry.with_context(context)?.file_name();
        ensure!(
            FILES.iter().any(|file| name == *file),
            "{} holds {}, which is no part of an export; choose a new folder",
            out.display(),
            Path::new(&name).display()
        );
    }
    Ok(())
}

/// Whether `path` is the folder `out` or something in it.
fn holds(out: &Path, path: &Path) -> bool {
    match (out.canonicalize(), path.canonicalize()) {
        (Ok(out), Ok(path)) => path.starts_with(out),
        _ => false,
    }
}

/// Puts the finished folder in the place of `out`; if that fails, what was there stays.
fn publish(folder: tempfile::TempDir, out: &Path) -> Result<()> {
    let context = || format!("cannot put the export at {}", out.display());
    let before = tempfile::Builder::new().prefix(".replaced.").tempdir_in(parent(out))?;
    let kept = before.path().join("export");
    if out.exists() {
        fs::rename(out, &kept).with_context(context)?;
    }
    if let Err(error) = fs::rename(folder.path(), out) {
        if kept.exists() {
            fs::rename(&kept, out).with_context(context)?;
        }
        return Err(error).with_context(context);
    }
    drop(folder.keep());
    File::open(parent(out))?.sync_all()?;
    before.close().with_context(context)
}
