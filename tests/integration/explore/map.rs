//! The map of all images, on a phone's screen.

use std::fs;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use distill::encoders::{Encoder, Input};
use serde_json::{Value, json};
use tch::{Kind, Tensor};

use super::explore;
use super::patches::assert_quiet;
use crate::support::browser::Browser;
use crate::support::exported::{SIDE, exported, normalised, png, with_export};

const COUNT: u32 = 40;
const NARROW: u32 = 400;

fn image(number: u32) -> Vec<u8> {
    png(SIDE, |x, y| {
        [(x * (number % 7)) as u8, (number * 6) as u8, (y * (number % 5) + number) as u8]
    })
}

/// A datum of the map's canvas.
fn datum(browser: &mut Browser, name: &str) -> f64 {
    let value =
        browser.value(&format!("Number(document.querySelector('#map-canvas').dataset.{name})"));
    value.as_f64().unwrap()
}

/// Places on the page `[N, 2]`, from 0 to 1.
fn places(browser: &mut Browser) -> Tensor {
    let text = browser.value("document.querySelector('#places-0').textContent");
    let bytes = STANDARD.decode(text.as_str().unwrap()).unwrap();
    let numbers =
        bytes.as_chunks::<2>().0.iter().map(|two| f64::from(u16::from_le_bytes(*two)) / 65535.0);
    Tensor::from_slice(&numbers.collect::<Vec<_>>()).view([-1, 2])
}

/// Images lie where the first two principal components of their pooled vectors are; the map zooms, moves and names them;
/// a page of 400 pixels is read without scrolling sideways.
#[test]
fn the_map_is_moved_and_zoomed_on_a_narrow_screen() {
    let workshop = with_export();
    fs::create_dir(workshop.path("images")).unwrap();
    let images: Vec<Vec<u8>> = (0..COUNT).map(image).collect();
    for (number, bytes) in images.iter().enumerate() {
        fs::write(workshop.path(&format!("images/{number:02}.png")), bytes).unwrap();
    }
    explore(&workshop, &["--weights", "export", "--patches", "5", "images"]).succeeds();
    let mut browser = Browser::open(&workshop.path("page.html"), (NARROW, 800));
    assert_eq!(browser.value("document.documentElement.scrollWidth"), json!(NARROW));
    assert_eq!(browser.value("document.querySelectorAll('figure').length"), json!(5));
    browser.keep_screenshot("explore-400.png");
    assert_places(&mut browser, &images, &*exported(&workshop));

    let [left, top, width, height] = browser.place("#map-canvas");
    assert!(left >= 0.0 && left + width <= f64::from(NARROW), "{left} {width}");
    browser.wait_for("Number(document.querySelector('#map-canvas').dataset.drawn) > 10");
    browser.keep_screenshot("explore-map-400.png");
    // What lies below the pointer stays there when it is zoomed.
    let pointer = (left + width * 0.7, top + height * 0.4);
    let below = |browser: &mut Browser| {
        let side = 0.92 * width.min(height) * datum(browser, "zoom");
        let share = |from_middle: f64, middle: f64| middle + from_middle / side;
        [share(width * 0.2, datum(browser, "x")), share(-height * 0.1, datum(browser, "y"))]
    };
    let before = below(&mut browser);
    browser.mouse("mouseWheel", pointer, -400.0);
    browser.settle();
    assert!((datum(&mut browser, "zoom") / 0.8f64.exp() - 1.0).abs() < 0.01);
    let after = below(&mut browser);
    let off = before.iter().zip(after).map(|(one, other)| (one - other).abs()).fold(0.0, f64::max);
    assert!(off < 0.01, "{before:?} became {after:?}");
    // Dragged by a quarter of the width.
    let x = datum(&mut browser, "x");
    let side = 0.92 * width.min(height) * datum(&mut browser, "zoom");
    browser.mouse("mousePressed", pointer, 0.0);
    browser.mouse("mouseMoved", (pointer.0 - width / 8.0, pointer.1), 0.0);
    browser.mouse("mouseMoved", (pointer.0 - width / 4.0, pointer.1), 0.0);
    browser.mouse("mouseReleased", (pointer.0 - width / 4.0, pointer.1), 0.0);
    browser.settle();
    let expected = (x + width / 4.0 / side).min(1.0);
    assert!((datum(&mut browser, "x") - expected).abs() < 0.01);
    browser.value("document.querySelector('#map-canvas').focus()");
    browser.press("0");
    assert_eq!([datum(&mut browser, "zoom"), datum(&mut browser, "x")], [1.0, 0.5]);
    assert_picked(&mut browser, [left, top, width, height]);
    assert_dark(&mut browser);
    assert_quiet(&mut browser);
}

fn assert_places(browser: &mut Browser, images: &[Vec<u8>], model: &dyn Encoder) {
    let pooled = tch::no_grad(|| {
        let tokens = model.forward(&Input::whole(normalised(images)), Kind::Float);
        model.pooled(&tokens).to_kind(Kind::Double)
    });
    let unit =
        &pooled / pooled.square().sum_dim_intlist([1i64].as_slice(), true, Kind::Double).sqrt();
    let centred = &unit - unit.mean_dim([0i64].as_slice(), true, Kind::Double);
    let (_, _, directions) = centred.svd(true, true);
    let expected = centred.matmul(&directions.narrow(1, 0, 2));
    let found = places(browser);
    for axis in 0..2 {
        let both = Tensor::stack(&[found.select(1, axis), expected.select(1, axis)], 0);
        let correlation = both.corrcoef().double_value(&[0, 1]).abs();
        assert!(correlation > 0.999, "axis {axis}: {correlation}");
    }
}

/// A click on an image names it, and leads to its patches where it has some.
fn assert_picked(browser: &mut Browser, [left, top, width, height]: [f64; 4]) {
    let places = places(browser);
    // Images 0, 8, 16, 24 and 32 have patches.
    let side = 0.92 * width.min(height);
    let at = |axis: i64, start: f64, length: f64| {
        start + length / 2.0 + (places.double_value(&[8, axis]) - 0.5) * side
    };
    browser.click((at(0, left, width), at(1, top, height)));
    let told = browser.value("document.querySelector('#map-status').textContent");
    let Value::String(told) = told else { panic!("{told}") };
    assert_eq!(told, "images/08.png");
    browser.value("document.querySelector('#to-patches').click()");
    browser.settle();
    let focused = browser.value("document.activeElement.closest('figure').id");
    assert_eq!(focused, json!("picture-1"));
}

/// The page follows a reader who prefers dark.
fn assert_dark(browser: &mut Browser) {
    let background = "getComputedStyle(document.body).backgroundColor";
    assert_eq!(browser.value(background), json!("rgb(255, 255, 255)"));
    let dark = json!({ "features": [{ "name": "prefers-color-scheme", "value": "dark" }] });
    browser.call("Emulation.setEmulatedMedia", dark);
    assert_eq!(browser.value(background), json!("rgb(18, 23, 26)"));
    browser.keep_screenshot("explore-map-400-dark.png");
}
