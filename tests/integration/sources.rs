//! Shards behind URLs, from real servers: moto's S3, and an HTTP server that fails on request.

mod faults;
mod s3;
mod sharing;
mod tls;
mod training;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use distill::config::DataConfig;
use distill::data::source::{ShardAddress, Sources, Transfer};
use tempfile::TempDir;

use crate::support::python::python;

/// Bytes that differ everywhere, so that a piece in a wrong place shows.
pub fn content(length: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
    bytes
}

/// A running Python server over a folder, which ends with this.
pub struct Server {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    pub address: String,
    pub folder: TempDir,
}

impl Server {
    /// Starts `script` of `tests/python`, with flags after spaces, over a folder with `files`.
    pub fn start(script: &str, files: &[(&str, &[u8])]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        let mut words = script.split(' ');
        let mut command = python(words.next().unwrap());
        command.arg(folder.path()).args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let input = process.stdin.take();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut address = String::new();
        output.read_line(&mut address).unwrap();
        assert!(address.starts_with("http"), "{script} did not start");
        Self { process, input, output, address: address.trim().to_string(), folder }
    }

    /// Says a line to the server and waits for its answer.
    pub fn tell(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
        self.output.read_line(&mut String::new()).unwrap();
    }

    /// The address of `path` on the server.
    pub fn shard(&self, path: &str) -> ShardAddress {
        ShardAddress::Url(format!("{}/{path}", self.address))
    }

    /// The `GET`s of files so far, as `path range`.
    pub fn log(&self) -> Vec<String> {
        let host = self.address.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(host).unwrap();
        write!(stream, "GET /log HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        body.lines().map(str::to_string).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.input.take()); // it ends with its input
        _ = self.process.wait();
    }
}

/// A process that runs the ignored test `part` of this program's `sources`, without the variables
/// that S3 is set up by.
pub fn process(part: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AWS_") {
            command.env_remove(name);
        }
    }
    command.args(["--exact", &format!("sources::{part}"), "--ignored", "--nocapture"]);
    command
}

/// Runs such a process, which has to succeed.
pub fn succeeds(command: &mut Command) {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{command:?}: {text}");
}

/// A variable that such a process was started with.
pub fn variable(name: &str) -> String {
    std::env::var(name).expect("run by another test")
}

/// Small pieces and short waits, so that tests meet many of them.
pub fn brisk() -> Transfer {
    Transfer {
        piece_bytes: 64 << 10,
        patience: Duration::from_millis(700),
        retries: 4,
        first_delay: Duration::from_millis(10),
        longest_delay: Duration::from_millis(40),
        background: 4,
        queue: 64,
    }
}

/// Sources with brisk transfers and a cache of `bytes` in `folder`.
pub fn sources(folder: &Path, bytes: u64) -> Sources {
    let config = DataConfig {
        cache_dir: Some(folder.to_path_buf()),
        cache_gigabytes: bytes as f64 / 1e9,
        ..DataConfig::minimal(Vec::new())
    };
    Sources::with_transfer(&config, brisk()).unwrap()
}

/// The bytes of `range`, by way of the cache.
pub fn read(sources: &Sources, shard: &ShardAddress, range: Range<u64>) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    sources.read(shard, sources.stamp(shard)?, range, &mut bytes)?;
    Ok(bytes)
}

/// Files below `folder` with their sizes.
pub fn files_below(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map_while(Result::ok) {
        // A file may go while others work in the folder.
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            found.extend(files_below(&entry.path()));
        } else {
            found.push((entry.path(), metadata.len()));
        }
    }
    found
}
