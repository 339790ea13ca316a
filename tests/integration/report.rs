//! `distill report`: the page about a run says what its directory holds, and needs nothing else.

mod beside;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::python::python;
use crate::support::workshop::{Finished, Workshop};

/// A page as Python reads it.
struct Page(Value);

impl Page {
    /// Reads a page that is well-formed, runs nothing and fetches nothing.
    #[track_caller]
    fn read(path: &Path) -> Self {
        let output = python("read_page.py").arg(path).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "read_page.py: {errors}");
        let page: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(page["problems"], json!([]));
        assert_eq!(page["links"], json!([]), "nothing is fetched");
        assert_eq!(page["elements"]["script"], Value::Null, "nothing is run");
        Self(page)
    }

    #[track_caller]
    fn says(&self, text: &str) {
        let whole = self.0["text"].as_str().unwrap();
        assert!(whole.contains(text), "`{text}` is not on the page: {whole}");
    }

    fn count(&self, element: &str) -> u64 {
        self.0["elements"][element].as_u64().unwrap_or(0)
    }
}

/// `distill report --run RUN` with `more`, in the workshop's folder.
fn report(workshop: &Workshop, run: &str, more: &[&str]) -> Finished {
    let base = ["report", "--run", run];
    Finished::of(workshop.command(&[&base[..], more].concat()).output().unwrap())
}

/// The records of a run's `metrics.jsonl`.
fn records(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A number with four significant digits, as this test would write it by hand.
fn four_digits(value: &Value) -> String {
    let value = value.as_f64().unwrap();
    let digits = 4 - 1 - value.abs().log10().floor() as i32;
    let text = format!("{value:.*}", digits.max(0) as usize);
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

/// Protects the whole of it on a real run: models with their sizes, how far it is, each student's
/// losses, curves, exports with the lines that load them, the configuration. Then the same run as a
/// kill would leave it, in its middle and with its last line torn.
#[test]
fn a_page_tells_a_run_and_what_a_kill_left_of_it() {
    let workshop = Workshop::new();
    workshop.train(&["export.formats=[\"hf\", \"pixio\"]"]).succeeds();
    let done = report(&workshop, "run", &[]).succeeds();
    assert!(done.stdout.starts_with("wrote run/report.html ("), "{}", done.stdout);
    let page = Page::read(&workshop.path("run/report.html"));
    page.says("Distillation run");
    page.says("Steps 8 of 8, complete Images seen 32");
    page.says("teacher – width 48, depth 2, heads 4, patch 8");
    page.says("student one width 32, depth 2, heads 2, patch 8");
    page.says("mask_ratio 0.5");
    page.says("student two width 16, depth 1, heads 2, patch 8");
    let lines = records(&workshop.path("run"));
    for (index, name) in ["one", "two"].iter().enumerate() {
        let of = |line: &Value, key: &str| four_digits(&line["students"][index][key]);
        let (first, last) = (&lines[0], &lines[7]);
        let parts = ["loss", "loss_class", "loss_patch", "grad_norm"].map(|key| of(last, key));
        page.says(&format!("{name} {} {}", of(first, "loss"), parts.join(" ")));
        page.says(&format!("AutoModel.from_pretrained(\"run/exports/{name}\")"));
        page.says(&format!("weights = \"run/exports/{name}/pixio.safetensors\""));
    }
    assert_eq!(page.count("svg"), 6, "loss, rate, speed, norm, class and patch tokens");
    assert!(page.count("polyline") >= 2 + 2 + 4 + 2, "a curve for each student");
    page.says("[[students]] name = \"one\"");
    page.says("Newest checkpoint of step 8");
    assert_eq!(page.count("img"), 0);

    let file = workshop.path("run/metrics.jsonl");
    let text = fs::read_to_string(&file).unwrap();
    let fifth: usize = text.split_inclusive('\n').take(5).map(str::len).sum();
    fs::write(&file, &text[..fifth + 40]).unwrap();
    fs::remove_dir_all(workshop.path("run/exports")).unwrap();
    fs::remove_dir_all(workshop.path("run/checkpoints/step-8")).unwrap();
    let done = report(&workshop, "run", &["--out", "killed.html"]).succeeds();
    assert!(done.stderr.contains("1 line of run/metrics.jsonl cannot be read"), "{}", done.stderr);
    let page = Page::read(&workshop.path("killed.html"));
    page.says("Steps 5 of 8, 62.5 % Images seen 20");
    page.says("1 line of run/metrics.jsonl cannot be read");
    page.says("more at the last pace");
    page.says("distill export --run run --student one --out exported/one");
    assert_eq!(page.count("svg"), 6);
}

/// A run directory in the form of the pre-training command, made by hand.
struct HandMade(TempDir);

const PRETRAINING: &str = r#"
[run]
dir = "run"
precision = "bf16"
[encoder]
name = "encoder"
model = { dim = 32, depth = 2, heads = 2, patch_size = 8 }
mask_ratio = 0.75
[decoder]
dim = 16
depth = 3
heads = 4
[data]
shards = ["a & b/<*>.tar"]
input_size = 32
[schedule]
epochs = 2.0
"#;

impl HandMade {
    /// With a name that HTML has to escape.
    fn new() -> Self {
        let run = Self(tempfile::tempdir().unwrap());
        fs::create_dir(run.path()).unwrap();
        fs::write(run.path().join("config.toml"), PRETRAINING).unwrap();
        run
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("x & <i> y \"z\" 'q'")
    }

    /// Records of `steps`, ten to an epoch; the loss of step 3 is no number.
    fn records(&self, steps: std::ops::RangeInclusive<u64>) {
        let line = |step: u64| {
            let loss = if step == 3 { Value::Null } else { json!(1.0 / step as f64) };
            let record = json!({
                "time": 1.7e9 + step as f64, "step": step, "epoch": step as f64 / 10.0,
                "learning_rate": 1e-3, "images_seen": 512 * step, "images_per_second": 100.0,
                "data_wait_seconds": 0.0, "step_seconds": 30.0, "failed_pictures": 3,
                "students": [{"name": "encoder", "loss": loss, "grad_norm": 0.5}],
            });
            format!("{record}\n")
        };
        let text: String = steps.map(line).collect();
        fs::write(self.path().join("metrics.jsonl"), text).unwrap();
    }

    /// `reconstructions/step-N.png`, an image of its own for each step; returns its pixels.
    fn reconstruction(&self, step: u64) -> Vec<u8> {
        let image = image::RgbImage::from_fn(30 + step as u32 % 7, 20, |x, y| {
            image::Rgb([x as u8 * 3, y as u8 * 5, step as u8])
        });
        let folder = self.path().join("reconstructions");
        fs::create_dir_all(&folder).unwrap();
        image.save(folder.join(format!("step-{step:06}.png"))).unwrap();
        image.into_raw()
    }

    fn report(&self) -> Finished {
        let path = self.path();
        let workshop = Workshop::new();
        report(&workshop, path.to_str().unwrap(), &[])
    }

    fn page(&self) -> Page {
        self.report().succeeds();
        Page::read(&self.path().join("report.html"))
    }
}

/// Figures that were taken with other images or settings are not joined to the later ones by a line.
#[test]
fn evaluations_of_other_settings_have_a_chart_of_their_own() {
    let run = HandMade::new();
    run.records(1..=8);
    let line = |(step, of): (u64, &str)| {
        let measured = json!([{"encoder": "encoder", "role": "trained", "metric": "accuracy",
            "value": step as f64 / 10.0}]);
        let line = json!({"time": 1.7e9, "step": step, "evaluation": "knn", "seconds": 1.0,
            "measurements": measured, "of": of});
        format!("{line}\n")
    };
    let write = |lines: &[(u64, &str)]| {
        run.records(1..=8);
        let path = run.path().join("metrics.jsonl");
        let text = fs::read_to_string(&path).unwrap()
            + &lines.iter().map(|&one| line(one)).collect::<String>();
        fs::write(path, text).unwrap();
        run.page()
    };
    let charts = write(&[(2, "a"), (4, "a"), (6, "a"), (8, "a")]).count("figure");
    let page = write(&[(2, "a"), (4, "a"), (6, "b"), (8, "b")]);
    assert_eq!(page.count("figure"), charts + 1);
    page.says("knn: accuracy in %, with other images or settings, up to step 4");
}

/// Protects the figures of an evaluation: each is on the page to the digit, with its encoder, its role
/// and its number of neighbours, and programs find the exact value.
#[test]
fn every_figure_of_an_evaluation_is_on_the_page() {
    let run = HandMade::new();
    let encoders = json!([
        {"name": "encoder", "role": "random", "accuracies": [0.69051, 0.7]},
        {"name": "encoder", "role": "trained", "accuracies": [0.76, 0.7712345678]},
        {"name": "a<b>&c", "role": "teacher", "accuracies": [1.0, 0.0]},
    ]);
    let evaluation = json!({"later": [1], "knn": {
        "reference_pictures": 20_000, "held_out_pictures": 2_000, "temperature": 0.07,
        "neighbours": [10, 20], "encoders": encoders,
    }});
    fs::write(run.path().join("evaluation.json"), evaluation.to_string()).unwrap();
    run.records(1..=20);
    let page = run.page();
    page.says("Masked-autoencoder pre-training x & <i> y \"z\" 'q'");
    page.says("Steps 20 of 20, complete Images seen 10,240 Training time 10 min 0 s");
    page.says("encoder encoder width 32, depth 2, heads 2, patch 8");
    page.says("decoder – width 16, depth 3, heads 4");
    page.says("Crops of 32 × 32 pixels. 512 images a step. Matrix products in bf16.");
    page.says("Encoder Weights k = 10 k = 20 encoder random 69.05 % 70.00 %");
    page.says("encoder trained 76.00 % 77.12 % a<b>&c teacher 100.00 % 0.00 %");
    page.says("on 2,000 held-out images by the votes of the k nearest of 20,000 reference");
    page.says("temperature 0.07");
    assert_eq!(page.0["numbers"], json!([0.69051, 0.7, 0.76, 0.7712345678, 1.0, 0.0]));
    page.says("[data] shards = [\"a & b/<*>.tar\"]");
    assert_eq!(page.count("i"), 0, "what is in a name is no element");
    assert_eq!(page.count("svg"), 4, "loss, rate, speed, norm");

    fs::write(run.path().join("evaluation.json"), "{\"knn\": {\"neighbours\": 3}}").unwrap();
    let page = run.page();
    page.says("evaluation.json cannot be read: ");
    assert_eq!(page.0["numbers"], json!([]));
}

/// Protects several evaluations on one page: each has a section of its own, with its own words, and an
/// encoder that lacks a figure has a dash there.
#[test]
fn each_evaluation_has_a_section() {
    let run = HandMade::new();
    run.records(1..=3);
    let of = |encoder: &str, role: &str, metric: &str, value: f64| json!({"encoder": encoder, "role": role, "metric": metric, "value": value});
    let result = |title: &str, labels: &[&str], measurements: Vec<Value>| {
        let metrics: Vec<Value> =
            labels.iter().map(|label| json!({"name": label, "label": label})).collect();
        json!({
            "name": "x", "kind": "of-later", "step": 1234, "title": title,
            "description": format!("How {title} came about"),
            "images": [{"set": "held-out", "count": 5}],
            "metrics": metrics, "measurements": measurements,
        })
    };
    let first = vec![
        of("one", "initial", "A", 0.25),
        of("one", "trained", "B", 0.5),
        of("one", "trained", "A", 0.75),
    ];
    let results = [
        result("<First>", &["A", "B"], first),
        result("Second", &["C"], vec![of("two", "teacher", "C", 1.0)]),
    ];
    let file = json!({"version": 2, "results": results});
    fs::write(run.path().join("evaluation.json"), file.to_string()).unwrap();
    let page = run.page();
    page.says("<First> Encoder Weights A B one initial 25.00 % – one trained 75.00 % 50.00 %");
    page.says("How <First> came about. Bars reach from 0 to 100 %. Measured after step 1,234.");
    page.says("Second Encoder Weights C two teacher 100.00 % How Second came about.");
    assert_eq!(page.0["numbers"], json!([0.25, 0.75, 0.5, 1.0]));

    fs::write(run.path().join("evaluation.json"), "{\"version\": 4}").unwrap();
    run.page().says("evaluation.json cannot be read: it is of version 4");
}

/// Protects reconstructions: the page holds the very pixels, the newest apart from up to eight evenly
/// spread earlier ones, and a damaged one takes no other with it.
#[test]
fn reconstructions_are_in_the_page_pixel_by_pixel() {
    let run = HandMade::new();
    run.records(1..=12);
    let steps: Vec<u64> = (1..=17).map(|number| 50 * number).collect();
    let pixels: Vec<Vec<u8>> = steps.iter().map(|step| run.reconstruction(*step)).collect();
    fs::write(run.path().join("reconstructions/step-000100.png"), b"\x89PNG, torn").unwrap();
    fs::write(run.path().join("reconstructions/.write.abc"), b"half").unwrap();
    fs::write(run.path().join("reconstructions/notes.txt"), b"mine").unwrap();
    let page = run.page();
    page.says("Step 850. In each row");
    page.says("Step 50 Step 150 Step 250 Step 350 Step 450 Step 550 Step 650 Step 750");
    page.says("9 of 17 are shown");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let image = |index: usize| json!([30 + steps[index] % 7, 20, hex(&pixels[index])]);
    let shown: Vec<Value> = [16, 0, 2, 4, 6, 8, 10, 12, 14].map(image).into();
    assert_eq!(page.0["images"], Value::from(shown));

    fs::write(run.path().join("reconstructions/step-000050.png"), b"\x89PNG, torn").unwrap();
    let page = run.page();
    page.says("step-000050.png cannot be read: ");
    assert_eq!(page.0["images"].as_array().unwrap().len(), 8);
}

/// Protects the very beginning of a run, a loss that is no number, and runs of one record: each has a
/// page, which replaces the one before.
#[test]
fn a_run_that_has_hardly_begun_has_a_page() {
    let run = HandMade::new();
    let page = run.page();
    page.says("No step is recorded yet.");
    page.says("None yet. A run writes them to exports/ when it ends.");
    assert_eq!(page.count("svg"), 0);
    for last in [1, 3] {
        run.records(1..=last);
        let page = run.page();
        assert_eq!(page.count("svg"), 4);
        page.says(&format!("Steps {last} of 20, "));
    }
    let page = run.page();
    page.says("encoder 1 – 0.5");
}

/// What is no run, or cannot be read or written, is said in a line, with what to do; an earlier page
/// stays as it was.
#[test]
fn what_is_no_run_gets_one_clear_line() {
    let workshop = Workshop::new();
    let no_run = ["shards is no run directory", "config.toml", "run.dir"];
    report(&workshop, "shards", &[]).fails(1, &no_run);
    report(&workshop, "nowhere", &[]).fails(1, &["nowhere is no run directory"]);
    report(&workshop, "config.toml", &[]).fails(1, &["config.toml is no run directory"]);
    fs::create_dir(workshop.path("broken")).unwrap();
    fs::write(workshop.path("broken/config.toml"), "[run\n").unwrap();
    fs::write(workshop.path("broken/report.html"), "earlier").unwrap();
    report(&workshop, "broken", &[]).fails(1, &["broken/config.toml is no TOML"]);
    assert_eq!(fs::read_to_string(workshop.path("broken/report.html")).unwrap(), "earlier");
    let run = HandMade::new();
    let path = run.path();
    let path = path.to_str().unwrap();
    report(&workshop, path, &["--out", "no/folder/page.html"]).fails(1, &["no/folder/page.html"]);
    report(&workshop, path, &["--out", "shards"]).fails(1, &["--out shards", "folder"]);
}
