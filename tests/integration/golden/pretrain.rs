//! Whole steps of masked-autoencoder pre-training.

use std::path::Path;

use distill::config::{OptimizerConfig, Precision};
use distill::encoders::EncoderSpec;
use distill::nn::DropPath;
use distill::tasks::PassDraws;
use distill::tasks::pretrain::Autoencoder;
use distill::tasks::pretrain::{DecoderConfig, PretrainConfig};
use distill::train::objective::Objective;
use distill::train::optimizer::AdamW;
use serde::Deserialize;
use tch::{Kind, Tensor};

use super::{VALUES, WEIGHTS, assert_close, cases, fill, read, read_there};
use crate::support::device::device;

#[derive(Deserialize)]
struct Case {
    input_size: usize,
    patch_size: usize,
    n_cls_tokens: usize,
    steps: usize,
    lr: f64,
    weight_decay: f64,
    betas: [f64; 2],
    mask_ratio: f64,
    mask_grid: usize,
    encoder: [usize; 3],
    decoder: [usize; 3],
}

impl Case {
    fn config(&self) -> PretrainConfig {
        let [dim, depth, heads] = self.encoder;
        let encoder = EncoderSpec {
            patch_size: self.patch_size,
            class_tokens: self.n_cls_tokens,
            ..EncoderSpec::new(dim, depth, heads)
        };
        let mut config = PretrainConfig::minimal("runs/golden", encoder);
        config.train.data.input_size = self.input_size;
        config.train.optimizer = OptimizerConfig {
            weight_decay: self.weight_decay,
            betas: self.betas,
            ..OptimizerConfig::default()
        };
        config.encoder.mask_ratio = self.mask_ratio;
        config.encoder.mask_grid = self.mask_grid;
        let [dim, depth, heads] = self.decoder;
        config.decoder = DecoderConfig { dim, depth, heads, ..DecoderConfig::default() };
        config
    }
}

/// Replays a case, its values within `tolerance`; gives the trained models.
fn replay(folder: &Path, precision: Precision, tolerance: f64) -> Autoencoder {
    let text = std::fs::read_to_string(folder.join("case.json")).unwrap();
    let case: Case = serde_json::from_str(&text).unwrap();
    let config = case.config();
    let autoencoder = Autoencoder::new(&config, device(), precision.kind());
    let parameters = &autoencoder.trainees()[0].parameters;
    fill(parameters, &read(folder.join("init.safetensors")));
    let mut optimizer = AdamW::new(parameters, &config.train.optimizer, None);
    let batch = read_there(folder.join("batch.safetensors"));
    let expected = read(folder.join("expected.safetensors"));
    let check = |key: String, found: &Tensor| {
        let what = format!("{}: {key}", folder.display());
        assert_close(found, &expected[&key], tolerance, &what);
    };
    for step in 0..case.steps {
        let images = &batch[&format!("images.{step}")];
        let keep = || batch[&format!("ids_keep.{step}")].shallow_clone();
        let seen = autoencoder.reconstruct(images, &keep());
        if step == 0 {
            check("pred.0".into(), &seen.predicted);
        }
        // What scoring writes down is what training minimises.
        let losses = autoencoder.losses(images, &keep());
        check(format!("loss.{step}"), &losses.mean(Kind::Float));
        let draws = PassDraws { keep: Some(keep()), drop_path: DropPath::None };
        let losses = autoencoder.accumulate_masked(images, draws, 1.0, &mut ()).unwrap();
        check(format!("loss.{step}"), &losses.total);
        let norm = optimizer.gradient_norm(true).unwrap();
        check(format!("grad_norm.{step}"), &norm);
        let skip = Tensor::zeros([], (Kind::Float, device()));
        optimizer.update(case.lr, &norm, &skip).unwrap();
    }
    autoencoder
}

fn pretrain_cases() -> Vec<std::path::PathBuf> {
    let found = cases(&["case.json", "init.safetensors", "final.safetensors"]);
    assert!(!found.is_empty(), "no pre-training case in the golden folder");
    found
}

/// The mathematics of a whole pre-training step: predictions, loss, gradient norm, AdamW.
#[test]
fn golden_pretraining_steps() {
    for folder in pretrain_cases() {
        let autoencoder = replay(&folder, Precision::Fp32, VALUES);
        let weights = read(folder.join("final.safetensors"));
        for (name, tensor) in autoencoder.trainees()[0].parameters.named() {
            let what = format!("{}: {name}", folder.display());
            assert_close(tensor, &weights[name], WEIGHTS, &what);
        }
    }
}

/// bf16 products with float32 master weights stay near.
#[test]
fn golden_pretraining_in_bf16() {
    for folder in pretrain_cases() {
        replay(&folder, Precision::Bf16, 5e-2);
    }
}
