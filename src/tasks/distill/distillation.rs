//! Distillation: students learn to give the tokens that a frozen teacher gives.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use super::config::{DistillConfig, TeacherConfig};
use super::losses::{LossConfig, TokenPair};
use crate::encoders::{Encoder, EncoderSpec, FrozenPass, Input, Tokens};
use crate::native::guard;
use crate::nn::{
    FrozenFormat, Parameters, ProductPrecision, Projector, Storage, projector_flops,
    projector_kept_bytes, transformer_kept_bytes,
};
use crate::tasks::masked_encoder::{EncoderPass, MaskedEncoder, PassDraws};
use crate::tasks::trainee::TraineeConfig;
use crate::train::objective::{Losses, MicroBatch, Objective, StepHooks, Trainee};

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
}

/// How `config` wants the teacher's forward pass to be run on this device.
fn frozen_pass(config: &TeacherConfig, device: Device, compute: Kind) -> FrozenPass {
    let mut pass = FrozenPass::default();
    if config.fused_kernels {
        pass = pass.with_kernels(config.model.dim, device, compute);
    }
    if config.cuda_graph { pass.with_graph() } else { pass }
}

/// Mean cosine similarity of tokens `[B, T, D]` with others: how near a teacher is to itself in
/// another number format.
pub fn mean_cosine(tokens: &Tensor, others: &Tensor) -> f64 {
    let (tokens, others) = (tokens.to_kind(Kind::Float), others.to_kind(Kind::Float));
    Tensor::cosine_similarity(&tokens, &others, -1, 1e-8).mean(Kind::Float).double_value(&[])
}

/// An encoder with the projector to the teacher's width.
pub struct Student {
    encoder: MaskedEncoder,
    projector: Projector,
}

impl Student {
    /// Builds the student and its parameters (encoder first, then projector).
    pub fn new(
        storage: Storage,
        config: &TraineeConfig,
        teacher_dim: usize,
        grid_size: usize,
        rng_stream: u64,
    ) -> (Self, Parameters) {
        let mut parameters = Parameters::new(storage);
        let encoder = MaskedEncoder::new(&mut parameters, config, grid_size, rng_stream);
        let projector =
            Projector::new(&mut parameters, config.model.dim as i64, teacher_dim as i64);
        (Self { encoder, projector }, parameters)
    }

    /// Its encoder alone.
    pub fn encoder(&self) -> &dyn Encoder {
        self.encoder.encoder()
    }

    /// A forward pass that gradients will come back through, and its tokens in the teacher's width.
    pub fn forward<'a>(&'a self, input: &'a Input, compute: Kind) -> (EncoderPass<'a>, Tokens) {
        let pass = self.encoder.forward(input, compute);
        let Tokens { class_tokens, prefix_tokens, grid, .. } = pass.tokens;
        let all = self.projector.forward(&pass.tokens.all);
        (pass, Tokens { all, class_tokens, prefix_tokens, grid, taps: Vec::new() })
    }
}

/// Operations of a training step by the recipe, for each image: the teacher's forward pass over all
/// patches, and of each student and its projector a forward and a backward pass, which is two more,
/// over the patches that it sees. What an implementation computes again or leaves out does not count.
pub fn flops_per_image(config: &DistillConfig) -> f64 {
    let students = config.students.iter().map(|student| 3.0 * student_flops(config, student));
    teacher_flops(config) + students.sum::<f64>()
}

/// Operations of the teacher's forward pass, for each image.
pub fn teacher_flops(config: &DistillConfig) -> f64 {
    config.teacher.model.flops(patches(config))
}

/// Operations of a forward pass of a student and its projector, for each image.
pub fn student_flops(config: &DistillConfig, student: &TraineeConfig) -> f64 {
    let patches = seen(config, student);
    let tokens = patches + student.model.prefix_tokens();
    let projector = projector_flops(student.model.dim, config.teacher.model.dim, tokens);
    student.model.flops(patches) + projector
}

/// Bytes that a forward pass of a student and its projector leaves for the backward pass, for each image.
pub fn student_kept_bytes(config: &DistillConfig, student: &TraineeConfig) -> f64 {
    let keeping = student.keeping(config.train.run.precision.kind().elt_size_in_bytes() as f64);
    let EncoderSpec { dim, depth, mlp_ratio, .. } = student.model;
    let tokens = seen(config, student) + student.model.prefix_tokens();
    transformer_kept_bytes((dim, depth, mlp_ratio), tokens, &keeping)
        + projector_kept_bytes(dim, config.teacher.model.dim, tokens, &keeping)
}

/// Bytes of the teacher's tokens of an image, which stay until all students have learned from them.
pub fn target_bytes(config: &DistillConfig) -> f64 {
    let model = &config.teacher.model;
    let number = config.teacher.residual.kind().elt_size_in_bytes();
    ((patches(config) + model.prefix_tokens()) * model.dim * number) as f64
}

/// Patches of an image that a student sees.
fn seen(config: &DistillConfig, student: &TraineeConfig) -> usize {
    let grid_size = student.model.grid_size(config.train.data.input_size);
    student.mask(grid_size).map_or(grid_size * grid_size, |mask| mask.kept())
}

fn patches(config: &DistillConfig) -> usize {
    (config.train.data.input_size / config.teacher.model.patch_size).pow(2)
}

/// The objective of distillation: a teacher, its students, and the loss between them.
pub struct Distillation {
    pub teacher: Teacher,
    students: Vec<Student>,
    trainees: Vec<Trainee>,
    loss: LossConfig,
    compute: Kind,
    seed: u64,
}

impl Distillation {
    /// Students as `config` has them, with initial weights in float32 on `device`, drawn under
    /// the config's seed; matrix products run in `compute`.
    pub fn new(
        config: &DistillConfig,
        mut teacher: Teacher,
        device: Device,
        compute: Kind,
    ) -> Self {
        let TeacherConfig { model, residual, precision, .. } = &config.teacher;
        let fp8 = *precision == ProductPrecision::Fp8;
        let format = FrozenFormat { compute, residual: residual.kind(), fp8 };
        teacher.freeze(format, config.train.data.input_size / model.patch_size);
        teacher.run_as(frozen_pass(&config.teacher, device, compute));
        let storage = |rng_stream| Storage::Drawn {
            device,
            matrices: Kind::Float,
            seed: config.train.seed,
            rng_stream,
        };
        let mut distillation = Self::build(config, teacher, storage);
        distillation.compute = compute;
        for trainee in &distillation.trainees {
            trainee.parameters.train();
        }
        distillation
    }

    /// The models of `config` with their full shapes and no memory, for counting.
    pub fn shapes_only(config: &DistillConfig) -> Self {
        let grid_size = config.train.data.input_size / config.teacher.model.patch_size;
        let teacher = Teacher::new(Storage::Shapes, config.teacher.model, grid_size);
        Self::build(config, teacher, |_| Storage::Shapes)
    }

    fn build(config: &DistillConfig, teacher: Teacher, storage: impl Fn(u64) -> Storage) -> Self {
        let dim = config.teacher.model.dim;
        let (mut students, mut trainees) = (Vec::new(), Vec::new());
        for (rng_stream, student) in config.students.iter().enumerate() {
            let rng_stream = rng_stream as u64;
            let grid_size = student.model.grid_size(config.train.data.input_size);
            let (built, parameters) =
                Student::new(storage(rng_stream), student, dim, grid_size, rng_stream);
            students.push(built);
            trainees.push(Trainee { name: student.name.clone(), parameters });
        }
        let (loss, seed) = (config.loss.clone(), config.train.seed);
        Self { teacher, students, trainees, loss, compute: Kind::Float, seed }
    }

    /// The students, in the order of their trainees.
    pub fn students(&self) -> &[Student] {
        &self.students
    }

    /// Losses of one student, given its tokens in the teacher's width, the teacher's tokens, and the patches
    /// `keep` `[B, K]` that the student sees, or all.
    pub fn compare(&self, student: &Tokens, teacher: &Tokens, keep: Option<&Tensor>) -> Losses {
        self.loss.compare(&TokenPair::new(student, teacher, keep))
    }
}

impl Objective for Distillation {
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
            let draws = self.students.iter().map(|student| student.encoder.draw(self.seed, batch));
            self.accumulate_masked(&batch.images, draws.collect::<Result<_>>()?, scale, hooks)
        })
    }
}

impl Distillation {
    /// [`Objective::accumulate`] with given masks and dropped paths.
    ///
    /// # Panics
    /// Where libtorch fails.
    pub fn accumulate_masked(
        &self,
        images: &Tensor,
        draws: Vec<PassDraws>,
        scale: f64,
        hooks: &mut dyn StepHooks,
    ) -> Result<Vec<Losses>> {
        // In the kind that all models use.
        let images = images.to_kind(self.compute);
        hooks.before_targets()?;
        let targets = self.teacher.tokens(&Input::whole(images.shallow_clone()), self.compute);
        let students = self.students.iter().zip(draws).enumerate();
        let mut losses = Vec::new();
        for (index, (student, PassDraws { keep, drop_path })) in students {
            hooks.before_forward(index)?;
            let input = Input { keep, drop_path, ..Input::whole(images.shallow_clone()) };
            let (pass, tokens) = student.forward(&input, self.compute);
            let student_losses = self.compare(&tokens, &targets, input.keep.as_ref());
            drop(tokens);
            hooks.before_backward(index)?;
            pass.backward(&(&student_losses.total * scale))?;
            losses.push(student_losses.detach());
        }
        Ok(losses)
    }
}
