//! `bowline stream tail`: the newest events, and those that come.

use std::io::{BufRead, BufReader};

use serde_json::{Value, json};

use super::{path, show};
use crate::client::{Client, Remote, header};
use crate::output::{self, Output};

#[derive(Debug, clap::Args)]
pub struct Tail {
    /// The stream's name.
    name: String,
    /// How many of the newest events to print.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(..=1000))]
    limit: u16,
    /// Go on printing as events come, until interrupted; with --json one event a line.
    #[arg(short, long)]
    follow: bool,
    /// Print the position, time and key of each event before its body.
    #[arg(short, long)]
    long: bool,
    #[command(flatten)]
    remote: Remote,
}

impl Tail {
    pub fn run(&self, output: Output) -> anyhow::Result<()> {
        let client = self.remote.client();
        // The end is asked for first: what comes after it is followed, what lies before it is read back.
        let end = client.get(&path(&self.name, "/events?from=latest&limit=1"))?;
        let end = end["next"].as_str().unwrap_or_default().to_owned();
        let events = match self.limit {
            0 => Vec::new(),
            limit => self.newest(&client, &format!("/events?order=backward&limit={limit}"), &end)?,
        };
        if output.json && !self.follow {
            return output.print(&json!({ "events": events }), String::new);
        }
        for event in &events {
            self.print(event, output)?;
        }
        if self.follow {
            self.follow(&client, end, output)
        } else {
            Ok(())
        }
    }

    /// The newest events that are not beyond `end`, oldest first.
    fn newest(&self, client: &Client, query: &str, end: &str) -> anyhow::Result<Vec<Value>> {
        let mut page = client.get(&path(&self.name, query))?;
        let Value::Array(mut events) = page["events"].take() else {
            return Ok(Vec::new());
        };
        let is_known = |event: &Value| !self.follow || event["position"].as_str().is_some_and(|at| at <= end);
        events.retain(is_known);
        events.reverse();
        Ok(events)
    }

    /// Prints what comes; connects again where it was when the connection ends.
    fn follow(&self, client: &Client, mut last: String, output: Output) -> anyhow::Result<()> {
        loop {
            let mut headers = header("accept", "text/event-stream")?;
            headers.extend(header("last-event-id", &last)?);
            let stream = client.stream_with(&path(&self.name, "/events"), headers)?;
            let mut kind = String::new();
            for line in BufReader::new(stream).lines() {
                // A connection that breaks is made anew; one that cannot be made ends the command.
                let Ok(line) = line else { break };
                match line.split_once(": ") {
                    Some(("event", name)) => kind = name.to_owned(),
                    Some(("id", id)) => last = id.to_owned(),
                    Some(("data", data)) => self.take(&kind, data, output)?,
                    _ if line.is_empty() => kind.clear(),
                    _ => {}
                }
            }
        }
    }

    fn take(&self, kind: &str, data: &str, output: Output) -> anyhow::Result<()> {
        let document: Value = serde_json::from_str(data)?;
        match kind {
            "" => self.print(&document, output),
            "trimmed" => {
                eprintln!("note: {}", document["detail"].as_str().unwrap_or_default());
                Ok(())
            }
            _ => anyhow::bail!("the stream ended: {}", document["detail"].as_str().unwrap_or_default()),
        }
    }

    fn print(&self, event: &Value, output: Output) -> anyhow::Result<()> {
        if output.json {
            return output::line(&event.to_string());
        }
        show(event, self.long)
    }
}
