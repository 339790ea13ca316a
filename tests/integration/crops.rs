//! Decoding, cropping and resizing against Pillow (`tests/golden/crops`).

use std::path::{Path, PathBuf};

use crate::support::pixels::compare;
use distill::data::image::decode::{self, Encoding, Image};
use distill::data::image::resize::CropResizer;
use distill::data::image::{CropBox, Exif, load_central};
use distill::data::{CropDecoder, CropOptions};

const MAX_PIXELS: u64 = 100_000_000;

fn folder() -> PathBuf {
    let golden = std::env::var_os("GOLDEN_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"), PathBuf::from);
    golden.join("crops")
}

/// A case: name, encoded bytes, source size, box, result size, Pillow's result.
struct Case {
    name: String,
    bytes: Vec<u8>,
    source: [usize; 2],
    crop: CropBox,
    size: [usize; 2],
    expected: Vec<u8>,
}

fn cases() -> Vec<Case> {
    cases_in(&folder())
}

fn cases_in(folder: &Path) -> Vec<Case> {
    let text = std::fs::read(folder.join("crops.json")).expect("crops.json can be read");
    let cases: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&text).unwrap();
    assert!(!cases.is_empty(), "crops.json holds no case");
    let numbers = |value: &serde_json::Value| -> Vec<usize> {
        value.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect()
    };
    let case = |(name, case): (String, serde_json::Value)| {
        let [left, top, width, height] = numbers(&case["box_xywh"])[..] else { panic!("{name}") };
        let expected = folder.join(format!("{name}.expected.png"));
        Case {
            bytes: std::fs::read(folder.join(&name)).unwrap(),
            source: numbers(&case["source_wh"]).try_into().unwrap(),
            crop: CropBox { left, top, width, height },
            size: numbers(&case["size"]).try_into().unwrap(),
            expected: image::open(expected).unwrap().to_rgb8().into_raw(),
            name,
        }
    };
    cases.into_iter().map(case).collect()
}

fn resized(image: &Image, case: &Case) -> Vec<u8> {
    let [width, height] = case.size;
    let mut out = vec![0; width * height * 3];
    CropResizer::default().resize(image, case.crop, [height, width], &mut out).unwrap();
    out
}

/// The crop in one go, as training gets it.
fn decoded(decoder: &mut CropDecoder, bytes: &[u8], case: &Case) -> anyhow::Result<Vec<u8>> {
    decoded_with(decoder, bytes, case, false)
}

fn decoded_with(
    decoder: &mut CropDecoder,
    bytes: &[u8],
    case: &Case,
    reduced_decoding: bool,
) -> anyhow::Result<Vec<u8>> {
    let [side, height] = case.size;
    assert_eq!(side, height, "{}", case.name);
    let options = CropOptions {
        image_size: side,
        max_pixels: MAX_PIXELS,
        reduced_decoding,
        exif: Exif::Ignore,
    };
    let mut out = vec![0; side * side * 3];
    decoder.decode(bytes, &options, |_, _| case.crop, &mut out)?;
    Ok(out)
}

/// Every encoding of the cases gives Pillow's crop, up to what decoders may differ by.
#[test]
fn crops_are_pillows() {
    let mut decoder = CropDecoder::default();
    for case in cases() {
        let crop = decoded(&mut decoder, &case.bytes, &case).unwrap();
        let (mean, most, psnr) = compare(&crop, &case.expected);
        println!("{}: mean {mean:.3}, most {most}, PSNR {psnr:.1} dB in one go", case.name);
        assert!(mean <= 1.0 && psnr >= 40.0, "{}: mean {mean}, PSNR {psnr} dB", case.name);
        let mut image = Image::default();
        decode::decode(&case.bytes, MAX_PIXELS, &mut image).unwrap();
        assert_eq!([image.width, image.height], case.source, "{}", case.name);
        let (mean, most, psnr) = compare(&resized(&image, &case), &case.expected);
        println!("{}: mean {mean:.3}, most {most}, PSNR {psnr:.1} dB", case.name);
        assert!(mean <= 1.0, "{}: mean difference {mean}", case.name);
        assert!(psnr >= 40.0, "{}: PSNR {psnr} dB", case.name);
    }
}

/// Decoding at a part of the size is as near to Pillow as other decoders may be.
#[test]
fn reduced_decoding_is_near_pillow() {
    let mut decoder = CropDecoder::default();
    for case in cases() {
        let crop = decoded_with(&mut decoder, &case.bytes, &case, true).unwrap();
        let (mean, most, psnr) = compare(&crop, &case.expected);
        println!("{}: mean {mean:.3}, most {most}, PSNR {psnr:.1} dB reduced", case.name);
        assert!(mean <= 1.0 && psnr >= 40.0, "{}: mean {mean}, PSNR {psnr} dB", case.name);
    }
}

/// A large crop is not the same with and without reduced decoding: the switch does something.
#[test]
fn reduced_decoding_is_another_way() {
    let cases = cases_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/crops"));
    let case = cases.iter().find(|case| case.name == "large.jpg").unwrap();
    let mut decoder = CropDecoder::default();
    let whole = decoded(&mut decoder, &case.bytes, case).unwrap();
    assert!(whole != decoded_with(&mut decoder, &case.bytes, case, true).unwrap());
}

/// From the same pixels (lossless cases), the resize is Pillow's to within a level everywhere.
#[test]
fn resizing_the_same_pixels_is_within_one_level_of_pillow() {
    let is_png = |case: &Case| Encoding::detect(&case.bytes) == Some(Encoding::Png);
    let lossless = cases().into_iter().filter(is_png);
    let mut checked = 0;
    for case in lossless {
        let mut image = Image::default();
        decode::decode(&case.bytes, MAX_PIXELS, &mut image).unwrap();
        let (_, most, _) = compare(&resized(&image, &case), &case.expected);
        assert!(most <= 1, "{}: a difference of {most} levels", case.name);
        checked += 1;
    }
    assert!(checked > 0, "no lossless case to check");
}

/// A crop sees no pixel outside its box: what lies around it must not bleed in at the edges.
#[test]
fn pixels_outside_the_box_do_not_matter() {
    let crop = CropBox { left: 7, top: 5, width: 40, height: 30 };
    let inside = |x, y| (7..47).contains(&x) && (5..35).contains(&y);
    let image = |around: u8| {
        let value = |x: usize, y: usize| if inside(x, y) { (x * 5 + y * 3) as u8 } else { around };
        let pixels = (0..50).flat_map(|y| (0..60).flat_map(move |x| [value(x, y); 3])).collect();
        Image { width: 60, height: 50, pixels }
    };
    let results = [0, 255].map(|around| {
        let mut out = vec![0; 64 * 64 * 3];
        CropResizer::default().resize(&image(around), crop, [64, 64], &mut out).unwrap();
        out
    });
    assert!(results[0] == results[1]);
}

/// Whatever happens to a file's bytes, decoding ends in pixels or in an error, never in a panic,
/// and a file that is cut short is an error, as in Pillow.
#[test]
fn damaged_images_are_errors_not_panics() {
    let mut image = Image::default();
    let mut decoder = CropDecoder::default();
    for case in cases() {
        let length = case.bytes.len();
        if length > 100_000 {
            continue;
        }
        for cut in [0, 1, 2, 11, 20, length / 10, length / 3] {
            let result = decode::decode(&case.bytes[..cut], MAX_PIXELS, &mut image);
            assert!(result.is_err(), "{} cut to {cut} of {length} bytes", case.name);
            let result = decoded(&mut decoder, &case.bytes[..cut], &case);
            assert!(result.is_err(), "{} cut to {cut} of {length} bytes", case.name);
        }
        for place in (0..length.min(700)).chain((700..length).step_by(997)) {
            let mut damaged = case.bytes.clone();
            damaged[place] ^= 0x5b;
            let _ = decode::decode(&damaged, MAX_PIXELS, &mut image);
            let _ = decoded(&mut decoder, &damaged, &case);
        }
    }
}

/// A header that claims a huge image is refused by its numbers, before memory is taken.
#[test]
fn images_above_the_pixel_limit_are_refused() {
    let mut image = Image::default();
    for case in cases() {
        let pixels = (case.source[0] * case.source[1]) as u64;
        decode::decode(&case.bytes, pixels, &mut image).unwrap();
        let error = decode::decode(&case.bytes, pixels - 1, &mut image).unwrap_err();
        assert!(error.to_string().contains("data.max_pixels"), "{}: {error:#}", case.name);
    }
    let mut jpeg = Vec::new();
    image::codecs::jpeg::JpegEncoder::new(&mut jpeg)
        .encode(&[9; 300], 10, 10, image::ExtendedColorType::Rgb8)
        .unwrap();
    let frame =
        jpeg.windows(2).position(|w| w[0] == 0xff && (0xc0..=0xc2).contains(&w[1])).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xdc, 0xff, 0xdc]); // 65,500 × 65,500
    let mut fresh = Image::default();
    let error = decode::decode(&jpeg, 200_000_000, &mut fresh).unwrap_err();
    assert!(error.to_string().contains("data.max_pixels"), "{error:#}");
    assert_eq!(fresh.pixels.capacity(), 0);
}

/// The evaluation crop: the middle of the image, resized by its shorter side.
#[test]
fn the_central_crop_is_the_middle() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wide.png");
    let wide = image::RgbImage::from_fn(101, 64, |x, y| image::Rgb([x as u8, y as u8, 7]));
    wide.save(&file).unwrap();
    let crop = load_central(&file, 64, 60, MAX_PIXELS).unwrap();
    // (101 - 60) / 2 = 20.5 goes to the even number, as torchvision's CenterCrop has it.
    let expected = image::imageops::crop_imm(&wide, 20, 2, 60, 60).to_image().into_raw();
    assert!(crop == expected, "the size is right already, so no pixel may change");
    assert_eq!(load_central(&file, 32, 32, MAX_PIXELS).unwrap().len(), 32 * 32 * 3);
    assert!(load_central(&file, 32, 33, MAX_PIXELS).is_err());
    let error = load_central(&folder.path().join("none.png"), 8, 8, MAX_PIXELS).unwrap_err();
    assert!(format!("{error:#}").contains("none.png"), "{error:#}");
}
