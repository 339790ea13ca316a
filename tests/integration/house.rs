//! The house: what imports what. Paths in the source are read as the compiler reads them, through
//! re-exports to the file that defines a name, and the picture must have no circle.

mod graph;
mod modules;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use graph::{Graph, circles};
use modules::Crate;

/// What the folders of `src/` may import, the other crates of the workspace aside.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    (
        "cli",
        &[
            "artifacts",
            "config",
            "dist",
            "doctor",
            "encoders",
            "eval",
            "explore",
            "native",
            "nn",
            "onnx",
            "report",
            "run",
            "tasks",
            "train",
            "ui",
            "viz",
            "watch",
            "weights",
        ],
    ),
    ("doctor", &["config", "dist", "native", "nn", "run"]),
    ("report", &["artifacts", "config", "encoders", "nn", "tasks", "ui", "viz"]),
    ("explore", &["run"]),
    ("watch", &["artifacts", "ui"]),
    (
        "run",
        &[
            "artifacts",
            "config",
            "dist",
            "encoders",
            "eval",
            "native",
            "nn",
            "status",
            "tasks",
            "train",
            "ui",
            "viz",
            "weights",
        ],
    ),
    (
        "tasks",
        &[
            "artifacts",
            "config",
            "dist",
            "encoders",
            "eval",
            "hub",
            "native",
            "nn",
            "train",
            "weights",
        ],
    ),
    (
        "eval",
        &["artifacts", "config", "dist", "encoders", "native", "nn", "status", "train", "weights"],
    ),
    ("viz", &["native", "nn"]),
    ("train", &["artifacts", "config", "dist", "native", "nn", "status", "ui", "weights"]),
    ("encoders", &["config", "hub", "native", "nn", "onnx", "weights"]),
    ("nn", &["native"]),
    ("hub", &["dist", "ui", "weights"]),
    ("weights", &["native", "status"]),
    ("dist", &["config", "native", "status"]),
    ("ui", &["artifacts"]),
    ("artifacts", &["status"]),
    ("config", &[]),
    ("native", &[]),
    ("onnx", &[]),
    ("status", &[]),
];

fn sources() -> Vec<Crate> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    ["src", "src/data"].map(|folder| Crate::read(&root.join(folder))).into_iter().collect()
}

/// Protects every reader's way in: a file or folder can be understood with what is below it, and nothing
/// below it depends on it.
#[test]
fn no_files_and_no_folders_import_each_other() {
    let mut found = Vec::new();
    for one in sources() {
        for (folder, graph) in one.siblings() {
            for circle in circles(&graph) {
                let mut lines = vec![format!("in {folder}: {}", circle.join(", "))];
                for (from, to) in one.edges_among(&folder, &circle) {
                    lines.push(format!("    {from} -> {to}"));
                }
                found.push(lines.join("\n"));
            }
        }
    }
    assert!(found.is_empty(), "circles of imports:\n{}", found.join("\n"));
}

/// Protects the order of the rooms.
#[test]
fn imports_point_one_way() {
    let library = Crate::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        MAY_IMPORT.iter().map(|(room, others)| (*room, others.iter().copied().collect())).collect();
    let rooms: Graph = library.rooms();
    let mut wrong = Vec::new();
    for (room, others) in &rooms {
        let Some(allowed) = allowed.get(room.as_str()) else {
            wrong.push(format!("src/{room} is not in the list of rooms"));
            continue;
        };
        for other in others.iter().filter(|other| !allowed.contains(other.as_str())) {
            let examples = library.examples(room, other).join(", ");
            wrong.push(format!("src/{room} imports src/{other}: {examples}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // The list itself points one way, or the first test could not hold for what it allows.
    let listed: Graph = MAY_IMPORT
        .iter()
        .map(|(room, others)| (room.to_string(), others.iter().map(ToString::to_string).collect()))
        .collect();
    assert_eq!(circles(&listed), Vec::<Vec<String>>::new());
}

/// Protects the first test: it would pass if it saw nothing.
#[test]
fn a_circle_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("lib.rs", "pub mod a; pub mod b; pub mod c;");
    write("a/mod.rs", "mod one; mod two; pub use one::One; pub use two::two;");
    write("a/one.rs", "use super::two::two; use crate::b::B; pub struct One; fn f() { two(); }");
    write("a/two.rs", "pub fn two() {}");
    write("b.rs", "use std::fmt; pub struct B; #[cfg(test)] mod tests { use crate::a::One; }");
    write("c.rs", "pub fn c() { crate::b::B; }");
    let clean = Crate::read(folder.path());
    assert!(clean.siblings().values().all(|graph| circles(graph).is_empty()));
    assert_eq!(clean.rooms()["c"], BTreeSet::from(["b".to_string()]), "paths in bodies count");
    // Through a re-export, and by a name of a grandchild.
    write("b.rs", "pub struct B; fn f() { let _: crate::a::One; }");
    write("a/two.rs", "pub fn two() { super::One; }");
    let circular = Crate::read(folder.path()).siblings();
    assert_eq!(circles(&circular["src"]), [["a", "b.rs"]]);
    assert_eq!(circles(&circular["src/a"]), [["one.rs", "two.rs"]]);
}
