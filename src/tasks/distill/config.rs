//! Distillation: a teacher, its students, and how they are compared.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::losses::{Distance, LossConfig};
use crate::config::{Check, KeyError, Precision, TrainConfig, read_tables, require};
use crate::encoders::EncoderSpec;
use crate::nn::ProductPrecision;
use crate::tasks::revision::{former_tables, pin_weights};
use crate::tasks::trainee::{TraineeConfig, check_encoder, fill_in_model};

/// A run of distillation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DistillConfig {
    #[serde(flatten)]
    pub train: TrainConfig,
    pub teacher: TeacherConfig,
    pub students: Vec<TraineeConfig>,
    pub loss: LossConfig,
}

/// What a configuration of distillation has beside every training's.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tables {
    teacher: TeacherConfig,
    students: Vec<TraineeConfig>,
    #[serde(default)]
    loss: LossConfig,
}

impl DistillConfig {
    /// A configuration with a teacher of random weights, no students and every default; tests and
    /// benchmarks fill in the rest.
    pub fn minimal(dir: impl Into<PathBuf>, teacher: EncoderSpec) -> Self {
        Self {
            train: TrainConfig::minimal(dir),
            teacher: TeacherConfig {
                model: teacher,
                weights: TraineeConfig::RANDOM.into(),
                residual: Precision::Fp32,
                precision: ProductPrecision::Same,
                fused_kernels: true,
                cuda_graph: false,
            },
            students: Vec::new(),
            loss: LossConfig::default(),
        }
    }
}

/// The frozen encoder that gives the targets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeacherConfig {
    pub model: EncoderSpec,
    /// `random`, a Hugging Face folder, a `.safetensors` file, or a `.pth`/`.pt` state dict.
    pub weights: String,
    /// Number format of the tokens between blocks.
    #[serde(default)]
    pub residual: Precision,
    /// Number format of its matrix products.
    #[serde(default)]
    pub precision: ProductPrecision,
    /// What lies between its matrix products in kernels of our own, on a GPU in bf16.
    #[serde(default = "on")]
    pub fused_kernels: bool,
    /// The forward pass is recorded once, and told to the GPU as a whole.
    #[serde(default)]
    pub cuda_graph: bool,
}

fn on() -> bool {
    true
}

/// The configuration whose own tables are these.
///
/// # Errors
/// A key is unknown, missing or of the wrong type.
pub(super) fn read(mut own: Table, train: TrainConfig) -> Result<DistillConfig, KeyError> {
    let former = former_tables(&train.run.dir);
    if let Some(Value::Table(teacher)) = own.get_mut("teacher") {
        pin_weights("teacher", teacher, former.get("teacher"))?;
        fill_in_model("teacher", teacher)?;
    }
    if let Some(Value::Array(students)) = own.get_mut("students") {
        for (number, student) in students.iter_mut().enumerate() {
            let Value::Table(student) = student else { continue };
            let key = format!("students.{number}");
            let former = former.get("students").and_then(|students| students.get(number));
            pin_weights(&key, student, former)?;
            fill_in_model(&key, student)?;
        }
    }
    let Tables { teacher, students, loss } = read_tables(own)?;
    Ok(DistillConfig { train, teacher, students, loss })
}

impl DistillConfig {
    /// The first contradiction in the tables of distillation.
    pub(super) fn check(&self) -> Check {
        self.check_teacher()?;
        self.check_students()?;
        self.loss.check()
    }

    fn check_teacher(&self) -> Check {
        let TeacherConfig { model, residual, precision, .. } = &self.teacher;
        check_encoder("teacher.model", model, &self.train.data)?;
        let is_bf16 = self.train.run.precision == Precision::Bf16;
        require(is_bf16 || *residual == Precision::Fp32, "teacher.residual", || {
            "found \"bf16\", expected \"fp32\" unless run.precision is \"bf16\"".into()
        })?;
        let is_fp8 = *precision == ProductPrecision::Fp8;
        require(is_bf16 || !is_fp8, "teacher.precision", || {
            "found \"fp8\", expected \"same\" unless run.precision is \"bf16\"".into()
        })?;
        // What CUDA's FP8 products take.
        let widths = [model.dim, model.mlp_width];
        let odd = widths.into_iter().find(|width| !width.is_multiple_of(16));
        require(!is_fp8 || odd.is_none(), "teacher.precision", || {
            let odd = odd.unwrap_or_default();
            format!("found \"fp8\" for a width of {odd}, expected a multiple of 16")
        })
    }

    /// That a loss of tokens has some which student and teacher both have.
    fn check_shared_tokens(&self, key: &str, student: &TraineeConfig) -> Check {
        let (own, teacher) = (&student.model, &self.teacher.model);
        let is_of_class_tokens = self.loss.class != Distance::None;
        let by_class_alone = is_of_class_tokens && self.loss.patch == Distance::None;
        let shares_class = own.class_tokens > 0 && teacher.class_tokens > 0;
        require(shares_class || !by_class_alone, format!("{key}.model"), || {
            let without = if own.class_tokens == 0 { own } else { teacher };
            format!(
                "found {own} and a teacher of {teacher}, which share no tokens that the loss compares: {without} \
                 has no class token; expected another loss.patch than \"none\", or other models"
            )
        })
    }

    fn check_students(&self) -> Check {
        require(!self.students.is_empty(), "students", || {
            "found no student, expected at least one [[students]] table".into()
        })?;
        for (index, student) in self.students.iter().enumerate() {
            let key = format!("students.{index}");
            student.check(&key, &self.train.data)?;
            student.check_precision(&key, self.train.run.precision)?;
            self.check_shared_tokens(&key, student)?;
            let name = &student.name;
            require(
                self.students[..index].iter().all(|other| other.name != *name),
                format!("{key}.name"),
                || format!("found `{name}` a second time, expected a name of its own"),
            )?;
        }
        Ok(())
    }
}
