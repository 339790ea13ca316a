//! A recipe as TOML that people go on with.

use toml::Value;

use super::choice::Choice;
use super::images::FoundImages;
use super::models::Models;
use super::wishes::Wishes;
use crate::config::{DeviceChoice, Precision};
use crate::encoders::EncoderSpec;
use crate::weights::Preprocessing;

/// The configuration with a comment on each choice.
pub fn text(wishes: &Wishes, models: &Models, images: &FoundImages, choice: &Choice) -> String {
    let one = |(name, spec): &(&'static str, EncoderSpec)| student(name, spec, &models.teacher);
    let students: String = models.students.iter().map(one).collect();
    [
        run(wishes, choice),
        teacher(&wishes.teacher, models),
        students,
        data(models, images, choice),
        training(models, choice),
        knn(images),
    ]
    .concat()
}

fn run(wishes: &Wishes, choice: &Choice) -> String {
    let precision = match choice.precision {
        Precision::Bf16 => {
            "precision = \"bf16\" # matrix products; weights, losses and AdamW stay float32\n"
        }
        Precision::Fp32 => "",
    };
    let device = match wishes.device {
        DeviceChoice::Auto => String::new(),
        device => format!("device = \"{}\"\n", device.name()),
    };
    format!(
        "\
# Chosen for these images, encoders and this machine; not a published recipe. Change what you like:
# configs/reference.toml comments every key.
#
#   distill --config FILE            # run again, it goes on where it stopped
#   distill --config FILE --dry-run  # what it would do

seed = 0

[run]
dir = {}
{device}{precision}
",
        string(&wishes.dir.display().to_string())
    )
}

fn data(models: &Models, images: &FoundImages, choice: &Choice) -> String {
    let Choice { input_size, why_size, global_batch, batch, why_batch, .. } = choice;
    let global = match global_batch == batch {
        true => String::new(),
        false => {
            format!("# Images of a step over all processes.\nglobal_batch_size = {global_batch}\n")
        }
    };
    let pixels = match models.preprocessing == Preprocessing::IMAGENET {
        true => String::new(),
        false => format!(
            "# Of the teacher's preprocessor_config.json.\nmean = {:?}\nstd = {:?}\n",
            models.preprocessing.mean, models.preprocessing.std
        ),
    };
    format!(
        "\
[data]
shards = {}
# Pixels along each side: {why_size}.
input_size = {input_size}
{pixels}# Images of one pass of one process. {}.
batch_size = {batch}
{global}
",
        strings(&images.shards),
        sentence(why_batch)
    )
}

fn training(models: &Models, choice: &Choice) -> String {
    let (what, class) = match models.teacher.class_tokens {
        0 => ("Directions of patch tokens are compared: the teacher has no class token.", "none"),
        _ => (
            "Directions of tokens are compared, those of class tokens and of patches with equal weight, as in Pixio's recipe.",
            "cosine",
        ),
    };
    let Choice { epochs, learning_rate, .. } = choice;
    format!(
        "\
# {what}
[loss]
class = \"{class}\"
patch = \"cosine\"
fuse = \"avg\"

[optimizer]
# 1e-3 for a step of 256 images and more; of smaller ones, by the square root of their images.
learning_rate = {learning_rate:e}
min_learning_rate = 0.0
betas = [0.9, 0.95]
weight_decay = 0.05

[schedule]
# {}.
epochs = {epochs:?}
warmup_epochs = {:?}
steps_per_epoch = {} # a pass over the images

[checkpoint]
every = {}
keep = 3

[log]
every = {}
",
        sentence(&choice.why_epochs),
        epochs / 10.0,
        choice.steps_per_epoch,
        choice.checkpoint_every,
        choice.log_every,
    )
}

fn teacher(weights: &str, models: &Models) -> String {
    let model = match models.is_undeclared {
        true => format!("model = {}\n", model(&models.teacher)),
        false => "# What it is, its config.json says.\n".into(),
    };
    format!("[teacher]\n{model}weights = {}\n\n", string(weights))
}

/// A published name, or all numbers.
fn model(spec: &EncoderSpec) -> String {
    let value = Value::try_from(spec).map(|value| value.to_string());
    spec.name().map(string).or(value.ok()).unwrap_or_default()
}

fn student(name: &str, spec: &EncoderSpec, teacher: &EncoderSpec) -> String {
    let name = string(name);
    let loss = match teacher.class_tokens > 0 && spec.class_tokens == 0 {
        true => "loss = { class = \"none\" } # it has no class token\n",
        false => "",
    };
    format!("[[students]]\nname = {name}\nmodel = {name}\ndrop_path = 0.1\n{loss}\n")
}

fn knn(images: &FoundImages) -> String {
    match (images.held_out.is_empty(), images.are_labelled) {
        (false, _) => format!(
            "\n# How well class tokens tell classes: measured at the end, of drawn and distilled students and the teacher.\n\
             [evaluation.knn]\nreference = {}\nheld_out = {}\n{}",
            strings(&images.shards),
            strings(&images.held_out),
            neighbours(images.samples)
        ),
        (true, true) => "\n# With images that are held out, [evaluation.knn] would measure what was learned:\n\
             # --held-out names them.\n"
            .into(),
        (true, false) => "\n# Images with classes, in folders of their names, let [evaluation.knn] measure what was learned.\n".into(),
    }
}

/// The usual numbers of neighbours, where there are so many images.
fn neighbours(samples: u64) -> String {
    const USUAL: [u64; 4] = [10, 20, 100, 200];
    if samples >= USUAL[3] {
        return String::new();
    }
    let few: Vec<u64> = USUAL.into_iter().filter(|&count| count <= samples).collect();
    format!("neighbours = {:?}\n", if few.is_empty() { vec![1] } else { few })
}

fn string(text: &str) -> String {
    Value::String(text.into()).to_string()
}

fn strings(texts: &[String]) -> String {
    Value::Array(texts.iter().map(|text| Value::String(text.clone())).collect()).to_string()
}

/// With a capital letter in front.
fn sentence(words: &str) -> String {
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
