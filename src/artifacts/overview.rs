//! The main figures of several evaluations in one table: a row for each encoder.

use comfy_table::{CellAlignment, Table, TableComponent, presets};
use serde_json::{Map, Value, json};

use super::evaluation::{EvaluationResult, Metric, Role, Row};

/// The main figures of several results.
#[derive(Debug)]
pub struct Overview<'a> {
    pub columns: Vec<Column<'a>>,
    /// An encoder each, with what is published last; values in the order of the columns.
    pub rows: Vec<Row<'a>>,
}

/// A figure of an evaluation.
#[derive(Debug)]
pub struct Column<'a> {
    /// The evaluation's name.
    pub evaluation: &'a str,
    pub metric: &'a Metric,
}

impl<'a> Overview<'a> {
    pub fn new(results: &'a [EvaluationResult]) -> Self {
        let columns: Vec<Column> = results.iter().flat_map(columns_of).collect();
        let mut rows: Vec<Row> = Vec::new();
        for result in results {
            for one in &result.measurements {
                let is_of = |column: &Column| {
                    (column.evaluation, &column.metric.name) == (&*result.name, &one.metric)
                };
                let Some(column) = columns.iter().position(is_of) else { continue };
                let key = (&*one.encoder, one.role);
                let row = rows.iter().position(|row| (row.0, row.1) == key).unwrap_or_else(|| {
                    rows.push((key.0, key.1, vec![None; columns.len()]));
                    rows.len() - 1
                });
                rows[row].2[column] = Some(one.value);
            }
        }
        rows.sort_by_key(|(_, role, _)| *role == Role::Published);
        Self { columns, rows }
    }

    /// A table for people on a terminal.
    pub fn table(&self) -> String {
        let mut table = self.laid_out(presets::UTF8_HORIZONTAL_ONLY, "\n");
        table.remove_style(TableComponent::HorizontalLines);
        table.trim_fmt() + "\n"
    }

    /// A table of Markdown.
    pub fn markdown(&self) -> String {
        self.laid_out(presets::ASCII_MARKDOWN, " ").trim_fmt() + "\n"
    }

    fn laid_out(&self, preset: &str, between: &str) -> Table {
        let mut table = Table::new();
        let names = self
            .columns
            .iter()
            .map(|Column { evaluation, metric }| format!("{evaluation}{between}{}", metric.label));
        table
            .load_preset(preset)
            .set_header(["encoder".into(), String::new()].into_iter().chain(names));
        for (encoder, role, values) in &self.rows {
            let cell = |(value, column): (&Option<f64>, &Column)| {
                value.map_or("–".into(), |value| column.metric.unit.show(value, 1))
            };
            let cells = values.iter().zip(&self.columns).map(cell);
            let head = [encoder.to_string(), role.name().to_string()];
            table.add_row(head.into_iter().chain(cells));
        }
        for number in 2..table.column_count() {
            if let Some(column) = table.column_mut(number) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }

    /// The rows with their figures by `EVALUATION.METRIC`, for programs.
    pub fn json(&self) -> Value {
        let figures = |values: &[Option<f64>]| -> Map<String, Value> {
            let named = self.columns.iter().zip(values).filter_map(|(column, value)| {
                let name = format!("{}.{}", column.evaluation, column.metric.name);
                value.map(|value| (name, value.into()))
            });
            named.collect()
        };
        let rows = self.rows.iter().map(|(encoder, role, values)| {
            json!({ "encoder": encoder, "role": role, "figures": figures(values) })
        });
        json!({ "encoders": rows.collect::<Vec<_>>() })
    }
}

/// The main metrics of a result.
fn columns_of(result: &EvaluationResult) -> Vec<Column<'_>> {
    let column = |metric| Column { evaluation: &result.name, metric };
    let is_main = |metric: &&Metric| result.main.contains(&metric.name);
    let main: Vec<Column> = result.metrics.iter().filter(is_main).map(column).collect();
    match main.is_empty() {
        true => result.metrics.iter().take(1).map(column).collect(),
        false => main,
    }
}

#[cfg(test)]
mod tests {
    use super::super::evaluation::{Measurement, Unit};
    use super::*;

    fn result(name: &str, main: &[&str], values: &[(&str, Role, f64)]) -> EvaluationResult {
        let metrics = ["a", "b"].map(|name| Metric::share(name, name.to_uppercase()));
        let measurement = |&(encoder, role, value): &(&str, Role, f64)| Measurement {
            encoder: encoder.into(),
            role,
            metric: main.first().unwrap_or(&"a").to_string(),
            value,
            detail: None,
        };
        EvaluationResult {
            name: name.into(),
            kind: "kind".into(),
            step: None,
            of: None,
            title: "Title".into(),
            description: "Description".into(),
            images: Vec::new(),
            metrics: metrics.into(),
            main: main.iter().map(|name| name.to_string()).collect(),
            measurements: values.iter().map(measurement).collect(),
        }
    }

    /// Rows are encoders, one for each role; what is published stands last; a figure that is not there is a
    /// dash and not a number.
    #[test]
    fn rows_are_encoders_and_columns_main_figures() {
        let mut results = [
            result("one", &["b"], &[("pub", Role::Published, 0.9), ("x", Role::Random, 0.5)]),
            result("two", &[], &[("x", Role::Trained, 0.25), ("x", Role::Random, 0.125)]),
        ];
        results[1].metrics[0].unit = Unit::Number;
        let overview = Overview::new(&results);
        let rows: Vec<_> = overview.rows.iter().map(|row| (row.0, row.1, row.2.clone())).collect();
        assert_eq!(
            rows,
            [
                ("x", Role::Random, vec![Some(0.5), Some(0.125)]),
                ("x", Role::Trained, vec![None, Some(0.25)]),
                ("pub", Role::Published, vec![Some(0.9), None]),
            ]
        );
        let markdown = overview.markdown();
        let lines: Vec<String> = markdown
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(lines[0], "| encoder | | one B | two A |");
        assert_eq!(lines[2], "| x | random | 50.0 % | 0.1250 |");
        assert_eq!(lines[4], "| pub | published | 90.0 % | – |");
        assert_eq!(overview.json()["encoders"][1]["figures"]["two.a"], 0.25);
    }
}
