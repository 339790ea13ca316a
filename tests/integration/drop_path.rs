//! Drop path that computes only what is kept: the same mathematics as the plain one.

use distill::encoders::{Encoder, EncoderSpec, Input};
use distill::nn::{DropPath, Parameters, Storage, kept_images};
use tch::{Device, Kind, Tensor};

use crate::support::golden::assert_close;
use crate::support::workshop::Workshop;

const BATCH: i64 = 6;
const DEPTH: i64 = 3;
const FLOATS: (Kind, Device) = (Kind::Float, Device::Cpu);

/// An encoder of random weights under training, for 2 × 2 patches of 4 pixels.
fn encoder() -> (Box<dyn Encoder>, Parameters) {
    let storage =
        Storage::Drawn { device: Device::Cpu, matrices: Kind::Float, seed: 5, rng_stream: 0 };
    let mut parameters = Parameters::new(storage);
    let spec =
        EncoderSpec { patch_size: 4, class_tokens: 2, ..EncoderSpec::new(16, DEPTH as usize, 2) };
    let encoder = spec.build(&mut parameters, 2);
    parameters.train();
    (encoder, parameters)
}

fn images() -> Tensor {
    tch::manual_seed(8);
    Tensor::randn([BATCH, 3, 8, 8], FLOATS)
}

fn tokens(encoder: &dyn Encoder, images: &Tensor, drop_path: DropPath) -> Tensor {
    let input = Input { drop_path, ..Input::whole(images.shallow_clone()) };
    encoder.normalise(encoder.forward(&input, Kind::Float)).all
}

/// Factors of the plain path `[depth, 2, B]` that keep the same images.
fn same_as_scales(kept: &[Vec<i64>]) -> Tensor {
    let mut factors = vec![0f32; (DEPTH * 2 * BATCH) as usize];
    for (branch, images) in kept.iter().enumerate() {
        for &image in images {
            factors[branch * BATCH as usize + image as usize] = BATCH as f32 / images.len() as f32;
        }
    }
    Tensor::from_slice(&factors).view([DEPTH, 2, BATCH])
}

/// With the same images kept, tokens and every gradient are the plain path's.
#[test]
fn skipping_gives_the_tokens_and_gradients_of_scaling() {
    let (encoder, parameters) = encoder();
    let images = images();
    let target = Tensor::randn([BATCH, 6, 16], FLOATS);
    for seed in 0..4 {
        let kept = kept_images(0.7, DEPTH as usize, seed, 0, 0..BATCH as u64);
        assert!(kept[4].len() < BATCH as usize, "nothing is dropped");
        let pass = |drop_path| {
            for (_, parameter) in parameters.named() {
                parameter.shallow_clone().zero_grad();
            }
            let tokens = tokens(&*encoder, &images, drop_path);
            tokens.mse_loss(&target, tch::Reduction::Mean).backward();
            let gradients = parameters.named().iter().map(|(_, p)| p.grad().copy());
            (tokens.detach(), gradients.collect::<Vec<_>>())
        };
        let plain = pass(DropPath::Scale(same_as_scales(&kept)));
        let skipped = pass(DropPath::skip(&kept, BATCH, Device::Cpu).unwrap());
        assert_close(&skipped.0, &plain.0, 1e-5, "tokens");
        for (((name, _), found), expected) in
            parameters.named().iter().zip(&skipped.1).zip(&plain.1)
        {
            assert_close(found, expected, 1e-5, name);
        }
    }
}

/// Over many draws, tokens have the mean that independent draws give: with two branches dropped in
/// the last block, the exact one comes from the four ways to keep or drop them.
#[test]
fn the_mean_over_many_draws_is_that_of_the_plain_path() {
    let (encoder, _) = encoder();
    let images = images();
    let plain = |first: f64, second: f64| {
        let scales = Tensor::ones([DEPTH, 2, BATCH], FLOATS);
        let _ = scales.get(DEPTH - 1).get(0).fill_(first);
        let _ = scales.get(DEPTH - 1).get(1).fill_(second);
        tokens(&*encoder, &images, DropPath::Scale(scales)).to_kind(Kind::Double)
    };
    let (expected, mean, deviation) = tch::no_grad(|| {
        let expected =
            (plain(0.0, 0.0) + plain(0.0, 2.0) + plain(2.0, 0.0) + plain(2.0, 2.0)) / 4.0;
        let rounds = 600u64;
        let mut sum = Tensor::zeros([BATCH, 6, 16], (Kind::Double, Device::Cpu));
        let mut squares = sum.zeros_like();
        for round in 0..rounds {
            let start = round * BATCH as u64;
            let mut kept = kept_images(0.5, DEPTH as usize, 1, 0, start..start + BATCH as u64);
            // Half of the images in the last block, all of them before.
            for images in &mut kept[2..4] {
                *images = (0..BATCH).collect();
            }
            let drop_path = DropPath::skip(&kept, BATCH, Device::Cpu).unwrap();
            let off = tokens(&*encoder, &images, drop_path).to_kind(Kind::Double) - &expected;
            sum += &off;
            squares += off.square();
        }
        let mean = sum / rounds as f64;
        let deviation = ((squares / rounds as f64 - mean.square()) / rounds as f64).sqrt();
        (expected, mean, deviation)
    });
    let off = (&mean.abs() / deviation.clamp_min(1e-9)).max().double_value(&[]);
    assert!(off < 5.0, "{off} standard errors from the plain path's mean");
    // The test can tell: standard errors are small beside what a branch adds.
    let branch = (plain(2.0, 2.0) - &expected).abs().mean(Kind::Double).double_value(&[]);
    let error = deviation.mean(Kind::Double).double_value(&[]);
    assert!(error < branch / 10.0, "standard error {error}, branches of {branch}");
}

/// Draws depend on seed, student and place in the stream alone, so a run that continues ends bit for
/// bit where one ends that was never stopped; and they are others than the plain path's.
#[test]
fn a_run_with_skipped_branches_resumes_bit_for_bit() {
    let workshop = Workshop::new();
    let set = ["students.0.drop_path=0.5", "students.0.drop_path_mode=skip"];
    let run = |dir, mode| workshop.train(&[dir, set[0], mode]).succeeds();
    run("run.dir=plain", "students.0.drop_path_mode=scale");
    run("run.dir=whole", set[1]);
    run("run.dir=cut", set[1]);
    std::fs::remove_dir_all(workshop.path("cut/checkpoints/step-8")).unwrap();
    run("run.dir=cut", set[1]);
    assert_eq!(workshop.checkpoint("cut", 8), workshop.checkpoint("whole", 8));
    assert_ne!(workshop.checkpoint("plain", 8), workshop.checkpoint("whole", 8));
}
