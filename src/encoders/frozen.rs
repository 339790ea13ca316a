//! The forward pass of an encoder that stays as it is: the mathematics of [`Encoder::forward`] in fewer
//! launches of kernels.

use std::cell::RefCell;

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use super::encoder::{Encoder, Input};
use super::tokens::Tokens;
use crate::native::CudaGraph;
use crate::nn::{DropPath, Junctions};

/// How the forward pass of a frozen encoder runs.
#[derive(Default)]
pub struct FrozenPass {
    junctions: Junctions,
    graphs: Option<RefCell<Vec<RecordedPass>>>,
}

/// A forward pass over one shape of input, recorded.
struct RecordedPass {
    /// What it reads, `[B, 3, H, W]`, and which blocks' tokens it gives.
    input: Input,
    /// What it writes.
    tokens: Tokens,
    graph: CudaGraph,
}

impl FrozenPass {
    /// What lies between matrix products in kernels of our own, for an encoder of width `dim` on `device` that
    /// computes in `compute`. On a CPU or in float32 nothing changes; else a warning says why it cannot be.
    #[must_use]
    pub fn with_kernels(self, dim: usize, device: Device, compute: Kind) -> Self {
        match Junctions::with_kernels(dim, device, compute) {
            Ok(junctions) => Self { junctions, ..self },
            Err(why) => {
                if device.is_cuda() && compute == Kind::BFloat16 {
                    tracing::warn!("no kernels of our own between products: {why:#}");
                }
                self
            }
        }
    }

    /// Records the pass as a CUDA graph, once for each shape of input.
    #[must_use]
    pub fn with_graph(self) -> Self {
        Self { graphs: Some(RefCell::default()), ..self }
    }

    /// All tokens of whole images after `encoder`'s last block: in the kind of the residual stream,
    /// no gradient. `encoder` must be the same in all calls.
    ///
    /// With a graph the next call overwrites the tokens. It does so after all work that was queued before
    /// it in the same stream, so a step may read them until its end without a copy.
    ///
    /// # Panics
    /// Where libtorch fails in an operator; for an input with a mask or drop path.
    pub fn tokens(&self, encoder: &dyn Encoder, input: &Input, compute: Kind) -> Result<Tokens> {
        assert!(input.keep.is_none() && matches!(input.drop_path, DropPath::None));
        tch::no_grad(|| match &self.graphs {
            None => encoder.forward_frozen(input, compute, &self.junctions),
            Some(graphs) => {
                let mut graphs = graphs.borrow_mut();
                let index = match graphs.iter().position(|recorded| recorded.fits(input)) {
                    Some(index) => index,
                    None => {
                        let recorded = self.record(encoder, input, compute, graphs.first())?;
                        graphs.push(recorded);
                        graphs.len() - 1
                    }
                };
                graphs[index].replay(&input.images)
            }
        })
    }

    fn record(
        &self,
        encoder: &dyn Encoder,
        input: &Input,
        compute: Kind,
        sharing: Option<&RecordedPass>,
    ) -> Result<RecordedPass> {
        let taps = input.taps.clone();
        let input = Input { taps, ..Input::whole(input.images.copy()) };
        let sharing = sharing.map(|recorded| &recorded.graph);
        let pass = || encoder.forward_frozen(&input, compute, &self.junctions);
        let (graph, tokens) = CudaGraph::record(input.images.device(), sharing, pass)?;
        Ok(RecordedPass { input, tokens, graph })
    }
}

impl RecordedPass {
    fn fits(&self, input: &Input) -> bool {
        let form = |images: &Tensor| (images.size(), images.kind(), images.device());
        self.input.taps == input.taps && form(&self.input.images) == form(&input.images)
    }

    fn replay(&mut self, images: &Tensor) -> Result<Tokens> {
        self.input.images.copy_(images);
        self.graph.replay()?;
        Ok(self.tokens.shallow_clone())
    }
}
