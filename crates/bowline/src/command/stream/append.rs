//! `bowline stream append`: events from arguments, a file or standard input, in batches.

use std::io::{BufRead, BufReader, Read};

use anyhow::Context;
use serde_json::{Value, json};
use ureq::http::Method;

use super::{cell, path, payload};
use crate::client::{Client, Remote, header};
use crate::output::Output;

/// Events of one request, and about how many bytes.
const BATCH_EVENTS_MAX: usize = 1000;
const BATCH_BYTES_MAX: usize = 1024 * 1024;

#[derive(Debug, clap::Args)]
pub struct Append {
    /// The stream's name.
    name: String,
    /// The events' bodies; without any, each line of standard input is one.
    events: Vec<String>,
    /// Take each line of `@FILE`, or of standard input with `-`, as an event.
    #[arg(short, long, value_name = "SOURCE", conflicts_with = "events")]
    data: Option<String>,
    /// What all the events are about.
    #[arg(long)]
    key: Option<String>,
    /// The identifier of a single event (32 hexadecimal digits or a UUID): sent again, it is stored once.
    #[arg(long, requires = "events")]
    id: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

/// Events on their way.
struct Batch<'a> {
    client: Client,
    append: &'a Append,
    lines: Vec<u8>,
    events: usize,
    appended: u64,
    last: Value,
}

impl Append {
    pub fn run(&self, output: Output) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.id.is_none() || self.events.len() == 1,
            "`--id` names one event; give exactly one"
        );
        let mut batch = Batch {
            client: self.remote.client(),
            append: self,
            lines: Vec::new(),
            events: 0,
            appended: 0,
            last: Value::Null,
        };
        if self.events.is_empty() {
            let source = self.data.as_deref().unwrap_or("-");
            batch.read(payload::open(source)?)?;
        } else {
            for event in &self.events {
                batch.add(event.as_bytes())?;
            }
        }
        batch.send()?;
        let (appended, last) = (batch.appended, batch.last);
        let document = json!({ "appended": appended, "last": last });
        output.print(&document, || match appended {
            0 => "nothing to append".to_owned(),
            1 => format!("appended 1 event to `{}` at {}", self.name, cell(&last)),
            many => format!("appended {many} events to `{}`, the last at {}", self.name, cell(&last)),
        })
    }
}

impl Batch<'_> {
    /// Adds each line. What has come is sent before more is waited for.
    fn read(&mut self, mut source: BufReader<Box<dyn Read>>) -> anyhow::Result<()> {
        let mut line = Vec::new();
        loop {
            line.clear();
            if source.read_until(b'\n', &mut line).context("cannot read the events")? == 0 {
                return Ok(());
            }
            let event = line.strip_suffix(b"\n").unwrap_or(&line);
            self.add(event)?;
            // Whatever else has come lies in the buffer already.
            if self.events >= BATCH_EVENTS_MAX || source.buffer().is_empty() {
                self.send()?;
            }
        }
    }

    fn add(&mut self, body: &[u8]) -> anyhow::Result<()> {
        let mut event = json!({});
        payload::put(&mut event, "body", body);
        if let Some(key) = &self.append.key {
            event["key"] = json!(key);
        }
        if let Some(id) = &self.append.id {
            event["id"] = json!(id);
        }
        let text = event.to_string();
        if self.lines.len() + text.len() > BATCH_BYTES_MAX {
            self.send()?;
        }
        self.lines.extend_from_slice(text.as_bytes());
        self.lines.push(b'\n');
        self.events += 1;
        Ok(())
    }

    fn send(&mut self) -> anyhow::Result<()> {
        if self.events == 0 {
            return Ok(());
        }
        let mut headers = header("content-type", "application/x-ndjson")?;
        headers.extend(header("prefer", "return=minimal")?);
        let lines = std::mem::take(&mut self.lines);
        let path = path(&self.append.name, "/events");
        let answer = self.client.send_json(Method::POST, &path, headers, lines);
        let answer = answer.with_context(|| match self.appended {
            0 => "nothing was acknowledged".to_owned(),
            done => format!("the first {done} events are stored, those after them were not acknowledged"),
        })?;
        self.appended += self.events as u64;
        self.events = 0;
        self.last = answer["last"].clone();
        Ok(())
    }
}
