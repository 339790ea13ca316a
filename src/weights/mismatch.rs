//! The one error that says how stored weights and a model differ.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use tch::Tensor;

use super::weight_file::WeightFile;

/// Most names of each kind that the message lists.
const LISTED: usize = 10;

/// Everything in which a weights file differs from the model that it should fill.
#[derive(Debug)]
struct Mismatch {
    path: PathBuf,
    layout: &'static str,
    /// Differences of the whole model: `the weights have width 1280, the config says 3072`.
    causes: Vec<String>,
    /// Tensors that the model has and the file lacks.
    missing: Vec<String>,
    /// Tensors that the file has and the model lacks.
    unexpected: Vec<String>,
    /// `NAME is [1280], expected [3072]`.
    shapes: Vec<String>,
}

impl Mismatch {
    fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.shapes.is_empty()
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} ({}) does not fit the model", self.path.display(), self.layout)?;
        for (number, cause) in self.causes.iter().enumerate() {
            write!(f, "{}{cause}", if number == 0 { ": " } else { "; " })?;
        }
        list(f, "missing", &self.missing)?;
        list(f, "unexpected", &self.unexpected)?;
        list(f, "wrong shape", &self.shapes)
    }
}

impl std::error::Error for Mismatch {}

fn list(f: &mut fmt::Formatter, kind: &str, names: &[String]) -> fmt::Result {
    if names.is_empty() {
        return Ok(());
    }
    write!(f, "\n  {kind} ({}): {}", names.len(), names[..names.len().min(LISTED)].join(", "))?;
    if names.len() > LISTED {
        write!(f, ", and {} more", names.len() - LISTED)?;
    }
    Ok(())
}

impl WeightFile {
    /// Checks that the file fills exactly `targets`, beside what `ignore` lets it hold.
    ///
    /// # Errors
    /// All differences, in one message.
    pub fn check_fit(
        &self,
        targets: &[(String, Tensor)],
        ignore: impl Fn(&str) -> bool,
    ) -> anyhow::Result<()> {
        let mismatch = self.compare(targets, ignore);
        if mismatch.is_empty() { Ok(()) } else { Err(mismatch.into()) }
    }

    /// All differences between the file and `targets`.
    fn compare(&self, targets: &[(String, Tensor)], ignore: impl Fn(&str) -> bool) -> Mismatch {
        let expected: BTreeMap<&str, Vec<i64>> =
            targets.iter().map(|(name, tensor)| (name.as_str(), tensor.size())).collect();
        let mut missing = vec![];
        let mut shapes = vec![];
        for (&name, wanted) in &expected {
            match self.entries.get(name) {
                None => missing.push(self.absent(name)),
                Some(entry) if entry.shape().as_ref() != Some(wanted) => {
                    let found: Vec<_> =
                        entry.pieces.iter().map(|piece| format!("{:?}", piece.shape)).collect();
                    let own = entry.own_names.join(" + ");
                    shapes.push(format!("{own} is {}, expected {wanted:?}", found.join(" + ")));
                }
                Some(_) => {}
            }
        }
        let unexpected = self
            .entries
            .iter()
            .filter(|(name, _)| !expected.contains_key(name.as_str()) && !ignore(name))
            .flat_map(|(_, entry)| entry.own_names.clone())
            .collect();
        let causes = self.causes(&expected);
        Mismatch {
            path: self.path.clone(),
            layout: self.layout(),
            causes,
            missing,
            unexpected,
            shapes,
        }
    }

    /// How the file would call `name`, which it lacks, and what it has instead.
    pub fn absent(&self, name: &str) -> String {
        let own = self.names.map_or_else(Vec::new, |names| names.stored_names(name));
        let own = if own.is_empty() { name.to_string() } else { own.join(" + ") };
        match self.unreadable.get(name).or_else(|| self.unreadable.get(&own)) {
            Some(reason) if reason.starts_with("it lacks") => format!("{name} ({reason})"),
            Some(format) => format!("{own} (stored as {format}, which is not a format of weights)"),
            None => own,
        }
    }

    /// Differences of the whole model that explain many single ones.
    fn causes(&self, expected: &BTreeMap<&str, Vec<i64>>) -> Vec<String> {
        let Some(names) = self.names else { return Vec::new() };
        let both = names.numbers(&self.shapes()).into_iter().zip(names.numbers(expected));
        both.filter(|((_, found), (_, wanted))| found != wanted && *found > 0)
            .map(|((found, _), (_, wanted))| {
                format!("the weights have {found}, the config says {wanted}")
            })
            .collect()
    }
}
