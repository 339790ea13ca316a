//! Pictures, labels and shards as other programs write them: right, or left out and told. The files are cases of
//! public bug reports (`tests/cases`).

use std::fs;
use std::io::Cursor;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use distill::data::image::decode::{self, Image};
use distill::data::image::{CropBox, Exif};
use distill::data::{CropDecoder, CropOptions};
use image::{ImageFormat, RgbImage};

use crate::support::ranks::metrics;
use crate::support::workshop::{Finished, Workshop};

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(name)
}

/// A workshop with the files of a case in it, and its config.
fn workshop_of(name: &str) -> Workshop {
    let workshop = Workshop::new();
    copy(&case(name), &workshop.path(""));
    workshop
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to),
            false => _ = fs::copy(entry.path(), to).unwrap(),
        }
    }
}

fn distill(workshop: &Workshop, arguments: &[&str]) -> Finished {
    Finished::of(workshop.command(arguments).output().unwrap())
}

/// The only file in a tar shard that ends so.
fn member(shard: &Path, ending: &str) -> Vec<u8> {
    let mut tar = tar::Archive::new(fs::File::open(shard).unwrap());
    for entry in tar.entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.path().unwrap().to_string_lossy().to_lowercase().ends_with(ending) {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            return bytes;
        }
    }
    panic!("{}: no {ending}", shard.display())
}

fn decoded(bytes: &[u8]) -> Image {
    let mut image = Image::default();
    decode::decode(bytes, 1 << 24, &mut image).unwrap();
    image
}

/// Scans for each colour, chroma finer than luma, bytes between segments: the pixels of libjpeg-turbo's djpeg,
/// to a level on average, whole and as a training crop.
#[test]
fn odd_jpegs_have_the_pixels_of_djpeg() {
    for (name, files) in [
        ("jpeg-fine-chroma", &["cb-wide", "cbcr-large"][..]),
        ("jpeg-scan-each", &["each-420", "each-440", "plain-420"]),
        ("jpeg-refused", &["stray-before-dqt"]),
    ] {
        for file in files {
            let jpeg = member(&case(name).join(format!("{file}.tar")), ".jpg");
            let expected = image::open(case(name).join(format!("expected-{file}.png"))).unwrap();
            let expected = expected.to_rgb8();
            let whole = decoded(&jpeg);
            let (width, height) = (whole.width, whole.height);
            let mut crop = vec![0; width * height * 3];
            let side = width.min(height);
            let options = CropOptions {
                image_size: side,
                max_pixels: 1 << 24,
                reduced_decoding: false,
                exif: Exif::Ignore,
            };
            let part = CropBox { left: 0, top: 0, width: side, height: side };
            crop.truncate(side * side * 3);
            CropDecoder::default().decode(&jpeg, &options, |_, _| part, &mut crop).unwrap();
            for (what, pixels, across) in [("whole", &whole.pixels, width), ("crop", &crop, side)] {
                let (mut sum, mut count) = (0.0, 0.0);
                for y in 0..side.min(expected.height() as usize) {
                    for x in 0..side.min(expected.width() as usize) {
                        let own = &pixels[(y * across + x) * 3..][..3];
                        let other = expected.get_pixel(x as u32, y as u32).0;
                        for (a, b) in own.iter().zip(other) {
                            sum += (f64::from(*a) - f64::from(b)).abs();
                            count += 1.0;
                        }
                    }
                }
                assert!(count > 0.0 && sum / count <= 1.0, "{file}, {what}: {}", sum / count);
            }
        }
    }
}

/// Nothing that every viewer shows is refused.
#[test]
fn whole_jpegs_are_good() {
    let workshop = workshop_of("jpeg-refused");
    for shard in
        ["arithmetic", "cb-first", "stray-before-dqt", "stray-before-sof", "stray-before-sos"]
    {
        let done = distill(&workshop, &["data", "check", &format!("{shard}.tar")]).succeeds();
        assert!(done.stdout.contains("1 good, 0 bad"), "{shard}: {}", done.stdout);
        let is_arithmetic = done.stdout.contains("1 JPEGs have arithmetic coding");
        assert_eq!(is_arithmetic, shard == "arithmetic", "{}", done.stdout);
    }
}

/// Data that end before their mark are damage for whoever reads the whole picture.
#[test]
fn jpegs_whose_data_end_early_are_bad() {
    let workshop = workshop_of("damaged-jpeg");
    let bad = distill(&workshop, &["data", "check", "damaged.tar"]);
    assert_eq!(bad.code, Some(1), "{}", bad.stderr);
    assert!(bad.stdout.contains("2 good, 4 bad"), "{}", bad.stdout);
    for name in ["base_cut", "base_lost", "gray_cut", "gray_lost"] {
        assert!(bad.stdout.contains(&format!("`{name}.jpg`: JPEG: ")), "{}", bad.stdout);
    }
    let mut image = Image::default();
    let cut = member(&workshop.path("damaged.tar"), "base_cut.jpg");
    let error = decode::decode(&cut, 1 << 24, &mut image).unwrap_err().to_string();
    assert!(error.contains("premature end"), "{error}");
}

/// A file that lacks a colour's scan, or the last scans of a progressive file, is no whole image, though it has its
/// end mark and libjpeg-turbo decodes it without a word.
#[test]
fn jpegs_without_all_their_scans_are_bad() {
    let folder = tempfile::tempdir().unwrap();
    let script = "import sys\nfrom PIL import Image\nimage = Image.effect_mandelbrot((96, 64), (-2, -1, 1, 1), 50)\n\
                  image = Image.merge('RGB', [image, image.rotate(90), image.rotate(180)])\n\
                  image.save(sys.argv[1] + '/p.jpg', progressive=True)\n";
    let python =
        std::env::var_os("DISTILL_TEST_PYTHON").expect("scripts/test sets DISTILL_TEST_PYTHON");
    let made = Command::new(python).args(["-c", script]).arg(folder.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let whole = fs::read(folder.path().join("p.jpg")).unwrap();
    let mut image = Image::default();
    decode::decode(&whole, 1 << 24, &mut image).unwrap();
    let scans: Vec<usize> =
        (0..whole.len()).filter(|&at| whole[at..].starts_with(&[0xff, 0xda])).collect();
    assert!(scans.len() >= 6, "{scans:?}");
    for &cut in &scans[1..] {
        // Tables stand before a scan, too, and do no harm.
        let early = [&whole[..cut], &[0xff, 0xd9]].concat();
        let error = decode::decode(&early, 1 << 24, &mut image).unwrap_err().to_string();
        assert!(error.contains("scans are missing") || error.contains("no scan"), "{cut}: {error}");
        let options = CropOptions {
            image_size: 32,
            max_pixels: 1 << 20,
            reduced_decoding: false,
            exif: Exif::Ignore,
        };
        let crop = CropBox { left: 0, top: 0, width: 16, height: 16 };
        let mut out = vec![0; 32 * 32 * 3];
        let error =
            CropDecoder::default().decode(&early, &options, |_, _| crop, &mut out).unwrap_err();
        assert!(error.to_string().contains("scan"), "whatever the crop: {error}");
    }
}

/// Numbers that Python pickled are told where no image has a label.
#[test]
fn labels_that_are_pickled_are_told() {
    let workshop = Workshop::new();
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in [("a.jpg", turned_jpeg(1)), ("a.pyd", b"\x80\x04K\x07.".to_vec())] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, &*bytes).unwrap();
    }
    fs::write(workshop.path("pickled.tar"), tar.into_inner().unwrap()).unwrap();
    for _ in 0..2 {
        let said = distill(&workshop, &["data", "index", "pickled.tar"]).succeeds().stderr;
        assert!(said.contains("`a.pyd` are not read; if they say classes"), "{said}");
    }
}

/// Labels with a mark, a point or capitals are read; what is not read is told each time with its content and what
/// would read it, and that reads it.
#[test]
fn labels_stand_where_data_label_says() {
    let workshop = workshop_of("labels-not-read");
    let labels = |arguments: &[&str]| {
        let done = distill(&workshop, &[&["data", "index"], arguments].concat()).succeeds();
        let row = done.stdout.lines().nth(1).unwrap().split_whitespace().nth(1).unwrap();
        (row.parse::<u32>().unwrap(), done.stderr)
    };
    for shard in ["upper.tar", "float.tar", "bom.tar"] {
        assert_eq!(labels(&[shard]).0, 1, "{shard}");
    }
    for (shard, rule) in [("json.tar", "json:label"), ("txt.tar", "txt"), ("index.tar", "index")] {
        for _ in 0..2 {
            let (count, said) = labels(&[shard]);
            assert_eq!(count, 0);
            assert!(said.contains(&format!("data.label = \"{rule}\"")), "{shard}: {said}");
        }
        assert_eq!(labels(&[shard, "--label", rule]).0, 1, "{shard}");
        assert_eq!(labels(&[shard]).0, 0, "each rule has an index of its own");
    }
    for _ in 0..2 {
        let (count, said) = labels(&["name.tar"]);
        assert_eq!(count, 0);
        assert!(said.contains("`a.cls` is \"cat\"") && said.contains("data.classes"), "{said}");
    }
    fs::write(workshop.path("classes.txt"), "dog\ncat\n").unwrap();
    assert_eq!(labels(&["name.tar", "--classes", "classes.txt"]).0, 1);
    workshop.train(&["data.label=\"json:\""]).fails(2, &["data.label", "json:label"]);
}

/// All bad shards are named at once; a run may do without them, the same after a restart, up to a limit.
#[test]
fn bad_shards_are_named_or_left_out() {
    let workshop = workshop_of("bad-shards");
    for name in ["a.tar", "b.tar", "c.tar"] {
        fs::copy(workshop.path("good.tar"), workshop.path(name)).unwrap();
    }
    let good = fs::read(workshop.path("good.tar")).unwrap();
    fs::write(workshop.path("cut.tar"), &good[..9000]).unwrap();
    fs::write(workshop.path("empty.tar"), [0; 1024]).unwrap();
    fs::write(workshop.path("zero.tar"), []).unwrap();
    let failed = workshop.train(&[]);
    assert_eq!(failed.code, Some(1), "{}", failed.stderr);
    for name in ["cut.tar", "json.tar", "empty.tar", "zero.tar", "data.bad_shards = \"skip\""] {
        assert!(failed.stderr.contains(name), "`{name}` is not in {}", failed.stderr);
    }
    let skip = ["data.bad_shards=\"skip\"", "schedule.epochs=1"];
    let done = workshop.train(&skip).succeeds();
    assert!(done.stderr.contains("4 of 8 shards cannot be read, and are left out"));
    assert!(done.stderr.contains("over 48 samples"), "{}", done.stderr);
    let steps = metrics(&workshop, "run").len();
    let longer = [&skip[..1], &["schedule.epochs=2"]].concat();
    let more = workshop.train(&longer).succeeds();
    assert!(more.stderr.contains("over 48 samples"), "{}", more.stderr);
    assert!(metrics(&workshop, "run").len() > steps);
    let few = [&skip[..1], &["data.max_bad_shard_share=0.2", "run.dir=few"]].concat();
    let refused = workshop.train(&few);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("data.max_bad_shard_share = 0.2"), "{}", refused.stderr);
}

/// A JPEG, bright above and dark below as viewers show it with this orientation.
fn turned_jpeg(orientation: u8) -> Vec<u8> {
    let seen = |x: u32, y: u32| if y < 32 { [230 - (x / 8) as u8; 3] } else { [30; 3] };
    let stored = RgbImage::from_fn(64, 64, |x, y| {
        let (x, y) = match orientation {
            1 => (x, y),
            3 => (63 - x, 63 - y),
            // Stored as it is seen after a quarter turn the other way.
            6 => (63 - y, x),
            8 => (y, 63 - x),
            other => panic!("orientation {other}"),
        };
        image::Rgb(seen(x, y))
    });
    let mut plain = Cursor::new(Vec::new());
    stored.write_to(&mut plain, ImageFormat::Jpeg).unwrap();
    let plain = plain.into_inner();
    let tag = [
        &b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0"[..],
        &[orientation],
        b"\0\0\0\0\0\0",
    ]
    .concat();
    let segment = [&[0xff, 0xe1], &(tag.len() as u16 + 2).to_be_bytes()[..], &tag].concat();
    [&plain[..2], &segment, &plain[2..]].concat()
}

/// `data.exif = "apply"` shows what viewers show, in crops and whole; by default pixels stay as they are stored.
#[test]
fn exif_rotation_is_applied_on_demand() {
    for orientation in [1, 3, 6, 8] {
        let jpeg = turned_jpeg(orientation);
        let mean = |exif, top: bool| {
            let options =
                CropOptions { image_size: 32, max_pixels: 1 << 20, reduced_decoding: false, exif };
            let whole = CropBox { left: 0, top: 0, width: 64, height: 64 };
            let mut out = vec![0; 32 * 32 * 3];
            CropDecoder::default().decode(&jpeg, &options, |_, _| whole, &mut out).unwrap();
            let part = if top { &out[..32 * 3 * 8] } else { &out[32 * 3 * 24..] };
            part.iter().map(|&level| f64::from(level)).sum::<f64>() / part.len() as f64
        };
        assert!(mean(Exif::Apply, true) > 200.0, "{orientation}: {}", mean(Exif::Apply, true));
        assert!(mean(Exif::Apply, false) < 60.0, "{orientation}");
        let is_upright = mean(Exif::Ignore, true) > 200.0;
        assert_eq!(is_upright, orientation == 1, "{orientation} as it is stored");
    }
}

/// How far above is brighter than below, as `data.exif = "apply"` shows the image.
fn brighter_above(encoded: &[u8]) -> f64 {
    let options = CropOptions {
        image_size: 32,
        max_pixels: 1 << 20,
        reduced_decoding: false,
        exif: Exif::Apply,
    };
    let whole = CropBox { left: 0, top: 0, width: 64, height: 64 };
    let mut out = vec![0; 32 * 32 * 3];
    CropDecoder::default().decode(encoded, &options, |_, _| whole, &mut out).unwrap();
    let mean = |part: &[u8]| part.iter().map(|&level| f64::from(level)).sum::<f64>() / 768.0;
    mean(&out[..768]) - mean(&out[out.len() - 768..])
}

/// The tag is found where programs put it: in four bytes, little or big end first, and in a PNG behind its pixels.
#[test]
fn exif_rotation_is_found_as_other_programs_write_it() {
    // An entry is a tag, its type (3: two bytes, 4: four), a count and four bytes for the value.
    let jpeg = turned_jpeg(3);
    let short = b"\x01\x12\0\x03\0\0\0\x01\0\x03\0\0";
    let long = b"\x01\x12\0\x04\0\0\0\x01\0\0\0\x03";
    let place = jpeg.windows(short.len()).position(|bytes| bytes == short).unwrap();
    let mut four_bytes = jpeg;
    four_bytes[place..][..long.len()].copy_from_slice(long);
    assert!(brighter_above(&four_bytes) > 150.0);
    let little_end = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x03\0\0\0\0\0\0\0";
    for is_tagged in [false, true] {
        let mut png = Vec::new();
        let mut encoder = png::Encoder::new(&mut png, 64, 64);
        encoder.set_color(png::ColorType::Rgb);
        let mut writer = encoder.write_header().unwrap();
        let pixels: Vec<u8> =
            (0..64 * 64 * 3).map(|i| if i < 32 * 64 * 3 { 30 } else { 220 }).collect();
        writer.write_image_data(&pixels).unwrap();
        if is_tagged {
            writer.write_chunk(png::chunk::ChunkType(*b"eXIf"), little_end).unwrap();
        }
        drop(writer);
        assert_eq!(brighter_above(&png) > 0.0, is_tagged, "{}", brighter_above(&png));
    }
}

/// ImageMagick and others write a PNG's tags as a text of hexadecimal digits.
#[test]
fn exif_rotation_is_found_in_a_text_of_a_png() {
    let tags = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x03\0\0\0\0\0\0\0";
    let digits: String = tags.iter().map(|byte| format!("{byte:02x}")).collect();
    let (first, second) = digits.split_at(40);
    let profile = format!("\nexif\n{:8}\n{first}\n{second}\n", tags.len());
    let damaged = profile.replacen("45", "4g", 1);
    let pixels: Vec<u8> =
        (0..64 * 64 * 3).map(|i| if i < 32 * 64 * 3 { 30 } else { 220 }).collect();
    let image = |keyword: &str, text: &str, is_packed: bool| {
        let mut png = Vec::new();
        let mut encoder = png::Encoder::new(&mut png, 64, 64);
        encoder.set_color(png::ColorType::Rgb);
        let (keyword, text) = (keyword.to_string(), text.to_string());
        match is_packed {
            true => encoder.add_ztxt_chunk(keyword, text).unwrap(),
            false => encoder.add_text_chunk(keyword, text).unwrap(),
        }
        encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
        png
    };
    for is_packed in [false, true] {
        for (keyword, text, is_turned) in [
            ("Raw profile type exif", &profile, true),
            ("Raw profile type APP1", &profile, true),
            ("Raw profile type exif", &damaged, false),
            ("Comment", &profile, false),
        ] {
            let above = brighter_above(&image(keyword, text, is_packed));
            assert_eq!(above > 0.0, is_turned, "{keyword}, packed {is_packed}: {above}");
        }
    }
}

/// The switch is one of a run: crops of training have other pixels, and so the losses.
#[test]
fn a_run_has_one_switch_for_exif() {
    let workshop = Workshop::new();
    for shard in 0..2 {
        let images: Vec<_> =
            (0..10).map(|i| (format!("{shard}{i}.jpg"), turned_jpeg([3, 6, 8][i % 3]))).collect();
        workshop.shard(&format!("shards/{shard}.tar"), &images);
    }
    let losses = |run: &str, exif: &str| {
        let dir = format!("run.dir={run}");
        workshop.train(&[&dir, exif]).succeeds();
        crate::support::ranks::losses(&metrics(&workshop, run))
    };
    let ignored = losses("ignored", "data.exif=ignore");
    assert_eq!(losses("again", "log.every=1"), ignored, "that is the default");
    assert_ne!(losses("applied", "data.exif=apply"), ignored);
    workshop
        .train(&["run.dir=ignored", "data.exif=apply"])
        .fails(2, &["data.exif", "--accept-changes"]);
}

/// A name that is not UTF-8 is told, wherever a wildcard meets it.
#[test]
fn a_name_that_is_no_text_is_told() {
    let workshop = Workshop::new();
    let odd = std::ffi::OsString::from_vec(b"shards/\xff.tar".to_vec());
    fs::copy(workshop.path("shards/0.tar"), workshop.path("").join(odd)).unwrap();
    workshop.train(&[]).fails(2, &["data.shards", "\\xFF.tar", "not UTF-8"]);
    // One that the pattern does not match is nobody's business.
    let other = std::ffi::OsString::from_vec(b"shards/\xff.txt".to_vec());
    let odd = std::ffi::OsString::from_vec(b"shards/\xff.tar".to_vec());
    fs::rename(workshop.path("").join(odd), workshop.path("").join(other)).unwrap();
    workshop.train(&[]).succeeds();
}

/// Few handles are enough for many shards.
#[test]
fn few_file_handles_are_enough() {
    let workshop = Workshop::new();
    for copy in 0..100 {
        fs::copy(workshop.path("shards/0.tar"), workshop.path(&format!("shards/{copy}-.tar")))
            .unwrap();
    }
    let program = crate::support::device::program();
    let command = format!(
        "ulimit -n 48; exec {} --config config.toml --set schedule.steps_per_epoch=40",
        program.display()
    );
    let mut shell = Command::new("bash");
    let folder = workshop.path("");
    let done = Finished::of(shell.args(["-c", &command]).current_dir(folder).output().unwrap());
    done.succeeds();
}

/// Scores that name few of a shard's images are told for what they are, each time and in a dry run.
#[test]
fn images_without_scores_are_told() {
    let workshop = workshop_of("pictures-without-scores");
    fs::remove_file(workshop.path("shards/0.tar")).unwrap();
    fs::remove_file(workshop.path("shards/1.tar")).unwrap();
    for more in [&["--dry-run"][..], &["--set", "schedule.steps_per_epoch=1"]] {
        let done = distill(&workshop, &[&["--config", "config.toml"], more].concat()).succeeds();
        for words in [
            "curation keeps 2 of 12 images: 10 have no scores",
            "1 of 1 shards have scores for less than half of their images",
            "shards/a.tar has 10 images without, of 12",
        ] {
            assert!(done.stderr.contains(words), "`{words}` is not in {}", done.stderr);
        }
    }
}
