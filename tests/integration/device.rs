//! What a training device must do alike, wherever it is. On the CPU, unless `DISTILL_TEST_DEVICE` says
//! `cuda`, as `scripts/gpu_check` does.

use distill::config::{OptimizerConfig, Precision};
use distill::encoders::EncoderSpec;
use distill::eval::Features;
use distill::eval::kinds::knn::accuracies;
use distill::native::{DeviceEvent, Download, Gpu, PeakMemory, upload};
use distill::nn::{DropPathMode, Init, Parameters, Storage};
use distill::tasks::TraineeConfig;
use distill::tasks::distill::DistillConfig;
use distill::tasks::distill::{Distillation, Teacher};
use distill::train::objective::{MicroBatch, Objective};
use distill::train::optimizer::AdamW;
use tch::{Device, Kind, Tensor};

use crate::support::device::device;
use crate::support::golden::assert_close;
use crate::support::ranks::alone;

/// Waits for the device.
fn synchronize(mark: &DeviceEvent) {
    while !mark.is_complete().unwrap() {
        std::thread::yield_now();
    }
}

/// A teacher and two students that see halves of 8 images.
fn config() -> DistillConfig {
    let size =
        |dim, depth, heads| EncoderSpec { patch_size: 8, ..EncoderSpec::new(dim, depth, heads) };
    let mut config = DistillConfig::minimal("unused", size(64, 3, 2));
    config.train.data.input_size = 32;
    config.train.data.batch_size = 8;
    config.students = vec![
        TraineeConfig {
            mask_ratio: 0.5,
            mask_grid: 2,
            drop_path: 0.4,
            ..TraineeConfig::minimal("one", size(64, 3, 2))
        },
        TraineeConfig::minimal("two", size(32, 2, 2)),
    ];
    config
}

/// The losses and gradients of one pass over the same images, on the host.
fn pass(config: &DistillConfig, device: Device) -> Vec<(String, Tensor)> {
    let compute = config.train.run.precision.kind();
    let side = config.train.data.input_size / config.teacher.model.patch_size;
    let teacher = Teacher::new(Teacher::drawn(device, compute, 1), config.teacher.model, side);
    let objective = Distillation::new(config, teacher, device, compute);
    let pixels: Vec<f32> =
        (0..8 * 3 * 32 * 32).map(|i| ((i * 37 % 251) as f32 - 125.0) / 60.0).collect();
    let images = upload(&pixels, &[8, 3, 32, 32], device).unwrap();
    let batch = MicroBatch { images, positions: 0..8 };
    let losses = objective.accumulate(&batch, 1.0, &mut ()).unwrap();
    let mut found = Vec::new();
    for (trainee, losses) in objective.trainees().iter().zip(losses) {
        found.push((format!("loss of {}", trainee.name), losses.total.to_device(Device::Cpu)));
        for (name, tensor) in trainee.parameters.named() {
            found.push((format!("{}: {name}", trainee.name), tensor.grad().to_device(Device::Cpu)));
        }
    }
    found
}

/// Losses and gradients are the CPU's in float32, with every switch of the students.
#[test]
fn a_pass_is_the_same_as_on_the_cpu() {
    let mut config = config();
    for mode in [DropPathMode::Scale, DropPathMode::Skip] {
        config.students[0].drop_path_mode = mode;
        config.students[0].recompute_blocks = 0;
        let expected = pass(&config, Device::Cpu);
        for blocks in [0, 2] {
            config.students[0].recompute_blocks = blocks;
            for ((name, found), (_, expected)) in pass(&config, device()).iter().zip(&expected) {
                assert_close(found, expected, 1e-4, &format!("{mode:?}, {blocks}: {name}"));
            }
        }
    }
}

/// bf16 products, with a float32 and a bf16 residual stream of the teacher, stay near float32.
#[test]
fn bf16_losses_stay_near_float32() {
    let mut config = config();
    let expected = pass(&config, Device::Cpu);
    config.train.run.precision = Precision::Bf16;
    for residual in [Precision::Fp32, Precision::Bf16] {
        config.teacher.residual = residual;
        let found = pass(&config, device());
        let losses = found.iter().zip(&expected).filter(|((name, _), _)| name.starts_with("loss"));
        for ((name, found), (_, expected)) in losses {
            assert_close(found, expected, 2e-2, &format!("residual in {residual:?}: {name}"));
        }
    }
}

/// An update that the device is told to skip leaves weights and moments as they are, where gradients
/// are no numbers, too.
#[test]
fn a_skipped_update_changes_nothing() {
    let device = device();
    let scalar = |value: f64| Tensor::full([], value, (Kind::Float, device));
    let storage = Storage::Drawn { device, matrices: Kind::Float, seed: 5, rng_stream: 0 };
    let mut parameters = Parameters::new(storage);
    let weights = parameters.tensor("weight", &[5, 3], Init::Normal(1.0));
    parameters.train();
    let config = OptimizerConfig { clip_grad_norm: Some(1.0), ..OptimizerConfig::default() };
    let mut optimizer = AdamW::new(&parameters, &config, None);
    let mut step = |gradient: f64, skip: f64| {
        (&weights * gradient).sum(Kind::Float).backward();
        let norm = optimizer.gradient_norm(true).unwrap();
        optimizer.update(0.1, &norm, &scalar(skip)).unwrap();
        // The first is the number of updates, which counts skipped ones.
        let moments = optimizer.state().into_iter().skip(1).map(|state| state.tensor.copy());
        std::iter::once(weights.detach().copy()).chain(moments).collect::<Vec<_>>()
    };
    let first = step(1.0, 0.0);
    let skipped = step(f64::NAN, 1.0);
    assert_eq!(skipped.len(), first.len());
    assert!(first.iter().zip(&skipped).all(|(before, after)| before == after));
    let second = step(1.0, 0.0);
    assert!(bool::try_from(second[0].isfinite().all()).unwrap());
    assert_ne!(first[0], second[0]);
}

/// Numbers come from the device as they were when they were asked for, and marks keep its time.
#[test]
fn the_device_is_ahead_of_nothing() {
    let device = device();
    let before = DeviceEvent::record(device).unwrap();
    let mut tensor = upload(&[1f32, 2.0, 3.0], &[3], device).unwrap();
    let download = Download::begin(&tensor).unwrap();
    let _ = tensor.fill_(0.0);
    let after = DeviceEvent::record(device).unwrap();
    synchronize(&after);
    assert_eq!(download.numbers().unwrap(), [1.0, 2.0, 3.0]);
    assert!((0.0..10.0).contains(&before.seconds_until(&after).unwrap()));
}

/// The device says who it is and how much memory it gave.
#[test]
fn a_device_describes_itself() {
    let device = device();
    let mebibyte = 1 << 20;
    // A GPU has no figures before it holds anything.
    let _first = Tensor::ones([1], (Kind::Uint8, device));
    let before = PeakMemory::of(device).unwrap();
    let tensor = Tensor::ones([256 * mebibyte], (Kind::Uint8, device));
    assert_eq!(tensor.sum(Kind::Int64).int64_value(&[]), 256 * mebibyte);
    let PeakMemory { used, held } = PeakMemory::of(device).unwrap();
    assert!(used >= before.used.max(256 * mebibyte as u64) && held >= used, "{used} of {held}");
    match Gpu::of(device) {
        Ok(Gpu { name, capability, memory }) => {
            assert!(memory > 1 << 30, "{memory} bytes of memory");
            assert!(device != Device::Cpu && !name.is_empty() && capability.0 >= 5, "{name}");
        }
        Err(error) => assert!(device == Device::Cpu, "{error}"),
    }
}

/// The nearest of many images, ties included, are the same as on the CPU, where a test compares them
/// with a count in float64.
#[test]
fn neighbours_are_those_of_the_cpu() {
    let features = |rows: i64, step: i64| {
        // Few values, so that many images are equally near.
        let values = (Tensor::arange(rows * 16, (Kind::Float, Device::Cpu)) * step).remainder(7.0);
        let vectors = (values - 3.0).view([rows, 16]);
        let labels = (0..rows).map(|row| (row % 5) as u32).collect();
        Features::new(vectors, labels)
    };
    let (reference, held_out) = (features(600, 13), features(100, 29));
    let found = [Device::Cpu, device()].map(|device| {
        let [reference, held_out] = [&reference, &held_out].map(|one| one.to(device, Kind::Float));
        accuracies(&reference, &held_out, &[1, 10, 100], 50.0, &alone(device)).unwrap()
    });
    assert_eq!(found[0], found[1]);
    assert!(found[0].iter().any(|&[right, _]| right > 0.0 && right < 1.0), "{found:?}");
}
