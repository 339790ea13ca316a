//! Features of frozen encoders: one pass over images gives those of any number of encoders, pooled
//! and, where asked for, dense.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use tch::{Device, Kind, Tensor};

use crate::config::DataConfig;
use crate::data::pairs::TARGET;
use crate::data::{Batch, Dataset, Loader};
use crate::dist::ProcessGroup;
use crate::encoders::{self, Input};
use crate::native::{guard, upload};
use crate::nn::{ImageResizing, Normalisation};
use crate::status;

/// A frozen encoder, and the number format that its matrix products run in.
#[derive(Clone, Copy)]
pub struct Encoder<'a> {
    pub model: &'a dyn encoders::Encoder,
    /// Float32 or bf16.
    pub compute: Kind,
    /// Side of what it sees of an image, in pixels; none: the image as it is.
    pub image_size: Option<usize>,
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

/// How long images are waited for before the other processes are looked at.
const WAIT: Duration = Duration::from_millis(100);

/// Somebody asked for an end while encoders were measured.
#[derive(Debug, thiserror::Error)]
#[error("stopped by a signal while encoders were measured")]
pub struct Interrupted;

/// Pooled features of the images of a pass that have a class or a target, by one encoder.
pub struct Features {
    /// The encoder's own vector for an image ([`encoders::Encoder::pooled`]), divided by its length:
    /// `[N, D]`, float32, on the host, which has room for more of them.
    pub vectors: Tensor,
    /// Class of each image; 0 for all where images have targets in place of classes.
    pub labels: Vec<u32>,
    /// A hash of the pixels of each image, as encoders see them.
    pub hashes: Vec<i64>,
    pub left_out: LeftOut,
}

/// Dense features of some images, by one encoder.
pub struct DenseBatch<'a> {
    /// Number of the encoder.
    pub encoder: usize,
    /// Number of the first image, of those that this process has features of.
    pub first: usize,
    /// Place of each image in the pass, which is the same for any number of processes.
    pub positions: &'a [u64],
    /// Class of each image.
    pub labels: &'a [u32],
    /// The encoder's own vector for an image, of the tokens after the final norm: `[B, D]`, float32.
    pub class: Tensor,
    /// Patch tokens after the final LayerNorm `[B, rows, columns, D]`, float32, on the encoder's
    /// device. They are not kept: memory is bounded by a batch.
    pub patches: Tensor,
    /// The class of each pixel, where images have targets: `[B, H, W]` uint8 on the encoder's device.
    pub targets: Option<Tensor>,
}

/// Takes dense features.
pub type DenseTaker<'a> = dyn FnMut(&DenseBatch<'_>) -> Result<()> + 'a;

/// Told how many images of how many this process has seen. True asks for an end.
pub type Progress<'a> = &'a dyn Fn(u64, u64) -> bool;

/// Images of a pass that have no features.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    pub undecodable: u64,
    pub without_label: u64,
}

impl Features {
    /// Features `[N, D]` of images of these classes, of whose pixels nothing is known.
    pub fn new(vectors: Tensor, labels: Vec<u32>) -> Self {
        Self { vectors, labels, hashes: Vec::new(), left_out: LeftOut::default() }
    }

    /// The same on `device`, where they are compared, in the number format `kind`.
    pub fn to(&self, device: Device, kind: Kind) -> Self {
        Self {
            vectors: self.vectors.to_kind(kind).to_device(device),
            labels: self.labels.clone(),
            hashes: self.hashes.clone(),
            left_out: self.left_out,
        }
    }

    /// Number of images.
    pub fn count(&self) -> usize {
        self.labels.len()
    }
}

/// Goes over the images of `source` once, and gives for each of `encoders`, which lie on the device of
/// `group`, its pooled features; `dense` takes those of patches on the way. Each process of the group goes
/// over a stretch of the images, and has the pooled features of all in the end.
///
/// # Errors
/// The shards cannot be read, no image has a label, an encoder's features are not finite, the
/// device has no memory left, another process fails, `dense` fails, or [`Interrupted`].
pub fn features(
    encoders: &[Encoder<'_>],
    source: &ImageSource<'_>,
    group: &ProcessGroup,
    progress: Progress<'_>,
    mut dense: Option<&mut DenseTaker<'_>>,
) -> Result<Vec<Features>> {
    let ImageSource { dataset, config, worker_program } = source;
    let samples = dataset.sample_count();
    let batch_size = config.batch_size as u64;
    let own = group.share_of(samples);
    let (first, count) = (own.start, own.end - own.start);
    let mut loader = match count {
        0 => None,
        _ => {
            let batches = ranges(own, batch_size);
            Some(Loader::start(dataset.clone(), config, worker_program, batches)?)
        }
    };
    let monitor = loader.as_ref().map(Loader::monitor);
    let _status =
        monitor.map(|monitor| status::register("loader", move || monitor.status().to_string()));
    let mut gathering = guard(|| Ok(Gathering::new(encoders, count, config, group.device())))?;
    // As many rounds as the longest stretch has batches: all are asked in each whether to stop.
    let rounds = samples.div_ceil(group.world_size() as u64).div_ceil(batch_size);
    let mut seen = 0;
    for _ in 0..rounds {
        if let Some(batch) = next_batch(loader.as_mut(), group)? {
            guard(|| gathering.add(encoders, &batch, dense.as_deref_mut()))?;
            seen = batch.positions.end - first;
        }
        status::beat();
        if group.any(progress(seen, count))? {
            return Err(Interrupted.into());
        }
    }
    gathering.finish(group)
}

/// The next batch, if there is one. Meanwhile other processes are looked at.
fn next_batch(loader: Option<&mut Loader>, group: &ProcessGroup) -> Result<Option<Batch>> {
    let Some(loader) = loader else { return Ok(None) };
    if !loader.is_ready() {
        group.until("images", || Ok(loader.is_ready_within(WAIT)))?;
    }
    loader.next_batch()
}

/// `positions` in ranges of `batch`.
fn ranges(positions: Range<u64>, batch: u64) -> impl Iterator<Item = Range<u64>> + Send {
    positions
        .clone()
        .step_by(batch as usize)
        .map(move |first| first..positions.end.min(first + batch))
}

/// The vectors so far.
struct Gathering {
    normalisation: Normalisation,
    resizing: ImageResizing,
    image_size: i64,
    device: Device,
    /// For each encoder, `[samples, D]`; the first rows are filled.
    vectors: Vec<Tensor>,
    labels: Vec<u32>,
    hashes: Vec<i64>,
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
            resizing: ImageResizing::new(config.mean, config.std, device),
            image_size: config.input_size as i64,
            device,
            vectors: encoders.iter().map(room).collect(),
            labels: Vec::new(),
            hashes: Vec::new(),
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
        let targets = batch.target(TARGET);
        let bytes = batch.images();
        let pixels = bytes.chunks_exact(bytes.len() / batch.labels.len());
        let (mut rows, mut positions) = (Vec::new(), Vec::new());
        let labels = batch.labels.iter().map(|label| label.or(targets.map(|_| 0)));
        for ((row, pixels), (label, image)) in (0i64..).zip(pixels).zip(labels.zip(&batch.images)) {
            match (label, image) {
                (_, None) => self.left_out.undecodable += 1,
                (None, _) => self.left_out.without_label += 1,
                (Some(label), _) => {
                    rows.push(row);
                    positions.push(batch.positions.start + row as u64);
                    self.labels.push(label);
                    self.hashes.push(hash(pixels));
                }
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
        let shape = [batch.labels.len() as i64, self.image_size, self.image_size];
        let colours = upload(bytes, &[shape[0], shape[1], shape[2], 3], self.device)?;
        let rows = upload(&rows, &[rows.len() as i64], self.device)?;
        let images = self.normalisation.apply(&colours.index_select(0, &rows));
        let targets = match targets {
            Some(targets) => Some(upload(targets, &shape, self.device)?.index_select(0, &rows)),
            None => None,
        };
        for (number, (encoder, vectors)) in encoders.iter().zip(&self.vectors).enumerate() {
            let seen = encoder.image_size.map(|size| self.resizing.resize(&images, size as i64));
            let seen = seen.as_ref().unwrap_or(&images);
            let (pooled, normed) = tch::no_grad(|| pool(encoder, seen, dense.is_some()));
            vectors.narrow(0, first as i64, rows.size()[0]).copy_(&pooled);
            if let (Some(take), Some([class, patches])) = (&mut dense, normed) {
                take(&DenseBatch {
                    encoder: number,
                    first,
                    positions: &positions,
                    labels: &self.labels[first..],
                    class,
                    patches,
                    targets: targets.as_ref().map(Tensor::shallow_clone),
                })?;
            }
        }
        Ok(())
    }

    /// The features of all processes.
    fn finish(self, group: &ProcessGroup) -> Result<Vec<Features>> {
        let Self { vectors, labels, hashes, left_out, .. } = self;
        let LeftOut { undecodable, without_label } = left_out;
        let [undecodable, without_label] =
            group.sum_counts([undecodable, without_label].map(|count| count as i64))?;
        let left_out =
            LeftOut { undecodable: undecodable as u64, without_label: without_label as u64 };
        let own = labels.len() as i64;
        let labels: Vec<i64> = labels.into_iter().map(i64::from).collect();
        let labels = group.gather_numbers(&labels)?;
        ensure!(
            !labels.is_empty(),
            "none of {} images has a label: this evaluation needs shards whose samples have a `.cls` \
             member with a class number ({} images do not decode); `distill data pack` makes labels \
             of class folders",
            left_out.without_label + left_out.undecodable,
            left_out.undecodable
        );
        let labels: Vec<u32> = labels.into_iter().map(|label| label as u32).collect();
        let hashes = group.gather_numbers(&hashes)?;
        let encoders = vectors.len();
        let finish = |(number, vectors): (usize, Tensor)| {
            let vectors = group.gather_rows(&vectors.narrow(0, 0, own))?;
            ensure!(
                vectors.isfinite().all().int64_value(&[]) == 1,
                "encoder {} of {encoders} gives numbers that are not finite: are its weights damaged?",
                number + 1
            );
            Ok(Features { vectors, labels: labels.clone(), hashes: hashes.clone(), left_out })
        };
        vectors.into_iter().enumerate().map(finish).collect()
    }
}

/// The first 64 bits of a BLAKE3 hash, which tells an image's pixels from others.
pub fn hash(bytes: &[u8]) -> i64 {
    let hash = blake3::hash(bytes);
    let (first, _) = hash.as_bytes().split_first_chunk().expect("a hash has 32 bytes");
    i64::from_le_bytes(*first)
}

/// What one pass of `encoder` over normalised images `[B, 3, H, W]` gives: the vectors of
/// [`encoders::Encoder::pooled`], each divided by its length, `[B, D]`, and, if it `is_dense`, after the
/// final norm, the vectors `[B, D]` and the patch tokens `[B, rows, columns, D]`; float32.
fn pool(encoder: &Encoder<'_>, images: &Tensor, is_dense: bool) -> (Tensor, Option<[Tensor; 2]>) {
    let Encoder { model, compute, .. } = *encoder;
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
