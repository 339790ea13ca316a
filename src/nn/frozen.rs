//! The forward pass of an encoder that stays as it is: the same mathematics as [`Vit::forward`], told
//! to a GPU in fewer words.

use std::cell::RefCell;

use anyhow::{Result, ensure};
use tch::{Device, Kind, Tensor};

use super::drop_path::DropPath;
use super::layers::LayerNorm;
use super::vit::{Vit, VitInput};
use crate::native::{CudaGraph, RowNorm, TeacherKernels, kernels_fit};

/// How a frozen encoder's forward pass is run.
#[derive(Default)]
pub struct FrozenPass {
    kernels: Option<TeacherKernels>,
    graphs: Option<RefCell<Vec<RecordedPass>>>,
}

/// A forward pass over one shape of input, recorded.
struct RecordedPass {
    rows: i64,
    columns: i64,
    /// What it reads, `[B, N, 3·p·p]`.
    patches: Tensor,
    /// What it writes, `[B, C+N, D]`.
    tokens: Tensor,
    graph: CudaGraph,
}

impl FrozenPass {
    /// Adds a residual branch and normalises the sum in one kernel, for an encoder of width `dim` on
    /// `device` that computes in `compute`. Where that cannot be, a warning says why, and nothing
    /// changes.
    #[must_use]
    pub fn with_kernels(self, dim: usize, device: Device, compute: Kind) -> Self {
        let load = || {
            ensure!(compute == Kind::BFloat16, "they need run.precision = \"bf16\"");
            ensure!(kernels_fit(dim), "they do not fit a width of {dim}");
            TeacherKernels::load(device)
        };
        match load() {
            Ok(kernels) => Self { kernels: Some(kernels), ..self },
            Err(why) => {
                tracing::warn!("teacher.fused_kernels is not used: {why:#}");
                self
            }
        }
    }

    /// Records the pass as a CUDA graph, once for each shape of input.
    #[must_use]
    pub fn with_graph(self) -> Self {
        Self { graphs: Some(RefCell::default()), ..self }
    }

    /// All tokens of whole images after `vit`'s last block: `[B, C+N, D]` in the kind of the
    /// residual stream, no gradient. `vit` must be the same in all calls.
    ///
    /// With a graph the next call overwrites the tokens. It does so after all that was told before it
    /// in the same stream, so a step may read them until its end without a copy.
    ///
    /// # Errors
    /// libtorch's message, or the kernels'.
    ///
    /// # Panics
    /// Where libtorch fails in an operator; for an input with a mask or drop path.
    pub fn tokens(&self, vit: &Vit, input: &VitInput, compute: Kind) -> Result<Tensor> {
        assert!(input.keep.is_none() && matches!(input.drop_path, DropPath::None));
        tch::no_grad(|| match &self.graphs {
            None => self.compute(vit, input, compute),
            Some(graphs) => {
                let mut graphs = graphs.borrow_mut();
                let index = match graphs.iter().position(|recorded| recorded.fits(input)) {
                    Some(index) => index,
                    None => {
                        let recorded = self.record(vit, input, compute, graphs.first())?;
                        graphs.push(recorded);
                        graphs.len() - 1
                    }
                };
                graphs[index].replay(&input.patches)
            }
        })
    }

    fn record(
        &self,
        vit: &Vit,
        input: &VitInput,
        compute: Kind,
        sharing: Option<&RecordedPass>,
    ) -> Result<RecordedPass> {
        let (rows, columns) = (input.rows, input.columns);
        let patches = input.patches.copy();
        let own = VitInput::whole(patches.shallow_clone(), rows, columns);
        let sharing = sharing.map(|recorded| &recorded.graph);
        let (graph, tokens) =
            CudaGraph::record(patches.device(), sharing, || self.compute(vit, &own, compute))?;
        Ok(RecordedPass { rows, columns, patches, tokens, graph })
    }

    /// The pass itself: each branch is added together with the LayerNorm that follows it.
    fn compute(&self, vit: &Vit, input: &VitInput, compute: Kind) -> Result<Tensor> {
        let mut residual = vit.embed(input, compute);
        let mut branch: Option<Tensor> = None;
        for block in &vit.blocks {
            let normalised = self.add(&mut residual, branch.take(), &block.norm1, compute)?;
            let attention = block.attention(normalised);
            let normalised = self.add(&mut residual, Some(attention), &block.norm2, compute)?;
            branch = Some(block.mlp(normalised));
        }
        Ok(match branch {
            Some(branch) => residual.g_add_(&branch),
            None => residual,
        })
    }

    /// Adds `branch` to `residual` in its memory, and gives the sum's LayerNorm in the kind
    /// `compute`; all are `[B, T, D]`.
    fn add(
        &self,
        residual: &mut Tensor,
        branch: Option<Tensor>,
        norm: &LayerNorm,
        compute: Kind,
    ) -> Result<Tensor> {
        if let Some(kernels) = &self.kernels {
            let norm = RowNorm { weight: &norm.weight, bias: &norm.bias, eps: norm.eps };
            return kernels.add_layer_norm(residual, branch.as_ref(), &norm);
        }
        if let Some(branch) = branch {
            let _ = residual.g_add_(&branch);
        }
        Ok(norm.forward(residual).to_kind(compute))
    }
}

impl RecordedPass {
    fn fits(&self, input: &VitInput) -> bool {
        let shape = |patches: &Tensor| (patches.size(), patches.kind(), patches.device());
        (self.rows, self.columns) == (input.rows, input.columns)
            && shape(&self.patches) == shape(&input.patches)
    }

    fn replay(&mut self, patches: &Tensor) -> Result<Tensor> {
        self.patches.copy_(patches);
        self.graph.replay()?;
        Ok(self.tokens.shallow_clone())
    }
}
