//! Runs whose weights a hub keeps: fetched once for all processes, and of one state as long as a run goes on.

use std::fs;
use std::time::Duration;

use super::{FIRST, Hub, SECOND};
use crate::support::golden::golden;
use crate::support::ranks::Ranks;
use crate::support::workshop::{Finished, Workshop};

const TEACHER: &str = "teacher={ weights = \"hf://lab/small\" }";
const STUDENT: &str = "students.0.weights=hf://lab/start";

impl Hub {
    fn train(&self, workshop: &Workshop, overrides: &[&str]) -> Finished {
        let mut command = self.of_user(workshop.training(overrides));
        Finished::of(command.output().unwrap())
    }
}

/// Two ranks that start at once make one download of each file, and ask for the newest state once.
#[test]
fn ranks_of_a_machine_fetch_once() {
    let (hub, workshop) = (Hub::new(), Workshop::new());
    let ranks = Ranks::start(2, |_| hub.of_user(workshop.training(&[TEACHER])));
    let finished = ranks.finish(Duration::from_secs(120));
    finished.into_iter().for_each(|rank| _ = rank.succeeds());
    assert_eq!(hub.asked("GET /kept").len(), 1);
    assert_eq!(hub.asked("GET /lab/small/resolve").len(), 2, "{:?}", hub.server.log());
    let config = fs::read_to_string(workshop.path("run/config.toml")).unwrap();
    assert!(config.contains(&format!("weights = \"hf://lab/small@{FIRST}\"")), "{config}");
}

/// A run goes on with the state of the teacher that it began with, though there is a newer one; another that is asked
/// for is named.
#[test]
fn a_run_keeps_the_state_that_it_began_with() {
    let (hub, workshop) = (Hub::new(), Workshop::new());
    let whole = Workshop::new();
    hub.train(&whole, &[TEACHER]).succeeds();
    let half = [TEACHER, "schedule.epochs=2"];
    hub.train(&workshop, &half).succeeds();
    let other = workshop.path("other");
    fs::create_dir(&other).unwrap();
    let golden = golden("infer_native");
    fs::copy(golden.join("config.json"), other.join("config.json")).unwrap();
    let mut bytes = fs::read(golden.join("model.safetensors")).unwrap();
    let last = bytes.len() - 3;
    bytes[last] ^= 4;
    fs::write(other.join("model.safetensors"), bytes).unwrap();
    hub.push("lab/small", SECOND, &other);

    let asked = format!("teacher={{ weights = \"hf://lab/small@{SECOND}\" }}");
    let refused = hub.train(&workshop, &[&asked, "schedule.epochs=4"]);
    refused.fails(2, &["`teacher.weights` was hf://lab/small@1111", "and is hf://lab/small@2222"]);
    let newest = hub.train(&workshop, &["teacher={ weights = \"hf://lab/small@main\" }"]);
    newest.fails(2, &["and is hf://lab/small@2222"]);

    let before = hub.server.log().len();
    hub.train(&workshop, &[TEACHER, "schedule.epochs=4"]).succeeds();
    assert_eq!(hub.server.log().len(), before, "a run that goes on asks nobody");
    let config = fs::read_to_string(workshop.path("run/config.toml")).unwrap();
    assert!(config.contains(&format!("hf://lab/small@{FIRST}")), "{config}");
    let fresh = ["run.dir=fresh", TEACHER];
    hub.train(&workshop, &fresh).succeeds();
    let config = fs::read_to_string(workshop.path("fresh/config.toml")).unwrap();
    assert!(config.contains(&format!("hf://lab/small@{SECOND}")), "{config}");
}

/// A student may start from a hub's weights, and what is wrong with them is an error of the configuration.
#[test]
fn a_student_starts_from_a_hubs_weights() {
    let (hub, workshop) = (Hub::new(), Workshop::new());
    let student = "students=[{ name = \"one\", weights = \"hf://lab/small\" }]";
    hub.train(&workshop, &["teacher.weights=random", student]).succeeds();
    assert_eq!(hub.asked("GET /kept").len(), 1);
    let unknown = hub.train(&workshop, &["run.dir=b", STUDENT]);
    unknown.fails(2, &["students.0.weights", "hf://lab/start", "there is no model lab/start"]);
}
