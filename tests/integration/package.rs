//! `scripts/package`: the program out of a wheel, where nothing of this build is known.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::device::program;
use crate::support::python::run;
use crate::support::workshop::{Finished, Workshop, image};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The torch that this program is linked with, as the folder of packages that it lies in.
fn torch_packages() -> PathBuf {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let library = maps.lines().find_map(|line| {
        line.split_whitespace().last().filter(|it| it.ends_with("/libtorch_cpu.so"))
    });
    Path::new(library.unwrap()).ancestors().nth(3).unwrap().to_path_buf()
}

/// A wheel that pip has put into a fresh environment, with torch beside it as pip would put it: programs find libtorch
/// from where they lie, train with workers, and know nothing of the folder that they were built in.
#[test]
fn the_wheel_s_programs_run_in_a_fresh_environment() {
    let workshop = Workshop::new();
    let wheels = workshop.path("wheels");
    let mut package = Command::new(root().join("scripts/package"));
    let programs = program();
    run(package.arg("--out").arg(&wheels).arg("--programs").arg(programs.parent().unwrap()));
    let wheel = fs::read_dir(&wheels).unwrap().next().unwrap().unwrap().path();
    run(Command::new("python3").args(["-m", "venv"]).arg(workshop.path("fresh")));
    let pip = ["install", "--quiet", "--disable-pip-version-check", "--no-deps"];
    run(Command::new(workshop.path("fresh/bin/pip")).args(pip).arg(&wheel));
    let libraries = fs::read_dir(workshop.path("fresh/lib")).unwrap();
    let python = libraries
        .map(|entry| entry.unwrap().path())
        .find(|path| path.join("site-packages").exists());
    for name in ["torch", "nvidia"] {
        let packages = python.as_ref().unwrap().join("site-packages");
        std::os::unix::fs::symlink(torch_packages().join(name), packages.join(name)).unwrap();
    }
    let alone = |arguments: &[&str]| {
        let mut command = Command::new(workshop.path("fresh/bin/distill"));
        command.args(arguments).current_dir(workshop.path("")).env_clear();
        Finished::of(command.env("PATH", "/usr/bin:/bin").output().unwrap()).succeeds()
    };
    let version = alone(&["--version"]).stdout;
    assert!(version.starts_with("distill 0.") && version.contains("libtorch 2.11"), "{version}");
    fs::create_dir(workshop.path("photos")).unwrap();
    for number in 0..4 {
        fs::write(workshop.path(&format!("photos/{number}.jpg")), image(number)).unwrap();
    }
    alone(&["data", "pack", "photos", "--out", "packed"]);
    alone(&["--config", "config.toml", "--set", "data.shards=[\"packed/*.tar\"]"]);
    assert!(workshop.path("run/exports/one/model.safetensors").is_file());
    for name in ["distill", "distill-worker"] {
        let dynamic =
            run(Command::new("readelf").arg("-d").arg(workshop.path(&format!("fresh/bin/{name}"))));
        let paths: Vec<&str> = dynamic.lines().filter(|line| line.contains("PATH)")).collect();
        let is_relative = |line: &&str| {
            let list = line.split(['[', ']']).nth(1).unwrap();
            list.split(':').all(|path| path.starts_with("$ORIGIN/../lib/"))
        };
        assert!(paths.iter().all(is_relative), "{name}: {paths:?}");
        assert_eq!(paths.len(), usize::from(name == "distill"), "{name}: {paths:?}");
    }
}

/// Mistakes of usage end with a line that says what was meant.
#[test]
fn packaging_explains_its_usage() {
    let fails = |arguments: &[&str], part: &str| {
        let output = Command::new(root().join("scripts/package")).args(arguments).output().unwrap();
        Finished::of(output).fails(1, &["usage: scripts/package", part]);
    };
    fails(&["--out"], "needs a folder");
    fails(&["--output", "x"], "--output");
    let nothing = ["--programs", "/proc/self"];
    let output = Command::new(root().join("scripts/package")).args(nothing).output().unwrap();
    Finished::of(output).fails(1, &["--programs /proc/self: distill is not there"]);
}
