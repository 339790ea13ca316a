//! A stack of transformer blocks, run in four ways: plainly, with a backward pass of its own, for a backward
//! pass that computes blocks again, and as a part of an encoder that stays as it is.
//!
//! Computing again (Chen et al., 2016) is a third more work for much less memory. The graph is cut at
//! the inputs of these blocks. The backward pass ends at the first block that kept its activations;
//! from there on each block is run again by itself, given the gradient of its output. So every
//! parameter gets its gradient in one piece, as without the cuts.

use std::ops::Range;

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use super::block::{Block, BlockShape};
use super::drop_path::DropPath;
use super::fp8::fits_fp8;
use super::frozen::{FrozenFormat, Junctions};
use super::layers::Linear;
use super::parameters::Parameters;
use super::rotary::Rotary;
use super::taps::Taps;
use super::trained::{Junction, Stream};
use crate::native::backward_from;

/// Blocks that follow one another.
pub struct Blocks {
    blocks: Vec<Block>,
    shape: BlockShape,
    /// Products with at least so many weights are trained in FP8.
    fp8: Option<usize>,
}

/// What is kept of a forward pass for [`Blocks::backward`].
pub struct KeptInputs {
    /// The first block's input, with its history.
    embedded: Tensor,
    /// Inputs of the blocks that will be computed again, `[B, T, D]`, without history.
    inputs: Vec<Tensor>,
    /// Of these inputs, by their places, those that were tapped: they collect the gradients of what was made of them.
    tapped: Vec<(usize, Tensor)>,
    /// Input of the block after these: where the graph of the other blocks begins.
    rest: Tensor,
}

impl Blocks {
    /// So many blocks, the parameters of block i under `NAME.i`.
    pub fn new(parameters: &mut Parameters, name: &str, shape: &BlockShape, depth: usize) -> Self {
        let block = |index| Block::new(parameters, &format!("{name}.{index}"), shape);
        Self { blocks: (0..depth).map(block).collect(), shape: *shape, fp8: None }
    }

    /// From here on products with at least so many weights are in FP8 where others are in bf16, forward and towards the
    /// input; towards the weights they stay in bf16, and so do products whose sizes are no multiples of 16. Gives the
    /// names of those that stay in bf16 altogether.
    pub fn train_in_fp8(&mut self, least_weights: usize) -> Vec<&'static str> {
        self.fp8 = Some(least_weights);
        let named = self.blocks.first().into_iter().flat_map(Block::products);
        let fits = |linear: &Linear| fits_fp8(linear.parameters()[0], least_weights);
        let others = named.filter(|(_, linear)| !fits(linear));
        others.map(|(name, _)| name).collect()
    }

    /// Number of blocks.
    pub fn depth(&self) -> usize {
        self.blocks.len()
    }

    /// The residual stream after the last block, `[B, T, D]`, given the first one's input
    /// `embedded`, which may be overwritten. Matrix products run in `compute` (float32 or bf16).
    /// `taps` keep the stream after the blocks that they want. Where there are `rotary` positions, queries and keys of
    /// all blocks are turned by them.
    pub fn forward(
        &self,
        embedded: Tensor,
        rotary: Option<&Rotary>,
        drop_path: &DropPath,
        compute: Kind,
        taps: &mut Taps,
    ) -> Tensor {
        self.forward_from((0, embedded), false, rotary, drop_path, compute, taps)
    }

    /// [`Self::forward`] from a block on, given its input, which may be overwritten unless it is
    /// kept.
    fn forward_from(
        &self,
        (first, mut residual): (usize, Tensor),
        is_kept: bool,
        rotary: Option<&Rotary>,
        drop_path: &DropPath,
        compute: Kind,
        taps: &mut Taps,
    ) -> Tensor {
        let blocks = first..self.depth();
        if let Some(junction) = self.junction(&residual, compute) {
            return self.trained(blocks, residual, junction, rotary, drop_path, taps);
        }
        for index in blocks {
            let (block, is_kept, paths) =
                (&self.blocks[index], is_kept && index == first, drop_path.of_block(index));
            residual = block.forward(residual, is_kept, rotary, compute, paths);
            taps.pass(index, &residual);
        }
        residual
    }

    /// How blocks whose gradients are wanted are joined, given their input; nothing where they run plainly.
    fn junction(&self, residual: &Tensor, compute: Kind) -> Option<Junction> {
        let device = residual.device();
        // There products are convolutions (`layers.rs`), of which libtorch has the backward pass.
        let plainly = (compute, device) == (Kind::Float, Device::Cpu);
        let is_trained = self.blocks.first().is_some_and(Block::is_trained);
        let BlockShape { dim, hidden, .. } = self.shape;
        (is_trained && !plainly).then(|| Junction::new(device, compute, [dim, hidden], self.fp8))
    }

    /// These blocks with a backward pass of their own; nothing is overwritten.
    fn trained(
        &self,
        blocks: Range<usize>,
        residual: Tensor,
        junction: Junction,
        rotary: Option<&Rotary>,
        drop_path: &DropPath,
        taps: &mut Taps,
    ) -> Tensor {
        let mut stream = Stream::new(residual);
        for index in blocks {
            let paths = drop_path.of_block(index);
            stream = self.blocks[index].trained(stream, junction, rotary, paths);
            if taps.want(index) {
                let settled = stream.settled(junction);
                taps.pass(index, &settled);
                stream = Stream::new(settled);
            }
        }
        stream.settled(junction)
    }

    /// One block, of which the input is kept.
    fn block(
        &self,
        (index, residual): (usize, Tensor),
        rotary: Option<&Rotary>,
        drop_path: &DropPath,
        compute: Kind,
    ) -> Tensor {
        if let Some(junction) = self.junction(&residual, compute) {
            let (blocks, taps) = (index..index + 1, &mut Taps::default());
            return self.trained(blocks, residual, junction, rotary, drop_path, taps);
        }
        let paths = drop_path.of_block(index);
        self.blocks[index].forward(residual, true, rotary, compute, paths)
    }

    /// [`Self::forward`] of which the first `count` blocks keep only their inputs. Once the loss has
    /// gone back, [`Self::backward`] takes the gradients the rest of the way, those of `taps` too.
    pub fn forward_keeping_inputs(
        &self,
        embedded: Tensor,
        rotary: Option<&Rotary>,
        drop_path: &DropPath,
        compute: Kind,
        count: usize,
        taps: &mut Taps,
    ) -> (Tensor, KeptInputs) {
        let mut inputs = vec![embedded.detach()];
        tch::no_grad(|| {
            for block in 0..count {
                let input = inputs[block].shallow_clone();
                inputs.push(self.block((block, input), rotary, drop_path, compute));
            }
        });
        let rest = inputs.pop().expect("the embedding at least").set_requires_grad(true);
        let wanted = (1..count).filter(|&place| taps.want(place - 1));
        let leaf = |place: usize| (place, inputs[place].detach().set_requires_grad(true));
        let tapped: Vec<(usize, Tensor)> = wanted.map(leaf).collect();
        tapped.iter().for_each(|(_, tokens)| taps.take(tokens.shallow_clone()));
        if count > 0 {
            taps.pass(count - 1, &rest);
        }
        let first = (count, rest.shallow_clone());
        let tokens = self.forward_from(first, true, rotary, drop_path, compute, taps);
        (tokens, KeptInputs { embedded, inputs, tapped, rest })
    }

    /// The backward pass through the blocks that kept only their inputs, and what embedded them.
    pub fn backward(
        &self,
        kept: KeptInputs,
        rotary: Option<&Rotary>,
        drop_path: &DropPath,
        compute: Kind,
    ) -> Result<()> {
        let KeptInputs { embedded, mut inputs, mut tapped, rest } = kept;
        let mut gradient = rest.grad();
        drop(rest);
        while let Some(leaf) = inputs.pop() {
            let leaf = leaf.set_requires_grad(true);
            let input = leaf.shallow_clone();
            let output = self.block((inputs.len(), input), rotary, drop_path, compute);
            backward_from(&output, &gradient)?;
            gradient = leaf.grad();
            if let Some((_, tokens)) = tapped.pop_if(|(place, _)| *place == inputs.len())
                && tokens.grad().defined()
            {
                gradient += tokens.grad();
            }
        }
        backward_from(&embedded, &gradient)
    }

    /// [`Self::forward`] of blocks that are not trained: what lies between their products is
    /// that of `junctions`. `embedded` is overwritten.
    ///
    /// # Errors
    /// A kernel of `junctions` fails.
    pub fn forward_frozen(
        &self,
        embedded: Tensor,
        rotary: Option<&Rotary>,
        junctions: &Junctions,
        compute: Kind,
        taps: &mut Taps,
    ) -> Result<Tensor> {
        let mut residual = embedded;
        let mut branch: Option<Tensor> = None;
        for (index, block) in self.blocks.iter().enumerate() {
            let before = branch.take();
            let attention =
                block.frozen_attention(&mut residual, before, rotary, junctions, compute)?;
            if let Some(before) = index.checked_sub(1) {
                taps.pass(before, &residual);
            }
            branch = Some(block.frozen_mlp(&mut residual, attention, junctions, compute)?);
        }
        let Some(branch) = branch else { return Ok(residual) };
        let residual = residual.g_add_(&branch);
        taps.pass(self.depth() - 1, &residual);
        Ok(residual)
    }

    /// Keeps every parameter in the format that it is used in. For blocks that stay as they are.
    pub fn freeze(&mut self, format: FrozenFormat) {
        self.blocks.iter_mut().for_each(|block| block.freeze(format));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::activation::Activation;
    use crate::nn::biases::Biases;
    use crate::nn::parameters::{Init, Storage};
    use crate::nn::rotary::RotaryShape;
    use tch::IndexOp;

    const BATCH: i64 = 5;

    /// Three blocks with drawn weights, and everything else that takes part drawn too.
    fn drawn(shape: &BlockShape) -> (Blocks, Parameters, [Tensor; 2]) {
        let (device, matrices) = (Device::Cpu, Kind::Float);
        let storage = Storage::Drawn { device, matrices, seed: 5, rng_stream: 1 };
        let mut parameters = Parameters::new(storage);
        let blocks = Blocks::new(&mut parameters, "blocks", shape, 3);
        let noise: Vec<_> = parameters.shared();
        let mut numbers = Parameters::new(storage);
        let mut normal = |size: &[i64]| numbers.tensor("drawn", size, Init::Normal(1.0));
        for (_, mut parameter) in noise {
            let _ = parameter.g_add_(&(normal(&parameter.size()) * 0.1));
        }
        parameters.train();
        let given = [0, 1].map(|_| normal(&[BATCH, 7, shape.dim as i64]));
        (blocks, parameters, given)
    }

    fn drop_paths() -> [DropPath; 3] {
        let scales = Tensor::rand([3, 2, BATCH], (Kind::Float, Device::Cpu)).round() * 1.5;
        let kept: Vec<Vec<i64>> =
            [&[0, 1, 2, 3, 4][..], &[1, 3], &[0, 2, 4], &[2], &[0, 1, 2, 3], &[3, 4]]
                .map(Vec::from)
                .to_vec();
        let skip = DropPath::skip(&kept, BATCH, Device::Cpu).unwrap();
        [DropPath::None, DropPath::Scale(scales), skip]
    }

    /// Tokens, the gradients of input and parameters, given the gradient of the tokens.
    fn gradients(
        parameters: &Parameters,
        [input, of_tokens]: &[Tensor; 2],
        forward: impl FnOnce(Tensor) -> Tensor,
    ) -> Vec<Tensor> {
        let input = input.detach().set_requires_grad(true);
        let tokens = forward(&input + 0.0);
        backward_from(&tokens, of_tokens).unwrap();
        let mut found = vec![tokens.detach(), input.grad()];
        for (_, parameter) in parameters.named() {
            found.push(parameter.grad().copy());
            let _ = parameter.grad().zero_();
        }
        found
    }

    /// Written out, forward and backward pass are those of autograd, for every kind of block and of drop path.
    #[test]
    fn the_backward_pass_of_its_own_is_autograds() {
        let plain = BlockShape::new(16, 2, 1e-6);
        let scaled = BlockShape { layer_scale: true, ..plain };
        let apart = BlockShape { biases: Biases::WITHOUT_KEY, biases_apart: true, ..scaled };
        let turned = RotaryShape { head_dim: 8, theta: 100.0, prefix_tokens: 1 };
        let turned = turned.table([2, 3], None, (Kind::Float, Device::Cpu));
        for (shape, rotary) in [
            (plain, None),
            (scaled, None),
            (BlockShape { gated: true, ..scaled }, None),
            (BlockShape { activation: Activation::GeluTanh, ..plain }, None),
            (BlockShape { activation: Activation::QuickGelu, ..plain }, None),
            (apart, Some(&turned)),
        ] {
            let (blocks, parameters, given) = drawn(&shape);
            let junction = Junction::new(Device::Cpu, Kind::Float, [shape.dim, shape.hidden], None);
            for (which, drop_path) in drop_paths().iter().enumerate() {
                let expected = gradients(&parameters, &given, |input| {
                    blocks.forward(input, rotary, drop_path, Kind::Float, &mut Taps::default())
                });
                let found = gradients(&parameters, &given, |input| {
                    blocks.trained(0..3, input, junction, rotary, drop_path, &mut Taps::default())
                });
                for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    let off = (found - expected).abs().max().double_value(&[]);
                    let size = expected.abs().max().double_value(&[]).max(1.0);
                    assert!(size > 0.0 && off <= 1e-5 * size, "{shape:?} {which} {index}: {off}");
                }
            }
        }
    }

    /// Taps and blocks that are computed again change nothing.
    #[test]
    fn taps_see_the_stream_and_change_nothing() {
        let (blocks, parameters, given) = drawn(&BlockShape::new(16, 2, 1e-6));
        let junction = Junction::new(Device::Cpu, Kind::Float, [16, 64], None);
        let drop_path = &drop_paths()[1];
        let run = |taps: &mut Taps| {
            gradients(&parameters, &given, |input| {
                blocks.trained(0..3, input, junction, None, drop_path, taps)
            })
        };
        let mut taps = Taps::after(&[0, 2]);
        let (with, without) = (run(&mut taps), run(&mut Taps::default()));
        for (with, without) in with.iter().zip(&without) {
            assert!((with - without).abs().max().double_value(&[]) < 1e-5);
        }
        let tokens = taps.into_tokens();
        assert_eq!((tokens.len(), &tokens[1].detach()), (2, &with[0]));
        assert_ne!(tokens[0].i(0), tokens[1].i(0));
    }
}
