//! Folders of images; sub-folders are classes.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tracing::warn;

use super::bundle::SampleFiles;

/// Endings of the images that are read.
const READ: [&str; 6] = ["jpg", "jpeg", "jpe", "jfif", "png", "webp"];
/// Endings of images that are not.
pub const NOT_READ: [&str; 14] = [
    "gif", "bmp", "tif", "tiff", "heic", "heif", "avif", "jp2", "j2k", "jxl", "ppm", "pgm", "tga",
    "svg",
];
/// Names of folders that are splits and no classes.
const SPLITS: [&str; 8] =
    ["train", "training", "val", "valid", "validation", "test", "testing", "eval"];
/// What macOS puts into archives.
const LEFTOVER: &str = "__MACOSX";

/// The images of a folder.
#[derive(Debug)]
pub struct ClassFolder {
    /// In the order of their names, class after class.
    pub files: Vec<(PathBuf, Option<u32>)>,
    /// Names of the class folders, in the order of their labels.
    pub classes: Vec<String>,
}

impl ClassFolder {
    /// Finds images by extension: those in `folder` itself have no label; or else those anywhere
    /// below each of its folders have the folder's number as label, in sorted order, where all are whole
    /// numbers in that of these. Links are followed, each folder once. What looks like an image and is not
    /// taken is counted in a warning.
    ///
    /// # Errors
    /// A folder cannot be read, there are images of both kinds, or the folders are splits.
    pub fn find(folder: &Path) -> Result<Self> {
        let (mut folders, files): (Vec<_>, Vec<_>) =
            list(folder)?.into_iter().partition(|path| path.is_dir());
        folders.retain(|path| path.file_name().is_none_or(|name| name != LEFTOVER));
        sort_numbers(&mut folders);
        let mut walk = Walk::default();
        walk.enter(folder)?;
        let mut own = Vec::new();
        files.into_iter().for_each(|file| walk.take(file, &mut own));
        let unlabelled = own.len();
        let mut files: Vec<(PathBuf, Option<u32>)> =
            own.into_iter().map(|file| (file, None)).collect();
        let (mut classes, mut empty, mut are_flat) = (Vec::new(), Vec::new(), false);
        for class in folders {
            let mut images = Vec::new();
            walk.collect(&class, &mut images)?;
            if images.is_empty() {
                empty.push(name_of(&class));
            } else {
                are_flat |= images.iter().any(|image| image.parent() == Some(&class));
                let label = Some(classes.len() as u32);
                files.extend(images.into_iter().map(|file| (file, label)));
                classes.push(name_of(&class));
            }
        }
        walk.tell(folder);
        if !classes.is_empty() && !empty.is_empty() {
            warn!(
                "{}: {} folders without an image are no classes, which are numbered without them: {}",
                folder.display(),
                empty.len(),
                some_of(&empty)
            );
        }
        ensure!(
            classes.is_empty() || unlabelled == 0,
            "{}: has {unlabelled} images of its own beside folders of images; either all images lie \
             in class folders or none does",
            folder.display()
        );
        require_classes(folder, &classes, are_flat)?;
        Ok(Self { files, classes })
    }

    /// The same, whose labels are the numbers that its class folders have among `classes`, the list in the file at
    /// `place`.
    ///
    /// # Errors
    /// A class folder is none of these.
    pub fn numbered_by(mut self, classes: &[String], place: &Path) -> Result<Self> {
        if self.classes.is_empty() {
            return Ok(self);
        }
        let number = |class: &String| classes.iter().position(|known| known == class);
        let unknown: Vec<String> =
            self.classes.iter().filter(|class| number(class).is_none()).cloned().collect();
        ensure!(unknown.is_empty(), "{} has no class {}", place.display(), some_of(&unknown));
        let numbers: Vec<u32> =
            self.classes.iter().filter_map(number).map(|number| number as u32).collect();
        for (_, label) in &mut self.files {
            *label = label.map(|label| numbers[label as usize]);
        }
        self.classes = classes.to_vec();
        Ok(self)
    }

    /// The images as samples without targets.
    pub fn samples(&self) -> Vec<SampleFiles> {
        let sample = |(image, label): &(PathBuf, Option<u32>)| SampleFiles {
            image: image.clone(),
            targets: Vec::new(),
            label: *label,
        };
        self.files.iter().map(sample).collect()
    }
}

/// A few names, for people.
pub fn some_of(names: &[String]) -> String {
    let more = if names.len() > 5 { ", ..." } else { "" };
    names[..names.len().min(5)].join(", ") + more
}

/// Refuses splits in the place of classes, and warns of what is most likely not meant.
fn require_classes(folder: &Path, classes: &[String], are_flat: bool) -> Result<()> {
    // `train2017` is one, too.
    let is_split = |name: &String| {
        let name = name.to_ascii_lowercase();
        SPLITS.contains(&name.trim_end_matches(|c: char| c.is_ascii_digit() || "_-".contains(c)))
    };
    let first = classes.first().map_or("", String::as_str);
    ensure!(
        classes.is_empty() || !classes.iter().all(is_split),
        "{}: its folders are splits ({}), no classes; name one of them: {}",
        folder.display(),
        classes.join(", "),
        folder.join(first).display()
    );
    if !classes.is_empty() && !are_flat {
        warn!(
            "{}: no class folder ({first}, ...) holds an image itself, only folders that do: are these \
             the classes?",
            folder.display()
        );
    } else if classes.len() == 1 {
        warn!("{}: there is one class folder alone, {first}", folder.display());
    }
    Ok(())
}

/// A way through folders, and what was left out on it.
#[derive(Default)]
struct Walk {
    /// Device and number of every folder that was entered.
    entered: HashSet<(u64, u64)>,
    /// Images of kinds that are not read, by their ending.
    not_read: BTreeMap<String, usize>,
    /// What has an image's name and is no file, or cannot be looked at.
    no_files: Vec<PathBuf>,
    /// Folders that were met again.
    again: Vec<PathBuf>,
}

impl Walk {
    /// Whether the folder is met for the first time.
    fn enter(&mut self, folder: &Path) -> Result<bool> {
        let found = folder.metadata().with_context(|| folder.display().to_string())?;
        Ok(self.entered.insert((found.dev(), found.ino())))
    }

    /// Adds images anywhere below `folder`.
    fn collect(&mut self, folder: &Path, images: &mut Vec<PathBuf>) -> Result<()> {
        if !self.enter(folder)? {
            self.again.push(folder.to_path_buf());
            return Ok(());
        }
        for path in list(folder)? {
            match path.is_dir() {
                true => self.collect(&path, images)?,
                false => self.take(path, images),
            }
        }
        Ok(())
    }

    /// Adds a file that is an image, by its ending.
    fn take(&mut self, path: PathBuf, images: &mut Vec<PathBuf>) {
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
        let ending = ending.unwrap_or_default();
        let is_image = || -> std::io::Result<bool> {
            let mut beginning = [0; IMAGE_MARK];
            File::open(&path)?.read_exact(&mut beginning)?;
            Ok(begins_image(&beginning))
        };
        // A FIFO would be waited for without end.
        let is_other = !is_image_extension(&ending) && !TEXTS.contains(&&*ending);
        let is_file = || path.metadata().is_ok_and(|found| found.is_file());
        if NOT_READ.contains(&&*ending) || is_other && is_file() && is_image().unwrap_or(false) {
            *self.not_read.entry(ending).or_default() += 1;
        } else if is_image_extension(&ending) {
            match path.metadata().is_ok_and(|found| found.is_file()) {
                true => images.push(path),
                // A FIFO would be waited for without end.
                false => self.no_files.push(path),
            }
        }
    }

    fn tell(&self, folder: &Path) {
        let place = folder.display();
        if !self.not_read.is_empty() {
            warn!("{place}: {}", kinds_left_out(&self.not_read));
        }
        if let Some(first) = self.no_files.first() {
            warn!(
                "{place}: {} entries with names of images are no files and are left out, the first of \
                 them {}",
                self.no_files.len(),
                first.display()
            );
        }
        if let Some(first) = self.again.first() {
            warn!(
                "{place}: {} links lead to folders that are there already and are left out, the first of \
                 them {}",
                self.again.len(),
                first.display()
            );
        }
    }
}

/// Endings of files that are no images, whatever they begin with.
pub const TEXTS: [&str; 10] =
    ["cls", "csv", "html", "json", "jsonl", "md", "tar", "txt", "xml", "yaml"];

/// Bytes that [`begins_image`] looks at.
pub const IMAGE_MARK: usize = 12;

/// Whether a file that begins like this is an image of a kind that is read, whatever it is called.
pub fn begins_image(beginning: &[u8]) -> bool {
    let is_webp = beginning.starts_with(b"RIFF") && beginning.get(8..12) == Some(b"WEBP");
    is_webp || beginning.starts_with(b"\xff\xd8\xff") || beginning.starts_with(b"\x89PNG\r\n")
}

/// Says how many images of which kinds are not read.
pub fn kinds_left_out(counts: &BTreeMap<String, usize>) -> String {
    let count: usize = counts.values().sum();
    let kinds: Vec<String> = counts
        .iter()
        .map(|(ending, count)| match ending.as_str() {
            "" => format!("without ending {count}"),
            _ => format!(".{ending} {count}"),
        })
        .collect();
    format!("{count} images of kinds that are not read are left out: {}", kinds.join(", "))
}

/// Orders folders by their numbers, where all their names are whole numbers.
fn sort_numbers(folders: &mut [PathBuf]) {
    let number = |path: &PathBuf| name_of(path).parse::<u64>().ok();
    if folders.iter().all(|path| number(path).is_some()) {
        folders.sort_by_key(|path| number(path));
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The entries of a folder, sorted by name; hidden ones are left out.
///
/// # Errors
/// The folder cannot be read.
pub fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    let hidden = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
    };
    paths.retain(|path| !hidden(path));
    paths.sort();
    Ok(paths)
}

/// Whether `extension` is that of an image that is read, in any case.
pub fn is_image_extension(extension: &str) -> bool {
    READ.iter().any(|known| extension.eq_ignore_ascii_case(known))
}
