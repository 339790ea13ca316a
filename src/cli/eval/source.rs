//! The options that name a frozen encoder.

use std::path::PathBuf;

use clap::Args;

use crate::run::frozen_encoder::{EncoderSource, RoleInRun};

#[derive(Debug, Args)]
pub(super) struct SourceArgs {
    /// The encoder: a Hugging Face folder, a .safetensors file, or a .pth state dict
    #[arg(long, value_name = "PATH", conflicts_with = "run")]
    weights: Option<PathBuf>,
    /// An encoder of this run's newest checkpoint instead
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// Which of the run's encoders
    #[arg(long, value_name = "NAME", requires = "run")]
    student: Option<String>,
    /// The run's checkpoint of this step
    #[arg(long, value_name = "STEP", requires = "run")]
    step: Option<u64>,
    /// What the run has it for [default: trained]
    #[arg(long, value_enum, requires = "run")]
    role: Option<RoleInRun>,
    /// Attention heads of the encoder, where no file beside its weights says so
    #[arg(long, value_name = "N")]
    heads: Option<usize>,
}

impl SourceArgs {
    /// The encoder that they name.
    pub fn source(&self) -> EncoderSource {
        let Self { weights, run, student, step, role, heads } = self;
        EncoderSource {
            weights: weights.clone(),
            heads: *heads,
            run: run.clone(),
            student: student.clone(),
            step: *step,
            role: *role,
        }
    }
}
