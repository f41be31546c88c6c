//! What commands print on standard output: tables for people, one JSON document for programs.

use std::fmt::Write as _;
use std::io::Write as _;

use serde::Serialize;

/// Which of the two forms is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    pub json: bool,
}

impl Output {
    /// Prints `document` as JSON, or what `text` makes.
    pub fn print(self, document: &impl Serialize, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        if self.json {
            line(&serde_json::to_string(document)?)
        } else {
            line(text().trim_end_matches('\n'))
        }
    }
}

/// Prints one line and flushes it. A reader that has gone away (`| head`) is no error.
pub fn line(text: &str) -> anyhow::Result<()> {
    bytes(text.as_bytes())?;
    bytes(b"\n")
}

/// Prints bytes as they are and flushes them. A reader that has gone away is no error.
pub fn bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Rows under headings, in columns as wide as their widest cell.
pub fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = headings.map(|heading| heading.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let heading = headings.map(str::to_owned);
    for row in std::iter::once(&heading).chain(rows) {
        let mut padded = String::new();
        for (width, cell) in widths.iter().zip(row) {
            let _ = write!(padded, "{cell:width$}  ");
        }
        text.push_str(padded.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            ["a".to_owned(), "1".to_owned()],
            ["long-name".to_owned(), "22".to_owned()],
        ];
        assert_eq!(
            table(["NAME", "N"], &rows),
            "NAME       N\na          1\nlong-name  22\n"
        );
    }
}
