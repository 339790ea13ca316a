//! `distill eval knn`: features of the real transformers, votes of an independent count, and the
//! command from shards to accuracies.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use distill::data::{Dataset, EvaluationPass};
use distill::draws::{Draws, Purpose};
use distill::eval::kinds::{centroid, knn};
use distill::eval::{Encoder, Features, ImageSource, LeftOut, features};
use tch::{Device, Kind, Tensor};

use crate::support::coloured::coloured;
use crate::support::exported::{SIDE, exported, png, with_export};
use crate::support::golden::{assert_close, read};
use crate::support::python::{python, run};
use crate::support::ranks::{Ranks, alone};
use crate::support::shards::config;
use crate::support::workshop::{Finished, Workshop};

/// Features are what the real transformers computes from the export: mean of the class tokens before
/// the last LayerNorm, of length 1; images without a label and bad ones are left out.
#[test]
fn features_are_those_of_transformers() {
    let workshop = with_export();
    // Of the encoder's size, so that nobody resizes.
    let mut draws = Draws::new(3, Purpose::Crop, 0, 0);
    let images: Vec<Vec<u8>> = (0..9)
        .map(|_| {
            let base = draws.bits() as u32;
            png(SIDE, |x, y| {
                [x * 7 + base, y * 5 + (base >> 8), x * y + draws.bits() as u32].map(|v| v as u8)
            })
        })
        .collect();
    let mut members = Vec::new();
    let mut command = python("hf_reference.py");
    command.arg(workshop.path("export")).arg(workshop.path("theirs")).arg("--image");
    for (number, bytes) in images.into_iter().enumerate() {
        let name = format!("{number}.png");
        if number == 4 {
            members.push((name, bytes[..bytes.len() / 2].to_vec()));
            members.push(("4.cls".into(), b"4".to_vec()));
            continue;
        }
        std::fs::write(workshop.path(&name), &bytes).unwrap();
        members.push((name.clone(), bytes));
        if number != 6 {
            members.push((format!("{number}.cls"), (100 - number).to_string().into_bytes()));
            command.arg(workshop.path(&name));
        }
    }
    workshop.shard("labelled.tar", &members);
    run(&mut command);
    let theirs = &read(workshop.path("theirs"))["class_mean"];
    let expected = theirs / theirs.norm_scalaropt_dim(2, [1], true);

    let model = exported(&workshop);
    let mut config = config(&[&workshop.path("labelled.tar")]);
    (config.batch_size, config.input_size) = (4, SIDE as usize);
    let dataset =
        Dataset::for_evaluation(&config, "shards", EvaluationPass::WHOLE, &|_, _| {}).unwrap();
    let worker_program = Path::new(env!("CARGO_BIN_EXE_distill-worker"));
    let source = ImageSource { dataset: Arc::new(dataset), config: &config, worker_program };
    let encoder = Encoder { model: &*model, compute: Kind::Float, image_size: None };
    let encoders = [encoder, encoder];
    let found = features(&encoders, &source, &alone(Device::Cpu), &|_, _| false, None).unwrap();
    assert_eq!(found.len(), 2, "one for each encoder");
    for features in found {
        assert_eq!(features.labels, [100, 99, 98, 97, 95, 93, 92]);
        assert_eq!(features.left_out, LeftOut { undecodable: 1, without_label: 1 });
        assert_close(&features.vectors, &expected, 1e-4, "features");
    }
}

fn random(shape: &[i64], draws: &mut Draws, number: impl Fn(&mut Draws) -> f32) -> Tensor {
    let values: Vec<f32> = (0..shape.iter().product::<i64>()).map(|_| number(draws)).collect();
    Tensor::from_slice(&values).view(shape)
}

/// Features whose class shows, not always, in their first number; classes have gaps.
fn labelled(vectors: &Tensor, classes: u64, draws: &mut Draws) -> Features {
    let (least, most) = (vectors.select(1, 0).min(), vectors.select(1, 0).max());
    let places = (vectors.select(1, 0) - &least) / (most - least) * (classes - 1) as f64;
    let places = Vec::<f32>::try_from(places.round()).unwrap();
    let label = |place: f32| (place as u64 + draws.below(5) / 4) as u32 % classes as u32 * 3;
    let labels = places.into_iter().map(label).collect();
    Features::new(vectors.shallow_clone(), labels)
}

/// Both in a file that the Python references read.
fn written(folder: &Path, reference: &Features, held_out: &Features) -> PathBuf {
    let labels = |features: &Features| {
        Tensor::from_slice(&features.labels.iter().map(|&l| i64::from(l)).collect::<Vec<_>>())
    };
    let path = folder.join("case.safetensors");
    let tensors = [
        ("reference", &reference.vectors),
        ("held_out", &held_out.vectors),
        ("reference_labels", &labels(reference)),
        ("held_out_labels", &labels(held_out)),
    ];
    Tensor::write_safetensors(&tensors, &path).unwrap();
    path
}

/// Votes are those of an independent count in float64: for features in general, and for ones whose
/// similarities are often equal; with more neighbours than classes, and more classes than neighbours;
/// and with more images than are looked at at a time.
#[test]
fn accuracies_are_those_of_an_independent_count() {
    let folder = tempfile::tempdir().unwrap();
    let mut draws = Draws::new(11, Purpose::Crop, 0, 0);
    for (references, held_out, classes, temperature, coarse) in [
        (600, 200, 5, 0.07, false),
        (600, 200, 300, 0.07, false),
        (400, 600, 3, 2.0, true),
        (33_000, 40, 7, 2.0, true),
    ] {
        let mut vectors = |rows| {
            if coarse {
                return random(&[rows, 6], &mut draws, |draws| draws.below(4) as f32 - 1.0);
            }
            let vectors = random(&[rows, 6], &mut draws, |draws| (draws.uniform() - 0.4) as f32);
            &vectors / vectors.norm_scalaropt_dim(2, [1], true)
        };
        let (near, far) = (vectors(references), vectors(held_out));
        let reference = labelled(&near, classes, &mut draws);
        let held_out = labelled(&far, classes, &mut draws);
        let path = written(folder.path(), &reference, &held_out);
        let neighbours = [1, 10, 20, 100, 200];
        let mut command = python("knn_reference.py");
        command.arg(&path).arg(temperature.to_string()).args(neighbours.map(|k| k.to_string()));
        let pair = |line: &str| {
            let mut numbers = line.split(' ').map(|number| number.parse::<f64>().unwrap());
            [numbers.next().unwrap(), numbers.next().unwrap()]
        };
        let expected: Vec<[f64; 2]> = run(&mut command).lines().map(pair).collect();
        let found =
            knn::accuracies(&reference, &held_out, &neighbours, temperature, &alone(Device::Cpu))
                .unwrap();
        assert_eq!(found, expected, "{references} references of {classes} classes");
        println!("{references} references of {classes} classes: {expected:?}");
        assert!(expected.iter().any(|&[share, _]| share > 1.0 / classes as f64 && share < 1.0));
        assert!(expected.iter().all(|[first, fifth]| first <= fifth));
    }
}

/// The nearest centroid is numpy's in float64, for few classes and many, and for more images than are
/// looked at at a time.
#[test]
fn nearest_centroids_are_those_of_numpy() {
    let folder = tempfile::tempdir().unwrap();
    let mut draws = Draws::new(12, Purpose::Crop, 0, 0);
    for (references, images, classes) in [(600, 200, 5), (900, 400, 300), (20_000, 9000, 7)] {
        let mut features = |rows| {
            let vectors = random(&[rows, 6], &mut draws, |draws| (draws.uniform() - 0.4) as f32);
            labelled(&(&vectors / vectors.norm_scalaropt_dim(2, [1], true)), classes, &mut draws)
        };
        let (reference, held_out) = (features(references), features(images));
        let path = written(folder.path(), &reference, &held_out);
        let expected: f64 = run(python("centroid_reference.py").arg(&path)).trim().parse().unwrap();
        let found = centroid::accuracy(&reference, &held_out, Device::Cpu).unwrap();
        assert_eq!(found, expected, "{references} references of {classes} classes");
        println!("{references} references of {classes} classes: {expected}");
        assert!(expected > 1.0 / classes as f64 && expected < 1.0, "{expected}");
    }
}

fn knn(workshop: &Workshop, arguments: &[&str]) -> Finished {
    let common = ["eval", "knn", "--weights", "export", "--device", "cpu"];
    Finished::of(workshop.command(&[&common[..], arguments].concat()).output().unwrap())
}

/// From labelled shards to accuracies: a class that shows in the colour is found, whatever the
/// number of neighbours; a part of sorted shards has all classes; the counts are told.
#[test]
fn a_class_that_shows_is_found() {
    let workshop = with_export();
    coloured(&workshop, "known.tar", 60, 1);
    coloured(&workshop, "new.tar", 31, 2);
    workshop.shard(
        "odd.tar",
        &[("a.png".into(), png(80, |_, _| [9; 3])), ("b.png".into(), b"no image".to_vec())],
    );
    let all =
        ["--input-size", "64", "--reference", "known.tar", "odd.tar", "--held-out", "new.tar"];
    let json = |more: &[&str]| -> serde_json::Value {
        let arguments = [&all[..], &["--neighbours", "1,5,18", "--json"], more].concat();
        serde_json::from_str(&knn(&workshop, &arguments).succeeds().stdout).unwrap()
    };
    let report = json(&[]);
    let counts = serde_json::json!({
        "pictures": 60, "classes": 3, "without_label": 1, "undecodable": 1
    });
    assert_eq!(report["reference"], counts);
    assert_eq!(report["held_out"]["pictures"], 31);
    let accuracies = report["accuracies"].as_array().unwrap();
    let neighbours: Vec<_> =
        accuracies.iter().map(|of| of["neighbours"].as_u64().unwrap()).collect();
    assert_eq!(neighbours, [1, 5, 18]);
    for accuracy in accuracies {
        assert!(accuracy["top1"].as_f64().unwrap() >= 0.9, "{report}");
    }
    let part = json(&["--most-reference", "20", "--most-held-out", "6", "--precision", "bf16"]);
    assert_eq!(
        (&part["reference"]["classes"], &part["held_out"]["classes"]),
        (&3.into(), &3.into())
    );
    assert_eq!(part["held_out"]["pictures"], 6);
    assert!(part["accuracies"][0]["top1"].as_f64().unwrap() >= 0.8, "{part}");
    let table = knn(&workshop, &[&all[..], &["--neighbours", "7"]].concat()).succeeds().stdout;
    for words in [
        "60 images of 3 classes, 1 without a label, 1 not decodable",
        "top-1 and top-5 accuracy",
        "k = 7",
    ] {
        assert!(table.contains(words), "`{words}` is not in: {table}");
    }
    let centroid = |more: &[&str]| {
        let common = ["eval", "centroid", "--weights", "export", "--device", "cpu"];
        let arguments = [&common[..], &all[..], more].concat();
        Finished::of(workshop.command(&arguments).output().unwrap()).succeeds().stdout
    };
    let report: serde_json::Value = serde_json::from_str(&centroid(&["--json"])).unwrap();
    assert_eq!(report["reference"], counts);
    assert!(report["top1"].as_f64().unwrap() >= 0.9, "{report}");
    let table = centroid(&[]);
    assert!(table.contains("Nearest-centroid top-1 accuracy"), "{table}");
}

/// Ranks share the work and have the same figures; images that are in both sets are told, and found by
/// their own features in bf16 too.
#[test]
fn ranks_share_the_work_and_find_images_of_both_sets() {
    let workshop = with_export();
    coloured(&workshop, "known.tar", 13, 1);
    coloured(&workshop, "new.tar", 6, 2);
    let arguments = ["--reference", "known.tar", "--neighbours", "1,5", "--json", "--held-out"];
    let both = [&arguments[..], &["known.tar", "new.tar", "--features", "bf16"]].concat();
    let alone = knn(&workshop, &both).succeeds();
    let report: serde_json::Value = serde_json::from_str(&alone.stdout).unwrap();
    assert_eq!(report["held_out"]["also_in_reference"], 13, "{report}");
    assert_eq!(report["held_out"]["of_unknown_classes"], 0);
    assert!(report["reference"].get("also_in_reference").is_none());
    let told = "13 of 19 held-out images are reference images too, pixel for pixel";
    assert!(alone.stderr.contains(told), "{}", alone.stderr);
    for size in [2, 3] {
        let ranks = Ranks::start(size, |_| {
            let common = ["eval", "knn", "--weights", "export", "--device", "cpu"];
            workshop.command(&[&common[..], &both].concat())
        });
        let found = ranks.finish(Duration::from_secs(120));
        let printed: Vec<String> =
            found.into_iter().map(|finished| finished.succeeds().stdout).collect();
        assert_eq!(printed[0], alone.stdout);
        assert!(printed[1..].iter().all(String::is_empty), "{printed:?}");
    }
    let itself = [&arguments[..], &["known.tar", "--features", "bf16"]].concat();
    let itself = knn(&workshop, &itself).succeeds().stdout;
    let report: serde_json::Value = serde_json::from_str(&itself).unwrap();
    assert_eq!(report["accuracies"][0]["top1"], 1.0, "each is nearest to itself");
    let fresh = knn(&workshop, &[&arguments[..], &["new.tar"]].concat()).succeeds();
    assert!(!fresh.stderr.contains("pixel for pixel"), "{}", fresh.stderr);
}

/// What a user may get wrong is one line that says what and what to do.
#[test]
fn mistakes_are_explained() {
    let workshop = with_export();
    coloured(&workshop, "known.tar", 12, 1);
    let all = ["--reference", "known.tar", "--held-out", "known.tar"];
    let with = |more: &[&str]| knn(&workshop, &[&all[..], more].concat());
    with(&[]).fails(1, &["--neighbours", "20 neighbours", "12 reference images", "fewer"]);
    with(&["--neighbours", "3,0"]).fails(1, &["--neighbours", "0 neighbours"]);
    with(&["--neighbours", "3", "--temperature", "0"])
        .fails(1, &["--temperature", "temperature of 0"]);
    with(&["--neighbours", "3", "--input-size", "36"])
        .fails(2, &["--input-size", "36", "multiple", "8"]);
    let shards = ["--reference", "known.tar", "--neighbours", "3", "--held-out"];
    let held_out = |pattern| knn(&workshop, &[&shards[..], &[pattern]].concat());
    held_out("shards/*.tar").fails(1, &["--held-out", "none of 20 images has a label", ".cls"]);
    held_out("none/*.tar").fails(2, &["--held-out", "none/*.tar"]);
    let weights = ["eval", "knn", "--weights", "nowhere", "--neighbours", "3"];
    let command = [&weights[..], &all[..]].concat();
    let finished = Finished::of(workshop.command(&command).output().unwrap());
    finished.fails(1, &["--weights", "nowhere does not exist"]);
}

/// Class folders are read without packing, to the same figures; classes that differ are told.
#[test]
fn class_folders_are_read_as_they_are() {
    let workshop = with_export();
    for (set, count) in [("reference", 12), ("held", 6)] {
        for number in 0..count {
            let class = ["ant", "bee", "cat"][number % 3];
            let folder = workshop.path(&format!("{set}/{class}"));
            std::fs::create_dir_all(&folder).unwrap();
            let shade = (number % 3 * 90) as u8;
            let bytes = png(SIDE, |x, y| [shade, (x * 2) as u8, (y + number as u32) as u8]);
            std::fs::write(folder.join(format!("{number}.png")), bytes).unwrap();
        }
        let out = format!("{set}-shards");
        let pack = ["data", "pack", set, "--out", &out];
        Finished::of(workshop.command(&pack).output().unwrap()).succeeds();
    }
    let knn = |reference: &str, held_out: &str| {
        let arguments = ["eval", "knn", "--weights", "export", "--neighbours", "1,3", "--json"];
        let mut command = workshop.command(&arguments);
        command.args(["--reference", reference, "--held-out", held_out]);
        Finished::of(command.output().unwrap())
    };
    let folders = knn("reference", "held").succeeds();
    let shards = knn("reference-shards/*.tar", "held-shards/*.tar").succeeds();
    assert_eq!(folders.stdout, shards.stdout);
    assert!(folders.stdout.contains("\"classes\":3"), "{}", folders.stdout);
    assert!(!folders.stderr.contains("no reference image has"), "{}", folders.stderr);
    std::fs::remove_dir_all(workshop.path("reference/cat")).unwrap();
    let fewer = knn("reference", "held").succeeds();
    assert!(
        fewer.stderr.contains("2 of 6 held-out images are of 1 classes that no reference"),
        "{}",
        fewer.stderr
    );
    std::fs::create_dir(workshop.path("empty")).unwrap();
    knn("empty", "held").fails(2, &["--reference", "without an image"]);
}
