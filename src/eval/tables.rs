//! The `[evaluation]` table of a configuration: one table for each evaluation.
//!
//! `[evaluation.NAME]` is an evaluation of the kind that its key `kind` says; left out, of the kind
//! NAME. So there may be several of one kind.

use toml::{Table, Value};

use super::evaluation::{Evaluation, Settings};
use super::kinds::KINDS;
use crate::config::{KeyError, explain};

/// The keys of [`KINDS`]' tables that they do not read themselves.
const KIND: &str = "kind";
const EVERY: &str = "every";

/// An evaluation as a configuration or a command line names it.
pub struct NamedEvaluation {
    /// Its key under `[evaluation]`.
    pub name: String,
    pub kind: &'static str,
    /// Its table, with every default.
    pub settings: Table,
    /// Steps of training between two measurements; none: it is made in the end alone.
    pub every: Option<u64>,
    pub evaluation: Box<dyn Evaluation>,
}

impl NamedEvaluation {
    /// The evaluation of these settings, called as its kind.
    pub fn new<S: Settings>(settings: S) -> Self {
        let table = settings.to_table();
        let evaluation = Box::new(settings);
        Self { name: S::KIND.to_string(), kind: S::KIND, settings: table, every: None, evaluation }
    }
}

/// The evaluations of the table `evaluation`, in its order.
///
/// # Errors
/// A kind or a setting is unknown, missing or wrong: its key, what was found and what was expected.
pub fn read(evaluation: &Table) -> Result<Vec<NamedEvaluation>, KeyError> {
    evaluation.iter().map(|(name, table)| read_one(name, table)).collect()
}

/// The evaluation of a configuration, and its metric, that `EVALUATION.METRIC` names: a metric's name or
/// its beginning, of which the first is meant. It has to be made while training.
///
/// # Errors
/// There is none: what was found and what was expected.
pub fn metric_named(named: &[NamedEvaluation], text: &str) -> Result<[String; 2], String> {
    let made: Vec<&NamedEvaluation> = named.iter().filter(|one| one.every.is_some()).collect();
    let of = |one: &NamedEvaluation| {
        let metric = text.strip_prefix(&one.name)?.strip_prefix('.')?;
        let metrics = one.evaluation.metrics();
        let found = metrics.iter().find(|known| known.name == metric);
        let found = found.or(metrics.iter().find(|known| known.name.starts_with(metric)))?;
        Some([one.name.clone(), found.name.clone()])
    };
    made.iter().find_map(|one| of(one)).ok_or_else(|| {
        let metrics = |one: &&NamedEvaluation| {
            let metrics = one.evaluation.metrics();
            metrics.into_iter().map(|metric| format!("{}.{}", one.name, metric.name)).collect()
        };
        let known: Vec<String> =
            made.iter().flat_map(|one| -> Vec<String> { metrics(one) }).collect();
        match known.is_empty() {
            true => format!(
                "found `{text}`, but no evaluation has `every`: none is made while training"
            ),
            false => format!("found `{text}`, expected one of {}", known.join(", ")),
        }
    })
}

/// The same table with every default.
///
/// # Errors
/// [`read`]'s.
pub fn resolve(evaluation: &Table) -> Result<Table, KeyError> {
    let resolved = read(evaluation)?.into_iter().map(|one| {
        let NamedEvaluation { name, kind, settings, every, .. } = one;
        let mut table = Table::new();
        if name != kind {
            table.insert(KIND.into(), kind.into());
        }
        if let Some(every) = every {
            table.insert(EVERY.into(), (every as i64).into());
        }
        table.extend(settings);
        (name, Value::Table(table))
    });
    Ok(resolved.collect())
}

fn read_one(name: &str, table: &Value) -> Result<NamedEvaluation, KeyError> {
    let at = |field: &str| match field {
        "" => format!("evaluation.{name}"),
        _ => format!("evaluation.{name}.{field}"),
    };
    let Value::Table(table) = table else {
        return Err((at(""), format!("found {table}, expected a table")));
    };
    let mut table = table.clone();
    let (wanted, field) = match table.remove(KIND) {
        Some(Value::String(kind)) => (kind, KIND),
        Some(other) => {
            return Err((at(KIND), format!("found {other}, expected a string")));
        }
        None => (name.to_string(), ""),
    };
    let every = match table.remove(EVERY) {
        None => None,
        Some(Value::Integer(steps @ 1..)) => Some(steps as u64),
        Some(other) => {
            return Err((at(EVERY), format!("found {other}, expected a number of steps above 0")));
        }
    };
    let Some(kind) = KINDS.iter().find(|kind| kind.name == wanted) else {
        let known: Vec<String> = KINDS.iter().map(|kind| format!("`{}`", kind.name)).collect();
        let message = format!("unknown evaluation `{wanted}`, expected {}", known.join(" or "));
        return Err((at(field), explain(&message)));
    };
    let (evaluation, settings) =
        kind.read(table).map_err(|(field, message)| (at(&field), message))?;
    Ok(NamedEvaluation { name: name.to_string(), kind: kind.name, settings, every, evaluation })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Table {
        text.parse().unwrap()
    }

    /// Key and message of what is wrong with `text`.
    fn error(text: &str) -> String {
        let (key, message) = resolve(&table(text)).unwrap_err();
        format!("{key}: {message}")
    }

    /// A run's `config.toml` says what the runs before this table had a list of kinds say.
    #[test]
    fn resolved_tables_have_every_default_in_the_order_of_the_settings() {
        let given = table("[knn]\nheld_out = [\"b.tar\"]\nreference = [\"a.tar\"]\n");
        let written = toml::to_string(&resolve(&given).unwrap()).unwrap();
        assert_eq!(
            written,
            "[knn]\nreference = [\"a.tar\"]\nheld_out = [\"b.tar\"]\n\
             neighbours = [10, 20, 100, 200]\ntemperature = 0.07\n"
        );
        let again: Table = written.parse().unwrap();
        assert_eq!(resolve(&again).unwrap(), again);
    }

    /// There may be several evaluations of one kind, in the order of the file.
    #[test]
    fn a_table_of_another_name_says_its_kind() {
        let shards = "held_out = [\"b.tar\"]\nreference = [\"a.tar\"]\n";
        let given = table(&format!("[pets]\n{shards}kind = \"knn\"\n[knn]\n{shards}"));
        let found = read(&given).unwrap();
        let names: Vec<_> = found.iter().map(|one| (&*one.name, one.kind)).collect();
        assert_eq!(names, [("pets", "knn"), ("knn", "knn")]);
        let written = toml::to_string(&resolve(&given).unwrap()).unwrap();
        assert!(written.starts_with("[pets]\nkind = \"knn\"\nreference"), "{written}");
        assert_eq!(written.matches("kind").count(), 1, "{written}");
    }

    /// What is made while training keeps its steps, and its figures are found by name.
    #[test]
    fn figures_on_the_way_are_named() {
        let shards = "held_out = [\"b.tar\"]\nreference = [\"a.tar\"]\n";
        let given = table(&format!("[knn]\n{shards}[quick]\nkind = \"knn\"\nevery = 50\n{shards}"));
        let resolved = resolve(&given).unwrap();
        assert_eq!(resolved["quick"]["every"].as_integer(), Some(50));
        assert!(resolved["knn"].get("every").is_none());
        let named = read(&resolved).unwrap();
        let find = |text: &str| metric_named(&named, text);
        assert_eq!(find("quick.top1").unwrap(), ["quick", "top1_k10"]);
        assert_eq!(find("quick.top1_k100").unwrap(), ["quick", "top1_k100"]);
        assert!(find("knn.top1").unwrap_err().contains("quick.top1_k10, quick.top1_k20"));
        assert!(
            metric_named(&named[..1], "knn.top1")
                .unwrap_err()
                .contains("no evaluation has `every`")
        );
    }

    /// What is wrong is named by its whole key, with the nearest known word.
    #[test]
    fn mistakes_are_named_by_their_key() {
        let shards = "reference = [\"a.tar\"]\nheld_out = [\"b.tar\"]\n";
        for (text, says) in [
            ("knm = {}".to_string(), "evaluation.knm: unknown evaluation `knm`, expected "),
            ("knm = {}".to_string(), "did you mean `knn`?"),
            ("a = { kind = \"kn\" }".to_string(), "evaluation.a.kind: unknown evaluation `kn`"),
            ("a = { kind = 3 }".to_string(), "evaluation.a.kind: found 3"),
            (format!("[knn]\n{shards}every = 0"), "evaluation.knn.every: found 0, expected"),
            ("knn = 3".to_string(), "evaluation.knn: found 3, expected a table"),
            ("knn = {}".to_string(), "evaluation.knn: missing field `reference`"),
            (format!("[knn]\n{shards}neighbors = [3]"), "evaluation.knn.neighbors: "),
            (format!("[knn]\n{shards}neighbors = [3]"), "did you mean `neighbours`?"),
            (format!("[knn]\n{shards}neighbours = 3"), "evaluation.knn.neighbours: "),
            (format!("[knn]\n{shards}neighbours = [0]"), "evaluation.knn.neighbours: found [0]"),
            (format!("[knn]\n{shards}most_held_out = 0"), "evaluation.knn.most_held_out: found 0"),
        ] {
            let error = error(&text);
            assert!(error.contains(says), "`{says}` is not in: {error}");
        }
    }
}
