//! [`TensorFile`]: a file of tensors of any names, such as an optimizer's state.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tch::Tensor;

use super::container::Container;

/// An opened tensor file, mapped, of which only the header has been read.
pub struct TensorFile {
    path: PathBuf,
    container: Container,
}

impl TensorFile {
    /// Opens a safetensors file.
    ///
    /// # Errors
    /// The file is missing, damaged, or of another form.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_path_buf(), container: Container::open(path)? })
    }

    /// Overwrites each of `targets` with the tensor of its name.
    ///
    /// # Errors
    /// Names or shapes differ; nothing has been copied then.
    pub fn copy_into(&self, targets: &[(String, Tensor)]) -> Result<()> {
        let stored = &self.container.tensors;
        for (name, target) in targets {
            let piece = stored
                .get(name)
                .with_context(|| format!("{} has no tensor {name}", self.path.display()))?;
            ensure!(
                piece.shape == target.size(),
                "{}: {name} is {:?}, expected {:?}",
                self.path.display(),
                piece.shape,
                target.size()
            );
        }
        ensure!(
            stored.len() == targets.len(),
            "{} has {} tensors, expected {}",
            self.path.display(),
            stored.len(),
            targets.len()
        );
        for (name, target) in targets {
            let tensor = stored[name].read(&self.container.files)?;
            tch::no_grad(|| target.shallow_clone().f_copy_(&tensor))
                .with_context(|| format!("{}: {name}", self.path.display()))?;
        }
        Ok(())
    }
}
