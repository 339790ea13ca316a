//! The frozen teacher in the formats that it can be kept in: nearly the same tokens.

use distill::config::EncoderSize;
use distill::model::{VitInput, patchify};
use distill::objective::distill::Teacher;
use tch::{Device, Kind, Tensor};

use crate::workshop::Workshop;

/// A teacher of drawn weights for pictures of 4 × 4 patches of 8 pixels.
fn teacher(dim: usize, depth: usize, matrices: Kind) -> Teacher {
    let size = EncoderSize { patch_size: 8, ..EncoderSize::new(dim, depth, 4) };
    Teacher::new(Teacher::drawn(Device::Cpu, matrices, 3), size, 4)
}

fn pictures(side: i64) -> VitInput {
    tch::manual_seed(4);
    let images = Tensor::randn([3, 3, side, side], (Kind::Float, Device::Cpu));
    VitInput::whole(patchify(&images, 8), side / 8, side / 8)
}

/// Mean cosine similarity of the tokens.
fn cosine(one: &Tensor, other: &Tensor) -> f64 {
    let (one, other) = (one.to_kind(Kind::Float), other.to_kind(Kind::Float));
    Tensor::cosine_similarity(&one, &other, -1, 1e-8).mean(Kind::Float).double_value(&[])
}

/// A residual stream in bf16 gives nearly the tokens of one in float32, shallow and deep.
#[test]
fn a_bf16_residual_stream_gives_nearly_the_same_tokens() {
    let input = pictures(32);
    for (dim, depth) in [(48, 2), (128, 24)] {
        let tokens = |residual| {
            let mut teacher = teacher(dim, depth, Kind::BFloat16);
            teacher.freeze(Kind::BFloat16, residual, 4);
            let tokens = teacher.tokens(&input, Kind::BFloat16);
            assert_eq!((tokens.kind(), tokens.requires_grad()), (residual, false));
            tokens
        };
        let (wide, narrow) = (tokens(Kind::Float), tokens(Kind::BFloat16));
        let cosine = cosine(&wide, &narrow);
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
        let input = pictures(side);
        let mut teacher = teacher(48, 3, Kind::Float);
        let before = teacher.tokens(&input, Kind::Float);
        teacher.freeze(Kind::Float, Kind::Float, side as usize / 8);
        for _ in 0..2 {
            assert_eq!(teacher.tokens(&input, Kind::Float), before);
        }
    }
}

/// In bf16 the casts of every step are done once, with the same result.
#[test]
fn casting_once_is_casting_each_time() {
    let input = pictures(32);
    let mut teacher = teacher(48, 3, Kind::BFloat16);
    let before = teacher.tokens(&input, Kind::BFloat16);
    teacher.freeze(Kind::BFloat16, Kind::Float, 4);
    assert_eq!(teacher.tokens(&input, Kind::BFloat16), before);
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
