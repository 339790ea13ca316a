//! Distillation: students learn to give the tokens that a frozen teacher gives.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use super::config::{DistillConfig, TeacherConfig};
use super::student::Student;
use super::teacher::{Targets, Teacher, frozen_pass};
use crate::encoders::Input;
use crate::native::guard;
use crate::nn::{FrozenFormat, ImageResizing, ProductPrecision, Storage};
use crate::tasks::masked_encoder::PassDraws;
use crate::train::objective::{Losses, MicroBatch, Objective, StepHooks, Trainee};

/// Mean cosine similarity of tokens `[B, T, D]` with others: how near a teacher is to itself in
/// another number format.
pub fn mean_cosine(tokens: &Tensor, others: &Tensor) -> f64 {
    let (tokens, others) = (tokens.to_kind(Kind::Float), others.to_kind(Kind::Float));
    Tensor::cosine_similarity(&tokens, &others, -1, 1e-8).mean(Kind::Float).double_value(&[])
}

/// The objective of distillation: a teacher, its students, and the losses between them.
pub struct Distillation {
    pub teacher: Teacher,
    students: Vec<Student>,
    trainees: Vec<Trainee>,
    sight: Sight,
    compute: Kind,
    seed: u64,
}

/// What the models see of an image, and what of the teacher is wanted.
struct Sight {
    resizing: ImageResizing,
    /// Sides of what the students and the teacher see, in pixels.
    students: i64,
    teacher: i64,
    /// Blocks of the teacher that students are compared with, ascending.
    blocks: Vec<usize>,
    /// Whether targets go through the teacher's final norm.
    norm: bool,
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
        let TeacherConfig { residual, precision, .. } = &config.teacher;
        let fp8 = *precision == ProductPrecision::Fp8;
        let format = FrozenFormat { compute, residual: residual.kind(), fp8 };
        teacher.freeze(format, config.teacher_grid_size());
        teacher.run_as(frozen_pass(&config.teacher, device, compute));
        let storage = |rng_stream| Storage::Drawn {
            device,
            matrices: Kind::Float,
            seed: config.train.seed,
            rng_stream,
        };
        let mut distillation = Self::build(config, teacher, device, storage);
        distillation.compute = compute;
        for trainee in &distillation.trainees {
            trainee.parameters.train();
        }
        distillation
    }

    /// The models of `config` with their full shapes and no memory, for counting.
    pub fn shapes_only(config: &DistillConfig) -> Self {
        let grid_size = config.teacher_grid_size();
        let teacher = Teacher::new(Storage::Shapes, config.teacher.model, grid_size);
        Self::build(config, teacher, Device::Cpu, |_| Storage::Shapes)
    }

    fn build(
        config: &DistillConfig,
        teacher: Teacher,
        device: Device,
        storage: impl Fn(u64) -> Storage,
    ) -> Self {
        let (mut students, mut trainees) = (Vec::new(), Vec::new());
        for (rng_stream, student) in config.students.iter().enumerate() {
            let rng_stream = rng_stream as u64;
            let (built, parameters) =
                Student::new(storage(rng_stream), config, student, rng_stream);
            students.push(built);
            trainees.push(Trainee { name: student.name.clone(), parameters });
        }
        let mut blocks: Vec<usize> = students.iter().flat_map(Student::target_blocks).collect();
        blocks.sort_unstable();
        blocks.dedup();
        let data = &config.train.data;
        let sight = Sight {
            resizing: ImageResizing::new(data.mean, data.std, device),
            students: data.input_size as i64,
            teacher: config.teacher_sees() as i64,
            blocks,
            norm: config.teacher.norm,
        };
        Self { teacher, students, trainees, sight, compute: Kind::Float, seed: config.train.seed }
    }

    /// The students, in the order of their trainees.
    pub fn students(&self) -> &[Student] {
        &self.students
    }

    /// Blocks of the teacher that students are compared with, ascending.
    pub(super) fn target_blocks(&self) -> &[usize] {
        &self.sight.blocks
    }

    /// The targets of normalised `images` `[B, 3, H, W]` float32, in whatever size they were decoded.
    ///
    /// # Panics
    /// Where libtorch or a kernel fails.
    pub fn targets(&self, images: &Tensor) -> Targets {
        let Sight { resizing, teacher, blocks, norm, .. } = &self.sight;
        let images = resizing.resize(images, *teacher).to_kind(self.compute);
        self.teacher.targets(Input::whole(images), blocks, *norm, self.compute)
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
        hooks.before_targets()?;
        let targets = self.targets(images);
        let images = self.sight.resizing.resize(images, self.sight.students);
        // In the kind that all students use.
        let images = images.to_kind(self.compute);
        let students = self.students.iter().zip(draws).enumerate();
        let mut losses = Vec::new();
        for (index, (student, PassDraws { keep, drop_path })) in students {
            hooks.before_forward(index)?;
            let (images, taps) = (images.shallow_clone(), student.taps().to_vec());
            let input = Input { images, keep, drop_path, taps };
            let pass = student.forward(&input, self.compute);
            let tokens = student.projected(&pass);
            let student_losses = student.compare(&tokens, &targets, input.keep.as_ref());
            drop(tokens);
            hooks.before_backward(index)?;
            pass.backward(&(&student_losses.total * scale))?;
            losses.push(student_losses.detach());
        }
        Ok(losses)
    }
}
