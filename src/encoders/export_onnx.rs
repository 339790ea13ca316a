//! Exports an encoder as a graph that ONNX's runtimes load.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tch::{Device, Kind};

use super::drawing::{Drawing, Drawn};
use super::families::FAMILIES;
use super::family::{Family, StoredEncoder};
use super::stored::EncoderWeights;
use crate::durable;
use crate::native::guard;
use crate::nn::{Parameters, Storage};
use crate::onnx::{Contents, Placement, write};
use crate::weights::{PREPROCESSOR, Preprocessing, Strangers, replace_folder};

/// The file of the graph, and that of weights beside it.
const FILES: [&str; 2] = ["model.onnx", "model.onnx.data"];

/// Writes the encoder in `weights`, for square images of `image_size` pixels, to the folder `out`; returns the files.
///
/// The graph takes `pixel_values` `[batch, 3, S, S]`, normalised, and gives `class_tokens` `[batch, C, D]` and
/// `patch_tokens` `[batch, N, D]`, both after the final norm, and `pooled` `[batch, D]`, all float32. Beside it stands
/// `preprocessor_config.json`, which says how images become that.
///
/// # Errors
/// The family is not drawn, the size is none of its patches, `out` holds other files, or the disk is full.
pub fn export_onnx(
    weights: &EncoderWeights,
    encoder: &StoredEncoder,
    preprocessing: Preprocessing,
    image_size: usize,
    placement: Placement,
    out: &Path,
) -> Result<Vec<PathBuf>> {
    let spec = encoder.spec;
    require_drawn(spec.family)?;
    ensure!(
        image_size > 0 && image_size.is_multiple_of(spec.patch_size),
        "found images of {image_size} pixels, expected a multiple of the encoder's patch, {}",
        spec.patch_size
    );
    let drawing = guard(|| draw(weights, encoder, image_size))?;
    let processor = preprocessing.to_json(image_size, spec.family.image_processor());
    let note = |key: &str, value: String| (key.to_string(), value);
    let Preprocessing { mean, std } = preprocessing;
    let notes = vec![
        note("encoder", serde_json::to_string(&spec)?),
        note("image_mean", format!("{mean:?}")),
        note("image_std", format!("{std:?}")),
    ];
    let contents = Contents { graph: &drawing.graph, notes };
    let files = [FILES[0], FILES[1], PREPROCESSOR];
    replace_folder(out, (&files, Strangers::Refuse), |folder| {
        write(&contents, folder, FILES[0], placement)?;
        durable::write(&folder.join(PREPROCESSOR), format!("{processor:#}\n").as_bytes())
    })?;
    Ok(files.iter().map(|file| out.join(file)).filter(|file| file.is_file()).collect())
}

/// # Errors
/// Encoders of this family are not drawn.
fn require_drawn(family: &dyn Family) -> Result<()> {
    let drawn: Vec<_> = FAMILIES
        .iter()
        .filter(|family| family.drawer().is_some())
        .map(|family| family.title())
        .collect();
    ensure!(
        family.drawer().is_some(),
        "{} is not exported to ONNX, only {}: --format hf is for transformers, which other exporters read",
        family.title(),
        drawn.join(", ")
    );
    Ok(())
}

/// The whole graph.
fn draw(weights: &EncoderWeights, encoder: &StoredEncoder, image_size: usize) -> Result<Drawing> {
    let spec = encoder.spec;
    let (grid_size, own_grid) = (spec.grid_size(image_size), spec.grid_size(encoder.image_size));
    let storage = Storage::Empty { device: Device::Cpu, matrices: Kind::Float };
    let mut parameters = Parameters::new(storage);
    spec.build(&mut parameters, own_grid);
    weights.load_into(parameters.named())?;
    let resized = parameters.named().iter().map(|(name, tensor)| {
        (name.clone(), spec.family.resized(&spec, name, &tensor.detach(), grid_size))
    });
    let mut drawing = Drawing::new(resized.collect(), spec.dim, [grid_size, spec.patch_size]);
    let drawer = spec.family.drawer().context("the family is drawn")?;
    let Drawn { tokens, pooled } = drawer(&spec, &mut drawing)?;
    let (dim, patches) = (spec.dim as i64, (grid_size * grid_size) as i64);
    let (class, registers) = (spec.class_tokens as i64, spec.registers as i64);
    let sizes: Vec<i64> =
        [class, registers, patches].into_iter().filter(|&size| size > 0).collect();
    let graph = &mut drawing.graph;
    let parts = graph.split(&tokens, &sizes, 1);
    if class > 0 {
        graph.output("class_tokens", &[class, dim], &parts[0]);
    }
    let of_patches = parts.last().context("there are patches")?;
    graph.output("patch_tokens", &[patches, dim], of_patches);
    graph.output("pooled", &[dim], &pooled);
    Ok(drawing)
}
