//! A line of `metrics.jsonl`.

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
    /// Images trained on since the run began, over all processes.
    pub images_seen: u64,
    /// Images a second over all processes, since the previous record.
    pub images_per_second: f64,
    /// Mean part of a step spent waiting for images since the previous record, in seconds.
    pub data_wait_seconds: f64,
    /// Mean part of a step that this process waited for gradients after its last backward pass, since
    /// the previous record, in seconds; on a GPU the part that the host waits. Left out where no launcher
    /// started the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exchange_wait_seconds: Option<f64>,
    /// Mean wall time of a step, waiting included, since the previous record, in seconds.
    pub step_seconds: f64,
    /// In the configuration's order. The key on disk is of the time when only students were trained.
    #[serde(rename = "students")]
    pub trainees: Vec<TraineeMetrics>,
    /// Most memory of the training device held so far, in bytes; the process's own on a CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_memory_bytes: Option<u64>,
    /// Images that did not decode since the run began.
    #[serde(rename = "failed_pictures")]
    pub failed_images: u64,
}

impl StepMetrics {
    /// Part of the time that the trainer waited for images, in `[0, 1]`.
    pub fn data_wait_share(&self) -> f64 {
        if self.step_seconds > 0.0 { self.data_wait_seconds / self.step_seconds } else { 0.0 }
    }
}

/// One trainee's part of [`StepMetrics`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TraineeMetrics {
    /// The trainee's name in the configuration.
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
