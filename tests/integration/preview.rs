//! `distill data preview`: the sheet shows what training would prefetcher.

use distill::draws::{Draws, Purpose};
use distill::nn::Mask;
use distill::tasks::TaskConfig;
use distill::tasks::distill::DistillConfig;

use crate::data::{fill, open};
use crate::workshop::{Finished, Workshop};

const SIDE: u32 = 32;
const PATCH: u32 = 8;
const FIRST: u64 = 7;

fn preview(workshop: &Workshop, more: &[&str]) -> Finished {
    let base = ["data", "preview", "--config", "config.toml", "--out", "sheet.png"];
    Finished::of(workshop.command(&[&base[..], more].concat()).output().unwrap())
}

/// The teacher's column has the stream's crops, a student without a mask sees the same, and
/// exactly the masked patches of the other are greyed, all at the positions asked for.
#[test]
fn the_sheet_shows_crops_and_masks_of_the_run() {
    let workshop = Workshop::new();
    let done = preview(&workshop, &["--count", "3", "--position", "7"]).succeeds();
    assert!(done.stdout.contains("`one` (mask_ratio 50 %), student `two`"), "{}", done.stdout);
    let rows: Vec<&str> = done.stdout.lines().filter(|line| line.starts_with("row ")).collect();
    assert_eq!(rows.len(), 3, "{}", done.stdout);
    assert!(
        rows[2].starts_with("row 3: position 9, shards/") && rows[2].contains(".tar: member `")
    );
    assert!(rows[2].ends_with(".jpg`, no label"), "{}", rows[2]);
    let sheet = image::open(workshop.path("sheet.png")).unwrap().to_rgb8();
    assert_eq!(sheet.dimensions(), (3 * SIDE + 8, 3 * SIDE + 8), "three columns, three rows");

    let pattern = format!("data.shards=[{:?}]", workshop.path("shards/*.tar"));
    let config = DistillConfig::load(&workshop.path("config.toml"), &[pattern]).unwrap();
    let dataset = open(&config.train.data, config.train.seed).unwrap();
    let mask = Mask { grid_size: (SIDE / PATCH) as usize, cell_patches: 2, ratio: 0.5 };
    for row in 0..3 {
        let position = FIRST + u64::from(row);
        let (crop, _) = fill(&dataset, position).unwrap();
        let kept = mask.draw(&mut Draws::new(config.train.seed, Purpose::Mask, 0, position));
        assert_eq!(kept.len(), 8, "half of 16 patches");
        for (x, y) in (0..SIDE).flat_map(|y| (0..SIDE).map(move |x| (x, y))) {
            let at = |column: u32| sheet.get_pixel(column * (SIDE + 4) + x, row * (SIDE + 4) + y).0;
            let expected = &crop[((y * SIDE + x) * 3) as usize..][..3];
            assert_eq!(at(0), expected, "teacher at {x}, {y}");
            assert_eq!(at(2), expected, "a student without a mask at {x}, {y}");
            let patch = i64::from(y / PATCH * (SIDE / PATCH) + x / PATCH);
            if kept.contains(&patch) {
                assert_eq!(at(1), expected, "a patch that stays at {x}, {y}");
            } else {
                let grey = |value: &u8| 96 + value / 4;
                assert_eq!(at(1).to_vec(), expected.iter().map(grey).collect::<Vec<_>>());
            }
        }
    }
    assert!(sheet.get_pixel(SIDE + 1, 0).0 == [255; 3], "white lies between images");
    assert!(!workshop.path("run").exists(), "a preview makes no run directory");
}

/// What cannot be drawn or written is said.
#[test]
fn a_preview_that_cannot_be_made_says_why() {
    let workshop = Workshop::new();
    preview(&workshop, &["--position", &u64::MAX.to_string()]).fails(1, &["--position"]);
    preview(&workshop, &["--set", "data.shards=['none/*.tar']"]).fails(2, &["none/*.tar"]);
    preview(&workshop, &["--set", "data.sizes=3"]).fails(2, &["data.sizes"]);
    let none = ["data", "preview", "--config", "config.toml", "--out", "no/folder/sheet.png"];
    Finished::of(workshop.command(&none).output().unwrap()).fails(1, &["no/folder/sheet.png"]);
}

/// A config of pre-training gets its column: the patches that the encoder sees.
#[test]
fn the_sheet_shows_what_a_pretrained_encoder_sees() {
    let workshop = Workshop::pretraining();
    let arguments =
        ["data", "preview", "--config", "pretrain.toml", "--out", "sheet.png", "--count", "1"];
    let done = Finished::of(workshop.command(&arguments).output().unwrap()).succeeds();
    assert!(done.stdout.contains("whole crop, encoder `encoder` (mask_ratio 75 %)"));
    let sheet = image::open(workshop.path("sheet.png")).unwrap().to_rgb8();
    assert_eq!(sheet.dimensions(), (2 * SIDE + 4, SIDE));
    let same = |patch: u32| {
        let (left, top) = (patch % 4 * PATCH, patch / 4 * PATCH);
        (0..PATCH * PATCH).all(|i| {
            let (x, y) = (left + i % PATCH, top + i / PATCH);
            sheet.get_pixel(x, y) == sheet.get_pixel(SIDE + 4 + x, y)
        })
    };
    assert_eq!((0..16).filter(|&patch| same(patch)).count(), 4, "a quarter of 16 patches stays");
}
