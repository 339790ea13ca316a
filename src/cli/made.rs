//! `distill data scenes` and `distill data masks`: small data sets for dense evaluation.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::output::print;
use crate::data::made::{self, MasksOptions, ScenesOptions};

/// Draw rooms with exact depth, for depth evaluation without a download
///
/// A small ray caster: a floor, a wall and two to five balls, with checks whose size in metres is always the
/// same. OUT/{train,test}/images are RGB, OUT/{train,test}/depth 16-bit millimetres along the camera's axis. The
/// same command draws the same rooms.
#[derive(Debug, Args)]
#[command(after_help = "Example: distill data scenes --out data/scenes\n\
                        then in the config: targets = { task = \"depth\", divisor = 1000.0, most = 10.0 }")]
pub(super) struct ScenesArgs {
    /// Folder for the pairs, which must not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Rooms to learn from
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..))]
    train: u32,
    /// Rooms to test on
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    test: u32,
    /// Side of the images, in pixels
    #[arg(long, value_name = "PIXELS", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    side: u32,
    /// What the rooms follow from
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// Derive segmentation masks from MNIST-style files
///
/// The masks are derived, not annotated: a pixel above the threshold is of its image's class (label + 1), all
/// others are background (0), also dark parts of an object. OUT/{train,test}/images are the grey images,
/// OUT/{train,test}/masks the classes, of the files train-... and t10k-... (or test-...).
#[derive(Debug, Args)]
#[command(after_help = "Example: distill data masks fashion-mnist --out data/masks\n\
                        then in the config: targets = { task = \"segmentation\", classes = 11 }")]
pub(super) struct MasksArgs {
    /// Folder of NAME-images-idx3-ubyte and NAME-labels-idx1-ubyte files, plain or .gz
    source: PathBuf,
    /// Folder for the pairs, which must not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Images to learn from, spread evenly over all [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    train: Option<u32>,
    /// Images to test on, spread evenly over all [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    test: Option<u32>,
    /// The highest grey level of background
    #[arg(long, value_name = "GREY", default_value_t = 16)]
    threshold: u8,
}

/// Runs `distill data scenes`.
pub(super) fn run_scenes(args: ScenesArgs) -> Result<()> {
    let ScenesArgs { out, train, test, side, seed } = args;
    let rooms = [train as usize, test as usize];
    made::scenes(&ScenesOptions { out: out.clone(), rooms, side, seed })?;
    print(&format!("drew {train} + {test} rooms with exact depth in {}\n", out.display()))
}

/// Runs `distill data masks`.
pub(super) fn run_masks(args: MasksArgs) -> Result<()> {
    let MasksArgs { source, out, train, test, threshold } = args;
    let images = [train, test].map(|most| most.map(|most| most as usize));
    let options = MasksOptions { source, out: out.clone(), images, threshold };
    let [train, test] = made::masks(&options)?;
    print(&format!("derived {train} + {test} masks in {}\n", out.display()))
}
