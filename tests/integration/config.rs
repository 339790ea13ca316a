//! Configuration: every mistake gets one clear error that names file and key; the published
//! recipes hold their published numbers.

use std::path::{Path, PathBuf};

use distill::config::{ConfigError, Precision};
use distill::nn::ProjectorKind;
use distill::tasks::distill::{DistillConfig, Distillation, Relation, TargetForm};
use distill::tasks::pretrain::PretrainConfig;
use distill::tasks::{self, TaskConfig};
use distill::train::objective::Objective;

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(name)
}

fn load(name: &str, overrides: &[&str]) -> Result<DistillConfig, ConfigError> {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    tasks::load_as::<DistillConfig>(&shipped(name), &overrides)
}

/// The error of the reference config with these overrides.
fn error(overrides: &[&str]) -> String {
    load("reference.toml", overrides).expect_err("must be refused").to_string()
}

#[track_caller]
fn assert_says(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}

/// All shipped configs can be read, and writing one out and reading it again changes nothing:
/// that is what resuming from a run directory's `config.toml` relies on.
#[test]
fn shipped_configs_survive_a_round_trip() {
    let folder = tempfile::tempdir().unwrap();
    let mut seen = 0;
    for entry in std::fs::read_dir(shipped("")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            // configs/eval are of another form; the tests of heads read them.
            continue;
        }
        let config = tasks::load(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
        let copy = folder.path().join("config.toml");
        std::fs::write(&copy, config.to_toml()).unwrap();
        let again = tasks::load(&copy, &[]).unwrap();
        assert_eq!(again.to_toml(), config.to_toml(), "{}", path.display());
        assert_eq!(again.task().title, config.task().title, "{}", path.display());
        seen += 1;
    }
    assert!(seen >= 5, "only {seen} configs found");
}

/// Every key of the schema stands in the reference configs, so that these pages are complete.
#[test]
fn the_references_comment_every_key() {
    let mut distill = load("reference.toml", &[]).unwrap();
    let mut pretrain =
        tasks::load_as::<PretrainConfig>(&shipped("reference_pretrain.toml"), &[]).unwrap();
    for train in [&mut distill.train, &mut pretrain.train] {
        train.optimizer.base_learning_rate = Some(1e-4);
    }
    distill.loss.gram = Some(0.1);
    distill.loss.relation = Some(Relation { weight: 0.1, temperature: 0.1 });
    distill.loss.weight = 2.0;
    distill.loss.projector = ProjectorKind::Linear;
    let term = "name = \"a\"\nlayers = [0]\nteacher_layers = [0]\nnorm = false\nweight = 2.0\nprojector = \"none\"";
    distill.loss.terms.push(toml::from_str(term).unwrap());
    distill.teacher.input_size = Some(512);
    distill.teacher.norm = true;
    distill.teacher.targets = TargetForm::Standardised;
    distill.teacher.statistics_images = 4;
    distill.students[0].loss.insert("gram".into(), 0.1.into());
    for (name, written) in
        [("reference.toml", distill.to_toml()), ("reference_pretrain.toml", pretrain.to_toml())]
    {
        let text = std::fs::read_to_string(shipped(name)).unwrap();
        let mut found = Vec::new();
        keys(&written.parse().unwrap(), &mut found);
        assert!(found.len() > 50, "{name}: {found:?}");
        for key in found {
            assert!(text.contains(&key), "`{key}` is not in configs/{name}");
        }
    }
}

fn keys(table: &toml::Table, found: &mut Vec<String>) {
    for (key, value) in table {
        found.push(key.clone());
        match value {
            toml::Value::Table(table) => keys(table, found),
            toml::Value::Array(items) => {
                items.iter().filter_map(toml::Value::as_table).for_each(|t| keys(t, found));
            }
            _ => {}
        }
    }
}

/// What both configs have alike says the same in both, so that neither page grows old alone.
#[test]
fn the_references_agree_on_what_all_trainings_have() {
    let distill = load("reference.toml", &[]).unwrap().train;
    let mut pretrain =
        tasks::load_as::<PretrainConfig>(&shipped("reference_pretrain.toml"), &[]).unwrap().train;
    pretrain.run.dir = distill.run.dir.clone();
    assert_eq!(distill, pretrain);
    let default = tasks::load_as::<PretrainConfig>(
        &shipped("pretrain_tiny.toml"),
        &["decoder={}".into(), "reconstructions={}".into()],
    );
    let reference =
        tasks::load_as::<PretrainConfig>(&shipped("reference_pretrain.toml"), &[]).unwrap();
    let default = default.unwrap();
    assert_eq!(
        (default.decoder, default.reconstructions),
        (reference.decoder, reference.reconstructions),
        "the reference shows the defaults"
    );
}

/// Pre-training with the published numbers.
#[test]
fn pretraining_recipes_hold_the_published_numbers() {
    for (name, encoder) in [
        ("pretrain_h_imagenet.toml", "pixio_vith16"),
        ("pretrain_5b_webdata.toml", "pixio_vit5b16"),
    ] {
        let config = tasks::load_as::<PretrainConfig>(&shipped(name), &[]).unwrap();
        assert_eq!(config.encoder.model.name(), Some(encoder));
        assert_eq!((config.encoder.mask_ratio, config.encoder.mask_grid), (0.75, 4));
        assert_eq!(config.encoder.drop_path, 0.4);
        let decoder = config.decoder;
        assert_eq!((decoder.dim, decoder.depth, decoder.heads), (512, 32, 16));
        let (data, optimizer) = (&config.train.data, &config.train.optimizer);
        assert_eq!((data.input_size, data.images_per_step()), (256, 8192));
        assert_eq!((data.crop_scale, data.crop_ratio), ([0.2, 1.0], [0.75, 4.0 / 3.0]));
        assert_eq!(optimizer.base_learning_rate, Some(2.5e-5));
        assert_eq!((optimizer.betas, optimizer.weight_decay), ([0.9, 0.95], 0.05));
        assert_eq!(config.train.run.precision, Precision::Bf16);
        assert_eq!(data.curation.is_some(), name.contains("webdata"));
    }
}

/// The published recipes, number by number.
#[test]
fn recipes_hold_the_published_numbers() {
    for (name, students, ratio, drop_path) in [
        ("5b_to_1b_h.toml", ["pixio_vit1b16", "pixio_vith16"], 0.5, 0.4),
        ("5b_to_1b_h_webdata.toml", ["pixio_vit1b16", "pixio_vith16"], 0.5, 0.4),
        ("5b_to_l_b.toml", ["pixio_vitl16", "pixio_vitb16"], 0.0, 0.1),
    ] {
        let config = load(name, &[]).unwrap();
        assert_eq!(config.teacher.model.name(), Some("pixio_vit5b16"));
        for (student, expected) in config.students.iter().zip(students) {
            assert_eq!(student.model.name(), Some(expected), "{name}");
            assert_eq!((student.mask_ratio, student.drop_path), (ratio, drop_path), "{name}");
            assert_eq!(student.mask_grid, 4);
        }
        let (data, optimizer) = (&config.train.data, &config.train.optimizer);
        assert_eq!((data.input_size, data.batch_size), (256, 64));
        assert_eq!(data.images_per_step(), 8192);
        assert_eq!((data.crop_scale, data.crop_ratio), ([0.2, 1.0], [0.75, 4.0 / 3.0]));
        assert_eq!(optimizer.learning_rate, Some(1e-3));
        assert_eq!((optimizer.betas, optimizer.weight_decay), ([0.9, 0.95], 0.05));
        let schedule = &config.train.schedule;
        assert_eq!((schedule.epochs, schedule.warmup_epochs), (400.0, 40.0));
        assert_eq!(schedule.steps_per_epoch, Some(1605));
        assert_eq!(config.train.run.precision, Precision::Bf16);
        assert_eq!(data.curation.is_some(), name.contains("webdata"));
    }
}

/// The recipe of our own for DINOv3.
#[test]
fn recipes_of_other_families_name_their_models() {
    let config = load("dinov3_vitl_to_vits.toml", &[]).unwrap();
    let names = config.students.iter().map(|student| student.model.name().unwrap());
    assert_eq!(config.teacher.model.name(), Some("dinov3_vitl16"));
    assert_eq!(names.collect::<Vec<_>>(), ["dinov3_vits16", "pixio_vitb16"]);
    for (file, teacher, students, notes) in [
        (
            "dinov2_vitg_to_vitb.toml",
            "dinov2_vitg14",
            ["dinov2_vitb14", "pixio_vitb16"],
            ["1 class tokens one by one; 16 × 16 patches one by one", "resized to the teacher's"],
        ),
        (
            "siglip2_to_vitb.toml",
            "siglip_so400m16",
            ["siglip_vitb16", "vit_b16"],
            ["no class tokens; 16 × 16 patches one by one"; 2],
        ),
    ] {
        let config = load(file, &[]).unwrap();
        let names = config.students.iter().map(|student| student.model.name().unwrap());
        assert_eq!(config.teacher.model.name(), Some(teacher));
        assert_eq!(names.collect::<Vec<_>>(), students);
        let notes_of = config.notes();
        let tokens = notes_of.iter().filter(|(what, _)| what.starts_with("tokens of"));
        assert_eq!(tokens.clone().count(), notes.len(), "{notes_of:?}");
        for ((_, found), expected) in tokens.zip(notes) {
            assert!(found.contains(expected), "{file}: {found}");
        }
    }
}

/// The largest models can be built and counted on a laptop: no parameter is allocated.
#[test]
fn published_encoders_have_the_published_sizes() {
    let config = load("5b_to_1b_h.toml", &[]).unwrap();
    let models = Distillation::shapes_only(&config);
    let expect = |found: u64, millions: f64, what: &str| {
        let off = (found as f64 / 1e6 / millions - 1.0).abs();
        assert!(off < 0.005, "{what}: {found} parameters, expected {millions} M");
    };
    let encoder = |parameters: &distill::nn::Parameters| -> u64 {
        let own = parameters.named().iter().filter(|(name, _)| !name.starts_with("last_proj"));
        own.map(|(_, tensor)| tensor.numel() as u64).sum()
    };
    expect(encoder(&models.teacher.parameters), 5441.0, "5B");
    expect(encoder(&models.trainees()[0].parameters), 1362.0, "1B");
    expect(encoder(&models.trainees()[1].parameters), 631.0, "H");
    let smaller = Distillation::shapes_only(&load("5b_to_l_b.toml", &[]).unwrap());
    expect(encoder(&smaller.trainees()[0].parameters), 303.0, "L");
    expect(encoder(&smaller.trainees()[1].parameters), 86.0, "B");
}

/// A mistyped key is answered with the nearest known one.
#[test]
fn an_unknown_key_names_the_nearest() {
    let found = error(&["data.batch_sise=3"]);
    assert_says(&found, &["reference.toml", "data.batch_sise", "did you mean `batch_size`?"]);
    let found = error(&["students.0.drop_paths=0.1"]);
    assert_says(&found, &["students", "did you mean `drop_path`?"]);
    let found = error(&["loss.patch=cosin"]);
    assert_says(&found, &["loss.patch", "cosin", "did you mean `cosine`?"]);
    let found = error(&["teacher.model=pixio_vit1b"]);
    assert_says(&found, &["teacher.model", "pixio_vit1b16"]);
}

/// Shuffles whose numbers do not fit together, and absurd numbers, are refused by key, before any shard is opened.
#[test]
fn a_shuffle_that_does_not_fit_is_refused() {
    for (setting, expected) in [
        ("data.shuffle.chunk_samples=0", "expected 1 to"),
        ("data.shuffle.lanes=0", "expected 1 to"),
        ("data.workers=100000", "found 100000, expected at most 4096"),
        ("data.shuffle.lane_run=63", "expected a divisor of the window's 32768"),
    ] {
        let key = setting.split_once('=').unwrap().0;
        assert_says(&error(&[setting]), &["reference.toml", key, expected]);
    }
}

/// A loss must compare something, and a term that does is weighted by a number above 0. Relations
/// between patches are enough; without their key a configuration is written as before.
#[test]
fn a_loss_that_compares_nothing_is_refused() {
    let none = ["loss.class=none", "loss.patch=none"];
    assert_says(&error(&none), &["reference.toml", "loss.patch", "\"none\"", "loss.gram"]);
    for weight in ["0.0", "-1.0", "nan", "inf"] {
        let found = error(&[&format!("loss.gram={weight}")]);
        assert_says(&found, &["reference.toml", "loss.gram", "found", "expected a number above 0"]);
    }
    for (relation, key) in [
        ("weight = 0.0", "loss.relation.weight"),
        ("weight = 1.0, temperature = 0.0", "loss.relation.temperature"),
    ] {
        let found = error(&[&format!("loss.relation={{ {relation} }}")]);
        assert_says(&found, &["reference.toml", key, "found 0, expected a number"]);
    }
    let gram = load("reference.toml", &[&none[..], &["loss.gram=2"]].concat()).unwrap();
    assert_eq!(gram.loss.gram, Some(2.0));
    assert!(gram.to_toml().contains("\ngram = 2.0"), "{}", gram.to_toml());
    assert!(!load("reference.toml", &[]).unwrap().to_toml().contains("\ngram"));
}

/// A cache without room would evict what is about to be read.
#[test]
fn a_cache_without_room_is_refused() {
    for gigabytes in ["0.05", "nan", "inf", "-1.0"] {
        let text = error(&[&format!("data.cache_gigabytes={gigabytes}")]);
        assert_says(&text, &["data.cache_gigabytes", "expected at least 0.1"]);
    }
}

#[test]
fn a_value_of_the_wrong_type_names_both() {
    assert_says(&error(&["data.batch_size=many"]), &["data.batch_size", "many", "usize"]);
    assert_says(&error(&["seed.x=1"]), &["--set seed.x=1", "`seed` is a integer"]);
    assert_says(&error(&["nonsense"]), &["--set nonsense", "KEY=VALUE"]);
}

#[test]
fn contradictions_are_found_before_anything_is_touched() {
    for (overrides, parts) in [
        (&["data.input_size=250"][..], &["data.input_size", "250", "multiple", "16"][..]),
        (
            &["students.0.mask_ratio=0.5", "students.0.mask_grid=3"],
            &["students.0.mask_grid", "3", "16×16"],
        ),
        (&["students.0.mask_ratio=0.99"], &["students.0.mask_ratio", "keeps none of 16 cells"]),
        (&["students.0.mask_ratio=1.0"], &["students.0.mask_ratio", "[0, 1)"]),
        (&["data.global_batch_size=0"], &["data.global_batch_size", "found 0"]),
        (
            &["optimizer.base_learning_rate=1e-4"],
            &["optimizer.base_learning_rate", "one of the two"],
        ),
        (&["schedule.warmup_epochs=200"], &["schedule.warmup_epochs", "200"]),
        (&["students.0.name=../x"], &["students.0.name", "../x"]),
        (
            &["students.0.model={dim=30, depth=2, heads=4}"],
            &["students.0.model.heads", "divisor", "30"],
        ),
        (
            &["students.0.model={dim=32, depth=2, heads=4, registers=2}"],
            &["students.0.model.registers", "found 2", "expected 0"],
        ),
        (
            &["students.0.model={family=\"dinov2\", dim=32, depth=2, heads=4, registers=2}"],
            &["students.0.model.registers", "found 2", "`dinov2_with_registers`"],
        ),
        (
            &["students.0.model={family=\"dinov3_vit\", dim=36, depth=2, heads=6}"],
            &["students.0.model.heads", "found 6", "multiple of 4"],
        ),
        (
            &["students.0.model={family=\"dinov3_vit\", dim=32, depth=2, heads=4, biases=[\"q\"]}"],
            &["students[0].model", "unknown bias `q`", "`query`"],
        ),
        (
            &["students.0.model={dim=32, depth=2, heads=4, rope_theta=100}"],
            &["students.0.model.rope_theta", "found 100", "`dinov3_vit`"],
        ),
        (&["students=[]"], &["students", "at least one"]),
        (&["data.shards=[]"], &["data.shards", "at least one"]),
    ] {
        assert_says(&error(overrides), parts);
    }
}

/// Overrides reach tables, lists and strings without quotes.
#[test]
fn overrides_reach_everywhere() {
    let config = load(
        "reference.toml",
        &[
            "data.batch_size=32",
            "students.0.name=mine",
            "teacher.weights=some/path=x.pth",
            "data.shards=[\"a.tar\", \"b.tar\"]",
            "data.curation.min_side=64",
        ],
    )
    .unwrap();
    assert_eq!(config.train.data.batch_size, 32);
    assert_eq!(config.students[0].name, "mine");
    assert_eq!(config.teacher.weights, "some/path=x.pth");
    assert_eq!(config.train.data.shards, ["a.tar", "b.tar"]);
    assert_eq!(config.train.data.curation.unwrap().min_side, 64);
}

#[test]
fn an_unreadable_file_is_named() {
    let found =
        tasks::load_as::<DistillConfig>(Path::new("no/such.toml"), &[]).unwrap_err().to_string();
    assert_says(&found, &["no/such.toml", "cannot read"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broken.toml");
    std::fs::write(&path, "[run\ndir = 3").unwrap();
    let found = tasks::load_as::<DistillConfig>(&path, &[]).unwrap_err().to_string();
    assert_says(&found, &["broken.toml", "not valid TOML", "line 1"]);
}
