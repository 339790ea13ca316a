//! A small training run in a temporary folder, and the program that works on it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

use super::device::{device_name, program};

/// A folder with shards, a config, and whatever a test does to them.
pub struct Workshop {
    folder: TempDir,
}

/// Two students of a random teacher on 32-pixel crops: eight steps of four images.
const CONFIG: &str = r#"
[run]
dir = "run"
device = "cpu"
[teacher]
model = { dim = 48, depth = 2, heads = 4, patch_size = 8 }
weights = "random"
[[students]]
name = "one"
model = { dim = 32, depth = 2, heads = 2, patch_size = 8 }
mask_ratio = 0.5
mask_grid = 2
drop_path = 0.2
[[students]]
name = "two"
model = { dim = 16, depth = 1, heads = 2, patch_size = 8 }
[data]
shards = ["shards/*.tar"]
input_size = 32
batch_size = 2
global_batch_size = 4
workers = 2
[optimizer]
learning_rate = 1e-2
[schedule]
epochs = 4
warmup_epochs = 1
steps_per_epoch = 2
[checkpoint]
every = 2
[log]
every = 1
"#;

/// What pre-training has in the place of teacher and students.
const AUTOENCODER: &str = r#"
[encoder]
model = { dim = 32, depth = 2, heads = 2, patch_size = 8 }
mask_grid = 1
drop_path = 0.2
[decoder]
dim = 16
depth = 2
heads = 2
[reconstructions]
every = 4
samples = 3
"#;

/// The configuration for the device under test.
fn on_device(config: &str) -> String {
    config.replace("\"cpu\"", &format!("{:?}", device_name()))
}

impl Workshop {
    /// [`Self::new`] with a config of pre-training beside the other, as `pretrain.toml`.
    pub fn pretraining() -> Self {
        let workshop = Self::new();
        let (run, rest) = CONFIG.split_once("[teacher]").unwrap();
        let (_, data) = rest.split_once("[data]").unwrap();
        let config = format!("{run}{AUTOENCODER}[data]{data}").replace("\"run\"", "\"pre\"");
        fs::write(workshop.path("pretrain.toml"), on_device(&config)).unwrap();
        workshop
    }

    /// `distill pretrain --config pretrain.toml` with these `--set` overrides.
    pub fn pretrain(&self, overrides: &[&str]) -> Finished {
        Finished::of(self.pretraining_command(overrides).output().unwrap())
    }

    /// The command behind [`Self::pretrain`].
    pub fn pretraining_command(&self, overrides: &[&str]) -> Command {
        let mut command = self.command(&["pretrain", "--config", "pretrain.toml"]);
        for text in overrides {
            command.args(["--set", text]);
        }
        command
    }

    /// A fresh folder with the standard config and two shards of ten images each.
    pub fn new() -> Self {
        let workshop = Self { folder: tempfile::tempdir().unwrap() };
        fs::write(workshop.path("config.toml"), on_device(CONFIG)).unwrap();
        fs::create_dir(workshop.path("shards")).unwrap();
        for shard in 0..2 {
            let images: Vec<_> =
                (0..10).map(|i| (format!("{shard}{i}.jpg"), image(shard * 10 + i))).collect();
            workshop.shard(&format!("shards/{shard}.tar"), &images);
        }
        workshop
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a tar of these members.
    pub fn shard(&self, name: &str, members: &[(String, Vec<u8>)]) {
        let mut tar = tar::Builder::new(File::create(self.path(name)).unwrap());
        for (member, bytes) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, member, &bytes[..]).unwrap();
        }
        tar.finish().unwrap();
    }

    /// The program in this folder, with these arguments.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        command.env_remove("RUST_LOG").env("RUST_BACKTRACE", "1");
        command
    }

    /// `distill --config config.toml` with these `--set` overrides.
    pub fn train(&self, overrides: &[&str]) -> Finished {
        Finished::of(self.training(overrides).output().unwrap())
    }

    /// The command behind [`Self::train`].
    pub fn training(&self, overrides: &[&str]) -> Command {
        let mut command = self.command(&["--config", "config.toml"]);
        for text in overrides {
            command.args(["--set", text]);
        }
        command
    }

    /// The same in the background, unheard.
    pub fn start(&self, overrides: &[&str]) -> Child {
        let mut command = self.training(overrides);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Bytes of every tensor file of a checkpoint, by name.
    pub fn checkpoint(&self, run: &str, step: u64) -> Vec<(String, Vec<u8>)> {
        let folder = self.path(run).join(format!("checkpoints/step-{step}"));
        let mut files: Vec<_> = fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "safetensors"))
            .map(|path| (file_name(&path), fs::read(&path).unwrap()))
            .collect();
        files.sort();
        files
    }

    /// Steps of the checkpoints that a run has, ascending; leftovers of broken saves included.
    pub fn checkpoints(&self, run: &str) -> Vec<String> {
        let folder = self.path(run).join("checkpoints");
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| file_name(&entry.unwrap().path())).collect();
        names.sort();
        names
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// A 48×40 JPEG with a pattern of its own.
pub fn image(seed: u32) -> Vec<u8> {
    let image = image::RgbImage::from_fn(48, 40, |x, y| {
        let wave = |phase: u32| ((x * (seed % 5 + 1) + y * (seed % 7) + phase * 50) % 256) as u8;
        image::Rgb([wave(0), wave(seed), wave(2 * seed + 1)])
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Jpeg).unwrap();
    bytes.into_inner()
}

/// What a command left behind.
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// It ended well.
    #[track_caller]
    pub fn succeeds(self) -> Self {
        assert_eq!(self.code, Some(0), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// It ended with `code` and one error line that holds all of `parts`, and nothing that only
    /// a programmer understands.
    #[track_caller]
    pub fn fails(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        let errors: Vec<_> =
            self.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "one error line in: {}", self.stderr);
        for part in parts {
            assert!(errors[0].contains(part), "`{part}` is not in: {}", errors[0]);
        }
        for noise in ["panicked", "backtrace", "what()", "Exception raised", "src/"] {
            assert!(!self.stderr.contains(noise), "`{noise}` is in: {}", self.stderr);
        }
        self
    }
}

/// A workshop whose images take long to decode, so that a kill hits a worker at work.
pub fn slow_images() -> Workshop {
    let workshop = Workshop::new();
    let image = |seed: u32| {
        let image = image::RgbImage::from_fn(1600, 1200, |x, y| {
            image::Rgb([(x * seed / 7) as u8, (y / 3 + seed) as u8, (x ^ y) as u8])
        });
        let mut bytes = std::io::Cursor::new(Vec::new());
        image.write_to(&mut bytes, image::ImageFormat::Jpeg).unwrap();
        bytes.into_inner()
    };
    let images: Vec<_> = (0..12).map(|i| (format!("{i}.jpg"), image(i + 3))).collect();
    workshop.shard("shards/0.tar", &images[..6]);
    workshop.shard("shards/1.tar", &images[6..]);
    workshop
}

/// A workshop with shards of two classes, and the table that has them classified.
pub fn labelled() -> (Workshop, [String; 2]) {
    let workshop = Workshop::pretraining();
    for (shard, count) in [("many", 12), ("few", 6)] {
        let members: Vec<_> = (0..count)
            .flat_map(|i| {
                let class = (i % 2).to_string().into_bytes();
                let seed = if i % 2 == 0 { 3 * i } else { 100 + 7 * i };
                [(format!("{i}.jpg"), image(seed)), (format!("{i}.cls"), class)]
            })
            .collect();
        workshop.shard(&format!("shards/{shard}.tar"), &members);
    }
    let knn = "evaluation.knn={ reference = [\"shards/many.tar\"], \
               held_out = [\"shards/few.tar\"], neighbours = [1, 3] }";
    let data = "data.shards=[\"shards/0.tar\", \"shards/1.tar\"]";
    (workshop, [knn, data].map(str::to_string))
}
