//! One run from its configuration to its artefacts: setup, models, training, export, evaluation.
//!
//! A student is trained on two shards of drawn images:
//!
//! ```
//! use distill::config::DeviceChoice;
//! use distill::encoders::EncoderSpec;
//! use distill::run::{self, Options, Outcome};
//! use distill::tasks::TraineeConfig;
//! use distill::tasks::distill::DistillConfig;
//!
//! # fn main() -> anyhow::Result<()> {
//! # let folder = tempfile::tempdir()?;
//! # let (images, shards) = (folder.path().join("images"), folder.path().join("shards"));
//! # std::fs::create_dir(&images)?;
//! # for number in 0..8u8 {
//! #     let draw = |x, y| image::Rgb([number * 30, x as u8 * 5, y as u8 * 5]);
//! #     image::RgbImage::from_fn(48, 48, draw).save(images.join(format!("{number}.png")))?;
//! # }
//! # let encoding = distill::data::pack::Encoding { max_pixels: 1 << 20, ..Default::default() };
//! # distill::data::pack::pack(
//! #     &distill::data::pack::PackOptions {
//! #         source: images,
//! #         out: shards.clone(),
//! #         prefix: None,
//! #         shard_samples: 4,
//! #         classes: None,
//! #         encoding,
//! #     },
//! #     &|_, _| (),
//! # )?;
//! # let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".into());
//! let size = |dim| EncoderSpec { patch_size: 8, ..EncoderSpec::new(dim, 2, 2) };
//! let mut config = DistillConfig::minimal(folder.path().join("run"), size(32));
//! config.students.push(TraineeConfig::minimal("small", size(16)));
//! config.train.run.device = DeviceChoice::Cpu;
//! config.train.data.shards = vec![format!("{}/*.tar", shards.display())];
//! config.train.data.input_size = 32;
//! config.train.data.batch_size = 4;
//! config.train.schedule.epochs = 10.0;
//! let worker_program = Some(format!("{target}/release/distill-worker").into());
//! let outcome = run::train(&config, &Options { worker_program, ..Options::default() })?;
//!
//! let Outcome::Finished(Some(summary)) = outcome else { panic!("{outcome:?}") };
//! let [first, last] = summary.encoders[0].losses.expect("losses are logged");
//! assert!(summary.steps == 20 && last < first);
//! assert!(folder.path().join("run/exports/small/model.safetensors").is_file());
//! # Ok(())
//! # }
//! ```

pub mod benchmark;
pub mod comparison;
pub mod device;
pub mod evaluation;
pub mod exploration;
mod export;
pub mod features;
pub mod frozen_encoder;
pub mod heads;
mod identity;
mod measuring;
mod opening;
mod options;
mod outcome;
mod plan;
pub mod recipe;
pub mod scaling;
pub mod score;
pub mod setup;
mod training;
pub mod viewing;
pub mod visualize;
mod while_training;
mod worker_program;

pub use export::{Source, encoder_at, encoder_of_run};
pub use measuring::{Found, Measuring};
pub use options::Options;
pub use outcome::{Finished, Outcome, Stop, Summary};
pub use plan::{Cost, Length, Planned, plan};
pub use training::train;
pub use worker_program::worker_program;
