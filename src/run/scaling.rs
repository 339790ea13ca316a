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

impl Gpu {
    /// What one NVIDIA H200 reached over a step of the flagship at batch 64 (docs/PERFORMANCE.md): the recipe's
    /// 293.4 TFLOP in 541.7 ms of passes, AdamW's 56.6 GB in 16.4 ms.
    pub const MEASURED: Self = Self { flops: 541e12, memory: 3.45e12 };
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

impl Cluster {
    /// What is assumed of nodes of 8 H100s with NVLink and eight links of 400 Gb/s.
    pub fn assumed(gpus: usize) -> Self {
        let (gigabytes, microseconds) = match gpus {
            ..=8 => (350.0, 30.0),
            9..=128 => (300.0, 60.0),
            _ => (200.0, 100.0),
        };
        Self { gpus, bandwidth: gigabytes * 1e9, latency: microseconds * 1e-6 }
    }
}

/// A model that is trained.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Trained {
    /// Operations of a forward pass, for each image.
    forward: f64,
    parameters: f64,
    /// Bytes that a forward pass keeps, for each image.
    kept: f64,
}

/// What a step of a run has to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Work {
    /// Operations of frozen passes, for each image; bytes of their models' weights, and of what they leave of
    /// an image.
    frozen: f64,
    frozen_bytes: f64,
    targets: f64,
    /// In the order of their passes.
    trained: Vec<Trained>,
    /// Size of a full bucket of float32 gradients.
    bucket_bytes: f64,
    /// Whether gradients travel in bf16.
    bf16: bool,
    /// Whether each GPU updates its share of the weights.
    sharded: bool,
    /// Whether passes use copies of the weights in bf16.
    has_copies: bool,
}

/// Bytes on a GPU when most are there: at the end of a forward pass, that of the model which keeps most. NCCL's
/// buffers and the CUDA context, 0.5 to 2 GB, are not among them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Memory {
    /// Weights of frozen models.
    pub frozen: f64,
    /// Float32 weights of what is trained.
    pub weights: f64,
    /// Where others are exchanged with, of all that is trained; else of the models before.
    pub gradients: f64,
    /// AdamW's, this GPU's share.
    pub moments: f64,
    /// Of the weights, in bf16.
    pub copies: f64,
    /// What the pass keeps, and the frozen models' tokens.
    pub activations: f64,
}

impl Memory {
    pub fn total(&self) -> f64 {
        let Self { frozen, weights, gradients, moments, copies, activations } = *self;
        frozen + weights + gradients + moments + copies + activations
    }
}

/// A step, in seconds but for the last one.
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
    /// Bytes of gradients and weights that a GPU sends, and as many that it receives.
    pub sent: f64,
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
            frozen_bytes: 0.0,
            targets: 0.0,
            trained: Vec::new(),
            bucket_bytes: config.train().distributed.bucket_megabytes * f64::from(1 << 20),
            bf16: config.train().distributed.gradient_precision == Precision::Bf16,
            sharded: config.train().distributed.shard_optimizer,
            has_copies: config.train().run.precision == Precision::Bf16,
        };
        let mut trainee = None;
        for network in config.networks() {
            let parameters = network.parameters as f64;
            match (network.trainee, work.trained.last_mut()) {
                (None, _) => {
                    work.frozen += network.flops;
                    work.frozen_bytes += network.weight_bytes;
                    work.targets += network.kept_bytes;
                }
                // Another part of what is trained together.
                (Some(number), Some(last)) if trainee == Some(number) => {
                    last.forward += network.flops;
                    last.parameters += parameters;
                    last.kept += network.kept_bytes;
                }
                (Some(number), _) => {
                    trainee = Some(number);
                    let (forward, kept) = (network.flops, network.kept_bytes);
                    work.trained.push(Trained { forward, parameters, kept });
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
        // Half of it as sums, half as what is summed or updated; weights of a sharded update are float32.
        let number = if self.bf16 { 2.0 } else { 4.0 };
        let back = if self.sharded { 4.0 } else { number };
        let sent = others * parameters * (number + back);
        Step { computing: clock, travelling, exposed, update, total, sent }
    }

    /// What is on one of so many `gpus` when most is, with passes of `images`, several of which make a step where
    /// it `accumulates`.
    pub fn memory(&self, gpus: usize, images: f64, accumulates: bool) -> Memory {
        let parameters: f64 = self.trained.iter().map(|one| one.parameters).sum();
        let mut before = 0.0;
        let mut of_pass = (0.0, 0.0, 0.0);
        for one in &self.trained {
            // Gradients of a process that trains alone come with its backward passes.
            let gradients = 4.0 * if gpus > 1 || accumulates { parameters } else { before };
            let copies = if self.has_copies { 2.0 * one.parameters } else { 0.0 };
            let kept = images * one.kept;
            if gradients + copies + kept > of_pass.0 + of_pass.1 + of_pass.2 {
                of_pass = (gradients, copies, kept);
            }
            before += one.parameters;
        }
        let (gradients, copies, kept) = of_pass;
        Memory {
            frozen: self.frozen_bytes,
            weights: 4.0 * parameters,
            gradients,
            moments: 8.0 * parameters / if self.sharded { gpus as f64 } else { 1.0 },
            copies,
            activations: kept + images * self.targets,
        }
    }

    /// Bytes of a checkpoint: float32 weights and both moments.
    pub fn checkpoint_bytes(&self) -> f64 {
        12.0 * self.trained.iter().map(|one| one.parameters).sum::<f64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GPU: Gpu = Gpu { flops: 1e12, memory: 1e12 };

    fn work(sharded: bool, bf16: bool) -> Work {
        let trained = vec![Trained { forward: 1e9, parameters: 1e9, kept: 1e7 }; 2];
        let (bucket_bytes, has_copies) = (4e8, true);
        let (frozen, frozen_bytes, targets) = (4e9, 10e9, 1e6);
        Work { frozen, frozen_bytes, targets, trained, bucket_bytes, bf16, sharded, has_copies }
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
        assert_eq!(step.sent, 0.0);
    }

    /// Alone the second model's pass is the fullest, when the first one's gradients are there; with others all
    /// gradients always are, and a sharded GPU has its part of the moments.
    #[test]
    fn memory_is_that_of_the_fullest_pass() {
        let found = work(false, false).memory(1, 100.0, false);
        let rest = [found.gradients, found.moments, found.copies, found.activations];
        assert_eq!((found.frozen, found.weights), (10e9, 8e9));
        assert_eq!(rest, [4e9, 16e9, 2e9, 1.1e9]);
        near(found.total(), 41.1e9);
        assert_eq!(work(false, false).memory(1, 100.0, true).gradients, 8e9);
        let found = work(true, false).memory(4, 100.0, false);
        assert_eq!((found.gradients, found.moments), (8e9, 4e9));
        near(work(false, false).checkpoint_bytes(), 24e9);
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
        near(step.sent, 0.5 * 16e9);
        near(bf16.sent, 0.5 * 8e9);
        near(sharded.sent, 0.5 * 16e9);
        assert!(sharded.exposed < step.exposed && bf16.exposed < step.exposed);
    }
}
