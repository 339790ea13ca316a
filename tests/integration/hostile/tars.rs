//! Tar files as real programs write them, damaged ones, and ones made to harm.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use distill::data::format::ShardIndex;
use distill::data::labels::NO_LABEL;
use tempfile::TempDir;

use crate::support::python::{python, run};
use crate::support::shards::{corrupt_jpeg, scan};
use crate::support::workshop::{Finished, Workshop, image};

const BLOCK: usize = 512;

/// A tar file written block by block, so that anything may be wrong in it.
#[derive(Default, Clone)]
pub(super) struct Tar(Vec<u8>);

impl Tar {
    /// A header whose size field is as given, and content.
    fn raw(mut self, kind: u8, name: &[u8], size: &[u8], content: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::new(kind));
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name);
        old.size[..size.len()].copy_from_slice(size);
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        self
    }

    pub(super) fn member(self, kind: u8, name: &str, content: &[u8]) -> Self {
        self.raw(kind, name.as_bytes(), format!("{:011o}", content.len()).as_bytes(), content)
    }

    pub(super) fn file(self, name: &str) -> Self {
        self.member(b'0', name, b"image")
    }

    pub(super) fn pax(self, records: &[u8]) -> Self {
        self.member(b'x', "pax", records)
    }

    pub(super) fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 2 * BLOCK]);
        self.0
    }
}

pub(super) fn start() -> Tar {
    Tar::default().file("first.jpg")
}

/// Sets the checksums of what may be headers, so that damage gets past them.
pub(super) fn repair_checksums(shard: &mut [u8]) {
    for block in shard.as_chunks_mut::<BLOCK>().0 {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes().copy_from_slice(block);
        if header.as_gnu().is_some() || header.as_ustar().is_some() {
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
    }
}

pub(super) fn names(index: &ShardIndex) -> Vec<&str> {
    (0..index.rows()).map(|row| index.name(row)).collect()
}

/// The bytes that an index says an image has.
fn content(shard: &[u8], index: &ShardIndex, row: usize) -> Vec<u8> {
    shard[index.offsets[row] as usize..][..index.sizes[row] as usize].to_vec()
}

/// Damaged tar files, and what is said of each.
fn damaged() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let sized = |size: &[u8]| start().raw(b'0', b"b.jpg", size, b"x").file("c.jpg").end();
    let binary = |number: u64| [&[0x80, 0, 0, 0][..], &number.to_be_bytes()].concat();
    let described = |records: &[u8]| start().pax(records).file("b.jpg").end();
    let mut flipped = start().file("b.jpg").end();
    flipped[2 * BLOCK + 3] ^= 1;
    let mut cut = start().file("b.jpg").end();
    cut.truncate(2 * BLOCK + 300);
    let mut endless_map = start().member(b'S', "map.jpg", b"").0;
    let header = endless_map.len() - BLOCK;
    endless_map[header + 482] = 1; // the map goes on in the next block, and so does each part
    repair_checksums(&mut endless_map);
    endless_map.extend([1; 40 * BLOCK]);
    let long = vec![b'n'; (1 << 20) + 1];
    vec![
        ("checksum", flipped, "checksum"),
        ("cut_in_header", cut, "truncated"),
        ("size_no_number", sized(b"twelve bytes"), "no number"),
        ("size_sign", sized(b"-0000000001\0"), "no number"),
        ("size_octal_overflow", sized(b"777777777777"), "truncated"),
        ("size_binary_2_to_63", sized(&binary(1 << 63)), "truncated"),
        ("size_binary_most", sized(&binary(u64::MAX)), "truncated"),
        ("size_binary_negative", sized(&[0xff; 12]), "negative or too large"),
        (
            "size_binary_beyond_64_bits",
            sized(&[0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
            "too large",
        ),
        ("size_beyond_file", sized(b"00000100000\0"), "truncated"),
        ("sparse_map_without_end", endless_map, "truncated"),
        ("pax_size_2_to_63", described(b"28 size=9223372036854775808\n"), "truncated"),
        ("pax_size_negative", described(b"11 size=-1\n"), "extended header"),
        ("pax_size_too_long", described(b"30 size=99999999999999999999999\n"), "extended header"),
        ("pax_length_too_long", described(b"99 path=a.jpg\n"), "extended header"),
        ("pax_length_huge", described(b"99999999999999999999 path=a.jpg\n"), "extended header"),
        ("pax_length_none", described(b"path=a.jpg\n"), "extended header"),
        ("pax_length_zero", described(b"0 path=a.jpg\n"), "extended header"),
        ("pax_length_too_short", described(b"3 path=a.jpg\n"), "extended header"),
        ("pax_without_value", described(b"7 path\n"), "extended header"),
        ("pax_without_line_end", described(b"14 path=a.jpgx"), "extended header"),
        ("pax_without_member", start().pax(b"14 path=a.jpg\n").end(), "no member follows"),
        ("pax_too_large", start().pax(&long).file("b.jpg").end(), "extended header of"),
        ("name_too_large", start().member(b'L', "l", &long).file("b.jpg").end(), "header of"),
        ("page", b"<html>not found</html>".repeat(100), "a web page"),
        ("gzip", [b"\x1f\x8b\x08".as_slice(), &[7; 2000]].concat(), "compressed"),
        ("folders_only", Tar::default().member(b'5', "a.jpg/", b"").end(), "no image"),
        ("nothing", Vec::new(), "no image"),
    ]
}

/// Damage is an error that names the shard and says what is wrong, for each shard of several.
#[test]
fn damaged_tars_are_refused_by_name() {
    let folder = TempDir::new().unwrap();
    let cases = damaged();
    for (name, bytes, _) in &cases {
        fs::write(folder.path().join(format!("{name}.tar")), bytes).unwrap();
    }
    fs::write(folder.path().join("good.tar"), start().end()).unwrap();
    let pattern = format!("{}/*.tar", folder.path().display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_distill"));
    let index = command.args(["data", "index", &pattern]).output().unwrap();
    let told = format!("{} of {} shards cannot be indexed", cases.len(), cases.len() + 1);
    let index = Finished::of(index).fails(1, &[&told]);
    for (name, _, expected) in cases {
        let mut lines = index.stdout.lines().filter(|line| line.contains(&format!("/{name}.tar:")));
        let line = lines.next().unwrap_or_else(|| panic!("{name} is not in {}", index.stdout));
        assert!(line.contains(expected), "`{expected}` is not in: {line}");
        assert!(lines.next().is_none(), "{name} is named twice: {}", index.stdout);
    }
}

/// What Python's tarfile writes is read in every format; names are keys and nothing else, so
/// they may lead anywhere, and bytes that are no UTF-8 still tell two names apart.
#[test]
fn pythons_tars_are_read() {
    let folder = TempDir::new().unwrap();
    run(python("make_tars.py").arg(folder.path()));
    let long = format!("{}/{}.jpg", "folder".repeat(50), "name".repeat(50));
    for format in ["ustar", "gnu", "pax"] {
        let shard = folder.path().join(format!("{format}.tar"));
        let (index, bytes) = (scan(&shard).unwrap(), fs::read(&shard).unwrap());
        let found = names(&index);
        let mut expected = vec![
            "plain.jpg".to_string(),
            "/absolute/path.jpg".into(),
            "../../above.jpg".into(),
            format!("{}name.jpeg", "deep/".repeat(12)),
            format!("{}.png", "n".repeat(90)),
            "über/straße.webp".into(),
            "not_\\xff_utf8.jpg".into(),
            "not_\\xfe_utf8.jpg".into(),
            "new\\nline=1.jpg".into(),
        ];
        if format != "ustar" {
            expected.extend([format!("{}.jpg", "l".repeat(150)), long.clone()]);
        }
        assert_eq!(found, expected, "{format}");
        for row in 0..index.rows() {
            assert_eq!(content(&bytes, &index, row), row.to_string().as_bytes(), "{format}");
        }
    }
}

fn gnu_tar(folder: &Path, options: &[&str], file: &str, members: &[&str]) {
    let mut command = Command::new("tar");
    command.arg("--create").args(options).arg(format!("--file={file}")).args(members);
    run(command.current_dir(folder));
}

/// A file with holes between `pieces` pieces of content.
fn write_sparse(path: &Path, pieces: u64) {
    let mut file = File::create(path).unwrap();
    for piece in 0..pieces {
        file.seek(SeekFrom::Start(piece * 100_000)).unwrap();
        file.write_all(b"piece").unwrap();
    }
    file.set_len(pieces * 100_000 + 1).unwrap();
}

/// Sparse files in each of GNU tar's formats, with maps of one and of several blocks, and links:
/// left out with one warning that counts them and names the first, while what stands around them
/// is read.
#[test]
fn sparse_members_and_links_are_left_out_with_a_warning() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["a.jpg", "e.jpg"] {
        fs::write(path(name), name).unwrap();
    }
    write_sparse(&path("b.jpg"), 3);
    write_sparse(&path("c.jpg"), 60);
    fs::write(path("c.cls"), "3").unwrap();
    symlink("a.jpg", path("d.jpg")).unwrap();
    fs::hard_link(path("a.jpg"), path("f.jpg")).unwrap();
    let members = ["a.jpg", "b.jpg", "c.jpg", "c.cls", "d.jpg", "e.jpg", "f.jpg"];
    for (name, options) in [
        ("old", &["--format=oldgnu"][..]),
        ("gnu", &["--format=gnu"]),
        ("pax-0.0", &["--format=pax", "--sparse-version=0.0"]),
        ("pax-0.1", &["--format=pax", "--sparse-version=0.1"]),
        ("pax-1.0", &["--format=pax", "--sparse-version=1.0"]),
    ] {
        let shard = path(&format!("{name}.tar"));
        let options = [options, &["--sparse"]].concat();
        gnu_tar(folder.path(), &options, shard.to_str().unwrap(), &members);
        let bytes = fs::read(&shard).unwrap();
        assert!(bytes.len() < 300_000, "{name}: the holes of b.jpg and c.jpg are not stored");
        let index = scan(&shard).unwrap();
        assert_eq!(names(&index), ["a.jpg", "e.jpg"], "{name}");
        assert_eq!(content(&bytes, &index, 0), b"a.jpg", "{name}");
        assert_eq!(content(&bytes, &index, 1), b"e.jpg", "{name}");

        let mut command = Command::new(env!("CARGO_BIN_EXE_distill"));
        let index = command.args(["data", "index", shard.to_str().unwrap()]).output().unwrap();
        let index = Finished::of(index).succeeds();
        let warnings: Vec<&str> =
            index.stderr.lines().filter(|l| l.contains("warning: ")).collect();
        assert_eq!(warnings.len(), 2, "{name}: {}", index.stderr);
        assert!(warnings[0].contains("`c.cls`"), "a label without its image: {}", warnings[0]);
        for part in [&format!("{name}.tar"), "4 images or labels", "`b.jpg`", "sparse"] {
            assert!(warnings[1].contains(part), "`{part}` is not in: {}", warnings[1]);
        }
    }
}

/// What GNU tar lists of a file that has no end mark, it lists; so a shard that ends behind a
/// whole member is read with a warning, and so is one with something behind its mark.
#[test]
fn a_missing_end_mark_and_what_follows_one_are_warned_of() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let whole = start().file("b.jpg");
    fs::write(path("unmarked.tar"), &whole.0).unwrap();
    fs::write(path("half_marked.tar"), [&whole.0[..], &[0; BLOCK]].concat()).unwrap();
    let mut record = whole.clone().end();
    record.resize(20 * BLOCK, 0);
    fs::write(path("two.tar"), [&record[..], &record].concat()).unwrap();
    fs::write(path("long_zeros.tar"), [&record[..], &[0; 50_000]].concat()).unwrap();
    for name in ["unmarked.tar", "half_marked.tar", "two.tar", "long_zeros.tar"] {
        let mut list = Command::new("tar");
        let list = run(list.arg("--list").arg("--file").arg(path(name)));
        assert_eq!(list.lines().collect::<Vec<_>>(), ["first.jpg", "b.jpg"], "GNU tar on {name}");
        assert_eq!(names(&scan(&path(name)).unwrap()), ["first.jpg", "b.jpg"], "{name}");
    }
    let pattern = format!("{}/*.tar", folder.path().display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_distill"));
    let index = command.args(["data", "index", &pattern]).output().unwrap();
    let index = Finished::of(index).succeeds();
    let warned = |name: &str, part: &str| {
        index.stderr.lines().any(|line| line.contains(name) && line.contains(part))
    };
    assert!(warned("/unmarked.tar", "mark of its end is missing after 2 members"));
    assert!(warned("/two.tar", "from byte 10240 on"), "{}", index.stderr);
    assert!(!warned("half_marked.tar", "") && !warned("long_zeros.tar", ""), "{}", index.stderr);
}

/// Rules that are easy to get wrong: which name wins, which label belongs to whom, what a size
/// means, what is no file.
#[test]
fn odd_but_sound_members_are_read_right() {
    let folder = TempDir::new().unwrap();
    let shard = folder.path().join("odd.tar");
    let long_name = [b"long.jpg".as_slice(), &[0; 3]].concat();
    let tar = Tar::default()
        .member(b'g', "global", b"20 path=nothing.jpg\n")
        .pax(b"14 path=a.jpg\n32 comment=two\nlines = one text\n")
        .file("ignored.jpg")
        .member(b'L', "././@LongLink", &long_name)
        .member(b'K', "././@LongLink", &vec![b'k'; 2 << 20])
        .file("short.jpg")
        .pax(b"9 size=5\n8 path=\n")
        .raw(b'0', b"sized.jpg", b"00000000000\0", b"image")
        .raw(b'0', b"blank.cls", b"            ", b"")
        .raw(b'1', b"linked.jpg", b"00000010000\0", b"")
        .member(b'5', "folder.jpg/", b"")
        .member(b'V', "volume.jpg", b"")
        .raw(b'0', b"binary.jpg", &[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5], b"image")
        .raw(b'\0', b"old.jpg", b" 5 ", b"image")
        .member(b'0', "same.jpg", b"image")
        .member(b'0', "same.cls", b"1")
        .member(b'0', "same.jpg", b"another")
        .member(b'7', "apart.jpg", b"image")
        .raw(b'0', b"same.jpg", b"00000000000\0", b"")
        .raw(b'0', b"x\xff.jpg", b"5", b"image")
        .raw(b'0', b"x\xff.cls", b"1", b"8")
        .raw(b'0', b"x\xfe.jpg", b"5", b"image")
        .raw(b'0', b"x\xfe.cls", b"2", b"\xff\xff");
    let bytes = tar.end();
    fs::write(&shard, &bytes).unwrap();
    let index = scan(&shard).unwrap();
    let expected = [
        ("a.jpg", NO_LABEL),
        ("long.jpg", NO_LABEL),
        ("sized.jpg", NO_LABEL),
        ("binary.jpg", NO_LABEL),
        ("old.jpg", NO_LABEL),
        ("same.jpg", 1),
        ("apart.jpg", NO_LABEL),
        ("same.jpg", NO_LABEL),
        ("x\\xff.jpg", 8),
        ("x\\xfe.jpg", NO_LABEL),
    ];
    let found: Vec<(&str, u32)> =
        names(&index).into_iter().zip(index.labels.iter().copied()).collect();
    assert_eq!(found, expected);
    for row in 0..index.rows() {
        let expected: &[u8] = if row == 7 { b"" } else { b"image" };
        assert_eq!(content(&bytes, &index, row), expected, "{}", index.name(row));
    }
}

/// A run trains on shards whose writers were careless, and writes nothing but its own folder.
#[test]
fn a_run_trains_on_careless_shards() {
    let workshop = Workshop::new();
    let mut tar = Tar::default();
    for (number, name) in
        [b"../above.jpg".as_slice(), b"/tmp/absolute.jpg", b"\xff\xfe.jpg", b"bad\x1b[31m.jpg"]
            .into_iter()
            .enumerate()
    {
        let bytes = if number == 3 { corrupt_jpeg() } else { image(number as u32) };
        tar = tar.raw(b'0', name, format!("{:011o}", bytes.len()).as_bytes(), &bytes);
    }
    fs::write(workshop.path("shards/careless.tar"), &tar.0).unwrap();
    let trained = workshop.train(&["data.max_failed_share=0.5"]).succeeds();
    let warned = |part: &str| trained.stderr.lines().filter(|line| line.contains(part)).count();
    assert_eq!(warned("mark of its end is missing after 4 members"), 1, "{}", trained.stderr);
    assert_eq!(warned(r"member `bad\u{1b}[31m.jpg`"), 1, "{}", trained.stderr);
    assert!(!trained.stderr.contains('\x1b'), "a name must not reach the terminal as it is");
    let check = workshop.command(&["data", "check", "shards/*.tar"]).output().unwrap();
    let check = Finished::of(check).fails(1, &["1 images are bad"]);
    assert!(check.stdout.contains("23 good, 1 bad"), "{}", check.stdout);
    let mut left: Vec<_> =
        fs::read_dir(workshop.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["config.toml", "run", "shards"].map(OsStr::new));
    assert!(!Path::new("/tmp/absolute.jpg").exists());
    assert!(OsStr::from_bytes(b"\xff\xfe.jpg").to_str().is_none(), "a name that is no UTF-8");
}
