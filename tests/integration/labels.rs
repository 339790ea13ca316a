//! Labels of shards as other programs write them: right, or left out and counted.

use std::fs;

use crate::support::shards::{jpeg, write_tar};
use crate::support::workshop::{Finished, Workshop};

/// What `data index` says of a shard of these members, and its samples and labels.
fn indexed(members: &[(&str, &str)]) -> (Vec<u64>, String) {
    let workshop = Workshop::new();
    let pixels = jpeg(7);
    let bytes =
        |text: &str| if text == "image" { pixels.clone() } else { text.as_bytes().to_vec() };
    let members: Vec<_> =
        members.iter().map(|(name, text)| (name.to_string(), bytes(text))).collect();
    workshop.shard("odd.tar", &members);
    let done = Finished::of(workshop.command(&["data", "index", "odd.tar"]).output().unwrap());
    let done = done.succeeds();
    let line = done.stdout.lines().find(|line| line.contains("odd.tar")).unwrap();
    let counts = line.split_whitespace().take(2).map(|word| word.parse().unwrap()).collect();
    (counts, done.stderr)
}

/// Names may have dots, and so may those of their labels.
#[test]
fn labels_of_dotted_names_are_theirs() {
    for apart in [false, true] {
        let [first, second] = [("im.0.1.jpg", "image"), ("im.0.2.jpg", "image")];
        let [one, two] = [("im.0.1.cls", "1"), ("im.0.2.CLS", "2")];
        let members = if apart { [first, second, one, two] } else { [first, one, second, two] };
        let (counts, said) = indexed(&members);
        assert_eq!(counts, [2, 2], "{said}");
    }
    let (counts, said) = indexed(&[("a.jpg", "image"), ("a.seg.cls", "1")]);
    assert_eq!(counts, [1, 0]);
    assert!(said.contains("1 `.cls` members have no image of their key"), "{said}");
}

/// Nobody knows which of two images of one name a label apart from both belongs to, nor which of two labels is
/// right: such images have none, and are counted. Labels beside each are theirs.
#[test]
fn labels_that_contradict_each_other_are_none() {
    let (counts, said) = indexed(&[
        ("a.jpg", "image"),
        ("b.jpg", "image"),
        ("a.jpg", "image"),
        ("a.cls", "1"),
        ("b.cls", "3"),
        ("a.cls", "2"),
    ]);
    assert_eq!(counts, [3, 1], "{said}");
    assert!(said.contains("2 images have no label: several of one key"), "{said}");
    let (counts, said) = indexed(&[("a.jpg", "image"), ("a.cls", "1"), ("a.cls", "2")]);
    assert_eq!(counts, [1, 0], "{said}");
    assert!(said.contains("1 images have no label"), "{said}");
    let beside_and_apart = [("a.jpg", "image"), ("a.cls", "1"), ("b.jpg", "image"), ("a.cls", "2")];
    let (counts, said) = indexed(&beside_and_apart);
    assert_eq!(counts, [2, 0], "{said}");
    assert!(said.contains("1 images have no label"), "{said}");
    let twice = [("a.jpg", "image"), ("a.cls", "1"), ("a.cls", "1")];
    assert_eq!(indexed(&twice).0, [1, 1], "the same class twice is one");
    let (counts, said) = indexed(&[
        ("a.jpg", "image"),
        ("a.cls", "1"),
        ("b.jpg", "image"),
        ("a.jpg", "image"),
        ("a.cls", "2"),
    ]);
    assert_eq!(counts, [3, 2], "each has its own: {said}");
}

/// Members hold numbers, and the classes are called by other numbers: what could be either is not read.
#[test]
fn numbers_are_not_taken_for_names() {
    let workshop = Workshop::new();
    let member = |number: u8| {
        let key = format!("{number}");
        [(format!("{key}.jpg"), jpeg(number)), (format!("{key}.cls"), key.into_bytes())]
    };
    let members: Vec<(String, Vec<u8>)> = (0..3).flat_map(member).collect();
    workshop.shard("numbered.tar", &members);
    fs::write(workshop.path("classes.json"), r#"["1", "2", "10"]"#).unwrap();
    workshop.train(&[]).succeeds();
    let knn = |classes: &[&str]| {
        let fixed = ["eval", "knn", "--weights", "run/exports/one", "--neighbours", "1"];
        let shards = ["--reference", "numbered.tar", "--held-out", "numbered.tar"];
        Finished::of(workshop.command(&[&fixed[..], &shards, classes].concat()).output().unwrap())
    };
    let plain = knn(&[]).succeeds();
    assert!(plain.stdout.contains("3 images of 3 classes"), "{}", plain.stdout);
    let listed = knn(&["--classes", "classes.json"]).succeeds();
    let said = "2 `.cls` members say no class and are not read; `1.cls` is \"1\", which is the name of class 0 and the number of class `2`";
    assert!(listed.stderr.contains(said), "{}", listed.stderr);
}

/// Images of other endings, or of none, are counted, in shards and in folders.
#[test]
fn images_of_other_endings_are_counted() {
    let (counts, said) = indexed(&[
        ("a.jpg", "image"),
        ("b.img", "image"),
        ("c.img", "image"),
        ("d", "image"),
        ("e.bin", "no image"),
    ]);
    assert_eq!(counts, [1, 0]);
    assert!(
        said.contains("3 images of kinds that are not read are left out: without ending 1, .img 2"),
        "{said}"
    );
    let workshop = Workshop::new();
    workshop.shard("others.tar", &[("a.img".into(), jpeg(1)), ("b.img".into(), jpeg(2))]);
    let none = Finished::of(workshop.command(&["data", "index", "others.tar"]).output().unwrap());
    let said = format!("{}{}", none.stdout, none.stderr);
    none.fails(1, &["1 of 1 shards cannot be indexed"]);
    let reason = "among its 2 members; 2 images of kinds that are not read are left out: .img 2";
    assert!(said.contains(reason), "{said}");
    let folder = workshop.path("folder");
    fs::create_dir(&folder).unwrap();
    for name in ["a.jpg", "b.img", "c", "d.cls"] {
        fs::write(folder.join(name), jpeg(1)).unwrap();
    }
    let pack = ["data", "pack", "folder", "--out", "packed"];
    let done = Finished::of(workshop.command(&pack).output().unwrap()).succeeds();
    assert!(
        done.stderr
            .contains("2 images of kinds that are not read are left out: without ending 1, .img 1"),
        "{}",
        done.stderr
    );
}

/// What is measured of a run's encoder reads labels as the run does, unless another place is given.
#[test]
fn labels_are_read_as_the_run_reads_them() {
    let workshop = Workshop::new();
    workshop.train(&["data.label=\"json:sort\""]).succeeds();
    let members: Vec<_> = (0..8)
        .flat_map(|i: u8| {
            let sort = format!("{{\"sort\": {}}}", i % 2).into_bytes();
            [(format!("{i}.jpg"), jpeg(i)), (format!("{i}.json"), sort)]
        })
        .collect();
    workshop.shard("set.tar", &members);
    let knn = |more: &[&str]| {
        let sets = ["--reference", "set.tar", "--held-out", "set.tar", "--neighbours", "1"];
        let run = ["eval", "knn", "--run", "run", "--device", "cpu"];
        let mut command = workshop.command(&[&run[..], &sets, more].concat());
        Finished::of(command.output().unwrap())
    };
    let done = knn(&["--student", "one"]).succeeds();
    assert!(done.stdout.contains("8 images of 2 classes"), "{}", done.stdout);
    let other = knn(&["--student", "one", "--label", "cls"]);
    assert_ne!(other.code, Some(0), "{}", other.stdout);
}

/// An empty file in a folder of images is named itself, and not the one behind it.
#[test]
fn an_empty_file_is_named_itself() {
    let workshop = Workshop::new();
    let folder = workshop.path("folder");
    fs::create_dir(&folder).unwrap();
    for (name, bytes) in [("a.jpg", jpeg(1)), ("b.jpg", Vec::new()), ("c.jpg", jpeg(2))] {
        fs::write(folder.join(name), bytes).unwrap();
    }
    let done = Finished::of(workshop.command(&["data", "check", "folder"]).output().unwrap());
    assert!(done.stdout.contains("b.jpg: empty file"), "{}", done.stdout);
    assert!(!done.stdout.contains("c.jpg"), "{}", done.stdout);
    let shard = workshop.path("one.tar");
    write_tar(&shard, &[("a.jpg", jpeg(1)), ("b.jpg", Vec::new()), ("c.jpg", jpeg(2))]);
    let done = Finished::of(workshop.command(&["data", "check", "one.tar"]).output().unwrap());
    assert!(done.stdout.contains("member `b.jpg`"), "{}", done.stdout);
}

/// Folders of splits are no classes, whatever year they are of.
#[test]
fn splits_of_a_year_are_no_classes() {
    let workshop = Workshop::new();
    for split in ["train2017", "val2017"] {
        let folder = workshop.path("coco").join(split);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("a.jpg"), jpeg(1)).unwrap();
    }
    let pack = ["data", "pack", "coco", "--out", "packed"];
    let done = Finished::of(workshop.command(&pack).output().unwrap());
    done.fails(1, &["its folders are splits (train2017, val2017)"]);
}
