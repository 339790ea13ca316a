//! What a run writes down about itself: `metrics.jsonl` and TensorBoard event files.

mod jsonl;
mod tensorboard;

use std::io::Cursor;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result};
use image::ImageDecoder;
use image::codecs::png::PngDecoder;
use serde::Serialize;

/// What is known after an optimizer step.
///
/// In JSON a number that is not finite (NaN, ±infinity) is `null`; a loss that the configuration
/// turns off and a measurement that the device does not offer are left out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepMetrics {
    /// Optimizer steps done since the run began; the first one is 1.
    pub step: u64,
    /// Epochs done, in the schedule's unit.
    pub epoch: f64,
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Pictures trained on since the run began, over all processes.
    pub images_seen: u64,
    /// Pictures a second over all processes, since the previous record.
    pub images_per_second: f64,
    /// Mean part of a step spent waiting for pictures since the previous record, in seconds.
    pub data_wait_seconds: f64,
    /// Mean part of a step that this process waited for gradients after its last backward pass, since
    /// the previous record, in seconds; on a GPU the part that the host waits. Left out where no launcher
    /// started the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exchange_wait_seconds: Option<f64>,
    /// Mean wall time of a step, waiting included, since the previous record, in seconds.
    pub step_seconds: f64,
    /// In the configuration's order.
    pub students: Vec<StudentMetrics>,
    /// Most memory of the training device held so far, in bytes; the process's own on a CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_memory_bytes: Option<u64>,
    /// Pictures that did not decode since the run began.
    pub failed_pictures: u64,
}

impl StepMetrics {
    /// Part of the time that the trainer waited for pictures, in `[0, 1]`.
    pub fn data_wait_share(&self) -> f64 {
        if self.step_seconds > 0.0 { self.data_wait_seconds / self.step_seconds } else { 0.0 }
    }
}

/// One student's part of [`StepMetrics`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StudentMetrics {
    /// The student's name in the configuration.
    pub name: String,
    /// The fused loss, which is trained on.
    pub loss: f64,
    /// Class token loss; `None` where the configuration turns it off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_class: Option<f64>,
    /// Patch token loss; `None` where the configuration turns it off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_patch: Option<f64>,
    /// Norm of the whole gradient before clipping.
    pub grad_norm: f64,
}

/// The metrics files of one run, open for appending.
#[derive(Debug)]
pub struct MetricsLog {
    lines: jsonl::Lines,
    events: Option<tensorboard::EventFile>,
}

impl MetricsLog {
    /// Opens `metrics.jsonl` and, if `tensorboard`, a new event file under `tensorboard/`.
    ///
    /// `resume_step` is the step of the checkpoint that training goes on from, 0 for a new run.
    /// What an earlier process wrote about later steps is taken back, so that every step stands
    /// once in both.
    ///
    /// # Errors
    /// The files or folders cannot be read or written.
    pub fn open(run_dir: &Path, tensorboard: bool, resume_step: u64) -> Result<Self> {
        std::fs::create_dir_all(run_dir)
            .with_context(|| format!("cannot create the run folder {}", run_dir.display()))?;
        let lines = jsonl::Lines::open(&run_dir.join("metrics.jsonl"), resume_step)?;
        let events = tensorboard
            .then(|| tensorboard::EventFile::create(&run_dir.join("tensorboard"), resume_step))
            .transpose()?;
        Ok(Self { lines, events })
    }

    /// Appends one record; it is in the files (not only in this process) when this returns.
    ///
    /// # Errors
    /// The files cannot be written, for example because the disk is full.
    pub fn write(&mut self, metrics: &StepMetrics) -> Result<()> {
        let time = unix_seconds();
        self.lines.append(time, metrics)?;
        match &mut self.events {
            Some(events) => events.append(time, metrics),
            None => Ok(()),
        }
    }

    /// Appends a picture, a whole PNG file, to the event file, where TensorBoard shows it at `step`
    /// under `tag`; does nothing in a log without TensorBoard.
    ///
    /// # Errors
    /// The file cannot be written, or `png` is no PNG.
    pub fn picture(&mut self, step: u64, tag: &str, png: &[u8]) -> Result<()> {
        let Some(events) = &mut self.events else { return Ok(()) };
        let decoder = PngDecoder::new(Cursor::new(png))
            .with_context(|| format!("the picture `{tag}` of step {step} is no PNG"))?;
        let (width, height) = decoder.dimensions();
        let channels = decoder.color_type().channel_count();
        let picture = tensorboard::Picture { tag, png, width, height, channels };
        events.append_picture(unix_seconds(), step, picture)
    }
}

/// Seconds since 1970 (UTC), as both files have them.
fn unix_seconds() -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0.0, |duration| duration.as_secs_f64())
}
