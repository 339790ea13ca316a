//! Golden cases of what students are compared with: several blocks, other projectors, normed and standardised
//! targets, relations alone, and a teacher that sees images in another size.

use std::path::Path;

use distill::encoders::EncoderSpec;
use distill::nn::{DropPath, Storage};
use distill::tasks::distill::{DistillConfig, Distillation, LossConfig, TargetForm, Teacher};
use distill::tasks::{PassDraws, TraineeConfig};
use distill::train::objective::Objective;
use serde::Deserialize;
use tch::{Kind, Tensor};

use super::{fill, read_there};
use crate::support::device::device;
use crate::support::golden::{assert_close, cases, read};

/// Relative tolerance of losses, terms and gradients.
const TOLERANCE: f64 = 1e-5;

#[derive(Deserialize)]
struct Case {
    input_size: usize,
    teacher_input_size: usize,
    patch_size: usize,
    teacher_patch_size: usize,
    n_cls_tokens: usize,
    mask_ratio: f64,
    mask_grid: usize,
    teacher: [usize; 3],
    student: [usize; 3],
    teacher_norm: bool,
    standardised: bool,
    loss: LossConfig,
}

impl Case {
    fn config(&self) -> DistillConfig {
        let spec = |[dim, depth, heads]: [usize; 3], patch_size| EncoderSpec {
            patch_size,
            class_tokens: self.n_cls_tokens,
            ..EncoderSpec::new(dim, depth, heads)
        };
        let teacher = spec(self.teacher, self.teacher_patch_size);
        let mut config = DistillConfig::minimal("runs/golden", teacher);
        config.train.data.input_size = self.input_size;
        config.teacher.norm = self.teacher_norm;
        if self.teacher_input_size != self.input_size {
            config.teacher.input_size = Some(self.teacher_input_size);
        }
        if self.standardised {
            config.teacher.targets = TargetForm::Standardised;
        }
        config.students.push(TraineeConfig {
            mask_ratio: self.mask_ratio,
            mask_grid: self.mask_grid,
            ..TraineeConfig::minimal("student", spec(self.student, self.patch_size))
        });
        config.loss = self.loss.clone();
        config
    }
}

/// Losses and gradients of one pass are PyTorch's, with blocks recomputed and without.
fn assert_case(folder: &Path, recompute_blocks: usize) {
    let text = std::fs::read_to_string(folder.join("case.json")).unwrap();
    let case: Case = serde_json::from_str(&text).unwrap();
    let mut config = case.config();
    config.students[0].recompute_blocks = recompute_blocks;
    let storage = Storage::Empty { device: device(), matrices: Kind::Float };
    let side = case.teacher_input_size / case.teacher_patch_size;
    let teacher = Teacher::new(storage, config.teacher.model, side);
    fill(&teacher.parameters, &read(folder.join("teacher.safetensors")));
    let objective = Distillation::new(&config, teacher, device(), Kind::Float);
    let parameters = &objective.trainees()[0].parameters;
    fill(parameters, &read(folder.join("student.safetensors")));
    let batch = read_there(folder.join("images.safetensors"));
    let keep = batch.get("ids_keep").map(Tensor::shallow_clone);
    let draws = vec![PassDraws { keep, drop_path: DropPath::None }];
    let losses = objective.accumulate_masked(&batch["images"], draws, 1.0, &mut ()).unwrap();
    let expected = read(folder.join("expected.safetensors"));
    let name = format!("{}, {recompute_blocks} recomputed", folder.display());
    let mut found: Vec<String> =
        losses[0].terms.iter().map(|(term, _)| format!("term.{term}")).collect();
    found.sort();
    let terms: Vec<&str> =
        expected.keys().map(String::as_str).filter(|key| key.starts_with("term.")).collect();
    let mut terms: Vec<String> = terms.into_iter().map(String::from).collect();
    terms.sort();
    assert_eq!(found, terms, "{name}");
    for (term, value) in &losses[0].terms {
        assert_close(
            value,
            &expected[&format!("term.{term}")],
            TOLERANCE,
            &format!("{name}: {term}"),
        );
    }
    assert_close(&losses[0].total, &expected["total"], TOLERANCE, &format!("{name}: total"));
    let trained = parameters.trained();
    assert!(trained.iter().all(|(_, tensor)| tensor.grad().defined()), "{name}");
    let gradients =
        expected.iter().filter_map(|(key, value)| Some((key.strip_prefix("grad.")?, value)));
    let mut checked = 0;
    for (key, expected) in gradients {
        let (_, tensor) =
            trained.iter().find(|(name, _)| name == key).unwrap_or_else(|| panic!("{key}"));
        assert_close(&tensor.grad(), expected, TOLERANCE, &format!("{name}: gradient of {key}"));
        checked += 1;
    }
    assert!(checked > 4, "{name}: {checked} gradients");
}

/// Whatever blocks are compared, and however: terms, totals and gradients by plain PyTorch.
#[test]
fn golden_comparisons() {
    let folders = cases(&["case.json", "teacher.safetensors", "student.safetensors"]);
    let others = std::env::var_os("GOLDEN_DIR").is_some();
    assert!(others || !folders.is_empty(), "no comparisons in the golden folder");
    for folder in folders {
        for blocks in [0, 1, 2] {
            assert_case(&folder, blocks);
        }
    }
}
