//! Evaluations of one encoder that no run stands behind.

use std::path::PathBuf;

use anyhow::{Context, Error, Result};
use tch::Device;

use super::export::config_of;
use super::frozen_encoder::{EncoderSource, FrozenEncoder};
use super::setup;
use super::worker_program::worker_program;
use crate::artifacts::Role;
use crate::config::{ConfigError, DataConfig, DeviceChoice, Precision, TrainConfig};
use crate::data::image::Exif;
use crate::dist::ProcessGroup;
use crate::eval::{
    self, Encoder, Given, Interrupted, Measured, NamedEvaluation, Observer, Source, Subject,
};
use crate::weights::Preprocessing;

/// How an encoder is measured.
#[derive(Debug, Clone)]
pub struct Measuring {
    pub encoder: EncoderSource,
    /// Side of the images, in pixels; none: that of the weights.
    pub input_size: Option<usize>,
    /// Images in one forward pass.
    pub batch_size: usize,
    /// Processes that decode; 0 takes one per core.
    pub workers: usize,
    /// As `data.label`, `data.classes` and `data.exif`; what is left out is that of the encoder's run, where it is of
    /// one.
    pub label: Option<String>,
    pub classes: Option<PathBuf>,
    pub exif: Option<Exif>,
    pub device: DeviceChoice,
    pub precision: Precision,
}

/// What was found of an encoder.
pub struct Found {
    pub encoder: FrozenEncoder,
    pub measured: Vec<Measured>,
    /// Whether this is the process that tells of it.
    pub is_first: bool,
}

impl Measuring {
    /// Measures each of `evaluations`, whose settings come from a command line. Under a launcher all its
    /// processes call this and share the work.
    ///
    /// # Errors
    /// Weights, images or labels cannot be read or do not fit, the device has no memory left, another
    /// process fails, or [`Interrupted`].
    pub fn measure(
        &self,
        evaluations: &[NamedEvaluation],
        observer: &dyn Observer,
    ) -> Result<Found> {
        let mut train = TrainConfig::minimal("eval");
        (train.run.device, train.run.precision) = (self.device, self.precision);
        let work = |group: &ProcessGroup, device: Device| {
            let encoder = self.load(device)?;
            let data = self.data(&encoder)?;
            let source = Source { data: &data, given: Given::OnCommandLine, observer };
            let subject = Subject {
                name: "encoder",
                role: Role::Trained,
                encoder: Some(Encoder {
                    model: &*encoder.model,
                    compute: self.precision.kind(),
                    image_size: None,
                }),
            };
            let program = worker_program()?;
            let measured = eval::measure(evaluations, &[subject], &source, &program, group)?;
            Ok(Found { encoder, measured, is_first: group.is_first() })
        };
        let found = setup::with_group(&train, |_| Ok(()), |error| error, work);
        found.map_err(as_option)?.context(Interrupted)
    }

    /// Loads the encoder to this device.
    ///
    /// # Errors
    /// There are no such weights, or they do not take images of this size.
    pub(super) fn load(&self, device: Device) -> Result<FrozenEncoder> {
        let keys = ["--weights", "--input-size"];
        self.encoder.load(keys, self.input_size, device, self.precision.kind())
    }

    /// How its images are read.
    ///
    /// # Errors
    /// The configuration of the encoder's run cannot be read.
    pub(super) fn data(&self, encoder: &FrozenEncoder) -> Result<DataConfig> {
        let Preprocessing { mean, std } = encoder.preprocessing;
        let of_run = match &self.encoder.run {
            Some(run) => config_of(run)?.train().data.clone(),
            None => DataConfig::minimal(Vec::new()),
        };
        Ok(DataConfig {
            input_size: encoder.image_size,
            batch_size: self.batch_size,
            workers: self.workers,
            mean,
            std,
            label: self.label.clone().unwrap_or(of_run.label),
            classes: self.classes.clone().or(of_run.classes),
            exif: self.exif.unwrap_or(of_run.exif),
            // Bad images are counted here, not a reason to stop.
            max_failed_share: 1.0,
            ..DataConfig::minimal(Vec::new())
        })
    }
}

/// A device that is not there was asked for by an option, not by a key.
pub(super) fn as_option(error: Error) -> Error {
    match error.downcast::<ConfigError>() {
        Ok(wrong) if wrong.key == "run.device" => {
            ConfigError { key: "--device".into(), ..wrong }.into()
        }
        Ok(other) => other.into(),
        Err(error) => error,
    }
}
