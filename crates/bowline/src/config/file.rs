//! The configuration file: flat TOML, read with the line of every value.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{FILE_NAME, Key, Origin, Value};

/// Why a configuration file cannot be used. Lines and columns count from one.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot read the configuration file `{}`", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{place}: {reason}")]
    Syntax { place: Place, reason: String },
    #[error("{place}: unknown setting `{name}`; {hint}")]
    Unknown { place: Place, name: String, hint: String },
    #[error("{place}: `{key}` must be a text or a whole number, not {found}")]
    Type {
        place: Place,
        key: Key,
        found: &'static str,
    },
}

/// A place in a file.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    line: usize,
    column: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.path.display(), self.line, self.column)
    }
}

/// The values of `named`, or else of the file in `folder` if there is one.
pub fn read(named: Option<&Path>, folder: &Path) -> Result<BTreeMap<Key, Value>, FileError> {
    let path = named.map_or_else(|| folder.join(FILE_NAME), Path::to_owned);
    match std::fs::read_to_string(&path) {
        Ok(text) => parse(&shown(&path, folder), &text),
        Err(error) if named.is_none() && error.kind() == ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(source) => Err(FileError::Unreadable { path, source }),
    }
}

/// The path as short as it can be said from `folder`.
fn shown(path: &Path, folder: &Path) -> PathBuf {
    path.strip_prefix(folder).unwrap_or(path).to_owned()
}

fn parse(path: &Path, text: &str) -> Result<BTreeMap<Key, Value>, FileError> {
    let place = |offset: usize| place(path, text, offset);
    let table = DeTable::parse(text).map_err(|error| FileError::Syntax {
        place: place(error.span().map_or(0, |span| span.start)),
        reason: error.message().to_owned(),
    })?;
    let mut values = BTreeMap::new();
    for (name, value) in table.get_ref() {
        let place = place(name.span().start);
        let Some(key) = Key::by_name(name.get_ref()) else {
            let name = name.get_ref().to_string();
            let hint = hint(&name);
            return Err(FileError::Unknown { place, name, hint });
        };
        let Some(text) = scalar(value) else {
            let found = value.get_ref().type_str();
            return Err(FileError::Type { place, key, found });
        };
        let origin = Origin::File {
            path: path.to_owned(),
            line: place.line,
        };
        values.insert(key, Value { text, origin });
    }
    Ok(values)
}

fn scalar(value: &Spanned<DeValue<'_>>) -> Option<String> {
    match value.get_ref() {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.as_str().to_owned()),
        _ => None,
    }
}

fn hint(name: &str) -> String {
    match Key::nearest(name) {
        Some(key) => format!("did you mean `{key}`?"),
        None => format!("known are {}", Key::ALL.map(|key| format!("`{key}`")).join(", ")),
    }
}

fn place(path: &Path, text: &str, offset: usize) -> Place {
    let before = &text[..offset.min(text.len())];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    Place {
        path: path.to_owned(),
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
    }
}
