//! Weights that a configuration names: checked, and read into models before the first step.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tch::{Device, Kind, Tensor};
use tracing::warn;

use super::trainee::TraineeConfig;
use crate::config::{DataConfig, TrainConfig};
use crate::encoders::{Encoder, EncoderSpec, EncoderWeights, located};
use crate::nn::{Activation, Parameters, Storage};
use crate::weights::Preprocessing;

/// Finds out whether the weights that stand at `key` can be read, are numbers, and fit this encoder.
pub(super) fn check(key: &str, weights: &str, spec: EncoderSpec) -> Result<()> {
    if weights == TraineeConfig::RANDOM {
        return Ok(());
    }
    StoredWeights::open(key, weights, spec)?
        .build(Storage::Shapes, EncoderWeights::check_values)?;
    Ok(())
}

/// Encoder weights that a config names.
pub(super) struct StoredWeights {
    pub weights: EncoderWeights,
    context: String,
    spec: EncoderSpec,
    /// Patches along each side of the images that the stored positions are for.
    grid_size: usize,
}

impl StoredWeights {
    pub fn open(key: &str, weights: &str, spec: EncoderSpec) -> Result<Self> {
        let context = format!("{key} = \"{weights}\"");
        let weights = EncoderWeights::open(Path::new(weights)).with_context(|| context.clone())?;
        let grid_size = spec.family.stored_grid(&spec, &weights.file);
        Ok(Self { weights, context, spec, grid_size })
    }

    /// Builds the encoder with the weights' own grid and has it filled or checked by `visit`.
    pub fn build(
        &self,
        storage: Storage,
        visit: impl Fn(&EncoderWeights, &[(String, Tensor)]) -> Result<()>,
    ) -> Result<(Box<dyn Encoder>, Parameters)> {
        let mut parameters = Parameters::new(storage);
        let encoder = self.spec.build(&mut parameters, self.grid_size);
        visit(&self.weights, parameters.named()).with_context(|| self.context.clone())?;
        let declared = self.weights.declared().unwrap_or(self.spec);
        let heads = declared.heads;
        ensure!(
            heads == self.spec.heads,
            "{}: the weights have {heads} attention heads, the config says {}",
            self.context,
            self.spec.heads
        );
        let [activation, own] = [declared.activation, self.spec.activation].map(Activation::name);
        ensure!(
            activation == own,
            "{}: the weights have activation {activation}, the config says {own}",
            self.context
        );
        let theta = declared.rope_theta;
        ensure!(
            theta == self.spec.rope_theta,
            "{}: the weights have rope_theta {theta}, the config says {}",
            self.context,
            self.spec.rope_theta
        );
        Ok((encoder, parameters))
    }
}

/// The `encoders` that a config trains as they are before the first step, on `device`; an error for each
/// whose weights, which the config names, cannot be read any more.
pub fn initial_encoders(
    train: &TrainConfig,
    encoders: &[TraineeConfig],
    device: Device,
) -> Vec<Result<Box<dyn Encoder>>> {
    let of_stream = |(place, encoder): (usize, &TraineeConfig)| {
        let grid_size = train.data.input_size / encoder.model.patch_size;
        let (built, parameters) = drawn(train, place, encoder, device);
        if encoder.weights != TraineeConfig::RANDOM {
            let stored = StoredWeights::open("its weights", &encoder.weights, encoder.model)?;
            start_from(&stored, grid_size, &parameters)?;
        }
        Ok(built)
    };
    encoders.iter().enumerate().map(of_stream).collect()
}

/// The `encoder` that stands at this place of a config, with the random weights that its training begins
/// with, on `device`.
pub fn drawn_encoder(
    train: &TrainConfig,
    place: usize,
    encoder: &TraineeConfig,
    device: Device,
) -> Box<dyn Encoder> {
    drawn(train, place, encoder, device).0
}

fn drawn(
    train: &TrainConfig,
    place: usize,
    encoder: &TraineeConfig,
    device: Device,
) -> (Box<dyn Encoder>, Parameters) {
    let (seed, rng_stream) = (train.seed, place as u64);
    // An encoder's parameters come first in a trainee, so they are drawn alike.
    let mut parameters =
        Parameters::new(Storage::Drawn { device, matrices: Kind::Float, seed, rng_stream });
    let grid_size = train.data.input_size / encoder.model.patch_size;
    let built = encoder.model.build(&mut parameters, grid_size);
    (built, parameters)
}

/// Warns where images are normalised in another way than the weights that stand at `key` were trained with.
pub(super) fn tell_normalisation(key: &str, weights: &str, data: &DataConfig) {
    let own = located(Path::new(weights)).ok().filter(|path| Preprocessing::is_beside(path));
    let Some(own) = own.and_then(|path| Preprocessing::beside(&path).ok()) else { return };
    let differs = |a: [f64; 3], b: [f64; 3]| a.iter().zip(b).any(|(a, b)| (a - b).abs() > 1e-3);
    if differs(own.mean, data.mean) || differs(own.std, data.std) {
        warn!(
            "{key}: preprocessor_config.json beside them says mean {:?} and deviation {:?}, but images are \
             normalised by data.mean and data.std, {:?} and {:?}: they begin on images of another kind",
            own.mean, own.std, data.mean, data.std
        );
    }
}

/// Copies a stored encoder into `target`, whose first parameters are those of one, with positions resized
/// to `grid_size` × `grid_size` patches.
pub(super) fn start_from(
    stored: &StoredWeights,
    grid_size: usize,
    target: &Parameters,
) -> Result<()> {
    let storage = Storage::Empty { device: Device::Cpu, matrices: Kind::Float };
    let (_, parameters) = stored.build(storage, EncoderWeights::load_into)?;
    let spec = &stored.spec;
    for ((name, source), (_, target)) in parameters.named().iter().zip(target.named()) {
        let source = spec.family.resized(spec, name, source, grid_size);
        tch::no_grad(|| target.shallow_clone().f_copy_(&source))?;
    }
    Ok(())
}
