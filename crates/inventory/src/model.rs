//! What is known of instances, and how it is kept.

use std::net::{IpAddr, Ipv4Addr};

use bowline_capacity::fleet::{Criteria, Usage};
use bowline_foundation::clock::Timestamp;
use bowline_foundation::digest::Digest;
use bowline_foundation::id::AccountId;
use bowline_sandbox_vm::{Accelerator, MachineKind};
use bowline_store::record::Record;
use serde::{Deserialize, Serialize};

use crate::decide::Failure;
use crate::file::{Effective, Kind, Policy};

/// A configuration file as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileRecord {
    pub account: AccountId,
    pub id: String,
    /// Grows by one with each change.
    pub revision: u64,
    pub digest: Digest,
    pub text: String,
    pub at: Timestamp,
}

/// Where a server is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    Requested,
    Configuring,
    SpinningUp,
    Running,
    Error,
    Repairing,
    AccessTerminated,
    Destroyed,
}

/// One virtual server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Server {
    pub id: String,
    pub state: State,
    pub since: Timestamp,
    /// Its own address, while it has one.
    pub address: Option<String>,
    /// The file it was made from.
    pub revision: u64,
    pub digest: Digest,
    pub effective: Effective,
    /// The server whose place it took.
    pub replaces: Option<String>,
    /// Of the last link to its agent.
    pub epoch: u64,
    pub repairs: u32,
    pub detail: Option<String>,
    /// How it runs, if it is a virtual machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineFacts>,
}

impl Server {
    /// Where its services are looked for, as its agent sees them: the first that answers counts. What listens at 127.0.0.1 in
    /// a virtual machine is its own.
    pub fn hosts(&self) -> Vec<IpAddr> {
        let own: Option<IpAddr> = self.address.as_ref().and_then(|address| address.parse().ok());
        let is_alone = own.is_none() || self.effective.kind == Kind::Vm;
        let loopback = is_alone.then_some(Ipv4Addr::LOCALHOST.into());
        own.into_iter().chain(loopback).collect()
    }
}

/// How a server runs that is a virtual machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineFacts {
    pub kind: MachineKind,
    pub processors: u32,
    pub accelerator: Accelerator,
    /// Why the processor does not run its instructions, if it does not.
    pub why_not_kvm: Option<String>,
    /// The golden snapshot that it began from.
    pub golden: Digest,
    /// Whether that was there before, so that nothing had to boot for it.
    pub golden_was_kept: bool,
    /// How long it took from nothing to its first answer, once the snapshot was there.
    pub ready_ms: u64,
    /// The process of its QEMU.
    pub process: u32,
}

/// How far a replacement has come. Each step is committed before the next begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// It is known that the server must be replaced.
    Detected,
    /// The old one has no access to anything.
    Fenced,
    /// The new one has a name and a configuration.
    Created,
    /// The new one runs.
    Started,
}

/// A replacement under way, or one that is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Replacement {
    pub failed: String,
    pub reason: String,
    pub step: Step,
    pub fenced_at: Option<Timestamp>,
    pub digest_used: Option<Digest>,
    pub new: Option<Server>,
    pub attempts: u32,
}

/// What an instance waits for, if nothing goes on by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "hold", rename_all = "snake_case")]
pub enum Hold {
    /// Too many replacements.
    Storm { replacements: u32 },
    /// Its file is missing, unreadable or infeasible.
    File { reason: String },
}

/// An instance: a name that servers take turns to fill.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    pub account: AccountId,
    pub name: String,
    /// The identifier of its file.
    pub file: String,
    pub role: Option<String>,
    /// The node that has its servers.
    pub node: String,
    pub created: Timestamp,
    pub server: Server,
    pub failure: Option<Failure>,
    pub replacement: Option<Replacement>,
    /// When servers were replaced, oldest first; those that no longer count are forgotten.
    pub replaced_at: Vec<Timestamp>,
    pub hold: Option<Hold>,
    /// Takes no new work.
    pub draining: bool,
    /// It does so because little was used, not because a person said so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub surplus: bool,
    /// Is being removed.
    pub removing: bool,
    pub next_event: u64,
}

impl Instance {
    pub fn kind(&self) -> Kind {
        self.server.effective.kind
    }

    pub fn policy(&self) -> &Policy {
        &self.server.effective.policy
    }

    pub fn is_drained_by_person(&self) -> bool {
        self.draining && !self.surplus
    }

    /// The server that is made or used now.
    pub fn current(&self) -> &Server {
        match &self.replacement {
            Some(Replacement { new: Some(new), .. }) => new,
            _ => &self.server,
        }
    }

    /// `HELD` where nothing goes on by itself, otherwise the state of its server.
    pub fn shown_state(&self) -> String {
        match (&self.hold, serde_json::to_value(self.current().state)) {
            (Some(Hold::Storm { .. }), _) => "HELD".to_owned(),
            (_, Ok(serde_json::Value::String(state))) => state,
            _ => "UNKNOWN".to_owned(),
        }
    }
}

/// Something that happened to an instance, in the order of `number`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub number: u64,
    pub what: String,
    pub server: String,
    pub detail: Option<String>,
    pub at: Timestamp,
}

/// Which server had which role when, by its address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    pub server: String,
    pub instance: String,
    pub role: Option<String>,
    pub address: Option<String>,
    pub from: Timestamp,
    pub to: Option<Timestamp>,
}

/// What something that a role uses costs, for each unit and each time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CostIndication {
    pub role: String,
    pub server: Option<String>,
    pub price: f64,
    pub currency: String,
    /// `mib` or `vcpu`, say.
    pub per_unit: String,
    /// `hour`, say.
    pub per_time: String,
    pub at: Timestamp,
}

/// The answer that a client's token stands for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Of the request.
    pub request: Digest,
    /// What it made.
    pub name: String,
    pub at: Timestamp,
}

/// Whoever holds something that only one may have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    pub server: String,
}

/// By what an account's versions are sent to its fleets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FleetsRecord {
    pub account: AccountId,
    pub criteria: Criteria,
}

/// How often one version of an account with fleets is called, and what follows from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UsageRecord {
    pub account: AccountId,
    pub function: String,
    pub version: String,
    pub usage: Usage,
}

/// Who did what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditRow {
    pub account: AccountId,
    pub request_id: String,
    pub action: String,
    pub subject: String,
    pub before: Option<Digest>,
    pub after: Option<Digest>,
    pub at: Timestamp,
}

macro_rules! records {
    ($($record:ty),*) => { $(impl Record for $record { const FORMAT: u32 = 1; })* };
}

records!(
    FileRecord,
    Instance,
    Replacement,
    Event,
    Assignment,
    CostIndication,
    TokenRecord,
    Claim,
    FleetsRecord,
    UsageRecord,
    AuditRow
);

#[cfg(test)]
mod tests;
