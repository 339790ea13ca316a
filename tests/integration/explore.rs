//! `distill explore`: in a real browser the page shows what the encoders find, and asks nobody for anything.

mod map;
mod patches;

use std::fs;

use crate::support::exported::{SIDE, png, with_export};
use crate::support::workshop::{Finished, Workshop};

/// A name that would break a page that does not escape it.
const ODD_NAME: &str = "round <b>&\"'.png";

fn explore(workshop: &Workshop, arguments: &[&str]) -> Finished {
    let all = [&["explore", "--device", "cpu", "--out", "page.html"], arguments].concat();
    Finished::of(workshop.command(&all).output().unwrap())
}

/// Three images of different things, of the golden encoder's own size.
fn draw(workshop: &Workshop) -> [Vec<u8>; 3] {
    let round = png(SIDE, |x, y| {
        let inside = (x as i32 - 20).pow(2) + (y as i32 - 40).pow(2) < 300;
        if inside { [230, 60, 20 + (x * 3) as u8] } else { [(y * 2) as u8, 90, 160] }
    });
    let striped = png(SIDE, |x, y| {
        [(x * 4) as u8, if y / 16 % 2 == 0 { 200 } else { 30 }, (x * y / 16) as u8]
    });
    let spotted =
        png(SIDE, |x, y| [(x * y) as u8, ((x / 9 + y / 7) % 2 * 220) as u8, (y * 3) as u8]);
    for (name, bytes) in [(ODD_NAME, &round), ("striped.png", &striped), ("spotted.png", &spotted)]
    {
        fs::write(workshop.path(name), bytes).unwrap();
    }
    [round, striped, spotted]
}

/// What cannot be shown is told before a page is written, and what can is shown.
#[test]
fn images_and_sizes_that_do_not_fit_are_told() {
    let workshop = with_export();
    draw(&workshop);
    fs::write(workshop.path("broken.png"), [1, 2, 3]).unwrap();
    fs::create_dir_all(workshop.path("folder/below")).unwrap();
    fs::copy(workshop.path("spotted.png"), workshop.path("folder/below/one.png")).unwrap();
    fs::create_dir(workshop.path("none")).unwrap();
    let weights = ["--weights", "export"];
    let with = |arguments: &[&str]| explore(&workshop, &[&weights[..], arguments].concat());
    with(&["broken.png"]).fails(1, &["none of the 1 images"]);
    with(&["none"]).fails(1, &["none"]);
    with(&["--input-size", "60", "striped.png"]).fails(2, &["--input-size", "8"]);
    with(&["--input-size", "1024", "--max-size", "1", "striped.png", "folder"])
        .fails(1, &["2 images alone", "--max-size", "--patches"]);
    assert!(!workshop.path("page.html").exists(), "nothing was written");
    let done = with(&["broken.png", "striped.png", "folder"]).succeeds();
    assert!(done.stderr.contains("left out: broken.png"), "{}", done.stderr);
    assert!(
        done.stdout.contains("2 images of 64 pixels a side, 2 of them with"),
        "{}",
        done.stdout
    );
    let page = fs::read(workshop.path("page.html")).unwrap();
    let text = String::from_utf8(page.clone()).unwrap();
    for part in ["1 could not be read", "folder/below/one.png", "a map of three images or more"] {
        assert!(text.contains(part), "`{part}` is not on the page");
    }
    with(&["broken.png", "striped.png", "folder"]).succeeds();
    assert!(page == fs::read(workshop.path("page.html")).unwrap(), "another page");
}
