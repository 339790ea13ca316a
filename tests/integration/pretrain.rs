//! Pre-training through the command line: what comes out, that distillation takes it, that it shares
//! what runs of distillation promise, and the loop of scoring and curation.

mod at_the_end;
mod on_the_way;
mod scores;

use std::fs;
use std::time::Duration;

use image::RgbImage;
use serde_json::Value;

use crate::support::ranks::{Ranks, losses, metrics};
use crate::support::workshop::{Finished, Workshop};

/// One command trains and exports an encoder, in both formats; each serves as a teacher at once.
#[test]
fn a_pretrained_encoder_is_a_teacher() {
    let workshop = Workshop::pretraining();
    let set = ["export.formats=[\"hf\", \"pixio\"]", "schedule.epochs=20"];
    let done = workshop.pretrain(&set).succeeds();
    for part in ["40 steps, 1 encoder.", "pre/exports/encoder", "--set teacher.weights="] {
        assert!(done.stdout.contains(part), "`{part}` is not in: {}", done.stdout);
    }
    let rows = metrics(&workshop, "pre");
    let losses = losses(&rows);
    let mean = |some: &[f64]| some.iter().sum::<f64>() / some.len() as f64;
    assert!(mean(&losses[30..]) < mean(&losses[..5]) * 0.9, "it learned: {losses:?}");
    let student = &rows[0]["students"][0];
    assert!(student.get("loss_class").is_none() && student.get("loss_patch").is_none());

    let model = "teacher.model={ dim = 32, depth = 2, heads = 2, patch_size = 8 }";
    let weights = |file: &str| format!("teacher.weights=pre/exports/encoder{file}");
    let trained = |run: &str, file: &str| {
        workshop.train(&[model, &weights(file), &format!("run.dir={run}")]).succeeds();
        workshop.checkpoint(run, 8)
    };
    let from_hf = trained("hf", "");
    assert_eq!(from_hf, trained("pixio", "/pixio.safetensors"), "both formats are one teacher");
    workshop.train(&[model, "run.dir=random"]).succeeds();
    assert_ne!(from_hf, workshop.checkpoint("random", 8), "the teacher's weights matter");
}

/// `export` needs no name for a run of one encoder, and gives what the run itself exported.
#[test]
fn a_run_of_one_encoder_is_exported_without_a_name() {
    let workshop = Workshop::pretraining();
    workshop.pretrain(&[]).succeeds();
    let arguments = ["export", "--run", "pre", "--out", "out"];
    Finished::of(workshop.command(&arguments).output().unwrap()).succeeds();
    let read = |folder: &str| fs::read(workshop.path(folder).join("model.safetensors")).unwrap();
    assert!(read("out") == read("pre/exports/encoder"));
    workshop.train(&[]).succeeds();
    let two = ["export", "--run", "run", "--out", "two"];
    Finished::of(workshop.command(&two).output().unwrap()).fails(2, &["--student", "one, two"]);
}

/// Stopped in the middle and continued, with another number of workers: bit for bit the same.
#[test]
fn a_stopped_pretraining_resumes_bit_for_bit() {
    let workshop = Workshop::pretraining();
    workshop.pretrain(&["run.dir=whole"]).succeeds();
    workshop.pretrain(&["run.dir=half"]).succeeds();
    fs::remove_dir_all(workshop.path("half/checkpoints/step-8")).unwrap();
    fs::remove_dir_all(workshop.path("half/checkpoints/step-6")).unwrap();
    let again = workshop.pretrain(&["run.dir=half", "data.workers=1"]).succeeds();
    assert!(again.stderr.contains("continuing from half/checkpoints/step-4"), "{}", again.stderr);
    assert_eq!(workshop.checkpoint("half", 8), workshop.checkpoint("whole", 8));
}

/// Going back to an earlier step takes back the images of what came after it.
#[test]
fn images_of_steps_that_are_taken_again_go() {
    let workshop = Workshop::pretraining();
    workshop.pretrain(&["reconstructions.every=2"]).succeeds();
    let images = || {
        let entries = fs::read_dir(workshop.path("pre/reconstructions")).unwrap();
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<_> = entries.map(name).collect();
        names.sort();
        names
    };
    assert_eq!(images().len(), 4);
    let mut command = workshop.pretraining_command(&["reconstructions.every=0"]);
    command.args(["--resume", "pre/checkpoints/step-4"]);
    Finished::of(command.output().unwrap()).succeeds();
    assert_eq!(images(), ["step-000002.png", "step-000004.png"]);
}

/// Several processes take the steps that one takes, also with divided optimizer state.
#[test]
fn two_processes_pretrain_as_one_does() {
    let workshop = Workshop::pretraining();
    workshop.pretrain(&["run.dir=one"]).succeeds();
    let set = ["run.dir=two", "distributed.shard_optimizer=true", "distributed.check_every=2"];
    let ranks = Ranks::start(2, |_| workshop.pretraining_command(&set));
    for finished in ranks.finish(Duration::from_secs(120)) {
        finished.succeeds();
    }
    let [one, two] = ["one", "two"].map(|run| losses(&metrics(&workshop, run)));
    assert_eq!(one.len(), 8);
    for (one, two) in one.iter().zip(&two) {
        assert!((one - two).abs() < 1e-4 * one.abs(), "{one} and {two}");
    }
    for step in [4, 8] {
        let [one, two] = ["one", "two"].map(|run| {
            let name = format!("{run}/reconstructions/step-{step:06}.png");
            image::open(workshop.path(&name)).unwrap().to_rgb8()
        });
        let off = one.iter().zip(two.iter()).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(off <= Some(1), "rank 0 draws what one process draws: {off:?} levels off");
    }
}

/// Blocks that are computed again change no bit of the weights.
#[test]
fn recomputed_blocks_of_an_autoencoder_change_no_bit() {
    let workshop = Workshop::pretraining();
    workshop.pretrain(&["run.dir=plain"]).succeeds();
    workshop.pretrain(&["run.dir=again", "encoder.recompute_blocks=2"]).succeeds();
    assert_eq!(workshop.checkpoint("plain", 8), workshop.checkpoint("again", 8));
}

/// The reconstruction sheets: input, what was seen of it, and the prediction, which leaves seen
/// patches as they are; the crops are those of the run, at every step the same.
#[test]
fn reconstructions_show_input_mask_and_prediction() {
    const SIDE: u32 = 32;
    let workshop = Workshop::pretraining();
    workshop.pretrain(&["reconstructions.every=3"]).succeeds();
    let open = |step: u64| -> RgbImage {
        let name = format!("pre/reconstructions/step-{step:06}.png");
        image::open(workshop.path(&name)).unwrap().to_rgb8()
    };
    let (early, late) = (open(3), open(6));
    assert_eq!(early.dimensions(), (3 * SIDE + 8, 3 * SIDE + 8), "three columns, three rows");
    let preview = ["data", "preview", "--config", "pretrain.toml", "--out", "sheet.png"];
    let count = [&preview[..], &["--count", "3"]].concat();
    Finished::of(workshop.command(&count).output().unwrap()).succeeds();
    let crops = image::open(workshop.path("sheet.png")).unwrap().to_rgb8();
    let mut differ = 0;
    for row in 0..3 {
        let mut seen = 0;
        for (x, y) in (0..SIDE).flat_map(|y| (0..SIDE).map(move |x| (x, y))) {
            let top = row * (SIDE + 4) + y;
            let at = |sheet: &RgbImage, column: u32| *sheet.get_pixel(column * (SIDE + 4) + x, top);
            assert_eq!(at(&early, 0), at(&crops, 0), "the input is the run's crop");
            assert_eq!(at(&late, 0), at(&early, 0), "at every step");
            assert_eq!(at(&late, 1), at(&early, 1), "the mask stays");
            if at(&crops, 0) == at(&crops, 1) {
                seen += 1;
                assert_eq!(at(&early, 1), at(&early, 0), "a seen pixel");
                // Out and back through the normalisation may round to a neighbour.
                let off = |a: u8, b: u8| a.abs_diff(b);
                let [a, b] = [at(&early, 2).0, at(&early, 0).0];
                assert!((0..3).all(|channel| off(a[channel], b[channel]) <= 1), "{a:?} {b:?}");
            } else {
                assert_eq!(at(&early, 1).0, [128; 3], "a masked pixel");
                differ += u32::from(at(&early, 2) != at(&late, 2));
            }
        }
        assert!((4 * 64..5 * 64).contains(&seen), "{seen} pixels are seen, expected 4 patches");
    }
    assert!(differ > 1000, "predictions move while training: {differ} pixels");
    let none = workshop.pretrain(&["reconstructions.every=0", "run.dir=none"]);
    none.succeeds();
    assert!(!workshop.path("none/reconstructions").exists());
}

/// A config that is for the other command is told so, with the command that takes it.
#[test]
fn configs_of_another_task_are_told_so() {
    let workshop = Workshop::pretraining();
    let distill = ["--config", "pretrain.toml"];
    let run = Finished::of(workshop.command(&distill).output().unwrap());
    run.fails(2, &["pretrain.toml", "distill pretrain --config FILE"]);
    let pretrain = ["pretrain", "--config", "config.toml"];
    let run = Finished::of(workshop.command(&pretrain).output().unwrap());
    run.fails(2, &["config.toml", "distill --config FILE"]);
    workshop.pretrain(&["encoder.mask_ratio=0"]).fails(2, &["encoder.mask_ratio", "found 0"]);
    let text = fs::read_to_string(workshop.path("pretrain.toml")).unwrap();
    fs::write(workshop.path("typo.toml"), text.replace("[encoder]", "[encodr]")).unwrap();
    let typo = ["pretrain", "--config", "typo.toml"];
    let run = Finished::of(workshop.command(&typo).output().unwrap());
    run.fails(2, &["encodr", "did you mean `encoder`?"]);
    workshop.pretrain(&["decoder.heads=3"]).fails(2, &["decoder.heads", "width 16"]);
    workshop.pretrain(&["decoder.dept=3"]).fails(2, &["decoder.dept", "did you mean `depth`?"]);
    workshop.pretrain(&["encoders=3"]).fails(2, &["encoders", "did you mean `encoder`?"]);
}

/// A dry run counts both models, finds weights that do not fit, and trains nothing.
#[test]
fn a_dry_run_checks_and_counts() {
    let workshop = Workshop::pretraining();
    let dry = |set: &str| {
        let arguments = ["pretrain", "--config", "pretrain.toml", "--dry-run", "--set", set];
        Finished::of(workshop.command(&arguments).output().unwrap())
    };
    let published = dry("encoder.model={ dim = 1280, depth = 32, heads = 16, patch_size = 8 }");
    let done = published.succeeds();
    let line = |role: &str| done.stdout.lines().find(|line| line.starts_with(role)).unwrap();
    let millions = |role: &str| {
        let words: Vec<&str> = line(role).split_whitespace().collect();
        let place = words.iter().position(|&word| word == "M").unwrap();
        words[place - 1].parse::<f64>().unwrap()
    };
    assert!((629.0..631.0).contains(&millions("encoder")), "{}", done.stdout);
    assert!(millions("decoder") < 0.1, "{}", done.stdout);
    dry("encoder.weights=nowhere").fails(1, &["encoder.weights", "nowhere"]);
    assert!(!workshop.path("pre").exists());
}

/// Values of `key` in a JSON file of scores, by member name.
fn column(scores: &Value, key: &str) -> Vec<f64> {
    let entries = scores.as_object().unwrap().values();
    entries.map(|entry| entry[key].as_f64().unwrap()).collect()
}
