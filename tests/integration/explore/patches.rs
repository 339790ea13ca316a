//! Similarities and components of patches, by clicks and keys.

use std::fs;

use distill::encoders::Input;
use distill::viz::{Basis, colours, heat};
use serde_json::json;
use tch::{Kind, Tensor};

use super::{ODD_NAME, draw, explore};
use crate::support::browser::Browser;
use crate::support::exported::{exported, normalised, with_export};
use crate::support::workshop::Workshop;

const GRID: i64 = 8;
/// Levels of 255 that rounding tokens to whole numbers may take a colour off.
const ROUNDING: i64 = 8;

/// Patch tokens `[images, 8, 8, D]` by the golden encoder itself.
fn tokens(workshop: &Workshop, images: &[Vec<u8>]) -> Tensor {
    let images = normalised(images);
    let model = exported(workshop);
    tch::no_grad(|| {
        let tokens = model.forward(&Input::whole(images), Kind::Float);
        let patches = model.normalise(tokens).patches().to_kind(Kind::Float);
        let size = patches.size();
        patches.reshape([size[0], GRID, GRID, size[2]])
    })
}

/// Red, green and blue of each patch that a frame shows, row by row.
fn shown(browser: &mut Browser, picture: usize, model: usize) -> Vec<i64> {
    let expression = format!(
        "(() => {{ const one = document.querySelector('#picture-{picture} .frame[data-model=\"{model}\"] canvas'); \
         return [...one.getContext('2d').getImageData(0, 0, one.width, one.height).data]; }})()"
    );
    let all: Vec<i64> = serde_json::from_value(browser.value(&expression)).unwrap();
    let (pixels, rest) = all.as_chunks::<4>();
    assert!(rest.is_empty());
    pixels.iter().flat_map(|pixel| pixel[..3].to_vec()).collect()
}

#[track_caller]
fn assert_close(found: &[i64], expected: &image::RgbImage, tolerance: i64) {
    assert_eq!(found.len(), expected.as_raw().len());
    let pairs = found.iter().zip(expected.as_raw());
    let off = pairs.map(|(found, expected)| (found - i64::from(*expected)).abs()).max();
    assert!(off <= Some(tolerance), "{off:?}: {found:?}, not {:?}", expected.as_raw());
}

/// Clicks the middle of a patch of a frame's grid.
fn click(
    browser: &mut Browser,
    (picture, model): (usize, usize),
    (row, column): (i64, i64),
    grid: i64,
) {
    let selector = format!("#picture-{picture} .frame[data-model=\"{model}\"] canvas");
    let [left, top, width, height] = browser.place(&selector);
    let at =
        |number: i64, start: f64, length: f64| start + (number as f64 + 0.5) / grid as f64 * length;
    browser.click((at(column, left, width), at(row, top, height)));
}

/// Whether the encoder's ring is at the patch of an image that is most alike.
fn assert_ringed(browser: &mut Browser, cosines: &Tensor, picture: i64) {
    let own = cosines.get(picture).flatten(0, 1);
    let (highest, places) = own.topk(2, 0, true, true);
    if highest.double_value(&[0]) - highest.double_value(&[1]) < 0.01 {
        return;
    }
    let place = places.int64_value(&[0]);
    let expected = json!([place % GRID, place / GRID]);
    let found = browser.value(&format!(
        "(() => {{ const style = document.querySelector('#picture-{picture} .ring').style; \
         return [style.left, style.top].map(at => Math.round(parseFloat(at) / 12.5)); }})()"
    ));
    assert_eq!(found, expected, "the ring of image {picture}");
}

/// A run of a teacher and students of other widths and patches, explored by clicks at 1200 pixels.
#[test]
fn clicks_show_what_each_encoder_finds_alike() {
    let workshop = with_export();
    let images = draw(&workshop);
    let text = fs::read_to_string(workshop.path("config.toml")).unwrap();
    let (run, rest) = text.split_once("[teacher]").unwrap();
    let (_, students) = rest.split_once("[[students]]").unwrap();
    let config = format!("{run}[teacher]\nweights = \"export\"\n[[students]]{students}");
    let config = config.replace(
        "dim = 16, depth = 1, heads = 2, patch_size = 8",
        "dim = 16, depth = 1, heads = 2, patch_size = 16",
    );
    fs::write(workshop.path("config.toml"), config).unwrap();
    workshop.train(&[]).succeeds();
    explore(&workshop, &["--run", "run", ODD_NAME, "striped.png", "spotted.png"]).succeeds();
    let mut browser = Browser::open(&workshop.path("page.html"), (1200, 900));
    let tokens = tokens(&workshop, &images);

    // The teacher's patch in row 5, column 2 of the second image.
    click(&mut browser, (1, 0), (5, 2), GRID);
    let chosen = tokens.get(1).get(5).get(2);
    let cosines = Tensor::cosine_similarity(&tokens, &chosen.view([1, 1, 1, -1]), 3, 1e-12);
    let cosines = cosines.to_kind(Kind::Double);
    let low = cosines.min().double_value(&[]);
    for picture in 0..3 {
        let expected = heat(&cosines.get(picture), [low, 1.0], 1);
        assert_close(&shown(&mut browser, picture as usize, 0), &expected, ROUNDING);
    }
    assert_ringed(&mut browser, &cosines, 0);
    assert_ringed(&mut browser, &cosines, 2);
    let status = |browser: &mut Browser| {
        browser.value("document.querySelector('#status').textContent").as_str().unwrap().to_string()
    };
    let told = status(&mut browser);
    assert!(
        told.starts_with("striped.png. teacher: row 6 of 8, column 3 of 8; most alike"),
        "{told}"
    );
    browser.keep_screenshot("explore-similarity-1200.png");

    // Principal components instead.
    browser.value("document.querySelector('input[value=components]').click()");
    let own: Vec<Tensor> = (0..3).map(|image| tokens.get(image)).collect();
    let places = Basis::of(&[&own]).unwrap().project(&own, None);
    for (picture, expected) in colours(&places, 1).iter().enumerate() {
        assert_close(&shown(&mut browser, picture, 0), expected, 1);
    }
    browser.keep_screenshot("explore-components-1200.png");
    browser.value("document.querySelector('input[value=similarity]').click()");

    // Another encoder, with half as many patches a side: the same place is in row 2, column 1 of its grid.
    browser.value("document.querySelector('input[name=model][value=\"2\"]').click()");
    let told = status(&mut browser);
    assert!(told.starts_with("striped.png. two: row 3 of 4, column 2 of 4"), "{told}");
    let seen = "[...document.querySelectorAll('.frame')].filter(one => one.offsetParent).map(one => one.dataset.model)";
    assert_eq!(browser.value(seen), json!(["2", "2", "2"]));
    assert_eq!(shown(&mut browser, 0, 2).len(), 4 * 4 * 3);

    // All side by side, each with its own grid and its own image.
    browser.value("document.querySelector('input[value=all]').click()");
    assert_eq!(browser.value(seen), json!(["0", "1", "2", "0", "1", "2", "0", "1", "2"]));
    let loaded =
        "[...document.querySelectorAll('.frame img')].every(one => one.naturalWidth === 64)";
    browser.wait_for(loaded);
    let boxes = "[...document.querySelectorAll('.frame canvas, .frame img')].every(one => { \
                 const box = one.getBoundingClientRect(); return Math.abs(box.width - box.height) < 1; })";
    assert_eq!(browser.value(boxes), json!(true), "overlays lie on their images");
    browser.keep_screenshot("explore-side-by-side-1200.png");

    // By keys: from the middle of another image one patch to the right and one down.
    browser.value("document.querySelector('#picture-2 .frame').focus()");
    browser.press("ArrowRight");
    browser.press("ArrowDown");
    let told = status(&mut browser);
    assert!(told.starts_with("spotted.png. teacher: row 6 of 8, column 6 of 8"), "{told}");

    // Names are names.
    let caption = browser.value("document.querySelector('#picture-0 .name').textContent");
    assert_eq!(caption, json!(ODD_NAME));
    assert_eq!(browser.value("document.querySelectorAll('b').length"), json!(0));
    assert_quiet(&mut browser);
}

/// Nothing left the page, nothing went wrong in it, and nothing could leave it.
#[track_caller]
pub(super) fn assert_quiet(browser: &mut Browser) {
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
    let strangers: Vec<&String> = browser
        .requests
        .iter()
        .filter(|url| !url.starts_with("file://") && !url.starts_with("data:image/jpeg"))
        .collect();
    assert!(strangers.is_empty(), "{strangers:?}");
    let files = browser.requests.iter().filter(|url| url.starts_with("file://")).count();
    assert_eq!(files, 1, "the page itself");
    let tried =
        browser.value("fetch('http://127.0.0.1:9/').then(() => 'sent', error => 'refused')");
    assert_eq!(tried, json!("refused"));
    assert!(
        browser.complaints.iter().any(|text| text.contains("Content Security Policy")),
        "the policy of the page refused it: {:?}",
        browser.complaints
    );
}
