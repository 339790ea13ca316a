//! The description of pre-training: one encoder, and the decoder that it is trained with.

use std::cell::OnceCell;

use anyhow::{Context, Result};
use tch::{Device, Tensor};
use toml::Table;
use tracing::{info, warn};

use super::autoencoder::{Autoencoder, flops_per_image, forward_flops, kept_bytes};
use super::config::{PretrainConfig, read};
use super::samples::Samples;
use crate::artifacts::paths;
use crate::config::{Check, ConfigError, KeyError, TrainConfig};
use crate::encoders::Encoder;
use crate::native::guard;
use crate::tasks::initial_weights::{StoredWeights, check, start_from, tell_normalisation};
use crate::tasks::task::{Drawing, Models, Network, Setting, Task, TaskConfig};
use crate::tasks::trainee::TraineeConfig;
use crate::train::objective::{Losses, MicroBatch, Objective, StepHooks, Trainee};

/// Pre-training of a masked autoencoder.
pub static TASK: Task = Task {
    title: "Masked-autoencoder pre-training",
    keys: &["encoder", "decoder", "reconstructions"],
    command: "distill pretrain --config",
    trainee: "encoder",
    whole_images: "whole crop",
    networks: &[("encoder", "encoder"), ("decoder", "decoder")],
    read: |own, train| Ok(Box::new(PretrainConfig::from_tables(own, train)?)),
};

/// Where a config says what its encoder starts from.
const WEIGHTS_KEY: &str = "encoder.weights";

impl TaskConfig for PretrainConfig {
    fn description() -> &'static Task {
        &TASK
    }

    fn from_tables(own: Table, train: TrainConfig) -> Result<Self, KeyError> {
        read(own, train)
    }

    fn task(&self) -> &'static Task {
        &TASK
    }

    fn boxed(&self) -> Box<dyn TaskConfig> {
        Box::new(self.clone())
    }

    fn to_toml(&self) -> String {
        toml::to_string(self).expect("every config value has a TOML form")
    }

    fn validate(&self) -> Check {
        self.check()
    }

    fn train(&self) -> &TrainConfig {
        &self.train
    }

    fn train_mut(&mut self) -> &mut TrainConfig {
        &mut self.train
    }

    fn encoders(&self) -> &[TraineeConfig] {
        std::slice::from_ref(&self.encoder)
    }

    fn draw_weights(&mut self) {
        self.encoder.weights = TraineeConfig::RANDOM.into();
    }

    fn flops_per_image(&self) -> f64 {
        flops_per_image(self)
    }

    fn networks(&self) -> Vec<Network> {
        let models = Autoencoder::shapes_only(self);
        let spec = &self.encoder.model;
        let of_encoder = |(name, _): &&(String, Tensor)| !spec.family.is_beside(name);
        let (encoder, decoder): (Vec<_>, Vec<_>) =
            models.trainees()[0].parameters.named().iter().partition(of_encoder);
        let count = |named: Vec<&(String, Tensor)>| {
            named.iter().map(|(_, tensor)| tensor.numel() as u64).sum::<u64>()
        };
        let [of_encoder, of_decoder] = forward_flops(self);
        let [by_encoder, by_decoder] = kept_bytes(self);
        let decoder_size = self.decoder.shape(spec).to_string();
        [
            ("encoder", spec.to_string(), encoder, (of_encoder, by_encoder)),
            ("decoder", decoder_size, decoder, (of_decoder, by_decoder)),
        ]
        .map(|(role, size, named, (flops, kept_bytes))| {
            let parameters = count(named);
            let (role, weight_bytes) = (role.into(), 4.0 * parameters as f64);
            Network { role, size, parameters, flops, weight_bytes, kept_bytes, trainee: Some(0) }
        })
        .into()
    }

    fn check_weights(&self) -> Result<()> {
        check(WEIGHTS_KEY, &self.encoder.weights, self.encoder.model)
    }

    fn require_abilities(&self, device: Device) -> Result<(), ConfigError> {
        self.encoder.require_abilities("encoder", device)
    }

    fn models(&self, setting: &Setting, starts_anew: bool) -> Result<Box<dyn Models>> {
        if setting.group.is_first() {
            tell_sizes(&self.networks());
            self.encoder.tell_precision();
        }
        let autoencoder = guard(|| autoencoder(self, setting, starts_anew))?;
        Ok(Box::new(Pretraining { autoencoder, config: self.clone() }))
    }

    fn advice(&self) -> String {
        if self.train.export.formats.is_empty() {
            return String::new();
        }
        let folder = paths::export(&self.train.run.dir, &self.encoder.name);
        format!(
            "  distil it: in a configuration with students,\n    --set teacher.weights={}\n    \
             --set 'teacher.model={}'\n",
            folder.display(),
            self.encoder.model.to_toml()
        )
    }
}

/// How many times an encoder's size its decoder may have before that is worth a word: the published one is about as
/// large as the smallest published encoder.
const LARGEST_DECODER: f64 = 4.0;

fn tell_sizes(networks: &[Network]) {
    if let [encoder, decoder] = networks {
        let ratio = decoder.parameters as f64 / encoder.parameters as f64;
        if ratio > LARGEST_DECODER {
            warn!(
                "the decoder has {ratio:.0} times the parameters of the encoder: most of the time goes into what \
                 is thrown away; [decoder] sets its size"
            );
        }
    }
}

/// The autoencoder with initial weights; those named in the config are read only for a new run.
fn autoencoder(
    config: &PretrainConfig,
    setting: &Setting,
    starts_anew: bool,
) -> Result<Autoencoder> {
    let PretrainConfig { train, encoder, .. } = config;
    let objective = Autoencoder::new(config, setting.device, train.run.precision.kind());
    let trainee = &objective.trainees()[0];
    let parameters = trainee.parameters.count();
    info!(parameters, "encoder `{}` with its decoder: {}", trainee.name, encoder.model);
    if starts_anew && encoder.weights != TraineeConfig::RANDOM {
        tell_normalisation(WEIGHTS_KEY, &encoder.weights, &train.data);
        let grid_size = train.data.input_size / encoder.model.patch_size;
        let stored = StoredWeights::open(WEIGHTS_KEY, &encoder.weights, encoder.model)?;
        start_from(&stored, grid_size, &trainee.parameters)?;
    }
    Ok(objective)
}

/// An autoencoder in a run that draws what it makes of some samples.
struct Pretraining {
    autoencoder: Autoencoder,
    config: PretrainConfig,
}

impl Objective for Pretraining {
    fn trainees(&self) -> &[Trainee] {
        self.autoencoder.trainees()
    }

    fn accumulate(
        &self,
        batch: &MicroBatch,
        scale: f64,
        hooks: &mut dyn StepHooks,
    ) -> Result<Vec<Losses>> {
        self.autoencoder.accumulate(batch, scale, hooks)
    }
}

impl Models for Pretraining {
    fn encoders(&self) -> Vec<&dyn Encoder> {
        vec![self.autoencoder.encoder()]
    }

    fn drawing<'a>(&'a self, setting: &'a Setting<'a>) -> Option<Drawing<'a>> {
        let every = self.config.reconstructions.every;
        let images = setting.images.as_ref().filter(|_| every > 0)?;
        let samples = OnceCell::new();
        let draw = move || {
            if samples.get().is_none() {
                let _ = samples.set(Samples::read(&self.config, images, setting.device)?);
            }
            samples.get().context("there are no samples")?.draw(&self.autoencoder)
        };
        Some(Drawing { every, draw: Box::new(draw) })
    }
}
