//! The distillation task of a run: one teacher, its students.

use anyhow::Result;
use tch::Device;

use super::evaluation::Trained;
use super::fp8_report::Fp8Report;
use super::training::{Start, Training};
use super::{device, models, summary};
use crate::config::ConfigError;
use crate::native::guard;
use crate::tasks::distill::DistillConfig;
use crate::tasks::distill::{Distillation, Student};

/// Distillation.
pub struct Distilling;

impl Training for Distilling {
    type Config = DistillConfig;
    type Objective = Distillation;

    fn require_abilities(config: &DistillConfig, device: Device) -> Result<(), ConfigError> {
        device::require_abilities(config, device)
    }

    fn models(start: &Start<DistillConfig>, starts_anew: bool) -> Result<Distillation> {
        let Start { config, group, device, dataset } = *start;
        let teacher = guard(|| models::load_teacher(config, group, device))?;
        let report = Fp8Report::begin(config, group, dataset, &teacher)?;
        let objective = guard(|| models::students(config, teacher, device, starts_anew))?;
        if let Some(report) = report {
            report.finish(&objective.teacher)?;
        }
        Ok(objective)
    }

    fn trained(models: &Distillation) -> Trained<'_> {
        let encoders = models.students().iter().map(Student::encoder).collect();
        Trained { encoders, teacher: Some(models.teacher.encoder()) }
    }

    fn check_models(config: &DistillConfig) -> Result<()> {
        summary::print_distillation(&Distillation::shapes_only(config), config);
        models::check_weights(config)
    }

    fn print_advice(config: &DistillConfig) {
        println!("  your own images: distill data pack FOLDER --out data/mine, then");
        println!("    --set 'data.shards=[\"data/mine/*.tar\"]' --set run.dir=runs/mine");
        if config.teacher.weights == models::RANDOM {
            println!("  a real teacher: this one had random weights, so the students learned to");
            println!(
                "    imitate it and nothing else; configs/reference.toml shows how to name yours"
            );
        }
    }
}
