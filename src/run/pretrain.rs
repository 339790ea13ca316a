//! The pre-training task of a run.

use std::cell::OnceCell;

use anyhow::{Context, Result};

use super::evaluation::Trained;
use super::reconstructions::Samples;
use super::training::{Start, Training};
use super::{models, summary};
use crate::native::guard;
use crate::tasks::pretrain::{Autoencoder, PretrainConfig};
use crate::train::Drawing;

/// Pre-training of a masked autoencoder.
pub struct Pretraining;

impl Training for Pretraining {
    type Config = PretrainConfig;
    type Objective = Autoencoder;

    fn models(start: &Start<PretrainConfig>, starts_anew: bool) -> Result<Autoencoder> {
        guard(|| models::autoencoder(start.config, start.device, starts_anew))
    }

    fn drawing<'a>(
        start: &'a Start<PretrainConfig>,
        autoencoder: &'a Autoencoder,
    ) -> Option<Drawing<'a>> {
        let every = start.config.reconstructions.every;
        let samples = OnceCell::new();
        let draw = move || {
            if samples.get().is_none() {
                let _ = samples.set(Samples::read(start)?);
            }
            samples.get().context("there are no samples")?.draw(autoencoder)
        };
        (every > 0).then(|| Drawing { every, draw: Box::new(draw) })
    }

    fn trained(models: &Autoencoder) -> Trained<'_> {
        Trained { encoders: vec![models.encoder()], teacher: None }
    }

    fn check_models(config: &PretrainConfig) -> Result<()> {
        summary::print_autoencoder(&Autoencoder::shapes_only(config), config);
        models::check_encoder_weights(&config.encoder)
    }

    fn print_advice(config: &PretrainConfig) {
        if config.train.export.formats.is_empty() {
            return;
        }
        let folder = config.train.run.dir.join("exports").join(&config.encoder.name);
        println!("  distil it: in a configuration with students,");
        println!("    --set teacher.weights={}", folder.display());
        println!("    --set 'teacher.model={}'", config.encoder.model.to_toml());
    }
}
