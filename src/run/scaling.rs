//! What a step costs on many GPUs, on paper. docs/SCALING.md has the assumptions and their reasons.

use crate::config::Precision;
use crate::tasks::TaskConfig;

/// What is assumed of a GPU.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gpu {
    /// Operations a second that training reaches.
    pub flops: f64,
    /// Bytes of memory a second.
    pub memory: f64,
}

/// What is assumed of a cluster, in NCCL's terms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cluster {
    pub gpus: usize,
    /// Bus bandwidth of a collective, in bytes a second.
    pub bandwidth: f64,
    /// Of one collective, in seconds.
    pub latency: f64,
}

/// A model that is trained.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Trained {
    /// Operations of a forward pass, for each image.
    forward: f64,
    parameters: f64,
}

/// What a step of a run has to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Work {
    /// Operations of frozen passes, for each image, and the parameters of their models.
    frozen: f64,
    frozen_parameters: f64,
    /// In the order of their passes.
    trained: Vec<Trained>,
    /// Size of a full bucket of float32 gradients.
    bucket_bytes: f64,
    /// Whether gradients travel in bf16.
    bf16: bool,
    /// Whether each GPU updates its share of the weights.
    sharded: bool,
}

/// A step, in seconds but for the last two.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// All passes.
    pub computing: f64,
    /// All collectives, most of them beside the passes.
    pub travelling: f64,
    /// What is waited for of these.
    pub exposed: f64,
    /// AdamW.
    pub update: f64,
    pub total: f64,
    /// Bytes of weights, gradients and moments of a GPU.
    pub memory: f64,
}

/// Part of the travelling time by which NCCL's kernels hold up the passes beside them.
const HELD_UP: f64 = 0.05;
/// Part of a step by which the slowest GPU is later with each doubling of their number.
const SLOWEST_OF_TWICE_AS_MANY: f64 = 0.002;
/// Bytes that AdamW reads and writes for each parameter.
const UPDATE_BYTES: f64 = 28.0;
/// Bytes that are read and written to round a float32 gradient to bf16, or to bring it back.
const ROUNDING_BYTES: f64 = 6.0;

impl Work {
    /// What a step of this run has to do.
    pub fn of(config: &dyn TaskConfig) -> Self {
        let mut work = Self {
            frozen: 0.0,
            frozen_parameters: 0.0,
            trained: Vec::new(),
            bucket_bytes: config.train().distributed.bucket_megabytes * f64::from(1 << 20),
            bf16: config.train().distributed.gradient_precision == Precision::Bf16,
            sharded: config.train().distributed.shard_optimizer,
        };
        let mut trainee = None;
        for network in config.networks() {
            let parameters = network.parameters as f64;
            match (network.trainee, work.trained.last_mut()) {
                (None, _) => {
                    work.frozen += network.flops;
                    work.frozen_parameters += parameters;
                }
                // Another part of what is trained together.
                (Some(number), Some(last)) if trainee == Some(number) => {
                    last.forward += network.flops;
                    last.parameters += parameters;
                }
                (Some(number), _) => {
                    trainee = Some(number);
                    work.trained.push(Trained { forward: network.flops, parameters });
                }
            }
        }
        work
    }

    /// A step of `images` on each GPU of `cluster`.
    pub fn step(&self, gpu: Gpu, cluster: Cluster, images: f64) -> Step {
        let Cluster { gpus, bandwidth, latency } = cluster;
        let others = (gpus - 1) as f64 / gpus as f64;
        let seconds = |flops: f64| images * flops / gpu.flops;
        let parameters: f64 = self.trained.iter().map(|one| one.parameters).sum();
        let mut clock = seconds(self.frozen);
        let (mut free, mut travelling, mut buckets) = (0.0_f64, 0.0, 0.0);
        for one in &self.trained {
            clock += seconds(one.forward);
            let backward = 2.0 * seconds(one.forward);
            let count = (one.parameters * 4.0 / self.bucket_bytes).ceil().max(1.0);
            let bytes = one.parameters * if self.bf16 { 2.0 } else { 4.0 } / count;
            // Sharded, a GPU gets the sums of its share alone.
            let ways = if self.sharded { 1.0 } else { 2.0 };
            let each = if gpus > 1 { latency + ways * others * bytes / bandwidth } else { 0.0 };
            for bucket in 1..=count as u64 {
                let ready = clock + backward * bucket as f64 / count;
                free = free.max(ready) + each;
            }
            clock += backward;
            travelling += count * each;
            buckets += count;
        }
        let mut exposed = (free - clock).max(0.0);
        let mut update = UPDATE_BYTES * parameters / gpu.memory;
        if self.sharded && gpus > 1 {
            update /= gpus as f64;
            let gathering = buckets * latency + others * 4.0 * parameters / bandwidth;
            travelling += gathering;
            // Under the frozen passes of the next step.
            exposed += (gathering - seconds(self.frozen)).max(0.0);
        }
        if self.bf16 && gpus > 1 {
            let rounding = ROUNDING_BYTES * parameters / gpu.memory;
            clock += rounding;
            exposed += rounding;
        }
        let waiting = 1.0 + SLOWEST_OF_TWICE_AS_MANY * (gpus as f64).log2();
        let total = (clock + HELD_UP * travelling + exposed + update) * waiting;
        let moments = 8.0 / if self.sharded { gpus as f64 } else { 1.0 };
        let memory = 2.0 * self.frozen_parameters + parameters * (4.0 + 4.0 + moments);
        Step { computing: clock, travelling, exposed, update, total, memory }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GPU: Gpu = Gpu { flops: 1e12, memory: 1e12 };

    fn work(sharded: bool, bf16: bool) -> Work {
        let trained = vec![Trained { forward: 1e9, parameters: 1e9 }; 2];
        let bucket_bytes = 4e8;
        Work { frozen: 4e9, frozen_parameters: 5e9, trained, bucket_bytes, bf16, sharded }
    }

    fn near(found: f64, expected: f64) {
        assert!((found / expected - 1.0).abs() < 1e-9, "{found} is not {expected}");
    }

    /// Alone nothing travels: 4 + 2 · 3 operations an image, and AdamW.
    #[test]
    fn one_gpu_computes_and_updates() {
        let alone = Cluster { gpus: 1, bandwidth: 1e9, latency: 1.0 };
        let step = work(false, false).step(GPU, alone, 100.0);
        near(step.computing, 1.0);
        assert_eq!((step.travelling, step.exposed), (0.0, 0.0));
        near(step.update, 0.056);
        near(step.total, 1.056);
        near(step.memory, 10e9 + 2e9 * 16.0);
    }

    /// Buckets travel one after the other from when they are full. The first model's ten fill in 0.2 s and
    /// take 0.4; the second's come behind them, from 0.7 s on: what is left at 1 s is exposed.
    #[test]
    fn what_does_not_fit_beside_the_passes_is_exposed() {
        let two = Cluster { gpus: 2, bandwidth: 10e9, latency: 0.0 };
        let step = work(false, false).step(GPU, two, 100.0);
        // 1e9 parameters are 4 GB, all-reduced by two GPUs at 10 GB/s: 0.4 s a model.
        near(step.travelling, 0.8);
        // The first bucket is full at 0.52 s; from then on something always travels.
        near(step.exposed, 0.52 + 0.8 - 1.0);
        near(step.total, (1.0 + 0.04 + 0.32 + 0.056) * 1.002);
        let bf16 = work(false, true).step(GPU, two, 100.0);
        near(bf16.travelling, 0.4);
        let sharded = work(true, false).step(GPU, two, 100.0);
        // Half as a reduce-scatter, half as an all-gather under the 0.4 s of the teacher.
        near(sharded.travelling, 0.8);
        near(sharded.update, 0.028);
        near(sharded.memory, 10e9 + 2e9 * 12.0);
        assert!(sharded.exposed < step.exposed && bf16.exposed < step.exposed);
    }
}
