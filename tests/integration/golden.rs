//! Golden cases: whole training steps and encoder outputs, made by public libraries alone.
//!
//! On the device that `crate::support::device` names. Cases are found in `GOLDEN_DIR` (default: `tests/golden`) by what is in them.

mod pretrain;
mod terms;

use std::path::{Path, PathBuf};

use distill::config::{OptimizerConfig, Precision};
use distill::encoders::{EncoderSpec, Input};
use distill::nn::{DropPath, Junctions, Parameters, Storage};
use distill::tasks::distill::{Distance, DistillConfig, Fuse, LossConfig};
use distill::tasks::distill::{Distillation, Teacher};
use distill::tasks::{PassDraws, TraineeConfig};
use distill::train::objective::{Losses, Objective};
use distill::train::optimizer::AdamW;
use distill::train::schedule::Schedule;
use serde::Deserialize;
use tch::{Kind, Tensor};

use crate::support::device::device;
use crate::support::golden::{Tensors, assert_close, cases, read};

/// Tolerances of `tests/golden/README.md`, float32 on a CPU.
const VALUES: f64 = 1e-4;
const WEIGHTS: f64 = 1e-2;

/// [`read`], onto the device under test.
fn read_there(path: PathBuf) -> Tensors {
    let tensors = read(path).into_iter();
    tensors.map(|(name, tensor)| (name, tensor.to_device(device()))).collect()
}

fn fill(parameters: &Parameters, from: &Tensors) {
    assert_eq!(parameters.named().len(), from.len());
    tch::no_grad(|| {
        for (name, tensor) in parameters.named() {
            tensor.shallow_clone().copy_(&from[name]);
        }
    });
}

#[derive(Deserialize)]
struct DistillCase {
    input_size: usize,
    patch_size: usize,
    n_cls_tokens: usize,
    batch_size: usize,
    steps: usize,
    accum_iter: usize,
    lr: f64,
    min_lr: f64,
    weight_decay: f64,
    betas: [f64; 2],
    warmup_epochs: f64,
    epochs: f64,
    iters_per_epoch: f64,
    teacher: [usize; 3],
    students: Vec<[usize; 3]>,
    loss_fn_cls: Distance,
    loss_fn_patch: Distance,
    loss_fuse: Fuse,
    mask_ratio: f64,
    mask_grid: usize,
}

impl DistillCase {
    fn spec(&self, [dim, depth, heads]: [usize; 3]) -> EncoderSpec {
        EncoderSpec {
            patch_size: self.patch_size,
            class_tokens: self.n_cls_tokens,
            ..EncoderSpec::new(dim, depth, heads)
        }
    }

    fn config(&self) -> DistillConfig {
        let mut config = DistillConfig::minimal("runs/golden", self.spec(self.teacher));
        config.train.data.input_size = self.input_size;
        config.train.data.batch_size = self.batch_size;
        config.students = self
            .students
            .iter()
            .enumerate()
            .map(|(index, &student)| TraineeConfig {
                mask_ratio: self.mask_ratio,
                mask_grid: self.mask_grid,
                ..TraineeConfig::minimal(&index.to_string(), self.spec(student))
            })
            .collect();
        config.loss = LossConfig {
            class: self.loss_fn_cls,
            patch: self.loss_fn_patch,
            fuse: self.loss_fuse,
            ..LossConfig::default()
        };
        config.train.optimizer = OptimizerConfig {
            weight_decay: self.weight_decay,
            betas: self.betas,
            ..OptimizerConfig::default()
        };
        config
    }

    fn schedule(&self) -> Schedule {
        Schedule {
            peak: self.lr,
            min: self.min_lr,
            warmup_epochs: self.warmup_epochs,
            epochs: self.epochs,
            steps_per_epoch: self.iters_per_epoch / self.accum_iter as f64,
        }
    }
}

/// A golden case, its objective with the initial weights, and its optimizers.
struct Replay {
    name: String,
    case: DistillCase,
    batch: Tensors,
    expected: Tensors,
    objective: Distillation,
    optimizers: Vec<AdamW>,
}

impl Replay {
    fn open(folder: &Path, precision: Precision) -> Self {
        let text = std::fs::read_to_string(folder.join("case.json")).unwrap();
        let case: DistillCase = serde_json::from_str(&text).unwrap();
        let config = case.config();
        let compute = precision.kind();
        let storage = Storage::Empty { device: device(), matrices: compute };
        let side = case.input_size / case.patch_size;
        let teacher = Teacher::new(storage, config.teacher.model, side);
        fill(&teacher.parameters, &read(folder.join("teacher.safetensors")));
        let objective = Distillation::new(&config, teacher, device(), compute);
        let mut optimizers = Vec::new();
        for (index, trainee) in objective.trainees().iter().enumerate() {
            let init = read(folder.join(format!("student{index}.init.safetensors")));
            fill(&trainee.parameters, &init);
            optimizers.push(AdamW::new(&trainee.parameters, &config.train.optimizer, None));
        }
        Self {
            name: folder.file_name().unwrap().to_string_lossy().into_owned(),
            case,
            batch: read_there(folder.join("batch.safetensors")),
            expected: read(folder.join("expected.safetensors")),
            objective,
            optimizers,
        }
    }

    /// Replays micro-step `micro`; gives each student's losses.
    fn accumulate(&self, micro: usize) -> Vec<Losses> {
        let masks = (0..self.case.students.len()).map(|student| {
            let keep = self.batch.get(&format!("ids_keep.{student}.{micro}"));
            PassDraws { keep: keep.map(Tensor::shallow_clone), drop_path: DropPath::None }
        });
        let images = &self.batch[&format!("images.{micro}")];
        let scale = 1.0 / self.case.accum_iter as f64;
        self.objective.accumulate_masked(images, masks.collect(), scale, &mut ()).unwrap()
    }

    #[track_caller]
    fn check(&self, key: &str, found: &Tensor, tolerance: f64) {
        let expected = &self.expected[key];
        assert_close(found, expected, tolerance, &format!("{}: {key}", self.name));
    }

    fn check_losses(&self, micro: usize, losses: &[Losses], tolerance: f64) {
        for (student, losses) in losses.iter().enumerate() {
            self.check(&format!("loss.{student}.{micro}"), &losses.total, tolerance);
            let [class, patch] = ["class", "patch"].map(|name| losses.term(name).unwrap());
            self.check(&format!("loss_cls.{student}.{micro}"), class, tolerance);
            self.check(&format!("loss_patch.{student}.{micro}"), patch, tolerance);
        }
    }

    fn check_first_tokens(&self) {
        let images = &self.batch["images.0"];
        let whole = Input::whole(images.shallow_clone());
        let tokens = self.objective.teacher.tokens(&whole, Kind::Float).all;
        self.check("teacher_tokens.0", &tokens, VALUES);
        for (student, model) in self.objective.students().iter().enumerate() {
            let keep = self.batch.get(&format!("ids_keep.{student}.0")).map(Tensor::shallow_clone);
            let masked = Input { keep, ..Input::whole(images.shallow_clone()) };
            let tokens = model.projected(&model.forward(&masked, Kind::Float));
            self.check(&format!("student_tokens.{student}.0"), &tokens[0].all, VALUES);
        }
    }

    fn check_first_gradients(&self) {
        for (student, trainee) in self.objective.trainees().iter().enumerate() {
            for (name, tensor) in trainee.parameters.named() {
                let key = format!("grad.{student}.0.{name}");
                if self.expected.contains_key(&key) {
                    self.check(&key, &tensor.grad(), VALUES);
                }
            }
        }
    }

    fn update(&mut self, micro: usize, tolerance: f64) {
        let accumulation = self.case.accum_iter;
        let rate = self.case.schedule().learning_rate((micro / accumulation) as u64);
        for student in 0..self.optimizers.len() {
            let key = format!("lr.{student}.{micro}");
            self.check(&key, &Tensor::from(rate), tolerance);
            let norm = self.optimizers[student].gradient_norm(true).unwrap();
            self.check(&format!("grad_norm.{student}.{micro}"), &norm, tolerance);
            self.optimizers[student]
                .update(rate, &norm, &Tensor::zeros([], (Kind::Float, device())))
                .unwrap();
        }
    }

    fn check_final_weights(&self, folder: &Path) {
        for (student, trainee) in self.objective.trainees().iter().enumerate() {
            let weights = read(folder.join(format!("student{student}.final.safetensors")));
            for (name, tensor) in trainee.parameters.named() {
                let what = format!("{}: student {student}: {name}", self.name);
                assert_close(tensor, &weights[name], WEIGHTS, &what);
            }
        }
    }
}

fn distill_cases() -> Vec<PathBuf> {
    let found = cases(&["case.json", "teacher.safetensors", "student0.init.safetensors"]);
    assert!(!found.is_empty(), "no distillation case in the golden folder");
    found
}

/// The mathematics of a whole distillation step: tokens, losses, gradients, schedule, AdamW.
#[test]
fn golden_distillation_steps() {
    for folder in distill_cases() {
        let mut replay = Replay::open(&folder, Precision::Fp32);
        replay.check_first_tokens();
        for micro in 0..replay.case.steps {
            let losses = replay.accumulate(micro);
            replay.check_losses(micro, &losses, VALUES);
            if micro + 1 == replay.case.accum_iter {
                replay.check_first_gradients();
            }
            if (micro + 1) % replay.case.accum_iter == 0 {
                replay.update(micro, VALUES);
            }
        }
        replay.check_final_weights(&folder);
    }
}

/// bf16 products with float32 master weights stay near the float32 losses.
#[test]
fn golden_losses_in_bf16() {
    for folder in distill_cases() {
        let mut replay = Replay::open(&folder, Precision::Bf16);
        for micro in 0..replay.case.steps {
            let losses = replay.accumulate(micro);
            replay.check_losses(micro, &losses, 2e-2);
            if (micro + 1) % replay.case.accum_iter == 0 {
                replay.update(micro, 0.1);
            }
        }
    }
}

#[derive(Deserialize)]
struct HuggingFaceSize {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    image_size: usize,
    patch_size: usize,
    n_cls_tokens: usize,
}

/// Encoder output block by block, at the native size and with interpolated positions.
#[test]
fn golden_inference() {
    let folders = cases(&["config.json", "pixio.safetensors", "expected.safetensors"]);
    assert!(!folders.is_empty(), "no inference case in the golden folder");
    for folder in folders {
        let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
        let size: HuggingFaceSize = serde_json::from_str(&text).unwrap();
        let expected = read_there(folder.join("expected.safetensors"));
        let storage = Storage::Empty { device: device(), matrices: Kind::Float };
        let mut parameters = Parameters::new(storage);
        let encoder = EncoderSpec {
            patch_size: size.patch_size,
            class_tokens: size.n_cls_tokens,
            ..EncoderSpec::new(size.hidden_size, size.num_hidden_layers, size.num_attention_heads)
        };
        let encoder = encoder.build(&mut parameters, size.image_size / size.patch_size);
        fill(&parameters, &read(folder.join("pixio.safetensors")));
        let images = &expected["images"];
        let taps: Vec<usize> = (0..size.num_hidden_layers).collect();
        let input = Input { taps, ..Input::whole(images.shallow_clone()) };
        let what = |part: &str| format!("{}: {part}", folder.display());
        let junctions = Junctions::default();
        let frozen = tch::no_grad(|| encoder.forward_frozen(&input, Kind::Float, &junctions));
        let tokens = encoder.forward(&input, Kind::Float);
        for tokens in [&tokens, &frozen.unwrap()] {
            assert_eq!(tokens.taps.len(), size.num_hidden_layers);
            for (index, tap) in tokens.taps.iter().enumerate() {
                let key = format!("block.{index}");
                assert_close(tap, &expected[&key], VALUES, &what(&key));
            }
        }
        let normalised = encoder.normalise(tokens).all;
        assert_close(&normalised, &expected["last_hidden_state"], VALUES, &what("last"));
    }
}
