//! `distill data pack | index | check` on the command line.

use std::io::Write;
use std::path::Path;

use assert_cmd::Command;
use tempfile::TempDir;

use crate::support::shards::{config, corrupt_jpeg, curated, fill, jpeg, open, scan, write_tar};

fn distill(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_distill"));
    command.arg("data").args(arguments);
    command
}

fn stdout(command: &mut Command) -> String {
    String::from_utf8(command.assert().get_output().stdout.clone()).unwrap()
}

fn stderr(command: &mut Command) -> String {
    String::from_utf8(command.assert().get_output().stderr.clone()).unwrap()
}

fn write_images(folder: &Path, count: usize) {
    std::fs::create_dir_all(folder).unwrap();
    for number in 0..count {
        std::fs::write(folder.join(format!("p.{number}.JPG")), jpeg(number as u8 * 20)).unwrap();
    }
}

/// Class folders → shards → index → check, on the command line, with a bad image on the way.
#[test]
fn pack_index_and_check_work_together() {
    let folder = TempDir::new().unwrap();
    let source = folder.path().join("source");
    write_images(&source.join("dog"), 7);
    write_images(&source.join("cat/deeper"), 5);
    std::fs::write(source.join("dog/broken.jpg"), corrupt_jpeg()).unwrap();
    let out = folder.path().join("out");
    let (source, out_name) = (source.to_str().unwrap(), out.to_str().unwrap());
    let mut pack =
        distill(&["pack", source, "--out", out_name, "--shard-samples", "5", "--prefix", "pets"]);
    let output = pack.assert().success().get_output().clone();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("12 samples") && text.contains("3 shards"), "{text}");
    assert!(text.contains("1 images could not be read"), "{text}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("broken.jpg"));
    let classes = std::fs::read_to_string(out.join("classes.json")).unwrap();
    assert_eq!(serde_json::from_str::<Vec<String>>(&classes).unwrap(), ["cat", "dog"]);

    let pattern = format!("{out_name}/pets-*.tar");
    let dataset = open(&config(&[Path::new(&pattern)]), 0).unwrap();
    let labels: Vec<u32> = (0..12).map(|p| fill(&dataset, p).unwrap().1.unwrap()).collect();
    assert_eq!(labels.iter().filter(|&&label| label == 0).count(), 5, "cats");
    let first = scan(&out.join("pets-000000.tar")).unwrap();
    assert!(first.labels.contains(&0) && first.labels.contains(&1), "classes are mixed");

    let index = distill(&["index", &pattern]).assert().success().get_output().stdout.clone();
    let index = String::from_utf8(index).unwrap();
    let total = index.lines().last().unwrap();
    assert!(total.split_whitespace().next() == Some("12") && total.contains("3 shards"), "{index}");
    let check = distill(&["check", &pattern]).assert().success().get_output().stdout.clone();
    assert!(String::from_utf8(check).unwrap().contains("12 good, 0 bad"));

    write_tar(&out.join("pets-000003.tar"), &[("bad.jpg", corrupt_jpeg()), ("ok.jpg", jpeg(3))]);
    std::fs::write(out.join("pets-000004.tar"), [0; 100]).unwrap();
    let mut check = distill(&["check", &pattern]);
    let check = check.assert().code(1).get_output().clone();
    let text = String::from_utf8(check.stdout).unwrap();
    assert!(text.contains("pets-000003.tar: member `bad.jpg`: truncated JPEG"), "{text}");
    assert!(text.contains("13 good, 1 bad") && text.contains("pets-000004.tar"), "{text}");

    let refused = stderr(&mut distill(&["pack", source, "--out", out_name, "--prefix", "pets"]));
    assert!(refused.contains("already"), "shards are not overwritten: {refused}");
}

/// The same source gives the same shards byte for byte, and nothing else is left in the folder.
#[test]
fn packing_is_deterministic() {
    let folder = TempDir::new().unwrap();
    let source = folder.path().join("source");
    write_images(&source, 9);
    let outs = ["one", "two"].map(|name| folder.path().join(name));
    for out in &outs {
        let arguments = ["pack", source.to_str().unwrap(), "--out", out.to_str().unwrap()];
        distill(&arguments).args(["--shard-samples", "4"]).assert().success();
        let mut names: Vec<_> =
            std::fs::read_dir(out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["shard-000000.tar", "shard-000001.tar", "shard-000002.tar"]);
    }
    for name in ["shard-000000.tar", "shard-000002.tar"] {
        let [one, two] = [0, 1].map(|index: usize| std::fs::read(outs[index].join(name)).unwrap());
        assert!(one == two, "{name} differs");
    }
    let index = scan(&outs[0].join("shard-000000.tar")).unwrap();
    assert_eq!(index.labelled(), 0, "images without class folders have no label");
}

/// Large images are shrunk, and cut into tiles where that is asked for.
#[test]
fn packing_shrinks_and_tiles() {
    let folder = TempDir::new().unwrap();
    let source = folder.path().join("source");
    std::fs::create_dir_all(&source).unwrap();
    image::RgbImage::from_fn(640, 200, |x, y| image::Rgb([x as u8, y as u8, 9]))
        .save(source.join("wide.png"))
        .unwrap();
    let sizes = |name: &str, arguments: &[&str]| {
        let out = folder.path().join(name);
        let base = ["pack", source.to_str().unwrap(), "--out", out.to_str().unwrap()];
        distill(&base).args(arguments).assert().success();
        let shard = out.join("shard-000000.tar");
        let index = scan(&shard).unwrap();
        let file = std::fs::read(&shard).unwrap();
        (0..index.rows())
            .map(|row| {
                let bytes = &file[index.offsets[row] as usize..][..index.sizes[row] as usize];
                let image = image::load_from_memory(bytes).unwrap();
                let extension = index.name(row).rsplit('.').next().unwrap();
                (extension.to_string(), image.width(), image.height())
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(sizes("kept", &[]), [("png".to_string(), 640, 200)]);
    assert_eq!(sizes("large", &["--shorter-side", "300"]), [("png".to_string(), 640, 200)]);
    assert_eq!(sizes("small", &["--shorter-side", "100"]), [("jpg".to_string(), 320, 100)]);
    let tiles = sizes("tiles", &["--shorter-side", "100", "--tile", "100"]);
    assert_eq!(tiles, vec![("jpg".to_string(), 106, 100); 3]);
}

fn idx(dimensions: &[u32], values: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, dimensions.len() as u8];
    bytes.extend(dimensions.iter().flat_map(|dimension| dimension.to_be_bytes()));
    bytes.extend(values);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// MNIST-style files become one set of shards a split, losslessly, with their labels.
#[test]
fn idx_files_are_packed() {
    let folder = TempDir::new().unwrap();
    let source = folder.path().join("source");
    std::fs::create_dir_all(&source).unwrap();
    let pixels: Vec<u8> = (0..6 * 28 * 28).map(|i| (i / (28 * 28) * 40) as u8).collect();
    let labels = [5, 4, 3, 2, 1, 0];
    let write = |name: &str, bytes: Vec<u8>| std::fs::write(source.join(name), bytes).unwrap();
    write("train-images-idx3-ubyte.gz", gzip(&idx(&[6, 28, 28], &pixels)));
    write("train-labels-idx1-ubyte.gz", gzip(&idx(&[6], &labels)));
    write("t10k-images-idx3-ubyte", idx(&[2, 28, 28], &pixels[..2 * 28 * 28]));
    write("t10k-labels-idx1-ubyte", idx(&[2], &labels[..2]));
    let out = folder.path().join("out");
    let arguments = ["pack", source.to_str().unwrap(), "--out", out.to_str().unwrap()];
    distill(&arguments).assert().success();
    for (name, samples) in [("train", 6), ("t10k", 2)] {
        let dataset = open(&config(&[&out.join(format!("{name}-*.tar"))]), 0).unwrap();
        assert_eq!(dataset.sample_count(), samples);
        for position in 0..samples {
            let (image, label) = fill(&dataset, position).unwrap();
            let grey = (5 - label.unwrap()) as u8 * 40;
            assert!(image.iter().all(|&value| value == grey), "label {label:?}");
        }
    }
    write("train-labels-idx1-ubyte.gz", gzip(&idx(&[5], &labels[..5])));
    let mut again = distill(&arguments);
    again.args(["--prefix", "again"]);
    assert!(stderr(&mut again).contains("5 labels for 6 images"));
    write("train-images-idx3-ubyte.gz", gzip(&idx(&[6, 28, 28], &pixels[..9])));
    assert!(stderr(&mut again).contains("train-images-idx3-ubyte.gz"));
}

/// A config's curation is part of what is checked, and its counts are shown.
#[test]
fn check_reports_curation() {
    let folder = TempDir::new().unwrap();
    let images = [("a.jpeg", 5.0, 400, 0.5), ("b.jpeg", 1.0, 400, 0.5)];
    let config = curated(folder.path(), &images, &["c.jpeg"]);
    let file = folder.path().join("run.toml");
    let text = format!(
        "[run]\ndir = \"run\"\n[teacher]\nweights = \"random\"\nmodel = \"pixio_vitb16\"\n\
         [[students]]\nname = \"s\"\nmodel = \"pixio_vitb16\"\n[schedule]\nepochs = 1\n\
         [data]\nshards = {:?}\n[data.curation]\njson_root = {:?}\n",
        config.shards,
        folder.path().join("json")
    );
    std::fs::write(&file, text).unwrap();
    let mut check = distill(&["check", "--config", file.to_str().unwrap()]);
    check.assert().success();
    let text = stdout(&mut check);
    assert!(text.contains("keeps 1 of 3"), "{text}");
    assert!(text.contains("without scores: 1") && text.contains("too low: 1"), "{text}");
}

/// Wrong usage exits with 2, and help can be read.
#[test]
fn wrong_usage_exits_with_2() {
    let nothing = "/nonexistent/*.tar";
    for command in ["index", "check"] {
        distill(&[command, nothing]).assert().code(2);
        assert!(stderr(&mut distill(&[command, nothing])).contains(nothing));
    }
    distill(&["check"]).assert().code(2);
    assert!(stdout(&mut distill(&["pack", "--help"])).contains("classes.json"));
}

/// Where nothing can be kept beside the shards, indexes go to the user's cache folder.
#[test]
fn indexes_go_to_the_cache_folder_where_the_shards_place_is_closed() {
    let folder = TempDir::new().unwrap();
    let cache = TempDir::new().unwrap();
    let shard = folder.path().join("a.tar");
    write_tar(&shard, &[("a.jpg", jpeg(0))]);
    std::fs::create_dir(folder.path().join("a.tar.distill-index")).unwrap();
    let mut index = distill(&["index", shard.to_str().unwrap()]);
    index.env("XDG_CACHE_HOME", cache.path());
    assert!(stdout(&mut index).contains("made"));
    assert!(stdout(&mut index).contains("found"));
    assert_eq!(std::fs::read_dir(cache.path().join("distill/index")).unwrap().count(), 1);
}
