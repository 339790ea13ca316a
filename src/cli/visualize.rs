//! `distill visualize`: what encoders see in images, side by side.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;

use super::output::print;
use super::viewing::ViewingArgs;
use crate::durable;
use crate::run::visualize::{Visualization, Visualized, VisualizedRow};

/// Draw what encoders see in images, side by side
///
/// Writes a PNG with one row for each image: its central square, then for each encoder the first three principal
/// components of its patch tokens as red, green and blue (along the same directions for all images, and for all
/// encoders whose tokens have one width), how similar all patches are to the one at --at, which is framed, and for
/// each encoder after the first how much its patches agree with those of the first. The agreement of a patch is the
/// correlation of its cosines with all patches of the image by the one encoder and by the other; it needs no
/// common width, and its mean is printed. Encoders may have different patches.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples: distill visualize --run runs/quickstart --out seen.png photos/*.jpg\n          \
                  distill visualize --weights teacher --weights exports/small --input-size 448 --out seen.png \
                  cat.jpg"
)]
pub(super) struct VisualizeArgs {
    /// Images: JPEG, PNG or WebP files
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// Where the image goes, a PNG; one that is there is replaced
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Which patch others are compared with: the one at this place, from the left and from the top, 0 to 1
    #[arg(long, value_name = "X,Y", value_parser = place, default_value = "0.5,0.5")]
    at: [f64; 2],
    #[command(flatten)]
    viewing: ViewingArgs,
}

/// A place in an image.
fn place(text: &str) -> Result<[f64; 2], String> {
    let numbers: Option<Vec<f64>> =
        text.split(',').map(|number| number.trim().parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[x, y]) if [x, y].iter().all(|share| (0.0..=1.0).contains(share)) => Ok([x, y]),
        _ => Err("expected two numbers from 0 to 1, as in 0.5,0.25".into()),
    }
}

/// Runs the command.
pub(super) fn run(args: VisualizeArgs) -> Result<()> {
    let VisualizeArgs { images, out, at, viewing } = args;
    let visualization = Visualization {
        encoders: viewing.encoders()?,
        images,
        input_size: viewing.input_size(),
        at,
        device: viewing.device,
        precision: viewing.precision,
    };
    let visualized = visualization.draw()?;
    durable::write(&out, &visualized.sheet.to_png()?)?;
    print(&legend(&visualized, &out))
}

/// What rows and columns are, and the mean agreements.
fn legend(visualized: &Visualized, out: &Path) -> String {
    let Visualized { sheet, titles, rows, input_size, is_one_basis } = visualized;
    let mut text = format!("images of {input_size} × {input_size} pixels\n");
    for (number, title) in (1..).zip(titles) {
        text += &format!("column {number}: {title}\n");
    }
    let others = titles.iter().filter(|title| title.starts_with("agreement")).count();
    if others > 0 {
        text += match is_one_basis {
            true => "colours are along the same directions for all encoders\n",
            false => "colours are along each encoder's own directions: widths differ\n",
        };
    }
    for (number, VisualizedRow { image, agreements }) in (1..).zip(rows) {
        let agreements: Vec<String> =
            agreements.iter().map(|agreement| format!("{agreement:.3}")).collect();
        let agreements = match agreements.is_empty() {
            true => String::new(),
            false => format!(", mean agreement {}", agreements.join(", ")),
        };
        text += &format!("row {number}: {}{agreements}\n", image.display());
    }
    let (width, height) = sheet.size();
    text + &format!("wrote {} ({width}×{height} pixels)\n", out.display())
}
