//! Folders of images; sub-folders are classes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::bundle::SampleFiles;

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
    /// below each of its folders have the folder's number, in sorted order, as label.
    ///
    /// # Errors
    /// The folder cannot be read, or there are images of both kinds.
    pub fn find(folder: &Path) -> Result<Self> {
        let (folders, files): (Vec<_>, Vec<_>) =
            list(folder)?.into_iter().partition(|path| path.is_dir());
        let mut files: Vec<_> =
            files.into_iter().filter(|file| is_image(file)).map(|file| (file, None)).collect();
        let unlabelled = files.len();
        let mut classes = Vec::new();
        for class in folders {
            let mut images = Vec::new();
            collect(&class, &mut images)?;
            if !images.is_empty() {
                let label = Some(classes.len() as u32);
                files.extend(images.into_iter().map(|file| (file, label)));
                classes.push(class.file_name().unwrap_or_default().to_string_lossy().into_owned());
            }
        }
        ensure!(
            classes.is_empty() || unlabelled == 0,
            "{}: has {unlabelled} images of its own beside folders of images; either all images lie \
             in class folders or none does",
            folder.display()
        );
        Ok(Self { files, classes })
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

/// Whether `extension` is an image's, in any case.
pub fn is_image_extension(extension: &str) -> bool {
    ["jpg", "jpeg", "png", "webp"].iter().any(|known| extension.eq_ignore_ascii_case(known))
}

fn is_image(path: &Path) -> bool {
    path.extension().is_some_and(|extension| is_image_extension(&extension.to_string_lossy()))
}

fn collect(folder: &Path, images: &mut Vec<PathBuf>) -> Result<()> {
    for path in list(folder)? {
        if path.is_dir() {
            collect(&path, images)?;
        } else if is_image(&path) {
            images.push(path);
        }
    }
    Ok(())
}
