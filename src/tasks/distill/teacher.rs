//! The teacher: a frozen encoder, and the targets that it gives.

use tch::{Device, Kind};

use super::config::TeacherConfig;
use crate::encoders::{Encoder, EncoderSpec, FrozenPass, Input, Tokens};
use crate::nn::{FrozenFormat, Parameters, Storage};

/// Random stream of the teacher's random weights; students have their place in the config.
const TEACHER_STREAM: u64 = u32::MAX as u64;

/// The frozen encoder that gives the targets.
pub struct Teacher {
    encoder: Box<dyn Encoder>,
    pub parameters: Parameters,
    pass: FrozenPass,
}

impl Teacher {
    /// A teacher whose positions fit a `grid_size` × `grid_size` patch grid.
    pub fn new(storage: Storage, spec: EncoderSpec, grid_size: usize) -> Self {
        let mut parameters = Parameters::new(storage);
        let encoder = spec.build(&mut parameters, grid_size);
        Self::loaded(encoder, parameters)
    }

    /// A teacher of loaded weights, with the parameters that it was built from.
    pub fn loaded(encoder: Box<dyn Encoder>, parameters: Parameters) -> Self {
        Self { encoder, parameters, pass: FrozenPass::default() }
    }

    /// The encoder alone.
    pub fn encoder(&self) -> &dyn Encoder {
        &*self.encoder
    }

    /// Storage of a randomly drawn teacher.
    pub fn drawn(device: Device, matrices: Kind, seed: u64) -> Storage {
        Storage::Drawn { device, matrices, seed, rng_stream: TEACHER_STREAM }
    }

    /// Prepares the weights, once they are loaded, for images of `grid_size` × `grid_size` patches; see
    /// [`Encoder::freeze`]. The list of parameters, whose originals may take memory, is given up.
    pub fn freeze(&mut self, format: FrozenFormat, grid_size: usize) {
        self.parameters = Parameters::new(Storage::Shapes);
        self.encoder.freeze(format, grid_size as i64);
    }

    /// Sets how the forward pass runs from now on.
    pub fn run_as(&mut self, pass: FrozenPass) {
        self.pass = pass;
    }

    /// All tokens of whole images after the last block, without the final norm, in the kind of the
    /// residual stream, no gradient. See [`FrozenPass::tokens`].
    ///
    /// # Panics
    /// Where libtorch or a kernel fails.
    pub fn tokens(&self, input: &Input, compute: Kind) -> Tokens {
        self.pass
            .tokens(self.encoder(), input, compute)
            .unwrap_or_else(|error| panic!("libtorch: {error:#}"))
    }

    /// The targets of a batch: the tokens of whole images after each of `blocks`, ascending, after the final norm
    /// where `norm` asks for it, whichever block they come from.
    ///
    /// # Panics
    /// Where libtorch or a kernel fails.
    pub fn targets(&self, images: Input, blocks: &[usize], norm: bool, compute: Kind) -> Targets {
        let last = self.encoder().shape().depth - 1;
        let taps = blocks.iter().copied().filter(|&block| block != last).collect();
        let mut output = self.tokens(&Input { taps, ..images }, compute);
        let mut taps = std::mem::take(&mut output.taps).into_iter();
        let of_block = |&block: &usize| {
            let output = output.shallow_clone();
            let tokens = match block == last {
                true => output,
                false => Tokens { all: taps.next().expect("a tap for each block"), ..output },
            };
            let normed = |tokens| tch::no_grad(|| self.encoder().normalise(tokens));
            (block, if norm { normed(tokens) } else { tokens })
        };
        Targets(blocks.iter().map(of_block).collect())
    }
}

/// The teacher's tokens of a batch after each of its blocks that a student is compared with.
pub struct Targets(Vec<(usize, Tokens)>);

impl Targets {
    /// The tokens after this block.
    ///
    /// # Panics
    /// If they were not asked for.
    pub fn after(&self, block: usize) -> &Tokens {
        let found = self.0.iter().find(|(own, _)| *own == block);
        &found.expect("targets after this block").1
    }

    /// Blocks and tokens, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = &(usize, Tokens)> {
        self.0.iter()
    }
}

/// How `config` wants the teacher's forward pass to be run on this device.
pub(super) fn frozen_pass(config: &TeacherConfig, device: Device, compute: Kind) -> FrozenPass {
    let mut pass = FrozenPass::default();
    if config.fused_kernels {
        pass = pass.with_kernels(config.model.dim, device, compute);
    }
    if config.cuda_graph { pass.with_graph() } else { pass }
}
