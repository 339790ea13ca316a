//! `distill explore`: one page on which to see what encoders find alike.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use indicatif::{BinaryBytes, HumanCount};

use super::output::print;
use super::viewing::ViewingArgs;
use crate::data::source::ClassFolder;
use crate::durable;
use crate::explore;
use crate::run::exploration::Exploration;

/// Images that a page takes at most.
const MOST_IMAGES: usize = 100_000;

/// Write a page on which to explore what encoders find alike in images
///
/// The page is one HTML file that needs nothing else, no server and no network. Click a patch of an image, and each
/// encoder's cosines with the patches of all images are shown as heat maps; switch encoders or put them side by side;
/// show the principal components of patches as colours. Below, a map has all images by the principal components of
/// their pooled vectors, to be zoomed and moved. The encoders see the central square of each image, and may have
/// different patches.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples: distill explore --run runs/quickstart --out page.html photos\n          \
                  distill explore --weights teacher --weights exports/small --out page.html *.jpg"
)]
pub(super) struct ExploreArgs {
    /// Images: JPEG, PNG or WebP files, and folders of such
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// Where the page goes, an HTML file; one that is there is replaced
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// So many of the images, evenly spread, are shown with their patches; all are on the map
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u16).range(1..=1000))]
    patches: u16,
    /// The page may have so many MiB
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1024))]
    max_size: u64,
    #[command(flatten)]
    viewing: ViewingArgs,
}

/// Runs the command.
pub(super) fn run(args: ExploreArgs) -> Result<()> {
    let out = &args.out;
    ensure!(!out.is_dir(), "--out {}: that is a folder; name a file in it", out.display());
    let most_bytes = args.max_size << 20;
    let exploration = Exploration {
        encoders: args.viewing.encoders()?,
        images: files(&args.images)?,
        with_patches: args.patches.into(),
        // Base64 has four characters for three bytes.
        most_token_bytes: most_bytes / 4 * 3,
        input_size: args.viewing.input_size(),
        device: args.viewing.device,
        precision: args.viewing.precision,
    };
    let explored = exploration.explore()?;
    let page = explore::page(&explored)?;
    let bytes = page.len() as u64;
    ensure!(
        bytes <= most_bytes,
        "the page would have {}, and --max-size allows {} MiB: name fewer images, a lower --patches or a \
         higher --max-size",
        BinaryBytes(bytes),
        args.max_size
    );
    durable::write(out, page.as_bytes())?;
    let (all, with_patches) = (explored.images.len() as u64, explored.with_patches.len());
    print(&format!(
        "wrote {} ({}): {} images of {} pixels a side, {with_patches} of them with patches\n",
        out.display(),
        BinaryBytes(bytes),
        HumanCount(all),
        explored.input_size
    ))
}

/// The files that were named, and those in folders that were.
fn files(named: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in named {
        match path.is_dir() {
            true => {
                let found = ClassFolder::find(path)?.files;
                ensure!(!found.is_empty(), "{}: no image is in that folder", path.display());
                files.extend(found.into_iter().map(|(file, _)| file));
            }
            false => files.push(path.clone()),
        }
    }
    ensure!(
        files.len() <= MOST_IMAGES,
        "found {} images, and a page takes {} at most: name fewer",
        HumanCount(files.len() as u64),
        HumanCount(MOST_IMAGES as u64)
    );
    files.first().context("no image is named")?;
    Ok(files)
}
