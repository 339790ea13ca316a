//! The golden encoder, exported by the command line, and images for it.

use distill::encoders::{Encoder, EncoderWeights};
use distill::nn::{Normalisation, Parameters, Storage};
use tch::{Device, Kind, Tensor};

use super::golden::golden;
use super::workshop::{Finished, Workshop};

/// Side of the images that the golden encoder is for.
pub const SIDE: u32 = 64;

/// A workshop with the golden encoder exported to `export`.
pub fn with_export() -> Workshop {
    let workshop = Workshop::new();
    let weights = golden("infer_native");
    let arguments = ["export", "--weights", weights.to_str().unwrap(), "--out", "export"];
    Finished::of(workshop.command(&arguments).output().unwrap()).succeeds();
    workshop
}

/// The encoder of [`with_export`].
pub fn exported(workshop: &Workshop) -> Box<dyn Encoder> {
    let weights = EncoderWeights::open(&workshop.path("export")).unwrap();
    let stored = weights.measure(None).unwrap();
    let storage = Storage::Empty { device: Device::Cpu, matrices: Kind::Float };
    let mut parameters = Parameters::new(storage);
    let model = stored.spec.build(&mut parameters, stored.spec.grid_size(stored.image_size));
    weights.load_into(parameters.named()).unwrap();
    model
}

/// Images of [`SIDE`] as that encoder takes them, `[N, 3, H, W]`.
pub fn normalised(images: &[Vec<u8>]) -> Tensor {
    let pixels: Vec<u8> = images
        .iter()
        .flat_map(|bytes| image::load_from_memory(bytes).unwrap().to_rgb8().into_raw())
        .collect();
    let side = i64::from(SIDE);
    let pixels = Tensor::from_slice(&pixels).view([images.len() as i64, side, side, 3]);
    let (mean, deviation) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    Normalisation::new(mean, deviation, Device::Cpu).apply(&pixels)
}

/// A PNG of `side` × `side` pixels.
pub fn png(side: u32, mut pixel: impl FnMut(u32, u32) -> [u8; 3]) -> Vec<u8> {
    let image = image::RgbImage::from_fn(side, side, |x, y| image::Rgb(pixel(x, y)));
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}
