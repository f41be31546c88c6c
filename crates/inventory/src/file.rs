//! The configuration file of an instance: what a server needs, apart from the server.
//!
//! It is TOML; `docs/instance-file.md` describes it. A fault is told with its line and column.

mod check;
mod effective;
mod schedule;

use std::collections::BTreeMap;
use std::fmt;

use bowline_agent::service::Probe;
use bowline_capacity::fleet::Class;
use bowline_sandbox_vm::MachineKind;
use serde::{Deserialize, Serialize};
use toml::Spanned;

pub use check::is_name;
pub use effective::{Effective, EffectiveVolume};
pub use schedule::{SERVERS_MAX, Schedule, Window};

/// The longest file.
pub const FILE_BYTES_MAX: usize = 64 * 1024;
/// Services, volumes or roles of one file.
pub const ITEMS_MAX: usize = 64;

/// What kind of server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Inside the node, without an agent.
    Inline,
    /// A process of its own with the agent in it.
    Process,
    /// A virtual machine with the agent in it.
    Vm,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inline => "inline",
            Self::Process => "process",
            Self::Vm => "vm",
        })
    }
}

/// A file that was read and checked.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceFile {
    /// Names the file among those of its account.
    pub id: Spanned<String>,
    pub kind: Spanned<Kind>,
    /// Which of its account's fleets it is in. Where all are in the low one there are no fleets.
    #[serde(default)]
    pub fleet: Option<Class>,
    pub resources: Resources,
    #[serde(default)]
    pub volumes: Vec<Volume>,
    #[serde(default)]
    pub services: Vec<Service>,
    #[serde(default)]
    pub roles: BTreeMap<Spanned<String>, Role>,
    #[serde(default)]
    pub policy: Policy,
    /// When servers like this, without a role, wait for whoever needs one.
    #[serde(default)]
    pub schedule: Vec<Window>,
}

/// What the server as a whole may use.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    pub memory_mib: Spanned<u32>,
    /// In thousandths of a processor.
    #[serde(default = "one_processor")]
    pub cpu_millis: Spanned<u32>,
    #[serde(default = "many_processes")]
    pub processes: Spanned<u32>,
    /// Free room that its volumes must find.
    #[serde(default = "no_storage")]
    pub storage_mib: Spanned<u32>,
    /// Which machine it is, if it is a virtual one; a microvm if missing.
    pub machine: Option<Spanned<MachineKind>>,
}

/// A folder that outlives the server.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Names it among those of its account; made when it is first mounted.
    pub source: Spanned<String>,
    pub mount: Spanned<String>,
    #[serde(default)]
    pub mode: Mode,
}

/// Who may write to a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One server at a time has it so.
    #[default]
    Rw,
    Ro,
}

/// A program that runs as long as the server.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    pub name: Spanned<String>,
    pub command: Spanned<Vec<String>>,
    /// Those with smaller numbers start first; with equal ones, as they stand.
    #[serde(default)]
    pub order: i32,
    #[serde(default)]
    pub environment: BTreeMap<Spanned<String>, Spanned<String>>,
    /// Where others reach it, at the server's own address.
    #[serde(default)]
    pub ports: Vec<Spanned<u16>>,
    pub health: Option<Health>,
}

/// How a service is asked whether it is well.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    pub check: Spanned<Probe>,
    #[serde(default = "five_seconds")]
    pub interval_ms: Spanned<u32>,
    #[serde(default = "two_seconds")]
    pub timeout_ms: Spanned<u32>,
    #[serde(default = "three")]
    pub failures: Spanned<u32>,
}

/// What is different for a server in a role.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Role {
    #[serde(default)]
    pub resources: Overlay,
    /// Each takes the place of the file's service of that name, or is added.
    #[serde(default)]
    pub services: Vec<Service>,
    /// Likewise, by where they are mounted.
    #[serde(default)]
    pub volumes: Vec<Volume>,
}

/// See [`Resources`]; what is not said stays as it is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overlay {
    pub memory_mib: Option<Spanned<u32>>,
    pub cpu_millis: Option<Spanned<u32>>,
    pub processes: Option<Spanned<u32>>,
    pub storage_mib: Option<Spanned<u32>>,
    pub machine: Option<Spanned<MachineKind>>,
}

/// What is done when the server breaks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// How long it may take from its start to all services being well.
    pub boot_seconds: u32,
    pub repair_attempts: u32,
    pub repair_seconds: u32,
    /// Replacements within the window; then the instance is held.
    pub replacements_max: u32,
    pub window_seconds: u32,
    /// The wait before the second replacement in a window; it doubles with each.
    pub backoff_ms: u32,
    /// Whether a replacement is made from the revision that the failed server was made from.
    pub pin_revision: bool,
    /// Below this efficiency a server is replaced, healthy or not.
    pub efficiency_min: Option<f64>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            boot_seconds: 120,
            repair_attempts: 2,
            repair_seconds: 60,
            replacements_max: 3,
            window_seconds: 600,
            backoff_ms: 1000,
            pin_revision: false,
            efficiency_min: None,
        }
    }
}

fn one_processor() -> Spanned<u32> {
    unplaced(1000)
}

fn many_processes() -> Spanned<u32> {
    unplaced(1024)
}

fn no_storage() -> Spanned<u32> {
    unplaced(0)
}

fn five_seconds() -> Spanned<u32> {
    unplaced(5000)
}

fn two_seconds() -> Spanned<u32> {
    unplaced(2000)
}

fn three() -> Spanned<u32> {
    unplaced(3)
}

/// A value that the file does not name: it has no place there.
fn unplaced<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {reason}")]
pub struct FileError {
    pub line: usize,
    pub column: usize,
    pub reason: String,
}

impl FileError {
    fn at(text: &str, offset: usize, reason: impl Into<String>) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Self {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            reason: reason.into(),
        }
    }
}

impl InstanceFile {
    /// Reads a file and checks everything that can be known without a machine.
    pub fn parse(text: &str) -> Result<Self, FileError> {
        if text.len() > FILE_BYTES_MAX {
            let reason = format!(
                "the file has {} bytes; at most {FILE_BYTES_MAX} are possible",
                text.len()
            );
            return Err(FileError::at(text, FILE_BYTES_MAX, reason));
        }
        let read: Result<Self, toml::de::Error> = toml::from_str(text);
        let file = read.map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            FileError::at(text, offset, error.message())
        })?;
        check::check(&file).map_err(|(span, reason)| FileError::at(text, span.start, reason))?;
        Ok(file)
    }

    /// Whether a server of its kind keeps to every limit that the file names. What no limit is enforced by is refused
    /// rather than kept in silence; `text` is what the file was read from.
    pub fn check_limits(&self, text: &str) -> Result<(), FileError> {
        check::limits(self).map_err(|(span, reason)| FileError::at(text, span.start, reason))
    }

    /// When servers like this wait, whatever is expected. The file has been checked.
    pub fn schedules(&self) -> Vec<Schedule> {
        self.schedule.iter().filter_map(|window| window.read().ok()).collect()
    }

    /// The names of its roles.
    pub fn role_names(&self) -> Vec<&str> {
        self.roles.keys().map(|name| name.get_ref().as_str()).collect()
    }
}

#[cfg(test)]
mod tests;
