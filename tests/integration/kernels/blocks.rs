//! Blocks that are trained in bf16, on a GPU by their own kernels: against the same blocks in float32 on the CPU.

use distill::native::backward_from;
use distill::nn::{BlockShape, Blocks, DropPath, Parameters, Storage, Taps};
use tch::{Device, Kind, Tensor};

use super::{Numbers, device};

const DEPTH: usize = 3;
const BATCH: i64 = 6;

/// Blocks and their parameters, the same on every device.
fn blocks(shape: &BlockShape, device: Device) -> (Blocks, Parameters) {
    let storage = Storage::Drawn { device, matrices: Kind::Float, seed: 9, rng_stream: 3 };
    let mut parameters = Parameters::new(storage);
    let blocks = Blocks::new(&mut parameters, "blocks", shape, DEPTH);
    let mut numbers = Numbers::new(31);
    for (_, mut parameter) in parameters.shared() {
        let noise = numbers.draw(&parameter.size()) * 0.02;
        let _ = parameter.g_add_(&noise.to_device(device));
    }
    parameters.train();
    (blocks, parameters)
}

/// Ways that images take, of both modes.
fn drop_paths(device: Device) -> [DropPath; 3] {
    let scales: Vec<f32> = (0..DEPTH * 2 * BATCH as usize)
        .map(|index| if index % 5 == 1 { 0.0 } else { 1.25 })
        .collect();
    let scales = Tensor::from_slice(&scales).view([DEPTH as i64, 2, BATCH]).to_device(device);
    let kept: Vec<Vec<i64>> = vec![
        (0..BATCH).collect(),
        vec![0, 2, 3, 5],
        vec![1],
        vec![0, 1, 2, 4, 5],
        vec![2, 3],
        vec![0, 5],
    ];
    [DropPath::None, DropPath::Scale(scales), DropPath::skip(&kept, BATCH, device).unwrap()]
}

/// Tokens, and gradients of input and parameters, on the CPU; the first `recomputed` blocks keep their inputs only.
fn run(
    (blocks, parameters): &(Blocks, Parameters),
    [input, of_tokens]: &[Tensor; 2],
    drop_path: &DropPath,
    compute: Kind,
    recomputed: usize,
) -> Vec<Tensor> {
    let device = parameters.named()[0].1.device();
    let leaf = input.to_device(device).copy().set_requires_grad(true);
    let (embedded, of_tokens) = (&leaf + 0.0, of_tokens.to_device(device));
    let taps = &mut Taps::default();
    let (tokens, kept) =
        blocks.forward_keeping_inputs(embedded, None, drop_path, compute, recomputed, taps);
    backward_from(&tokens, &of_tokens).unwrap();
    blocks.backward(kept, None, drop_path, compute).unwrap();
    let mut found = vec![tokens.detach(), leaf.grad()];
    for (_, parameter) in parameters.named() {
        found.push(parameter.grad().copy());
        let _ = parameter.grad().zero_();
    }
    found.iter().map(|one| one.to_device(Device::Cpu).to_kind(Kind::Double)).collect()
}

fn given(shape: &BlockShape) -> [Tensor; 2] {
    let mut numbers = Numbers::new(32);
    [0, 1].map(|_| numbers.draw(&[BATCH, 5, shape.dim as i64]))
}

/// Kinds of blocks that are trained.
fn shapes() -> [BlockShape; 3] {
    let plain = BlockShape::new(64, 2, 1e-6);
    let scaled = BlockShape { layer_scale: true, ..plain };
    [plain, scaled, BlockShape { gated: true, ..scaled }]
}

/// In bf16, gradients are those of float32 up to what rounding explains.
#[test]
fn blocks_in_bf16_learn_as_in_float32() {
    for shape in shapes() {
        let given = given(&shape);
        let (exact, rounded) = (blocks(&shape, Device::Cpu), blocks(&shape, device()));
        let paths = drop_paths(Device::Cpu).into_iter().zip(drop_paths(device()));
        for (which, (on_cpu, on_device)) in paths.enumerate() {
            let expected = run(&exact, &given, &on_cpu, Kind::Float, 0);
            let found = run(&rounded, &given, &on_device, Kind::BFloat16, 0);
            for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let size = expected.norm().double_value(&[]);
                let off = (found - expected).norm().double_value(&[]) / size;
                assert!(size > 0.0 && off < 0.03, "{shape:?}, path {which}, tensor {index}: {off}");
            }
        }
    }
}

/// In FP8 tokens and gradients are near those of bf16, and not the same.
#[test]
fn blocks_in_fp8_learn_nearly_as_in_bf16() {
    let shape = BlockShape::new(64, 2, 1e-6);
    let given = given(&shape);
    for which in 0..3 {
        let drop_path = &drop_paths(device())[which];
        let mut blocks = blocks(&shape, device());
        let expected = run(&blocks, &given, drop_path, Kind::BFloat16, 0);
        assert_eq!(blocks.0.train_in_fp8(64 * 64 + 1), ["proj"]);
        assert!(blocks.0.train_in_fp8(0).is_empty());
        let found = run(&blocks, &given, drop_path, Kind::BFloat16, 0);
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let off = (found - expected).norm() / expected.norm();
            let off = off.double_value(&[]);
            // The tokens, of which all is rounded, are others.
            let differs = off > 1e-4 || index > 0;
            assert!(off < 0.12 && differs, "path {which}, tensor {index}: {off}");
        }
    }
}

/// A small model that learns to give other tokens comes nearly as far in FP8 as in bf16.
#[test]
fn training_in_fp8_goes_down_as_in_bf16() {
    let shape = BlockShape::new(32, 2, 1e-6);
    let [input, _] = given(&shape);
    let (input, target) = (input.to_device(device()), input.flip([1]).to_device(device()));
    let ends = |fp8: bool| {
        let (mut blocks, parameters) = blocks(&shape, device());
        if fp8 {
            blocks.train_in_fp8(0);
        }
        let losses: Vec<f64> =
            (0..40).map(|_| step(&blocks, &parameters, [&input, &target])).collect();
        (losses[0], losses[39])
    };
    let ((before, bf16), (_, fp8)) = (ends(false), ends(true));
    println!("loss {before:.4}, at the end {bf16:.4} in bf16 and {fp8:.4} in FP8");
    assert!(bf16 < 0.5 * before && (fp8 - bf16).abs() < 0.05 * before, "{before}, {bf16}, {fp8}");
}

/// The loss before a step of a fixed length against the gradient.
fn step(blocks: &Blocks, parameters: &Parameters, [input, target]: [&Tensor; 2]) -> f64 {
    let taps = &mut Taps::default();
    let tokens = blocks.forward(input.copy(), None, &DropPath::None, Kind::BFloat16, taps);
    let error = tokens.mse_loss(target, tch::Reduction::Mean);
    error.backward();
    for (_, parameter) in parameters.named() {
        let gradient = parameter.grad();
        let step = &gradient * (0.05 / (gradient.norm() + 1e-8));
        tch::no_grad(|| _ = parameter.shallow_clone().g_sub_(&step));
        let _ = parameter.grad().zero_();
    }
    error.double_value(&[])
}

/// Blocks that are computed again give the same gradients, bit for bit; on a GPU up to the order in which attention's
/// backward pass adds.
#[test]
fn recomputed_blocks_in_bf16_give_the_same_gradients() {
    for shape in shapes() {
        let (given, blocks) = (given(&shape), blocks(&shape, device()));
        for drop_path in drop_paths(device()) {
            let expected = run(&blocks, &given, &drop_path, Kind::BFloat16, 0);
            let found = run(&blocks, &given, &drop_path, Kind::BFloat16, 2);
            if device() == Device::Cpu {
                assert_eq!(found, expected, "{shape:?}");
            }
            for (found, expected) in found.iter().zip(&expected) {
                let off = (found - expected).norm() / expected.norm();
                assert!(off.double_value(&[]) < 0.01, "{shape:?}: {off}");
            }
        }
    }
}
