//! The page: its markup, and the data that its script reads.

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use indicatif::HumanCount;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::sheets::{Sheets, jpeg_url};
use crate::run::exploration::{Explored, ExploredModel};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");
/// A place on the map is two numbers of 16 bits.
const PLACES: f32 = u16::MAX as f32;

/// One HTML document about what was found, which needs nothing but itself.
///
/// # Errors
/// An image cannot be encoded.
pub fn page(explored: &Explored) -> Result<String> {
    let sheets = Sheets::of(&explored.thumbnails)?;
    let document = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy());
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "What encoders find alike – distill" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (header(explored))
                main {
                    (controls(explored))
                    (pictures(explored)?)
                    (map(explored))
                }
                footer { p { "Made by distill " (env!("CARGO_PKG_VERSION")) ". This page loads nothing from anywhere." } }
                (data(explored, &sheets))
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    Ok(document.into_string())
}

/// What a browser lets the page do: run this script and no other, show what stands in the page, load nothing.
fn policy() -> String {
    let script = STANDARD.encode(Sha256::digest(SCRIPT));
    format!(
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{script}'; \
         base-uri 'none'; form-action 'none'"
    )
}

fn header(explored: &Explored) -> Markup {
    let count = HumanCount(explored.images.len() as u64);
    html! {
        header {
            h1 { "What encoders find alike" }
            p {
                (count) " images, of each the central square, " (explored.input_size) " × "
                (explored.input_size) " pixels as the encoders see it. "
                @if explored.left_out > 0 { (explored.left_out) " could not be read and are left out. " }
                @if explored.with_patches.len() < explored.images.len() {
                    (explored.with_patches.len()) " of them, evenly spread, have patches to click; all are on the "
                    a href="#map" { "map" } "."
                }
            }
        }
    }
}

/// Which encoder, and what is shown of it.
fn controls(explored: &Explored) -> Markup {
    let several = explored.models.len() > 1;
    html! {
        section.controls aria-label="What is shown" {
            fieldset {
                legend { "Encoder" }
                @for (number, model) in explored.models.iter().enumerate() {
                    (choice("model", &number.to_string(), &described(model), number == 0))
                }
                @if several { (choice("model", "all", "side by side", false)) }
            }
            fieldset {
                legend { "Overlay" }
                (choice("overlay", "similarity", "similarity to a patch", true))
                (choice("overlay", "components", "principal components", false))
                label {
                    "strength "
                    input #strength type="range" min="0" max="100" value="70";
                }
            }
            p #scale-line { "cosine " output #scale-low { "0.00" } " " span #scale aria-hidden="true" {} " 1.00" }
            p #status role="status" aria-live="polite" {}
            p.note {
                "Click or tap a patch; or go to an image by Tab and move by the arrow keys. In each image the patch that is most "
                "alike is ringed. "
                @if explored.is_one_basis && several {
                    "Colours of principal components are along the same directions for all encoders."
                } @else if several {
                    "Colours of principal components are along each encoder's own directions: widths differ."
                }
            }
        }
    }
}

fn choice(name: &str, value: &str, text: &str, is_chosen: bool) -> Markup {
    html! {
        label { input type="radio" name=(name) value=(value) checked[is_chosen]; " " (text) }
    }
}

fn described(model: &ExploredModel) -> String {
    let [rows, columns] = model.grid;
    format!("{} ({rows} × {columns} patches)", model.name)
}

/// The images with patches; of each a frame for each encoder.
fn pictures(explored: &Explored) -> Result<Markup> {
    let mut urls = Vec::new();
    for (_, square) in &explored.with_patches {
        urls.push(jpeg_url(square)?);
    }
    Ok(html! {
        section aria-labelledby="patches" {
            h2 #patches { "Patches" }
            div.pictures {
                @for (number, ((place, _), url)) in explored.with_patches.iter().zip(&urls).enumerate() {
                    @let name = explored.images[*place].display().to_string();
                    figure id=(format!("picture-{number}")) {
                        div.frames {
                            @for (model, of) in explored.models.iter().enumerate() {
                                div.frame tabindex="0" role="application" data-picture=(number) data-model=(model)
                                    title=(of.name) aria-roledescription="image of patches"
                                    aria-label=(format!("{name}, by {}: arrow keys choose a patch", of.name)) {
                                    div.square {
                                        // One copy of the data for all encoders: the script gives it to the others.
                                        img src=[(model == 0).then_some(url)] alt=(name);
                                        canvas width=(of.grid[1]) height=(of.grid[0]) aria-hidden="true" {}
                                        span.ring aria-hidden="true" {}
                                        span.chosen aria-hidden="true" {}
                                    }
                                    span.model { (of.name) }
                                }
                            }
                        }
                        figcaption { span.name { (name) } " " span.best {} }
                    }
                }
            }
        }
    })
}

fn map(explored: &Explored) -> Markup {
    let has_map = explored.models.iter().all(|model| !model.places.is_empty());
    html! {
        section aria-labelledby="map-title" id="map" {
            h2 #map-title { "Map of images" }
            @if has_map {
                p.note {
                    "Each image at its place along the first two principal components of all pooled vectors by the chosen encoder. "
                    "Drag to move, turn the wheel or pinch to zoom; by keys: arrows, + and −, 0 for all, Enter for the image in the middle."
                }
                div.map-tools {
                    button #zoom-in type="button" { "Closer" }
                    button #zoom-out type="button" { "Farther" }
                    button #zoom-all type="button" { "All" }
                    button #to-patches type="button" hidden { "Show its patches" }
                }
                canvas #map-canvas tabindex="0" role="application" aria-label="Map of all images" {}
                p #map-status role="status" aria-live="polite" {}
            } @else {
                p.note { "There is a map of three images or more." }
            }
        }
    }
}

/// What the script reads: facts as JSON, and numbers in base64.
fn data(explored: &Explored, sheets: &Sheets) -> Markup {
    let names: Vec<String> =
        explored.images.iter().map(|path| path.display().to_string()).collect();
    let patched: Vec<usize> = explored.with_patches.iter().map(|(place, _)| *place).collect();
    let models = explored.models.iter().map(|model| {
        let [rows, columns] = model.grid;
        json!({ "name": model.name, "rows": rows, "columns": columns, "width": model.width })
    });
    let facts = json!({
        "images": names,
        "patched": patched,
        "models": models.collect::<Vec<_>>(),
        "thumbnail": { "side": sheets.side, "columns": sheets.columns },
        "sheets": sheets.urls.len(),
    });
    // Inside a script element only `<` could end it.
    let facts = facts.to_string().replace('<', "\\u003c");
    let numbers = |id: String, bytes: &[u8]| {
        html! { script type="text/plain" id=(id) { (PreEscaped(STANDARD.encode(bytes))) } }
    };
    html! {
        script type="application/json" id="facts" { (PreEscaped(facts)) }
        (numbers("colours".into(), &sheets.colours))
        @for (number, model) in explored.models.iter().enumerate() {
            (numbers(format!("tokens-{number}"), &bytes_of(&model.tokens)))
            (numbers(format!("components-{number}"), &model.components))
            (numbers(format!("places-{number}"), &places(&model.places)))
        }
        @for (number, url) in sheets.urls.iter().enumerate() {
            script type="text/plain" id=(format!("sheet-{number}")) { (PreEscaped(url)) }
        }
    }
}

fn bytes_of(numbers: &[i8]) -> Vec<u8> {
    numbers.iter().map(|number| number.cast_unsigned()).collect()
}

/// Places in the unit square as whole numbers, little end first.
fn places(places: &[[f32; 2]]) -> Vec<u8> {
    places.iter().flatten().flat_map(|place| ((place * PLACES) as u16).to_le_bytes()).collect()
}
