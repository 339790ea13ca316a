//! Distillation: students learn to give the tokens of a frozen teacher.

mod config;
mod cost;
mod distillation;
mod fp8_report;
mod losses;
mod matching;
mod measuring;
mod models;
mod statistics;
mod student;
mod task;
mod teacher;
mod terms;

pub use config::{DistillConfig, TargetForm, TeacherConfig};
pub use cost::flops_per_image;
pub use distillation::{Distillation, mean_cosine};
pub use losses::{Distance, Fuse, LossConfig, Relation, TermConfig, TokenPair};
pub use student::Student;
pub use task::TASK;
pub use teacher::{Targets, Teacher};
