//! What updates and tests of heads have in common.

use std::path::Path;

use anyhow::{Context, Result};
use tch::{Kind, Tensor};

use super::config::HeadsConfig;
use crate::data::Batch;
use crate::data::pairs::{PairSet, PairTask, TARGET};
use crate::dist::ProcessGroup;
use crate::encoders::Encoder;
use crate::eval::dense::{DenseTask, HeadTrainer, feature_maps};
use crate::native::{guard, upload};
use crate::nn::Normalisation;
use crate::run::frozen_encoder::FrozenEncoder;

/// What a training of heads stands on.
pub struct Ground<'a> {
    pub config: &'a HeadsConfig,
    pub group: &'a ProcessGroup,
    pub encoder: &'a FrozenEncoder,
    pub set: &'a PairSet,
    pub worker_program: &'a Path,
}

impl Ground<'_> {
    /// What is predicted.
    pub fn task(&self) -> DenseTask {
        match &self.set.task {
            PairTask::Depth { range: [least, most], .. } => {
                DenseTask::Depth { least: *least, most: *most }
            }
            PairTask::Segmentation { classes, .. } => {
                DenseTask::Segmentation { classes: *classes as i64 }
            }
        }
    }

    /// The frozen encoder.
    pub fn model(&self) -> &dyn Encoder {
        &*self.encoder.model
    }

    /// Number format of matrix products and convolutions.
    pub fn compute(&self) -> Kind {
        self.config.run.precision.kind()
    }

    /// What images are normalised by.
    ///
    /// # Errors
    /// The device has no memory left.
    pub fn normalisation(&self) -> Result<Normalisation> {
        let preprocessing = &self.encoder.preprocessing;
        let device = self.group.device();
        guard(|| Ok(Normalisation::new(preprocessing.mean, preprocessing.std, device)))
    }

    /// Blocks of the encoder that any head takes, ascending.
    pub fn blocks(&self) -> Vec<usize> {
        let depth = self.model().shape().depth;
        let heads = self.config.heads.iter();
        let mut blocks: Vec<usize> = heads.flat_map(|head| head.kind.blocks(depth)).collect();
        blocks.sort_unstable();
        blocks.dedup();
        blocks
    }

    /// The maps after each of `blocks`.
    ///
    /// # Errors
    /// The device has no memory left.
    pub fn maps(&self, images: &Tensor, blocks: &[usize]) -> Result<Vec<Tensor>> {
        guard(|| Ok(feature_maps(self.model(), images, blocks, self.compute())))
    }

    /// Those of the `maps` after `blocks` that a head takes.
    pub fn maps_of(&self, head: &HeadTrainer, maps: &[Tensor], blocks: &[usize]) -> Vec<Tensor> {
        let place = |block: &usize| blocks.iter().position(|known| known == block);
        let own = head.kind().blocks(self.model().shape().depth);
        own.iter().map(|block| maps[place(block).expect("it is there")].shallow_clone()).collect()
    }

    /// The number format of [targets](Self::targets).
    pub fn target_kind(&self) -> Kind {
        match &self.set.task {
            PairTask::Depth { .. } => Kind::Float,
            PairTask::Segmentation { .. } => Kind::Int64,
        }
    }

    /// The targets of a batch on the device, of this shape: metres float32, or classes int64. Zeros where
    /// there is no batch.
    ///
    /// # Errors
    /// The device has no memory left.
    pub fn targets(&self, batch: Option<&Batch>, shape: &[i64]) -> Result<Tensor> {
        let device = self.group.device();
        let Some(batch) = batch else {
            return guard(|| Ok(Tensor::zeros(shape, (self.target_kind(), device))));
        };
        let stored = batch.target(TARGET).context("a batch has no targets")?;
        let count = shape.iter().product::<i64>() as usize;
        match &self.set.task {
            PairTask::Depth { divisor, .. } => {
                let numbers = stored[..2 * count].as_chunks::<2>().0.iter();
                let metres = |&two| (f64::from(u16::from_ne_bytes(two)) / divisor) as f32;
                upload(&numbers.map(metres).collect::<Vec<f32>>(), shape, device)
            }
            PairTask::Segmentation { .. } => {
                let classes = upload(&stored[..count], shape, device)?;
                guard(|| Ok(classes.to_kind(Kind::Int64)))
            }
        }
    }
}
