//! `distill features`: what is in the files, and that a folder is the same however it came about.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use distill::encoders::Input;
use rustix::process::Signal;
use tch::{Kind, Tensor};

use crate::support::coloured::coloured;
use crate::support::exported::{SIDE, exported, normalised, png, with_export};
use crate::support::golden::{Tensors, assert_close, read};
use crate::support::processes::{signal, wait_until};
use crate::support::python::{python, run};
use crate::support::ranks::Ranks;
use crate::support::workshop::{Finished, Workshop};

fn arguments<'a>(out: &'a str, images: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let base = ["features", "--weights", "export", "--device", "cpu", "--batch-size", "4"];
    [&base[..], &["--workers", "1", "--images", images, "--out", out], more].concat()
}

fn features(workshop: &Workshop, out: &str, images: &str, more: &[&str]) -> Finished {
    Finished::of(workshop.command(&arguments(out, images, more)).output().unwrap())
}

/// All tensors of a folder, and the keys of their rows, as Python reads them.
fn in_python(workshop: &Workshop, folder: &str) -> (Tensors, Vec<String>) {
    let whole = workshop.path(&format!("{folder}.whole.safetensors"));
    let keys = run(python("read_features.py").arg(workshop.path(folder)).arg(&whole));
    (read(whole), serde_json::from_str(&keys).unwrap())
}

/// Names and bytes of the files of a folder, but for its lock.
fn files(workshop: &Workshop, folder: &str) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(workshop.path(folder)).unwrap().map(|entry| entry.unwrap().path());
    let named = entries.map(|path| {
        (path.file_name().unwrap().to_str().unwrap().to_string(), fs::read(&path).unwrap())
    });
    named.filter(|(name, _)| name != ".lock").collect()
}

/// What the encoder itself makes of `png` images of its own size.
fn expected(workshop: &Workshop, images: &[Vec<u8>]) -> [Tensor; 3] {
    let model = exported(workshop);
    let images = normalised(images);
    tch::no_grad(|| {
        let tokens = model.forward(&Input::whole(images), Kind::Float);
        let pooled = model.pooled(&tokens);
        let tokens = model.normalise(tokens);
        let [rows, columns] = tokens.grid;
        let patches = tokens.patches();
        let shape = [patches.size()[0], rows, columns, patches.size()[2]];
        [pooled, tokens.class().copy(), patches.reshape(shape)]
    })
}

/// Ten images with classes but for two of them, one of which does not decode.
fn ten(workshop: &Workshop) -> Vec<Vec<u8>> {
    let image =
        |seed: u32| png(SIDE, |x, y| [(x * (seed + 1)) as u8, (y * 3) as u8, (seed * 25) as u8]);
    let images: Vec<Vec<u8>> = (0..10).map(image).collect();
    let mut members = Vec::new();
    for (number, bytes) in images.iter().enumerate() {
        let bytes = if number == 6 { vec![1; 99] } else { bytes.clone() };
        members.push((format!("{number:02}.png"), bytes));
        if number != 3 {
            members.push((format!("{number:02}.cls"), (number % 3).to_string().into_bytes()));
        }
    }
    workshop.shard("ten.tar", &members);
    images.into_iter().enumerate().filter(|(number, _)| *number != 6).map(|(_, it)| it).collect()
}

/// numpy and the safetensors package read from both formats what the encoder itself gives, each row under its
/// image's name and class.
#[test]
fn python_reads_the_features_of_the_encoder() {
    let workshop = with_export();
    let images = ten(&workshop);
    let [pooled, class, patches] = expected(&workshop, &images);
    for format in ["safetensors", "npy"] {
        let more = ["--tokens", "class,patches", "--part-images", "4", "--format", format];
        let done = features(&workshop, format, "ten.tar", &more).succeeds();
        assert!(done.stdout.starts_with("features of 9 images in 3 parts"), "{}", done.stdout);
        assert!(done.stdout.contains(", 1 not decodable"), "{}", done.stdout);
        let (tensors, keys) = in_python(&workshop, format);
        let expected_keys = [0, 1, 2, 3, 4, 5, 7, 8, 9].map(|number| format!("{number:02}.png"));
        assert_eq!(keys, expected_keys, "{format}");
        let labels: Vec<i64> = Vec::try_from(&tensors["labels"]).unwrap();
        assert_eq!(labels, [0, 1, 2, -1, 1, 2, 1, 2, 0], "{format}");
        assert_close(&tensors["pooled"], &pooled, 1e-5, "pooled");
        assert_close(&tensors["class"], &class, 1e-5, "class");
        assert_close(&tensors["patches"], &patches, 1e-5, "patches");
    }
    let more = ["--tokens", "patches", "--store", "fp16"];
    features(&workshop, "half", "ten.tar", &more).succeeds();
    let (tensors, _) = in_python(&workshop, "half");
    assert_eq!(tensors["patches"].kind(), Kind::Half);
    assert!(!tensors.contains_key("class"));
    assert_close(&tensors["patches"], &patches, 1e-3, "halves");
}

/// Killed at some moment, and killed again, a folder ends with the bytes of one that was written at once; two ranks
/// write the same parts as one.
#[test]
fn a_folder_is_the_same_however_it_came_about() {
    let workshop = with_export();
    coloured(&workshop, "many.tar", 60, 3);
    let more = ["--tokens", "class,patches", "--part-images", "8"];
    features(&workshop, "whole", "many.tar", &more).succeeds();
    let whole = files(&workshop, "whole");
    assert_eq!(whole.len(), 1 + 2 * 8, "{:?}", whole.keys());

    for parts in [1, 4] {
        let mut killed = workshop.command(&arguments("killed", "many.tar", &more)).spawn().unwrap();
        let is_there = |number| workshop.path(&format!("killed/part-{number:05}.jsonl")).exists();
        wait_until("a part", || is_there(parts - 1) || killed.try_wait().unwrap().is_some());
        killed.kill().unwrap();
        killed.wait().unwrap();
    }
    let done = features(&workshop, "killed", "many.tar", &more).succeeds();
    assert!(done.stdout.contains("parts were there") || done.stdout.contains("all of them"));
    let mut after = files(&workshop, "killed");
    after.retain(|name, _| !name.ends_with(".partial"));
    assert!(after == whole, "{:?} and {:?}", after.keys(), whole.keys());
    let again = features(&workshop, "killed", "many.tar", &more).succeeds();
    assert!(again.stdout.contains("all of them were there"), "{}", again.stdout);

    let ranks = Ranks::start(2, |_| workshop.command(&arguments("two", "many.tar", &more)));
    for rank in ranks.finish(Duration::from_secs(60)) {
        rank.succeeds();
    }
    let two = files(&workshop, "two");
    assert_eq!(two.keys().collect::<Vec<_>>(), whole.keys().collect::<Vec<_>>());
    let [(one, _), (other, _)] = ["whole", "two"].map(|folder| in_python(&workshop, folder));
    for (name, tensor) in &one {
        assert_close(&other[name], tensor, 1e-5, name);
    }
}

/// A signal keeps what is whole, and the exit code says that the same command goes on.
#[test]
fn a_signal_keeps_whole_parts() {
    let workshop = with_export();
    coloured(&workshop, "many.tar", 400, 3);
    let more = ["--tokens", "patches", "--part-images", "4"];
    let mut stopped = workshop.command(&arguments("out", "many.tar", &more));
    let stopped = stopped.stderr(std::process::Stdio::piped()).spawn().unwrap();
    wait_until("a part", || workshop.path("out/part-00000.jsonl").exists());
    signal(stopped.id(), Signal::TERM);
    let stopped = stopped.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&stopped.stderr);
    assert_eq!(stopped.status.code(), Some(75), "{said}");
    assert!(said.contains("the same command continues"), "{said}");
    let done = features(&workshop, "out", "many.tar", &more).succeeds();
    assert!(done.stdout.contains("features of 400 images in 100 parts"), "{}", done.stdout);
    assert!(done.stdout.contains("parts were there"), "{}", done.stdout);
    in_python(&workshop, "out");
}

/// k-NN and nearest centroids of stored features are those of their encoder on the images, to the last digit and
/// with the same counts; what cannot be measured of them is told.
#[test]
fn stored_features_give_the_figures_of_their_encoder() {
    let workshop = with_export();
    coloured(&workshop, "many.tar", 60, 3);
    coloured(&workshop, "few.tar", 30, 4);
    let mut members = vec![("no.png".to_string(), png(SIDE, |x, y| [x as u8, y as u8, 9]))];
    members.push(("bad.png".into(), vec![1; 50]));
    workshop.shard("odd.tar", &members);
    let eval = |kind: &str, arguments: &[&str]| {
        let base = ["eval", kind, "--device", "cpu", "--batch-size", "4", "--json"];
        let own: &[&str] = if kind == "knn" { &["--neighbours", "1,5"] } else { &[] };
        Finished::of(workshop.command(&[&base[..], own, arguments].concat()).output().unwrap())
    };
    let more = ["--part-images", "16", "--format"];
    let write = |out: &str, images: &str, format: &str| {
        features(&workshop, out, images, &[&more[..], &[format]].concat()).succeeds();
    };
    write("many", "many.tar", "safetensors");
    write("few", "few.tar", "npy");
    write("odd", "odd.tar", "npy");
    let on_images = ["--weights", "export", "--reference", "many.tar", "--held-out", "few.tar"];
    let stored = ["--from-features", "--reference", "many", "--held-out", "few"];
    for kind in ["knn", "centroid"] {
        let figures = |arguments: &[&str]| -> serde_json::Value {
            serde_json::from_str(&eval(kind, arguments).succeeds().stdout).unwrap()
        };
        let expected = figures(&on_images);
        assert_eq!(figures(&stored), expected, "{kind}");
        assert_eq!(expected["held_out"]["pictures"], 30);
    }
    let fails = |kind: &str, arguments: &[&str], code, parts: &[&str]| {
        eval(kind, arguments).fails(code, parts);
    };
    let of = |held_out| ["--from-features", "--reference", "many", "--held-out", held_out];
    fails("knn", &of("odd"), 1, &["odd: no image has a label"]);
    fails("knn", &of("none"), 1, &["none has no features.json"]);
    fails("knn", &[&stored[..], &["--most-reference", "9"]].concat(), 1, &["--most-reference"]);
    let linear = ["--from-features", "--train", "many", "--test", "few"];
    fails("linear", &linear, 1, &["patch tokens", "needs an encoder"]);
    fails("knn", &[&stored[..], &["--weights", "export"]].concat(), 2, &["--from-features"]);

    let other = ["--precision", "bf16", "--part-images", "16"];
    features(&workshop, "other", "few.tar", &other).succeeds();
    fails("knn", &of("other"), 1, &["different encoders, sizes or precisions"]);
    let manifest = workshop.path("few/features.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"rows\": 30", "\"rows\": null")).unwrap();
    fails("knn", &stored, 1, &["few does not have all features yet"]);
    fs::write(&manifest, text).unwrap();
    fs::write(workshop.path("few/part-00001.jsonl"), "").unwrap();
    fails("knn", &stored, 1, &["part 1 is damaged"]);
}

/// Features of two kinds never mix, and what cannot be read or written is named.
#[test]
fn features_that_cannot_be_written_say_why() {
    let workshop = with_export();
    ten(&workshop);
    features(&workshop, "out", "ten.tar", &["--part-images", "4"]).succeeds();
    for (more, key) in [
        (&["--tokens", "patches"][..], "tokens"),
        (&["--store", "fp16"], "store"),
        (&["--format", "npy"], "format"),
        (&["--part-images", "5"], "part_images"),
    ] {
        features(&workshop, "out", "ten.tar", more).fails(1, &["--out out", key]);
    }
    coloured(&workshop, "other.tar", 10, 1);
    features(&workshop, "out", "other.tar", &[]).fails(1, &["--out out", "data is"]);
    features(&workshop, "none", "none.tar", &[]).fails(2, &["--images", "none.tar"]);
    features(&workshop, "export/config.json", "ten.tar", &[])
        .fails(1, &["--out export/config.json"]);
    fs::write(workshop.path("out/features.json"), "{").unwrap();
    features(&workshop, "out", "ten.tar", &[]).fails(1, &["features.json", "damaged"]);
}
