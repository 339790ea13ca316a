//! What one sees of a run: its metrics files, its log lines, its display, its answer to signals.

mod child;
mod display;
mod metrics;
mod signals;

use distill::artifacts::{StepMetrics, TraineeMetrics};

/// Metrics of a made-up run, a function of the step alone.
fn metrics_of(step: u64) -> StepMetrics {
    let student = |name: &str, offset: f64| TraineeMetrics {
        name: name.into(),
        loss: offset + 1.0 / step as f64,
        terms: vec![("class".into(), offset + 0.5 / step as f64)],
        grad_norm: 0.25 * step as f64,
    };
    StepMetrics {
        step,
        epoch: step as f64 / 10.0,
        learning_rate: 1e-3 / step as f64,
        images_seen: 64 * step,
        images_per_second: 800.0,
        data_wait_seconds: 0.002,
        exchange_wait_seconds: Some(0.001),
        step_seconds: 0.08,
        trainees: vec![student("vith16", 0.25), student("vit1b16", 0.125)],
        flops_per_second: Some(4e14),
        mfu: Some(0.404),
        peak_memory_bytes: None,
        failed_images: 0,
        device: None,
        slowest_rank: None,
    }
}
