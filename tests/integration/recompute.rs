//! Blocks that are computed again in the backward pass: the same results for less memory.

use distill::encoders::EncoderSpec;
use distill::nn::DropPathMode;
use distill::tasks::TraineeConfig;
use distill::tasks::distill::{DistillConfig, Distillation, LossConfig, Teacher};
use distill::train::objective::{MicroBatch, Objective};
use tch::{Device, Kind, Tensor};

use crate::support::workshop::Workshop;

const DEPTH: usize = 4;

/// Losses of two passes, and every gradient of their sum.
type Results = (Vec<Tensor>, Vec<(String, Tensor)>);

/// What two batches give a masked student that recomputes so many blocks.
fn results(blocks: usize, drop_path: (f64, DropPathMode), compute: Kind) -> Results {
    compared(blocks, drop_path, compute, LossConfig::default())
}

/// [`results`] by another loss.
fn compared(
    blocks: usize,
    drop_path: (f64, DropPathMode),
    compute: Kind,
    loss: LossConfig,
) -> Results {
    let size = |dim, depth| EncoderSpec { patch_size: 4, ..EncoderSpec::new(dim, depth, 2) };
    let mut config = DistillConfig::minimal("run", size(24, 1));
    config.train.data.input_size = 16;
    config.loss = loss;
    config.students.push(TraineeConfig {
        mask_ratio: 0.5,
        mask_grid: 2,
        drop_path: drop_path.0,
        drop_path_mode: drop_path.1,
        recompute_blocks: blocks,
        ..TraineeConfig::minimal("student", size(16, DEPTH))
    });
    let storage = Teacher::drawn(Device::Cpu, compute, 1);
    let teacher = Teacher::new(storage, config.teacher.model, 4);
    let objective = Distillation::new(&config, teacher, Device::Cpu, compute);
    let losses = [0, 6].map(|start| {
        // Not libtorch's generator, which other tests use at the same time.
        let numbers = Tensor::arange(6 * 3 * 16 * 16, (Kind::Float, Device::Cpu));
        let images = (numbers.square() + start as f64).sin().view([6, 3, 16, 16]);
        let batch = MicroBatch { images, positions: start..start + 6 };
        objective.accumulate(&batch, 0.5, &mut ()).unwrap().remove(0).total
    });
    let gradients = objective.trainees()[0].parameters.named().iter();
    let gradients = gradients.map(|(name, tensor)| (name.clone(), tensor.grad().copy()));
    (losses.into(), gradients.collect())
}

/// Bit for bit: losses and accumulated gradients, however many blocks are computed again, with
/// masks, either drop path and none, in float32 and bf16.
#[test]
fn recomputed_blocks_change_no_bit() {
    for compute in [Kind::Float, Kind::BFloat16] {
        for drop_path in
            [(0.0, DropPathMode::Scale), (0.6, DropPathMode::Scale), (0.6, DropPathMode::Skip)]
        {
            let (losses, gradients) = results(0, drop_path, compute);
            assert!(gradients.iter().all(|(_, gradient)| gradient.defined()));
            for blocks in [1, 3, DEPTH] {
                let what = format!("{blocks} blocks, {drop_path:?}, {compute:?}");
                let (found_losses, found) = results(blocks, drop_path, compute);
                assert_eq!(found_losses, losses, "{what}");
                for ((name, found), (_, expected)) in found.iter().zip(&gradients) {
                    assert_eq!(found, expected, "{what}: {name}");
                }
            }
        }
    }
}

/// Comparisons of tokens after recomputed blocks have their gradients, too: up to the order of a sum.
#[test]
fn recomputed_blocks_take_the_gradients_of_their_taps() {
    let term = "[[terms]]\nname = \"all\"\nlayers = [0, 1, 2, 3]\nteacher_layers = [0, 0, 0, 0]\nweight = 4.0\n\
                norm = false\npatch = \"mse\"";
    let loss: LossConfig = toml::from_str(term).unwrap();
    let distance = |found: &Tensor, expected: &Tensor| {
        let off = (found - expected).norm().double_value(&[]);
        off / expected.norm().double_value(&[]).max(1e-9)
    };
    for (compute, tolerance) in [(Kind::Float, 1e-5), (Kind::BFloat16, 2e-2)] {
        for mode in [DropPathMode::Scale, DropPathMode::Skip] {
            let (losses, gradients) = compared(0, (0.6, mode), compute, loss.clone());
            let (_, without) = results(0, (0.6, mode), compute);
            let first = |of: &[(String, Tensor)]| of[0].1.copy();
            assert!(distance(&first(&without), &first(&gradients)) > 0.1, "taps count");
            for blocks in [1, 3, DEPTH] {
                let what = format!("{blocks} blocks, {mode:?}, {compute:?}");
                let (found_losses, found) = compared(blocks, (0.6, mode), compute, loss.clone());
                assert_eq!(found_losses, losses, "{what}");
                for ((name, found), (_, expected)) in found.iter().zip(&gradients) {
                    let off = distance(found, expected);
                    assert!(off < tolerance, "{what}: {name} is off by {off:.1e}");
                }
            }
        }
    }
}

/// In a real run the memory of activations is given up.
#[test]
fn recomputed_blocks_take_less_memory() {
    let workshop = Workshop::new();
    let peak = |run: &str, blocks: &str| {
        let set = [
            run,
            blocks,
            "students.0.model={ dim = 96, depth = 12, heads = 2, patch_size = 8 }",
            "students.0.mask_ratio=0",
            "data.batch_size=256",
            "data.global_batch_size=256",
            "schedule.epochs=1",
            "schedule.warmup_epochs=0",
            "schedule.steps_per_epoch=2",
            "export.formats=[]",
        ];
        workshop.train(&set).succeeds();
        let run = run.strip_prefix("run.dir=").unwrap();
        let rows = std::fs::read_to_string(workshop.path(run).join("metrics.jsonl")).unwrap();
        let row: serde_json::Value = serde_json::from_str(rows.lines().last().unwrap()).unwrap();
        row["peak_memory_bytes"].as_u64().unwrap() as f64 / 1e6
    };
    let plain = peak("run.dir=plain", "students.0.recompute_blocks=0");
    let recomputed = peak("run.dir=recomputed", "students.0.recompute_blocks=12");
    println!("peak memory {plain:.0} MB, with all blocks recomputed {recomputed:.0} MB");
    // A block keeps at least 15 numbers a token and channel: norms, queries, keys, values, mixed
    // values, hidden units before and after GELU, sums; with recomputation only one.
    let block = (256 * (16 + 8) * 96 * 4) as f64 / 1e6;
    assert!(plain - recomputed > 11.0 * 12.0 * block, "{plain} MB and {recomputed} MB");
    assert_eq!(workshop.checkpoint("plain", 2), workshop.checkpoint("recomputed", 2));
}

/// More blocks than there are is a mistake.
#[test]
fn too_many_blocks_are_refused() {
    let workshop = Workshop::new();
    let run = workshop.train(&["students.0.recompute_blocks=3"]);
    run.fails(2, &["students.0.recompute_blocks", "found 3", "2 blocks"]);
}
