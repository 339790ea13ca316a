//! Encoders that look at image files: one size for all, one encoder in memory at a time.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use image::RgbImage;
use tch::{Device, Kind, Tensor};

use super::frozen_encoder::{EncoderSource, FrozenEncoder};
use crate::config::Precision;
use crate::data::image::load_central;
use crate::encoders::Input;
use crate::native::{guard, upload};
use crate::nn::Normalisation;
use crate::viz::{Basis, PatchTokens, colours};

/// An image of more pixels is refused.
const MOST_PIXELS: u64 = 1 << 28;
/// What a user calls weights and size.
const KEYS: [&str; 2] = ["--weights", "--input-size"];

/// Encoders and what they are called.
pub type NamedEncoders = [(String, EncoderSource)];

/// Side of the images that all `encoders` look at, in pixels: `wanted`, or that of the first encoder's weights, or the
/// next one that all patches divide.
///
/// # Errors
/// An encoder cannot be loaded, or does not take images of this size.
pub fn common_input_size(encoders: &NamedEncoders, wanted: Option<usize>) -> Result<usize> {
    let mut facts = Vec::new();
    for (name, source) in encoders {
        let found = source.facts(KEYS, wanted);
        facts.push(found.with_context(|| name.clone())?);
    }
    let first = facts.first().context("no encoder is named")?.0;
    if wanted.is_some() {
        return Ok(first);
    }
    let step = facts.iter().fold(1, |step, (_, patch)| least_common_multiple(step, *patch));
    Ok(first.next_multiple_of(step))
}

pub fn least_common_multiple(a: usize, b: usize) -> usize {
    let (mut greatest, mut rest) = (a, b);
    while rest > 0 {
        (greatest, rest) = (rest, greatest % rest);
    }
    a / greatest.max(1) * b
}

/// The central square of an image file, `[side, side, 3]` bytes.
///
/// # Errors
/// The file cannot be read or decoded.
pub fn central_square(file: &Path, side: usize) -> Result<Vec<u8>> {
    load_central(file, side, side, MOST_PIXELS)
}

/// An encoder that looks at images.
pub struct Viewer {
    encoder: FrozenEncoder,
    normalisation: Normalisation,
    side: usize,
    device: Device,
    compute: Kind,
}

/// What an encoder sees in images.
pub struct Seen {
    /// The pooled vector of each, `[B, D]` float32 on the CPU.
    pub pooled: Tensor,
    /// The patch tokens of each after the final norm.
    pub patches: Vec<PatchTokens>,
}

impl Viewer {
    /// Loads an encoder for images of `side` pixels.
    ///
    /// # Errors
    /// It cannot be loaded, or does not take images of this size.
    pub fn load(
        source: &EncoderSource,
        side: usize,
        device: Device,
        precision: Precision,
    ) -> Result<Self> {
        let compute = precision.kind();
        let encoder = source.load(KEYS, Some(side), device, compute)?;
        let normalisation =
            Normalisation::new(encoder.preprocessing.mean, encoder.preprocessing.std, device);
        Ok(Self { encoder, normalisation, side, device, compute })
    }

    /// Side of a patch, in pixels.
    pub fn patch_size(&self) -> usize {
        self.encoder.model.shape().patch_size as usize
    }

    /// Numbers of a token.
    pub fn width(&self) -> usize {
        self.encoder.model.shape().dim as usize
    }

    /// Looks at images, `[side, side, 3]` bytes each, in one pass.
    ///
    /// # Errors
    /// Its tokens are not finite.
    pub fn see(&self, images: &[&[u8]]) -> Result<Seen> {
        let side = self.side as i64;
        guard(|| {
            let pixels = images.concat();
            let colours = upload(&pixels, &[images.len() as i64, side, side, 3], self.device)?;
            let model = &self.encoder.model;
            let (pooled, tokens) = tch::no_grad(|| {
                let images = self.normalisation.apply(&colours);
                let tokens = model.forward(&Input::whole(images), self.compute);
                (model.pooled(&tokens), model.normalise(tokens))
            });
            let [rows, columns] = tokens.grid;
            let patches = tokens.patches().to_kind(Kind::Float).to_device(Device::Cpu);
            let pooled = pooled.to_kind(Kind::Float).to_device(Device::Cpu);
            let is_finite = |tensor: &Tensor| tensor.isfinite().all().int64_value(&[]) == 1;
            ensure!(
                is_finite(&patches) && is_finite(&pooled),
                "its tokens are not finite: are the weights damaged?"
            );
            let of_image = |number| patches.get(number).reshape([rows, columns, -1]);
            Ok(Seen { pooled, patches: (0..images.len() as i64).map(of_image).collect() })
        })
    }
}

/// The patch tokens of the same images by one encoder.
pub struct PatchesOf<'a> {
    pub tokens: &'a [PatchTokens],
    /// Side of a patch's square in what is drawn, in pixels.
    pub square: u32,
}

/// The principal components of each encoder's patches as images, and whether they are along the same directions:
/// so they are where all encoders have tokens of one width.
///
/// # Errors
/// There are too few patches, or numbers in a token.
pub fn components(viewers: &[PatchesOf<'_>]) -> Result<(Vec<Vec<RgbImage>>, bool)> {
    let width = |of: &PatchesOf| of.tokens.first().and_then(|tokens| tokens.size().pop());
    let is_one_basis = viewers.iter().all(|viewer| width(viewer) == width(&viewers[0]));
    let tokens: Vec<&[PatchTokens]> = viewers.iter().map(|viewer| viewer.tokens).collect();
    let shared = if is_one_basis { Some(Basis::of(&tokens)?) } else { None };
    let mut first: Option<Vec<Tensor>> = None;
    let mut drawn = Vec::new();
    for viewer in viewers {
        let own;
        let basis = match &shared {
            Some(basis) => basis,
            None => {
                own = Basis::of(&[viewer.tokens])?;
                &own
            }
        };
        let places = basis.project(viewer.tokens, first.as_deref());
        drawn.push(colours(&places, viewer.square));
        first.get_or_insert(places);
    }
    Ok((drawn, is_one_basis))
}
