//! A trained student, exported by the command line, in the hands of the real transformers: the
//! same image gives the same numbers there and here.

use distill::data::image::load_central;
use distill::encoders::{EncoderWeights, Input};
use distill::nn::{Normalisation, Parameters, Storage};
use distill::weights::Preprocessing;
use tch::{Device, Kind, Tensor};

use crate::support::golden::golden;
use crate::support::golden::{assert_close, read};
use crate::support::python::{python, run};
use crate::support::workshop::{Finished, Workshop};

/// `last_hidden_state` of an exported encoder for Normalisationd images `[B, 3, H, W]`.
fn last_hidden_state(export: &std::path::Path, pixels: &Tensor) -> Tensor {
    let weights = EncoderWeights::open(export).unwrap();
    let stored = weights.measure(None).unwrap();
    let grid_size = stored.spec.grid_size(stored.image_size);
    let mut parameters =
        Parameters::new(Storage::Empty { device: Device::Cpu, matrices: Kind::Float });
    let encoder = stored.spec.build(&mut parameters, grid_size);
    weights.load_into(parameters.named()).unwrap();
    let input = Input::whole(pixels.shallow_clone());
    tch::no_grad(|| encoder.normalise(encoder.forward(&input, Kind::Float)).all)
}

/// Both export formats of a trained student give the numbers that `transformers` computes from
/// the `hf` one on a photograph, and its image processor prepares the image as we do.
#[test]
fn a_trained_student_is_the_same_in_transformers() {
    let workshop = Workshop::new();
    workshop.train(&["export.formats=[]"]).succeeds();
    let export = |format: &str| {
        let arguments =
            ["export", "--run", "run", "--student", "one", "--out", format, "--format", format];
        Finished::of(workshop.command(&arguments).output().unwrap()).succeeds();
        workshop.path(format)
    };
    let (hf, pixio) = (export("hf"), export("pixio"));
    let image = golden("crops/baseline420.jpg");
    let out = workshop.path("out.safetensors");
    run(python("hf_reference.py").arg(&hf).arg(&out).arg("--image").arg(&image));
    let theirs = read(out);
    for folder in [&hf, &pixio] {
        let ours = last_hidden_state(folder, &theirs["pixel_values"]);
        let what = format!("{}: last_hidden_state", folder.display());
        assert_close(&ours, &theirs["last_hidden_state"], 1e-4, &what);
    }

    let bytes = load_central(&image, 32, 32, u64::MAX).unwrap();
    let pixels = Tensor::from_slice(&bytes).view([1, 32, 32, 3]);
    let Preprocessing { mean, std } = Preprocessing::IMAGENET;
    let ours = Normalisation::new(mean, std, Device::Cpu).apply(&pixels);
    assert_eq!(ours.size(), theirs["pixel_values"].size());
    let levels = (ours - &theirs["pixel_values"]).abs() * (255.0 * 0.229);
    let mean_off = levels.mean(Kind::Float).double_value(&[]);
    assert!(mean_off < 1.0, "pixels differ by {mean_off} levels on average");
}
