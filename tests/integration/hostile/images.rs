//! Odd and hostile images, against Pillow and against limits.

use std::fs;
use std::path::Path;

use distill::data::image::decode::{self, Encoding, Image};
use distill::data::image::{CropBox, Exif};
use distill::data::{CropDecoder, CropOptions};
use distill::native::peak_memory;

use crate::support::pixels::compare;
use crate::support::processes::peak_of;
use crate::support::python::{python, run};
use crate::support::shards::{jpeg, write_tar};
use crate::support::workshop::{Finished, Workshop};

const MAX_PIXELS: u64 = 200_000_000;

/// Images in every form that Pillow or the test's own writer makes, and Pillow's pixels.
fn pillows() -> Vec<(String, Vec<u8>, image::RgbImage)> {
    let folder = tempfile::tempdir().unwrap();
    run(python("make_pictures.py").arg(folder.path()));
    let mut names: Vec<String> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".expected.png"))
        .collect();
    names.sort();
    let read = |name: String| {
        let expected = folder.path().join(format!("{name}.expected.png"));
        let bytes = fs::read(folder.path().join(&name)).unwrap();
        (name, bytes, image::open(expected).unwrap().to_rgb8())
    };
    names.into_iter().map(read).collect()
}

/// The whole image through the decoder that workers use, at its own size where it is square.
fn crop_of(bytes: &[u8], side: usize) -> anyhow::Result<Vec<u8>> {
    let mut out = vec![0; side * side * 3];
    let options = CropOptions {
        image_size: side,
        max_pixels: MAX_PIXELS,
        reduced_decoding: false,
        exif: Exif::Ignore,
    };
    let corner = |_, _| CropBox { left: 0, top: 0, width: side, height: side };
    CropDecoder::default().decode(bytes, &options, corner, &mut out)?;
    Ok(out)
}

/// Every colour type, depth and layout of PNG; JPEGs with four channels, restart marks, EXIF
/// rotation, several images or garbage behind; WebP with alpha and animations: the pixels are
/// those of Pillow's `convert("RGB")`, exactly where nothing is lossy.
#[test]
fn every_form_of_image_is_read_as_pillow_reads_it() {
    let cases = pillows();
    assert!(cases.len() > 45, "{} images were made", cases.len());
    let mut wrong = Vec::new();
    for (name, bytes, expected) in &cases {
        let mut image = Image::default();
        if let Err(error) = decode::decode(bytes, MAX_PIXELS, &mut image) {
            wrong.push(format!("{name}: {error:#}"));
            continue;
        }
        let size = (image.width as u32, image.height as u32);
        assert_eq!(size, expected.dimensions(), "{name}");
        let side = image.width.min(image.height);
        let corner = image::imageops::crop_imm(expected, 0, 0, side as u32, side as u32).to_image();
        let crop = crop_of(bytes, side).unwrap();
        for (what, found, expected) in
            [("whole", &image.pixels, expected.as_raw()), ("crop", &crop, corner.as_raw())]
        {
            let (mean, most, psnr) = compare(found, expected);
            let lossless = name.ends_with(".png") || name.contains("lossless");
            let close = if lossless { most == 0 } else { mean <= 1.0 && psnr >= 40.0 };
            if !close {
                wrong.push(format!("{name}, {what}: mean {mean:.2}, most {most}, {psnr:.1} dB"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Half an image is a bad image in every encoding, and so is nothing at all.
#[test]
fn half_images_are_errors() {
    for (name, bytes, _) in pillows() {
        if name.contains("behind") || name.starts_with("several") {
            continue; // half of these is a whole first image
        }
        let half = &bytes[..bytes.len() / 2];
        let first_of_several = name.starts_with("animated.png");
        let mut image = Image::default();
        let decoded = decode::decode(half, MAX_PIXELS, &mut image);
        assert!(decoded.is_err() || first_of_several, "half of {name} decodes");
        assert!(crop_of(half, 8).is_err() || first_of_several, "half of {name} gives a crop");
        for cut in 0..bytes.len().min(40) {
            assert!(crop_of(&bytes[..cut], 8).is_err(), "{cut} bytes of {name} give a crop");
        }
    }
}

fn png_chunk(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let mut checksum = flate2::Crc::new();
    checksum.update(kind);
    checksum.update(content);
    let length = (content.len() as u32).to_be_bytes();
    [&length, &kind[..], content, &checksum.sum().to_be_bytes()].concat()
}

/// Headers that announce 65,000 × 65,000 pixels (WebP without a canvas: 16,383 × 16,383), with
/// little or nothing behind them.
fn huge_pictures() -> Vec<(&'static str, Vec<u8>)> {
    const SIDE: u32 = 65_000;
    let mut jpeg = jpeg(1);
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    let side = (SIDE as u16).to_be_bytes();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[side, side].concat());
    let mut progressive = jpeg.clone();
    progressive[frame + 1] = 0xc2;

    let size = [SIDE.to_be_bytes(), SIDE.to_be_bytes()].concat();
    let png = |depth: u8, color: u8, interlaced: u8| {
        let head = [&size[..], &[depth, color, 0, 0, interlaced]].concat();
        let data = png_chunk(b"IDAT", &[0x78, 0x9c, 0x03, 0, 0, 0, 0, 1]);
        let end = png_chunk(b"IEND", &[]);
        [&b"\x89PNG\r\n\x1a\n"[..], &png_chunk(b"IHDR", &head), &data, &end].concat()
    };

    let chunk = |kind: &[u8; 4], content: &[u8]| {
        let padding = &[0][..content.len() % 2];
        [kind, &(content.len() as u32).to_le_bytes(), content, padding].concat()
    };
    let riff = |chunks: Vec<u8>| chunk(b"RIFF", &[b"WEBP", &chunks[..]].concat());
    let canvas = (SIDE - 1).to_le_bytes();
    let canvas = chunk(b"VP8X", &[&[0; 4], &canvas[..3], &canvas[..3]].concat());
    let small_canvas = |flags: u8| chunk(b"VP8X", &[flags, 0, 0, 0, 9, 0, 0, 9, 0, 0]);
    let small = chunk(b"VP8L", &[0x2f, 0, 0, 0, 0, 0]);
    let lossless = chunk(b"VP8L", &[0x2f, 0xfe, 0xbf, 0xff, 0x0f, 0]);
    let lossy = chunk(b"VP8 ", &[0, 0, 0, 0x9d, 1, 0x2a, 0xff, 0x3f, 0xff, 0x3f]);
    // The frame is not of the canvas's size, which is only found out when it is decoded.
    let frame_in = |before: Vec<u8>| {
        let place = [0, 0, 0, 0, 0, 0, 9, 0, 0, 9, 0, 0, 0, 0, 0, 0];
        chunk(b"ANMF", &[&place[..], &before, &lossy].concat())
    };
    let animated = [small_canvas(2), chunk(b"ANIM", &[0; 6])].concat();
    let transparent = frame_in(chunk(b"ALPH", &[0; 101]));
    vec![
        ("frame_in_canvas.webp", riff([small_canvas(0), lossy.clone()].concat())),
        ("frame_in_animation.webp", riff([&animated[..], &frame_in(vec![])].concat())),
        ("transparent_frame.webp", riff([&animated[..], &transparent].concat())),
        ("baseline.jpg", jpeg),
        ("progressive.jpg", progressive),
        ("rgb.png", png(8, 2, 0)),
        ("wide_interlaced.png", png(16, 6, 1)),
        ("one_bit.png", png(1, 0, 0)),
        ("extended.webp", riff([canvas, small].concat())),
        ("lossless.webp", riff(lossless)),
        ("lossy.webp", riff(lossy.clone())),
    ]
}

/// A header that announces a huge image is refused for what it says, in no memory worth
/// mentioning.
#[test]
fn huge_headers_are_refused_without_memory() {
    let grown = peak_of("hostile::images::child_decodes_huge_headers", Path::new(""));
    println!("refusing huge headers took {grown} bytes");
    assert!(grown < 4 << 20, "refusing huge headers took {grown} bytes");
}

#[test]
#[ignore = "a child process of huge_headers_are_refused_without_memory"]
fn child_decodes_huge_headers() {
    let images = huge_pictures();
    let before = peak_memory().unwrap();
    for (name, bytes) in &images {
        let mut image = Image::default();
        let error = decode::decode(bytes, MAX_PIXELS, &mut image).unwrap_err().to_string();
        assert!(error.contains("data.max_pixels"), "{name}: {error}");
        let error = crop_of(bytes, 8).unwrap_err().to_string();
        assert!(error.contains("data.max_pixels"), "{name}, crop: {error}");
    }
    println!("\npeak {}", peak_memory().unwrap() - before);
}

/// Bad images of every kind: each is listed by `data check`, and a training run steps over
/// them with one warning each.
#[test]
fn bad_images_are_named_and_stepped_over() {
    let workshop = Workshop::new();
    let mut members: Vec<(String, Vec<u8>)> =
        huge_pictures().into_iter().map(|(name, bytes)| (format!("huge_{name}"), bytes)).collect();
    let whole = jpeg(5);
    members.push(("half.jpg".into(), whole[..whole.len() / 2].to_vec()));
    members.push(("empty.jpg".into(), Vec::new()));
    members.push(("page.png".into(), b"<html>not found</html>".to_vec()));
    // Each member needs a key of its own, which ends at the first dot.
    for member in &mut members {
        member.0 = member.0.replacen('.', "_", 1) + ".jpg";
    }
    workshop.shard("shards/bad.tar", &members);
    let check = workshop.command(&["data", "check", "shards/*.tar"]).output().unwrap();
    let check = Finished::of(check).fails(1, &[&format!("{} images are bad", members.len())]);
    for (name, _) in &members {
        let lines = check.stdout.lines().filter(|line| line.contains(&format!("`{name}`")));
        assert_eq!(lines.count(), 1, "{name}: {}", check.stdout);
    }
    let trained = workshop.train(&["data.max_failed_share=0.9"]).succeeds();
    let skipped = trained.stderr.lines().filter(|line| line.contains("skipped")).count();
    assert!(skipped > 0 && skipped <= members.len(), "{}", trained.stderr);
    for (name, _) in &members {
        let lines = trained.stderr.lines().filter(|line| line.contains(&format!("`{name}`")));
        assert!(lines.count() <= 1, "{name} is named once: {}", trained.stderr);
    }
}

/// An image's kind is told by its content: a name that lies does no harm.
#[test]
fn names_need_not_fit_the_content() {
    let folder = tempfile::tempdir().unwrap();
    let shard = folder.path().join("a.tar");
    write_tar(&shard, &[("a.png", jpeg(9)), ("b.webp", jpeg(9))]);
    let mut check = assert_cmd::Command::new(env!("CARGO_BIN_EXE_distill"));
    check.args(["data", "check", shard.to_str().unwrap()]).assert().success();
    assert_eq!(Encoding::detect(&jpeg(9)), Some(Encoding::Jpeg));
}
