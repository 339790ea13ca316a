//! Where the time of a step goes, as the device sees it.

use anyhow::Result;
use tch::Device;
use tracing::{Span, debug_span};

use crate::native::DeviceEvent;

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

impl Phase {
    /// What a log at debug level shows of it: how long the host took. `name_of` gives a trainee's name.
    pub(super) fn span<'a>(self, name_of: impl Fn(usize) -> &'a str) -> Span {
        match self {
            Self::Data => debug_span!("data"),
            Self::Targets => debug_span!("targets"),
            Self::Forward(trainee) => debug_span!("forward", trainee = name_of(trainee)),
            Self::Backward(trainee) => debug_span!("backward", trainee = name_of(trainee)),
            Self::Exchange => debug_span!("exchange"),
            Self::Update => debug_span!("update"),
        }
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
