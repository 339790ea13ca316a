//! Both files of one run, written together.

use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, Result};
use image::ImageDecoder;
use image::codecs::png::PngDecoder;

use super::jsonl::Lines;
use super::tensorboard::{EventFile, PngImage, unix_seconds};
use crate::artifacts::{EvaluationLine, Measurement, MetricsLine, StepMetrics, paths};

/// The metrics files of one run, open for appending.
#[derive(Debug)]
pub struct MetricsLog {
    lines: Lines,
    events: Option<EventFile>,
}

impl MetricsLog {
    /// Opens `metrics.jsonl` and, if `tensorboard`, a new event file under `tensorboard/`.
    ///
    /// `resume_step` is the step of the checkpoint that training goes on from, 0 for a new run.
    /// What an earlier process wrote about later steps is taken back, so that every step stands
    /// once in both.
    pub fn open(run_dir: &Path, tensorboard: bool, resume_step: u64) -> Result<Self> {
        std::fs::create_dir_all(run_dir)
            .with_context(|| format!("cannot create the run folder {}", run_dir.display()))?;
        let lines = Lines::open(&paths::metrics(run_dir), resume_step)?;
        let events = tensorboard
            .then(|| EventFile::create(&paths::tensorboard(run_dir), resume_step))
            .transpose()?;
        Ok(Self { lines, events })
    }

    /// Appends one record; it is in the files (not only in this process) when this returns.
    ///
    /// # Errors
    /// The files cannot be written, for example because the disk is full.
    pub fn write(&mut self, metrics: &StepMetrics) -> Result<()> {
        let line = MetricsLine { time: unix_seconds(), metrics: metrics.clone() };
        self.lines.append(&line)?;
        match &mut self.events {
            Some(events) => events.append(&line),
            None => Ok(()),
        }
    }

    /// Appends the figures of an evaluation; TensorBoard has each under
    /// `evaluation/NAME/METRIC/ENCODER`.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn evaluation(&mut self, line: &EvaluationLine) -> Result<()> {
        self.lines.append(line)?;
        let scalar = |one: &Measurement| {
            (format!("evaluation/{}/{}/{}", line.evaluation, one.metric, one.encoder), one.value)
        };
        self.scalars(line.step, &line.measurements.iter().map(scalar).collect::<Vec<_>>())
    }

    /// Appends numbers with their tags to the event file alone; does nothing in a log without TensorBoard.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn scalars(&mut self, step: u64, scalars: &[(String, f64)]) -> Result<()> {
        match &mut self.events {
            Some(events) => events.append_scalars(unix_seconds(), step, scalars),
            None => Ok(()),
        }
    }

    /// Appends an image, a whole PNG file, to the event file, where TensorBoard shows it at `step`
    /// under `tag`; does nothing in a log without TensorBoard.
    ///
    /// # Errors
    /// The file cannot be written, or `png` is no PNG.
    pub fn image(&mut self, step: u64, tag: &str, png: &[u8]) -> Result<()> {
        let Some(events) = &mut self.events else { return Ok(()) };
        let decoder = PngDecoder::new(Cursor::new(png))
            .with_context(|| format!("the image `{tag}` of step {step} is no PNG"))?;
        let (width, height) = decoder.dimensions();
        let channels = decoder.color_type().channel_count();
        let image = PngImage { tag, png, width, height, channels };
        events.append_image(unix_seconds(), step, image)
    }
}
