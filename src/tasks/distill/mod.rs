//! Distillation: students learn to give the tokens of a frozen teacher.

mod config;
mod distillation;
mod fp8_report;
mod losses;
mod matching;
mod models;
mod task;

pub use config::{DistillConfig, TeacherConfig};
pub use distillation::{Distillation, Student, Teacher, flops_per_image, mean_cosine};
pub use losses::{Distance, Fuse, LossConfig, Relation, TokenPair};
pub use task::TASK;
