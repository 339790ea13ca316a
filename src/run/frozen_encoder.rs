//! A frozen encoder for evaluations: from weights, or from a run's checkpoint.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

use super::export::encoder_of_run;
use crate::config::ConfigError;
use crate::encoders::{Encoder, EncoderWeights};
use crate::native::guard;
use crate::nn::{FrozenFormat, Parameters, Storage};
use crate::weights::Preprocessing;

/// Which encoder is looked at.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EncoderSource {
    /// A Hugging Face folder, a `.safetensors` file or a `.pth` state dict.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    /// Attention heads, where no file beside the weights says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<usize>,
    /// The directory of a run, in place of weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<PathBuf>,
    /// Which of the run's encoders.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub student: Option<String>,
    /// Step of the checkpoint; left out: the newest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
}

/// An encoder on its device, whose weights are kept as they are used.
pub struct FrozenEncoder {
    pub model: Box<dyn Encoder>,
    /// Its published name or its numbers.
    pub name: String,
    /// Side of the images that it is prepared for, in pixels.
    pub image_size: usize,
    /// What its images are normalised by.
    pub preprocessing: Preprocessing,
}

impl EncoderSource {
    /// The encoder of stored weights.
    pub fn of_weights(weights: PathBuf, heads: Option<usize>) -> Self {
        Self { weights: Some(weights), heads, ..Self::default() }
    }

    /// Loads the encoder, for images of `image_size` pixels a side, or of the size of its weights.
    /// Matrix products will run in `compute`; `keys` are what a user calls the weights and the size.
    ///
    /// # Errors
    /// There are no such weights, or the size is no multiple of the encoder's patch.
    pub fn load(
        &self,
        keys: [&str; 2],
        image_size: Option<usize>,
        device: Device,
        compute: Kind,
    ) -> Result<FrozenEncoder> {
        let wrong = |key: &str, message: String| ConfigError {
            file: PathBuf::new(),
            key: key.into(),
            message,
        };
        let (weights, stored, preprocessing) = match (&self.weights, &self.run) {
            (Some(path), None) => self.of_file(path).with_context(|| keys[0].to_string())?,
            (None, Some(run)) => encoder_of_run(run, self.student.as_deref(), self.step)?,
            _ => {
                let message = "found neither or both, expected weights or a run".to_string();
                return Err(wrong(keys[0], message).into());
            }
        };
        let (spec, stored_size) = (stored.spec, stored.image_size);
        let image_size = image_size.unwrap_or(stored_size);
        if image_size == 0 || !image_size.is_multiple_of(spec.patch_size) {
            let patch = spec.patch_size;
            let message =
                format!("found {image_size}, expected a multiple of the encoder's patch, {patch}");
            return Err(wrong(keys[1], message).into());
        }
        let model = guard(|| {
            let mut parameters = Parameters::new(Storage::Empty { device, matrices: compute });
            let mut model = spec.build(&mut parameters, spec.grid_size(stored_size));
            weights.load_into(parameters.named())?;
            drop(parameters);
            let format = FrozenFormat { compute, residual: Kind::Float, fp8: false };
            model.freeze(format, spec.grid_size(image_size) as i64);
            Ok(model)
        })?;
        Ok(FrozenEncoder { model, name: spec.to_string(), image_size, preprocessing })
    }

    fn of_file(&self, path: &Path) -> Result<super::export::Source> {
        let weights = EncoderWeights::open(path)?;
        let stored = weights.measure(self.heads)?;
        Ok((weights, stored, Preprocessing::beside(path)?))
    }

    /// What is shown of it.
    pub fn describe(&self) -> String {
        match (&self.weights, &self.run) {
            (Some(weights), _) => weights.display().to_string(),
            (_, Some(run)) => match &self.student {
                Some(student) => format!("{} ({student})", run.display()),
                None => run.display().to_string(),
            },
            _ => "no encoder".into(),
        }
    }
}
