//! Weights that a hub keeps, from a server that speaks its API: fetched once, whole and by who may, and found again by
//! this program and by Python's.

mod errors;
mod training;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use distill::encoders::FAMILIES;
use tempfile::TempDir;

use crate::sources::Server;
use crate::support::golden::golden;
use crate::support::python::{python, run};
use crate::support::workshop::{Finished, Workshop};

const FIRST: &str = "1111111111111111111111111111111111111111";
const SECOND: &str = "2222222222222222222222222222222222222222";

/// A hub with the repository `lab/small`, and a user's home.
struct Hub {
    server: Server,
    home: TempDir,
}

impl Hub {
    fn new() -> Self {
        let server = Server::start("hub_server.py", &[]);
        let hub = Self { server, home: tempfile::tempdir().unwrap() };
        hub.push("lab/small", FIRST, &golden("infer_native"));
        hub
    }

    /// Has the files of weights in `folder` be the newest state of a repository.
    fn push(&self, repository: &str, commit: &str, folder: &Path) {
        let place = self.repository(repository).join(commit);
        fs::create_dir_all(&place).unwrap();
        for entry in fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            // What else lies beside golden weights.
            if !["expected.safetensors", "pixio.safetensors"].contains(&name.as_str()) {
                fs::copy(folder.join(&name), place.join(&name)).unwrap();
            }
        }
        fs::write(place.join("README.md"), "of no use here").unwrap();
        fs::write(self.repository(repository).join("main"), commit).unwrap();
    }

    fn repository(&self, name: &str) -> PathBuf {
        self.server.folder.path().join(name)
    }

    fn cache(&self) -> PathBuf {
        self.home.path().join("hub")
    }

    /// A command in the environment of this hub's user.
    fn of_user(&self, mut command: Command) -> Command {
        for name in
            ["HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]
        {
            command.env_remove(name);
        }
        command.env("HF_ENDPOINT", &self.server.address).env("HF_HOME", self.home.path());
        command.env("XDG_CACHE_HOME", self.home.path().join("cache"));
        command
    }

    /// `distill export --weights ADDRESS --out exported`, with these variables.
    fn export(&self, workshop: &Workshop, address: &str, variables: &[(&str, &str)]) -> Finished {
        let mut command = workshop.command(&["export", "--weights", address, "--out", "exported"]);
        command.envs(variables.iter().copied());
        // Variables of the test come after those of the user.
        let mut command = self.of_user(command);
        command.envs(variables.iter().copied());
        Finished::of(command.output().unwrap())
    }

    /// The requests so far that begin with `start`.
    fn asked(&self, start: &str) -> Vec<String> {
        self.server.log().into_iter().filter(|line| line.starts_with(start)).collect()
    }
}

/// The exported weights are those of the golden folder.
#[track_caller]
fn assert_golden(workshop: &Workshop) {
    let expected = tempfile::tempdir().unwrap();
    let out = expected.path().join("out");
    let weights = golden("infer_native");
    let arguments =
        ["export", "--weights", weights.to_str().unwrap(), "--out", out.to_str().unwrap()];
    Finished::of(workshop.command(&arguments).output().unwrap()).succeeds();
    let read = |folder: &Path| fs::read(folder.join("model.safetensors")).unwrap();
    assert!(read(&workshop.path("exported")) == read(&out), "other weights");
}

/// The first start fetches the files that are needed and nothing else, later ones find them, with and without a hub
/// or a network; and so does Python.
#[test]
fn weights_are_fetched_once_and_found_by_python() {
    let (hub, workshop) = (Hub::new(), Workshop::new());
    let first = hub.export(&workshop, "hf://lab/small", &[]).succeeds();
    assert!(first.stderr.contains("fetching model.safetensors of lab/small"), "{}", first.stderr);
    assert_golden(&workshop);
    assert_eq!(hub.asked("GET /kept").len(), 1);
    assert!(hub.server.log().iter().all(|line| !line.contains("README")));
    let before = hub.server.log().len();

    hub.export(&workshop, "hf://lab/small", &[("HF_HUB_OFFLINE", "1")]).succeeds();
    hub.export(&workshop, &format!("hf://lab/small@{FIRST}"), &[]).succeeds();
    assert_eq!(hub.server.log().len(), before, "a hub was asked");
    hub.export(&workshop, "hf://lab/small", &[]).succeeds();
    assert_eq!(hub.server.log().len(), before + 1, "more than the newest commit was asked for");
    let alone = hub.export(&workshop, "hf://lab/small", &[("HF_ENDPOINT", "http://127.0.0.1:1")]);
    assert!(alone.succeeds().stderr.contains("is taken as it was fetched before"));
    assert_golden(&workshop);

    for revision in ["main", FIRST] {
        let mut command = python("read_cache.py");
        command.arg(hub.cache()).args(["lab/small", revision, "config.json", "model.safetensors"]);
        let found = run(&mut command);
        assert!(found.contains(&format!("snapshots/{FIRST}/model.safetensors")), "{found}");
    }
}

/// What the real huggingface_hub fetched is not fetched again.
#[test]
fn what_python_fetched_is_found() {
    let (hub, workshop) = (Hub::new(), Workshop::new());
    let mut command = hub.of_user(python("fetch_files.py"));
    command.env("HF_HUB_DISABLE_XET", "1");
    run(command.args(["lab/small", "config.json", "model.safetensors"]));
    let before = hub.asked("GET").len();
    hub.export(&workshop, "hf://lab/small", &[("HF_HUB_OFFLINE", "1")]).succeeds();
    assert_golden(&workshop);
    hub.export(&workshop, "hf://lab/small", &[]).succeeds();
    assert_eq!(hub.asked("GET").len(), before + 1);
}

/// A connection that is cut in the middle of a file, again and again, costs no byte that had come.
#[test]
fn a_cut_connection_goes_on_where_it_was() {
    let (mut hub, workshop) = (Hub::new(), Workshop::new());
    hub.server.tell("cut 2");
    hub.export(&workshop, "hf://lab/small", &[]).succeeds();
    assert_golden(&workshop);
    let ranges: Vec<String> = hub.asked("GET /kept");
    let size = fs::metadata(golden("infer_native/model.safetensors")).unwrap().len();
    let starts: Vec<&str> = ranges.iter().map(|line| line.split(' ').nth(2).unwrap()).collect();
    let first = format!("bytes={}-", size / 2);
    assert_eq!((starts[0], starts[1]), ("None", &*first), "{ranges:?}");
    assert_eq!(starts.len(), 3, "{ranges:?}");
}

/// What an ended process had fetched is gone on with; a server that knows no ranges sends all; what is damaged is
/// told, and fetched anew by the next start.
#[test]
fn parts_of_files_are_gone_on_with() {
    let workshop = Workshop::new();
    let bytes = fs::read(golden("infer_native/model.safetensors")).unwrap();
    let partly_there = || {
        let hub = Hub::new();
        hub.export(&workshop, "hf://lab/small", &[]).succeeds();
        let blobs = hub.cache().join("models--lab--small/blobs");
        let snapshot = hub.cache().join(format!("models--lab--small/snapshots/{FIRST}"));
        let blob = fs::canonicalize(snapshot.join("model.safetensors")).unwrap();
        let name = blob.file_name().unwrap().to_str().unwrap().to_string();
        fs::remove_file(&blob).unwrap();
        let part = blobs.join(format!("{name}.incomplete"));
        fs::write(&part, &bytes[..100_000]).unwrap();
        (hub, part)
    };
    let (hub, part) = partly_there();
    hub.export(&workshop, "hf://lab/small", &[]).succeeds();
    assert_golden(&workshop);
    assert!(hub.asked("GET /kept").last().unwrap().contains("bytes=100000-"));
    assert!(!part.exists());

    let (mut hub, _) = partly_there();
    hub.server.tell("norange 1");
    hub.export(&workshop, "hf://lab/small", &[]).succeeds();
    assert_golden(&workshop);

    let (mut hub, part) = partly_there();
    hub.server.tell("damaged 1");
    let damaged = hub.export(&workshop, "hf://lab/small", &[]);
    damaged.fails(1, &["hf://lab/small", "model.safetensors", "came damaged", "SHA-256"]);
    assert!(!part.exists());
    hub.export(&workshop, "hf://lab/small", &[]).succeeds();
    assert_golden(&workshop);
}

/// A model in several files, one that torch saved, and a state that is not the newest.
#[test]
fn every_form_and_revision_is_fetched() {
    let (hub, workshop) = (Hub::new(), Workshop::new());
    for (form, files) in [("safetensors", 4), ("bin", 1)] {
        let folder = workshop.path(form);
        let mut command = python("split_weights.py");
        run(command.arg(golden("infer_native")).arg(&folder).arg(form));
        hub.push(&format!("lab/{form}"), SECOND, &folder);
        hub.export(&workshop, &format!("hf://lab/{form}"), &[]).succeeds();
        assert_golden(&workshop);
        let fetched = hub.asked(&format!("GET /kept/lab/{form}"));
        assert_eq!(fetched.len(), files, "{fetched:?}");
    }
    // The newest state of another encoder, and the one before.
    hub.push("lab/small", SECOND, &golden("infer_interp"));
    hub.export(&workshop, &format!("hf://lab/small@{FIRST}"), &[]).succeeds();
    assert_golden(&workshop);
    hub.export(&workshop, "hf://lab/small@main", &[]).succeeds();
    let fetched = hub.asked("GET /kept/lab/small");
    assert!(fetched[0].contains(FIRST) && fetched[1].contains(SECOND), "{fetched:?}");
}

/// The list of known encoders has every name that a configuration takes, with sizes as published, and where its weights
/// are to be had.
#[test]
fn known_models_are_listed() {
    let workshop = Workshop::new();
    let list = |more: &[&str]| {
        let mut command = workshop.command(&["models"]);
        Finished::of(command.args(more).output().unwrap()).succeeds().stdout
    };
    let all: Vec<serde_json::Value> = serde_json::from_str(&list(&["--json"])).unwrap();
    let expected: Vec<&str> =
        FAMILIES.iter().flat_map(|family| family.published()).map(|(name, _)| name).collect();
    let names: Vec<&str> = all.iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, expected);
    let of = |name: &str| all.iter().find(|one| one["name"] == name).unwrap();
    let dinov3 = of("dinov3_vit7b16");
    assert_eq!(dinov3["weights"], "hf://facebook/dinov3-vit7b16-pretrain-lvd1689m");
    assert_eq!((&dinov3["gated"], &dinov3["patch_size"]), (&true.into(), &16.into()));
    let millions = |name: &str| of(name)["parameters"].as_f64().unwrap() / 1e6;
    for (name, published) in
        [("pixio_vit5b16", 5441.0), ("dinov2_vitg14", 1136.0), ("vit_b16", 86.0)]
    {
        assert!((millions(name) / published - 1.0).abs() < 0.01, "{name}: {}", millions(name));
    }
    let text = list(&[]);
    let line = text.lines().find(|line| line.contains("dinov2_vitb14 ")).unwrap();
    assert!(line.contains("hf://facebook/dinov2-base") && line.contains("Apache-2.0"), "{line}");
    assert!(text.contains("DINOv3 License, gated"), "{text}");
}
