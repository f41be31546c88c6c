//! `bowline session create`.

use clap::ValueEnum;
use serde_json::json;
use ureq::http::{HeaderMap, Method};

use super::cell;
use crate::client::{Remote, header};
use crate::output::Output;

#[derive(Debug, clap::Args)]
pub struct Create {
    /// The stream's name.
    stream: String,
    /// `oldest`, `latest`, a time (2026-11-20T23:24:39Z), or a position: after it.
    #[arg(long, value_name = "PLACE", default_value = "oldest")]
    from: String,
    /// What happens to a batch whose reader is lost.
    #[arg(long, value_enum, default_value_t = Mode::AtLeastOnce)]
    mode: Mode,
    /// Which events may be with readers at the same time.
    #[arg(long, value_enum, default_value_t = Order::Free)]
    order: Order,
    /// How long a reader has to acknowledge a batch.
    #[arg(long, value_name = "N", default_value_t = 30)]
    lease_seconds: u64,
    /// How often a batch is given out before it is parked; 0: without end.
    #[arg(long, value_name = "N", default_value_t = 5)]
    attempts_max: u32,
    /// How long the session lives without a read.
    #[arg(long, value_name = "N", default_value_t = 86_400)]
    idle_ttl_seconds: u64,
    /// A CEL expression over `body`, `key`, `at` and `id`: only events for which it is true are given out.
    #[arg(long, value_name = "CEL")]
    filter: Option<String>,
    /// For people.
    #[arg(long, value_name = "TEXT", default_value = "")]
    name: String,
    /// The same token again names the session that it made.
    #[arg(long, value_name = "TEXT")]
    token: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    /// It is given out again after its lease, until it is acknowledged.
    AtLeastOnce,
    /// It is lost; nothing is given out twice.
    AtMostOnce,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Order {
    /// Any.
    Free,
    /// Of one key at most one batch.
    PerKey,
}

impl Create {
    pub fn run(&self, output: Output) -> anyhow::Result<()> {
        let mut body = json!({
            "stream": self.stream,
            "from": self.from,
            "mode": match self.mode {
                Mode::AtLeastOnce => "at_least_once",
                Mode::AtMostOnce => "at_most_once",
            },
            "order": match self.order {
                Order::Free => "free",
                Order::PerKey => "per_key",
            },
            "lease_ms": self.lease_seconds.saturating_mul(1000),
            "attempts_max": self.attempts_max,
            "idle_ttl_ms": self.idle_ttl_seconds.saturating_mul(1000),
            "name": self.name,
        });
        if let Some(filter) = &self.filter {
            body["filter"] = json!(filter);
        }
        let headers = match &self.token {
            Some(token) => header("idempotency-key", token)?,
            None => HeaderMap::new(),
        };
        let body = body.to_string().into_bytes();
        let made = self
            .remote
            .client()
            .send_json(Method::POST, "/v1/sessions", headers, body)?;
        // The identifier alone, so that a script can keep it.
        output.print(&made, || cell(&made["session"]))
    }
}
