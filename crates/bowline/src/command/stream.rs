//! `bowline stream`: makes, fills, reads and follows streams.

mod append;
mod tail;

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::{cell, field, payload};
use crate::client::{Client, Remote, escape};
use crate::output::{self, Output, table};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a stream.
    Create(Create),
    /// Append events; done once they are on disk.
    Append(append::Append),
    /// Print events, oldest first.
    Read(Read),
    /// Print the newest events, and with -f those that come.
    Tail(tail::Tail),
    /// List the streams.
    Ls {
        #[command(flatten)]
        remote: Remote,
    },
    /// Show a stream: settings, chains, what is left.
    #[command(visible_alias = "stat")]
    Show {
        /// The stream's name.
        name: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Change how long and how much a stream keeps, and how far it may grow; what is not given stays.
    Set(Set),
    /// Delete a stream with its events and its sessions.
    Rm {
        /// The stream's name.
        name: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Give up the oldest events.
    Trim {
        /// The stream's name.
        name: String,
        /// Everything up to this position, or before this time (2026-11-20T23:24:39Z).
        #[arg(long, value_name = "POSITION|TIME")]
        until: String,
        #[command(flatten)]
        remote: Remote,
    },
}

#[derive(Debug, clap::Args)]
struct Create {
    /// Letters, digits, `.`, `_` and `-`.
    name: String,
    /// How many chains it begins with.
    #[arg(long, value_name = "N")]
    chains: Option<u32>,
    /// Events older than this are trimmed; without it none is.
    #[arg(long, value_name = "N")]
    age_max_seconds: Option<u64>,
    /// Once the stream is larger than this, its oldest events are trimmed.
    #[arg(long, value_name = "N")]
    bytes_max: Option<u64>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, clap::Args)]
#[group(id = "settings", multiple = true, required = true, args = ["age_max_seconds", "bytes_max", "tier_after_seconds", "chains_max"])]
struct Set {
    /// The stream's name.
    name: String,
    /// Events older than this are trimmed; `none`: never.
    #[arg(long, value_name = "N|none", value_parser = limit)]
    age_max_seconds: Option<Limit>,
    /// Once the stream is larger than this, its oldest events are trimmed; `none`: never.
    #[arg(long, value_name = "N|none", value_parser = limit)]
    bytes_max: Option<Limit>,
    /// Older parts of the stream move to blobs; `none`: never.
    #[arg(long, value_name = "N|none", value_parser = limit)]
    tier_after_seconds: Option<Limit>,
    /// Most chains that take events at the same time.
    #[arg(long, value_name = "N")]
    chains_max: Option<u32>,
    #[command(flatten)]
    remote: Remote,
}

/// A number, or none.
#[derive(Clone, Copy, Debug)]
struct Limit(Option<u64>);

fn limit(text: &str) -> Result<Limit, String> {
    if text == "none" {
        return Ok(Limit(None));
    }
    let number = text.parse().map_err(|_| "expected a whole number or `none`".to_owned());
    number.map(|number| Limit(Some(number)))
}

impl Set {
    fn run(&self, output: Output) -> anyhow::Result<()> {
        let mut body = json!({ "retention": {} });
        for (member, given, factor) in [
            ("age_max_ms", self.age_max_seconds, 1000),
            ("bytes_max", self.bytes_max, 1),
            ("tier_after_ms", self.tier_after_seconds, 1000),
        ] {
            if let Some(Limit(number)) = given {
                body["retention"][member] = json!(number.map(|number| number.saturating_mul(factor)));
            }
        }
        if let Some(chains) = self.chains_max {
            body["chains_max"] = json!(chains);
        }
        let set = self.remote.client().patch(&path(&self.name, ""), &body)?;
        output.print(&set, || {
            let (retention, chains) = (&set["retention"], cell(&set["chains_max"]));
            format!(
                "stream {} keeps {retention}, {chains} chains at most",
                cell(&set["name"])
            )
        })
    }
}

#[derive(Debug, clap::Args)]
struct Read {
    /// The stream's name.
    name: String,
    /// `oldest`, `latest`, a time (2026-11-20T23:24:39Z), or a position: events after it.
    #[arg(long, value_name = "PLACE")]
    from: Option<String>,
    /// Newest first.
    #[arg(long)]
    backward: bool,
    /// Most events.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Wait so long for an event if there is none.
    #[arg(long, value_name = "N", default_value_t = 0)]
    wait_seconds: u64,
    /// Print the position, time and key of each event before its body.
    #[arg(short, long)]
    long: bool,
    #[command(flatten)]
    remote: Remote,
}

pub fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::Create(create) => create.run(output)?,
        Action::Append(append) => append.run(output)?,
        Action::Read(read) => read.run(output)?,
        Action::Tail(tail) => tail.run(output)?,
        Action::Ls { remote } => list(&remote.client(), output)?,
        Action::Show { name, remote } => {
            let stream = remote.client().get(&path(&name, ""))?;
            output.print(&stream, || describe(&stream))?;
        }
        Action::Set(set) => set.run(output)?,
        Action::Rm { name, remote } => {
            remote.client().delete(&path(&name, ""))?;
            output.print(&json!({ "deleted": name }), || format!("deleted stream `{name}`"))?;
        }
        Action::Trim { name, until, remote } => {
            remote
                .client()
                .post(&path(&name, "/trim"), &json!({ "until": until }))?;
            let document = json!({ "trimmed": name, "until": until });
            output.print(&document, || format!("trimmed `{name}` until {until}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The path of a stream, or of what lies below it.
fn path(name: &str, below: &str) -> String {
    format!("/v1/streams/{}{below}", escape(name))
}

impl Create {
    fn run(&self, output: Output) -> anyhow::Result<()> {
        let mut body = json!({ "name": self.name, "retention": {} });
        if let Some(chains) = self.chains {
            body["chains"] = json!(chains);
        }
        if let Some(seconds) = self.age_max_seconds {
            body["retention"]["age_max_ms"] = json!(seconds.saturating_mul(1000));
        }
        if let Some(bytes) = self.bytes_max {
            body["retention"]["bytes_max"] = json!(bytes);
        }
        let made = self.remote.client().post("/v1/streams", &body)?;
        output.print(&made, || format!("made stream {}", cell(&made["stream"])))
    }
}

impl Read {
    fn run(&self, output: Output) -> anyhow::Result<()> {
        let client = self.remote.client();
        let mut place = self
            .from
            .as_ref()
            .map(|from| format!("&from={}", escape(from)))
            .unwrap_or_default();
        let (mut events, mut page) = (Vec::new(), Value::Null);
        let mut wait_ms = self.wait_seconds.saturating_mul(1000);
        while events.len() < self.limit && page["more"] != false {
            let order = if self.backward { "backward" } else { "forward" };
            let limit = (self.limit - events.len()).min(1000);
            let query = format!("/events?order={order}&limit={limit}&wait_ms={wait_ms}{place}");
            page = client.get(&path(&self.name, &query))?;
            if let Value::Array(found) = page["events"].take() {
                events.extend(found);
            }
            place = format!("&from={}", cell(&page["next"]));
            wait_ms = 0;
        }
        if output.json {
            let document = json!({ "events": events, "next": page["next"], "more": page["more"] });
            return output.print(&document, String::new);
        }
        events.iter().try_for_each(|event| show(event, self.long))
    }
}

/// Prints an event: its body, after what is known of it if wanted.
fn show(event: &Value, long: bool) -> anyhow::Result<()> {
    let mut line = Vec::new();
    if long {
        line.extend_from_slice(format!("{} {} ", cell(&event["position"]), cell(&event["time"])).as_bytes());
        match payload::get(event, "key") {
            key if key.is_empty() => line.push(b'-'),
            key => line.extend_from_slice(&key),
        }
        line.push(b' ');
    }
    line.extend_from_slice(&payload::get(event, "body"));
    line.push(b'\n');
    output::bytes(&line)
}

fn list(client: &Client, output: Output) -> anyhow::Result<()> {
    let streams = client.pages("/v1/streams", "")?;
    output.print(&json!({ "streams": streams }), || {
        if streams.is_empty() {
            return "no streams yet; `bowline stream create NAME` makes one".to_owned();
        }
        let rows: Vec<_> = streams
            .iter()
            .map(|stream| [cell(&stream["name"]), cell(&stream["stream"])])
            .collect();
        table(["NAME", "IDENTIFIER"], &rows)
    })
}

fn describe(stream: &Value) -> String {
    let mut text = String::new();
    for (label, member) in [
        ("name", "name"),
        ("identifier", "stream"),
        ("created", "created"),
        ("events", "events"),
        ("bytes", "bytes"),
        ("safe time", "safe_time"),
        ("lag ms", "lag_ms"),
        ("chains max", "chains_max"),
    ] {
        text.push_str(&field(label, &stream[member]));
    }
    for (label, member) in [
        ("age max ms", "age_max_ms"),
        ("bytes max", "bytes_max"),
        ("tier ms", "tier_after_ms"),
    ] {
        text.push_str(&field(label, &stream["retention"][member]));
    }
    let chains = stream["chains"].as_array().into_iter().flatten();
    let rows =
        chains.map(|chain| ["chain", "state", "owner", "epoch", "events", "bytes"].map(|member| cell(&chain[member])));
    text.push('\n');
    text.push_str(&table(
        ["CHAIN", "STATE", "OWNER", "EPOCH", "EVENTS", "BYTES"],
        &rows.collect::<Vec<_>>(),
    ));
    text
}
