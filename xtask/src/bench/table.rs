//! A benchmark's rows: their JSON form, the printed table, and the recorded copy in the README.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::shell;

/// Where `--record` keeps the rows, one JSON object a line.
pub const RECORD: &str = "docs/bench.jsonl";
/// The README's table stands between these two lines.
pub const MARK_BEGIN: &str = "<!-- bench -->";
/// See [`MARK_BEGIN`].
pub const MARK_END: &str = "<!-- /bench -->";

/// One measured row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What was measured.
    pub row: String,
    /// Our figure, in `unit`.
    pub ours: f64,
    /// The reference's figure, in `unit`; `None` if the goal is an absolute one.
    pub reference: Option<f64>,
    /// Ours by the reference's, if there is one.
    pub ratio: Option<f64>,
    pub unit: String,
    pub goal: String,
    pub holds: bool,
}

/// What a row must reach.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// Ours is at least this share of the reference.
    RatioAtLeast(f64),
    /// Ours is at most so many times the reference.
    RatioAtMost(f64),
    /// Ours is below this, in the row's unit.
    Below(f64),
    /// Ours is at most this, in the row's unit.
    AtMost(f64),
    /// Ours is at least this, in the row's unit.
    AtLeast(f64),
    /// The row is of a peer, which is to be slower than this, our own rate.
    SlowerThan(f64),
    /// The row is there to be looked at.
    None,
}

impl Row {
    /// A row of `ours` beside `reference`, judged by `goal`.
    pub fn judged(row: &str, unit: &str, goal: Goal, ours: f64, reference: Option<f64>) -> Self {
        let ratio = reference
            .filter(|reference| *reference > 0.0)
            .map(|reference| ours / reference);
        let (text, holds) = match goal {
            Goal::RatioAtLeast(least) => (format!("ratio >= {least}"), ratio.is_some_and(|ratio| ratio >= least)),
            Goal::RatioAtMost(most) => (format!("ratio <= {most}"), ratio.is_some_and(|ratio| ratio <= most)),
            Goal::Below(bound) => (format!("< {bound} {unit}"), ours < bound),
            Goal::AtMost(bound) => (format!("<= {bound} {unit}"), ours <= bound),
            Goal::AtLeast(bound) => (format!(">= {bound} {unit}"), ours >= bound),
            Goal::SlowerThan(bound) => (format!("slower than our {}", rounded(bound)), ours < bound),
            Goal::None => ("none".to_owned(), true),
        };
        Self {
            row: row.to_owned(),
            ours: rounded(ours),
            reference: reference.map(rounded),
            ratio: ratio.map(rounded),
            unit: unit.to_owned(),
            goal: text,
            holds,
        }
    }
}

/// Four significant digits; more would promise what a measurement cannot hold.
fn rounded(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

/// Reads rows, one JSON object a line.
pub fn parse(text: &str) -> Result<Vec<Row>> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| serde_json::from_str(line).with_context(|| format!("`{line}` is not a row")))
        .collect()
}

/// Writes rows, one JSON object a line.
pub fn json_lines(rows: &[Row]) -> Result<String> {
    let lines: Result<Vec<String>, _> = rows.iter().map(serde_json::to_string).collect();
    Ok(lines?.join("\n") + "\n")
}

/// The rows as a table for documents.
pub fn markdown(rows: &[Row]) -> String {
    let mut text =
        "| what | ours | reference | ratio | goal | holds |\n| --- | --: | --: | --: | --- | --- |\n".to_owned();
    for row in rows {
        let cells = [
            row.row.clone(),
            format!("{} {}", row.ours, row.unit),
            row.reference
                .map_or_else(|| "-".to_owned(), |value| format!("{value} {}", row.unit)),
            row.ratio.map_or_else(|| "-".to_owned(), |value| value.to_string()),
            row.goal.clone(),
            if row.holds { "yes" } else { "**no**" }.to_owned(),
        ];
        text += &format!("| {} |\n", cells.join(" | "));
    }
    text
}

/// The rows as a table for a terminal.
pub fn plain(rows: &[Row]) -> String {
    let heading = ["what", "ours", "reference", "ratio", "unit", "goal", "holds"].map(str::to_owned);
    let shown = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let lines = rows.iter().map(|row| {
        let holds = if row.holds { "yes" } else { "NO" };
        let figures = [shown(Some(row.ours)), shown(row.reference), shown(row.ratio)];
        let [ours, reference, ratio] = figures;
        [
            row.row.clone(),
            ours,
            reference,
            ratio,
            row.unit.clone(),
            row.goal.clone(),
            holds.to_owned(),
        ]
    });
    let lines: Vec<[String; 7]> = std::iter::once(heading).chain(lines).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 7] = std::array::from_fn(width);
    let pad = |line: &[String; 7]| {
        let cells: Vec<String> = line
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        cells.join("  ").trim_end().to_owned()
    };
    lines.iter().map(|line| pad(line) + "\n").collect()
}

/// The text between the README's marks.
pub fn between_marks(readme: &str) -> Option<&str> {
    let (_, rest) = readme.split_once(MARK_BEGIN)?;
    let (table, _) = rest.split_once(MARK_END)?;
    Some(table.trim())
}

/// Puts `rows` into the record, in place of rows of the same name, and the whole record into the README.
pub fn record(rows: &[Row]) -> Result<()> {
    let path = shell::root().join(RECORD);
    let mut all = parse(&std::fs::read_to_string(&path).unwrap_or_default())?;
    for row in rows {
        match all.iter_mut().find(|old| old.row == row.row) {
            Some(old) => *old = row.clone(),
            None => all.push(row.clone()),
        }
    }
    std::fs::write(&path, json_lines(&all)?).with_context(|| format!("cannot write `{}`", path.display()))?;
    let readme_path = shell::root().join("README.md");
    let readme = std::fs::read_to_string(&readme_path).context("cannot read `README.md`")?;
    let Some(old) = between_marks(&readme) else {
        bail!("`README.md` has no lines `{MARK_BEGIN}` and `{MARK_END}` to put the table between");
    };
    let (before, rest) = readme.split_once(MARK_BEGIN).expect("the marks were just found");
    let after = rest.trim_start().strip_prefix(old).unwrap_or(rest).trim_start();
    let text = format!("{before}{MARK_BEGIN}\n{}{after}", markdown(&all));
    std::fs::write(&readme_path, text).context("cannot write `README.md`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_judge_ratios_and_absolute_figures() {
        let share = Row::judged("a", "requests/s", Goal::RatioAtLeast(0.35), 40.0, Some(100.0));
        assert_eq!((share.ratio, share.holds), (Some(0.4), true));
        assert!(!Row::judged("b", "us", Goal::RatioAtMost(2.0), 201.0, Some(100.0)).holds);
        assert!(!Row::judged("c", "ms", Goal::Below(1.0), 1.0, None).holds);
        assert!(
            !Row::judged("d", "us", Goal::RatioAtMost(2.0), 1.0, None).holds,
            "no reference, no verdict"
        );
    }

    #[test]
    fn rows_survive_their_json_form() {
        let rows = [Row::judged("a", "us", Goal::AtMost(10.0), 5.8, None)];
        assert_eq!(parse(&json_lines(&rows).unwrap()).unwrap(), rows);
    }

    #[test]
    fn the_table_is_found_between_its_marks() {
        let readme = format!("# X\n{MARK_BEGIN}\n| a |\n{MARK_END}\nrest\n");
        assert_eq!(between_marks(&readme), Some("| a |"));
        assert_eq!(between_marks("# X\n"), None);
    }
}
