//! `distill data preview`: a contact sheet of what teacher and students see.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use image::RgbImage;

use super::data::{print, with_bar};
use crate::data::{Dataset, Scratch, durable};
use crate::tasks::{AnyConfig, TraineeConfig};
use crate::viz::Sheet;

/// Draw what teacher and students, or a pre-trained encoder, see of the next samples
///
/// Writes a PNG with one row for each sample of the run's stream: the whole crop (a teacher sees that),
/// then for each encoder that is trained the same crop with the patches greyed that are masked out for
/// it. Crops and masks are those of the training run. What rows and columns are is printed.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: distill data preview --config configs/quickstart.toml --out sheet.png"
)]
pub(super) struct PreviewArgs {
    /// Config of a run
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Where the image goes, a PNG; one that is there is replaced
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Change a key of the config, such as data.crop_scale=[0.5,1.0]
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Number of samples
    #[arg(long, value_name = "N", default_value_t = 8,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    count: u32,
    /// Position of the first in the stream of samples; a step takes as many positions as the
    /// global batch has images
    #[arg(long, value_name = "P", default_value_t = 0)]
    position: u64,
}

/// Runs the command.
///
/// # Errors
/// What the user has to know, in a line.
pub(super) fn run(args: &PreviewArgs) -> Result<()> {
    let config = AnyConfig::load(&args.config, &args.set)?;
    let train = config.train();
    let dataset =
        with_bar("indexing", |progress| Dataset::open(&train.data, train.seed, progress))?;
    let end = args.position.checked_add(args.count.into());
    let Some(end) = end else { bail!("--position {}: no sample is there", args.position) };
    let (sheet, legend) = draw(&config, &dataset, args.position..end)?;
    let (width, height) = sheet.size();
    durable::write(&args.out, &sheet.to_png()?)?;
    print(&format!("{legend}wrote {} ({width}×{height} pixels)\n", args.out.display()))
}

/// The sheet of the samples at `positions`, and what its rows and columns are.
fn draw(
    config: &AnyConfig,
    dataset: &Dataset,
    positions: std::ops::Range<u64>,
) -> Result<(Sheet, String)> {
    let (encoders, seed) = (config.encoders(), config.train().seed);
    let image_size = config.train().data.input_size as u32;
    let rows = (positions.end - positions.start) as u32;
    let mut sheet = Sheet::new(rows, 1 + encoders.len() as u32, (image_size, image_size));
    let mut legend = format!("columns: {}\n", columns(config));
    let mut scratch = Scratch::default();
    for (row, position) in (0..).zip(positions) {
        let mut crop = RgbImage::new(image_size, image_size);
        let sample = dataset.fill(&mut scratch, position, &mut crop)?;
        let image = sample.context("an image is missing")?.place;
        let label = image.label.map_or("no label".to_string(), |label| format!("label {label}"));
        let name = dataset.describe(&image);
        legend += &format!("row {}: position {position}, {name}, {label}\n", row + 1);
        sheet.put(row, 0, &crop);
        for (rng_stream, encoder) in (0..).zip(encoders) {
            let patch = encoder.model.patch_size as u32;
            let mask = encoder.mask((image_size / patch) as usize);
            let kept = mask.map(|mask| mask.draw_at(seed, rng_stream.into(), position));
            let seen = kept.map_or_else(|| crop.clone(), |kept| greyed(&crop, patch, &kept));
            sheet.put(row, rng_stream + 1, &seen);
        }
    }
    Ok((sheet, legend))
}

fn columns(config: &AnyConfig) -> String {
    let (whole, role) = match config {
        AnyConfig::Distill(_) => ("teacher", "student"),
        AnyConfig::Pretrain(_) => ("whole crop", "encoder"),
    };
    let masked = |encoder: &TraineeConfig| {
        let hidden = 100.0 * encoder.mask_ratio;
        format!("{role} `{}` (mask_ratio {hidden:.0} %)", encoder.name)
    };
    let encoders = config.encoders().iter().map(masked);
    std::iter::once(whole.to_string()).chain(encoders).collect::<Vec<_>>().join(", ")
}

/// `crop` with little left of all patches but `kept`, indices into the row-by-row grid.
fn greyed(crop: &RgbImage, patch: u32, kept: &[i64]) -> RgbImage {
    let per_row = crop.width() / patch;
    let mut seen = crop.clone();
    for (x, y, pixel) in seen.enumerate_pixels_mut() {
        let number = i64::from(y / patch * per_row + x / patch);
        if kept.binary_search(&number).is_err() {
            // A shade between those of dark and of bright images.
            pixel.0 = pixel.0.map(|value| 96 + value / 4);
        }
    }
    seen
}
