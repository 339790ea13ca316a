//! Evaluation passes through real worker processes: Pillow's central squares, every image once
//! and in order, whatever the number of workers and whoever of them dies.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use distill::config::DataConfig;
use distill::data::image::decode::Encoding;
use distill::data::{Dataset, EvaluationPass, ImageStats, Loader, Scratch};

use crate::crops::compare;
use crate::data::{Member, config, corrupt_jpeg, jpeg, start, write_tar};
use crate::weights::{golden, python, run};
use crate::workers::kill;

/// What a pass gives for one image.
#[derive(Debug, Clone, PartialEq)]
struct Given {
    pixels: Vec<u8>,
    label: Option<u32>,
    image: Option<ImageStats>,
}

fn open(config: &DataConfig, most_samples: u64) -> Arc<Dataset> {
    let pass = EvaluationPass { most_samples, measure: true };
    Arc::new(Dataset::for_evaluation(config, "shards", pass, &|_, _| {}).unwrap())
}

/// The whole pass, through workers that `disturb` may kill.
fn through_workers(
    dataset: &Arc<Dataset>,
    config: &DataConfig,
    mut disturb: impl FnMut(&Loader),
) -> Vec<Given> {
    let (batch, samples) = (config.batch_size as u64, dataset.sample_count());
    let ranges = (0..samples).step_by(config.batch_size);
    let ranges = ranges.map(move |first| first..samples.min(first + batch));
    let mut loader = start(dataset.clone(), config, ranges);
    let mut given = Vec::new();
    while let Some(batch) = loader.next_batch().unwrap() {
        assert_eq!(batch.positions.start, given.len() as u64);
        let pixels = batch.images().chunks(dataset.sample_bytes());
        let facts = batch.labels.iter().zip(&batch.images);
        given.extend(pixels.zip(facts).map(|(pixels, (&label, &image))| Given {
            pixels: pixels.to_vec(),
            label,
            image,
        }));
        disturb(&loader);
    }
    given
}

/// The same in this process.
fn in_process(dataset: &Dataset) -> Vec<Given> {
    let mut scratch = Scratch::default();
    let make = |position| {
        let mut pixels = vec![1; dataset.sample_bytes()];
        let sample = dataset.fill(&mut scratch, position, &mut pixels).unwrap();
        let label = sample.as_ref().and_then(|sample| sample.location.label);
        Given { pixels, label, image: sample.map(|sample| sample.image) }
    };
    (0..dataset.sample_count()).map(make).collect()
}

/// The golden crops' sources: every encoding, tall, wide and upscaled.
fn images() -> Vec<PathBuf> {
    let is_source = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        !name.contains(".expected.") && !name.ends_with(".json")
    };
    let entries = std::fs::read_dir(golden("crops")).unwrap();
    let mut sources: Vec<_> =
        entries.map(|entry| entry.unwrap().path()).filter(is_source).collect();
    sources.sort();
    assert!(sources.len() >= 9, "only {} images", sources.len());
    sources
}

fn write_shard(path: &Path, sources: &[PathBuf]) {
    let names: Vec<_> =
        sources.iter().map(|path| path.file_name().unwrap().to_string_lossy()).collect();
    let members: Vec<Member<'_>> = names
        .iter()
        .zip(sources)
        .map(|(name, path)| (&**name, std::fs::read(path).unwrap()))
        .collect();
    write_tar(path, &members);
}

/// What workers cut of every encoding is what torchvision's Resize and CenterCrop cut with Pillow, up
/// to what decoders differ by; of lossless images to within a level.
#[test]
fn central_squares_are_pillows() {
    let folder = tempfile::tempdir().unwrap();
    let sources = images();
    write_shard(&folder.path().join("a.tar"), &sources);
    for side in [64, 75, 224] {
        let mut config = config(&[&folder.path().join("a.tar")]);
        config.input_size = side;
        let given = through_workers(&open(&config, u64::MAX), &config, |_| {});
        let out = folder.path().join("expected");
        run(python("central_crops.py").arg(side.to_string()).arg(&out).args(&sources));
        let expected = std::fs::read(&out).unwrap();
        assert_eq!(given.len() * side * side * 3, expected.len());
        let mut lossless = 0;
        for ((given, expected), path) in
            given.iter().zip(expected.chunks(side * side * 3)).zip(&sources)
        {
            let (mean, most, psnr) = compare(&given.pixels, expected);
            let name = path.display();
            println!("{name} to {side}: mean {mean:.3}, most {most}, PSNR {psnr:.1} dB");
            if Encoding::detect(&std::fs::read(path).unwrap()) == Some(Encoding::Png) {
                assert!(most <= 1, "{name} to {side}: a difference of {most} levels");
                lossless += 1;
            }
            assert!(mean <= 1.0 && psnr >= 40.0, "{name} to {side}: mean {mean}, PSNR {psnr} dB");
        }
        assert!(lossless >= 2, "only {lossless} lossless images");
    }
}

/// 60 labelled images in two shards, three of which do not decode.
fn labelled_shards(folder: &Path) -> DataConfig {
    for shard in 0..2u8 {
        let members: Vec<(String, Vec<u8>)> = (0..30u8)
            .flat_map(|row| {
                let number = shard * 30 + row;
                let bytes = if number % 25 == 3 { corrupt_jpeg() } else { jpeg(number * 4) };
                let label = (number % 7).to_string().into_bytes();
                [(format!("{row:02}.jpg"), bytes), (format!("{row:02}.cls"), label)]
            })
            .collect();
        let members: Vec<Member<'_>> =
            members.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
        write_tar(&folder.join(format!("{shard}.tar")), &members);
    }
    let mut config = config(&[&folder.join("*.tar")]);
    config.batch_size = 7;
    config
}

/// However many workers there are, and whoever of them is killed, a pass gives the same as this
/// process alone: pixels, labels, sizes, entropies, and nothing for images that do not decode.
#[test]
fn any_number_of_workers_gives_the_same_pass() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = labelled_shards(folder.path());
    let dataset = open(&config, u64::MAX);
    let expected = in_process(&dataset);
    for (number, given) in (0u32..).zip(&expected) {
        let is_bad = number % 25 == 3;
        assert_eq!(given.label, (!is_bad).then_some(number % 7), "image {number}");
        assert_eq!(given.image.is_none(), is_bad, "image {number}");
        match given.image {
            Some(image) => {
                assert_eq!((image.width, image.height), (48, 40));
                assert!(given.pixels[0].abs_diff(number as u8 * 4) <= 2, "image {number}");
            }
            None => assert!(given.pixels.iter().all(|&level| level == 0), "image {number}"),
        }
    }
    for workers in [1, 2, 5] {
        config.workers = workers;
        let before = dataset.failure_counts();
        assert!(through_workers(&dataset, &config, |_| {}) == expected, "{workers} workers");
        let after = dataset.failure_counts();
        assert_eq!((after.tried - before.tried, after.failed - before.failed), (60, 3));
        let killer = |loader: &Loader| loader.statistics().workers.into_iter().for_each(kill);
        assert!(
            through_workers(&dataset, &config, killer) == expected,
            "{workers} workers, killed"
        );
    }
    let every_fifth: Vec<Given> = expected.iter().step_by(5).cloned().collect();
    assert!(through_workers(&open(&config, 12), &config, |_| {}) == every_fifth);
}
