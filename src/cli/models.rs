//! `distill models`: the encoders that are known by name, and where their weights are to be had.

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

use super::output::print;
use crate::encoders::{EncoderSpec, FAMILIES, Family, Whereabouts};
use crate::nn::{Parameters, Storage};

/// List the encoders that are known by name: sizes, weights, licences
///
/// A name is a value of `model` in a configuration, and what stands under "weights" one of `weights`: it is fetched.
/// Encoders of these families in any other size are given by numbers, or by the config.json of their weights.
#[derive(Debug, clap::Args)]
pub(super) struct ModelsArgs {
    /// Print a JSON array with an object for each
    #[arg(long)]
    json: bool,
}

/// Side of the images that parameters are counted for, in patches: positions are some of them.
const GRID: usize = 16;

/// Prints the list.
pub(super) fn run(args: &ModelsArgs) -> Result<()> {
    let all = FAMILIES.iter().flat_map(|family| {
        let published = family.published().into_iter();
        published.map(|(name, spec)| Known { family: *family, name, spec })
    });
    match args.json {
        true => print(&format!("{}\n", all.map(|known| known.json()).collect::<Value>())),
        false => print(&as_text(all)),
    }
}

/// An encoder that is known by name.
struct Known {
    family: &'static dyn Family,
    name: &'static str,
    spec: EncoderSpec,
}

impl Known {
    fn parameters(&self) -> u64 {
        let mut parameters = Parameters::new(Storage::Shapes);
        self.spec.build(&mut parameters, GRID);
        parameters.count()
    }

    fn weights(&self) -> Option<String> {
        let hub = self.family.whereabouts(self.name).hub?;
        Some(format!("hf://{hub}"))
    }

    fn json(&self) -> Value {
        let EncoderSpec { dim, depth, heads, patch_size, class_tokens, registers, .. } = self.spec;
        let Whereabouts { licence, is_gated, .. } = self.family.whereabouts(self.name);
        json!({
            "name": self.name, "family": self.family.name(), "parameters": self.parameters(),
            "dim": dim, "depth": depth, "heads": heads, "patch_size": patch_size,
            "class_tokens": class_tokens, "registers": registers,
            "weights": self.weights(), "licence": licence, "gated": is_gated,
        })
    }
}

fn as_text(all: impl Iterator<Item = Known>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["model", "family", "parameters", "patch", "weights", "licence"]);
    for known in all {
        let Whereabouts { licence, is_gated, .. } = known.family.whereabouts(known.name);
        let gated = if is_gated { ", gated" } else { "" };
        table.add_row([
            known.name.to_string(),
            known.family.name().to_string(),
            format!("{} M", (known.parameters() as f64 / 1e6).round()),
            known.spec.patch_size.to_string(),
            known.weights().unwrap_or_default(),
            licence.map(|licence| format!("{licence}{gated}")).unwrap_or_default(),
        ]);
    }
    for column in [2, 3] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_string()).collect();
    format!("{}\n", lines.join("\n"))
}
