//! Names of classes, where a packing has left them beside its shards.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, ensure};

use super::Dataset;
use crate::labels::class_list;
use crate::source::ShardAddress;

/// What a packing of class folders writes beside its shards: the classes in the order of their labels.
pub const CLASSES: &str = "classes.json";

impl Dataset {
    /// The names of its classes in the order of their labels, as they stand beside its shards, or as its class
    /// folders are called; none where nothing says.
    ///
    /// # Errors
    /// A list is damaged, or shards lie beside lists that differ.
    pub fn class_names(&self) -> Result<Option<Vec<String>>> {
        let folder = |number| match self.shard(number) {
            ShardAddress::File(path) => path.parent().map(Path::to_path_buf),
            ShardAddress::Url(_) | ShardAddress::Bundle(_) => None,
        };
        let folders: BTreeSet<_> = (0..self.shard_count()).filter_map(folder).collect();
        let mut found: Option<Vec<String>> = None;
        for number in 0..self.shard_count() {
            if let ShardAddress::Bundle(bundle) = self.shard(number)
                && !bundle.classes().is_empty()
            {
                let names = found.get_or_insert_with(|| bundle.classes().to_vec());
                ensure!(
                    *names == bundle.classes(),
                    "{}: has other class folders than the folders before it",
                    bundle.name()
                );
            }
        }
        for path in folders.into_iter().map(|folder| folder.join(CLASSES)) {
            let Ok(text) = std::fs::read(&path) else { continue };
            let names = class_list(&path, &text)?;
            let before = found.get_or_insert_with(|| names.clone());
            ensure!(
                *before == names,
                "{}: numbers other classes than the shards before it",
                path.display()
            );
        }
        Ok(found)
    }
}
