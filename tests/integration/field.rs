//! What users really hand it: signals, logs that nobody reads, other settings, odd shards and folders, weights as
//! others save them. Nothing is lost, wrong or left out without a word.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::exported::with_export;
use crate::support::processes::send;
use crate::support::ranks::{metrics, wait_for_steps};
use crate::support::workshop::{Finished, Workshop, image, labelled};

fn distill(workshop: &Workshop, arguments: &[&str]) -> Finished {
    Finished::of(workshop.command(arguments).output().unwrap())
}

fn rates(workshop: &Workshop, run: &str) -> Vec<f64> {
    metrics(workshop, run).iter().map(|line| line["learning_rate"].as_f64().unwrap()).collect()
}

/// Every signal of a terminal or scheduler saves and ends with 75, and the run is then what it would have been.
#[test]
fn signals_of_terminals_and_schedulers_save() {
    let workshop = Workshop::new();
    let long = ["schedule.steps_per_epoch=1000000", "checkpoint.every=1000000"];
    for signal in ["HUP", "USR1", "USR2", "XCPU"] {
        let dir = format!("run.dir={signal}");
        let run = workshop.training(&[&long[..], &[&dir]].concat());
        // These tests may run under nohup, which a run respects.
        let mut command = Command::new("env");
        command.arg("--default-signal=HUP").arg(run.get_program()).args(run.get_args());
        command.current_dir(workshop.path("")).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        wait_for_steps(&workshop, signal, 3);
        send(signal, child.id());
        assert_eq!(child.wait().unwrap().code(), Some(75), "{signal}");
        assert_eq!(workshop.checkpoints(signal).len(), 1, "{signal}");
    }
}

/// What only tells never ends a run: a full disk under the log, a reader that is gone.
#[test]
fn a_log_that_cannot_be_written_ends_no_run() {
    let workshop = Workshop::new();
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let mut command = workshop.training(&[]);
    let status = command.stderr(full()).stdout(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(workshop.path("run/exports/one/model.safetensors").exists());
    let mut command = workshop.training(&["run.dir=unread"]);
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(workshop.path("unread/exports/one/model.safetensors").exists());
}

/// A run that its data end saves what was trained, says where, and goes on from there when they are mended.
#[test]
fn an_error_of_data_saves_the_last_state() {
    let workshop = Workshop::new();
    let good: Vec<_> = (0..60).map(|i| (format!("{i}.jpg"), image(i))).collect();
    let mut bad = good.clone();
    bad.extend(["bad.jpg", "worse.jpg"].map(|name| (name.to_string(), b"GIF89a".to_vec())));
    workshop.shard("shards/0.tar", &bad);
    fs::remove_file(workshop.path("shards/1.tar")).unwrap();
    let long = ["schedule.steps_per_epoch=40", "checkpoint.every=1000", "data.workers=1"];
    let failed =
        workshop.train(&long).fails(1, &["a GIF", "the state after step", "checkpoints/step-"]);
    let steps = workshop.checkpoints("run");
    assert_eq!(steps.len(), 1, "{}", failed.stderr);
    assert_eq!(metrics(&workshop, "run").len(), steps[0][5..].parse::<usize>().unwrap());
    let mended = [&long[..], &["data.max_failed_share=0.5"]].concat();
    let done = workshop.train(&mended).succeeds();
    assert!(done.stderr.contains(&format!("continuing from run/checkpoints/{}", steps[0])));
}

/// Damaged and foreign folders among the checkpoints cost no whole one.
#[test]
fn damaged_checkpoints_neither_count_nor_hide() {
    let workshop = Workshop::new();
    workshop.train(&["checkpoint.keep=10"]).succeeds();
    for step in [6, 8] {
        let file = workshop.path(&format!("run/checkpoints/step-{step}/one.safetensors"));
        File::options().write(true).open(file).unwrap().set_len(50).unwrap();
    }
    fs::create_dir(workshop.path("run/checkpoints/step-999")).unwrap();
    let done = workshop.train(&["checkpoint.keep=1", "checkpoint.every=1"]).succeeds();
    assert!(done.stderr.contains("continuing from run/checkpoints/step-4"), "{}", done.stderr);
    let left = workshop.checkpoints("run");
    assert!(left.contains(&"step-8".to_string()), "{left:?}");
    let whole: Vec<_> = left.iter().filter(|name| !name.contains("old")).collect();
    assert_eq!(whole, ["step-8"], "{left:?}");
    assert!(
        left.contains(&"step-999.old-1".to_string()) && left.contains(&"step-8.old-1".to_string())
    );
}

/// A copy of a checkpoint under another step's name, or a link to it, is no checkpoint of that step.
#[test]
fn a_checkpoint_under_another_name_is_set_aside() {
    let workshop = Workshop::new();
    workshop.train(&[]).succeeds();
    let place = |name: &str| workshop.path(&format!("run/checkpoints/{name}"));
    std::os::unix::fs::symlink("step-8", place("step-77")).unwrap();
    fs::create_dir(place("step-7")).unwrap();
    for file in fs::read_dir(place("step-6")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), place("step-7").join(file.file_name())).unwrap();
    }
    let done = workshop.train(&["schedule.epochs=6", "checkpoint.keep=2"]).succeeds();
    for words in
        ["step-77 holds the checkpoint of step 8", "continuing from run/checkpoints/step-8"]
    {
        assert!(done.stderr.contains(words), "`{words}` is not in {}", done.stderr);
    }
    assert_eq!(
        workshop.checkpoints("run"),
        ["step-10", "step-12", "step-7.old-1", "step-77.old-1"]
    );
}

/// What is learned does not change unsaid: some settings are told, others need --accept-changes, and the
/// configuration keeps what was.
#[test]
fn other_settings_are_named() {
    let workshop = Workshop::new();
    workshop.train(&[]).succeeds();
    let quiet = workshop.train(&["log.every=3", "run.threads=1", "data.workers=1"]).succeeds();
    assert!(!quiet.stderr.contains("up to step"), "{}", quiet.stderr);
    let before = fs::read(workshop.path("run/config.toml")).unwrap();
    for (change, key) in [
        ("loss.patch=l1", "loss.patch"),
        ("data.mean=[0.5, 0.5, 0.5]", "data.mean"),
        ("students.0.mask_ratio=0.25", "students.0.mask_ratio"),
        ("seed=5", "seed"),
    ] {
        workshop.train(&[change]).fails(2, &[key, "up to step 8", "--accept-changes"]);
    }
    assert_eq!(fs::read(workshop.path("run/config.toml")).unwrap(), before);
    let longer = workshop.train(&["schedule.epochs=6", "optimizer.learning_rate=1e-3"]).succeeds();
    for words in [
        "`schedule.epochs` was 4.0 up to step 8, and is 6.0",
        "had 8 steps, and has 12: the learning rate",
    ] {
        assert!(longer.stderr.contains(words), "`{words}` is not in {}", longer.stderr);
    }
    assert_eq!(rates(&workshop, "run").len(), 12);
    let config = fs::read_to_string(workshop.path("run/config.toml")).unwrap();
    assert!(config.contains("# up to step 8: schedule.epochs = 4.0\n"), "{config}");
    let shorter = workshop.train(&["schedule.epochs=2", "optimizer.learning_rate=1e-3"]).succeeds();
    assert!(shorter.stderr.contains("past the end of a schedule of 4 steps"), "{}", shorter.stderr);
    let accepted = ["schedule.epochs=8", "optimizer.learning_rate=1e-3", "loss.patch=l1"];
    let mut command = workshop.training(&accepted);
    let done = Finished::of(command.arg("--accept-changes").output().unwrap()).succeeds();
    assert!(done.stderr.contains("`loss.patch` was \"cosine\" up to step 12"), "{}", done.stderr);
    // From here on it is what it is.
    workshop.train(&accepted).succeeds();
}

/// Members of a sample need not be neighbours, names may have dots, labels may look a little otherwise; what is
/// not read is told each time.
#[test]
fn odd_shards_are_read_or_told() {
    let workshop = Workshop::new();
    let text = |text: &str| text.as_bytes().to_vec();
    let members = [
        ("a.jpg".to_string(), image(1)),
        ("b.JFIF".into(), image(2)),
        ("v1.5.jpg".into(), image(3)),
        ("c.gif".into(), text("GIF89a")),
        ("b.CLS".into(), text("\u{feff}2\n")),
        ("a.cls".into(), text("1.0")),
        ("d.cls".into(), text("4")),
        ("e.jpg".into(), image(4)),
        ("e.cls".into(), text("cat")),
    ];
    workshop.shard("odd.tar", &members);
    for _ in 0..2 {
        let done = distill(&workshop, &["data", "index", "odd.tar"]).succeeds();
        let row: Vec<&str> = done.stdout.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(row[..2], ["4", "2"], "samples and labels: {}", done.stdout);
        for words in ["`e.cls` is \"cat\"", "`d.cls`", ".gif 1"] {
            assert!(done.stderr.contains(words), "`{words}` is not in {}", done.stderr);
        }
    }
    for (name, bytes, says) in [
        ("zstd.tar", &b"\x28\xb5\x2f\xfd rest"[..], "zstd -d"),
        ("lfs.tar", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("page.tar", b"<!DOCTYPE html><html>", "a web page"),
    ] {
        fs::write(workshop.path(name), bytes).unwrap();
        let done = distill(&workshop, &["data", "index", name]).fails(1, &["cannot be indexed"]);
        assert!(done.stdout.contains(says), "{name}: {}", done.stdout);
    }
}

/// A shard that was written anew is read anew, though its size and time are the same.
#[test]
fn a_rewritten_shard_is_noticed() {
    let workshop = Workshop::new();
    let old = |path: &Path| {
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1000)).unwrap();
    };
    let path = workshop.path("x.tar");
    for (class, state) in [("1", "made"), ("2", "made")] {
        let label = ("a.cls".to_string(), class.as_bytes().to_vec());
        workshop.shard("x.tar", &[("a.jpg".into(), image(1)), label]);
        old(&path);
        let done = distill(&workshop, &["data", "index", "x.tar"]).succeeds();
        assert!(done.stdout.lines().nth(1).unwrap().contains(state), "{}", done.stdout);
    }
    let again = distill(&workshop, &["data", "index", "x.tar"]).succeeds();
    assert!(again.stdout.lines().nth(1).unwrap().contains("found"), "{}", again.stdout);
}

/// Folders as people have them: numbers, splits, links in a circle, FIFOs, other kinds of images, other classes.
#[test]
fn odd_folders_are_packed_or_told() {
    let workshop = Workshop::new();
    let put = |path: &str| {
        let path = workshop.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, image(1)).unwrap();
    };
    let pack = |source: &str, out: &str, more: &[&str]| {
        distill(&workshop, &[&["data", "pack", source, "--out", out], more].concat())
    };
    let classes = |out: &str| -> Value {
        serde_json::from_slice(&fs::read(workshop.path(out).join("classes.json")).unwrap()).unwrap()
    };
    for number in [0, 2, 10] {
        put(&format!("numbers/{number}/a.jpg"));
    }
    put("numbers/2/b.jpe");
    put("numbers/2/c.bmp");
    std::os::unix::fs::symlink("..", workshop.path("numbers/2/loop")).unwrap();
    let fifo = workshop.path("numbers/10/x.jpg");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let done = pack("numbers", "p", &[]).succeeds();
    assert!(done.stdout.contains("packed 4 samples"), "{}", done.stdout);
    for words in [".bmp 1", "loop", "no files"] {
        assert!(done.stderr.contains(words), "`{words}` is not in {}", done.stderr);
    }
    assert_eq!(classes("p"), serde_json::json!(["0", "2", "10"]));
    fs::create_dir(workshop.path("numbers/1")).unwrap();
    let done = pack("numbers", "with-an-empty-one", &[]).succeeds();
    assert!(done.stderr.contains("1 folders without an image are no classes"), "{}", done.stderr);
    assert_eq!(classes("with-an-empty-one"), serde_json::json!(["0", "2", "10"]));
    put("fewer/2/a.jpg");
    pack("fewer", "p", &["--prefix", "more"]).fails(1, &["numbers other classes", "--classes"]);
    assert_eq!(classes("p"), serde_json::json!(["0", "2", "10"]), "what was there stays");
    pack("fewer", "q", &["--classes", "p/classes.json"]).succeeds();
    let index = distill(
        &workshop,
        &["eval", "knn", "--weights", "none", "--reference", "q/*.tar", "--held-out", "q/*.tar"],
    );
    assert_eq!(index.code, Some(1));
    assert_eq!(classes("q"), serde_json::json!(["0", "2", "10"]));
    put("splits/train/a/a.jpg");
    put("splits/val/a/a.jpg");
    pack("splits", "s", &[]).fails(1, &["splits", "splits/train"]);
    // A wildcard sees what `ls` shows.
    fs::create_dir_all(workshop.path("hidden/.old")).unwrap();
    fs::copy(workshop.path("shards/0.tar"), workshop.path("hidden/.old/a.tar")).unwrap();
    fs::write(workshop.path("hidden/._a.tar"), "x").unwrap();
    fs::copy(workshop.path("shards/0.tar"), workshop.path("hidden/a.tar")).unwrap();
    let done = distill(&workshop, &["data", "index", "hidden/*.tar"]).succeeds();
    assert!(done.stdout.contains("total of 1 shards"), "{}", done.stdout);
    // A FIFO would be waited for, and what a pattern names must not be less without a word.
    let fifo = workshop.path("hidden/b.tar");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for pattern in ["hidden/*.tar", "hidden/b.tar"] {
        distill(&workshop, &["data", "index", pattern]).fails(2, &["hidden/b.tar", "FIFO"]);
    }
    distill(&workshop, &["data", "index", "hidden/*/*.tar"]).fails(2, &["matches no file"]);
    distill(&workshop, &["data", "index", "hidden/.old/*.tar"]).succeeds();
    distill(&workshop, &["data", "index", "a{0..999999999}.tar"])
        .fails(2, &["spells 1000000000 names"]);
    workshop.train(&["run.dir="]).fails(2, &["run.dir", "expected a folder"]);
}

/// Numbers of classes are not compared without the names behind them.
#[test]
fn classes_that_are_numbered_otherwise_are_not_compared() {
    let workshop = with_export();
    for (set, classes) in [("train", "abc"), ("val", "bc")] {
        for class in classes.chars() {
            let folder = workshop.path(&format!("{set}/{class}"));
            fs::create_dir_all(&folder).unwrap();
            for number in 0..2u32 {
                fs::write(folder.join(format!("{number}.jpg")), image(class as u32 * 10 + number))
                    .unwrap();
            }
        }
    }
    let pack = |set: &str, out: &str, more: &[&str]| {
        _ = distill(&workshop, &[&["data", "pack", set, "--out", out], more].concat()).succeeds();
    };
    pack("train", "p/train", &[]);
    pack("val", "p/val", &[]);
    pack("val", "p/same", &["--classes", "p/train/classes.json"]);
    let knn = |held_out: &str| {
        let common = [
            "eval",
            "knn",
            "--weights",
            "export",
            "--device",
            "cpu",
            "--neighbours",
            "1",
            "--json",
        ];
        let sets = ["--reference", "p/train/*.tar", "--held-out", held_out];
        distill(&workshop, &[&common[..], &sets].concat())
    };
    for others in ["p/val/*.tar", "val"] {
        knn(others).fails(1, &["class 0 is `a`", "`b`", "--classes"]);
    }
    knn("train").succeeds();
    let mut numbered = workshop.command(&["eval", "knn", "--weights", "export", "--device", "cpu"]);
    numbered.args(["--reference", "train", "--held-out", "val", "--neighbours", "1", "--json"]);
    numbered.args(["--classes", "p/train/classes.json"]);
    let report = Finished::of(numbered.output().unwrap()).succeeds().stdout;
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["accuracies"][0]["top1"], 1.0, "{report}");
    let report: Value = serde_json::from_str(&knn("p/same/*.tar").succeeds().stdout).unwrap();
    assert_eq!(report["accuracies"][0]["top1"], 1.0, "{report}");
}

/// Figures are measured anew where the images that they were measured with are others, under the same names.
#[test]
fn figures_belong_to_the_images_that_were_there() {
    let (workshop, [knn, data]) = labelled();
    let measure = || {
        workshop.pretrain(&[&knn, &data]).succeeds();
        fs::read_to_string(workshop.path("pre/evaluation.json")).unwrap()
    };
    let first = measure();
    assert_eq!(measure(), first);
    let members: Vec<_> = (0..6)
        .flat_map(|i| {
            let class = (1 - i % 2).to_string().into_bytes();
            let seed = if i % 2 == 0 { 3 * i } else { 100 + 7 * i };
            [(format!("{i}.jpg"), image(seed)), (format!("{i}.cls"), class)]
        })
        .collect();
    workshop.shard("shards/few.tar", &members);
    assert_ne!(measure(), first);
}

/// What is exported is the state that a run holds, also where it goes on from another's finished checkpoint.
#[test]
fn a_finished_checkpoint_of_another_run_is_what_is_exported() {
    let workshop = Workshop::new();
    workshop.train(&[]).succeeds();
    workshop.train(&["run.dir=short", "schedule.steps_per_epoch=1"]).succeeds();
    let weights =
        |run: &str| fs::read(workshop.path(run).join("exports/one/model.safetensors")).unwrap();
    assert_ne!(weights("run"), weights("short"));
    for dir in ["short", "new"] {
        let mut command = workshop.training(&[&format!("run.dir={dir}")]);
        command.args(["--resume", "run/checkpoints/step-8"]);
        Finished::of(command.output().unwrap()).succeeds();
        assert_eq!(weights("run"), weights(dir), "{dir}");
    }
}

/// A user's own file beside an export stays there, and the run ends well.
#[test]
fn a_note_beside_an_export_stays() {
    let workshop = Workshop::new();
    workshop.train(&[]).succeeds();
    fs::write(workshop.path("run/exports/one/NOTES.md"), "measured").unwrap();
    let before = fs::read(workshop.path("run/exports/one/model.safetensors")).unwrap();
    workshop.train(&["schedule.epochs=5"]).succeeds();
    assert_eq!(fs::read_to_string(workshop.path("run/exports/one/NOTES.md")).unwrap(), "measured");
    assert_ne!(fs::read(workshop.path("run/exports/one/model.safetensors")).unwrap(), before);
}

/// Images that viewers turn are packed turned, where they are written anew; and the loss of a line is the mean of
/// its steps.
#[test]
fn turned_images_and_mean_losses() {
    let workshop = Workshop::new();
    let script = "import sys\nfrom PIL import Image\nfor o in range(1, 9):\n    image = Image.new('RGB', (60, 40))\n    \
                  image.paste((255, 255, 255), (0, 0, 60, 20))\n    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[o]\n    \
                  image = image if back is None else image.transpose(back)\n    exif = Image.Exif()\n    exif[0x112] = o\n    \
                  image.save(f'{sys.argv[1]}/{o}.jpg', exif=exif, quality=95)\n    image.save(f'{sys.argv[1]}/{o}p.png', exif=exif)\n";
    fs::create_dir(workshop.path("photos")).unwrap();
    let mut make =
        Command::new(std::env::var_os("DISTILL_TEST_PYTHON").expect("scripts/test sets it"));
    assert!(make.args(["-c", script]).arg(workshop.path("photos")).status().unwrap().success());
    distill(&workshop, &["data", "pack", "photos", "--out", "p", "--shorter-side", "20"])
        .succeeds();
    let mut tar = tar::Archive::new(File::open(workshop.path("p/shard-000000.tar")).unwrap());
    let mut count = 0;
    for member in tar.entries().unwrap() {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut member.unwrap(), &mut bytes).unwrap();
        let seen = image::load_from_memory(&bytes).unwrap().into_luma8();
        let (width, height) = seen.dimensions();
        assert_eq!((width, height), (30, 20));
        let mean = |rows: std::ops::Range<u32>| {
            let levels = rows.flat_map(|y| (0..width).map(move |x| (x, y)));
            let levels: Vec<u32> = levels.map(|(x, y)| seen.get_pixel(x, y).0[0].into()).collect();
            levels.iter().sum::<u32>() / levels.len() as u32
        };
        assert!(mean(0..5) > 200 && mean(15..20) < 60, "{} and {}", mean(0..5), mean(15..20));
        count += 1;
    }
    assert_eq!(count, 16);

    workshop.train(&["run.dir=each"]).succeeds();
    workshop.train(&["run.dir=fourth", "log.every=4", "checkpoint.every=8"]).succeeds();
    let losses = |run: &str| -> Vec<f64> {
        let lines = metrics(&workshop, run);
        lines.iter().map(|line| line["students"][0]["loss"].as_f64().unwrap()).collect()
    };
    let (each, fourth) = (losses("each"), losses("fourth"));
    assert_eq!((each.len(), fourth.len()), (8, 2));
    for (mean, steps) in fourth.iter().zip(each.chunks(4)) {
        assert!((mean - steps.iter().sum::<f64>() / 4.0).abs() < 1e-6, "{mean} of {steps:?}");
    }
}
