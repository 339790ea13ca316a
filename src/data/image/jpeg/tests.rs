use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use proptest::prelude::*;

use super::*;
use crate::image::decode::{self, Image};
use crate::image::strips::{LINES, MIDDLE, SAMPLE_FRACTION};

/// What makes a test image.
#[derive(Debug, Clone)]
struct Recipe {
    width: u16,
    height: u16,
    sampling: SamplingFactor,
    grey: bool,
    quality: u8,
    restart_interval: u16,
    seed: u64,
}

fn recipes() -> impl Strategy<Value = Recipe> {
    let samplings = [
        SamplingFactor::F_1_1,
        SamplingFactor::F_2_1,
        SamplingFactor::F_1_2,
        SamplingFactor::F_2_2,
    ];
    (
        (1..90_u16, 1..90_u16),
        proptest::sample::select(samplings.to_vec()),
        proptest::bool::weighted(0.1),
        20..100_u8,
        prop_oneof![Just(0_u16), 1..9_u16],
        any::<u64>(),
    )
        .prop_map(|(size, sampling, grey, quality, restart_interval, seed)| Recipe {
            width: size.0,
            height: size.1,
            sampling,
            grey,
            quality,
            restart_interval,
            seed,
        })
}

impl Recipe {
    /// Slopes, edges and noise.
    fn pixels(&self) -> Vec<u8> {
        let mut state = self.seed | 1;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888);
            (state >> 58) as usize
        };
        let channels = if self.grey { 1 } else { 3 };
        let mut pixels = Vec::new();
        for y in 0..usize::from(self.height) {
            for x in 0..usize::from(self.width) {
                for channel in 0..channels {
                    let edge = if (x / 11 + y / 7) % 3 == channel { 80 } else { 0 };
                    pixels.push(((x * 2 + y + edge + noise()) % 256) as u8);
                }
            }
        }
        pixels
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes, self.quality);
        encoder.set_sampling_factor(self.sampling);
        encoder.set_restart_interval(self.restart_interval);
        let kind = if self.grey { ColorType::Luma } else { ColorType::Rgb };
        encoder.encode(&self.pixels(), self.width, self.height, kind).unwrap();
        bytes
    }

    fn whole(&self) -> CropBox {
        let (width, height) = (usize::from(self.width), usize::from(self.height));
        CropBox { left: 0, top: 0, width, height }
    }

    /// A box inside, from four shares.
    fn crop(&self, [x, y, width, height]: [f64; 4]) -> CropBox {
        let within = |length: u16, at: f64, share: f64| {
            let part = 1 + (f64::from(length - 1) * share) as usize;
            ((f64::from(length) - part as f64) * at, part)
        };
        let (left, width) = within(self.width, x, width);
        let (top, height) = within(self.height, y, height);
        CropBox { left: left as usize, top: top as usize, width, height }
    }
}

/// The sample of a component at a place of the image's own samples.
struct Samples<'a> {
    strips: &'a Strips,
    extents: [Extent; 2],
    lines_are_columns: bool,
}

impl Samples<'_> {
    fn at(&self, x: usize, y: usize) -> i16 {
        let (x, y) = (x - self.extents[0].first, y - self.extents[1].first);
        let (line, place) = if self.lines_are_columns { (x, y) } else { (y, x) };
        self.strips.strip(line / LINES)[place][line % LINES]
    }

    fn level(&self, x: usize, y: usize) -> f64 {
        f64::from((i32::from(self.at(x, y)) >> SAMPLE_FRACTION) + MIDDLE)
    }

    /// The level of a pixel, smoothed where samples are for several.
    fn smoothed(&self, x: usize, y: usize) -> f64 {
        let shares = |extent: Extent, x: usize| match (extent.pixels, extent.count) {
            (1, _) => [(x, 1.0), (x, 0.0)],
            (_, 1 | 2) => [(x / 2, 1.0), (x / 2, 0.0)],
            (_, count) if x % 2 == 1 => [(x / 2, 0.75), ((x / 2 + 1).min(count - 1), 0.25)],
            _ => [(x / 2, 0.75), ((x / 2).saturating_sub(1), 0.25)],
        };
        let mut level = 0.0;
        for (x, x_share) in shares(self.extents[0], x) {
            for (y, y_share) in shares(self.extents[1], y) {
                if x_share * y_share > 0.0 {
                    level += self.level(x, y) * x_share * y_share;
                }
            }
        }
        level
    }
}

fn decode(
    bytes: &[u8],
    crop: CropBox,
    lines_are_columns: bool,
    reduction: usize,
) -> (Frame, JpegDecoder) {
    let frame = Frame { reduction, ..Frame::read(bytes).expect("a usual image") };
    let mut decoder = JpegDecoder::default();
    decoder.decode(&frame, bytes, crop, lines_are_columns).unwrap();
    (frame, decoder)
}

proptest! {
    /// What is left out must not change what is not: samples for a crop, and its neighbours that
    /// count for it, are those of the whole image.
    #[test]
    fn a_crop_has_the_samples_of_the_whole(
        recipe in recipes(),
        shares in [0.0..1.0, 0.0..1.0, 0.0..1.0, 0.0..1.0],
        lines_are_columns: bool,
        reduction in proptest::sample::select(vec![1, 1, 2, 4, 8]),
    ) {
        let bytes = recipe.encode();
        let crop = recipe.crop(shares);
        let (frame, whole) = decode(&bytes, recipe.whole(), lines_are_columns, reduction);
        let (_, part) = decode(&bytes, crop, lines_are_columns, reduction);
        for component in 0..frame.component_count() {
            let of = |decoder: &JpegDecoder, x, y, crop| Samples {
                strips: &decoder.samples[component],
                extents: frame.extents(component, crop),
                lines_are_columns,
            }.at(x, y);
            let [across, down] = frame.extents(component, crop);
            let range = |extent: Extent, start: usize, length: usize| {
                let (start, end) = (start / reduction, (start + length).div_ceil(reduction));
                match extent.pixels {
                    1 => start..end,
                    _ => start.saturating_sub(1) / 2..(end / 2).min(extent.count - 1) + 1,
                }
            };
            for y in range(down, crop.top, crop.height) {
                for x in range(across, crop.left, crop.width) {
                    prop_assert_eq!(
                        of(&part, x, y, crop),
                        of(&whole, x, y, recipe.whole()),
                        "component {} at {}, {}", component, x, y
                    );
                }
            }
        }
    }

    /// What is handed on strip by strip is what a decoder that keeps everything has in the end, and
    /// nothing is missing or comes twice.
    #[test]
    fn strips_are_those_of_the_whole_region(
        recipe in recipes(),
        shares in [0.0..1.0, 0.0..1.0, 0.0..1.0, 0.0..1.0],
        reduction in proptest::sample::select(vec![1, 1, 2, 4, 8]),
    ) {
        let bytes = recipe.encode();
        let crop = recipe.crop(shares);
        let (frame, kept) = decode(&bytes, crop, false, reduction);
        let mut next = [0; 3];
        let mut different = Vec::new();
        let mut take = |component: usize, strip: usize, places: &[[i16; LINES]]| {
            let lines = (frame.sample_rows(component, crop) - strip * LINES).min(LINES);
            let expected = kept.samples[component].strip(strip);
            let same = places.iter().zip(expected).all(|(a, b)| a[..lines] == b[..lines]);
            if strip != next[component] || places.len() != expected.len() || !same {
                different.push((component, strip));
            }
            next[component] += 1;
        };
        JpegDecoder::default().decode_strips(&frame, &bytes, crop, &mut take).unwrap();
        prop_assert_eq!(different, []);
        for (component, strips) in next.into_iter().enumerate().take(frame.component_count()) {
            prop_assert_eq!(strips, frame.sample_rows(component, crop).div_ceil(LINES));
        }
    }

    /// libjpeg-turbo gives the same image. Single values may differ by a level or two of rounding in each
    /// sample, which colours multiply by up to 1.8; on the average there is next to no difference. Below the edges
    /// it smooths chroma with what the encoder filled the last blocks up with.
    #[test]
    fn whole_images_are_those_of_libjpeg_turbo(recipe in recipes(), lines_are_columns: bool) {
        let bytes = recipe.encode();
        let mut expected = Image::default();
        decode::decode(&bytes, 1 << 20, &mut expected).unwrap();
        let (frame, decoder) = decode(&bytes, recipe.whole(), lines_are_columns, 1);
        let samples: Vec<Samples> = (0..frame.component_count()).map(|component| Samples {
            strips: &decoder.samples[component],
            extents: frame.extents(component, recipe.whole()),
            lines_are_columns,
        }).collect();
        let pixels = expected.pixels.as_chunks::<3>().0.iter().enumerate();
        let (mut sum, mut count) = (0.0, 0.0);
        for (place, pixel) in pixels {
            let (x, y) = (place % frame.width, place / frame.width);
            let inside = |at: usize, length: usize| at >= 2 && at + 2 < length;
            if !inside(x, frame.width) || !inside(y, frame.height) {
                continue;
            }
            let levels: Vec<f64> = samples.iter().map(|plane| plane.smoothed(x, y)).collect();
            let rgb = match levels[..] {
                [luma, blue, red] => [
                    luma + 1.402 * (red - 128.0),
                    luma - 0.344_136 * (blue - 128.0) - 0.714_136 * (red - 128.0),
                    luma + 1.772 * (blue - 128.0),
                ],
                _ => [levels[0]; 3],
            };
            for (found, &expected) in rgb.iter().zip(pixel) {
                let difference = (found.clamp(0.0, 255.0) - f64::from(expected)).abs();
                prop_assert!(difference <= 7.0, "{found} for {expected} at {x}, {y}");
                sum += difference;
                count += 1.0;
            }
        }
        let few = count < 600.0;
        prop_assert!(few || sum <= count, "a mean difference of {} levels", sum / count);
    }

    /// Whatever happens to its bytes, decoding an image ends, in samples or in an error.
    #[test]
    fn damage_is_no_panic(
        recipe in recipes(),
        changes in proptest::collection::vec((0.0..1.0, any::<u8>()), 1..8),
        cut in 0.0..3.0,
        shares in [0.0..1.0, 0.0..1.0, 0.0..1.0, 0.0..1.0],
    ) {
        let mut bytes = recipe.encode();
        for (at, value) in changes {
            let at = (bytes.len() as f64 * at) as usize;
            bytes[at] = value;
        }
        bytes.truncate((bytes.len() as f64 * cut) as usize);
        if let Some(frame) = Frame::read(&bytes)
            && frame.width * frame.height < 1 << 22
        {
            let crop = Recipe { width: frame.width as u16, height: frame.height as u16, ..recipe }
                .crop(shares);
            let _ = JpegDecoder::default().decode(&frame, &bytes, crop, false);
        }
    }
}

/// Data that end before the crop does are an error, and what comes behind it is not read.
#[test]
fn missing_data_are_an_error_where_they_are_needed() {
    let recipe = Recipe {
        width: 80,
        height: 80,
        sampling: SamplingFactor::F_2_2,
        grey: false,
        quality: 90,
        restart_interval: 0,
        seed: 5,
    };
    let bytes = recipe.encode();
    let frame = Frame::read(&bytes).unwrap();
    let cut = frame.data_start + (bytes.len() - frame.data_start) / 2;
    let mut decoder = JpegDecoder::default();
    let mut decode = |crop| decoder.decode(&frame, &bytes[..cut], crop, false);
    assert!(decode(CropBox { left: 0, top: 0, width: 80, height: 16 }).is_ok());
    let error = decode(recipe.whole()).unwrap_err();
    assert!(error.to_string().contains("truncated"), "{error}");
}
