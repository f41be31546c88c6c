//! What the host and the first process of a guest say to each other: one JSON line for each order and answer.
//!
//! The host trusts nothing that a guest says: lines are bounded and read into these shapes or refused.

use serde::{Deserialize, Serialize};

/// The name of the port that carries these lines.
pub const CONTROL_PORT: &str = "bowline.control";
/// The name of the port that is a plain stream of bytes, for an agent.
pub const AGENT_PORT: &str = "bowline.agent";
/// The version of these lines; an image is made for one.
pub const VERSION: u32 = 2;
/// How much a program's output may be, in bytes; the rest is dropped.
pub const OUTPUT_BYTES_MAX: usize = 64 * 1024;

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
    /// The guest's clock, in microseconds since the Unix epoch.
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
        assert_eq!(line(&answer), b"{\"id\":0,\"reply\":\"ready\",\"version\":2}\n");
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
