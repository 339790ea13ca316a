//! The description of distillation: one frozen teacher, and the students that learn from it.

use anyhow::Result;
use tch::Device;
use toml::Table;
use tracing::info;

use super::config::{DistillConfig, read};
use super::cost::{
    flops_per_image, student_flops, student_kept_bytes, target_bytes, teacher_flops,
};
use super::distillation::Distillation;
use super::fp8_report::Fp8Report;
use super::matching::{comparisons, describe, is_one_by_one, sight};
use super::measuring::measure_targets;
use super::models::{check_normalisation, load_teacher, students, weights_of};
use super::student::Student;
use super::terms::check_all_terms;
use crate::config::{Check, ConfigError, DataConfig, KeyError, TrainConfig, require};
use crate::encoders::{Encoder, EncoderSpec};
use crate::eval;
use crate::native::guard;
use crate::nn::{ProductPrecision, require_fp8};
use crate::tasks::initial_weights::check;
use crate::tasks::task::{Models, Network, Setting, Task, TaskConfig};
use crate::tasks::trainee::TraineeConfig;
use crate::train::objective::Objective;

/// Distillation.
pub static TASK: Task = Task {
    title: "Distillation",
    keys: &["teacher", "students", "loss"],
    command: "distill --config",
    trainee: "student",
    whole_images: "teacher",
    networks: &[("teacher", "teacher"), ("student", "students")],
    read: |own, train| Ok(Box::new(DistillConfig::from_tables(own, train)?)),
};

impl TaskConfig for DistillConfig {
    fn description() -> &'static Task {
        &TASK
    }

    fn from_tables(own: Table, train: TrainConfig) -> Result<Self, KeyError> {
        read(own, train)
    }

    fn task(&self) -> &'static Task {
        &TASK
    }

    fn boxed(&self) -> Box<dyn TaskConfig> {
        Box::new(self.clone())
    }

    fn to_toml(&self) -> String {
        toml::to_string(self).expect("every config value has a TOML form")
    }

    fn validate(&self) -> Check {
        self.check()?;
        check_all_terms(self)?;
        check_dense(self)
    }

    fn train(&self) -> &TrainConfig {
        &self.train
    }

    fn train_mut(&mut self) -> &mut TrainConfig {
        &mut self.train
    }

    fn encoders(&self) -> &[TraineeConfig] {
        &self.students
    }

    fn teacher(&self) -> Option<(&EncoderSpec, &str)> {
        Some((&self.teacher.model, &self.teacher.weights))
    }

    fn teacher_input_size(&self) -> Option<usize> {
        self.teacher.input_size
    }

    fn draw_weights(&mut self) {
        self.teacher.weights = TraineeConfig::RANDOM.into();
        for student in &mut self.students {
            student.weights = TraineeConfig::RANDOM.into();
        }
    }

    fn flops_per_image(&self) -> f64 {
        flops_per_image(self)
    }

    fn networks(&self) -> Vec<Network> {
        let models = Distillation::shapes_only(self);
        let parameters = models.teacher.parameters.count();
        let of_weight = match self.teacher.precision {
            ProductPrecision::Fp8 => 1,
            ProductPrecision::Same => self.train.run.precision.kind().elt_size_in_bytes(),
        };
        let teacher = Network {
            role: "teacher".into(),
            size: self.teacher.model.to_string(),
            parameters,
            flops: teacher_flops(self),
            weight_bytes: parameters as f64 * of_weight as f64,
            kept_bytes: target_bytes(self),
            trainee: None,
        };
        let students = self.students.iter().zip(models.trainees()).enumerate();
        let students = students.map(|(number, (student, trainee))| Network {
            role: format!("student {}", student.name),
            size: student.model.to_string(),
            parameters: trainee.parameters.count(),
            flops: student_flops(self, student),
            weight_bytes: 4.0 * trainee.parameters.count() as f64,
            kept_bytes: student_kept_bytes(self, student),
            trainee: Some(number),
        });
        std::iter::once(teacher).chain(students).collect()
    }

    fn notes(&self) -> Vec<(String, String)> {
        let notes = self.students.iter().flat_map(|student| {
            let tokens = (format!("tokens of {}", student.name), describe(self, student));
            std::iter::once(tokens).chain(comparisons(self, student))
        });
        notes.chain(sight(self)).collect()
    }

    fn decoded(&self) -> TrainConfig {
        let data = DataConfig { input_size: self.crop_size(), ..self.train.data.clone() };
        TrainConfig { data, ..self.train.clone() }
    }

    fn check_weights(&self) -> Result<()> {
        check_normalisation(self)?;
        weights_of(self).try_for_each(|(key, weights, size)| check(&key, weights, size))
    }

    fn require_abilities(&self, device: Device) -> Result<(), ConfigError> {
        require_abilities(self, device)
    }

    fn models(&self, setting: &Setting, starts_anew: bool) -> Result<Box<dyn Models>> {
        let Setting { group, device, .. } = *setting;
        let others = self.students.iter().filter(|one| !is_one_by_one(self, one));
        for student in others.filter(|_| group.is_first()) {
            info!("student `{}` learns from {}", student.name, describe(self, student));
        }
        if group.is_first() {
            self.students.iter().for_each(TraineeConfig::tell_precision);
        }
        let teacher = guard(|| load_teacher(self, group, device))?;
        let images = setting.images.as_ref();
        let report = images.map(|images| Fp8Report::begin(self, group, images.dataset, &teacher));
        let report = report.transpose()?.flatten();
        let distillation = guard(|| students(self, teacher, device, starts_anew))?;
        if let Some(report) = report {
            report.finish(&distillation.teacher)?;
        }
        if starts_anew {
            measure_targets(self, setting, &distillation)?;
        }
        Ok(Box::new(distillation))
    }

    fn advice(&self) -> String {
        let mut advice = "  your own images: distill data pack FOLDER --out data/mine, then\n    \
             --set 'data.shards=[\"data/mine/*.tar\"]' --set run.dir=runs/mine\n"
            .to_string();
        if self.teacher.weights == TraineeConfig::RANDOM {
            advice += "  a real teacher: this one had random weights, so the students learned to\n    \
                 imitate it and nothing else; configs/reference.toml shows how to name yours\n";
        }
        advice
    }
}

/// That masks of evaluations can be cut into the teacher's patches.
fn check_dense(config: &DistillConfig) -> Check {
    let (size, grid) = (config.train.data.input_size, config.teacher_grid_size());
    let dense = eval::read(&config.train.evaluation)?;
    let dense = dense.iter().find(|one| one.kind == "dense");
    let fits = dense.is_none() || size.is_multiple_of(grid);
    require(fits, "teacher.input_size", || {
        let name = dense.map_or("", |one| &one.name);
        format!(
            "found {}, whose {grid} × {grid} patches do not divide the {size} pixels of data.input_size: expected \
             another size, or no evaluation.{name}, which compares patches with masks",
            config.teacher_sees()
        )
    })
}

fn require_abilities(config: &DistillConfig, device: Device) -> Result<(), ConfigError> {
    let wrong = |key: &str, message: String| {
        Err(ConfigError { file: Default::default(), key: key.into(), message })
    };
    let teacher = &config.teacher;
    if teacher.cuda_graph && device == Device::Cpu {
        return wrong("teacher.cuda_graph", "found true, expected false on a CPU".into());
    }
    if teacher.precision == ProductPrecision::Fp8
        && let Err(error) = require_fp8(device)
    {
        return wrong("teacher.precision", format!("found \"fp8\", but {error:#}"));
    }
    for (number, student) in config.students.iter().enumerate() {
        student.require_abilities(&format!("students.{number}"), device)?;
    }
    Ok(())
}

impl Models for Distillation {
    fn encoders(&self) -> Vec<&dyn Encoder> {
        self.students().iter().map(Student::encoder).collect()
    }

    fn teacher(&self) -> Option<&dyn Encoder> {
        Some(self.teacher.encoder())
    }
}
