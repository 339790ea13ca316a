//! What a task is, and what a run asks of it.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use tch::{Device, Tensor};
use toml::Table;

use super::trainee::TraineeConfig;
use crate::config::{Check, ConfigError, KeyError, TrainConfig};
use crate::data::Dataset;
use crate::dist::ProcessGroup;
use crate::encoders::{Encoder, EncoderSpec};
use crate::train::objective::Objective;

/// A kind of training: what its configuration has of its own, and the names of what it has.
pub struct Task {
    /// What a page about a run calls it.
    pub title: &'static str,
    /// The top-level keys that only its configuration has; a file of this task has the first one.
    pub keys: &'static [&'static str],
    /// How it is run.
    pub command: &'static str,
    /// What one of the encoders that it trains is called.
    pub trainee: &'static str,
    /// What sees whole images: a network, or nothing more than the images themselves.
    pub whole_images: &'static str,
    /// Parts that networks have in it, and the keys of their tables.
    pub networks: &'static [(&'static str, &'static str)],
    /// Reads its configuration: see [`TaskConfig::from_tables`].
    pub read: fn(own: Table, train: TrainConfig) -> Result<Box<dyn TaskConfig>, KeyError>,
}

/// The configuration of a task, from which its models are made.
pub trait TaskConfig {
    /// The task that configurations of this type are for.
    fn description() -> &'static Task
    where
        Self: Sized;

    /// The task's own tables, and what every training has, as one configuration.
    ///
    /// # Errors
    /// A key is unknown, missing or of the wrong type.
    fn from_tables(own: Table, train: TrainConfig) -> Result<Self, KeyError>
    where
        Self: Sized;

    /// The task that it is for.
    fn task(&self) -> &'static Task;

    /// The same configuration once more.
    fn boxed(&self) -> Box<dyn TaskConfig>;

    /// The whole configuration as TOML, defaults included.
    fn to_toml(&self) -> String;

    /// The first contradiction in the task's own tables.
    fn validate(&self) -> Check;

    /// What every training has.
    fn train(&self) -> &TrainConfig;

    /// The same, to be changed.
    fn train_mut(&mut self) -> &mut TrainConfig;

    /// The same with the side of the crops that workers decode, of which models may see others.
    fn decoded(&self) -> TrainConfig {
        self.train().clone()
    }

    /// The encoders that are trained, in the order of their places in the configuration.
    fn encoders(&self) -> &[TraineeConfig];

    /// The frozen encoder that they learn from, if any, and what names its weights.
    fn teacher(&self) -> Option<(&EncoderSpec, &str)> {
        None
    }

    /// Side of what that encoder sees of an image, in pixels, where it is not what the others do.
    fn teacher_input_size(&self) -> Option<usize> {
        None
    }

    /// Has all weights drawn that it names a place for.
    fn draw_weights(&mut self);

    /// Floating-point operations of a training step by the recipe, for each image. What an
    /// implementation computes again or leaves out does not count.
    fn flops_per_image(&self) -> f64;

    /// Its networks with their sizes.
    fn networks(&self) -> Vec<Network>;

    /// What there is to say of the networks beside their sizes: what, and about which.
    fn notes(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Finds out whether the weights that it names can be read and fit, without keeping them.
    fn check_weights(&self) -> Result<()>;

    /// Finds out whether the device can do what it asks for.
    fn require_abilities(&self, _: Device) -> Result<(), ConfigError> {
        Ok(())
    }

    /// The models with initial weights; those that it names are read only where training
    /// `starts_anew`.
    ///
    /// # Errors
    /// Weights cannot be read or do not fit, or the device has no memory left.
    fn models(&self, setting: &Setting, starts_anew: bool) -> Result<Box<dyn Models>>;

    /// What one may do with what came out, in lines for people.
    fn advice(&self) -> String;
}

/// One of the networks of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    /// Its part in the run and, of several, its name.
    pub role: String,
    /// Its published name, or its numbers.
    pub size: String,
    pub parameters: u64,
    /// Operations of a forward pass over what it sees of an image, counted as
    /// [`TaskConfig::flops_per_image`] does.
    pub flops: f64,
    /// Bytes that its weights take on the device while nothing is computed.
    pub weight_bytes: f64,
    /// Bytes that stay of an image until the backward pass has used them.
    pub kept_bytes: f64,
    /// With which of the trainees it is trained; none if it is frozen.
    pub trainee: Option<usize>,
}

/// Where models are made.
pub struct Setting<'a> {
    pub group: &'a ProcessGroup,
    pub device: Device,
    /// What they are to see; none where only their speed matters.
    pub images: Option<Images<'a>>,
}

/// The images of a run.
pub struct Images<'a> {
    pub dataset: &'a Arc<Dataset>,
    /// The program that decodes them, in processes of its own.
    pub worker_program: &'a Path,
}

/// The models of a run: what is trained, and what it learns from.
pub trait Models: Objective {
    /// The encoders that are trained, in the order of the configuration, as they are now.
    fn encoders(&self) -> Vec<&dyn Encoder>;

    /// The frozen encoder that they learn from, if any.
    fn teacher(&self) -> Option<&dyn Encoder> {
        None
    }

    /// Images of what the models do, if the task has any.
    fn drawing<'a>(&'a self, _: &'a Setting<'a>) -> Option<Drawing<'a>> {
        None
    }
}

/// Images of what models do, made while they are trained.
pub struct Drawing<'a> {
    /// Steps between them.
    pub every: u64,
    /// Gives the columns of a sheet; a row is a sample.
    pub draw: Box<dyn Fn() -> Result<Vec<Column>> + 'a>,
}

/// One image of each sample.
pub struct Column {
    /// `[B, H, W, 3]` uint8.
    pub images: Tensor,
    /// 1 for patches that are to be greyed, else 0: `[B, N]`.
    pub masked: Option<Tensor>,
}
