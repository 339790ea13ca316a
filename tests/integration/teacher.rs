//! The frozen teacher in the formats that it can be kept in: nearly the same tokens.

use distill::data::image::load_central;
use distill::encoders::{EncoderSpec, Input};
use distill::nn::{FrozenFormat, Normalisation};
use distill::tasks::TraineeConfig;
use distill::tasks::distill::DistillConfig;
use distill::tasks::distill::{Distillation, Teacher, mean_cosine};
use distill::train::objective::{MicroBatch, Objective};
use distill::train::optimizer::AdamW;
use distill::weights::Preprocessing;
use tch::{Device, Kind, Tensor};

use crate::support::device::device;
use crate::support::golden::golden;
use crate::support::workshop::Workshop;

/// A teacher of drawn weights for images of 4 × 4 patches of 8 pixels.
fn teacher(dim: usize, depth: usize, matrices: Kind) -> Teacher {
    let size = EncoderSpec { patch_size: 8, ..EncoderSpec::new(dim, depth, 4) };
    Teacher::new(Teacher::drawn(Device::Cpu, matrices, 3), size, 4)
}

fn format(compute: Kind, residual: Kind) -> FrozenFormat {
    FrozenFormat { compute, residual, fp8: false }
}

fn images(side: i64) -> Input {
    tch::manual_seed(4);
    Input::whole(Tensor::randn([3, 3, side, side], (Kind::Float, Device::Cpu)))
}

/// A residual stream in bf16 gives nearly the tokens of one in float32, shallow and deep.
#[test]
fn a_bf16_residual_stream_gives_nearly_the_same_tokens() {
    let input = images(32);
    for (dim, depth) in [(48, 2), (128, 24)] {
        let tokens = |residual| {
            let mut teacher = teacher(dim, depth, Kind::BFloat16);
            teacher.freeze(format(Kind::BFloat16, residual), 4);
            let tokens = teacher.tokens(&input, Kind::BFloat16).all;
            assert_eq!((tokens.kind(), tokens.requires_grad()), (residual, false));
            tokens
        };
        let (wide, narrow) = (tokens(Kind::Float), tokens(Kind::BFloat16));
        let cosine = mean_cosine(&wide, &narrow);
        println!("depth {depth}: mean cosine {cosine:.6}");
        assert!(cosine >= 0.999, "depth {depth}: mean cosine {cosine}");
        assert!(wide.not_equal_tensor(&narrow.to_kind(Kind::Float)).any().int64_value(&[]) != 0);
    }
}

/// Freezing changes no bit where it rounds nothing, for positions of another grid too, and a pass
/// overwrites nothing that the next one needs.
#[test]
fn freezing_changes_nothing_in_float32() {
    for side in [32, 48] {
        let input = images(side);
        let mut teacher = teacher(48, 3, Kind::Float);
        let before = teacher.tokens(&input, Kind::Float).all;
        teacher.freeze(format(Kind::Float, Kind::Float), side as usize / 8);
        for _ in 0..2 {
            assert_eq!(teacher.tokens(&input, Kind::Float).all, before);
        }
    }
}

/// In bf16 the casts of every step are done once, with the same result.
#[test]
fn casting_once_is_casting_each_time() {
    let input = images(32);
    let mut teacher = teacher(48, 3, Kind::BFloat16);
    let before = teacher.tokens(&input, Kind::BFloat16).all;
    teacher.freeze(format(Kind::BFloat16, Kind::Float), 4);
    assert_eq!(teacher.tokens(&input, Kind::BFloat16).all, before);
}

/// Photographs as an encoder sees them, `[B, 3, 64, 64]`.
fn photographs(names: &[&str]) -> Tensor {
    let Preprocessing { mean, std } = Preprocessing::IMAGENET;
    let pixels = |name: &&str| {
        let path = golden(&format!("crops/{name}.jpg"));
        let bytes = load_central(&path, 64, 64, u64::MAX).unwrap();
        Tensor::from_slice(&bytes).view([1, 64, 64, 3])
    };
    let bytes = Tensor::cat(&names.iter().map(pixels).collect::<Vec<_>>(), 0);
    Normalisation::new(mean, std, Device::Cpu).apply(&bytes)
}

/// An encoder that has learned something: thirty steps of distillation on photographs and their
/// mirror images. Weights as they are drawn have branches that point anywhere, and rounding is seen
/// more than it is once they have been trained.
fn trained_weights(size: EncoderSpec) -> Vec<(String, Tensor)> {
    let photographs =
        photographs(&["baseline420", "progressive", "large", "upscaled", "exif_rotated"]);
    let images = Tensor::cat(&[photographs.shallow_clone(), photographs.flip([3])], 0);
    let mut config = DistillConfig::minimal("run", EncoderSpec { depth: 3, ..size });
    config.train.data.input_size = 64;
    config.students.push(TraineeConfig::minimal("student", size));
    let guide = Teacher::drawn(Device::Cpu, Kind::Float, 1);
    let guide = Teacher::new(guide, config.teacher.model, 8);
    let objective = Distillation::new(&config, guide, Device::Cpu, Kind::Float);
    let trainee = &objective.trainees()[0];
    let mut optimizer = AdamW::new(&trainee.parameters, &config.train.optimizer, None);
    let mut losses = Vec::new();
    for step in 0..30 {
        let batch = MicroBatch { images: images.shallow_clone(), positions: 0..10 };
        losses.push(objective.accumulate(&batch, 1.0, &mut ()).unwrap()[0].total.double_value(&[]));
        let norm = optimizer.gradient_norm(true).unwrap();
        optimizer
            .update(1e-3 * (f64::from(step) / 10.0).min(1.0), &norm, &Tensor::from(0f32))
            .unwrap();
    }
    assert!(losses[29] < 0.5 * losses[0], "it learned nothing: {losses:?}");
    trainee.parameters.shared()
}

/// FP8 gives nearly the tokens of bf16 on a photograph that the encoder has not seen: on a GPU its own
/// products, which are those that the CPU imitates.
#[test]
fn fp8_gives_nearly_the_same_tokens() {
    let device = device();
    let size = EncoderSpec { patch_size: 8, ..EncoderSpec::new(96, 8, 3) };
    let weights = trained_weights(size);
    let photograph = photographs(&["baseline444"]);
    // Numbers that differ by a rounding to bf16 before they are rounded to e4m3 become neighbours there, 2⁻⁹ of
    // them against 2⁻⁴ between neighbours: for 3 to 6 in a hundred. Of the variance of rounding, a twelfth of a
    // distance squared, that is about half. So no two devices agree better than one does with itself on an
    // image that is off by a rounding.
    let scattered =
        Tensor::arange(photograph.numel() as i64, (Kind::Float, Device::Cpu)).square().sin();
    let nudged = &photograph * (scattered.view_as(&photograph) * 2f64.powi(-9) + 1.0);
    let tokens_of = |photograph: &Tensor, device, fp8, residual, is_trained| {
        let mut teacher = Teacher::new(Teacher::drawn(device, Kind::BFloat16, 5), size, 8);
        for (name, tensor) in teacher.parameters.named().iter().filter(|_| is_trained) {
            let (_, source) = weights.iter().find(|(other, _)| other == name).unwrap();
            tch::no_grad(|| tensor.shallow_clone().copy_(source));
        }
        teacher.freeze(FrozenFormat { compute: Kind::BFloat16, residual, fp8 }, 8);
        assert_eq!(teacher.parameters.count(), 0, "its list would keep the wide weights");
        let input = Input::whole(photograph.to_device(device));
        teacher.tokens(&input, Kind::BFloat16).all.to_device(Device::Cpu)
    };
    let tokens = |device, fp8, residual, is_trained| {
        tokens_of(&photograph, device, fp8, residual, is_trained)
    };
    for (is_trained, least) in [(true, 0.999), (false, 0.995)] {
        let wide = tokens(device, false, Kind::Float, is_trained);
        for residual in [Kind::Float, Kind::BFloat16] {
            let found = tokens(device, true, residual, is_trained);
            assert_eq!((found.kind(), found.size()), (residual, wide.size()));
            let cosine = mean_cosine(&wide, &found);
            let weights = if is_trained { "trained" } else { "drawn" };
            println!("FP8, {weights} weights, residual {residual:?}: mean cosine {cosine:.6}");
            assert!(cosine >= least, "{weights} weights: mean cosine {cosine}");
            assert!(cosine < 0.99999, "nothing was rounded");
            let imitated = tokens(Device::Cpu, true, residual, is_trained);
            let off = 1.0 - mean_cosine(&imitated, &found);
            let other = tokens_of(&nudged, Device::Cpu, true, residual, is_trained);
            let unavoidable = 1.0 - mean_cosine(&imitated, &other);
            println!(
                "{device:?} and the imitation: {off:.6} apart; a rounding makes {unavoidable:.6}"
            );
            assert!(off <= 2.0 * unavoidable, "{device:?} and the CPU's imitation: {off}");
        }
    }
}

/// FP8 is for GPUs that have it, bf16 runs, and widths that its products take.
#[test]
fn fp8_is_refused_where_it_cannot_be() {
    let workshop = Workshop::new();
    let (fp8, bf16) = ("teacher.precision=fp8", "run.precision=bf16");
    workshop.train(&[fp8]).fails(2, &["teacher.precision", "run.precision"]);
    let narrow = "teacher.model={ dim = 40, depth = 2, heads = 4, patch_size = 8 }";
    workshop.train(&[fp8, bf16, narrow]).fails(2, &["teacher.precision", "40", "16"]);
    workshop.train(&[fp8, bf16]).fails(2, &["teacher.precision", "fp8", "Hopper", "CPU"]);
}

/// The switch reaches the training run, which learns with it; without bf16 it is refused.
#[test]
fn a_run_with_a_bf16_residual_stream_learns() {
    let workshop = Workshop::new();
    let switch = "teacher.residual=bf16";
    workshop.train(&[switch]).fails(2, &["teacher.residual", "run.precision"]);
    let losses = |set: &[&str]| -> Vec<f64> {
        workshop.train(set).succeeds();
        let rows = std::fs::read_to_string(workshop.path("run/metrics.jsonl")).unwrap();
        std::fs::remove_dir_all(workshop.path("run")).unwrap();
        let rows = rows.lines().map(|row| serde_json::from_str::<serde_json::Value>(row).unwrap());
        rows.map(|row| row["students"][0]["loss"].as_f64().unwrap()).collect()
    };
    let plain = losses(&["run.precision=bf16"]);
    let switched = losses(&["run.precision=bf16", switch]);
    assert_ne!(plain, switched);
    for (plain, switched) in plain.iter().zip(&switched) {
        assert!((plain - switched).abs() < 0.02 * plain, "{plain} and {switched}");
    }
    assert!(switched[7] < 0.95 * switched[0]);
}
