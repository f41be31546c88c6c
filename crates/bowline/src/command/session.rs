//! `bowline session`: reads a stream from a place that the service remembers.

mod create;
mod read;

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::{cell, field, payload, removed};
use crate::client::{Client, Remote, escape};
use crate::output::{Output, table};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Args)]
struct Named {
    /// The session's identifier.
    session: String,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a session on a stream.
    Create(create::Create),
    /// Take the next batch of events and print it with its token.
    Read(read::Read),
    /// Acknowledge a batch: all its events are processed.
    Ack {
        #[command(flatten)]
        named: Named,
        /// The batch's token.
        token: String,
    },
    /// Say that a batch failed: it is given out again, or parked.
    Nack {
        #[command(flatten)]
        named: Named,
        /// The batch's token.
        token: String,
        /// Give it out again only after so long.
        #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "park")]
        delay_seconds: u64,
        /// Put it on the parking list at once.
        #[arg(long)]
        park: bool,
        /// Why, for whoever looks at it later.
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Keep a batch for longer.
    Extend {
        #[command(flatten)]
        named: Named,
        /// The batch's token.
        token: String,
        /// How long from now.
        #[arg(long, value_name = "N")]
        lease_seconds: u64,
    },
    /// Move a session; what is in flight is forgotten, what is parked stays.
    Seek {
        #[command(flatten)]
        named: Named,
        /// `oldest`, `latest`, a time (2026-11-20T23:24:39Z), or a position: after it.
        to: String,
    },
    /// List the sessions of a stream.
    Ls {
        /// The stream's name.
        stream: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Show a session: settings, cursor, lag, what is in flight.
    Show(Named),
    /// End a session.
    Rm(Named),
    /// List the batches whose attempts are used up.
    Parked(Named),
    /// Give parked batches out again.
    Redrive {
        #[command(flatten)]
        named: Named,
        /// The batches' numbers; all without any.
        batches: Vec<u64>,
    },
    /// Forget parked batches.
    Discard {
        #[command(flatten)]
        named: Named,
        /// The batches' numbers.
        #[arg(required = true)]
        batches: Vec<u64>,
    },
}

pub fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::Create(create) => create.run(output)?,
        Action::Read(read) => return read.run(output),
        Action::Ls { stream, remote } => list(&remote.client(), &stream, output)?,
        Action::Show(named) => {
            let session = named.remote.client().get(&named.path(""))?;
            output.print(&session, || describe(&session))?;
        }
        Action::Rm(named) => {
            named.remote.client().delete(&named.path(""))?;
            output.print(&removed(&named.session), || {
                format!("removed session {}", named.session)
            })?;
        }
        Action::Seek { named, to } => {
            let cursor = named.remote.client().post(&named.path("/seek"), &json!({ "to": to }))?;
            output.print(&cursor, || {
                format!("the session goes on after {}", cell(&cursor["cursor"]))
            })?;
        }
        Action::Parked(named) => parked(&named, output)?,
        Action::Redrive { named, batches } => named.settle_parked("redrive", &batches, output)?,
        Action::Discard { named, batches } => named.settle_parked("drop", &batches, output)?,
        settling => settle(settling, output)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn settle(action: Action, output: Output) -> anyhow::Result<()> {
    match action {
        Action::Ack { named, token } => {
            named.settle(&token, "ack", &json!({}))?;
            output.print(&json!({ "acknowledged": token }), || format!("acknowledged {token}"))
        }
        Action::Nack {
            named,
            token,
            delay_seconds,
            park,
            reason,
        } => {
            let mut body = json!({ "park": park, "reason": reason });
            if !park {
                body["delay_ms"] = json!(delay_seconds.saturating_mul(1000));
            }
            named.settle(&token, "nack", &body)?;
            let what = if park { "parked" } else { "returned" };
            output.print(&json!({ what: token }), || format!("{what} {token}"))
        }
        Action::Extend {
            named,
            token,
            lease_seconds,
        } => {
            let body = json!({ "lease_ms": lease_seconds.saturating_mul(1000) });
            let lease = named.settle(&token, "extend", &body)?;
            output.print(&lease, || format!("kept until {}", cell(&lease["lease_until"])))
        }
        _ => anyhow::bail!("the action settles nothing"),
    }
}

impl Named {
    fn path(&self, below: &str) -> String {
        path(&self.session, below)
    }

    fn settle(&self, token: &str, deed: &str, body: &Value) -> anyhow::Result<Value> {
        let below = format!("/batches/{}/{deed}", escape(token));
        Ok(self.remote.client().post(&self.path(&below), body)?)
    }

    fn settle_parked(&self, deed: &str, batches: &[u64], output: Output) -> anyhow::Result<()> {
        let body = if batches.is_empty() {
            json!({})
        } else {
            json!({ "batches": batches })
        };
        let done = self
            .remote
            .client()
            .post(&self.path(&format!("/parked/{deed}")), &body)?;
        let what = if deed == "drop" { "forgotten" } else { "given out again" };
        output.print(&done, || format!("{} batches are {what}", cell(&done["count"])))
    }
}

/// The path of a session, or of what lies below it.
fn path(session: &str, below: &str) -> String {
    format!("/v1/sessions/{}{below}", escape(session))
}

fn list(client: &Client, stream: &str, output: Output) -> anyhow::Result<()> {
    let sessions = client.pages("/v1/sessions", &format!("&stream={}", escape(stream)))?;
    output.print(&json!({ "sessions": sessions }), || {
        if sessions.is_empty() {
            return format!("no sessions yet; `bowline session create {stream}` makes one");
        }
        let row = |session: &Value| [cell(&session["session"]), cell(&session["stream"])];
        table(["SESSION", "STREAM"], &sessions.iter().map(row).collect::<Vec<_>>())
    })
}

fn describe(session: &Value) -> String {
    let mut text = String::new();
    for (label, member) in [
        ("session", "session"),
        ("name", "name"),
        ("stream", "stream"),
        ("state", "state"),
        ("mode", "mode"),
        ("order", "order"),
        ("filter", "filter"),
        ("start", "start"),
        ("cursor", "cursor"),
        ("lag ms", "lag_ms"),
        ("lease ms", "lease_ms"),
        ("attempts", "attempts_max"),
        ("waiting", "waiting_batches"),
        ("parked", "parked_batches"),
        ("expires", "expires"),
    ] {
        text.push_str(&field(label, &session[member]));
    }
    let in_flight = session["in_flight"].as_array().into_iter().flatten();
    let row = |set: &Value| ["batch", "events", "attempts", "worker", "due"].map(|member| cell(&set[member]));
    let rows: Vec<_> = in_flight.map(row).collect();
    if !rows.is_empty() {
        text.push('\n');
        text.push_str(&table(["BATCH", "EVENTS", "ATTEMPTS", "WORKER", "DUE"], &rows));
    }
    text
}

fn parked(named: &Named, output: Output) -> anyhow::Result<()> {
    let sets = named.remote.client().pages(&named.path("/parked"), "")?;
    output.print(&json!({ "parked": sets }), || {
        if sets.is_empty() {
            return "nothing is parked".to_owned();
        }
        let row = |set: &Value| {
            let events = set["events"].as_array().map_or(0, Vec::len);
            let [batch, attempts, worker, parked, reason] =
                ["batch", "attempts", "worker", "parked", "reason"].map(|member| cell(&set[member]));
            [batch, events.to_string(), attempts, worker, parked, reason]
        };
        let headings = ["BATCH", "EVENTS", "ATTEMPTS", "WORKER", "PARKED", "REASON"];
        table(headings, &sets.iter().map(row).collect::<Vec<_>>())
    })
}
