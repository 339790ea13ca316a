//! What the `config.toml` of a run says, whatever was trained.
//!
//! It is read as a table and not as a run's configuration, so that a page can be made of any run: of
//! every task, and of those that an older or a newer version has begun.

use serde::Deserialize;
use toml::{Table, Value};

use crate::artifacts::RunLength;
use crate::encoders::EncoderSpec;
use crate::nn::{Parameters, Storage};
use crate::tasks::TASKS;

/// What a page calls a training of heads, and its parts with the keys of their tables.
const TRAINING_OF_HEADS: &str = "Heads on a frozen encoder";
const FROZEN: (&str, &str) = ("frozen encoder", "encoder");
const HEADS: (&str, &str) = ("head", "heads");

/// What is to be trained, and for how long.
#[derive(Debug)]
pub struct Plan {
    /// What the run does, such as distillation.
    pub task: &'static str,
    pub models: Vec<Model>,
    /// Whether encoders come out of it, rather than heads on a frozen one.
    pub trains_encoders: bool,
    /// Side of the crops, in pixels.
    pub input_size: Option<i64>,
    /// Number format of matrix products.
    pub precision: Option<String>,
    length: RunLength,
}

/// One of the networks of a run.
#[derive(Debug)]
pub struct Model {
    /// Its part in the run, such as `student`.
    pub role: &'static str,
    pub name: Option<String>,
    pub size: String,
    /// Number of parameters; not known of a decoder.
    pub parameters: Option<u64>,
    /// The other keys of its table.
    pub settings: String,
}

impl Plan {
    /// Reads the text of a `config.toml`.
    pub fn read(text: &str) -> Result<Self, toml::de::Error> {
        let config: Table = text.parse()?;
        let value = |table: &str, key: &str| config.get(table)?.get(key).cloned();
        let input_size = value("data", "input_size").and_then(|image_size| image_size.as_integer());
        let mut models = Vec::new();
        let trains_encoders = !config.contains_key(HEADS.1);
        let of_tasks = TASKS.iter().flat_map(|task| task.networks).filter(|_| trains_encoders);
        let of_heads = [FROZEN, HEADS].into_iter().filter(|_| !trains_encoders);
        for (role, key) in of_tasks.copied().chain(of_heads) {
            let tables = match config.get(key) {
                Some(Value::Array(tables)) => &tables[..],
                table => table.map_or(&[][..], std::slice::from_ref),
            };
            let tables = tables.iter().filter_map(Value::as_table);
            models.extend(tables.map(|table| Model::read(role, table, input_size)));
        }
        let trains = |role| models.iter().any(|model: &Model| model.role == role);
        let task = TASKS.iter().find(|task| trains(task.trainee)).map(|task| task.title);
        let precision = value("run", "precision").and_then(|name| Some(name.as_str()?.to_string()));
        Ok(Self {
            task: if trains_encoders { task.unwrap_or("Training") } else { TRAINING_OF_HEADS },
            models,
            trains_encoders,
            input_size,
            precision,
            length: RunLength::of(&config),
        })
    }

    /// Steps of the whole run, as [`RunLength::total_steps`] has them.
    pub fn total_steps(&self, recorded: Option<(u64, f64)>) -> Option<u64> {
        self.length.total_steps(recorded)
    }
}

impl Model {
    fn read(role: &'static str, table: &Table, input_size: Option<i64>) -> Self {
        const SIZE: [&str; 3] = ["dim", "depth", "heads"];
        let model = table.get("model");
        let encoder = model
            .filter(|_| role != "decoder")
            .and_then(|model| EncoderSpec::deserialize(model.clone()).ok());
        let size = match (&encoder, model) {
            (Some(encoder), _) => encoder.to_string(),
            (None, Some(model)) => plain(model),
            (None, None) => {
                let known = SIZE.iter().filter_map(|key| Some((*key, table.get(*key)?)));
                let named = known.map(|(key, value)| {
                    format!("{} {}", if key == "dim" { "width" } else { key }, plain(value))
                });
                named.collect::<Vec<_>>().join(", ")
            }
        };
        let rest = table.iter().filter(|(key, _)| {
            !["name", "model"].contains(&key.as_str()) && !SIZE.contains(&key.as_str())
        });
        let settings: Vec<String> =
            rest.map(|(key, value)| format!("{key} {}", plain(value))).collect();
        Self {
            role,
            name: table.get("name").map(plain),
            size,
            parameters: encoder
                .zip(input_size)
                .and_then(|(spec, image_size)| count(&spec, image_size)),
            settings: settings.join(", "),
        }
    }
}

/// Parameters of an encoder for images with a side of so many pixels.
fn count(spec: &EncoderSpec, image_size: i64) -> Option<u64> {
    let grid_size = usize::try_from(image_size).ok()?.checked_div(spec.patch_size)?;
    let mut parameters = Parameters::new(Storage::Shapes);
    spec.build(&mut parameters, grid_size);
    Some(parameters.count())
}

/// A value without the quotes of TOML's strings.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}
