//! Both JPEG decoders see the same picture: crops of our own, which reads what a crop needs, against whole images of
//! libjpeg-turbo, over files that libjpeg-turbo writes in every sampling, quality, restart and scan layout that its
//! interface has. Single levels differ by rounding, and below the last edge by what the encoder filled blocks up with.

#![no_main]

use distill_data::image::decode::{self, Image};
use distill_data::image::resize::CropResizer;
use distill_data::image::{CropBox, Exif};
use distill_data::{CropDecoder, CropOptions};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use turbojpeg::{Compressor, PixelFormat, Subsamp};

/// A level or two of rounding in each of three components, which colours multiply.
const MOST: i32 = 16;
const MOST_ON_AVERAGE: f64 = 2.0;

const SAMPLINGS: [Subsamp; 6] = [
    Subsamp::None,
    Subsamp::Sub2x1,
    Subsamp::Sub2x2,
    Subsamp::Sub1x2,
    Subsamp::Sub4x1,
    Subsamp::Gray,
];

#[derive(Debug, Arbitrary)]
struct Recipe {
    width: u8,
    height: u8,
    sampling: u8,
    quality: u8,
    is_optimised: bool,
    is_progressive: bool,
    crop: [u8; 4],
    /// Waves, so that pixels are as smooth as pictures are.
    waves: [u8; 6],
}

fuzz_target!(|recipe: Recipe| {
    let (width, height) = (usize::from(recipe.width) + 16, usize::from(recipe.height) + 16);
    let level = |x: usize, y: usize, channel: usize| {
        let [across, down] = [recipe.waves[channel], recipe.waves[channel + 3]].map(f64::from);
        let phase = x as f64 * across / 2000.0 + y as f64 * down / 2000.0;
        (127.5 + 120.0 * phase.sin()) as u8
    };
    let pixels: Vec<u8> = (0..height)
        .flat_map(|y| (0..width).flat_map(move |x| (0..3).map(move |channel| (x, y, channel))))
        .map(|(x, y, channel)| level(x, y, channel))
        .collect();
    let mut encoder = Compressor::new().unwrap();
    encoder.set_subsamp(SAMPLINGS[usize::from(recipe.sampling) % SAMPLINGS.len()]).unwrap();
    encoder.set_quality(i32::from(recipe.quality % 71) + 30).unwrap();
    encoder.set_optimize(recipe.is_optimised).unwrap();
    encoder.set_progressive(recipe.is_progressive).unwrap();
    let format = PixelFormat::RGB;
    let image = turbojpeg::Image { pixels: &pixels[..], width, pitch: width * 3, height, format };
    let jpeg = encoder.compress_to_vec(image).unwrap();

    let mut whole = Image::default();
    decode::decode(&jpeg, 1 << 20, &mut whole).unwrap();
    assert_eq!((whole.width, whole.height), (width, height));
    let part = |share: u8, length: usize| usize::from(share) * length / 256;
    let [left, top] = [part(recipe.crop[0], width - 8), part(recipe.crop[1], height - 8)];
    let crop = CropBox {
        left,
        top,
        width: (8 + part(recipe.crop[2], width - left)).min(width - left),
        height: (8 + part(recipe.crop[3], height - top)).min(height - top),
    };
    let options = CropOptions {
        image_size: 32,
        max_pixels: 1 << 20,
        reduced_decoding: false,
        exif: Exif::Ignore,
    };
    let (mut own, mut other) = (vec![0; 32 * 32 * 3], vec![0; 32 * 32 * 3]);
    CropDecoder::default().decode(&jpeg, &options, |_, _| crop, &mut own).unwrap();
    CropResizer::default().resize(&whole, crop, [32; 2], &mut other).unwrap();
    let differences = own.iter().zip(&other).map(|(&a, &b)| (i32::from(a) - i32::from(b)).abs());
    let most = differences.clone().max().unwrap_or(0);
    let mean = f64::from(differences.sum::<i32>()) / own.len() as f64;
    assert!(most <= MOST && mean <= MOST_ON_AVERAGE, "{most} levels, {mean} on average: {recipe:?}");
});
