//! Writing shards that appear under their names only when all of them are whole.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::source::Sample;

/// Writes samples to `PREFIX-000000.tar`, ... in a hidden folder beside their final place, and
/// moves them there at the end.
pub(super) struct ShardWriter {
    out: PathBuf,
    staging: PathBuf,
    prefix: String,
    shard_samples: usize,
    current: Option<tar::Builder<BufWriter<File>>>,
    shards: Vec<String>,
    samples: u64,
}

impl ShardWriter {
    /// Prepares `out`. What an interrupted packing left there is removed.
    ///
    /// # Errors
    /// `out` cannot be written, or has shards of this prefix already.
    pub(super) fn create(out: &Path, prefix: &str, shard_samples: usize) -> Result<Self> {
        let staging = out.join(format!(".{prefix}.packing"));
        ensure!(
            !out.join(shard_name(prefix, 0)).exists(),
            "{}: has shards named {prefix}-*.tar already; remove them, or give another --out or \
             --prefix",
            out.display()
        );
        if staging.exists() {
            std::fs::remove_dir_all(&staging).with_context(|| staging.display().to_string())?;
        }
        std::fs::create_dir_all(&staging)
            .with_context(|| format!("{}: cannot be made", out.display()))?;
        Ok(Self {
            out: out.to_path_buf(),
            staging,
            prefix: prefix.to_string(),
            shard_samples,
            current: None,
            shards: Vec::new(),
            samples: 0,
        })
    }

    /// Samples written so far.
    pub(super) fn samples(&self) -> u64 {
        self.samples
    }

    /// Appends a sample: its image member and, if it has a label, its `.cls` member.
    pub(super) fn add(&mut self, sample: &Sample) -> Result<()> {
        let out = self.out.display().to_string();
        if self.samples.is_multiple_of(self.shard_samples as u64) {
            self.close().with_context(|| out.clone())?;
            let name = shard_name(&self.prefix, self.shards.len());
            let file = File::create(self.staging.join(&name)).with_context(|| out.clone())?;
            self.current = Some(tar::Builder::new(BufWriter::with_capacity(1 << 20, file)));
            self.shards.push(name);
        }
        let Some(shard) = &mut self.current else { return Ok(()) };
        let key = match sample.name.as_str() {
            "" => format!("{:08}", self.samples),
            name => format!("{:08}-{name}", self.samples),
        };
        append(shard, &format!("{key}.{}", sample.extension), &sample.bytes)
            .with_context(|| out.clone())?;
        if let Some(label) = sample.label {
            append(shard, &format!("{key}.cls"), label.to_string().as_bytes()).context(out)?;
        }
        self.samples += 1;
        Ok(())
    }

    fn close(&mut self) -> std::io::Result<()> {
        if let Some(shard) = self.current.take() {
            let mut buffer = shard.into_inner()?;
            buffer.flush()?;
            buffer.get_ref().sync_all()?;
        }
        Ok(())
    }

    /// Moves the shards to their place and gives their paths and bytes.
    pub(super) fn finish(mut self) -> Result<(Vec<PathBuf>, u64)> {
        self.close().with_context(|| self.out.display().to_string())?;
        let mut paths = Vec::new();
        let mut bytes = 0;
        for name in &self.shards {
            let path = self.out.join(name);
            std::fs::rename(self.staging.join(name), &path)
                .with_context(|| path.display().to_string())?;
            bytes += path.metadata()?.len();
            paths.push(path);
        }
        Ok((paths, bytes))
    }
}

impl Drop for ShardWriter {
    fn drop(&mut self) {
        // After `finish` it is empty; after an error what is in it is of no use.
        let _ = std::fs::remove_dir_all(&self.staging);
    }
}

fn shard_name(prefix: &str, number: usize) -> String {
    format!("{prefix}-{number:06}.tar")
}

fn append(shard: &mut tar::Builder<impl Write>, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_mtime(0); // the same source gives the same bytes
    header.set_size(bytes.len() as u64);
    shard.append_data(&mut header, name, bytes)
}
