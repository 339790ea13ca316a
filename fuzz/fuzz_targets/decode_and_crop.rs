//! Whatever bytes an image has, decoding it ends in an error or in pixels of the announced size,
//! soon, in memory that `max_pixels` bounds (libFuzzer watches time and memory). The same bytes are
//! tried as the image's mask and depth map.

#![no_main]

use std::cell::RefCell;

use distill_data::image::decode::{self, Image};
use distill_data::image::{CropBox, CropRange, Exif, SampleDecoder, SamplePlan, TargetPlan, Transform};
use distill_data::{CropDecoder, CropOptions, DensePixels, ImageStats};
use libfuzzer_sys::fuzz_target;

const MAX_PIXELS: u64 = 4_000_000;
const SIDE: usize = 64;
const RANGE: CropRange = CropRange { scale: [0.2, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0] };

thread_local! {
    // Reused from image to image, as workers do.
    static MEMORY: RefCell<(Image, CropDecoder, SampleDecoder)> = RefCell::default();
}

fuzz_target!(|encoded: &[u8]| {
    MEMORY.with_borrow_mut(|(image, decoder, targets)| {
        let whole = decode::decode(encoded, MAX_PIXELS, image);
        if whole.is_ok() {
            assert!((image.width * image.height) as u64 <= MAX_PIXELS);
            assert_eq!(image.pixels.len(), image.width * image.height * 3);
        }
        let length = encoded.len();
        let options = CropOptions {
            image_size: SIDE,
            max_pixels: MAX_PIXELS,
            reduced_decoding: length.is_multiple_of(2),
            exif: if length.is_multiple_of(3) { Exif::Apply } else { Exif::Ignore },
        };
        let mut seen = None;
        let choose = |width: usize, height: usize| -> CropBox {
            seen = Some((width, height));
            RANGE.draw_at(0, length as u64, width, height)
        };
        let mut crop = [0; SIDE * SIDE * 3];
        let cropped = decoder.decode(encoded, &options, choose, &mut crop);
        if whole.is_ok() && cropped.is_ok() {
            assert_eq!(seen, Some((image.width, image.height)), "both see the same size");
        }
        if whole.is_ok() {
            try_as_targets(targets, options, image, encoded);
        }
    });
});

/// Whether it decodes as a target or not, only time and memory are watched.
fn try_as_targets(
    decoder: &mut SampleDecoder,
    options: CropOptions,
    image: &Image,
    encoded: &[u8],
) {
    let target = |pixels| TargetPlan { name: "target".into(), pixels };
    let targets = vec![target(DensePixels::Classes), target(DensePixels::Depth)];
    let plan =
        SamplePlan { transform: Transform::Random { seed: 0, range: RANGE }, options, targets };
    let (width, height) = (image.width as u32, image.height as u32);
    let stats = ImageStats { width, height, histogram_entropy: None };
    for (field, bytes) in plan.field_bytes().into_iter().enumerate().skip(1) {
        let mut plane = vec![0; bytes];
        let _ = decoder.field(&plan, field, (0, Some(stats)), encoded, &mut plane);
    }
}
