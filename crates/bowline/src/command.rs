//! The commands, one file each.

pub mod agent;
pub mod aliases;
pub mod checkpoint;
pub mod config;
pub mod demo;
pub mod deploy;
pub mod executions;
pub mod functions;
pub mod image;
pub mod instance;
pub mod invoke;
pub mod keys;
pub mod layer;
pub mod logs;
pub mod nodes;
pub mod object;
mod payload;
pub mod session;
pub mod settings;
pub mod state;
pub mod store;
pub mod stores;
pub mod stream;
pub mod up;
pub mod versions;
pub mod vm;

use serde_json::Value;

/// A member of an answer as a table's cell: a text as it is, nothing as a dash.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// What a command prints when it removed something.
fn removed(what: &str) -> Value {
    serde_json::json!({ "removed": what })
}

/// A member of an answer as a line for people; nothing if the answer does not have it.
fn field(label: &str, value: &Value) -> String {
    match cell(value).as_str() {
        "-" => String::new(),
        text => format!("{label:<12} {text}\n"),
    }
}
