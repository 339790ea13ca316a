//! `distill data preview`: a contact sheet of what teacher and students see.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use super::output::print;
use crate::data::Dataset;
use crate::durable;
use crate::tasks::{self, Task, TaskConfig, TraineeConfig};
use crate::ui::with_bar;
use crate::viz::{Preview, PreviewedSample, View, preview};

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
pub(super) fn run(args: &PreviewArgs) -> Result<()> {
    let config = tasks::load(&args.config, &args.set)?;
    let train = config.train();
    let dataset =
        with_bar("indexing", |progress| Dataset::open(&train.data, train.seed, progress))?;
    let end = args.position.checked_add(args.count.into());
    let Some(end) = end else { bail!("--position {}: no sample is there", args.position) };
    let (image_size, positions) = (train.data.input_size, args.position..end);
    let view = |encoder: &TraineeConfig| View {
        patch_size: encoder.model.patch_size as u32,
        mask: encoder.mask(encoder.model.grid_size(image_size)),
    };
    let views: Vec<View> = config.encoders().iter().map(view).collect();
    let Preview { sheet, samples } =
        preview(&dataset, positions, image_size as u32, train.seed, &views)?;
    durable::write(&args.out, &sheet.to_png()?)?;
    let mut legend = format!("columns: {}\n", columns(&*config));
    for (row, PreviewedSample { position, name, label }) in (1..).zip(samples) {
        let label = label.map_or("no label".to_string(), |label| format!("label {label}"));
        legend += &format!("row {row}: position {position}, {name}, {label}\n");
    }
    let (width, height) = sheet.size();
    print(&format!("{legend}wrote {} ({width}×{height} pixels)\n", args.out.display()))
}

fn columns(config: &dyn TaskConfig) -> String {
    let Task { whole_images, trainee, .. } = config.task();
    let masked = |encoder: &TraineeConfig| {
        let hidden = 100.0 * encoder.mask_ratio;
        format!("{trainee} `{}` (mask_ratio {hidden:.0} %)", encoder.name)
    };
    let encoders = config.encoders().iter().map(masked);
    std::iter::once(whole_images.to_string()).chain(encoders).collect::<Vec<_>>().join(", ")
}
