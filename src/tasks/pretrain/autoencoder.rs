//! Masked-autoencoder pre-training (He et al., 2022): an encoder sees some cells of an
//! image, and a deep narrow decoder predicts the pixels of the others.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use super::config::PretrainConfig;
use crate::encoders::{Encoder, EncoderSpec, Input};
use crate::native::guard;
use crate::nn::{
    Decoder, Keeping, NormalisedPixels, Parameters, Storage, decoder_flops, masked_patches,
    patchify, transformer_kept_bytes, unpatchify,
};
use crate::tasks::masked_encoder::{MaskedEncoder, PassDraws};
use crate::train::objective::{Losses, MicroBatch, Objective, StepHooks, Trainee};

/// An encoder and the decoder that it is trained with, as one trainee.
pub struct Autoencoder {
    encoder: MaskedEncoder,
    decoder: Decoder,
    trainees: [Trainee; 1],
    compute: Kind,
    seed: u64,
}

/// Images whose masked patches an autoencoder predicted.
pub struct Reconstruction {
    /// 1 for patches that were masked, else 0: `[B, N]`.
    pub masked: Tensor,
    /// See [`Decoder::forward`].
    pub predicted: Tensor,
    /// The images with what was predicted in the place of masked patches, normalised as those are:
    /// `[B, 3, H, W]`.
    pub images: Tensor,
}

impl Autoencoder {
    /// The models of `config` with initial weights in float32 on `device`, drawn under the config's
    /// seed; matrix products run in `compute`.
    pub fn new(config: &PretrainConfig, device: Device, compute: Kind) -> Self {
        let seed = config.train.seed;
        let storage = Storage::Drawn { device, matrices: Kind::Float, seed, rng_stream: 0 };
        let autoencoder = Self { compute, ..Self::build(config, storage) };
        autoencoder.trainees[0].parameters.train();
        autoencoder
    }

    /// The models of `config` with zeros for weights, which are to be loaded.
    pub fn empty(config: &PretrainConfig, device: Device, compute: Kind) -> Self {
        let storage = Storage::Empty { device, matrices: Kind::Float };
        Self { compute, ..Self::build(config, storage) }
    }

    /// The models of `config` with their full shapes and no memory, for counting.
    pub fn shapes_only(config: &PretrainConfig) -> Self {
        Self::build(config, Storage::Shapes)
    }

    fn build(config: &PretrainConfig, storage: Storage) -> Self {
        let PretrainConfig { train, encoder, decoder, .. } = config;
        let grid_size = train.data.input_size / encoder.model.patch_size;
        let mut parameters = Parameters::new(storage);
        let built = MaskedEncoder::new(&mut parameters, encoder, grid_size, 0);
        let shape = decoder.shape(&encoder.model);
        let decoder = Decoder::new(&mut parameters, encoder.model.dim, shape, grid_size);
        let trainees = [Trainee { name: encoder.name.clone(), parameters }];
        Self { encoder: built, decoder, trainees, compute: Kind::Float, seed: train.seed }
    }

    /// The encoder alone.
    pub fn encoder(&self) -> &dyn Encoder {
        self.encoder.encoder()
    }

    /// [`Objective::accumulate`] with given draws.
    ///
    /// # Panics
    /// Where libtorch fails.
    pub fn accumulate_masked(
        &self,
        images: &Tensor,
        draws: PassDraws,
        scale: f64,
        hooks: &mut dyn StepHooks,
    ) -> Result<Losses> {
        hooks.before_targets()?;
        let targets = NormalisedPixels::from_patches(&self.patches(images));
        hooks.before_forward(0)?;
        let PassDraws { keep, drop_path } = draws;
        let input = Input { keep, drop_path, ..Input::whole(images.shallow_clone()) };
        let keep = input.keep.as_ref().expect("an autoencoder has a mask");
        let pass = self.encoder.forward(&input, self.compute);
        let predicted = self.decoder.forward(&pass.tokens.all, keep, self.compute);
        // Every image has as many masked patches, so the mean of means is the mean over all.
        let masked = masked_patches(keep, targets.pixels.size()[1]);
        let total = image_losses(&predicted, &targets.pixels, &masked).mean(Kind::Float);
        drop((predicted, targets));
        hooks.before_backward(0)?;
        pass.backward(&(&total * scale))?;
        Ok(Losses { total: total.detach(), terms: Vec::new() })
    }

    /// The reconstruction of `images` `[B, 3, H, W]`, of which the patches `keep` `[B, K]` are seen,
    /// without gradients.
    ///
    /// # Panics
    /// Where libtorch fails.
    pub fn reconstruct(&self, images: &Tensor, keep: &Tensor) -> Reconstruction {
        tch::no_grad(|| {
            let patches = self.patches(images);
            let targets = NormalisedPixels::from_patches(&patches);
            let predicted = self.predict(images, keep);
            let masked = masked_patches(keep, targets.pixels.size()[1]);
            let choose = masked.unsqueeze(-1).to_kind(Kind::Bool);
            let patches = targets.undo(&predicted).where_self(&choose, &patches);
            let shape = self.encoder().shape();
            let [rows, columns] = shape.grid(images);
            let images = unpatchify(&patches, shape.patch_size, rows, columns);
            Reconstruction { masked, predicted, images }
        })
    }

    /// Mean squared error over the masked patches of each of `images` `[B, 3, H, W]`, with the patches
    /// `keep` `[B, K]` in sight: `[B]`, without gradients.
    ///
    /// # Panics
    /// Where libtorch fails.
    pub fn losses(&self, images: &Tensor, keep: &Tensor) -> Tensor {
        tch::no_grad(|| {
            let targets = NormalisedPixels::from_patches(&self.patches(images)).pixels;
            let masked = masked_patches(keep, targets.size()[1]);
            image_losses(&self.predict(images, keep), &targets, &masked)
        })
    }

    /// See [`Decoder::forward`]; keeps nothing for a backward pass.
    fn predict(&self, images: &Tensor, keep: &Tensor) -> Tensor {
        let keep_ids = Some(keep.shallow_clone());
        let input = Input { keep: keep_ids, ..Input::whole(images.shallow_clone()) };
        let encoder = self.encoder();
        let tokens = encoder.normalise(encoder.forward(&input, self.compute));
        self.decoder.forward(&tokens.all, keep, self.compute)
    }

    /// Patches `[B, N, 3·p·p]` float32, whose pixels are the targets.
    fn patches(&self, images: &Tensor) -> Tensor {
        patchify(images, self.encoder().shape().patch_size)
    }
}

impl Objective for Autoencoder {
    fn trainees(&self) -> &[Trainee] {
        &self.trainees
    }

    fn accumulate(
        &self,
        batch: &MicroBatch,
        scale: f64,
        hooks: &mut dyn StepHooks,
    ) -> Result<Vec<Losses>> {
        guard(|| {
            let draws = self.encoder.draw(self.seed, batch)?;
            Ok(vec![self.accumulate_masked(&batch.images, draws, scale, hooks)?])
        })
    }
}

/// Mean squared error over the masked patches of each image, `[B]`, given predictions and targets
/// `[B, N, P]` and the `masked` ones `[B, N]`.
fn image_losses(predicted: &Tensor, targets: &Tensor, masked: &Tensor) -> Tensor {
    let errors = (predicted - targets).square().mean_dim(-1, false, Kind::Float);
    let sum = |tensor: Tensor| tensor.sum_dim_intlist(-1, false, Kind::Float);
    sum(errors * masked) / sum(masked.shallow_clone())
}

/// Operations of a training step by the recipe, for each image: three times those of a forward pass
/// of the encoder over the patches that it sees, and of the decoder over all. What an implementation
/// computes again or leaves out does not count.
pub fn flops_per_image(config: &PretrainConfig) -> f64 {
    3.0 * forward_flops(config).iter().sum::<f64>()
}

/// Bytes that a forward pass of encoder and decoder leaves for the backward pass, for each image.
pub fn kept_bytes(config: &PretrainConfig) -> [f64; 2] {
    let PretrainConfig { train, encoder, decoder, .. } = config;
    let grid_size = train.data.input_size / encoder.model.patch_size;
    let patches = grid_size * grid_size;
    let seen = encoder.mask(grid_size).map_or(patches, |mask| mask.kept());
    let number = train.run.precision.kind().elt_size_in_bytes() as f64;
    let keeping = encoder.keeping(number);
    let EncoderSpec { dim, depth, mlp_ratio, .. } = encoder.model;
    let prefix = encoder.model.prefix_tokens();
    let shape = decoder.shape(&encoder.model);
    // Pixels as predicted, in float32 for the loss, and as they are to be.
    let pixels = (patches * 3 * shape.patch_size * shape.patch_size) as f64 * (number + 8.0);
    let of_decoder = Keeping { drop_path: 0.0, recomputed: 0, ..keeping };
    let size = (shape.dim, shape.depth, shape.mlp_ratio);
    [
        transformer_kept_bytes((dim, depth, mlp_ratio), prefix + seen, &keeping),
        transformer_kept_bytes(size, shape.prefix_tokens + patches, &of_decoder) + pixels,
    ]
}

/// Operations of a forward pass of encoder and decoder, for each image.
pub fn forward_flops(config: &PretrainConfig) -> [f64; 2] {
    let PretrainConfig { train, encoder, decoder, .. } = config;
    let grid_size = train.data.input_size / encoder.model.patch_size;
    let patches = grid_size * grid_size;
    let seen = encoder.mask(grid_size).map_or(patches, |mask| mask.kept());
    let shape = decoder.shape(&encoder.model);
    [encoder.model.flops(seen), decoder_flops(&shape, encoder.model.dim, seen, patches)]
}
