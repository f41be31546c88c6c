//! What the store keeps of a run that has a checkpoint.

use std::collections::BTreeMap;

use bowline_foundation::digest::Digest;
use bowline_sandbox::MachineNeeds;
use bowline_store::blob::Naming;
use bowline_store::record::Record;
use serde::{Deserialize, Serialize};

/// Decisions that a record holds; the oldest make room.
const DECISIONS_MAX: usize = 32;

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Some node has it and renews its lease.
    Running,
    /// It waits to be resumed.
    Suspended,
    /// It has an outcome that nobody has fetched.
    Finished,
}

/// A run and its last checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The request id.
    pub run: String,
    pub account: String,
    pub function: String,
    pub version: String,
    /// Of the package: only the very same code goes on with the run.
    pub code: Digest,
    pub invoked_arn: String,
    pub phase: Phase,
    /// Rises whenever somebody goes on with the run.
    pub epoch: u64,
    /// The node that has it; of one that is suspended, the one that had it last.
    pub node: String,
    /// Until when nobody else may take it, in milliseconds since 1970.
    pub lease_ms: u64,
    pub started_ms: u64,
    /// When it must have ended.
    pub deadline_ms: u64,
    /// The time the invocation had at its beginning.
    pub limit_ms: u64,
    pub checkpoint: Kept,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Ended>,
    #[serde(default)]
    pub decisions: Vec<Decision>,
}

/// Where a checkpoint lies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// The first of a run is 1.
    pub number: u64,
    /// Of the signed bytes, by which the blob is found.
    pub digest: Digest,
    /// What kind of digest that is. Nodes before wrote SHA-256 and did not say so.
    #[serde(default, skip_serializing_if = "is_sha256")]
    pub naming: Naming,
    pub bytes: u64,
    pub resident_bytes: u64,
    pub taken_ms: u64,
    /// From the request until the bytes were there.
    pub took_us: u64,
    /// Why it was taken.
    pub reason: String,
    /// What it needs, if it is a whole machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineNeeds>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives references")]
fn is_sha256(naming: &Naming) -> bool {
    *naming == Naming::Sha256
}

/// How a run ended whose caller is gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// The type of the function's error, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<String>,
    /// The answer, or the error's payload.
    pub payload: Digest,
    pub at_ms: u64,
}

/// Why something was done with a run, with what was looked at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    pub at_ms: u64,
    /// `suspend`, `resume`, `move` or `stay`.
    pub what: String,
    pub why: String,
    #[serde(default)]
    pub values: BTreeMap<String, String>,
}

impl RunRecord {
    /// Adds a decision.
    pub(super) fn decided(&mut self, decision: Decision) {
        self.decisions.push(decision);
        let surplus = self.decisions.len().saturating_sub(DECISIONS_MAX);
        self.decisions.drain(..surplus);
    }

    /// All blobs that the record names.
    pub(super) fn blobs(&self) -> impl Iterator<Item = Digest> + use<> {
        let payload = self.outcome.as_ref().map(|outcome| outcome.payload);
        [Some(self.checkpoint.digest), payload].into_iter().flatten()
    }
}

impl Record for RunRecord {
    const FORMAT: u32 = 1;
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::suspend) fn record() -> RunRecord {
        RunRecord {
            run: "01234567-89ab-4cde-8f01-23456789abcd".to_owned(),
            account: "000000000000".to_owned(),
            function: "hashes".to_owned(),
            version: "$LATEST".to_owned(),
            code: Digest::of(b"code"),
            invoked_arn: "arn:aws:lambda:us-east-1:000000000000:function:hashes".to_owned(),
            phase: Phase::Suspended,
            epoch: 3,
            node: "0123456789abcdef".to_owned(),
            lease_ms: 1_000,
            started_ms: 500,
            deadline_ms: 9_000,
            limit_ms: 8_500,
            checkpoint: Kept {
                number: 2,
                digest: Digest::of(b"checkpoint"),
                naming: Naming::Sha256,
                bytes: 10,
                resident_bytes: 4096,
                taken_ms: 900,
                took_us: 150,
                reason: "operator".to_owned(),
                machine: None,
            },
            outcome: Some(Ended {
                error_type: Some("Sandbox.Timedout".to_owned()),
                payload: Digest::of(b"{}"),
                at_ms: 9_001,
            }),
            decisions: vec![Decision {
                at_ms: 900,
                what: "suspend".to_owned(),
                why: "operator".to_owned(),
                values: BTreeMap::from([("cpu".to_owned(), "0.97".to_owned())]),
            }],
        }
    }

    /// The format as it is in the stores of nodes that run.
    #[test]
    fn a_record_survives_its_bytes() {
        let golden = include_bytes!("golden/run-1.json");
        let record = record();
        assert_eq!(
            String::from_utf8_lossy(&record.encode()),
            String::from_utf8_lossy(golden).trim_end()
        );
        assert_eq!(RunRecord::decode(golden).unwrap(), record);
    }

    /// The same of one whose checkpoint has a name of the faster kind.
    #[test]
    fn a_record_with_another_naming_survives_its_bytes() {
        let golden = include_bytes!("golden/run-1-blake3.json");
        let mut record = record();
        record.checkpoint.naming = Naming::Blake3;
        assert_eq!(
            String::from_utf8_lossy(&record.encode()),
            String::from_utf8_lossy(golden).trim_end()
        );
        assert_eq!(RunRecord::decode(golden).unwrap(), record);
    }

    /// The same of one whose checkpoint is a whole machine.
    #[test]
    fn a_machine_s_record_survives_its_bytes() {
        let golden = include_bytes!("golden/run-1-machine.json");
        let mut record = record();
        record.checkpoint.machine = Some(MachineNeeds {
            machine: "microvm".to_owned(),
            processors: 1,
            memory_mib: 512,
            accelerator: "kvm".to_owned(),
            processor: "Some CPU".to_owned(),
            features: vec!["avx2".to_owned()],
            qemu: "7.2.22".to_owned(),
            image: Digest::of(b"image").to_string(),
            tsc_khz: Some(2_600_000),
        });
        assert_eq!(
            String::from_utf8_lossy(&record.encode()),
            String::from_utf8_lossy(golden).trim_end()
        );
        assert_eq!(RunRecord::decode(golden).unwrap(), record);
    }

    #[test]
    fn old_decisions_make_room() {
        let mut record = record();
        for number in 0..100 {
            record.decided(Decision {
                at_ms: number,
                ..record.decisions[0].clone()
            });
        }
        assert_eq!(record.decisions.len(), DECISIONS_MAX);
        assert_eq!(record.decisions.last().unwrap().at_ms, 99);
    }
}
