//! `distill data preview`: a contact sheet of what teacher and students see.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use image::codecs::png::PngEncoder;
use image::{ImageEncoder, RgbImage, imageops};

use super::data::{print, with_bar};
use crate::config::Config;
use crate::data::{Dataset, Scratch, durable};
use crate::model::Mask;

/// White between the pictures of a sheet, in pixels.
const GAP: u32 = 4;

/// Draw what teacher and students see of the next samples
///
/// Writes a PNG with one row for each sample of the run's stream: the crop that the teacher sees,
/// then for each student the same crop with the patches greyed that are masked out for it. Crops
/// and masks are those of the training run. What rows and columns are is printed.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: distill data preview --config configs/quickstart.toml --out sheet.png"
)]
pub(super) struct PreviewArgs {
    /// Config of a run
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Where the picture goes, a PNG; one that is there is replaced
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
    /// global batch has pictures
    #[arg(long, value_name = "P", default_value_t = 0)]
    position: u64,
}

/// Runs the command.
///
/// # Errors
/// What the user has to know, in a line.
pub(super) fn run(args: &PreviewArgs) -> Result<()> {
    let config = Config::load(&args.config, &args.set)?;
    let dataset =
        with_bar("indexing", |progress| Dataset::open(&config.data, config.seed, progress))?;
    let end = args.position.checked_add(args.count.into());
    let Some(end) = end else { bail!("--position {}: no sample is there", args.position) };
    let (sheet, legend) = draw(&config, &dataset, args.position..end)?;
    let mut encoded = Vec::new();
    let (width, height) = sheet.dimensions();
    PngEncoder::new(&mut encoded)
        .write_image(&sheet, width, height, image::ExtendedColorType::Rgb8)
        .context("cannot encode the sheet")?;
    durable::write(&args.out, &encoded)?;
    print(&format!("{legend}wrote {} ({width}×{height} pixels)\n", args.out.display()))
}

/// The sheet of the samples at `positions`, and what its rows and columns are.
fn draw(
    config: &Config,
    dataset: &Dataset,
    positions: std::ops::Range<u64>,
) -> Result<(RgbImage, String)> {
    let side = config.data.input_size as u32;
    let patch = config.teacher.model.patch_size as u32;
    let place = |number: usize| i64::from(side + GAP) * number as i64;
    let extent = |count: usize| (side + GAP) * count as u32 - GAP;
    let rows = (positions.end - positions.start) as usize;
    let (width, height) = (extent(1 + config.students.len()), extent(rows));
    let mut sheet = RgbImage::from_pixel(width, height, image::Rgb([255; 3]));
    let mut legend = format!("columns: {}\n", columns(config));
    let mut scratch = Scratch::default();
    for (row, position) in positions.enumerate() {
        let mut crop = RgbImage::new(side, side);
        let picture = dataset.fill_from(&mut scratch, position, &mut crop)?;
        let label = picture.label.map_or("no label".to_string(), |label| format!("label {label}"));
        let name = dataset.describe(&picture);
        legend += &format!("row {}: position {position}, {name}, {label}\n", row + 1);
        imageops::replace(&mut sheet, &crop, 0, place(row));
        for (lane, student) in config.students.iter().enumerate() {
            let mask = Mask::of_student(student, (side / patch) as usize);
            let kept = mask.map(|mask| mask.draw_at(config.seed, lane as u64, position));
            let seen = kept.map_or_else(|| crop.clone(), |kept| greyed(&crop, patch, &kept));
            imageops::replace(&mut sheet, &seen, place(lane + 1), place(row));
        }
    }
    Ok((sheet, legend))
}

fn columns(config: &Config) -> String {
    let student = |student: &crate::config::StudentConfig| {
        let hidden = 100.0 * student.mask_ratio;
        format!("student `{}` (mask_ratio {hidden:.0} %)", student.name)
    };
    let students = config.students.iter().map(student);
    std::iter::once("teacher".to_string()).chain(students).collect::<Vec<_>>().join(", ")
}

/// `crop` with little left of all patches but `kept`, indices into the row-by-row grid.
fn greyed(crop: &RgbImage, patch: u32, kept: &[i64]) -> RgbImage {
    let per_row = crop.width() / patch;
    let mut seen = crop.clone();
    for (x, y, pixel) in seen.enumerate_pixels_mut() {
        let number = i64::from(y / patch * per_row + x / patch);
        if kept.binary_search(&number).is_err() {
            // A shade between those of dark and of bright pictures.
            pixel.0 = pixel.0.map(|value| 96 + value / 4);
        }
    }
    seen
}
