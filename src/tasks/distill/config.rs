//! Distillation: a teacher, its students, and how they are compared.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::losses::{Distance, LossConfig};
use crate::config::{Check, KeyError, LARGEST_INPUT, Precision, TrainConfig, read_tables, require};
use crate::encoders::EncoderSpec;
use crate::nn::ProductPrecision;
use crate::tasks::revision::{former_tables, pin_weights};
use crate::tasks::trainee::{TraineeConfig, check_encoder, check_numbers, fill_in_model};

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
                input_size: None,
                norm: false,
                targets: TargetForm::Plain,
                statistics_images: STATISTICS_IMAGES,
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
    /// Side of what it sees of a crop, in pixels; none: that of the students.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_size: Option<usize>,
    /// Whether targets go through its final norm, whichever block they come from.
    #[serde(default, skip_serializing_if = "is_off")]
    pub norm: bool,
    #[serde(default, skip_serializing_if = "TargetForm::is_plain")]
    pub targets: TargetForm,
    /// First images of the stream that mean and deviation are measured on.
    #[serde(default = "statistics_images", skip_serializing_if = "is_default_count")]
    pub statistics_images: u64,
}

/// What students are to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetForm {
    /// The teacher's tokens.
    #[default]
    Plain,
    /// Its tokens, whose features have a mean of 0 and a deviation of 1 over the first images.
    Standardised,
}

impl TargetForm {
    fn is_plain(&self) -> bool {
        *self == Self::Plain
    }
}

/// First images that targets' statistics are measured on.
const STATISTICS_IMAGES: u64 = 1024;
/// Most of them: some minutes of a large teacher.
const MOST_STATISTICS_IMAGES: u64 = 100_000;

fn statistics_images() -> u64 {
    STATISTICS_IMAGES
}

fn is_default_count(images: &u64) -> bool {
    *images == STATISTICS_IMAGES
}

fn is_off(switch: &bool) -> bool {
    !switch
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
        self.check_sight()?;
        self.check_students()
    }

    /// How a student is compared: the `[loss]` table, with what the student's own has in the place of its keys.
    ///
    /// # Errors
    /// The student's own has a key that is unknown or of the wrong type.
    pub fn loss_of(&self, student: &TraineeConfig) -> Result<LossConfig, KeyError> {
        if student.loss.is_empty() {
            return Ok(self.loss.clone());
        }
        let mut table =
            Table::try_from(&self.loss).map_err(|error| ("loss".to_string(), error.to_string()))?;
        table.extend(student.loss.clone());
        let below = |key: String| match key.is_empty() {
            true => "loss".into(),
            false => format!("loss.{key}"),
        };
        read_tables(table).map_err(|(key, message)| (below(key), message))
    }

    /// Side of what the teacher sees, in pixels.
    pub fn teacher_sees(&self) -> usize {
        self.teacher.input_size.unwrap_or(self.train.data.input_size)
    }

    /// Patches along each side of what the teacher sees.
    pub fn teacher_grid_size(&self) -> usize {
        self.teacher_sees() / self.teacher.model.patch_size
    }

    /// Side of the crops that are decoded, in pixels: the larger of what students and teacher see.
    pub fn crop_size(&self) -> usize {
        self.teacher_sees().max(self.train.data.input_size)
    }

    fn check_teacher(&self) -> Check {
        let TeacherConfig { model, residual, precision, input_size, .. } = &self.teacher;
        match input_size {
            None => check_encoder("teacher.model", model, &self.train.data)?,
            Some(_) => check_numbers("teacher.model", model)?,
        }
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

    /// What the teacher sees, and what is made of its tokens.
    fn check_sight(&self) -> Check {
        let TeacherConfig { model, input_size, statistics_images, .. } = &self.teacher;
        let patch_size = model.patch_size;
        if let Some(size) = *input_size {
            let fits = size > 0 && size.is_multiple_of(patch_size) && size <= LARGEST_INPUT;
            require(fits, "teacher.input_size", || {
                let below = (size / patch_size * patch_size).max(patch_size);
                format!(
                    "found {size}, expected a multiple of teacher.model's patch size {patch_size}, such as {below} \
                     or {}, of at most {LARGEST_INPUT} pixels",
                    below + patch_size
                )
            })?;
        }
        let range = 2..=MOST_STATISTICS_IMAGES;
        require(range.contains(statistics_images), "teacher.statistics_images", || {
            format!(
                "found {statistics_images}, expected 2 to {MOST_STATISTICS_IMAGES}: without images there is no mean"
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
