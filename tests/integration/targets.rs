//! Samples with dense targets: masks and depth maps beside images, through loader and workers.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use distill::config::DataConfig;
use distill::data::config::TargetConfig;
use distill::data::image::{CropBox, CropRange};
use distill::data::{Dataset, DensePixels, EvaluationPass, Loader, Scratch, WorkerActivity};
use png::{BitDepth, ColorType};
use tempfile::TempDir;

use crate::support::processes::wait_until;
use crate::support::python::{python, run};
use crate::support::shards::{config, open, scan, start, write_tar};

/// Side of the crops. A power of two, so that Pillow's sums of steps are exact.
const SIDE: usize = 32;

/// Width and height of the images: some are enlarged, some wide, some tall.
const SIZES: [(usize, usize); 5] = [(200, 120), (97, 150), (40, 24), (250, 61), (64, 64)];

/// A PNG file of any kind of pixels, which are given as they are stored.
fn png(size: (usize, usize), color: ColorType, depth: BitDepth, rows: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, size.0 as u32, size.1 as u32);
    encoder.set_color(color);
    encoder.set_depth(depth);
    if color == ColorType::Indexed {
        // Colours in which no index can be read.
        encoder.set_palette((0..256).flat_map(|i| [255 - i as u8, 7, 90]).collect::<Vec<u8>>());
    }
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(rows).unwrap();
    writer.finish().unwrap();
    bytes
}

fn pixels<T>(
    (width, height): (usize, usize),
    pixel: impl Fn(usize, usize) -> T,
) -> impl Iterator<Item = T> {
    let place = move |at: usize| (at % width, at / width);
    (0..width * height).map(place).map(move |(x, y)| pixel(x, y))
}

/// An image whose red is the column and whose green is the row.
fn image(size: (usize, usize)) -> Vec<u8> {
    let rows: Vec<u8> = pixels(size, |x, y| [x as u8, y as u8, 128]).flatten().collect();
    let mut bytes = Vec::new();
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 100)
        .encode(&rows, size.0 as u32, size.1 as u32, image::ExtendedColorType::Rgb8)
        .unwrap();
    bytes
}

/// The column of each pixel, as grey levels.
fn columns(size: (usize, usize)) -> Vec<u8> {
    let rows: Vec<u8> = pixels(size, |x, _| x as u8).collect();
    png(size, ColorType::Grayscale, BitDepth::Eight, &rows)
}

/// The row of each pixel, as indices of a palette.
fn rows(size: (usize, usize)) -> Vec<u8> {
    let rows: Vec<u8> = pixels(size, |_, y| y as u8).collect();
    png(size, ColorType::Indexed, BitDepth::Eight, &rows)
}

fn depth_of(x: usize, y: usize) -> u16 {
    (x * 255 + y * 7) as u16
}

fn depth(size: (usize, usize)) -> Vec<u8> {
    let rows: Vec<u8> = pixels(size, |x, y| depth_of(x, y).to_be_bytes()).flatten().collect();
    png(size, ColorType::Grayscale, BitDepth::Sixteen, &rows)
}

/// A shard whose samples are an image, a `.png` beside it, two more targets and a label, which is
/// the sample's number. `change` may change a sample's members.
fn write_shard(
    folder: &Path,
    mut change: impl FnMut(usize, &mut Vec<(String, Vec<u8>)>),
) -> PathBuf {
    let mut members = Vec::new();
    for (number, size) in SIZES.into_iter().enumerate() {
        // The mask may stand before its image.
        let mut sample = vec![
            (format!("a/{number}.png"), columns(size)),
            (format!("a/{number}.jpg"), image(size)),
            (format!("a/{number}.rows.png"), rows(size)),
            (format!("a/{number}.depth.png"), depth(size)),
            (format!("a/{number}.cls"), number.to_string().into_bytes()),
        ];
        change(number, &mut sample);
        members.extend(sample);
    }
    let named: Vec<_> =
        members.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    let path = folder.join("masked.tar");
    write_tar(&path, &named);
    path
}

fn with_targets(shard: &Path) -> DataConfig {
    let target = |name: &str, member: &str, pixels| {
        (name.to_string(), TargetConfig { member: member.to_string(), pixels })
    };
    let targets = BTreeMap::from([
        target("columns", "png", DensePixels::Classes),
        target("rows", "rows.png", DensePixels::Classes),
        target("depth", "depth.png", DensePixels::Depth),
    ]);
    DataConfig { input_size: SIDE, batch_size: 4, targets, ..config(&[shard]) }
}

/// What the loader gives for a position.
struct Given {
    position: u64,
    label: Option<u32>,
    image: Vec<u8>,
    columns: Vec<u8>,
    rows: Vec<u8>,
    depth: Vec<u16>,
}

fn take(loader: &mut Loader) -> Vec<Given> {
    let mut given = Vec::new();
    while let Some(batch) = loader.next_batch().unwrap() {
        assert!(batch.target("mask").is_none(), "no target has this name");
        let part = |bytes: &[u8], place: usize, of: usize| bytes[place * of..][..of].to_vec();
        for (place, position) in batch.positions.clone().enumerate() {
            let plane = |name, of| part(batch.target(name).unwrap(), place, of);
            let depth = plane("depth", SIDE * SIDE * 2);
            given.push(Given {
                position,
                label: batch.labels[place],
                image: part(batch.images(), place, SIDE * SIDE * 3),
                columns: plane("columns", SIDE * SIDE),
                rows: plane("rows", SIDE * SIDE),
                depth: depth.as_chunks().0.iter().map(|&bytes| u16::from_ne_bytes(bytes)).collect(),
            });
        }
    }
    given
}

fn batches(samples: u64) -> impl Iterator<Item = Range<u64>> + Send + 'static {
    (0..samples).step_by(4).map(move |first| first..samples.min(first + 4))
}

/// The pixel of `length` from `start` on that the middle of pixel `place` of `to` lies in.
fn nearest(start: f64, length: usize, to: usize, place: f64) -> usize {
    (start + (place + 0.5) * length as f64 / to as f64).floor() as usize
}

/// That all fields show the pixels of the image that `source` names.
fn check(given: &Given, source: impl Fn(usize, usize) -> (usize, usize)) {
    for (at, image) in given.image.as_chunks::<3>().0.iter().enumerate() {
        let (x, y) = source(at % SIDE, at / SIDE);
        let told = format!("position {}, pixel {at}", given.position);
        assert_eq!((given.columns[at], given.rows[at]), (x as u8, y as u8), "{told}");
        assert_eq!(given.depth[at], depth_of(x, y), "{told}");
        // An interpolated place is within a source pixel or so of the nearest, a few at the edges.
        let off = [i32::from(image[0]) - x as i32, i32::from(image[1]) - y as i32];
        assert!(off.iter().all(|off| off.abs() <= 8), "{told}: the image is off by {off:?}");
    }
}

/// Random crops of training: every target is cut where its image is, to the nearest pixel, which is
/// Pillow's; indices and 16-bit levels stay what they are; worker processes and this one agree.
#[test]
fn masks_are_cropped_as_their_images() {
    let folder = TempDir::new().unwrap();
    let config = with_targets(&write_shard(folder.path(), |_, _| {}));
    let dataset = Arc::new(open(&config, 3).unwrap());
    assert_eq!(dataset.sample_count(), 5, "a `.png` beside an image is no second image");
    let given = take(&mut start(dataset.clone(), &config, batches(20)));
    assert_eq!(given.len(), 20);
    let range = CropRange { scale: config.crop_scale, ratio: config.crop_ratio };
    let (mut jobs, mut scratch) = (Vec::new(), Scratch::default());
    for one in &given {
        let number = one.label.unwrap() as usize;
        let (width, height) = SIZES[number];
        let crop: CropBox = range.draw_at(3, one.position, width, height);
        check(one, |x, y| {
            (
                nearest(crop.left as f64, crop.width, SIDE, x as f64),
                nearest(crop.top as f64, crop.height, SIDE, y as f64),
            )
        });
        let mut here = vec![9; dataset.sample_bytes()];
        dataset.fill(&mut scratch, one.position, &mut here).unwrap().unwrap();
        let depth: Vec<u8> = one.depth.iter().flat_map(|level| level.to_ne_bytes()).collect();
        assert_eq!(here, [&one.image[..], &one.columns, &depth, &one.rows].concat());
        let mask = folder.path().join(format!("{number}.png"));
        std::fs::write(&mask, rows((width, height))).unwrap();
        let CropBox { left, top, .. } = crop;
        jobs.push(serde_json::json!({
            "mask": mask, "size": SIDE, "out": folder.path().join(one.position.to_string()),
            "box": [left, top, left + crop.width, top + crop.height],
        }));
    }
    let list = folder.path().join("jobs.json");
    std::fs::write(&list, serde_json::to_vec(&jobs).unwrap()).unwrap();
    run(python("nearest_crops.py").arg(&list));
    for one in &given {
        let pillow = std::fs::read(folder.path().join(one.position.to_string())).unwrap();
        assert_eq!(one.rows, pillow, "Pillow's mask for position {}", one.position);
    }
}

/// The central square of evaluation, in order; a mask that is not there or does not fit leaves its
/// position black in every plane and is named with its sample.
#[test]
fn central_squares_and_bad_masks() {
    let folder = TempDir::new().unwrap();
    let shard = write_shard(folder.path(), |number, members| match number {
        1 => members.retain(|(name, _)| !name.ends_with("rows.png")),
        3 => members[0].1 = columns((250, 60)),
        _ => {}
    });
    let config = with_targets(&shard);
    let whole = EvaluationPass::WHOLE;
    let dataset = Dataset::for_evaluation(&config, "shards", whole, &|_, _| {}).unwrap();
    let dataset = Arc::new(dataset);
    let given = take(&mut start(dataset.clone(), &config, batches(5)));
    assert_eq!(given.len(), 5);
    for (one, (width, height)) in given.iter().zip(SIZES) {
        if [1, 3].contains(&one.position) {
            let dark =
                one.image.iter().chain(&one.columns).chain(&one.rows).all(|&level| level == 0);
            assert!(dark && one.depth.iter().all(|&level| level == 0) && one.label.is_none());
            continue;
        }
        let short = width.min(height);
        let middle = |length: usize| {
            let resized = SIDE * length / short;
            (resized, ((resized - SIDE) as f64 / 2.0).round_ties_even())
        };
        let ((across, left), (down, top)) = (middle(width), middle(height));
        check(one, |x, y| {
            (
                nearest(0.0, width, across, left + x as f64),
                nearest(0.0, height, down, top + y as f64),
            )
        });
    }
    assert_eq!(dataset.failure_counts().failed, 2);
    let bad = dataset.check(&|| {}).bad;
    let told: Vec<String> = bad.iter().map(|(name, error)| format!("{name}: {error:#}")).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    for part in ["masked.tar", "`a/1.jpg`", "`.rows.png`", "`rows`"] {
        assert!(told[0].contains(part), "`{part}` is not in {}", told[0]);
    }
    for part in ["`a/3.jpg`", "`columns`", "250×60", "250×61"] {
        assert!(told[1].contains(part), "`{part}` is not in {}", told[1]);
    }
    let strict = DataConfig { max_failed_share: 0.0, ..config };
    let strict = open(&strict, 0).unwrap();
    let mut out = vec![0; strict.sample_bytes()];
    let errors = (0..20).filter_map(|p| strict.fill(&mut Scratch::default(), p, &mut out).err());
    let error = format!("{:#}", errors.last().unwrap());
    assert!(error.contains("data.max_failed_share") && error.contains("masked.tar"), "{error}");
}

/// Classes of fewer bits than a byte are what is stored, and colours are no classes.
#[test]
fn pixels_of_every_kind_are_classes_or_refused() {
    let folder = TempDir::new().unwrap();
    let size = SIZES[4];
    let bits = |bits: usize| -> Vec<u8> {
        let class = |x: usize| (x % (1 << bits)) as u8;
        let row: Vec<u8> = (0..size.0).map(class).collect();
        let per_byte = 8 / bits;
        let pack = |part: &[u8]| part.iter().fold(0, |byte, &class| byte << bits | class);
        let packed: Vec<u8> = row.chunks(per_byte).map(pack).collect();
        packed.repeat(size.1)
    };
    let cases = [
        ("grey 1", ColorType::Grayscale, BitDepth::One, bits(1), Ok(2)),
        ("palette 2", ColorType::Indexed, BitDepth::Two, bits(2), Ok(4)),
        ("palette 4", ColorType::Indexed, BitDepth::Four, bits(4), Ok(16)),
        ("colours", ColorType::Rgb, BitDepth::Eight, vec![1; 64 * 64 * 3], Err("Rgb")),
        ("deep", ColorType::Grayscale, BitDepth::Sixteen, vec![1; 64 * 64 * 2], Err("16-bit")),
    ];
    for (name, color, depth, rows, expected) in cases {
        let mask = png(size, color, depth, &rows);
        let shard = folder.path().join(format!("{name}.tar"));
        write_tar(&shard, &[("b.jpg", image(size)), ("b.png", mask)]);
        let mut config = with_targets(&shard);
        config.targets.retain(|name, _| name == "columns");
        config.input_size = 64;
        let pass = EvaluationPass::WHOLE;
        let dataset = Dataset::for_evaluation(&config, "shards", pass, &|_, _| {}).unwrap();
        let mut out = vec![7; dataset.sample_bytes()];
        let made = dataset.fill(&mut Scratch::default(), 0, &mut out).unwrap();
        let classes = &out[64 * 64 * 3..];
        match expected {
            Ok(count) => {
                let right = pixels(size, |x, _| (x % count) as u8).eq(classes.iter().copied());
                assert!(made.is_some() && right, "{name}: {:?}", &classes[..20]);
            }
            Err(part) => {
                assert!(made.is_none(), "{name} is refused");
                let bad = dataset.check(&|| {}).bad;
                assert!(format!("{:#}", bad[0].1).contains(part), "{name}: {:#}", bad[0].1);
            }
        }
    }
}

/// A data set that asks for no targets sees the same shard as always: the same index file, the same
/// fingerprint, the first image of each key. One that asks for them keeps an index of its own.
#[test]
fn targets_leave_the_plain_data_set_alone() {
    let folder = TempDir::new().unwrap();
    let shard = write_shard(folder.path(), |_, members| members.swap(0, 1));
    let plain = config(&[&shard]);
    let before = open(&plain, 0).unwrap();
    let index = folder.path().join("masked.tar.distill-index");
    let bytes = std::fs::read(&index).unwrap();
    let masked = open(&with_targets(&shard), 0).unwrap();
    assert_ne!(masked.fingerprint(), before.fingerprint(), "other fields, another data set");
    assert_eq!(masked.sample_count(), before.sample_count());
    let own = folder.path().join("masked.tar.png.depth.png.rows.png.distill-index");
    assert!(own.exists(), "{:?}", std::fs::read_dir(folder.path()).unwrap().collect::<Vec<_>>());
    assert_eq!(std::fs::read(&index).unwrap(), bytes, "the plain index is left alone");
    let again = open(&plain, 0).unwrap();
    assert_eq!(again.fingerprint(), before.fingerprint());
    assert_eq!(scan(&shard).unwrap().rows(), 5);
    let kept = open(&with_targets(&shard), 0).unwrap();
    assert_eq!(kept.fingerprint(), masked.fingerprint(), "from the kept index");
    for wrong in ["", ".png", "../png", "cls", "rows.png"] {
        let mut config = with_targets(&shard);
        config.targets.get_mut("columns").unwrap().member = wrong.to_string();
        let error = format!("{:#}", open(&config, 0).err().unwrap());
        assert!(error.contains("target `"), "{wrong}: {error}");
    }
}

/// What a loader tells of itself while it stands still: batches are ready, the workers wait.
#[test]
fn a_loader_tells_what_it_does() {
    let folder = TempDir::new().unwrap();
    let shard = write_shard(folder.path(), |_, _| {});
    let config = DataConfig { prefetch_batches: 3, ..with_targets(&shard) };
    let dataset = Arc::new(open(&config, 0).unwrap());
    let mut loader = start(dataset, &config, batches(20));
    let monitor = loader.monitor();
    drop(loader.next_batch().unwrap());
    wait_until("three batches are ready", || {
        loader.is_ready() && loader.status().ready_batches == 3
    });
    let idle = || monitor.status().workers.iter().all(|w| w.activity == WorkerActivity::Idle);
    wait_until("the workers wait", idle);
    let status = std::thread::spawn(move || monitor.status()).join().unwrap();
    assert_eq!((status.next_position, status.missing), (Some(4), 0));
    assert_eq!((status.pending_batches, status.queued, status.workers.len()), (3, 0, 2));
    assert_eq!(
        status.workers.iter().map(|worker| worker.process_id).collect::<Vec<_>>(),
        loader.statistics().workers
    );
    let text = status.to_string();
    assert!(text.contains("3 of 3 batches ready") && text.contains("position 4"), "{text}");
    assert!(text.contains("worker-1: process") && text.contains("waits for samples"), "{text}");
}
