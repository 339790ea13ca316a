//! TensorBoard event files: scalars and images, readable by TensorBoard while training goes on.
//!
//! An event file is a sequence of TFRecords (a length and a payload, each with a masked CRC-32C)
//! that hold `Event` protocol buffers, as TensorFlow's `event.proto`, `summary.proto` and
//! `record_writer.h` define them. Only the fields that these need are declared here.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use prost::Message;

use crate::artifacts::{MetricsLine, StepMetrics};

/// `tensorflow.Event`.
#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "Content", tags = "3, 5, 7")]
    content: Option<Content>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Content {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

/// `tensorflow.Summary`.
#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    values: Vec<Value>,
}

/// `tensorflow.Summary.Value`.
#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(oneof = "Shown", tags = "2, 4")]
    shown: Option<Shown>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Shown {
    #[prost(float, tag = "2")]
    Scalar(f32),
    #[prost(message, tag = "4")]
    Image(Image),
}

/// `tensorflow.Summary.Image`.
#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(int32, tag = "1")]
    height: i32,
    #[prost(int32, tag = "2")]
    width: i32,
    /// Number of channels.
    #[prost(int32, tag = "3")]
    colorspace: i32,
    /// A whole PNG, JPEG or GIF file.
    #[prost(bytes = "vec", tag = "4")]
    encoded_image_string: Vec<u8>,
}

/// `tensorflow.SessionLog`.
#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(enumeration = "SessionStatus", tag = "1")]
    status: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
enum SessionStatus {
    Unspecified = 0,
    Start = 1,
}

/// An image for an event file.
pub(super) struct PngImage<'a> {
    /// Under what it is shown.
    pub tag: &'a str,
    /// A whole PNG file.
    pub png: &'a [u8],
    /// In pixels.
    pub width: u32,
    pub height: u32,
    pub channels: u8,
}

/// One event file, open for appending.
#[derive(Debug)]
pub(super) struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Creates a new event file in `folder` and takes back what earlier files there say about
    /// steps after `resume_step`.
    pub(super) fn create(folder: &Path, resume_step: u64) -> Result<Self> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        take_back(folder, resume_step)?;
        let path = folder.join(file_name());
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        let mut events = Self { path, file };
        let time = unix_seconds();
        events.send(time, 0, Content::FileVersion("brain.Event:2".into()))?;
        // A TensorBoard that runs meanwhile has points in memory that were taken back. It drops
        // those with steps at or after that of a session's start.
        let start = SessionLog { status: SessionStatus::Start.into() };
        events.send(time, resume_step + 1, Content::SessionLog(start))?;
        Ok(events)
    }

    /// Appends all scalars of a step as one event.
    pub(super) fn append(&mut self, line: &MetricsLine) -> Result<()> {
        let values = scalars(&line.metrics)
            .into_iter()
            .map(|(tag, value)| Value { tag, shown: Some(Shown::Scalar(value as f32)) })
            .collect();
        self.send(line.time, line.metrics.step, Content::Summary(Summary { values }))
    }

    /// Appends numbers as one event.
    pub(super) fn append_scalars(
        &mut self,
        time: f64,
        step: u64,
        scalars: &[(String, f64)],
    ) -> Result<()> {
        let value = |(tag, value): &(String, f64)| Value {
            tag: tag.clone(),
            shown: Some(Shown::Scalar(*value as f32)),
        };
        let values = scalars.iter().map(value).collect();
        self.send(time, step, Content::Summary(Summary { values }))
    }

    /// Appends one image as an event.
    pub(super) fn append_image(&mut self, time: f64, step: u64, image: PngImage) -> Result<()> {
        let encoded = Image {
            height: i32::try_from(image.height)?,
            width: i32::try_from(image.width)?,
            colorspace: image.channels.into(),
            encoded_image_string: image.png.to_vec(),
        };
        let value = Value { tag: image.tag.into(), shown: Some(Shown::Image(encoded)) };
        self.send(time, step, Content::Summary(Summary { values: vec![value] }))
    }

    fn send(&mut self, wall_time: f64, step: u64, content: Content) -> Result<()> {
        let event = Event { wall_time, step: i64::try_from(step)?, content: Some(content) };
        self.file
            .write_all(&record(&event.encode_to_vec()))
            .with_context(|| format!("cannot append to {}", self.path.display()))
    }
}

/// Cuts the event files in `folder` before their first summary of a step after `last_step`. A session's
/// start alone is not enough: TensorBoard's default reader drops a point only once a new one of
/// the same tag has its step or an earlier one.
fn take_back(folder: &Path, last_step: u64) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if !path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(PREFIX.as_bytes()))
        {
            continue;
        }
        let cut = || -> Result<()> {
            let bytes = std::fs::read(&path)?;
            let kept = length_up_to(&bytes, last_step);
            if kept < bytes.len() {
                OpenOptions::new().write(true).open(&path)?.set_len(kept as u64)?;
            }
            Ok(())
        };
        cut().with_context(|| format!("cannot bring {} to step {last_step}", path.display()))?;
    }
    Ok(())
}

/// Length of the whole records at the beginning of an event file that hold no scalar and no image
/// after `last_step`.
fn length_up_to(file: &[u8], last_step: u64) -> usize {
    let mut rest = file;
    while let Some((event, after)) = first_event(rest) {
        let is_summary = matches!(event.content, Some(Content::Summary(_)));
        if is_summary && u64::try_from(event.step).is_ok_and(|step| step > last_step) {
            break;
        }
        rest = after;
    }
    file.len() - rest.len()
}

/// The event at the beginning of `file` and what follows it; `None` where a record is torn.
fn first_event(file: &[u8]) -> Option<(Event, &[u8])> {
    let (length, rest) = file.split_first_chunk()?;
    let (_, rest) = rest.split_first_chunk::<4>()?;
    let (payload, rest) = rest.split_at_checked(u64::from_le_bytes(*length).try_into().ok()?)?;
    let (checksum, rest) = rest.split_first_chunk()?;
    let event = (masked_crc(payload) == *checksum).then(|| Event::decode(payload).ok());
    Some((event??, rest))
}

/// How the names of event files begin.
const PREFIX: &str = "events.out.tfevents.";

/// A name that TensorBoard takes for an event file and that sorts by the time of creation, the
/// order in which TensorBoard reads the files of a folder.
fn file_name() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, nanos) = (now.as_secs(), now.subsec_nanos());
    format!("{PREFIX}{seconds:010}.{nanos:09}.{}", std::process::id())
}

/// Tags and values of a step, as TensorBoard groups them.
fn scalars(metrics: &StepMetrics) -> Vec<(String, f64)> {
    let mut scalars = vec![
        ("learning_rate".into(), metrics.learning_rate),
        ("epoch".into(), metrics.epoch),
        ("throughput/images_per_second".into(), metrics.images_per_second),
        ("throughput/data_wait_share".into(), metrics.data_wait_share()),
        ("throughput/step_seconds".into(), metrics.step_seconds),
        ("data/failed_pictures".into(), metrics.failed_images as f64),
    ];
    if let Some(seconds) = metrics.exchange_wait_seconds {
        scalars.push(("throughput/exchange_wait_seconds".into(), seconds));
    }
    if let Some(flops) = metrics.flops_per_second {
        scalars.push(("throughput/tflops".into(), flops / 1e12));
    }
    if let Some(mfu) = metrics.mfu {
        scalars.push(("throughput/mfu".into(), mfu));
    }
    if let Some(slowest) = &metrics.slowest_rank {
        scalars.push(("throughput/slowest_rank".into(), slowest.rank as f64));
        scalars.push(("throughput/slowest_rank_excess".into(), slowest.excess()));
    }
    if let Some(bytes) = metrics.peak_memory_bytes {
        scalars.push(("memory/peak_gib".into(), bytes as f64 / f64::from(1 << 30)));
    }
    for trainee in &metrics.trainees {
        let name = &trainee.name;
        scalars.push((format!("loss/{name}"), trainee.loss));
        let terms = trainee.terms.iter();
        scalars.extend(terms.map(|(term, value)| (format!("loss_{term}/{name}"), *value)));
        scalars.push((format!("grad_norm/{name}"), trainee.grad_norm));
    }
    scalars
}

/// Seconds since 1970 (UTC), as both files have them.
pub fn unix_seconds() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |duration| duration.as_secs_f64())
}

/// A TFRecord: length, its checksum, payload, its checksum; all little-endian.
fn record(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length), payload, &masked_crc(payload)].concat()
}

/// The CRC-32C as TFRecords store it: rotated and offset, so that a checksum over data that hold
/// checksums stays a good one.
fn masked_crc(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}
