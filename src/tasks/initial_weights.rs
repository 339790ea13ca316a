//! Weights that a configuration names: checked, and read into models before the first step.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tch::{Device, Kind, Tensor};

use crate::config::{EncoderConfig, EncoderSize, TrainConfig};
use crate::nn::{Parameters, Storage, Vit, resize_positions};
use crate::weights::{WeightFile, beside_encoder};

/// Finds out whether the weights that stand at `key` can be read and fit an encoder of this size.
pub(super) fn check(key: &str, weights: &str, size: EncoderSize) -> Result<()> {
    if weights == EncoderConfig::RANDOM {
        return Ok(());
    }
    let stored = StoredWeights::open(key, weights, size)?;
    stored.build(Storage::Shapes, |file, encoder| file.check_fit(encoder, beside_encoder))?;
    Ok(())
}

/// Encoder weights that a config names.
pub(super) struct StoredWeights {
    pub file: WeightFile,
    context: String,
    size: EncoderSize,
    /// Patches along each side of the images that the stored positions are for.
    grid_size: usize,
}

impl StoredWeights {
    pub fn open(key: &str, weights: &str, size: EncoderSize) -> Result<Self> {
        let context = format!("{key} = \"{weights}\"");
        let file = WeightFile::open(Path::new(weights)).with_context(|| context.clone())?;
        let tokens = file.shapes().get("pos_embed").and_then(|shape| shape.get(1).copied());
        let patches = (tokens.unwrap_or(0) as usize).saturating_sub(size.class_tokens);
        Ok(Self { file, context, size, grid_size: patches.isqrt() })
    }

    /// Builds the encoder with the file's own grid and has it filled or checked by `visit`.
    pub fn build(
        &self,
        storage: Storage,
        visit: impl Fn(&WeightFile, &[(String, Tensor)]) -> Result<()>,
    ) -> Result<(Vit, Parameters)> {
        let mut parameters = Parameters::new(storage);
        let encoder = Vit::new(&mut parameters, self.size, self.grid_size);
        visit(&self.file, parameters.named()).with_context(|| self.context.clone())?;
        let heads = self.file.declared_size().map_or(self.size.heads, |size| size.heads);
        ensure!(
            heads == self.size.heads,
            "{}: the weights have {heads} attention heads, the config says {}",
            self.context,
            self.size.heads
        );
        Ok((encoder, parameters))
    }
}

/// The `encoders` that a config trains as they are before the first step, on `device`; an error for each
/// whose weights, which the config names, cannot be read any more.
pub fn initial_encoders(
    train: &TrainConfig,
    encoders: &[EncoderConfig],
    device: Device,
) -> Vec<Result<Vit>> {
    let of_stream = |(rng_stream, encoder): (usize, &EncoderConfig)| {
        let grid_size = train.data.input_size / encoder.model.patch_size;
        let (seed, rng_stream) = (train.seed, rng_stream as u64);
        // An encoder's parameters come first in a trainee, so they are drawn alike.
        let mut parameters =
            Parameters::new(Storage::Drawn { device, matrices: Kind::Float, seed, rng_stream });
        let vit = Vit::new(&mut parameters, encoder.model, grid_size);
        if encoder.weights != EncoderConfig::RANDOM {
            let stored = StoredWeights::open("its weights", &encoder.weights, encoder.model)?;
            start_from(&stored, grid_size, &parameters)?;
        }
        Ok(vit)
    };
    encoders.iter().enumerate().map(of_stream).collect()
}

/// Copies a stored encoder into `target`, whose first parameters are those of one, with positions resized
/// to `grid_size` × `grid_size` patches.
pub(super) fn start_from(
    stored: &StoredWeights,
    grid_size: usize,
    target: &Parameters,
) -> Result<()> {
    let storage = Storage::Empty { device: Device::Cpu, matrices: Kind::Float };
    let (_, parameters) =
        stored.build(storage, |file, encoder| file.load_into(encoder, beside_encoder))?;
    let class_tokens = stored.size.class_tokens as i64;
    for ((name, source), (_, target)) in parameters.named().iter().zip(target.named()) {
        let source = match name.as_str() {
            "pos_embed" => {
                resize_positions(source, class_tokens, grid_size as i64, grid_size as i64)
            }
            _ => source.shallow_clone(),
        };
        tch::no_grad(|| target.shallow_clone().f_copy_(&source))?;
    }
    Ok(())
}
