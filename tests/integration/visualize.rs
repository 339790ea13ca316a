//! `distill visualize`: what is drawn is what encoders see.

use std::fs;

use distill::encoders::Input;
use distill::viz::heat;
use image::RgbImage;
use tch::{Kind, Tensor};

use crate::support::exported::{SIDE, exported, normalised, png, with_export};
use crate::support::workshop::{Finished, Workshop};

const PATCH: u32 = 8;
const GRID: i64 = 8;
/// The brightest of the heat maps' colours.
const YELLOW: [u8; 3] = [253, 231, 37];

fn visualize(workshop: &Workshop, arguments: &[&str]) -> Finished {
    let all = [&["visualize", "--device", "cpu", "--out", "seen.png"], arguments].concat();
    Finished::of(workshop.command(&all).output().unwrap())
}

/// Two images of different things, of the golden encoder's own size.
fn draw(workshop: &Workshop) -> [Vec<u8>; 2] {
    let round = png(SIDE, |x, y| {
        let inside = (x as i32 - 20).pow(2) + (y as i32 - 40).pow(2) < 300;
        if inside { [230, 60, 20 + (x * 3) as u8] } else { [(y * 2) as u8, 90, 160] }
    });
    let striped = png(SIDE, |x, y| {
        [(x * 4) as u8, if y / 16 % 2 == 0 { 200 } else { 30 }, (x * y / 16) as u8]
    });
    fs::write(workshop.path("round.png"), &round).unwrap();
    fs::write(workshop.path("striped.png"), &striped).unwrap();
    [round, striped]
}

fn sheet(workshop: &Workshop) -> RgbImage {
    image::open(workshop.path("seen.png")).unwrap().to_rgb8()
}

/// An image of a sheet of images of `side` pixels.
fn of_sheet(sheet: &RgbImage, side: u32, row: u32, column: u32) -> RgbImage {
    image::imageops::crop_imm(sheet, column * (side + 4), row * (side + 4), side, side).to_image()
}

/// Patch tokens `[images, N, D]` float64 by the encoder itself.
fn tokens(workshop: &Workshop, images: &[Vec<u8>]) -> Tensor {
    let images = normalised(images);
    let model = exported(workshop);
    tch::no_grad(|| {
        let tokens = model.forward(&Input::whole(images), Kind::Float);
        model.normalise(tokens).patches().to_kind(Kind::Double)
    })
}

/// The colour of each patch, `[N, 3]`.
fn patches_of(image: &RgbImage) -> Tensor {
    let side = image.width() / PATCH;
    let colours: Vec<f64> = (0..side * side)
        .flat_map(|patch| {
            image.get_pixel(patch % side * PATCH + 3, patch / side * PATCH + 3).0.map(f64::from)
        })
        .collect();
    Tensor::from_slice(&colours).view([-1, 3])
}

/// Colours are the principal components of a singular value decomposition over both images, similarities the
/// cosines with the chosen patch, and an encoder agrees with itself everywhere.
#[test]
fn the_sheet_shows_what_the_encoder_sees() {
    let workshop = with_export();
    let images = draw(&workshop);
    let twice = ["--weights", "export", "--weights", "export", "--at", "0.3,0.6"];
    let done = visualize(&workshop, &[&twice[..], &["round.png", "striped.png"]].concat());
    let done = done.succeeds();
    assert!(done.stdout.contains("row 2: striped.png, mean agreement 1.000"), "{}", done.stdout);
    assert!(done.stdout.contains("the same directions for all encoders"), "{}", done.stdout);
    let sheet = sheet(&workshop);
    assert_eq!(sheet.dimensions(), (6 * SIDE + 5 * 4, 2 * SIDE + 4), "six columns, two rows");
    let tokens = tokens(&workshop, &images);
    let flat = tokens.flatten(0, 1);
    let centred = &flat - flat.mean_dim([0i64].as_slice(), true, Kind::Double);
    let (_, _, directions) = centred.svd(true, true);
    let places = centred.matmul(&directions.narrow(1, 0, 3));
    for (row, bytes) in (0u32..).zip(&images) {
        let at = |column| of_sheet(&sheet, SIDE, row, column);
        assert_eq!(at(0), image::load_from_memory(bytes).unwrap().to_rgb8(), "the image itself");
        assert_eq!(at(1), at(2), "the same encoder");
        let shown = patches_of(&at(1));
        for channel in 0..3 {
            let expected = places.narrow(0, i64::from(row) * GRID * GRID, GRID * GRID);
            let both = Tensor::stack(&[shown.select(1, channel), expected.select(1, channel)], 0);
            let correlation = both.corrcoef().double_value(&[0, 1]).abs();
            assert!(correlation > 0.95, "image {row}, component {channel}: {correlation}");
        }
        let own = tokens.get(row.into());
        let chosen = own.get(4 * GRID + 2);
        let cosines = Tensor::cosine_similarity(&own, &chosen.unsqueeze(0), 1, 1e-12);
        let cosines = cosines.view([GRID, GRID]);
        let expected = heat(&cosines, [cosines.min().double_value(&[]), 1.0], PATCH);
        for (x, y, pixel) in at(3).enumerate_pixels() {
            let is_frame = (16..24).contains(&x)
                && (32..40).contains(&y)
                && ([16, 23].contains(&x) || [32, 39].contains(&y));
            let expected = if is_frame { [255, 40, 40] } else { expected.get_pixel(x, y).0 };
            let off = pixel.0.iter().zip(expected).map(|(one, other)| one.abs_diff(other)).max();
            assert!(off <= Some(2), "similarity at {x}, {y}: {:?}, not {expected:?}", pixel.0);
        }
        assert!(at(5).pixels().all(|pixel| pixel.0 == YELLOW), "it agrees with itself");
    }
}

/// Teacher and students of a run of other widths and patches, larger than they were trained on; what training changes
/// can be seen, and the command gives the same sheet again.
#[test]
fn encoders_of_a_run_stand_side_by_side() {
    let workshop = with_export();
    draw(&workshop);
    let text = fs::read_to_string(workshop.path("config.toml")).unwrap();
    let (teacher, rest) = text.split_once("[[students]]\nname = \"one\"").unwrap();
    let (run, _) = teacher.split_once("[teacher]").unwrap();
    let config =
        format!("{run}[teacher]\nweights = \"export\"\n[[students]]\nname = \"one\"{rest}");
    let config = config.replace(
        "dim = 16, depth = 1, heads = 2, patch_size = 8",
        "dim = 16, depth = 1, heads = 2, patch_size = 16",
    );
    fs::write(workshop.path("config.toml"), config).unwrap();
    workshop.train(&[]).succeeds();
    let arguments = ["--run", "run", "--input-size", "96", "round.png", "striped.png"];
    let done = visualize(&workshop, &arguments).succeeds();
    for line in [
        "images of 96 × 96 pixels",
        "column 4: principal components of two",
        "column 8: agreement of one with teacher",
        "each encoder's own directions: widths differ",
    ] {
        assert!(done.stdout.contains(line), "`{line}` is not in {}", done.stdout);
    }
    let first = fs::read(workshop.path("seen.png")).unwrap();
    let sheet = sheet(&workshop);
    assert_eq!(sheet.dimensions(), (9 * 96 + 8 * 4, 2 * 96 + 4));
    // Twelve patches a side of the teacher's, six of the second student's: squares of one colour.
    let squares = |image: &RgbImage, patch: u32| {
        image
            .enumerate_pixels()
            .all(|(x, y, pixel)| pixel == image.get_pixel(x / patch * patch, y / patch * patch))
    };
    let of_two = of_sheet(&sheet, 96, 0, 3);
    assert!(squares(&of_two, 16) && !squares(&of_sheet(&sheet, 96, 0, 1), 16));
    assert!(squares(&of_sheet(&sheet, 96, 0, 8), 8), "agreement is on the teacher's grid");
    visualize(&workshop, &arguments).succeeds();
    assert!(first == fs::read(workshop.path("seen.png")).unwrap(), "another sheet");
    let usual = visualize(&workshop, &["--run", "run", "round.png"]).succeeds();
    assert!(usual.stdout.contains("images of 64 × 64 pixels"), "{}", usual.stdout);
}

/// What cannot be drawn is told, and what can is drawn.
#[test]
fn images_and_encoders_that_do_not_fit_are_told() {
    let workshop = with_export();
    draw(&workshop);
    fs::write(workshop.path("broken.png"), [1, 2, 3]).unwrap();
    let done = visualize(&workshop, &["--weights", "export", "broken.png", "round.png"]).succeeds();
    assert!(done.stderr.contains("left out: broken.png"), "{}", done.stderr);
    assert!(done.stdout.contains("row 1: round.png\n"), "{}", done.stdout);
    let fails = |arguments: &[&str], code, parts: &[&str]| {
        visualize(&workshop, arguments).fails(code, parts);
    };
    fails(&["--weights", "export", "broken.png"], 1, &["none of the 1 images"]);
    fails(&["--weights", "export", "--input-size", "60", "round.png"], 2, &["--input-size", "8"]);
    fails(&["--weights", "none", "round.png"], 1, &["none"]);
    fails(&["--weights", "export", "--at", "2,0", "round.png"], 2, &["--at", "0 to 1"]);
    fails(&["--run", "none", "round.png"], 2, &["none/config.toml"]);
    workshop.train(&[]).succeeds();
    fails(&["--run", "run", "round.png"], 1, &["teacher", "random weights"]);
}
