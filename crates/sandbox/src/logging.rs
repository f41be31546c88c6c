//! How a version's log is written, and what is written to it.

use serde::{Deserialize, Serialize};

/// `LoggingConfig`, as a sandbox and a log must know it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logging {
    /// What lines look like.
    pub format: LogFormat,
    /// The name of the group that the guest is told; `None`: the function's own.
    pub group: Option<String>,
}

/// What the lines of a log look like. Only JSON is filtered by level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogFormat {
    /// Lines of text.
    #[default]
    Text,
    /// JSON objects, one a line.
    Json {
        /// The least level of what the function logs.
        application: ApplicationLogLevel,
        /// The least level of what the platform logs.
        system: SystemLogLevel,
    },
}

/// The level of something that a function logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "the names say it")]
pub enum ApplicationLogLevel {
    Trace,
    Debug,
    #[default]
    Info,
    Warn,
    Error,
    Fatal,
}

/// The level of something that the platform logs; the later, the graver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "the names say it")]
pub enum SystemLogLevel {
    Debug,
    #[default]
    Info,
    Warn,
}

impl ApplicationLogLevel {
    /// The wire's names, from the most detail to the least.
    pub const NAMES: [&str; 6] = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"];

    /// The wire's name.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

impl SystemLogLevel {
    /// The wire's names, from the most detail to the least.
    pub const NAMES: [&str; 3] = ["DEBUG", "INFO", "WARN"];
}
