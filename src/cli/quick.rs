//! `distill quick` and `distill init`: a recipe without a configuration of one's own.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use clap::Args;
use dialoguer::Input;
use tracing::info;

use super::exit::DONE;
use super::launch;
use super::output::print;
use super::train::{self, TrainArgs};
use crate::artifacts::paths;
use crate::config::{ConfigError, DeviceChoice};
use crate::durable;
use crate::run::recipe::{Recipe, Wishes, recipe};
use crate::tasks;
use crate::tasks::distill::DistillConfig;

/// What a recipe is made from.
#[derive(Debug, Args)]
struct RecipeArgs {
    /// Folders of images, as they lie or with folders of classes or train/ and val/ in them; folders or patterns of
    /// tar shards
    #[arg(long, num_args = 1.., value_name = "PATH")]
    images: Vec<String>,
    /// The same, of images that no student sees: k-NN measures with them what was learned [default: val/ beside
    /// train/]
    #[arg(long, num_args = 1.., value_name = "PATH")]
    held_out: Vec<String>,
    /// Weights of the teacher: a Hugging Face folder, a .safetensors or .pth file
    #[arg(long, value_name = "PATH")]
    teacher: Option<String>,
    /// Students by their published names, or the ends of these: vits16, dinov3_vitb16, ...
    #[arg(long, value_delimiter = ',', value_name = "NAME,NAME")]
    student: Vec<String>,
    /// Passes over the images [default: 100 on GPUs, an hour's on a CPU]
    #[arg(long, value_name = "N")]
    epochs: Option<f64>,
    /// Images of a step on all GPUs together [default: by images and memory]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    batch: Option<u32>,
    /// Pixels along each side of the images [default: by the teacher, at most 256]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 13))]
    input_size: Option<u32>,
    /// Where to train
    #[arg(long, value_enum, default_value_t)]
    device: DeviceChoice,
}

/// Distil a teacher into students, from images as they lie: no configuration, no packing
///
/// Chooses a recipe for the images, the encoders and this machine, writes it to DIR/recipe.toml with the reason for
/// each number, and trains by it: in a process for each GPU where there are several. The same command goes on
/// where it stopped. What does not suit is changed in DIR/recipe.toml; `distill --config DIR/recipe.toml` then
/// goes on.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: distill quick --images photos --teacher checkpoints/dinov3_vitl16 --student vits16 --out runs/mine"
)]
pub struct QuickArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Directory of the run
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Write and print the recipe, and stop
    #[arg(long)]
    dry_run: bool,
}

/// Write a configuration for images, a teacher and students, to change and train by
///
/// What is not given is asked for, at a terminal. Each number that is chosen has its reason beside it.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: distill init mine.toml --images photos --teacher checkpoints/dinov3_vitl16 --student vits16"
)]
pub struct InitArgs {
    /// File to write
    #[arg(default_value = "distill.toml", value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Directory of the run [default: runs/NAME, NAME being the file's]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Write over a file that is there
    #[arg(long)]
    force: bool,
}

impl RecipeArgs {
    fn wishes(self, dir: PathBuf) -> Wishes {
        let number = |number: Option<u32>| number.map(|number| number as usize);
        Wishes {
            images: self.images,
            held_out: self.held_out,
            teacher: self.teacher.unwrap_or_default(),
            students: self.student,
            dir,
            epochs: self.epochs,
            batch: number(self.batch),
            input_size: number(self.input_size),
            device: self.device,
        }
    }

    /// Asks for what is missing, where somebody can answer.
    ///
    /// # Errors
    /// Nobody can.
    fn ask(&mut self) -> Result<()> {
        let answer = |flag: &str, question: &str| -> Result<String> {
            if !std::io::stdin().is_terminal() {
                return Err(missing(flag));
            }
            Ok(Input::new().with_prompt(question).interact_text()?)
        };
        if self.images.is_empty() {
            self.images = vec![answer("--images", "Images: a folder, or a pattern of shards")?];
        }
        if self.teacher.is_none() {
            self.teacher = Some(answer("--teacher", "Teacher: its weights")?);
        }
        if self.student.is_empty() {
            let names = answer("--student", "Students, such as vits16,vitb16")?;
            self.student = names.split(',').map(|name| name.trim().to_string()).collect();
        }
        Ok(())
    }
}

fn missing(flag: &str) -> anyhow::Error {
    wrong(flag, "is missing".into())
}

fn wrong(key: &str, message: String) -> anyhow::Error {
    ConfigError { file: PathBuf::new(), key: key.into(), message }.into()
}

/// What stands in front of the recipe's text: the command that it was made by.
fn origin(command: &str, wishes: &Wishes) -> Result<String> {
    let Wishes { images, held_out, teacher, students, dir, device, .. } = wishes;
    let dir = dir.display().to_string();
    let students = students.join(",");
    let mut words = vec!["distill", command, "--images"];
    words.extend(images.iter().map(String::as_str));
    if !held_out.is_empty() {
        words.push("--held-out");
        words.extend(held_out.iter().map(String::as_str));
    }
    words.extend(["--teacher", teacher, "--student", &students, "--out", &dir]);
    let choices = [
        ("--epochs", wishes.epochs.map(|epochs| epochs.to_string())),
        ("--batch", wishes.batch.map(|batch| batch.to_string())),
        ("--input-size", wishes.input_size.map(|size| size.to_string())),
        ("--device", (*device != DeviceChoice::Auto).then(|| device.name().to_string())),
    ];
    let given = choices.iter().filter_map(|(flag, value)| Some([*flag, value.as_deref()?]));
    words.extend(given.flatten());
    let joined = shlex::try_join(words).map_err(|error| anyhow!("a path: {error}"))?;
    Ok(format!("# {}\n", joined.replace('\n', " ")))
}

/// The recipe of `wishes`, begun with the command, in the words of a person.
fn chosen(command: &str, wishes: &Wishes) -> Result<(String, Recipe)> {
    let recipe = recipe(wishes)?;
    let text = origin(command, wishes)? + &recipe.text;
    Ok((text, recipe))
}

fn table(said: &[(&'static str, String)]) -> String {
    said.iter().map(|(what, words)| format!("{what:<10} {words}\n")).collect()
}

/// Writes a recipe, and whether a configuration is read from it as it is.
fn write(file: &Path, text: &str) -> Result<()> {
    if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    durable::write(file, text.as_bytes())?;
    tasks::load_as::<DistillConfig>(file, &[])?;
    Ok(())
}

/// Runs `distill init`.
pub fn init(args: InitArgs) -> Result<()> {
    let InitArgs { file, mut recipe, out, force } = args;
    if file.exists() && !force {
        return Err(wrong(
            &file.display().to_string(),
            "is there already; name another file, or --force writes over it".into(),
        ));
    }
    recipe.ask()?;
    let name = file.file_stem().unwrap_or_default();
    let dir = out.unwrap_or_else(|| Path::new("runs").join(name));
    let (text, chosen) = chosen("init", &recipe.wishes(dir))?;
    write(&file, &text)?;
    let launch = match chosen.processes {
        1 => String::new(),
        _ => "launch -- ".into(),
    };
    print(&format!(
        "{}\nwrote {}; next:\n  distill {launch}--config {}\n",
        table(&chosen.said),
        file.display(),
        file.display()
    ))
}

/// Runs `distill quick`.
pub fn run(args: QuickArgs) -> Result<u8> {
    let QuickArgs { mut recipe, out, dry_run } = args;
    recipe.ask()?;
    let wishes = recipe.wishes(out.clone());
    let file = paths::recipe(&out);
    let begun = std::fs::read_to_string(&file).ok();
    let processes = match begun {
        Some(text) if text.starts_with(&origin("quick", &wishes)?) => {
            info!("going on by {}", file.display());
            crate::run::recipe::processes(wishes.device)?
        }
        Some(text) => {
            let before = text.lines().next().unwrap_or_default().trim_start_matches("# ");
            return Err(wrong(
                &file.display().to_string(),
                format!(
                    "is there already, by `{before}`: that command or `distill --config {}` goes on; another --out \
                     begins anew",
                    file.display()
                ),
            ));
        }
        None => {
            let (text, chosen) = chosen("quick", &wishes)?;
            write(&file, &text)?;
            print(&format!("{}recipe     {}\n\n", table(&chosen.said), file.display()))?;
            chosen.processes
        }
    };
    if dry_run {
        return Ok(DONE);
    }
    match processes {
        1 => train::run(&TrainArgs::of(file)),
        _ => launch::run(launch::LaunchArgs::of(&["--config".as_ref(), file.as_os_str()])),
    }
}
