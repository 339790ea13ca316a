//! What a step of distillation costs for each image, counted from the configuration.

use std::collections::BTreeSet;

use super::config::DistillConfig;
use super::terms::{Term, terms_of};
use crate::encoders::EncoderSpec;
use crate::nn::{projector_flops, projector_kept_bytes, transformer_kept_bytes};
use crate::tasks::trainee::TraineeConfig;

/// Operations of a training step by the recipe, for each image: the teacher's forward pass over all
/// patches, and of each student and its projectors a forward and a backward pass, which is two more,
/// over the patches that it sees. What an implementation computes again or leaves out does not count.
pub fn flops_per_image(config: &DistillConfig) -> f64 {
    let students = config.students.iter().map(|student| 3.0 * student_flops(config, student));
    teacher_flops(config) + students.sum::<f64>()
}

/// Operations of the teacher's forward pass, for each image.
pub fn teacher_flops(config: &DistillConfig) -> f64 {
    config.teacher.model.flops(patches(config))
}

/// Operations of a forward pass of a student and its projectors, for each image.
pub fn student_flops(config: &DistillConfig, student: &TraineeConfig) -> f64 {
    let patches = seen(config, student);
    let tokens = patches + student.model.prefix_tokens();
    let widths = (student.model.dim, config.teacher.model.dim);
    let projectors = terms(config, student)
        .map(|term| term.pairs.len() as f64 * projector_flops(term.projector, widths, tokens));
    student.model.flops(patches) + projectors.sum::<f64>()
}

/// Bytes that a forward pass of a student and its projectors leaves for the backward pass, for each image.
pub fn student_kept_bytes(config: &DistillConfig, student: &TraineeConfig) -> f64 {
    let keeping = student.keeping(config.train.run.precision.kind().elt_size_in_bytes() as f64);
    let EncoderSpec { dim, depth, mlp_ratio, .. } = student.model;
    let tokens = seen(config, student) + student.model.prefix_tokens();
    let widths = (dim, config.teacher.model.dim);
    let projectors = terms(config, student).map(|term| {
        let of_pair = projector_kept_bytes(term.projector, widths, tokens, &keeping);
        // A tap is a float32 copy.
        let taps = term.pairs.iter().filter(|[own, _]| *own + 1 != depth || !term.norm).count();
        term.pairs.len() as f64 * of_pair + (taps * tokens * dim * 4) as f64
    });
    transformer_kept_bytes((dim, depth, mlp_ratio), tokens, &keeping) + projectors.sum::<f64>()
}

/// Bytes of the teacher's tokens of an image, which stay until all students have learned from them.
pub fn target_bytes(config: &DistillConfig) -> f64 {
    let model = &config.teacher.model;
    let number = config.teacher.residual.kind().elt_size_in_bytes();
    let terms = config.students.iter().flat_map(|student| terms(config, student));
    let blocks: BTreeSet<usize> =
        terms.flat_map(|term| term.pairs).map(|[_, teachers]| teachers).collect();
    let tokens = (patches(config) + model.prefix_tokens()) * blocks.len().max(1);
    (tokens * model.dim * number) as f64
}

/// How a student is compared; not at all where the configuration contradicts itself.
fn terms(config: &DistillConfig, student: &TraineeConfig) -> impl Iterator<Item = Term> {
    terms_of(config, student).unwrap_or_default().into_iter()
}

/// Patches of an image that a student sees.
fn seen(config: &DistillConfig, student: &TraineeConfig) -> usize {
    let grid_size = student.model.grid_size(config.train.data.input_size);
    student.mask(grid_size).map_or(grid_size * grid_size, |mask| mask.kept())
}

/// Patches of an image that the teacher sees.
fn patches(config: &DistillConfig) -> usize {
    config.teacher_grid_size().pow(2)
}
