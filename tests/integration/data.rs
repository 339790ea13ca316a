//! Shards → index → order → curation → batches.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::shards::{
    Member, SIDE, config, corrupt_jpeg, curated, fill, jpeg, open, scan, start, write_tar,
};
use distill::config::{ConfigError, DataConfig};
use distill::data::source::{ShardAddress, Sources};
use distill::data::{Batch, Dataset, IndexCache};
use tempfile::TempDir;

/// `shards` shards of `samples` images with labels; red is 10 × the number of the image.
fn plain_shards(folder: &Path, shards: usize, samples: usize) {
    for shard in 0..shards {
        let named: Vec<(String, Vec<u8>)> = (0..samples)
            .flat_map(|sample| {
                let number = shard * samples + sample;
                [
                    (format!("{sample:04}.jpg"), jpeg((number * 10) as u8)),
                    (format!("{sample:04}.cls"), number.to_string().into_bytes()),
                ]
            })
            .collect();
        let members: Vec<Member<'_>> =
            named.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
        write_tar(&folder.join(format!("train-{shard:03}.tar")), &members);
    }
}

fn ranges(batch: u64, batches: u64) -> impl Iterator<Item = Range<u64>> + Send + 'static {
    (0..batches).map(move |number| number * batch..(number + 1) * batch)
}

/// A batch that has given its memory back.
struct Kept {
    positions: Range<u64>,
    images: Vec<u8>,
    labels: Vec<Option<u32>>,
}

fn load(dataset: Dataset, config: &DataConfig, batch: u64, batches: u64) -> Vec<Kept> {
    let mut loader = start(Arc::new(dataset), config, ranges(batch, batches));
    let keep = |batch: Batch| Kept {
        positions: batch.positions.clone(),
        images: batch.images().to_vec(),
        labels: batch.labels.clone(),
    };
    std::iter::from_fn(|| loader.next_batch().unwrap().map(keep)).collect()
}

/// Members in any order within a sample, long names, extensions in any case, other members and
/// folders: each sample is found with its own image and label.
#[test]
fn an_index_finds_every_sample() {
    let folder = TempDir::new().unwrap();
    let shard = folder.path().join("a.tar");
    let long = format!("{}/{}", "folder.with.dots".repeat(8), "name".repeat(20));
    let long_picture = format!("{long}.webp");
    let long_label = format!("{long}.cls");
    write_tar(
        &shard,
        &[
            ("first.cls", b"7\n".to_vec()),
            ("first.JPG", jpeg(1)),
            ("first.json", b"{}".to_vec()),
            (&long_picture, jpeg(2)),
            (&long_label, b"12".to_vec()),
            ("only_text.txt", b"no image".to_vec()),
            ("sub/third.Jpeg", jpeg(3)),
            ("sub/third.seg.png", jpeg(4)),
            ("sub/third.cls", b"cat".to_vec()),
            ("._hidden.jpg", b"left by a file manager".to_vec()),
            ("fourth.png", jpeg(5)),
        ],
    );
    let index = scan(&shard).unwrap();
    let names: Vec<&str> = (0..index.rows()).map(|row| index.name(row)).collect();
    assert_eq!(names, ["first.JPG", &long_picture, "sub/third.Jpeg", "fourth.png"]);
    assert_eq!(index.labels[..2], [7, 12]);
    assert_eq!(index.labelled(), 2, "a .cls that is no number is no label");
    let file = std::fs::read(&shard).unwrap();
    for (row, red) in [(0, 1), (1, 2), (2, 3), (3, 5)] {
        let start = index.offsets[row] as usize;
        assert_eq!(file[start..][..index.sizes[row] as usize], jpeg(red), "image of row {row}");
    }
}

/// Names in pax headers, as Python's tarfile writes them, are read.
#[test]
fn pax_names_are_read() {
    let folder = TempDir::new().unwrap();
    let shard = folder.path().join("a.tar");
    let name = format!("{}.jpg", "ü".repeat(90));
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_pax_extensions([("path", name.as_bytes())]).unwrap();
    let mut header = tar::Header::new_ustar();
    let bytes = jpeg(9);
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, "short.jpg", bytes.as_slice()).unwrap();
    std::fs::write(&shard, tar.into_inner().unwrap()).unwrap();
    let index = scan(&shard).unwrap();
    assert_eq!((index.rows(), index.name(0)), (1, name.as_str()));
}

/// A shard that is cut anywhere is refused by name, and so is one without images or one that is
/// no tar file.
#[test]
fn damaged_shards_are_named() {
    let folder = TempDir::new().unwrap();
    let shard = folder.path().join("train-000.tar");
    plain_shards(folder.path(), 1, 3);
    let whole = std::fs::read(&shard).unwrap();
    let index = scan(&shard).unwrap();
    let last = (index.offsets[2] + u64::from(index.sizes[2])).div_ceil(512) * 512 + 1024;
    for cut in (1..last as usize).step_by(101).chain([512, 1024, last as usize - 1]) {
        std::fs::write(&shard, &whole[..cut]).unwrap();
        let error = format!("{:#}", scan(&shard).unwrap_err());
        assert!(error.contains("train-000.tar") && error.contains("truncated"), "{cut}: {error}");
    }
    write_tar(&shard, &[("a.txt", b"text".to_vec()), ("b.cls", b"1".to_vec())]);
    let error = format!("{:#}", open(&config(&[&shard]), 0).err().unwrap());
    assert!(error.contains("train-000.tar") && error.contains("no image"), "{error}");
    write_tar(&shard, &[("a.txt", b"text".to_vec()), ("b.one.jpg", jpeg(0))]);
    assert_eq!(scan(&shard).unwrap().name(0), "b.one.jpg", "names may have dots");
    std::fs::write(&shard, [b'x'; 2000]).unwrap();
    let error = format!("{:#}", open(&config(&[&shard]), 0).err().unwrap());
    assert!(error.contains("train-000.tar") && error.contains("tar"), "{error}");
}

/// A pattern without a match is the user's to fix (exit code 2) and is named.
#[test]
fn a_pattern_without_a_match_is_a_config_error() {
    let folder = TempDir::new().unwrap();
    let error = open(&config(&[&folder.path().join("none-*.tar")]), 0).err().unwrap();
    assert!(error.is::<ConfigError>() && error.to_string().contains("none-*.tar"), "{error}");
}

/// Several patterns, and every sample of every shard exactly once a pass, with its own label.
#[test]
fn a_pass_gives_each_sample_once() {
    let folder = TempDir::new().unwrap();
    plain_shards(folder.path(), 3, 8);
    let [first, others] = ["train-000.tar", "train-{001..002}.tar"].map(|p| folder.path().join(p));
    let config = config(&[&first, &others]);
    let dataset = open(&config, 5).unwrap();
    assert_eq!((dataset.sample_count(), dataset.shard_count()), (24, 3));
    let batches = load(dataset, &config, 8, 6);
    let mut orders = Vec::new();
    for pass in batches.chunks(3) {
        let mut labels: Vec<u32> =
            pass.iter().flat_map(|b| &b.labels).map(|l| l.unwrap()).collect();
        orders.push(labels.clone());
        labels.sort_unstable();
        assert_eq!(labels, (0..24).collect::<Vec<_>>());
        for batch in pass {
            for (image, label) in batch.images.chunks(SIDE * SIDE * 3).zip(&batch.labels) {
                let red = (label.unwrap() * 10) as u8;
                assert!(image.chunks(3).all(|pixel| pixel[0].abs_diff(red) <= 3), "{label:?}");
            }
        }
    }
    assert_ne!(orders[0], orders[1], "the second pass has an order of its own");
}

/// What a batch holds depends on its positions alone: not on the number of workers, on what was
/// loaded before, or on batches held ahead.
#[test]
fn batches_are_the_same_for_any_number_of_workers() {
    let folder = TempDir::new().unwrap();
    plain_shards(folder.path(), 2, 9);
    write_tar(
        &folder.path().join("train-002.tar"),
        &[("bad0.jpg", corrupt_jpeg()), ("good.jpg", jpeg(250)), ("bad1.jpg", vec![])],
    );
    let mut config = config(&[&folder.path().join("*.tar")]);
    let mut run = |workers, prefetch, batches| {
        (config.workers, config.prefetch_batches) = (workers, prefetch);
        load(open(&config, 1).unwrap(), &config, 5, batches)
    };
    let expected = run(1, 1, 12);
    assert_eq!(expected.len(), 12);
    for (workers, prefetch) in [(2, 1), (3, 4), (16, 7)] {
        let found = run(workers, prefetch, 12);
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found.positions, expected.positions);
            assert_eq!(found.labels, expected.labels, "{:?}", found.positions);
            assert!(found.images == expected.images, "{:?}", found.positions);
        }
    }
    let dataset = open(&config, 1).unwrap();
    let (pixels, label) = fill(&dataset, 33).unwrap();
    assert_eq!(label, expected[6].labels[3]);
    assert_eq!(pixels, expected[6].images[3 * pixels.len()..][..pixels.len()]);
}

/// A corrupt image is skipped and counted, and what stands in for it is always the same.
#[test]
fn a_bad_image_is_replaced_the_same_way_each_time() {
    let folder = TempDir::new().unwrap();
    plain_shards(folder.path(), 1, 10);
    let bad = folder.path().join("bad.tar");
    write_tar(&bad, &[("x.jpg", corrupt_jpeg()), ("x.cls", b"99".to_vec())]);
    let config = config(&[&folder.path().join("*.tar")]);
    let first = open(&config, 3).unwrap();
    let one: Vec<_> = (0..55).map(|position| fill(&first, position).unwrap()).collect();
    let counts = first.failure_counts();
    assert_eq!(counts.tried, 55 + counts.failed);
    assert!((5..=10).contains(&counts.failed), "once a pass, and by chance: {counts:?}");
    assert!(one.iter().all(|(_, label)| label.is_some_and(|label| label < 10)));
    let second = open(&config, 3).unwrap();
    for position in (0..55).rev() {
        assert_eq!(fill(&second, position).unwrap(), one[position as usize]);
    }
}

/// More bad images than data.max_failed_share stop the run, and the message has all that is
/// needed to go on.
#[test]
fn too_many_bad_images_stop_the_loader() {
    let folder = TempDir::new().unwrap();
    plain_shards(folder.path(), 1, 10);
    write_tar(&folder.path().join("bad.tar"), &[("x.jpg", corrupt_jpeg()), ("y.jpg", vec![1; 9])]);
    let mut config = config(&[&folder.path().join("*.tar")]);
    for (share, stops) in [(0.0, true), (0.01, true), (0.5, false)] {
        config.max_failed_share = share;
        let dataset = Arc::new(open(&config, 0).unwrap());
        let mut loader = start(dataset, &config, ranges(8, 25));
        let error = loop {
            // Whoever looks first whether a batch is there must not swallow the error.
            loader.is_ready_within(Duration::from_secs(10));
            match loader.next_batch() {
                Ok(Some(_)) => {}
                Ok(None) => break None,
                Err(error) => break Some(format!("{error:#}")),
            }
        };
        assert_eq!(error.is_some(), stops, "share {share}: {error:?}");
        if let Some(error) = error {
            for part in ["bad.tar", ".jpg`", "data.max_failed_share", "data check"] {
                assert!(error.contains(part), "{part} is missing in: {error}");
            }
            assert!(loader.next_batch().is_err(), "a loader that stopped stays so");
        }
    }
    let only_bad = folder.path().join("bad.tar");
    let mut config = self::config(&[&only_bad]);
    config.max_failed_share = 0.2;
    let error = fill(&open(&config, 0).unwrap(), 0).unwrap_err().to_string();
    assert!(error.contains("data.max_failed_share"), "{error}");
}

/// Dropping a loader ends its threads soon, whatever is still under way.
#[test]
fn dropping_a_loader_does_not_hang() {
    let folder = TempDir::new().unwrap();
    plain_shards(folder.path(), 1, 4);
    let mut config = config(&[&folder.path().join("*.tar")]);
    (config.workers, config.prefetch_batches, config.input_size) = (4, 50, 512);
    let dataset = Arc::new(open(&config, 0).unwrap());
    for taken in 0..3 {
        let endless = (0u64..).map(|number| number * 64..(number + 1) * 64);
        let mut loader = start(dataset.clone(), &config, endless);
        let kept: Vec<Batch> = (0..taken).map(|_| loader.next_batch().unwrap().unwrap()).collect();
        let start = Instant::now();
        drop(loader);
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        drop(kept);
    }
    assert_eq!(Arc::strong_count(&dataset), 1, "every worker is gone");
}

/// An index is kept, found again, and made anew when the shard or the kept file changes.
#[test]
fn indexes_are_kept_and_renewed() {
    let folder = TempDir::new().unwrap();
    let kept = TempDir::new().unwrap();
    plain_shards(folder.path(), 1, 3);
    let shard = folder.path().join("train-000.tar");
    let sources = || Arc::new(Sources::new(&config(&[])).unwrap());
    let cache = IndexCache::new(sources(), Some(kept.path()));
    let address = ShardAddress::File(shard.clone());
    let first = cache.open(&address).unwrap();
    assert!(!first.reused);
    let again = cache.open(&address).unwrap();
    assert!(again.reused);
    assert_eq!((again.index, again.head), (first.index.clone(), first.head));
    assert_eq!(cache.head(&address).unwrap(), first.head);
    let files: Vec<PathBuf> =
        std::fs::read_dir(kept.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "one file a shard, nothing temporary left: {files:?}");

    let mut damaged = std::fs::read(&files[0]).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(&files[0], damaged).unwrap();
    let renewed = cache.open(&address).unwrap();
    assert!(!renewed.reused && renewed.index == first.index, "a damaged file is not believed");

    write_tar(&shard, &[("new.jpg", jpeg(1))]);
    let changed = cache.open(&address).unwrap();
    assert!(!changed.reused);
    assert_eq!(changed.index.name(0), "new.jpg");

    assert!(!IndexCache::new(sources(), None).open(&address).unwrap().reused);
    assert!(
        IndexCache::new(sources(), None).open(&address).unwrap().reused,
        "kept beside the shard"
    );
}

/// Thresholds decide what is in the data set, and each image left out has its reason counted.
#[test]
fn curation_counts_what_it_keeps_and_why_not_the_rest() {
    let folder = TempDir::new().unwrap();
    let mut config = curated(
        folder.path(),
        &[
            ("a.jpeg", 5.0, 400, 0.5),
            ("b.jpeg", 4.5, 400, 0.5),
            ("c.jpeg", 5.0, 319, 0.5),
            ("d.jpeg", 5.0, 320, 0.9),
            ("e.jpeg", 5.0, 400, 0.0),
        ],
        &["f.jpeg", "g.jpeg"],
    );
    let selection = *open(&config, 0).unwrap().selection();
    assert_eq!((selection.kept, selection.images()), (2, 7));
    assert_eq!((selection.without_scores, selection.low_histogram_score), (2, 1));
    assert_eq!((selection.small, selection.never_drawn), (1, 1));
    let dataset = open(&config, 0).unwrap();
    let labels: std::collections::HashSet<_> =
        (0..50).map(|position| fill(&dataset, position).unwrap().1.unwrap()).collect();
    assert_eq!(labels, [0, 3].into(), "labels stay with their images");

    config.curation.as_mut().unwrap().sample_by_hardness = false;
    assert_eq!(open(&config, 0).unwrap().selection().kept, 3);
    config.curation.as_mut().unwrap().min_side = 10_000;
    let error = open(&config, 0).err().unwrap().to_string();
    assert!(error.contains("keeps none of 7"), "{error}");

    std::fs::remove_file(folder.path().join("json/web/0.json")).unwrap();
    let error = format!("{:#}", open(&config, 0).err().unwrap());
    assert!(error.contains("0.json"), "{error}");
    std::fs::write(folder.path().join("json/web/0.json"), "{\"a.jpeg\": 3}").unwrap();
    let error = format!("{:#}", open(&config, 0).err().unwrap());
    assert!(error.contains("0.json"), "{error}");
}

/// Soft sampling: images are seen in proportion to their mae_loss, and which one stands at a
/// position is a pure function of it.
#[test]
fn hard_images_are_seen_more_often() {
    let folder = TempDir::new().unwrap();
    let losses = [0.1, 0.2, 0.4, 0.8, 1.0];
    let names: Vec<String> = (0..losses.len()).map(|number| format!("{number}.jpeg")).collect();
    let images: Vec<(&str, f64, u64, f64)> =
        names.iter().zip(losses).map(|(name, loss)| (name.as_str(), 9.0, 400, loss)).collect();
    let config = curated(folder.path(), &images, &[]);
    let dataset = open(&config, 11).unwrap();
    let draws = 50_000;
    let mut counts = [0u32; 5];
    let drawn: Vec<u64> = (0..draws).map(|position| dataset.sample_at(position).unwrap()).collect();
    drawn.iter().for_each(|&sample| counts[sample as usize] += 1);
    for (count, loss) in counts.iter().zip(losses) {
        let expected = draws as f64 * loss / losses.iter().sum::<f64>();
        let deviation = (f64::from(*count) - expected).abs();
        assert!(deviation < 5.0 * expected.sqrt(), "{counts:?}: expected {expected} for {loss}");
    }
    let again = open(&config, 11).unwrap();
    assert!((0..draws).rev().all(|p| again.sample_at(p).unwrap() == drawn[p as usize]));
}

/// The name of a data set follows its content: a resumed run can tell that it is another one.
#[test]
fn the_fingerprint_follows_the_content() {
    let folder = TempDir::new().unwrap();
    plain_shards(folder.path(), 2, 3);
    let config = config(&[&folder.path().join("*.tar")]);
    let fingerprint = |config: &DataConfig| open(config, 0).unwrap().fingerprint().to_string();
    let both = fingerprint(&config);
    assert_eq!(both, fingerprint(&config));
    let one = self::config(&[&folder.path().join("*1.tar")]);
    assert_ne!(both, fingerprint(&one));
}
