//! A trained student, exported by the command line, in the hands of the real transformers: the
//! same image gives the same numbers there and here.

use distill::data::image::load_central;
use distill::nn::{Normalisation, Parameters, Storage, Vit, VitInput, patchify};
use distill::weights::{Preprocessing, WeightFile, beside_encoder};
use tch::{Device, Kind, Tensor};

use crate::golden::{assert_close, read};
use crate::weights::{golden, python, run};
use crate::workshop::{Finished, Workshop};

/// `last_hidden_state` of an exported encoder for Normalisationd images `[B, 3, H, W]`.
fn last_hidden_state(export: &std::path::Path, pixels: &Tensor) -> Tensor {
    let file = WeightFile::open(export).unwrap();
    let stored = file.encoder(None).unwrap();
    let grid = stored.image_size / stored.size.patch_size;
    let mut parameters =
        Parameters::new(Storage::Empty { device: Device::Cpu, matrices: Kind::Float });
    let vit = Vit::new(&mut parameters, stored.size, grid);
    file.load_into(parameters.named(), beside_encoder).unwrap();
    let patch = stored.size.patch_size as i64;
    let (rows, columns) = (pixels.size()[2] / patch, pixels.size()[3] / patch);
    let input = VitInput::whole(patchify(pixels, patch), rows, columns);
    tch::no_grad(|| vit.normalise(&vit.forward(&input, Kind::Float)))
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
