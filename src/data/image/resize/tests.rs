use proptest::prelude::*;

use super::*;

/// A pass in floating point, rounded to levels: `[lines, from]` to `[lines, to]`.
fn exact_pass(levels: &[f64], from: usize, to: usize) -> Vec<f64> {
    let cubic = |x: f64| match x.abs() {
        x if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
        x if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
        _ => 0.0,
    };
    let scale = from as f64 / to as f64;
    let widening = scale.max(1.0);
    let place = |line: &[f64], place: usize| {
        let center = (place as f64 + 0.5) * scale;
        let start = (center - 2.0 * widening + 0.5).max(0.0) as usize;
        let end = ((center + 2.0 * widening + 0.5) as usize).min(from);
        let weight = |x: usize| cubic((x as f64 + 0.5 - center) / widening);
        let total: f64 = (start..end).map(weight).sum();
        let sum: f64 = (start..end).map(|x| weight(x) * line[x]).sum();
        (sum / total).round().clamp(0.0, 255.0)
    };
    let line = |line: &[f64]| (0..to).map(|x| place(line, x)).collect::<Vec<_>>();
    levels.chunks(from).flat_map(line).collect()
}

fn turned(levels: &[f64], length: usize) -> Vec<f64> {
    let column = |x| levels.iter().skip(x).step_by(length).copied();
    (0..length).flat_map(column).collect()
}

/// Red of the resized image, slowly.
fn exact(image: &Image, crop: CropBox, [height, width]: [usize; 2]) -> Vec<f64> {
    let at = |x: usize, y: usize| {
        let pixel = (crop.top + y) * image.width + crop.left + x;
        f64::from(image.pixels[pixel * 3])
    };
    let rows = (0..crop.height).flat_map(|y| (0..crop.width).map(move |x| at(x, y)));
    let rows: Vec<f64> = rows.collect();
    if is_height_first(crop, [height, width]) {
        let columns = exact_pass(&turned(&rows, crop.width), crop.height, height);
        return exact_pass(&turned(&columns, height), crop.width, width);
    }
    let rows = exact_pass(&rows, crop.width, width);
    turned(&exact_pass(&turned(&rows, width), crop.height, height), height)
}

fn image(width: usize, height: usize, seed: u64, contrast: u64) -> Image {
    let mut state = seed | 1;
    let mut value = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888);
        // Mostly black and white at high contrast, where sums leave the range.
        (((state >> 40) % 256 * contrast).saturating_sub((contrast - 1) * 128)).min(255) as u8
    };
    Image { width, height, pixels: (0..width * height * 3).map(|_| value()).collect() }
}

proptest! {
    /// Any size, from any box, is to within a level what Pillow's formula gives.
    #[test]
    fn any_size_is_within_a_level_of_exact_passes(
        (width, height) in (1..160_usize, 1..160_usize),
        (to_width, to_height) in (1..140_usize, 1..140_usize),
        (left, top) in (0..20_usize, 0..20_usize),
        seed: u64,
        contrast in 1..12_u64,
    ) {
        let image = image(width + left + 3, height + top + 2, seed, contrast);
        let crop = CropBox { left, top, width, height };
        let size = [to_height, to_width];
        let mut out = vec![0; to_height * to_width * 3];
        CropResizer::default().resize(&image, crop, size, &mut out).unwrap();
        let expected = exact(&image, crop, size);
        for (place, (pixel, &expected)) in out.chunks(3).zip(&expected).enumerate() {
            let difference = (f64::from(pixel[0]) - expected).abs();
            prop_assert!(difference <= 1.0, "{} for {expected} at {place}", pixel[0]);
        }
    }

    /// A part of the result is made as the whole is.
    #[test]
    fn a_part_is_cut_from_the_whole(
        (width, height) in (1..200_usize, 1..200_usize),
        (to_width, to_height) in (1..140_usize, 1..140_usize),
        [left, top, right, bottom] in proptest::array::uniform4(0.0..1.0_f64),
        seed: u64,
    ) {
        let image = image(width, height, seed, 3);
        let between = |start: f64, end: f64, length: usize| {
            let start = (start * length as f64) as usize;
            (start, 1 + (end * (length - start) as f64) as usize)
        };
        let (left, part_width) = between(left, right, to_width);
        let (top, part_height) = between(top, bottom, to_height);
        let part = CropBox { left, top, width: part_width, height: part_height };
        let (whole, size) = (CropBox { left: 0, top: 0, width, height }, [to_height, to_width]);
        let mut all = vec![0; to_width * to_height * 3];
        CropResizer::default().resize(&image, whole, size, &mut all).unwrap();
        let rows = all.chunks(to_width * 3).skip(top).take(part_height);
        let expected: Vec<u8> =
            rows.flat_map(|row| &row[left * 3..][..part_width * 3]).copied().collect();
        let mut out = vec![0; expected.len()];
        CropResizer::default().resize_part(&image, size, part, &mut out).unwrap();
        prop_assert_eq!(out, expected);
    }

    /// Vector instructions give what plain ones do.
    #[test]
    fn kernels_are_the_same_with_and_without_vectors(
        values in proptest::collection::vec(any::<i16>(), LINES * 7),
        weights in proptest::collection::vec(-3000..9000_i16, 0..7),
    ) {
        let values = values.as_chunks::<LINES>().0;
        let avx2 = Avx2::detect();
        let (mut plain, mut vector) = ([1; LINES], [2; LINES]);
        weighted_sum(values, &weights, None, &mut plain);
        weighted_sum(values, &weights, avx2, &mut vector);
        prop_assert_eq!(plain, vector);
        limited_sum(values, &weights, None, &mut plain);
        limited_sum(values, &weights, avx2, &mut vector);
        prop_assert_eq!(plain, vector);
        let planes = [0, 1, 2].map(|plane: usize| plain.map(|value| (value >> plane) as u8));
        let (mut plain, mut vector) = ([1; LINES * 3], [2; LINES * 3]);
        interleave(&planes, None, &mut plain);
        interleave(&planes, avx2, &mut vector);
        prop_assert_eq!(plain, vector);
    }
}

#[test]
fn the_same_size_changes_nothing_and_one_colour_stays() {
    let pixels: Vec<u8> = (0..37 * 21 * 3).map(|i| (i * 89 % 256) as u8).collect();
    let image = Image { width: 37, height: 21, pixels };
    let whole = CropBox { left: 0, top: 0, width: 37, height: 21 };
    let mut out = vec![0; image.pixels.len()];
    CropResizer::default().resize(&image, whole, [21, 37], &mut out).unwrap();
    assert_eq!(out, image.pixels);
    let even = Image { width: 37, height: 21, pixels: vec![200; 37 * 21 * 3] };
    for (height, width) in [(1, 1), (256, 256), (5, 300)] {
        let mut out = vec![0; height * width * 3];
        CropResizer::default().resize(&even, whole, [height, width], &mut out).unwrap();
        assert!(out.iter().all(|&value| value == 200));
    }
}

/// What would take hundreds of gigabytes as a whole is made in as much memory as its middle needs.
#[test]
fn the_middle_of_a_long_thin_image_is_cheap() {
    for (width, height) in [(2_000_000, 1), (1, 2_000_000)] {
        let image = image(width, height, 5, 1);
        let (size, side) = ([height * 256, width * 256], 256);
        let middle = |length: usize| (length - side) / 2;
        let (left, top) = (middle(size[1]), middle(size[0]));
        let part = CropBox { left, top, width: side, height: side };
        let mut resizer = CropResizer::default();
        let mut out = vec![0; side * side * 3];
        resizer.resize_part(&image, size, part, &mut out).unwrap();
        assert!(resizer.held_bytes() < 1 << 20, "{} bytes", resizer.held_bytes());
        assert!(out.iter().any(|&level| level != out[0]), "nothing is seen");
    }
}

#[test]
fn a_box_outside_the_image_is_an_error() {
    let image = Image { width: 4, height: 4, pixels: vec![0; 48] };
    let resize = |left, width| {
        let crop = CropBox { left, top: 0, width, height: 4 };
        CropResizer::default().resize(&image, crop, [2, 2], &mut [0; 12])
    };
    assert!(resize(0, 4).is_ok());
    assert!(resize(1, 4).is_err() && resize(0, 0).is_err() && resize(usize::MAX, 2).is_err());
}
