//! The kernels of blocks that are trained, against float64.

use distill::native::{
    Joining, KernelSource, RoundedRows, RowNorm, TrainingKernels, column_grid, row_groups,
    threads_of_row, threads_that_round,
};
use tch::{Device, Kind, Tensor};

use super::emulation::run_program;
use super::{EPS, Numbers, assert_rounded, device, on_cpu};

/// Which images keep a branch, of `BATCH`.
const BATCH: i64 = 4;
const SOME: [i32; 4] = [-1, 0, 1, -1];
const OTHERS: [i32; 4] = [0, -1, 1, 2];

/// What is added and normalised, on the CPU.
struct Case {
    /// `[B, T, D]` float32.
    residual: Tensor,
    /// `[K, T, D]` bf16.
    branch: Option<Tensor>,
    factors: Option<Tensor>,
    branch_places: Option<Tensor>,
    places: Option<Tensor>,
    images: i64,
    weight: Tensor,
    bias: Tensor,
    /// Gradients of what is normalised, bf16, and of the sum.
    of_normalised: Tensor,
    of_sum: Option<Tensor>,
}

/// How the images of a case find their branches.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Paths {
    NoBranch,
    Whole,
    Scaled,
    Kept,
}

impl Case {
    fn drawn(numbers: &mut Numbers, (tokens, dim): (i64, i64), paths: Paths) -> Self {
        let kept = paths == Paths::Kept;
        let (branches, images) = if kept { (2, 3) } else { (BATCH, BATCH) };
        let places = |of: &[i32]| kept.then(|| Tensor::from_slice(of));
        let mut drawn = |shape: &[i64]| numbers.draw(shape);
        let branch = drawn(&[branches, tokens, dim]).to_kind(Kind::BFloat16);
        Self {
            residual: drawn(&[BATCH, tokens, dim]) * 3.0 + 5.0,
            branch: (paths != Paths::NoBranch).then_some(branch),
            factors: match paths {
                Paths::Scaled => Some(Tensor::from_slice(&[0f32, 1.25, 0.0, 1.25])),
                Paths::Kept => Some(Tensor::from_slice(&[2f32; 4])),
                _ => None,
            },
            branch_places: places(&SOME),
            places: places(&OTHERS),
            images,
            weight: drawn(&[dim]) + 1.0,
            bias: drawn(&[dim]),
            of_normalised: drawn(&[images, tokens, dim]).to_kind(Kind::BFloat16),
            of_sum: (paths != Paths::Whole).then(|| drawn(&[BATCH, tokens, dim])),
        }
    }

    /// Sum, output, statistics; then gradients of residual, branch, and weight, bias, the branch's bias `[3, D]`.
    fn by_kernels(&self) -> [Tensor; 6] {
        if device() == Device::Cpu { self.emulated() } else { self.on_gpu() }
    }

    fn on_gpu(&self) -> [Tensor; 6] {
        let kernels = TrainingKernels::of(device()).unwrap();
        let on = |tensor: &Tensor| tensor.to_device(device());
        let maybe = |tensor: &Option<Tensor>| tensor.as_ref().map(on);
        let (factors, branch_places) = (maybe(&self.factors), maybe(&self.branch_places));
        let (places, weight, bias) = (maybe(&self.places), on(&self.weight), on(&self.bias));
        let joining = Joining {
            factors: factors.as_ref(),
            branch_places: branch_places.as_ref(),
            places: places.as_ref(),
            images: self.images,
            norm: RowNorm { weight: &weight, bias: &bias, eps: EPS },
        };
        let branch = maybe(&self.branch);
        let residual = on(&self.residual);
        let joined = kernels.join(&joining, &residual, branch.as_ref(), true).unwrap();
        let plain = kernels.join(&joining, &residual, branch.as_ref(), false).unwrap();
        assert!(plain.rounded.is_none() && plain.normalised == joined.normalised);
        let normalised = joined.normalised.to_device(Device::Cpu).flatten(0, 1);
        assert_rounded(&on_cpu(&joined.rounded.unwrap()), &normalised, "what is normalised");
        let branch_images = self.branch.as_ref().map(|branch| branch.size()[0]);
        let of_sum = maybe(&self.of_sum);
        let found = kernels
            .join_backward(
                &joining,
                [&joined.sum, &joined.statistics],
                branch_images,
                (&on(&self.of_normalised), of_sum.as_ref()),
            )
            .unwrap();
        let (_, tokens, dim) = self.residual.size3().unwrap();
        let none = || Tensor::zeros([0, tokens, dim], (Kind::BFloat16, Device::Cpu));
        let (of_branch, sum) = match found.branch {
            Some(branch) => (branch.values, branch.sum),
            None => (none(), found.weight.zeros_like()),
        };
        let sums = Tensor::stack(&[found.weight, found.bias, sum], 0);
        [joined.sum, joined.normalised, joined.statistics, found.residual, of_branch, sums]
            .map(|tensor| tensor.to_device(Device::Cpu))
    }

    fn emulated(&self) -> [Tensor; 6] {
        let (_, tokens, dim) = self.residual.size3().unwrap();
        let groups = row_groups((BATCH * tokens) as usize).min(3);
        let branches = self.branch.as_ref().map_or(0, |branch| branch.size()[0]);
        let run = |kernel: &str, given: &str, tensors: &[Option<&Tensor>]| {
            let mut arguments = vec![kernel.to_owned()];
            let sizes = [BATCH, tokens, dim, self.images, branches, groups as i64, 1];
            arguments.extend(sizes.map(|number| number.to_string()));
            arguments.extend([threads_of_row(dim as usize).to_string(), EPS.to_string()]);
            let mut letters = given.to_owned();
            for (letter, is_given) in [
                ('b', self.branch.is_some()),
                ('f', self.factors.is_some()),
                ('p', self.places.is_some()),
                ('q', self.branch_places.is_some()),
            ] {
                letters.extend(is_given.then_some(letter));
            }
            arguments.push(letters);
            let tensors: Vec<_> = tensors.iter().flatten().copied().collect();
            run_program(KernelSource::Training, &arguments, &tensors)
        };
        let small = [&self.factors, &self.branch_places, &self.places].map(Option::as_ref);
        let [factors, branch_places, places] = small;
        let forward = [
            Some(&self.residual),
            self.branch.as_ref(),
            factors,
            branch_places,
            places,
            Some(&self.weight),
            Some(&self.bias),
        ];
        let plain = run("join_and_normalise", "-", &forward);
        let mut bytes = Bytes(run("join_and_normalise", "e", &forward));
        assert!(bytes.0.starts_with(&plain), "rounding changes what is rounded");
        let sum = match self.branch {
            Some(_) => bytes.take(&self.residual.size(), Kind::Float),
            None => self.residual.shallow_clone(),
        };
        let normalised = bytes.take(&[self.images, tokens, dim], Kind::BFloat16);
        let statistics = bytes.take(&[self.images, tokens, 2], Kind::Float);
        let rows = bytes.rows(self.images * tokens, dim);
        assert_rounded(&rows, &normalised.flatten(0, 1), "what is normalised");
        let backward = [
            Some(&self.of_normalised),
            self.of_sum.as_ref(),
            Some(&sum),
            Some(&statistics),
            factors,
            branch_places,
            places,
            Some(&self.weight),
        ];
        let has_sum = if self.of_sum.is_some() { "s" } else { "-" };
        let mut bytes = Bytes(run("join_and_normalise_backward", has_sum, &backward));
        let residual = bytes.take(&self.residual.size(), Kind::Float);
        let of_branch = bytes.take(&[branches, tokens, dim], Kind::BFloat16);
        let sums = bytes.take(&[3, dim], Kind::Float);
        [sum, normalised, statistics, residual, of_branch, sums]
    }

    /// The same by autograd in float64.
    fn in_float64(&self) -> [Tensor; 6] {
        let leaf = |tensor: &Tensor| tensor.to_kind(Kind::Double).set_requires_grad(true);
        let (residual, weight, bias) = (leaf(&self.residual), leaf(&self.weight), leaf(&self.bias));
        let branch = self.branch.as_ref().map(leaf);
        let images_of = |places: &Option<Tensor>| {
            let places =
                places.as_ref().map_or(Tensor::arange(BATCH, (Kind::Int64, Device::Cpu)), |p| {
                    p.to_kind(Kind::Int64)
                });
            places.ge(0).nonzero().flatten(0, -1)
        };
        let sum = match &branch {
            Some(branch) => {
                let factors = match &self.factors {
                    Some(factors) => factors.to_kind(Kind::Double),
                    None => Tensor::ones([BATCH], (Kind::Double, Device::Cpu)),
                };
                let images = images_of(&self.branch_places);
                let factors = factors.index_select(0, &images).view([-1, 1, 1]);
                residual.index_add(0, &images, &(branch * factors))
            }
            None => &residual + 0.0,
        };
        let shown = sum.index_select(0, &images_of(&self.places));
        let normalised = shown.layer_norm(weight.size(), Some(&weight), Some(&bias), EPS, false);
        let mut loss = (&normalised * self.of_normalised.to_kind(Kind::Double)).sum(Kind::Double);
        if let Some(of_sum) = &self.of_sum {
            loss += (&sum * of_sum.to_kind(Kind::Double)).sum(Kind::Double);
        }
        loss.backward();
        let mean = shown.mean_dim(-1, true, Kind::Double);
        let scale = (shown.var_dim([-1].as_slice(), false, true) + EPS).rsqrt();
        let (of_branch, of_bias) = match &branch {
            Some(branch) => {
                let of_branch = branch.grad();
                let sum = of_branch.sum_dim_intlist([0, 1].as_slice(), false, Kind::Double);
                (of_branch, sum)
            }
            None => (residual.narrow(0, 0, 0), weight.grad().zeros_like()),
        };
        let sums = Tensor::stack(&[weight.grad(), bias.grad(), of_bias], 0);
        let statistics = Tensor::cat(&[mean, scale], -1);
        [sum, normalised, statistics, residual.grad(), of_branch, sums].map(|found| found.detach())
    }
}

/// Tensors one behind the other.
struct Bytes(Vec<u8>);

impl Bytes {
    fn rows(&mut self, rows: i64, dim: i64) -> RoundedRows {
        let values = self.take(&[rows, dim], Kind::Uint8).view_dtype(Kind::Float8e4m3fn);
        RoundedRows { values, scales: self.take(&[rows, 1], Kind::Float) }
    }

    fn take(&mut self, shape: &[i64], kind: Kind) -> Tensor {
        let count = shape.iter().product::<i64>() as usize * kind.elt_size_in_bytes();
        let rest = self.0.split_off(count);
        let bytes = std::mem::replace(&mut self.0, rest);
        Tensor::from_data_size(&bytes, shape, kind)
    }
}

/// That `found` is `expected` up to rounding of its kind, and `sums` additions of numbers of about one.
#[track_caller]
fn assert_near(found: &Tensor, expected: &Tensor, sums: f64, what: &str) {
    assert_eq!(found.size(), expected.size(), "{what}");
    if found.numel() == 0 {
        return;
    }
    let of_kind = if found.kind() == Kind::BFloat16 { 2f64.powi(-8) } else { 2f64.powi(-20) };
    let allowed = expected.abs() * of_kind + 2e-5 + sums;
    let off = (found.to_kind(Kind::Double) - expected).abs() / allowed;
    let worst = off.max().double_value(&[]);
    assert!(worst <= 1.05, "{what}: {worst} of what rounding explains");
}

/// Forward and backward, for every way of a branch and for widths with whole warps and without.
#[test]
fn branches_join_and_gradients_part() {
    let mut numbers = Numbers::new(21);
    for (tokens, dim) in [(3, 8), (5, 40), (3, 264), (2, 1280), (1, 3072)] {
        for paths in [Paths::NoBranch, Paths::Whole, Paths::Scaled, Paths::Kept] {
            let case = Case::drawn(&mut numbers, (tokens, dim), paths);
            let (found, expected) = (case.by_kernels(), case.in_float64());
            let names = ["sum", "output", "statistics", "residual", "branch", "sums"];
            for (index, name) in names.into_iter().enumerate() {
                // The branch's gradient is summed as it was rounded to bf16.
                let sums = if name == "sums" { 0.05 } else { 0.0 };
                let what = format!("[{BATCH}, {tokens}, {dim}] {paths:?}, {name}");
                assert_near(&found[index], &expected[index], sums, &what);
            }
        }
    }
}

/// What a kernel over columns makes of these tensors `[rows, D]` bf16: values, if it has any, and sums.
fn over_columns(kernel: &str, given: &[&Tensor]) -> (Option<Tensor>, Tensor) {
    let (rows, dim) = given[0].size2().unwrap();
    if device().is_cuda() {
        let kernels = TrainingKernels::of(device()).unwrap();
        let given: Vec<_> = given.iter().map(|tensor| tensor.to_device(device())).collect();
        let cpu = |tensor: Tensor| tensor.to_device(Device::Cpu);
        return match kernel {
            "column_sums" => (None, cpu(kernels.column_sums(&given[0]).unwrap())),
            _ => {
                let (values, sums) = kernels.gelu_backward(&given[0], &given[1]).unwrap();
                (Some(cpu(values)), cpu(sums))
            }
        };
    }
    let (blocks, threads) = column_grid(rows as usize, dim as usize);
    let mut arguments = vec![kernel.to_owned()];
    let sizes = [rows as usize, 1, dim as usize, 0, 0, blocks[0], blocks[1].min(3), threads];
    arguments.extend(sizes.map(|number| number.to_string()));
    arguments.extend(["0".into(), "-".into()]);
    let mut bytes = Bytes(run_program(KernelSource::Training, &arguments, given));
    let values = (kernel != "column_sums").then(|| bytes.take(&[rows, dim], Kind::BFloat16));
    (values, bytes.take(&[dim], Kind::Float))
}

fn gelu(input: &Tensor) -> Tensor {
    if device().is_cuda() {
        let kernels = TrainingKernels::of(device()).unwrap();
        return kernels.gelu(&input.to_device(device())).unwrap().to_device(Device::Cpu);
    }
    let (rows, dim) = input.size2().unwrap();
    let blocks = (rows * dim / 8 + 255) / 256;
    let mut arguments = vec!["gelu".to_owned()];
    let sizes = [rows, 1, dim, 0, 0, blocks, 1, 256];
    arguments.extend(sizes.map(|number| number.to_string()));
    arguments.extend(["0".into(), "-".into()]);
    let mut bytes = Bytes(run_program(KernelSource::Training, &arguments, &[input]));
    bytes.take(&[rows, dim], Kind::BFloat16)
}

/// GELU and its derivative, far out too, where little is left of either; sums of columns of every width.
#[test]
fn gelu_goes_forward_and_back_and_columns_are_summed() {
    let mut numbers = Numbers::new(22);
    for (rows, dim) in [(1, 8), (7, 40), (5, 2056), (3, 6144)] {
        let input = (numbers.draw(&[rows, dim]) * 4.0).to_kind(Kind::BFloat16);
        let gradient = numbers.draw(&[rows, dim]).to_kind(Kind::BFloat16);
        let what = |name: &str| format!("[{rows}, {dim}] {name}");
        let leaf = input.to_kind(Kind::Double).set_requires_grad(true);
        let output = leaf.gelu("none");
        (&output * gradient.to_kind(Kind::Double)).sum(Kind::Double).backward();
        // In relation, also where nearly nothing of a number is left.
        let found = gelu(&input).to_kind(Kind::Double);
        let off = (found - &output).abs() / (output.abs() * 2f64.powi(-7) + 1e-9);
        assert!(off.max().double_value(&[]) < 1.0, "{}: {off}", what("gelu"));
        let (values, sums) = over_columns("gelu_backward", &[&gradient, &input]);
        assert_near(&values.unwrap(), &leaf.grad(), 0.0, &what("gradient"));
        let column = |of: &Tensor| of.sum_dim_intlist([0].as_slice(), false, Kind::Double);
        assert_near(&sums, &column(&leaf.grad()), 0.05, &what("sums of gradients"));
        let (_, sums) = over_columns("column_sums", &[&input]);
        assert_near(&sums, &column(&input.to_kind(Kind::Double)), 0.0, &what("sums"));
    }
}

/// What a kernel that rounds is given: sizes, blocks in x and y, threads, and tensors.
fn emulated(kernel: &str, [rows, dim]: [i64; 2], grid: [i64; 3], given: &[&Tensor]) -> Bytes {
    let mut arguments = vec![kernel.to_owned()];
    let sizes = [rows, 1, dim, 0, 0, grid[0], grid[1], grid[2]];
    arguments.extend(sizes.map(|number| number.to_string()));
    arguments.extend(["0".into(), "-".into()]);
    Bytes(run_program(KernelSource::Training, &arguments, given))
}

/// Rows, GELU of rows, and weights straight and turned are rounded as libtorch's operators round them, bit for bit.
#[test]
fn what_is_trained_is_rounded() {
    let mut numbers = Numbers::new(23);
    for (rows, dim) in [(1, 16), (5, 48), (3, 520), (2, 6144)] {
        let input = (numbers.draw(&[rows, dim]) * 3.0).to_kind(Kind::BFloat16);
        let what = format!("[{rows}, {dim}]");
        let grid = [rows, 1, threads_that_round(dim as usize) as i64];
        let (plain, activated, rounded) = if device().is_cuda() {
            let kernels = TrainingKernels::of(device()).unwrap();
            let input = input.to_device(device());
            let (activated, rounded) = kernels.gelu_rounded(&input).unwrap();
            let plain = on_cpu(&kernels.rounded(&input).unwrap());
            (plain, activated.to_device(Device::Cpu), on_cpu(&rounded))
        } else {
            let plain = emulated("round_e4m3", [rows, dim], grid, &[&input]).rows(rows, dim);
            let mut bytes = emulated("gelu_and_round", [rows, dim], grid, &[&input]);
            let activated = bytes.take(&[rows, dim], Kind::BFloat16);
            (plain, activated, bytes.rows(rows, dim))
        };
        assert_rounded(&plain, &input, &what);
        assert_eq!(activated, gelu(&input), "{what}");
        assert_rounded(&rounded, &activated, &what);
    }
    for (to, from) in [(16, 16), (48, 272), (80, 1040)] {
        let weight = numbers.draw(&[to, from]) * numbers.draw(&[to, 1]);
        let grid = [(from + 255) / 256, (to + 31) / 32, 256];
        let [straight, turned] = if device().is_cuda() {
            let kernels = TrainingKernels::of(device()).unwrap();
            kernels.rounded_weight(&weight.to_device(device())).unwrap().map(|rows| on_cpu(&rows))
        } else {
            let mut bytes = emulated("rounded_weight", [to, from], grid, &[&weight]);
            [bytes.rows(to, from), bytes.rows(from, to)]
        };
        assert_rounded(&straight, &weight, &format!("{to} × {from}"));
        let weight = weight.transpose(0, 1).contiguous();
        assert_rounded(&turned, &weight, &format!("{to} × {from}, turned"));
    }
}
