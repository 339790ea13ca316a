//! Features of frozen encoders: one pass over images gives those of any number of encoders, pooled
//! and, where asked for, dense.

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, ensure};
use tch::{Device, Kind, Tensor};

use crate::config::DataConfig;
use crate::data::{Batch, Dataset, Loader};
use crate::encoders::{self, Input};
use crate::native::{guard, upload};
use crate::nn::Normalisation;
use crate::status;

/// A frozen encoder, and the number format that its matrix products run in.
#[derive(Clone, Copy)]
pub struct Encoder<'a> {
    pub model: &'a dyn encoders::Encoder,
    /// Float32 or bf16.
    pub compute: Kind,
}

/// Images and the processes that decode them.
pub struct ImageSource<'a> {
    /// An evaluation pass.
    pub dataset: Arc<Dataset>,
    /// What the pass was opened with; normalisation, batch size and workers are taken from here.
    pub config: &'a DataConfig,
    /// The program that decodes.
    pub worker_program: &'a Path,
}

/// Pooled features of the labelled images of a pass, by one encoder.
pub struct Features {
    /// The encoder's own vector for an image ([`encoders::Encoder::pooled`]), divided by its length:
    /// `[N, D]`, float32, on the host, which has room for more of them.
    pub vectors: Tensor,
    /// Class of each image.
    pub labels: Vec<u32>,
    pub left_out: LeftOut,
}

/// Dense features of some labelled images, by one encoder.
pub struct DenseBatch<'a> {
    /// Number of the encoder.
    pub encoder: usize,
    /// Row of the first image in [`Features`].
    pub first: usize,
    /// Class of each image.
    pub labels: &'a [u32],
    /// The encoder's own vector for an image, of the tokens after the final norm: `[B, D]`, float32.
    pub class: Tensor,
    /// Patch tokens after the final LayerNorm `[B, rows, columns, D]`, float32, on the encoder's
    /// device. They are not kept: memory is bounded by a batch.
    pub patches: Tensor,
}

/// Takes dense features.
pub type DenseTaker<'a> = dyn FnMut(&DenseBatch<'_>) -> Result<()> + 'a;

/// Told how many images of how many are seen; an error ends the pass.
pub type Progress<'a> = &'a dyn Fn(u64, u64) -> Result<()>;

/// Images of a pass that have no features.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    pub undecodable: u64,
    pub without_label: u64,
}

impl Features {
    /// The same on `device`, where they are compared.
    pub fn to_device(&self, device: Device) -> Self {
        let Self { vectors, labels, left_out } = self;
        Self { vectors: vectors.to_device(device), labels: labels.clone(), left_out: *left_out }
    }

    /// Images whose class none of `reference` has, and how many classes these are.
    pub fn of_other_classes(&self, reference: &Self) -> (usize, usize) {
        let known: HashSet<u32> = reference.labels.iter().copied().collect();
        let others: Vec<u32> =
            self.labels.iter().copied().filter(|label| !known.contains(label)).collect();
        let classes: HashSet<&u32> = others.iter().collect();
        (others.len(), classes.len())
    }

    /// Number of images.
    pub fn count(&self) -> usize {
        self.labels.len()
    }
}

/// Goes over the images of `source` once, and gives for each of `encoders`, which lie on `device`,
/// its pooled features; `dense` takes those of patches on the way.
///
/// # Errors
/// The shards cannot be read, no image has a label, an encoder's features are not finite, the
/// device has no memory left, or the error of `progress` or `dense`.
pub fn features(
    encoders: &[Encoder<'_>],
    source: &ImageSource<'_>,
    device: Device,
    progress: Progress<'_>,
    mut dense: Option<&mut DenseTaker<'_>>,
) -> Result<Vec<Features>> {
    let ImageSource { dataset, config, worker_program } = source;
    let samples = dataset.sample_count();
    let batches = ranges(samples, config.batch_size as u64);
    let mut loader = Loader::start(dataset.clone(), config, worker_program, batches)?;
    let monitor = loader.monitor();
    let _status = status::register("loader", move || monitor.status().to_string());
    let mut gathering = guard(|| Ok(Gathering::new(encoders, samples, config, device)))?;
    while let Some(batch) = loader.next_batch()? {
        guard(|| gathering.add(encoders, &batch, dense.as_deref_mut()))?;
        status::beat();
        progress(batch.positions.end, samples)?;
    }
    guard(|| gathering.finish())
}

/// `0..samples` in ranges of `batch`.
fn ranges(samples: u64, batch: u64) -> impl Iterator<Item = Range<u64>> + Send {
    (0..samples.div_ceil(batch)).map(move |number| {
        let first = number * batch;
        first..samples.min(first + batch)
    })
}

/// The vectors so far.
struct Gathering {
    normalisation: Normalisation,
    image_size: i64,
    device: Device,
    /// For each encoder, `[samples, D]`; the first rows are filled.
    vectors: Vec<Tensor>,
    labels: Vec<u32>,
    left_out: LeftOut,
}

impl Gathering {
    fn new(encoders: &[Encoder<'_>], samples: u64, config: &DataConfig, device: Device) -> Self {
        // In place from the beginning: gathered batch by batch, they would take twice the memory.
        let room = |encoder: &Encoder<'_>| {
            let shape = [samples as i64, encoder.model.shape().dim];
            Tensor::empty(shape, (Kind::Float, Device::Cpu))
        };
        Self {
            normalisation: Normalisation::new(config.mean, config.std, device),
            image_size: config.input_size as i64,
            device,
            vectors: encoders.iter().map(room).collect(),
            labels: Vec::new(),
            left_out: LeftOut::default(),
        }
    }

    fn add(
        &mut self,
        encoders: &[Encoder<'_>],
        batch: &Batch,
        mut dense: Option<&mut DenseTaker<'_>>,
    ) -> Result<()> {
        let first = self.labels.len();
        let mut rows = Vec::new();
        for (row, (label, image)) in (0i64..).zip(batch.labels.iter().zip(&batch.images)) {
            match (label, image) {
                (_, None) => self.left_out.undecodable += 1,
                (None, _) => self.left_out.without_label += 1,
                (&Some(label), _) => {
                    rows.push(row);
                    self.labels.push(label);
                }
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
        let shape = [batch.labels.len() as i64, self.image_size, self.image_size, 3];
        let bytes = upload(batch.images(), &shape, self.device)?;
        let rows = upload(&rows, &[rows.len() as i64], self.device)?;
        let images = self.normalisation.apply(&bytes.index_select(0, &rows));
        for (number, (encoder, vectors)) in encoders.iter().zip(&self.vectors).enumerate() {
            let (pooled, normed) = tch::no_grad(|| pool(encoder, &images, dense.is_some()));
            vectors.narrow(0, first as i64, rows.size()[0]).copy_(&pooled);
            if let (Some(take), Some([class, patches])) = (&mut dense, normed) {
                take(&DenseBatch {
                    encoder: number,
                    first,
                    labels: &self.labels[first..],
                    class,
                    patches,
                })?;
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Vec<Features>> {
        let Self { vectors, labels, left_out, .. } = self;
        ensure!(
            !labels.is_empty(),
            "none of {} images has a label: this evaluation needs shards whose samples have a `.cls` \
             member with a class number ({} images do not decode); `distill data pack` makes labels \
             of class folders",
            left_out.without_label + left_out.undecodable,
            left_out.undecodable
        );
        let encoders = vectors.len();
        let finish = |(number, vectors): (usize, Tensor)| {
            let vectors = vectors.narrow(0, 0, labels.len() as i64);
            ensure!(
                vectors.isfinite().all().int64_value(&[]) == 1,
                "encoder {} of {encoders} gives numbers that are not finite: are its weights damaged?",
                number + 1
            );
            Ok(Features { vectors, labels: labels.clone(), left_out })
        };
        vectors.into_iter().enumerate().map(finish).collect()
    }
}

/// What one pass of `encoder` over normalised images `[B, 3, H, W]` gives: the vectors of
/// [`encoders::Encoder::pooled`], each divided by its length, `[B, D]`, and, if it `is_dense`, after the
/// final norm, the vectors `[B, D]` and the patch tokens `[B, rows, columns, D]`; float32.
fn pool(encoder: &Encoder<'_>, images: &Tensor, is_dense: bool) -> (Tensor, Option<[Tensor; 2]>) {
    let Encoder { model, compute } = *encoder;
    let tokens = model.forward(&Input::whole(images.shallow_clone()), compute);
    let vectors = model.pooled(&tokens);
    let length = vectors.square().sum_dim_intlist([1i64].as_slice(), true, Kind::Float).sqrt();
    let normed = is_dense.then(|| {
        let [rows, columns] = tokens.grid;
        let tokens = model.normalise(tokens);
        let patches = tokens.patches().to_kind(Kind::Float);
        let (batch, _, dim) = patches.size3().expect("tokens are [B, N, D]");
        [model.pooled(&tokens), patches.reshape([batch, rows, columns, dim])]
    });
    (vectors / length.clamp_min(1e-12), normed)
}
