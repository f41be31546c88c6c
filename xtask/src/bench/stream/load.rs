//! The program that loads streams and their peers, and the figures that it prints.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::super::subject::Subjects;
use super::super::{Effort, median};
use crate::shell;

/// The built program.
pub struct Load {
    program: PathBuf,
    effort: Effort,
}

/// What one run of it has found: the rounds' figures, by what was measured and of whom.
pub struct Figures(BTreeMap<(String, String), Vec<f64>>);

#[derive(Deserialize)]
struct Line {
    what: String,
    who: String,
    rounds: Vec<f64>,
}

impl Load {
    pub fn new(subjects: &Subjects, effort: Effort) -> Self {
        let program = subjects.stream_load.clone();
        Self { program, effort }
    }

    pub fn run(&self, words: &[&str]) -> Result<Figures> {
        let Effort { rounds, seconds } = self.effort;
        let mut command = Command::new(&self.program);
        command
            .args(["--rounds", &rounds.to_string(), "--seconds", &seconds.to_string()])
            .args(words);
        Figures::read(&shell::output(&mut command)?)
    }
}

impl Figures {
    fn read(text: &str) -> Result<Self> {
        let lines = text.lines().map(|line| {
            let line: Line = serde_json::from_str(line).with_context(|| format!("`{line}` is no figure"))?;
            anyhow::Ok(((line.what, line.who), line.rounds))
        });
        Ok(Self(lines.collect::<Result<_>>()?))
    }

    /// All figures of one subject; none if it was not there.
    pub fn all(&self, what: &str, who: &str) -> Option<Vec<f64>> {
        self.0.get(&(what.to_owned(), who.to_owned())).cloned()
    }

    /// The median of one subject's rounds.
    pub fn median(&self, what: &str, who: &str) -> Option<f64> {
        self.all(what, who).map(median)
    }

    /// The median of a subject that must be there.
    pub fn expect(&self, what: &str, who: &str) -> Result<f64> {
        self.median(what, who)
            .with_context(|| format!("no figure of `{who}` for `{what}`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_and_missing_ones_told() {
        let text = r#"{"what": "1 client x 1", "who": "plain", "rounds": [3.0, 1.0, 2.0]}"#;
        let figures = Figures::read(text).unwrap();
        assert_eq!(
            figures.median("1 client x 1", "plain").map(f64::to_bits),
            Some(2.0_f64.to_bits())
        );
        assert!(figures.expect("1 client x 1", "redis").is_err());
        assert!(Figures::read("building").is_err());
    }
}
