//! Kernels of the frozen teacher and of blocks that are trained, and the teacher's recorded pass. With DISTILL_TEST_DEVICE=cuda on the first GPU;
//! else the same source runs on the CPU, compiled by a host's compiler, and what needs a GPU says
//! that it is skipped.

mod blocks;
mod emulation;
mod training;

use distill::encoders::{Encoder, EncoderSpec, FrozenPass, Input};
use distill::native::{
    BeforeRounding, CudaGraph, KernelSource, RoundedRows, RowNorm, TeacherKernels, compile_kernels,
};
use distill::nn::{FrozenFormat, Init, Parameters, Storage, rounded_rows};
use distill::tasks::distill::Teacher;
use tch::{Device, Kind, Tensor};

use crate::support::workshop::Workshop;

/// The device that tests are to use.
fn device() -> Device {
    match std::env::var("DISTILL_TEST_DEVICE").as_deref() {
        Ok("cuda") => Device::Cuda(0),
        _ => Device::Cpu,
    }
}

/// What the kernel is given, on the CPU.
struct Rows {
    /// `[rows, D]`, float32 or bf16.
    residual: Tensor,
    /// `[rows, D]` bf16.
    branch: Option<Tensor>,
    /// `[D]`, as the residual.
    weight: Tensor,
    bias: Tensor,
}

const EPS: f64 = 1e-6;

/// Normal numbers drawn one tensor after another. libtorch's own generator belongs to all tests of
/// this process: who draws from it changes what others draw.
struct Numbers(Parameters);

impl Numbers {
    fn new(seed: u64) -> Self {
        let (device, matrices) = (Device::Cpu, Kind::Float);
        Self(Parameters::new(Storage::Drawn { device, matrices, seed, rng_stream: 0 }))
    }

    fn draw(&mut self, shape: &[i64]) -> Tensor {
        self.0.tensor("drawn", shape, Init::Normal(1.0))
    }
}

impl Rows {
    fn drawn(
        numbers: &mut Numbers,
        (rows, dim): (i64, i64),
        kind: Kind,
        with_branch: bool,
    ) -> Self {
        let mut drawn = |shape: &[i64]| numbers.draw(shape);
        // Deviations and means of all sizes, a mean far larger than its deviation among them.
        let spread = Tensor::logspace(-2.0, 2.0, rows, 10.0, (Kind::Float, Device::Cpu));
        let offset = Tensor::from_slice(&[0f32, 1000.0, -3.0]).repeat([rows]).narrow(0, 0, rows);
        let residual = drawn(&[rows, dim]) * spread.unsqueeze(1) + offset.unsqueeze(1);
        Self {
            residual: residual.to_kind(kind),
            branch: with_branch.then(|| (drawn(&[rows, dim]) * 3.0).to_kind(Kind::BFloat16)),
            weight: (drawn(&[dim]) + 1.0).to_kind(kind),
            bias: drawn(&[dim]).to_kind(kind),
        }
    }

    /// The residual and the output of the kernel.
    fn by_kernel(&self) -> (Tensor, Tensor) {
        if device() == Device::Cpu {
            return emulation::run(self);
        }
        let (residual, output) = self.on_gpu(|kernels, residual, branch, norm| {
            kernels.add_layer_norm(residual, branch, norm).unwrap()
        });
        (residual, output.to_device(Device::Cpu))
    }

    /// The same of the kernel that rounds its output.
    fn by_rounding_kernel(&self) -> (Tensor, RoundedRows) {
        if device() == Device::Cpu {
            return emulation::run_rounding(self);
        }
        let (residual, rows) = self.on_gpu(|kernels, residual, branch, norm| {
            kernels.add_layer_norm_rounded(residual, branch, norm).unwrap()
        });
        (residual, on_cpu(&rows))
    }

    /// The residual, on the CPU, and what a kernel gives.
    fn on_gpu<T>(
        &self,
        kernel: impl Fn(&TeacherKernels, &mut Tensor, Option<&Tensor>, &RowNorm) -> T,
    ) -> (Tensor, T) {
        let device = device();
        let kernels = TeacherKernels::load(device).unwrap();
        let on_gpu = |tensor: &Tensor| tensor.to_device(device);
        let mut residual = on_gpu(&self.residual);
        let (weight, bias) = (on_gpu(&self.weight), on_gpu(&self.bias));
        let norm = RowNorm { weight: &weight, bias: &bias, eps: EPS };
        let branch = self.branch.as_ref().map(on_gpu);
        let output = kernel(&kernels, &mut residual, branch.as_ref(), &norm);
        (residual.to_device(Device::Cpu), output)
    }

    /// The same by libtorch: the sum as the composed path has it, the LayerNorm in float64.
    fn by_libtorch(&self) -> (Tensor, Tensor) {
        let mut sum = self.residual.copy();
        if let Some(branch) = &self.branch {
            let _ = sum.g_add_(branch);
        }
        let [wide, weight, bias] =
            [&sum, &self.weight, &self.bias].map(|tensor| tensor.to_kind(Kind::Double));
        let output = wide.layer_norm(weight.size(), Some(&weight), Some(&bias), EPS, false);
        (sum, output)
    }
}

/// Rows of every width, from the smallest to the largest, with whole warps and without.
#[test]
fn the_kernel_adds_and_normalises_rows() {
    let mut numbers = Numbers::new(7);
    for (rows, dim) in [(1, 8), (9, 40), (6, 264), (6, 768), (4, 3072), (2, 8192)] {
        for kind in [Kind::Float, Kind::BFloat16] {
            for with_branch in [true, false] {
                let case = Rows::drawn(&mut numbers, (rows, dim), kind, with_branch);
                let (residual, output) = case.by_kernel();
                let (sum, expected) = case.by_libtorch();
                let what = format!("[{rows}, {dim}] {kind:?}, branch {with_branch}");
                assert_eq!((residual.kind(), output.kind()), (kind, Kind::BFloat16));
                assert_eq!(residual, sum, "{what}: the residual");
                // bf16 rounds by at most 2⁻⁸ of the number. A mean of many numbers is good to some
                // 2⁻²¹ of itself in float32, and the output is in deviations.
                let wide = sum.to_kind(Kind::Double);
                let mean = wide.mean_dim(-1, true, Kind::Double).abs();
                let deviation = wide.std_dim(-1, false, true);
                let weight = case.weight.to_kind(Kind::Double).abs();
                let error = (output.to_kind(Kind::Double) - &expected).abs();
                let allowed = expected.abs() * 2f64.powi(-8)
                    + mean / deviation * weight * 2f64.powi(-21)
                    + 1e-5;
                let worst = (error / allowed).max().double_value(&[]);
                assert!(worst <= 1.05, "{what}: {worst} of what rounding explains");
            }
        }
    }
}

fn on_cpu(rows: &RoundedRows) -> RoundedRows {
    let [values, scales] = [&rows.values, &rows.scales].map(|one| one.to_device(Device::Cpu));
    RoundedRows { values, scales }
}

/// What the kernel that rounds `numbers` `[rows, D]` bf16 gives.
fn rounded_by_kernel(numbers: &Tensor, before: BeforeRounding) -> RoundedRows {
    if device() == Device::Cpu {
        return emulation::round(numbers, before);
    }
    let kernels = TeacherKernels::load(device()).unwrap();
    on_cpu(&kernels.rounded(&numbers.to_device(device()), before).unwrap())
}

/// That these are the rows that libtorch's operators make of the same numbers, bit for bit.
#[track_caller]
fn assert_rounded(found: &RoundedRows, numbers: &Tensor, what: &str) {
    let expected = rounded_rows(numbers);
    assert_eq!(found.scales, expected.scales, "{what}: scales");
    // NaN is not itself.
    let [found, expected] =
        [&found.values, &expected.values].map(|values| values.view_dtype(Kind::Uint8));
    let others = found.ne_tensor(&expected).sum(Kind::Int64).int64_value(&[]);
    assert_eq!(others, 0, "{what}: {others} of {} values", found.numel());
}

/// What is normalised and rounded in one kernel is what the kernel that only normalises gives, rounded by
/// libtorch.
#[test]
fn the_kernel_rounds_what_it_has_normalised() {
    let mut numbers = Numbers::new(12);
    for (rows, dim) in [(1, 8), (9, 40), (6, 264), (4, 3072), (2, 8192)] {
        for kind in [Kind::Float, Kind::BFloat16] {
            let case = Rows::drawn(&mut numbers, (rows, dim), kind, dim != 40);
            let (residual, normalised) = case.by_kernel();
            let (same, found) = case.by_rounding_kernel();
            let what = format!("[{rows}, {dim}] {kind:?}");
            assert_eq!(residual, same, "{what}: the residual");
            assert_rounded(&found, &normalised, &what);
        }
    }
}

/// Every bf16 number of one sign and of the other is rounded as libtorch does it, in rows of every width; GELU
/// before it is that of float64, to bf16.
#[test]
fn the_kernels_round_rows() {
    let mut numbers = Numbers::new(13);
    for (rows, dim) in [(3, 8), (5, 40), (4, 520), (3, 3072), (2, 12_288), (1, 16_384)] {
        let drawn = numbers.draw(&[rows, dim])
            * Tensor::logspace(-3.0, 2.0, rows, 10.0, (Kind::Float, Device::Cpu)).unsqueeze(1);
        let drawn = drawn.to_kind(Kind::BFloat16);
        assert_rounded(
            &rounded_by_kernel(&drawn, BeforeRounding::Nothing),
            &drawn,
            &format!("[{rows}, {dim}]"),
        );
        let found = rounded_by_kernel(&drawn, BeforeRounding::Gelu);
        let exact = drawn.to_kind(Kind::Double).gelu("none");
        let found = found.values.to_kind(Kind::Double) * &found.scales;
        // Three bits of mantissa, or the smallest distance; and bf16 before.
        let largest = exact.abs().amax([1i64].as_slice(), true);
        let allowed =
            exact.abs() * (0.5 / 8.0 + 2f64.powi(-8)) + largest * (2f64.powi(-10) / 448.0 + 1e-6);
        let worst = ((found - &exact).abs() / allowed).max().double_value(&[]);
        assert!(worst <= 1.05, "[{rows}, {dim}]: {worst} of what rounding explains");
    }
    // All finite numbers of bf16 up to the largest of e4m3, so that the scale is 1.
    let bits: Vec<i16> = (0..=0x43e0).collect();
    let positive = Tensor::from_slice(&bits).view_dtype(Kind::BFloat16);
    let all = Tensor::cat(&[&positive, &(-&positive)], 0);
    let count = all.numel() as i64;
    for start in (0..count).step_by(8192) {
        let part = all.narrow(0, start, (count - start).min(8192));
        let row = Tensor::zeros([1, 8200], (Kind::BFloat16, Device::Cpu));
        row.narrow(1, 0, part.numel() as i64).copy_(&part.unsqueeze(0));
        let _ = row.narrow(1, 8199, 1).fill_(448.0);
        assert_rounded(&rounded_by_kernel(&row, BeforeRounding::Nothing), &row, "all numbers");
    }
}

/// Rows of zeros stay rows of zeros, and a number that is none is one in its row alone.
#[test]
fn the_kernels_round_odd_rows() {
    let rows = Tensor::ones([3, 264], (Kind::BFloat16, Device::Cpu));
    let _ = (rows.get(0).fill_(0.0), rows.get(1).get(77).fill_(f64::NAN));
    let found = rounded_by_kernel(&rows, BeforeRounding::Nothing);
    let values = found.values.to_kind(Kind::Float) * &found.scales;
    assert_eq!(values.get(0), Tensor::zeros([264], (Kind::Float, Device::Cpu)));
    assert_eq!(values.get(2), Tensor::ones([264], (Kind::Float, Device::Cpu)));
    assert_eq!(values.get(1).isnan().sum(Kind::Int64).int64_value(&[]), 1);
}

/// Rows without deviation give the bias; a NaN stays in its row.
#[test]
fn the_kernel_takes_constant_rows_and_passes_nan_on() {
    for kind in [Kind::Float, Kind::BFloat16] {
        let mut case = Rows::drawn(&mut Numbers::new(6), (3, 264), kind, true);
        let (constant, nan) = (case.residual.get(0), case.residual.get(1));
        let _ = case.branch.as_mut().unwrap().get(0).fill_(0.0);
        let _ = (constant.shallow_clone().fill_(2.0), nan.get(77).fill_(f64::NAN));
        let (residual, output) = case.by_kernel();
        assert_eq!(residual.get(0), constant);
        assert_eq!(output.get(0), case.bias.to_kind(Kind::BFloat16));
        assert_eq!(
            output.isnan().sum_dim_intlist(1, false, Kind::Int64),
            Tensor::from_slice(&[0i64, 264, 0])
        );
    }
}

/// Generations of GPUs that kernels are for.
const TARGETS: [((i32, i32), &str); 3] =
    [((8, 0), "sm_80"), ((9, 0), "sm_90"), ((10, 0), "sm_100")];

/// The PTX of a file of kernels; none, and a word about it, where NVRTC is missing and no GPU is there that needs it.
fn compiled(source: KernelSource, capability: (i32, i32)) -> Option<String> {
    match compile_kernels(source, capability) {
        Ok(ptx) => Some(ptx.to_src()),
        Err(why) if device() == Device::Cpu && why.to_string().ends_with("is missing") => {
            println!("skipped: {why}");
            None
        }
        Err(why) => panic!("{source:?} for {capability:?}: {why}"),
    }
}

/// What a kernel does in PTX.
fn body_of<'a>(ptx: &'a str, kernel: &str) -> &'a str {
    let begin = ptx.find(&format!(".entry {kernel}(")).expect(kernel);
    ptx[begin..].split(".entry").nth(1).unwrap()
}

/// NVRTC takes the source for every GPU that it is meant for; a row is read 16 bytes at a time and
/// stays in registers.
#[test]
fn nvrtc_compiles_the_kernels() {
    for (capability, target) in TARGETS {
        let Some(ptx) = compiled(KernelSource::Frozen, capability) else { return };
        assert!(ptx.contains(&format!(".target {target}")), "{ptx}");
        // Float32: two of the residual, one of the branch, two each of weight and bias; bf16: four. Rows in e4m3
        // are written eight bytes at a time.
        for (kernel, loads, stores, pairs) in [
            ("add_layer_norm_float32", 7, 3, 0),
            ("add_layer_norm_bf16", 4, 2, 0),
            ("add_layer_norm_float32_e4m3", 7, 2, 1),
            ("add_layer_norm_bf16_e4m3", 4, 1, 1),
            ("round_e4m3", 2, 0, 2),
            ("gelu_e4m3", 2, 0, 2),
            ("gelu", 1, 1, 0),
        ] {
            let body = body_of(&ptx, kernel);
            let count = |operation: &str, width: &str| {
                body.lines().filter(|line| line.contains(operation) && line.contains(width)).count()
            };
            let found = (count("ld.", ".v4."), count("st.", ".v4."), count("st.", ".v2."));
            assert_eq!(found, (loads, stores, pairs), "{kernel}, {target}: {body}");
            let converts = count("cvt", "e4m3x2") > 0;
            assert_eq!(
                converts,
                kernel.ends_with("e4m3") && target != "sm_80",
                "{kernel}, {target}"
            );
        }
        assert!(!ptx.contains(".local"), "{target}: registers do not suffice\n{ptx}");
    }
}

/// The same of the kernels of blocks that are trained: what they read and write is what docs/PERFORMANCE.md counts.
#[test]
fn nvrtc_compiles_the_training_kernels() {
    for (capability, target) in TARGETS {
        let Some(ptx) = compiled(KernelSource::Training, capability) else { return };
        // Of float32 two, of bf16 one.
        for (kernel, loads, stores) in [
            ("join_and_normalise", 2 + 1 + 2 + 2, 2 + 1),
            ("join_and_normalise_backward", 2 + 2 + 1 + 2, 2 + 1 + 6),
            ("gelu", 1, 1),
            ("gelu_backward", 2, 1 + 2),
            ("column_sums", 1, 2),
        ] {
            let body = body_of(&ptx, kernel);
            let count = |operation: &str| {
                let wide = |line: &&str| line.contains(operation) && line.contains(".v4.");
                body.lines().filter(wide).count()
            };
            let found = (count("ld."), count("st."));
            // Loops may be unrolled.
            assert!(
                found.0 % loads == 0 && found.0 > 0 && found.1 >= stores,
                "{kernel}, {target}: {found:?}"
            );
            let rounds = body.contains("cvt.rn.bf16x2.f32");
            assert_eq!(rounds, kernel != "column_sums", "{kernel}, {target}");
        }
        assert!(!ptx.contains(".local"), "{target}: registers do not suffice\n{ptx}");
    }
}

/// Small teachers: Pixio's, and DINOv3's with rotary positions and gated MLPs.
fn sizes() -> [EncoderSpec; 2] {
    ["pixio_vitb16", "dinov3_vits16plus"].map(|name| {
        let published = EncoderSpec::named(name).unwrap();
        EncoderSpec { dim: 128, depth: 5, heads: 4, patch_size: 8, ..published }
    })
}

/// Each of [`FORMATS`] with each of [`sizes`].
fn teachers() -> impl Iterator<Item = (EncoderSpec, Kind, Kind)> {
    FORMATS
        .into_iter()
        .flat_map(|(compute, residual)| sizes().map(|size| (size, compute, residual)))
}

/// A teacher of drawn weights for 4 × 4 patches of 8 pixels, frozen.
fn teacher(size: EncoderSpec, compute: Kind, residual: Kind) -> Teacher {
    let mut teacher = Teacher::new(Teacher::drawn(device(), compute, 3), size, 4);
    teacher.freeze(FrozenFormat { compute, residual, fp8: false }, 4);
    teacher
}

/// So many drawn images.
fn images(numbers: &mut Numbers, count: i64, compute: Kind) -> Input {
    Input::whole(numbers.draw(&[count, 3, 32, 32]).to_device(device()).to_kind(compute))
}

const FORMATS: [(Kind, Kind); 3] =
    [(Kind::Float, Kind::Float), (Kind::BFloat16, Kind::Float), (Kind::BFloat16, Kind::BFloat16)];

fn plain(encoder: &dyn Encoder, input: &Input, compute: Kind) -> Tensor {
    tch::no_grad(|| encoder.forward(input, compute).all)
}

/// The frozen pass without kernels is the plain forward pass, bit for bit; asking for kernels where
/// there are none changes nothing.
#[test]
fn the_frozen_pass_is_the_forward_pass() {
    let mut numbers = Numbers::new(8);
    for (size, compute, residual) in teachers() {
        let input = images(&mut numbers, 3, compute);
        let mut teacher = teacher(size, compute, residual);
        let expected = plain(teacher.encoder(), &input, compute);
        assert_eq!(teacher.tokens(&input, compute).all, expected);
        assert_eq!(expected.kind(), residual);
        if device() == Device::Cpu || compute == Kind::Float {
            teacher.run_as(FrozenPass::default().with_kernels(128, device(), compute));
            assert_eq!(teacher.tokens(&input, compute).all, expected);
        }
    }
}

/// On a GPU the kernels give the composed path's tokens, up to what rounding in bf16 explains.
#[test]
fn a_teacher_with_kernels_gives_the_same_tokens() {
    if device() == Device::Cpu {
        println!("skipped: needs a GPU, DISTILL_TEST_DEVICE=cuda");
        return;
    }
    let mut numbers = Numbers::new(9);
    for (size, compute, residual) in teachers().filter(|(_, compute, _)| *compute != Kind::Float) {
        let input = images(&mut numbers, 64, compute);
        let mut teacher = teacher(size, compute, residual);
        let expected = teacher.tokens(&input, compute).all.to_kind(Kind::Float);
        // A warning alone would let the composed path be compared with itself.
        TeacherKernels::load(device()).unwrap();
        teacher.run_as(FrozenPass::default().with_kernels(128, device(), compute));
        let fused = teacher.tokens(&input, compute).all.to_kind(Kind::Float);
        let cosine = Tensor::cosine_similarity(&fused, &expected, -1, 1e-8);
        let worst = cosine.min().double_value(&[]);
        println!("{size}, residual {residual:?}: worst cosine {worst:.6}");
        assert!(worst >= 0.999, "{size}, residual {residual:?}: worst cosine {worst}");
    }
}

/// On a GPU a recorded pass gives what the pass itself gives, for inputs that change and shapes that
/// take turns, with kernels and without.
#[test]
fn a_recorded_pass_gives_the_same_tokens() {
    let mut numbers = Numbers::new(10);
    let furthest = |one: &Tensor, other: &Tensor| (one - other).abs().max().double_value(&[]);
    for (size, compute, residual) in teachers() {
        // Products may be summed in another order.
        let allowed = if compute == Kind::Float { 1e-4 } else { 0.05 };
        let inputs = [8, 3, 8, 8, 3].map(|count| images(&mut numbers, count, compute));
        for with_kernels in [false, compute == Kind::BFloat16 && device().is_cuda()] {
            let pass = || match with_kernels {
                true => FrozenPass::default().with_kernels(128, device(), compute),
                false => FrozenPass::default(),
            };
            let mut teacher = teacher(size, compute, residual);
            teacher.run_as(pass());
            let expected = inputs.each_ref().map(|input| teacher.tokens(input, compute).all);
            // Tokens of other images would be found out.
            let other = furthest(&expected[0], &expected[2]);
            assert!(other > 10.0 * allowed, "images differ by {other}");
            if device() == Device::Cpu {
                println!("skipped: recording needs a GPU, DISTILL_TEST_DEVICE=cuda");
                continue;
            }
            teacher.run_as(pass().with_graph());
            for (input, expected) in inputs.iter().zip(&expected) {
                let off = furthest(&teacher.tokens(input, compute).all, expected);
                assert!(off <= allowed, "{size}, {compute:?}, {residual:?}: off by {off}");
            }
        }
    }
}

/// A pass cannot be recorded on a CPU, which is said in one line.
#[test]
fn nothing_is_recorded_on_a_cpu() {
    let input = images(&mut Numbers::new(11), 1, Kind::Float).images.to_device(Device::Cpu);
    let recorded = CudaGraph::record(Device::Cpu, None, || Ok(input.shallow_clone()));
    assert_eq!(recorded.err().unwrap().to_string(), "a CUDA graph needs a GPU");
}

/// On a CPU the kernels' switch changes nothing, and that of the graph is refused.
#[test]
fn switches_for_gpus_on_a_cpu() {
    let workshop = Workshop::new();
    let cpu = "run.device=cpu";
    workshop.train(&[cpu, "teacher.cuda_graph=true"]).fails(2, &["teacher.cuda_graph", "CPU"]);
    let losses = |set: &[&str]| -> (Vec<f64>, String) {
        let trained = workshop.train(set).succeeds();
        let rows = std::fs::read_to_string(workshop.path("run/metrics.jsonl")).unwrap();
        std::fs::remove_dir_all(workshop.path("run")).unwrap();
        let rows = rows.lines().map(|row| serde_json::from_str::<serde_json::Value>(row).unwrap());
        let losses = rows.map(|row| row["students"][0]["loss"].as_f64().unwrap()).collect();
        (losses, trained.stderr)
    };
    let (plain, quiet) = losses(&[cpu]);
    let (switched, warned) = losses(&[cpu, "teacher.fused_kernels=false"]);
    assert_eq!(plain, switched);
    let warnings = |text: &str| text.matches("kernels of our own").count();
    assert_eq!((warnings(&quiet), warnings(&warned)), (0, 0), "{warned}");
}
