//! Several runs on one page, and any page on a narrow screen.

use std::fs;

use serde_json::{Value, json};

use super::{Page, four_digits, records, report};
use crate::support::browser::Browser;
use crate::support::workshop::{Workshop, labelled};

/// Two pre-trained encoders with k-NN at their ends, which differ in one setting.
fn two_runs() -> Workshop {
    let (workshop, settings) = labelled();
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    workshop.pretrain(&settings).succeeds();
    let other = ["run.dir=second", "optimizer.learning_rate=2e-2"];
    workshop.pretrain(&[&settings[..], &other].concat()).succeeds();
    workshop
}

/// Losses, figures and the one difference of two real runs; both pages, and that of one run, fit screens of 400 and of 1200
/// pixels.
#[test]
fn runs_stand_side_by_side_on_any_screen() {
    let workshop = two_runs();
    let both = ["--run", "second", "--out", "both.html"];
    report(&workshop, "pre", &both).succeeds();
    let page = Page::read(&workshop.path("both.html"));
    for text in ["pre and second", "pre: encoder", "second: encoder", "optimizer.learning_rate"] {
        page.says(text);
    }
    for run in ["pre", "second"] {
        let records = records(&workshop.path(run));
        let last = records.iter().rfind(|line| line.get("students").is_some()).unwrap();
        page.says(&four_digits(&last["students"][0]["loss"]));
        let file = fs::read(workshop.path(run).join("evaluation.json")).unwrap();
        let file: Value = serde_json::from_slice(&file).unwrap();
        let value = file["results"][0]["measurements"][0]["value"].as_f64().unwrap();
        page.says(&format!("{:.2} %", 100.0 * value));
    }
    assert_eq!(page.count("svg"), 2, "losses and speed");
    report(&workshop, "pre", &[]).succeeds();
    for name in ["both.html", "pre/report.html"] {
        let mut browser = Browser::open(&workshop.path(name), (400, 800));
        for width in [400, 1200] {
            browser.resize((width, 800));
            browser.settle();
            let taken = browser.value("document.documentElement.scrollWidth").as_u64().unwrap();
            assert!(taken <= u64::from(width), "{name} takes {taken} of {width} pixels");
            browser.keep_screenshot(&format!("{}-{width}.png", name.replace(['/', '.'], "-")));
        }
        // What is too wide for the page is moved by itself.
        browser.resize((400, 800));
        let tables = "[...document.querySelectorAll('table')].every(one => one.clientWidth <= 400)";
        assert_eq!(browser.value(tables), json!(true));
        assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
    }
}

#[test]
fn several_runs_need_a_place_for_their_page() {
    let workshop = Workshop::new();
    report(&workshop, "one", &["--run", "two"]).fails(1, &["--out", "several"]);
    report(&workshop, "one", &["--run", "two", "--out", "x.html"]).fails(1, &["one is no run"]);
}
