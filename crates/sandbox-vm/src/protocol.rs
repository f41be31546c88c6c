//! What the host and the first process of a guest say to each other: one JSON line for each order and answer.
//!
//! The host trusts nothing that a guest says: lines are bounded and read into these shapes or refused.

use serde::{Deserialize, Serialize};

use crate::machine::Access;

/// The name of the port that carries these lines.
pub const CONTROL_PORT: &str = "bowline.control";
/// The name of the port that is a plain stream of bytes, for an agent.
pub const AGENT_PORT: &str = "bowline.agent";
/// The serial number of the disk with the root.
pub const ROOT_DISK: &str = "root";
/// The version of these lines; an image is made for one.
pub const VERSION: u32 = 3;
/// How much a program's output may be, in bytes; the rest is dropped.
pub const OUTPUT_BYTES_MAX: usize = 64 * 1024;

/// The serial number of the disk in a place for volumes.
pub fn volume_disk(slot: u32) -> String {
    format!("volume{slot}")
}

/// A volume as the guest is to see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// In which place for volumes it is.
    pub slot: u32,
    /// Absolute. A folder at the top of the file system is made if it is missing.
    pub target: String,
    pub access: Access,
}

/// What the host wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    pub id: u64,
    #[serde(flatten)]
    pub order: Order,
}

/// The orders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// Answer with the clock.
    Ping,
    /// Set the clock, and stir fresh randomness into the pool: after a restore nothing may repeat.
    Renew {
        /// Microseconds since the Unix epoch.
        micros: u64,
        /// Random bytes, base64.
        entropy: String,
    },
    /// Say how much memory there is.
    Memory,
    /// Draw some randomness from the kernel.
    Draw,
    /// Let the agent and all that it starts be no more processes and threads than that.
    Limit { processes: u32 },
    /// Show the volumes that have come since the machine was saved.
    Mount { mounts: Vec<Mount> },
    /// Write what these volumes hold back, and let nobody write to them any more.
    Settle { targets: Vec<String> },
    /// Run a program to its end.
    Run {
        argv: Vec<String>,
        /// When to kill it, in milliseconds from now.
        milliseconds: u64,
    },
}

/// What the guest says; number 0 is said unasked, once, when it is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub id: u64,
    #[serde(flatten)]
    pub reply: Reply,
}

/// The answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// The guest has started.
    Ready { version: u32 },
    /// It is done. The guest's clock, in microseconds since the Unix epoch.
    Clock { micros: u64 },
    /// Its memory, in bytes.
    Memory { total: u64, available: u64 },
    /// Random bytes, base64.
    Drawn { bytes: String },
    /// A program has ended.
    Ran {
        /// Its exit code; none if a signal ended it.
        code: Option<i32>,
        /// What it wrote to both outputs, base64.
        output: String,
        /// Whether it was killed because its time was up.
        timed_out: bool,
    },
    /// The order could not be carried out.
    Failed { reason: String },
}

impl Answer {
    /// Reads one line of a guest.
    pub fn parse(line: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(line)
    }
}

/// One line, with its end.
pub fn line(words: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(words).expect("these shapes have no maps with odd keys");
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_and_answers_survive_their_lines() {
        let orders = [
            Order::Ping,
            Order::Renew {
                micros: 1,
                entropy: "AAAA".to_owned(),
            },
            Order::Memory,
            Order::Draw,
            Order::Limit { processes: 7 },
            Order::Mount {
                mounts: vec![Mount {
                    slot: 1,
                    target: "/data".to_owned(),
                    access: Access::Read,
                }],
            },
            Order::Settle {
                targets: vec!["/data".to_owned()],
            },
            Order::Run {
                argv: vec!["a".to_owned()],
                milliseconds: 5,
            },
        ];
        for order in orders {
            let ask = Ask { id: 9, order };
            let text = line(&ask);
            assert_eq!(serde_json::from_slice::<Ask>(&text).unwrap(), ask);
        }
        let answer = Answer {
            id: 0,
            reply: Reply::Ready { version: VERSION },
        };
        assert_eq!(line(&answer), b"{\"id\":0,\"reply\":\"ready\",\"version\":3}\n");
        assert_eq!(Answer::parse(&line(&answer)).unwrap(), answer);
        for bad in [
            "",
            "{}",
            r#"{"id":1}"#,
            r#"{"id":1,"reply":"dance"}"#,
            r#"{"id":-1,"reply":"ready","version":1}"#,
        ] {
            assert!(Answer::parse(bad.as_bytes()).is_err(), "`{bad}` was read");
        }
    }
}
