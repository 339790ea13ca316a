//! A second family of encoders, which stands in this test alone, does all that encoders do here: it has
//! no class token, pools its patch tokens, and names its blocks in another way.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use distill::config::Check;
use distill::encoders::{
    Encoder, EncoderShape, EncoderSpec, EncoderWeights, Family, Input, RestOfBackward,
    StoredEncoder, Tokens,
};
use distill::nn::{
    Activation, Biases, BlockShape, Blocks, DropPathMode, FrozenFormat, Init, Junctions, LayerNorm,
    Linear, Parameters, Storage, Taps, gather_tokens, patch_flops, patchify, resize_positions,
    transformer_flops,
};
use distill::tasks::distill::{Distance, DistillConfig, Distillation, Teacher};
use distill::tasks::pretrain::{Autoencoder, PretrainConfig};
use distill::tasks::{TaskConfig, TraineeConfig};
use distill::train::objective::{MicroBatch, Objective};
use distill::weights::{NameMap, Place, WeightFile, write_safetensors};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

struct Plain;

/// Its names are the same everywhere.
struct Names;

struct Model {
    positions: Tensor,
    patches: Linear,
    layers: Blocks,
    norm: LayerNorm,
    shape: EncoderShape,
}

impl Model {
    fn embed(&self, input: &Input, compute: Kind) -> Tensor {
        let [rows, columns] = self.shape.grid(&input.images);
        let patches = patchify(&input.images, self.shape.patch_size).to_kind(compute);
        let all =
            self.patches.forward(&patches) + resize_positions(&self.positions, 0, rows, columns);
        input.keep.as_ref().map_or_else(|| all.shallow_clone(), |keep| gather_tokens(&all, keep))
    }

    fn tokens(&self, input: &Input, all: Tensor) -> Tokens {
        Tokens {
            all,
            class_tokens: 0,
            prefix_tokens: 0,
            grid: self.shape.grid(&input.images),
            taps: Vec::new(),
        }
    }
}

impl Encoder for Model {
    fn shape(&self) -> EncoderShape {
        self.shape
    }

    fn forward(&self, input: &Input, compute: Kind) -> Tokens {
        let embedded = self.embed(input, compute);
        let taps = &mut Taps::default();
        let all = self.layers.forward(embedded, None, &input.drop_path, compute, taps);
        self.tokens(input, all)
    }

    fn forward_recomputed<'a>(
        &'a self,
        input: &'a Input,
        compute: Kind,
        blocks: usize,
    ) -> (Tokens, RestOfBackward<'a>) {
        let (embedded, paths) = (self.embed(input, compute), &input.drop_path);
        let taps = &mut Taps::default();
        let (all, kept) =
            self.layers.forward_keeping_inputs(embedded, None, paths, compute, blocks, taps);
        let rest = move || self.layers.backward(kept, None, paths, compute);
        (self.tokens(input, all), Box::new(rest))
    }

    fn forward_frozen(
        &self,
        input: &Input,
        compute: Kind,
        junctions: &Junctions,
    ) -> Result<Tokens> {
        let embedded = self.embed(input, compute);
        let taps = &mut Taps::default();
        let all = self.layers.forward_frozen(embedded, None, junctions, compute, taps)?;
        Ok(self.tokens(input, all))
    }

    fn normalise(&self, tokens: Tokens) -> Tokens {
        tokens.map(|all| self.norm.forward(&all))
    }

    fn pooled(&self, tokens: &Tokens) -> Tensor {
        tokens.patches().mean_dim([1i64].as_slice(), false, Kind::Float)
    }

    fn freeze(&mut self, format: FrozenFormat, grid_size: i64) {
        let positions = resize_positions(&self.positions, 0, grid_size, grid_size);
        self.positions = positions.to_kind(format.residual);
        self.patches.freeze(format.compute);
        self.layers.freeze(format);
        self.norm.freeze(format.residual);
    }

    fn train_in_fp8(&mut self, least_weights: usize) -> Vec<&'static str> {
        self.layers.train_in_fp8(least_weights)
    }
}

impl NameMap for Names {
    fn layout(&self) -> &'static str {
        "plain layout"
    }

    fn wrappers(&self) -> &'static [&'static str] {
        &[]
    }

    fn place(&self, name: &str) -> Option<Place> {
        let is_known = ["positions", "patches.", "layers.", "norm."]
            .iter()
            .any(|known| name.starts_with(known));
        is_known.then(|| Place { name: name.into(), part: None })
    }

    fn stored_names(&self, name: &str) -> Vec<String> {
        self.place(name).map(|place| place.name).into_iter().collect()
    }

    fn numbers(&self, _: &BTreeMap<&str, Vec<i64>>) -> Vec<(String, i64)> {
        Vec::new()
    }
}

impl Family for Plain {
    fn name(&self) -> &'static str {
        "plain"
    }

    fn title(&self) -> &'static str {
        "plain"
    }

    fn published(&self) -> Vec<(&'static str, EncoderSpec)> {
        Vec::new()
    }

    fn defaults(&self) -> EncoderSpec {
        spec(32, 2)
    }

    fn check(&self, spec: &EncoderSpec) -> Result<(), (&'static str, String)> {
        match spec.class_tokens {
            0 => Ok(()),
            some => Err(("class_tokens", format!("found {some}, expected none"))),
        }
    }

    fn takes_masks(&self) -> bool {
        true
    }

    fn build(
        &self,
        parameters: &mut Parameters,
        spec: &EncoderSpec,
        grid_size: usize,
    ) -> Box<dyn Encoder> {
        let EncoderSpec { dim, depth, heads, patch_size, mlp_ratio, .. } = *spec;
        let block = BlockShape { hidden: dim * mlp_ratio, ..BlockShape::new(dim, heads, 1e-5) };
        let (width, patch) = (dim as i64, patch_size as i64);
        let positions = [1, (grid_size * grid_size) as i64, width];
        Box::new(Model {
            positions: parameters.tensor("positions", &positions, Init::Normal(0.02)),
            patches: Linear::new(parameters, "patches", 3 * patch * patch, width),
            layers: Blocks::new(parameters, "layers", &block, depth),
            norm: LayerNorm::new(parameters, "norm", width, 1e-5),
            shape: EncoderShape {
                dim: width,
                depth,
                class_tokens: 0,
                prefix_tokens: 0,
                patch_size: patch,
            },
        })
    }

    fn flops(&self, spec: &EncoderSpec, patches: usize) -> f64 {
        transformer_flops(spec.dim, spec.depth, spec.mlp_ratio, patches)
            + patch_flops(spec.dim, spec.patch_size, patches)
    }

    fn resized(&self, _: &EncoderSpec, name: &str, parameter: &Tensor, grid_size: usize) -> Tensor {
        match name {
            "positions" => resize_positions(parameter, 0, grid_size as i64, grid_size as i64),
            _ => parameter.shallow_clone(),
        }
    }

    fn hugging_face_names(&self, _: &EncoderSpec) -> &'static dyn NameMap {
        &Names
    }

    fn own_names(&self) -> &'static dyn NameMap {
        &Names
    }

    fn is_beside(&self, name: &str) -> bool {
        name.starts_with("last_proj.")
    }

    fn measure(&self, file: &WeightFile) -> Result<StoredEncoder> {
        let shape = file.shape("positions").context("no positions")?;
        let [1, patches, dim] = shape[..] else { bail!("positions are [1, patches, width]") };
        let is_there = |block: &usize| file.shape(&format!("layers.{block}.norm1.bias")).is_some();
        let depth = (0..).take_while(is_there).count();
        let spec = EncoderSpec { heads: 0, ..spec(dim as usize, depth) };
        Ok(StoredEncoder { spec, image_size: (patches as usize).isqrt() * spec.patch_size })
    }

    fn stored_grid(&self, _: &EncoderSpec, file: &WeightFile) -> usize {
        self.measure(file).map_or(0, |stored| stored.image_size / stored.spec.patch_size)
    }

    fn file_name(&self) -> &'static str {
        "plain.safetensors"
    }

    fn model_type(&self) -> &'static str {
        "plain"
    }

    fn read_config(&self, _: Value) -> Result<EncoderSpec> {
        bail!("transformers does not know it")
    }

    fn write_config(&self, _: &StoredEncoder, _: &WeightFile) -> Result<Value> {
        bail!("transformers does not know it")
    }

    fn image_processor(&self) -> &'static str {
        "BitImageProcessor"
    }
}

fn spec(dim: usize, depth: usize) -> EncoderSpec {
    EncoderSpec {
        family: &Plain,
        dim,
        depth,
        heads: 2,
        patch_size: 4,
        class_tokens: 0,
        registers: 0,
        mlp_ratio: 2,
        mlp_width: 0,
        gated: false,
        activation: Activation::Gelu,
        biases: Biases::ALL,
        rope_theta: 0,
    }
}

/// Six images of 4 × 4 patches.
fn batch() -> MicroBatch {
    let numbers = Tensor::arange(6 * 3 * 16 * 16, (Kind::Float, Device::Cpu));
    MicroBatch { images: numbers.square().sin().view([6, 3, 16, 16]), positions: 0..6 }
}

fn masked(mut trainee: TraineeConfig) -> TraineeConfig {
    trainee.mask_ratio = 0.5;
    trainee.mask_grid = 2;
    trainee.drop_path = 0.5;
    trainee.drop_path_mode = DropPathMode::Skip;
    trainee
}

/// A loss of the objective's first trainee and how large its gradients are; all parameters have one.
fn step(objective: &dyn Objective) -> (f64, f64) {
    let loss = objective.accumulate(&batch(), 1.0, &mut ()).unwrap().remove(0).total;
    let gradients = objective.trainees()[0].parameters.named().iter().map(|(name, parameter)| {
        assert!(parameter.grad().defined(), "{name} has no gradient");
        parameter.grad().abs().sum(Kind::Double).double_value(&[])
    });
    (loss.double_value(&[]), gradients.sum())
}

/// Teacher and student are of the family, with a mask, skipped branches and recomputed blocks.
#[test]
fn another_family_is_distilled() {
    let mut config = DistillConfig::minimal("run", spec(32, 3));
    config.train.data.input_size = 16;
    config.train.data.shards = vec!["shard.tar".into()];
    config.loss.class = Distance::None;
    config.students = vec![masked(TraineeConfig::minimal("student", spec(16, 2)))];
    let check: Check = config.validate();
    check.unwrap();
    let results = [0, 2].map(|blocks| {
        config.students[0].recompute_blocks = blocks;
        let teacher = Teacher::drawn(Device::Cpu, Kind::Float, 1);
        let teacher = Teacher::new(teacher, config.teacher.model, 4);
        let objective = Distillation::new(&config, teacher, Device::Cpu, Kind::Float);
        step(&objective)
    });
    assert_eq!(results[0], results[1], "recomputed blocks change no bit");
    let (loss, gradient) = results[0];
    assert!(loss.is_finite() && loss > 0.0 && gradient > 0.0, "{results:?}");

    config.students[0].model.class_tokens = 1;
    assert_eq!(config.validate().unwrap_err().0, "students.0.model.class_tokens");
}

/// An encoder of the family is pre-trained, with a decoder beside it.
#[test]
fn another_family_is_pre_trained() {
    let mut config = PretrainConfig::minimal("run", spec(16, 2));
    config.train.data.input_size = 16;
    config.encoder = masked(config.encoder);
    config.decoder.dim = 16;
    config.decoder.depth = 1;
    config.decoder.heads = 2;
    config.validate().unwrap();
    let (loss, gradient) = step(&Autoencoder::new(&config, Device::Cpu, Kind::Float));
    assert!(loss.is_finite() && loss > 0.0 && gradient > 0.0, "{loss}, {gradient}");
}

/// Weights are stored under the family's names and loaded from there, with a projector beside them; a
/// frozen encoder gives the same tokens, and features are its own.
#[test]
fn weights_of_another_family_are_stored_and_loaded() {
    let drawn = |seed| {
        let storage =
            Storage::Drawn { device: Device::Cpu, matrices: Kind::Float, seed, rng_stream: 0 };
        let mut parameters = Parameters::new(storage);
        (spec(16, 2).build(&mut parameters, 4), parameters)
    };
    let ((encoder, parameters), (mut other, others)) = (drawn(1), drawn(2));
    let mut stored = parameters.shared();
    stored.push(("last_proj.0.bias".into(), Tensor::zeros([2], (Kind::Float, Device::Cpu))));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    write_safetensors(&path, &stored, &BTreeMap::new(), &|| Ok(())).unwrap();
    let file = WeightFile::open(&path, &[], None).unwrap();
    let weights = EncoderWeights::of_trainee(file, &Plain).unwrap();
    let found = weights.measure(Some(2)).unwrap();
    assert_eq!((found.spec, found.image_size), (spec(16, 2), 16));

    let input = Input::whole(batch().images);
    let expected = tch::no_grad(|| encoder.forward(&input, Kind::Float));
    assert_eq!(
        (expected.prefix().size(), expected.patches().size()),
        (vec![6, 0, 16], vec![6, 16, 16])
    );
    let pass = |encoder: &dyn Encoder| {
        tch::no_grad(|| encoder.forward_frozen(&input, Kind::Float, &Junctions::default())).unwrap()
    };
    assert_ne!(pass(&*other).all, expected.all);
    weights.load_into(others.named()).unwrap();
    other.freeze(FrozenFormat { compute: Kind::Float, residual: Kind::Float, fp8: false }, 4);
    assert_eq!(pass(&*other).all, expected.all);
    assert_eq!(
        encoder.pooled(&expected),
        expected.all.mean_dim([1i64].as_slice(), false, Kind::Float)
    );
}

/// A configuration names the family unless it is the first.
#[test]
fn a_configuration_names_another_family() {
    let written = spec(16, 2).to_toml();
    assert!(written.starts_with("{ family = \"plain\", dim = 16,"), "{written}");
    let first = EncoderSpec::new(16, 2, 2);
    assert!(first.to_toml().starts_with("{ dim = 16,"));
    let read = |text: &str| toml::from_str::<BTreeMap<String, EncoderSpec>>(text);
    let named = "model = { family = \"pixio\", dim = 16, depth = 2, heads = 2 }";
    assert_eq!(read(named).unwrap()["model"], first);
    let error = read(&named.replace("pixio", "plain")).unwrap_err().to_string();
    assert!(error.contains("unknown family `plain`, expected one of `pixio`"), "{error}");
}
