//! Where the time of a step goes, as the device sees it.

use anyhow::Result;
use tch::Device;
use tracing::debug_span;
use tracing::span::EnteredSpan;

use crate::native::{DeviceEvent, ProfiledPart};

/// A phase of a step on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It has nothing to do until images are there; then they are normalised.
    Data,
    /// The targets are computed: the teacher's tokens.
    Targets,
    /// The forward pass of the trainee of this index, its loss included.
    Forward(usize),
    /// Its backward pass.
    Backward(usize),
    /// It waits for gradients that are still on their way from other processes.
    Exchange,
    /// Gradient norms, clipping, AdamW.
    Update,
}

/// A phase that the host tells the device of, until this is dropped: what a log at debug level shows of how long
/// that took, and its part of a profile.
pub struct Telling {
    _part: ProfiledPart,
    _span: EnteredSpan,
}

impl Phase {
    /// Begins to tell of it. `name_of` gives a trainee's name.
    pub(super) fn tell<'a>(self, name_of: impl Fn(usize) -> &'a str) -> Telling {
        let (span, name) = match self {
            Self::Data => (debug_span!("data"), "data".into()),
            Self::Targets => (debug_span!("targets"), "targets".into()),
            Self::Forward(trainee) => {
                let trainee = name_of(trainee);
                (debug_span!("forward", trainee), format!("forward {trainee}"))
            }
            Self::Backward(trainee) => {
                let trainee = name_of(trainee);
                (debug_span!("backward", trainee), format!("backward {trainee}"))
            }
            Self::Exchange => (debug_span!("exchange"), "exchange".into()),
            Self::Update => (debug_span!("update"), "update".into()),
        };
        Telling { _part: ProfiledPart::begin(&name), _span: span.entered() }
    }
}

/// Events between the phases of one step.
pub struct StepClock {
    device: Device,
    marks: Vec<(Phase, DeviceEvent)>,
}

impl StepClock {
    pub fn new(device: Device) -> Self {
        Self { device, marks: Vec::new() }
    }

    /// Work that is queued from here on belongs to `phase`.
    pub fn begin(&mut self, phase: Phase) -> Result<()> {
        self.marks.push((phase, DeviceEvent::record(self.device)?));
        Ok(())
    }

    /// When the first phase began.
    pub fn begun(&self) -> Option<&DeviceEvent> {
        self.marks.first().map(|(_, mark)| mark)
    }

    /// Seconds of each phase, in order, until the step's `end`, which the device must have reached. A
    /// phase of every batch is there once for each batch.
    pub fn seconds(&self, end: &DeviceEvent) -> Result<Vec<(Phase, f64)>> {
        let ends = self.marks.iter().skip(1).map(|(_, mark)| mark).chain([end]);
        let spans = self.marks.iter().zip(ends);
        spans.map(|((phase, begin), end)| Ok((*phase, begin.seconds_until(end)?))).collect()
    }
}
