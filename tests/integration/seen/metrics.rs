//! `metrics.jsonl` and TensorBoard event files, also across crashes and resumes.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use distill::artifacts::MetricsLines;
use distill::train::metrics::MetricsLog;
use proptest::prelude::*;
use serde_json::Value;
use tempfile::tempdir;

use super::metrics_of;

/// Lines of `metrics.jsonl`, every one of which has to be JSON.
fn lines(run_dir: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run_dir.join("metrics.jsonl")).expect("metrics.jsonl");
    assert!(text.is_empty() || text.ends_with('\n'), "the last line is whole");
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
}

fn steps(run_dir: &Path) -> Vec<u64> {
    lines(run_dir).iter().map(|line| line["step"].as_u64().expect("a step")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Protects `metrics.jsonl` from a run that crashes, tearing its last lines, and goes on from
    /// any earlier step: every step that was done stands there once, in order.
    #[test]
    fn metrics_lines_hold_each_step_once(
        crashes in prop::collection::vec((0_u64..12, 0_usize..900, 0_u64..12), 1..5),
    ) {
        let run = tempdir().unwrap();
        let file = run.path().join("metrics.jsonl");
        let mut expected: Vec<u64> = Vec::new();
        let mut resume_step = 0;
        for (steps_done, torn_bytes, steps_back) in crashes {
            let mut log = MetricsLog::open(run.path(), false, resume_step).unwrap();
            expected.retain(|step| *step <= resume_step);
            prop_assert_eq!(&steps(run.path()), &expected);
            let last = resume_step + steps_done;
            for step in resume_step + 1..=last {
                log.write(&metrics_of(step)).unwrap();
                expected.push(step);
            }
            drop(log);
            prop_assert_eq!(&steps(run.path()), &expected);
            let text = fs::read(&file).unwrap();
            let left = &text[..text.len().saturating_sub(torn_bytes)];
            fs::write(&file, left).unwrap();
            // A line that lost only its end of line still says all it has to say.
            let newlines = left.iter().filter(|byte| **byte == b'\n').count();
            let whole = newlines + usize::from(left.ends_with(b"}") && text[left.len()] == b'\n');
            expected.truncate(whole);
            resume_step = last.saturating_sub(steps_back);
        }
        let mut log = MetricsLog::open(run.path(), false, resume_step).unwrap();
        log.write(&metrics_of(resume_step + 1)).unwrap();
        expected.retain(|step| *step <= resume_step);
        expected.push(resume_step + 1);
        prop_assert_eq!(steps(run.path()), expected);
    }
}

/// Protects against double steps that two processes wrote, and against garbage between lines: the
/// later line counts, and the file keeps the permissions of an ordinary one.
#[test]
fn metrics_lines_are_cleaned_of_double_steps_and_garbage() {
    use std::os::unix::fs::PermissionsExt;

    let run = tempdir().unwrap();
    let file = run.path().join("metrics.jsonl");
    fs::write(run.path().join("ordinary"), "").unwrap();
    let text = b"{\"step\":1,\"by\":\"a\"}\n{\"step\":2,\"by\":\"a\"}\n{\"st\xff\n{\"step\":2,\"by\":\"b\"}\n{\"step\":9}\n";
    fs::write(&file, text).unwrap();
    MetricsLog::open(run.path(), false, 5).unwrap();
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        "{\"step\":1,\"by\":\"a\"}\n{\"step\":2,\"by\":\"b\"}\n"
    );
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&file), mode(&run.path().join("ordinary")));
    assert_eq!(fs::read_dir(run.path()).unwrap().count(), 2, "no temporary file stays");
}

/// Protects readers of `metrics.jsonl`: numbers that are not finite are `null`, what is turned
/// off is absent, and the rest has the documented names.
#[test]
fn metrics_lines_tell_not_finite_from_turned_off() {
    let run = tempdir().unwrap();
    let mut metrics = metrics_of(3);
    metrics.trainees[0].loss = f64::NAN;
    metrics.trainees[1].loss = f64::INFINITY;
    metrics.peak_memory_bytes = Some(1 << 30);
    MetricsLog::open(run.path(), false, 0).unwrap().write(&metrics).unwrap();
    let line = &lines(run.path())[0];
    let names: Vec<_> = line.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = vec![
        "time",
        "step",
        "epoch",
        "learning_rate",
        "images_seen",
        "images_per_second",
        "data_wait_seconds",
        "exchange_wait_seconds",
        "step_seconds",
        "flops_per_second",
        "mfu",
        "students",
        "peak_memory_bytes",
        "failed_pictures",
    ];
    expected.sort_unstable();
    let mut names = names;
    names.sort_unstable();
    assert_eq!(names, expected);
    let students = line["students"].as_array().unwrap();
    assert!(students[0]["loss"].is_null() && students[1]["loss"].is_null());
    assert_eq!(students[1]["name"], "vit1b16");
    assert!(students[0].get("loss_patch").is_none());
    assert!(line["time"].as_f64().unwrap() > 1.7e9);
}

/// Protects readers of runs of any age: what was written is read, terms of any name in their order,
/// `null` as a number that was not finite, and what an older version did not write as unknown. A
/// torn line is counted, not more.
#[test]
fn metrics_lines_are_read_as_they_were_written() {
    let run = tempdir().unwrap();
    assert_eq!(MetricsLines::read(run.path()).unwrap().lines, [], "nothing is recorded yet");
    let mut metrics = metrics_of(1);
    metrics.trainees[1].terms.extend([("patch".into(), 0.5), ("a".into(), 0.25)]);
    MetricsLog::open(run.path(), false, 0).unwrap().write(&metrics).unwrap();
    let file = run.path().join("metrics.jsonl");
    let old = r#"{"time":1.5,"step":2,"epoch":0.5,"learning_rate":0.1,"images_seen":8,"students":[{"name":"one","loss":null,"loss_patch":null,"note":"x","grad_norm":2}]}"#;
    let text = fs::read_to_string(&file).unwrap() + old + "\n{\"time\":2.0,\"st";
    fs::write(&file, text).unwrap();

    let MetricsLines { lines, damaged, .. } = MetricsLines::read(run.path()).unwrap();
    assert_eq!((lines.len(), damaged), (2, 1));
    assert_eq!(lines[0].metrics, metrics);
    let old = &lines[1].metrics;
    assert_eq!((lines[1].time, old.step, old.failed_images), (1.5, 2, 0));
    assert!(old.step_seconds.is_nan() && old.peak_memory_bytes.is_none());
    let one = old.trainee("one").unwrap();
    assert!(one.loss.is_nan() && one.term("patch").unwrap().is_nan());
    assert_eq!((one.terms.len(), one.grad_norm), (1, 2.0));
}

/// Protects the event files: the real TensorBoard reads the values of `metrics.jsonl` from them,
/// also after a crash that tore an event file and a resume from before the crash.
#[test]
fn tensorboard_reads_what_the_metrics_lines_say() {
    let run = tempdir().unwrap();
    let mut log = MetricsLog::open(run.path(), true, 0).unwrap();
    for step in 1..=20 {
        log.write(&metrics_of(step)).unwrap();
    }
    drop(log);
    tear(&only_file(&run.path().join("tensorboard")));

    // Half as often as before: steps 13, 15, ... must vanish although nothing replaces them.
    let mut log = MetricsLog::open(run.path(), true, 12).unwrap();
    for step in [14, 16] {
        let mut metrics = metrics_of(step);
        metrics.trainees[0].loss += 10.0;
        metrics.learning_rate = 0.0;
        log.write(&metrics).unwrap();
    }
    // Read while the run goes on: nothing may wait in a buffer.
    let scalars = tensorboard_scalars(&run.path().join("tensorboard"));
    let expected_steps: Vec<u64> = (1..=12).chain([14, 16]).collect();
    assert_eq!(steps(run.path()), expected_steps);
    assert_eq!(scalars, scalars_of(&lines(run.path())));
    assert!(!scalars.contains_key("loss_patch/vith16"), "it is turned off");
}

/// Protects TensorBoard's default reader, which knows no session starts, from points that were
/// taken back: they are no longer in the files.
#[test]
fn event_files_lose_what_a_resume_takes_back() {
    let (run, whole) = (tempdir().unwrap(), tempdir().unwrap());
    let mut log = MetricsLog::open(whole.path(), true, 0).unwrap();
    (1..=5).for_each(|step| log.write(&metrics_of(step)).unwrap());
    let mut log = MetricsLog::open(run.path(), true, 0).unwrap();
    (1..=9).for_each(|step| log.write(&metrics_of(step)).unwrap());
    let file = only_file(&run.path().join("tensorboard"));
    tear(&file);
    MetricsLog::open(run.path(), true, 5).unwrap();
    let expected = fs::metadata(only_file(&whole.path().join("tensorboard"))).unwrap().len();
    assert_eq!(fs::metadata(&file).unwrap().len(), expected);
}

/// Protects a run whose loss is no number: TensorBoard still reads the file.
#[test]
fn tensorboard_reads_nan() {
    let run = tempdir().unwrap();
    let mut log = MetricsLog::open(run.path(), true, 0).unwrap();
    let mut metrics = metrics_of(1);
    metrics.trainees[0].loss = f64::NAN;
    log.write(&metrics).unwrap();
    let scalars = read_events(&run.path().join("tensorboard"), "scalars");
    assert_eq!(scalars["loss/vith16"][0][1], "nan");
}

/// Protects images in TensorBoard: it reads the very bytes, at their steps and with their sizes,
/// beside the scalars, and not those that a resume takes back.
#[test]
fn tensorboard_reads_images() {
    let png = |side: u32| {
        let image =
            image::RgbImage::from_fn(side, 2 * side, |x, y| image::Rgb([x as u8, y as u8, 7]));
        let mut bytes = std::io::Cursor::new(Vec::new());
        image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        bytes.into_inner()
    };
    let run = tempdir().unwrap();
    let mut log = MetricsLog::open(run.path(), true, 0).unwrap();
    for step in 1..=4 {
        log.write(&metrics_of(step)).unwrap();
        log.image(step, "reconstructions", &png(4 * step as u32)).unwrap();
    }
    let refused = log.image(5, "reconstructions", b"no image").unwrap_err();
    assert!(
        format!("{refused:#}").contains("`reconstructions` of step 5 is no PNG"),
        "{refused:#}"
    );
    let log = MetricsLog::open(run.path(), true, 2).unwrap();
    drop(log);

    let folder = run.path().join("tensorboard");
    let expected: Vec<Value> = [1_u32, 2]
        .map(|step| serde_json::json!([step, 4 * step, 8 * step, BASE64.encode(png(4 * step))]))
        .into();
    assert_eq!(read_events(&folder, "images"), serde_json::json!({"reconstructions": expected}));
    assert_eq!(tensorboard_scalars(&folder), scalars_of(&lines(run.path())));

    let plain = tempdir().unwrap();
    let mut log = MetricsLog::open(plain.path(), false, 0).unwrap();
    log.image(1, "reconstructions", &png(4)).unwrap();
    assert!(!plain.path().join("tensorboard").exists(), "TensorBoard is off");
}

fn only_file(folder: &Path) -> std::path::PathBuf {
    let mut files = fs::read_dir(folder).unwrap();
    let file = files.next().expect("an event file").unwrap().path();
    assert!(files.next().is_none());
    file
}

/// Cuts the last bytes off, as a crash in the middle of a write does.
fn tear(file: &Path) {
    let length = fs::metadata(file).unwrap().len();
    fs::OpenOptions::new().write(true).open(file).unwrap().set_len(length - 5).unwrap();
}

type Scalars = BTreeMap<String, Vec<(u64, f32)>>;

/// The scalars that `lines` of `metrics.jsonl` must have in TensorBoard.
fn scalars_of(lines: &[Value]) -> Scalars {
    let mut scalars = Scalars::new();
    for line in lines {
        let step = line["step"].as_u64().unwrap();
        let share =
            line["data_wait_seconds"].as_f64().unwrap() / line["step_seconds"].as_f64().unwrap();
        let mut add = |tag: String, value: Option<f64>| {
            if let Some(value) = value {
                scalars.entry(tag).or_default().push((step, value as f32));
            }
        };
        for (tag, key) in [
            ("epoch", "epoch"),
            ("learning_rate", "learning_rate"),
            ("throughput/images_per_second", "images_per_second"),
            ("throughput/step_seconds", "step_seconds"),
            ("data/failed_pictures", "failed_pictures"),
        ] {
            add(tag.into(), line[key].as_f64());
        }
        add("throughput/data_wait_share".into(), Some(share));
        let wait = line.get("exchange_wait_seconds").and_then(Value::as_f64);
        add("throughput/exchange_wait_seconds".into(), wait);
        add("throughput/mfu".into(), line.get("mfu").and_then(Value::as_f64));
        let flops = line.get("flops_per_second").and_then(Value::as_f64);
        add("throughput/tflops".into(), flops.map(|flops| flops / 1e12));
        for student in line["students"].as_array().unwrap() {
            for key in ["loss", "loss_class", "loss_patch", "grad_norm"] {
                let tag = format!("{key}/{}", student["name"].as_str().unwrap());
                add(tag, student.get(key).and_then(Value::as_f64));
            }
        }
    }
    scalars
}

fn tensorboard_scalars(folder: &Path) -> Scalars {
    let point = |point: &Value| {
        (point[0].as_u64().expect("a step"), point[1].as_f64().expect("a number") as f32)
    };
    let read = read_events(folder, "scalars");
    let tags = read.as_object().expect("an object").iter();
    tags.map(|(tag, points)| {
        (tag.clone(), points.as_array().expect("points").iter().map(point).collect())
    })
    .collect()
}

/// What `tests/python/read_events.py` prints about the `kind` of events in `folder`.
fn read_events(folder: &Path, kind: &str) -> Value {
    let python = env::var_os("DISTILL_TEST_PYTHON")
        .expect("set DISTILL_TEST_PYTHON to a Python that has tensorboard, or run scripts/test");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/read_events.py");
    let output =
        Command::new(&python).arg(script).arg(folder).arg(kind).output().expect("python runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", python.display());
    serde_json::from_slice(&output.stdout).expect("JSON from read_events.py")
}
