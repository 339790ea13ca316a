//! Arguments of commands that show what encoders see in images.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::config::{DeviceChoice, Precision};
use crate::run::frozen_encoder::EncoderSource;
use crate::run::visualize::encoders_of_run;

/// The encoders, the size of their images, and how they compute.
#[derive(Debug, Args)]
pub(super) struct ViewingArgs {
    /// An encoder: a Hugging Face folder, a .safetensors file, or a .pth state dict; others are compared with the
    /// first
    #[arg(long, value_name = "PATH", required_unless_present = "run")]
    weights: Vec<PathBuf>,
    /// Teacher and trained encoders of this run, before those of --weights
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// Attention heads of the encoders of --weights, where no file beside them says so
    #[arg(long, value_name = "N")]
    heads: Option<usize>,
    /// Side of the images, in pixels, a multiple of every patch [default: that of the first encoder's weights, or
    /// the next multiple]
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u16).range(1..=4096))]
    input_size: Option<u16>,
    /// Where to compute
    #[arg(long, value_enum, default_value_t = DeviceChoice::Auto)]
    pub device: DeviceChoice,
    /// Number format of matrix products
    #[arg(long, value_enum, default_value_t = Precision::Fp32)]
    pub precision: Precision,
}

impl ViewingArgs {
    /// Those of the run, then those of weights, each with its name.
    ///
    /// # Errors
    /// The run cannot be read.
    pub fn encoders(&self) -> Result<Vec<(String, EncoderSource)>> {
        let mut encoders = match &self.run {
            Some(run) => encoders_of_run(run)?,
            None => Vec::new(),
        };
        let of_weights = |path: &PathBuf| {
            (path.display().to_string(), EncoderSource::of_weights(path.clone(), self.heads))
        };
        encoders.extend(self.weights.iter().map(of_weights));
        Ok(encoders)
    }

    pub fn input_size(&self) -> Option<usize> {
        self.input_size.map(usize::from)
    }
}
