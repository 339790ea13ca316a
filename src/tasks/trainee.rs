//! An encoder that is trained: its numbers, what it starts from, how much it sees.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tch::Device;
use toml::{Table, Value};
use tracing::info;

use crate::config::{Check, ConfigError, DataConfig, KeyError, Precision, require};
use crate::encoders::{EncoderSpec, declared_at};
use crate::nn::{
    DropPathMode, FP8_LEAST_WEIGHTS, Keeping, Mask, Parameters, ProductPrecision, StochasticDepth,
    Storage, require_fp8,
};

/// Fills in the `model` of a table that names `weights` and leaves it to them what they are of.
///
/// # Errors
/// They do not say it, or cannot be read: the key, and what is wrong.
pub(super) fn fill_in_model(key: &str, table: &mut Table) -> Result<(), KeyError> {
    let Some(Value::String(weights)) = table.get("weights") else { return Ok(()) };
    if table.contains_key("model") || weights == TraineeConfig::RANDOM {
        return Ok(());
    }
    let spec = declared_at(Path::new(weights))
        .map_err(|error| (format!("{key}.weights"), format!("= \"{weights}\": {error:#}")))?;
    let spec = spec.ok_or_else(|| {
        let message = format!("is missing, and \"{weights}\" has no config.json that says it");
        (format!("{key}.model"), message)
    })?;
    let model =
        Value::try_from(spec).map_err(|error| (format!("{key}.model"), error.to_string()))?;
    table.insert("model".into(), model);
    Ok(())
}

/// The configuration of one encoder that is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraineeConfig {
    /// Its name in metrics, checkpoints and exports.
    pub name: String,
    pub model: EncoderSpec,
    /// `random`, or weights to start from (same forms as the teacher's).
    #[serde(default = "random_weights")]
    pub weights: String,
    /// Share of mask cells that this encoder does not see, in `[0, 1)`.
    #[serde(default)]
    pub mask_ratio: f64,
    /// Side of a mask cell, in patches.
    #[serde(default = "four")]
    pub mask_grid: usize,
    /// Drop path probability of the last block; it rises linearly from 0 at the first.
    #[serde(default)]
    pub drop_path: f64,
    #[serde(default)]
    pub drop_path_mode: DropPathMode,
    /// How many of the first blocks keep only their inputs, and are computed again in the backward
    /// pass.
    #[serde(default)]
    pub recompute_blocks: usize,
    /// Number format of its blocks' matrix products forward and towards the input.
    #[serde(default, skip_serializing_if = "ProductPrecision::is_same")]
    pub precision: ProductPrecision,
    /// What its loss has in the place of keys of the task's, where the task has any.
    #[serde(default, skip_serializing_if = "Table::is_empty")]
    pub loss: Table,
}

impl TraineeConfig {
    /// What decides how much its passes keep, where products run in numbers of so many bytes.
    pub(super) fn keeping(&self, number: f64) -> Keeping {
        let Self { drop_path, drop_path_mode: mode, recompute_blocks: recomputed, .. } = *self;
        Keeping { number, drop_path, mode, recomputed }
    }

    /// Weights that are drawn instead of loaded.
    pub const RANDOM: &str = "random";

    /// An encoder of random weights that sees every patch.
    pub fn minimal(name: &str, model: EncoderSpec) -> Self {
        Self {
            name: name.to_string(),
            model,
            weights: random_weights(),
            mask_ratio: 0.0,
            mask_grid: four(),
            drop_path: 0.0,
            drop_path_mode: DropPathMode::Scale,
            recompute_blocks: 0,
            precision: ProductPrecision::Same,
            loss: Table::new(),
        }
    }
}

impl TraineeConfig {
    /// The mask on images of `grid_size` × `grid_size` patches, unless it sees all of them.
    pub fn mask(&self, grid_size: usize) -> Option<Mask> {
        let (ratio, cell_patches) = (self.mask_ratio, self.mask_grid);
        (ratio > 0.0).then_some(Mask { grid_size, cell_patches, ratio })
    }

    /// How its paths are dropped.
    pub fn stochastic_depth(&self) -> StochasticDepth {
        let (rate, mode) = (self.drop_path, self.drop_path_mode);
        StochasticDepth { rate, depth: self.model.depth, mode }
    }

    /// The first contradiction in this table, which stands at `key`, for images of `data`.
    ///
    /// # Errors
    /// There is one.
    pub fn check(&self, key: &str, data: &DataConfig) -> Check {
        let at = |name: &str| format!("{key}.{name}");
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let name = &self.name;
        require(
            !name.is_empty() && !name.starts_with('.') && name.chars().all(plain),
            at("name"),
            || format!("found `{name}`, expected letters, digits, `-`, `_`, `.`"),
        )?;
        require(!name.ends_with(".optimizer"), at("name"), || {
            format!("found `{name}`, expected another ending: checkpoints have files of that name")
        })?;
        check_encoder(&at("model"), &self.model, data)?;
        require((0.0..1.0).contains(&self.mask_ratio), at("mask_ratio"), || {
            format!("found {}, expected a share in [0, 1)", self.mask_ratio)
        })?;
        require((0.0..1.0).contains(&self.drop_path), at("drop_path"), || {
            format!("found {}, expected a probability in [0, 1)", self.drop_path)
        })?;
        let depth = self.model.depth;
        require(self.recompute_blocks <= depth, at("recompute_blocks"), || {
            format!("found {}, expected at most its {depth} blocks", self.recompute_blocks)
        })?;
        self.check_mask(key, data)
    }

    /// That its products are in FP8 only where the run is in bf16, at `key`.
    ///
    /// # Errors
    /// They are elsewhere, or of a width that FP8 does not take.
    pub(super) fn check_precision(&self, key: &str, run: Precision) -> Check {
        let is_fp8 = self.precision == ProductPrecision::Fp8;
        require(!is_fp8 || run == Precision::Bf16, format!("{key}.precision"), || {
            "found \"fp8\", expected \"same\" unless run.precision is \"bf16\"".into()
        })?;
        // What CUDA's FP8 products take.
        require(!is_fp8 || self.model.dim.is_multiple_of(16), format!("{key}.precision"), || {
            format!("found \"fp8\" for a width of {}, expected a multiple of 16", self.model.dim)
        })
    }

    /// Tells which of its products are in FP8, if any was asked for.
    pub(super) fn tell_precision(&self) {
        if self.precision == ProductPrecision::Fp8 {
            let mut parameters = Parameters::new(Storage::Shapes);
            let mut encoder = self.model.build(&mut parameters, self.mask_grid.max(1));
            let others = encoder.train_in_fp8(FP8_LEAST_WEIGHTS);
            let others = match others.is_empty() {
                true => String::new(),
                false => format!(" but {}, for which bf16 is as fast", others.join(" and ")),
            };
            info!("`{}` is trained in FP8: all products of its blocks{others}", self.name);
        }
    }

    /// That `device` can do what this table, which stands at `key`, asks for.
    ///
    /// # Errors
    /// It cannot.
    pub(super) fn require_abilities(&self, key: &str, device: Device) -> Result<(), ConfigError> {
        if self.precision == ProductPrecision::Fp8
            && let Err(error) = require_fp8(device)
        {
            let message = format!("found \"fp8\", but {error:#}");
            let key = format!("{key}.precision");
            return Err(ConfigError { file: Default::default(), key, message });
        }
        Ok(())
    }

    fn check_mask(&self, key: &str, data: &DataConfig) -> Check {
        if self.mask_ratio == 0.0 {
            return Ok(());
        }
        let (model, cell_patches) = (&self.model, self.mask_grid);
        require(model.family.takes_masks(), format!("{key}.mask_ratio"), || {
            let title = model.family.title();
            format!("found {}, expected 0: {title} encoders see whole images", self.mask_ratio)
        })?;
        let grid_size = model.grid_size(data.input_size);
        require(
            cell_patches > 0 && grid_size.is_multiple_of(cell_patches),
            format!("{key}.mask_grid"),
            || {
                format!(
                    "found {cell_patches}, expected a divisor of the {grid_size}×{grid_size} patch grid"
                )
            },
        )?;
        let cells = (grid_size / cell_patches).pow(2);
        require(
            (cells as f64 * (1.0 - self.mask_ratio)).floor() >= 1.0,
            format!("{key}.mask_ratio"),
            || format!("found {}, which keeps none of {cells} cells", self.mask_ratio),
        )
    }
}

/// The first contradiction in an encoder's numbers, which stand at `key`, for images of `data`.
///
/// # Errors
/// There is one.
pub fn check_encoder(key: &str, spec: &EncoderSpec, data: &DataConfig) -> Check {
    check_numbers(key, spec)?;
    let (image_size, patch_size) = (data.input_size, spec.patch_size);
    require(image_size > 0 && image_size.is_multiple_of(patch_size), "data.input_size", || {
        format!("found {image_size}, expected a multiple of {key}'s patch size {patch_size}")
    })
}

/// The first contradiction in an encoder's numbers, which stand at `key`, whatever its images are.
///
/// # Errors
/// There is one.
pub(super) fn check_numbers(key: &str, spec: &EncoderSpec) -> Check {
    spec.family.check(spec).map_err(|(name, message)| (format!("{key}.{name}"), message))
}

fn random_weights() -> String {
    TraineeConfig::RANDOM.into()
}
fn four() -> usize {
    4
}
