//! `distill data scenes` and `distill data masks`: what they write is what they say, and evaluations take it.

use std::fs;

use image::ColorType;
use serde_json::Value;

use crate::support::exported::with_export;
use crate::support::ranks::metrics;
use crate::support::workshop::{Finished, Workshop};

fn data(workshop: &Workshop, arguments: &[&str]) -> Finished {
    Finished::of(workshop.command(&[&["data"], arguments].concat()).output().unwrap())
}

/// MNIST-style files of 5 × 4 pixels: pixel p of image i has the grey level 13 · i + 9 · p, label i % 10.
fn idx(workshop: &Workshop, name: &str, images: u32) {
    let number = |number: u32| number.to_be_bytes();
    let mut file = [&[0, 0, 8, 3][..], &number(images), &number(4), &number(5)].concat();
    file.extend((0..images).flat_map(|image| (0..20).map(move |pixel| grey(image, pixel))));
    fs::write(workshop.path(&format!("idx/{name}-images-idx3-ubyte")), file).unwrap();
    let mut file = [&[0, 0, 8, 1][..], &number(images)].concat();
    file.extend((0..images).map(|image| (image % 10) as u8));
    fs::write(workshop.path(&format!("idx/{name}-labels-idx1-ubyte")), file).unwrap();
}

fn grey(image: u32, pixel: u32) -> u8 {
    (13 * image + 9 * pixel) as u8
}

/// The mask of an image has its class where the image is above the threshold; few images are spread over all.
#[test]
fn masks_are_derived_from_grey_levels_and_labels() {
    let workshop = Workshop::new();
    fs::create_dir(workshop.path("idx")).unwrap();
    data(&workshop, &["masks", "idx", "--out", "masks"]).fails(1, &["train", "found: none"]);
    idx(&workshop, "train", 12);
    idx(&workshop, "t10k", 6);
    let command = ["masks", "idx", "--out", "masks", "--test", "3", "--threshold", "100"];
    let done = data(&workshop, &command).succeeds();
    assert_eq!(done.stdout, "derived 12 + 3 masks in masks\n");
    for (split, rows) in [("train", (0..12).collect::<Vec<u32>>()), ("test", vec![0, 2, 4])] {
        assert_eq!(
            fs::read_dir(workshop.path(&format!("masks/{split}/masks"))).unwrap().count(),
            rows.len()
        );
        for (place, row) in rows.into_iter().enumerate() {
            let open = |kind: &str| {
                let image =
                    image::open(workshop.path(&format!("masks/{split}/{kind}/{place:06}.png")));
                let image = image.unwrap();
                assert_eq!(image.color(), ColorType::L8);
                image.into_luma8().into_raw()
            };
            let grey: Vec<u8> = (0..20).map(|pixel| grey(row, pixel)).collect();
            let class = (row % 10) as u8 + 1;
            let mask: Vec<u8> = grey.iter().map(|&g| if g > 100 { class } else { 0 }).collect();
            assert_eq!((open("images"), open("masks")), (grey, mask), "{split} {row}");
        }
    }
    data(&workshop, &command).fails(1, &["masks exists", "name another folder"]);
    fs::remove_file(workshop.path("idx/t10k-labels-idx1-ubyte")).unwrap();
    data(&workshop, &["masks", "idx", "--out", "other"]).fails(1, &["t10k has no labels"]);
    assert!(!workshop.path("other").exists(), "whole or not there");
}

/// Rooms are written as said, and a head learns their depth; the evaluation without training takes masks.
#[test]
fn evaluations_take_what_is_made() {
    let workshop = with_export();
    let done = data(
        &workshop,
        &["scenes", "--out", "rooms", "--train", "24", "--test", "6", "--seed", "3"],
    );
    assert_eq!(done.succeeds().stdout, "drew 24 + 6 rooms with exact depth in rooms\n");
    let image = image::open(workshop.path("rooms/train/images/000023.png")).unwrap();
    assert_eq!((image.color(), image.width(), image.height()), (ColorType::Rgb8, 64, 64));
    data(&workshop, &["scenes", "--out", "rooms"]).fails(1, &["rooms exists"]);
    let config = "[run]\ndir = \"heads\"\ndevice = \"cpu\"\n[encoder]\nweights = \"export\"\n\
        [[heads]]\nkind = \"linear\"\nlearning_rate = 0.01\n\
        [log]\nevery = 1\n[training]\nepochs = 8\nglobal_batch_size = 8\nimages_per_loss = 8\ncrop_size = 64\n\
        [data]\nname = \"rooms\"\nroot = \"rooms\"\n\
        train = { images = \"train/images/*.png\", depths = \"train/depth/*.png\" }\n\
        test = { images = \"test/images/*.png\", depths = \"test/depth/*.png\" }\n\
        targets = { task = \"depth\", divisor = 1000.0, most = 10.0 }\n";
    fs::write(workshop.path("rooms.toml"), config).unwrap();
    let command = ["eval", "depth", "--config", "rooms.toml"];
    Finished::of(workshop.command(&command).output().unwrap()).succeeds();
    let losses: Vec<f64> = metrics(&workshop, "heads")
        .iter()
        .map(|line| line["students"][0]["loss"].as_f64().unwrap())
        .collect();
    assert_eq!(losses.len(), 24);
    let mean = |some: &[f64]| some.iter().sum::<f64>() / some.len() as f64;
    assert!(mean(&losses[18..]) < 0.8 * mean(&losses[..2]), "{losses:?}");

    fs::create_dir(workshop.path("idx")).unwrap();
    idx(&workshop, "train", 12);
    idx(&workshop, "test", 6);
    data(&workshop, &["masks", "idx", "--out", "masks"]).succeeds();
    let mine = "name = \"masks\"\nroot = \"masks\"\n\
        train = { images = \"train/images/*.png\", masks = \"train/masks/*.png\" }\n\
        test = { images = \"test/images/*.png\", masks = \"test/masks/*.png\" }\n\
        targets = { task = \"segmentation\", classes = 11 }\n";
    fs::write(workshop.path("mine.toml"), mine).unwrap();
    let command = [
        "eval",
        "dense",
        "--data",
        "mine.toml",
        "--weights",
        "export",
        "--device",
        "cpu",
        "--json",
    ];
    let done = Finished::of(workshop.command(&command).output().unwrap()).succeeds();
    let report: Value = serde_json::from_str(&done.stdout).unwrap();
    assert!(report["miou"].as_f64().unwrap() > 0.0, "{report}");
}
