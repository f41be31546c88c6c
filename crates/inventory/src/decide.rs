//! What is done about a server that broke: pure decisions, from facts and a time.

use std::time::Duration;

use bowline_foundation::clock::Timestamp;
use serde::{Deserialize, Serialize};

use crate::file::Policy;

/// What was found to be wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "failure", rename_all = "kebab-case")]
pub enum Failure {
    /// One service ended or is unwell; the server around it lives.
    Service { service: String, reason: String },
    /// A service cannot be started at all.
    Unstartable { service: String, reason: String },
    /// The agent is gone or silent: the server does not answer.
    Unreachable { reason: String },
    /// It was not ready in time.
    BootDeadline,
    /// Its resources could not be set up, or it could not be started.
    NotStarted { reason: String },
    /// Somebody said so.
    Reported { reason: String, repairable: bool },
    /// It runs, but not well enough.
    Inefficient { efficiency: f64, least: f64 },
}

/// Whether it is worth trying to make the server well again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repairability {
    Repairable,
    NotRepairable,
}

impl Failure {
    pub fn classify(&self) -> Repairability {
        match self {
            Self::Service { .. } | Self::Reported { repairable: true, .. } => Repairability::Repairable,
            _ => Repairability::NotRepairable,
        }
    }

    /// Why a server is replaced, in the record's words.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Inefficient { .. } => "efficiency",
            _ => "not_repairable",
        }
    }

    /// The service that is unwell, if it is one.
    pub fn service(&self) -> Option<&str> {
        match self {
            Self::Service { service, .. } => Some(service),
            _ => None,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Service { service, reason } => write!(f, "service `{service}`: {reason}"),
            Self::Unstartable { service, reason } => write!(f, "service `{service}` cannot be started: {reason}"),
            Self::Unreachable { reason } => write!(f, "the server does not answer: {reason}"),
            Self::BootDeadline => f.write_str("the server was not ready before its boot deadline"),
            Self::NotStarted { reason } => write!(f, "the server could not be started: {reason}"),
            Self::Reported { reason, .. } => write!(f, "reported: {reason}"),
            Self::Inefficient { efficiency, least } => write!(f, "efficiency {efficiency} is below {least}"),
        }
    }
}

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Repair,
    Replace,
}

/// Whether a failure is repaired, after so many attempts since the server was last well for the length of a window.
pub fn judge(failure: &Failure, attempts: u32, policy: &Policy) -> Verdict {
    match failure.classify() {
        Repairability::Repairable if attempts < policy.repair_attempts => Verdict::Repair,
        _ => Verdict::Replace,
    }
}

/// Whether a measured efficiency calls for a replacement: strictly below the least.
pub fn inefficient(efficiency: f64, policy: &Policy) -> Option<Failure> {
    let least = policy.efficiency_min?;
    (efficiency < least).then_some(Failure::Inefficient { efficiency, least })
}

/// Whether another replacement may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storm {
    /// Not before this moment.
    From(Timestamp),
    /// There were too many: somebody must look.
    Hold,
}

/// Judges by the replacements so far, oldest first.
pub fn storm(replacements: &[Timestamp], policy: &Policy, now: Timestamp) -> Storm {
    let window = Duration::from_secs(policy.window_seconds.into());
    let recent = recent(replacements, window, now);
    let count = u32::try_from(recent.len()).unwrap_or(u32::MAX);
    if count >= policy.replacements_max {
        return Storm::Hold;
    }
    let Some(last) = recent.last() else {
        return Storm::From(now);
    };
    let backoff = Duration::from_millis(policy.backoff_ms.into()) * (1 << (count - 1).min(16));
    Storm::From(last.after(backoff.min(window)).max(now))
}

/// Those that still count.
pub fn recent(replacements: &[Timestamp], window: Duration, now: Timestamp) -> &[Timestamp] {
    let begin = now.before(window);
    let first = replacements.partition_point(|at| *at <= begin);
    &replacements[first..]
}

#[cfg(test)]
mod tests;
