//! What of a folder is for training, and what is held out.

use std::path::Path;

use anyhow::Result;

use super::class_folder::list;

/// Names of folders and beginnings of shards' names that are for training, and that are held out, the best first.
const TRAINING: [&str; 2] = ["train", "training"];
const HELD_OUT: [&str; 6] = ["val", "valid", "validation", "test", "testing", "eval"];

/// The parts of a folder, each as `data.shards` takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Splits {
    pub training: String,
    pub held_out: Option<String>,
}

impl Splits {
    /// Looks into `folder`: for folders or shards called `train` and `val`, or what else they are usually called;
    /// else for shards; else its images are meant.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn of(folder: &Path) -> Result<Self> {
        let entries = list(folder)?;
        let folders = || entries.iter().filter(|path| path.is_dir());
        let folder_of = |names: &[&str]| {
            let mut found =
                names.iter().filter_map(|name| folders().find(|path| stem(path) == *name));
            found.next().map(|path| shards_or_images(path)).transpose()
        };
        if let Some(training) = folder_of(&TRAINING)? {
            return Ok(Self { training, held_out: folder_of(&HELD_OUT)? });
        }
        let pattern_of = |names: &[&str]| {
            let is_there =
                |name: &&&str| entries.iter().any(|path| is_tar(path) && stem(path) == **name);
            let found = names.iter().find(is_there)?;
            Some(folder.join(format!("{found}[-_.0-9]*tar")).display().to_string())
        };
        Ok(match pattern_of(&TRAINING) {
            Some(training) => Self { training, held_out: pattern_of(&HELD_OUT) },
            None => Self { training: shards_or_images(folder)?, held_out: None },
        })
    }
}

/// The folder's shards where it has any, else itself.
fn shards_or_images(folder: &Path) -> Result<String> {
    let has_shards = list(folder)?.iter().any(|path| is_tar(path));
    let path = if has_shards { folder.join("*.tar") } else { folder.to_path_buf() };
    Ok(path.display().to_string())
}

fn is_tar(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "tar")
}

/// The name of a split: `train` of `train`, `Train2017` and `train-000012.tar`.
fn stem(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let name = name.strip_suffix(".tar").unwrap_or(&name);
    name.trim_end_matches(|c: char| c.is_ascii_digit() || "_-.".contains(c)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn splits(files: &[&str]) -> (String, Option<String>) {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let Splits { training, held_out } = Splits::of(folder.path()).unwrap();
        let own = format!("{}/", folder.path().display());
        let short = |text: String| text.strip_prefix(&own).map_or(text.clone(), str::to_string);
        let root = folder.path().display().to_string();
        (if training == root { ".".into() } else { short(training) }, held_out.map(short))
    }

    #[test]
    fn splits_are_told_from_classes() {
        let held_out = |text: &str| Some(text.to_string());
        assert_eq!(splits(&["cat/0.jpg", "dog/1.jpg"]), (".".into(), None));
        assert_eq!(splits(&["0.jpg"]), (".".into(), None));
        assert_eq!(
            splits(&["train/cat/0.jpg", "val/cat/1.jpg"]),
            ("train".into(), held_out("val"))
        );
        assert_eq!(
            splits(&["Train2017/0.jpg", "test/1.jpg"]),
            ("Train2017".into(), held_out("test"))
        );
        assert_eq!(splits(&["train/a.jpg", "val/1.jpg", "test/2.jpg"]).1, held_out("val"));
        assert_eq!(splits(&["a.tar", "b.tar"]), ("*.tar".into(), None));
        assert_eq!(
            splits(&["train/a.tar", "val/b.tar"]),
            ("train/*.tar".into(), held_out("val/*.tar"))
        );
        let shards = splits(&["train-0.tar", "train-1.tar", "val-0.tar"]);
        assert_eq!(shards, ("train[-_.0-9]*tar".into(), held_out("val[-_.0-9]*tar")));
    }
}
