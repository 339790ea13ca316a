//! A frozen encoder for evaluations: from weights, or from a run.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

use super::export::{
    Source, checkpoint_of_run, config_of, encoder_at, encoder_of_run, place_in_run, preprocessing,
};
use crate::artifacts::Role;
use crate::config::ConfigError;
use crate::encoders::{Encoder, EncoderSpec};
use crate::native::guard;
use crate::nn::{FrozenFormat, Parameters, Storage};
use crate::tasks::{self, TaskConfig, TraineeConfig};
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
    /// What of the run; left out: what it trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<RoleInRun>,
}

/// What a run has encoders for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum RoleInRun {
    /// As it was before the first step
    Initial,
    /// As it is in a checkpoint
    Trained,
    /// What the run's students learn from
    Teacher,
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

/// What a source comes down to.
enum Origin {
    /// Weights that are stored somewhere, and what they hold.
    Stored(Box<Source>),
    /// The encoder at this place of a run's configuration, whose initial weights are drawn.
    Drawn(Box<dyn TaskConfig>, usize),
}

impl EncoderSource {
    /// The encoder of stored weights.
    pub fn of_weights(weights: PathBuf, heads: Option<usize>) -> Self {
        Self { weights: Some(weights), heads, ..Self::default() }
    }

    /// The encoder that the run in `run` has in this role; of several the one that is called `student`.
    pub fn of_run(run: PathBuf, student: Option<String>, role: RoleInRun) -> Self {
        Self { run: Some(run), student, role: Some(role), ..Self::default() }
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
        let origin = self.origin(keys[0])?;
        let (spec, _, preprocessing) = origin.facts();
        let image_size = origin.image_size(keys[1], image_size)?;
        let model = guard(|| {
            let mut model = origin.build(device, compute)?;
            let format = FrozenFormat { compute, residual: Kind::Float, fp8: false };
            tch::no_grad(|| model.freeze(format, spec.grid_size(image_size) as i64));
            Ok(model)
        })?;
        Ok(FrozenEncoder { model, name: spec.to_string(), image_size, preprocessing })
    }

    /// What the encoder is in a table of several.
    ///
    /// # Errors
    /// The run's configuration cannot be read, or it has no such encoder.
    pub fn role(&self) -> Result<Role> {
        let Some(run) = &self.run else { return Ok(Role::Stored) };
        Ok(match self.role.unwrap_or(RoleInRun::Trained) {
            RoleInRun::Trained => Role::Trained,
            RoleInRun::Teacher => Role::Teacher,
            RoleInRun::Initial => {
                let config = config_of(run)?;
                let place = place_in_run(&*config, self.student.as_deref())?;
                let is_drawn = config.encoders()[place].weights == TraineeConfig::RANDOM;
                if is_drawn { Role::Random } else { Role::Initial }
            }
        })
    }

    /// Tells the encoder's weights from any others.
    ///
    /// # Errors
    /// There are no such weights; `key` is what a user calls them.
    pub fn digest(&self, key: &str) -> Result<String> {
        if let (Some(run), None | Some(RoleInRun::Trained)) = (&self.run, self.role) {
            let checkpoint = checkpoint_of_run(run, self.step)?;
            return Ok(format!("{} {:?}", checkpoint.digest(), self.student));
        }
        match self.origin(key)? {
            Origin::Stored(source) => source.0.file.digest(),
            Origin::Drawn(config, place) => {
                let (train, encoder) = (config.train(), &config.encoders()[place]);
                let size = train.data.input_size;
                Ok(format!(
                    "drawn: seed {} at {place} for {size} pixels: {}",
                    train.seed, encoder.model
                ))
            }
        }
    }

    /// Finds out whether the encoder can be loaded, without keeping it: the side of its images and their
    /// normalisation. `keys` as of [`Self::load`].
    ///
    /// # Errors
    /// Those of [`Self::load`].
    pub fn check(
        &self,
        keys: [&str; 2],
        image_size: Option<usize>,
    ) -> Result<(usize, Preprocessing)> {
        let origin = self.origin(keys[0])?;
        let image_size = origin.image_size(keys[1], image_size)?;
        if let Origin::Stored(source) = &origin {
            let (weights, stored, _) = &**source;
            let mut parameters = Parameters::new(Storage::Shapes);
            stored.spec.build(&mut parameters, stored.spec.grid_size(stored.image_size));
            weights.check_fit(parameters.named())?;
        }
        Ok((image_size, origin.facts().2))
    }

    /// The side of the images that [`Self::load`] would take for `image_size`, and that of a patch, both in pixels;
    /// nothing is kept. `keys` as there.
    ///
    /// # Errors
    /// Those of [`Self::load`].
    pub fn facts(&self, keys: [&str; 2], image_size: Option<usize>) -> Result<(usize, usize)> {
        let origin = self.origin(keys[0])?;
        Ok((origin.image_size(keys[1], image_size)?, origin.facts().0.patch_size))
    }

    fn origin(&self, key: &str) -> Result<Origin> {
        let stored = |source| Origin::Stored(Box::new(source));
        match (&self.weights, &self.run) {
            (Some(path), None) => {
                encoder_at(path, self.heads).map(stored).with_context(|| key.to_string())
            }
            (None, Some(run)) => match self.role.unwrap_or(RoleInRun::Trained) {
                RoleInRun::Trained => {
                    encoder_of_run(run, self.student.as_deref(), self.step).map(stored)
                }
                role => self.beside_training(run, role),
            },
            _ => {
                let message = "found neither or both, expected weights or a run".to_string();
                Err(wrong(key, message).into())
            }
        }
    }

    /// An encoder of a run that no checkpoint holds.
    fn beside_training(&self, run: &Path, role: RoleInRun) -> Result<Origin> {
        ensure!(
            self.step.is_none(),
            "a step names a checkpoint, and the {role:?} weights of a run are in none"
        );
        let config = config_of(run)?;
        let preprocessing = preprocessing(&config.train().data);
        let (heads, weights) = if role == RoleInRun::Teacher {
            let (spec, weights) = config
                .teacher()
                .with_context(|| format!("the run in {} has no teacher", run.display()))?;
            ensure!(
                weights != TraineeConfig::RANDOM,
                "the teacher of the run in {} has random weights: there is nothing to measure",
                run.display()
            );
            (spec.heads, weights)
        } else {
            let place = place_in_run(&*config, self.student.as_deref())?;
            let encoder = &config.encoders()[place];
            if encoder.weights == TraineeConfig::RANDOM {
                return Ok(Origin::Drawn(config, place));
            }
            (encoder.model.heads, encoder.weights.as_str())
        };
        let of_file = encoder_at(Path::new(weights), Some(heads));
        let (weights, stored, _) =
            of_file.with_context(|| format!("what the run in {} began with", run.display()))?;
        Ok(Origin::Stored(Box::new((weights, stored, preprocessing))))
    }

    /// What is shown of it.
    pub fn describe(&self) -> String {
        match (&self.weights, &self.run) {
            (Some(weights), _) => weights.display().to_string(),
            (_, Some(run)) => {
                let role = self.role.filter(|role| *role != RoleInRun::Trained);
                let role = role.map(|role| format!("{role:?}").to_lowercase());
                let of_run: Vec<&str> = self.student.iter().chain(&role).map(|s| &**s).collect();
                match of_run.is_empty() {
                    true => run.display().to_string(),
                    false => format!("{} ({})", run.display(), of_run.join(", ")),
                }
            }
            _ => "no encoder".into(),
        }
    }
}

impl Origin {
    /// The encoder's numbers, the side of the images that its weights are for, and their normalisation.
    fn facts(&self) -> (EncoderSpec, usize, Preprocessing) {
        match self {
            Self::Stored(source) => {
                let (_, stored, preprocessing) = &**source;
                (stored.spec, stored.image_size, *preprocessing)
            }
            Self::Drawn(config, place) => {
                let data = &config.train().data;
                (config.encoders()[*place].model, data.input_size, preprocessing(data))
            }
        }
    }

    /// The side of the images that are looked at: `wanted`, or that of the weights.
    fn image_size(&self, key: &str, wanted: Option<usize>) -> Result<usize, ConfigError> {
        let (spec, stored, _) = self.facts();
        let (size, patch) = (wanted.unwrap_or(stored), spec.patch_size);
        if size == 0 || !size.is_multiple_of(patch) {
            let message =
                format!("found {size}, expected a multiple of the encoder's patch, {patch}");
            return Err(wrong(key, message));
        }
        Ok(size)
    }

    fn build(&self, device: Device, compute: Kind) -> Result<Box<dyn Encoder>> {
        match self {
            Self::Stored(source) => {
                let (weights, stored, _) = &**source;
                let mut parameters = Parameters::new(Storage::Empty { device, matrices: compute });
                let grid = stored.spec.grid_size(stored.image_size);
                let model = stored.spec.build(&mut parameters, grid);
                weights.load_into(parameters.named())?;
                Ok(model)
            }
            Self::Drawn(config, place) => {
                let encoder = &config.encoders()[*place];
                Ok(tasks::drawn_encoder(config.train(), *place, encoder, device))
            }
        }
    }
}

fn wrong(key: &str, message: String) -> ConfigError {
    ConfigError { file: PathBuf::new(), key: key.into(), message }
}
