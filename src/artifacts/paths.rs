//! Names and places of what a run directory holds.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// The folder of the images that are drawn while a run trains, and their tag in TensorBoard.
pub const RECONSTRUCTIONS: &str = "reconstructions";

/// The resolved configuration of the run, as TOML.
pub fn config(run: &Path) -> PathBuf {
    run.join("config.toml")
}

/// The configuration that `distill quick` chose.
pub fn recipe(run: &Path) -> PathBuf {
    run.join("recipe.toml")
}

/// A line of JSON for each recorded step.
pub fn metrics(run: &Path) -> PathBuf {
    run.join("metrics.jsonl")
}

/// A line of JSON for the figures of each head after each epoch, of a training of heads.
pub fn figures(run: &Path) -> PathBuf {
    run.join("figures.jsonl")
}

/// The folder of one rank's features of test windows, while heads are trained.
pub fn features(run: &Path, rank: usize) -> PathBuf {
    run.join(format!("features-{rank}"))
}

/// The folder of TensorBoard's event files.
pub fn tensorboard(run: &Path) -> PathBuf {
    run.join("tensorboard")
}

/// The trace of some steps of one rank, for Perfetto.
pub fn profile(run: &Path, steps: RangeInclusive<u64>, rank: usize) -> PathBuf {
    let (first, last) = steps.into_inner();
    run.join("profile").join(format!("steps-{first}-{last}-rank-{rank}.json"))
}

/// The folder of all checkpoints.
pub fn checkpoints(run: &Path) -> PathBuf {
    run.join("checkpoints")
}

/// The folder of the checkpoint of a step, whether it is there or not.
pub fn checkpoint(run: &Path, step: u64) -> PathBuf {
    checkpoints(run).join(format!("step-{step}"))
}

/// Where the checkpoint of a step is written until it is whole.
pub fn partial_checkpoint(run: &Path, step: u64) -> PathBuf {
    checkpoints(run).join(format!(".step-{step}.{PARTIAL}"))
}

/// Whether a path is one of [`partial_checkpoint`]'s.
pub fn is_partial(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == PARTIAL)
}

const PARTIAL: &str = "partial";

/// What the checkpoint in `folder` says of itself.
pub fn manifest(folder: &Path) -> PathBuf {
    folder.join("manifest.json")
}

/// The folder of the images that are drawn while a run trains.
pub fn reconstructions(run: &Path) -> PathBuf {
    run.join(RECONSTRUCTIONS)
}

/// The image of a step, a PNG.
pub fn reconstruction(run: &Path, step: u64) -> PathBuf {
    reconstructions(run).join(format!("step-{step:06}{PNG}"))
}

const PNG: &str = ".png";

/// What was measured of the encoders.
pub fn evaluation(run: &Path) -> PathBuf {
    run.join("evaluation.json")
}

/// What was measured of several encoders, as a table of Markdown.
pub fn evaluation_table(run: &Path) -> PathBuf {
    run.join("evaluation.md")
}

/// What was found of one of several encoders by one evaluation.
pub fn measured(run: &Path, encoder: &str, evaluation: &str) -> PathBuf {
    run.join("measured").join(encoder).join(format!("{evaluation}.json"))
}

/// The folder of a training of heads within a comparison of encoders.
pub fn heads(run: &Path, encoder: &str, name: &str) -> PathBuf {
    run.join("heads").join(encoder).join(name)
}

/// The folder of all exported encoders.
pub fn exports(run: &Path) -> PathBuf {
    run.join("exports")
}

/// The folder of the exported encoder of this name.
pub fn export(run: &Path, name: &str) -> PathBuf {
    exports(run).join(name)
}

/// The file that the process that trains in a run directory holds locked.
pub fn lock(run: &Path) -> PathBuf {
    run.join(".lock")
}

/// The page that `distill report` writes unless it is told another place.
pub fn report(run: &Path) -> PathBuf {
    run.join("report.html")
}

/// The step of a checkpoint's folder, by its name.
pub fn step_of_checkpoint(name: &str) -> Option<u64> {
    name.strip_prefix("step-")?.parse().ok()
}

/// The step of a reconstruction, by its file's name.
pub fn step_of_reconstruction(name: &str) -> Option<u64> {
    step_of_checkpoint(name.strip_suffix(PNG)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written under a step is found again under it, and nothing else is.
    #[test]
    fn steps_are_read_from_the_names_that_they_give() {
        let run = Path::new("run");
        let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_string();
        for step in [0, 7, 123_456_789] {
            assert_eq!(step_of_checkpoint(&name(checkpoint(run, step))), Some(step));
            assert_eq!(step_of_reconstruction(&name(reconstruction(run, step))), Some(step));
            let partial = partial_checkpoint(run, step);
            assert!(is_partial(&partial) && !is_partial(&checkpoint(run, step)));
            assert_eq!(step_of_checkpoint(&name(partial)), None);
        }
        for stranger in ["step-", "step-1.old-1", "step-x", "1"] {
            assert_eq!(step_of_checkpoint(stranger), None, "{stranger}");
        }
    }
}
