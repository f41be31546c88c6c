//! Streamed answers: the first byte beside a buffered answer, and a hundred megabytes beside the reference's.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_foundation::clock::Clock;
use bowline_tests::artifact::zip_of;
use bowline_tests::{Artifact, Node};
use serde_json::json;

use super::client::{Connection, EVENT};
use super::subject::{Reference, Subjects};
use super::table::{Goal, Row};
use super::{Effort, median, progress};

/// Invocations of one round, of which the median is taken.
const HELLOS: usize = 500;
const PIECE_BYTES: usize = 64 * 1024;
const PIECES: usize = 1600;
const READ_BYTES: usize = 256 * 1024;

pub fn measure(subjects: &Subjects, effort: Effort) -> Result<Vec<Row>> {
    let reference = subjects.start_reference()?;
    let node = subjects.start_node()?;
    let lambda = node.lambda();
    for (name, artifact) in [("command", Artifact::command()?), ("flood", flood()?)] {
        lambda.deploy(name, &artifact, json!({"Timeout": 60}))?;
    }
    Ok(vec![
        first_byte(&node, effort)?,
        hundred_megabytes(&node, &reference, effort)?,
    ])
}

/// A command that writes `PIECES` pieces of `PIECE_BYTES` zeros.
fn flood() -> Result<Artifact> {
    let module = format!(
        r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 3)
        (func (export "_start") (local $left i32)
            (i32.store (i32.const 0) (i32.const 65536))
            (i32.store (i32.const 4) (i32.const {PIECE_BYTES}))
            (local.set $left (i32.const {PIECES}))
            (loop $again
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
                (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))))"#
    );
    let module = wat::parse_str(module)?;
    Ok(Artifact::provided(zip_of(&[("bootstrap.wasm", &module)])?))
}

fn first_byte(node: &Node, effort: Effort) -> Result<Row> {
    let mut buffered = Connection::open(&node.address())?;
    let mut streamed = Streamed::open(&node.address())?;
    let request = invocation("command", EVENT);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..=effort.rounds {
        progress(&format!("first streamed byte, round {round} of {}", effort.rounds));
        let (mut first, mut whole) = (Vec::new(), Vec::new());
        for _ in 0..HELLOS {
            whole.push(buffered.invoke("command", "")?.as_secs_f64() * 1e6);
            first.push(streamed.exchange(&request)?.first.as_secs_f64() * 1e6);
        }
        // The first round only warms up.
        if round > 0 {
            ours.push(median(first));
            theirs.push(median(whole));
        }
    }
    let row = "first streamed byte beside a whole buffered answer, Wasm command, p50";
    let goal = Goal::RatioAtMost(1.5);
    Ok(Row::judged(row, "us", goal, median(ours), Some(median(theirs))))
}

fn hundred_megabytes(node: &Node, reference: &Reference, effort: Effort) -> Result<Row> {
    let bytes = PIECE_BYTES * PIECES;
    let address = reference.endpoint.strip_prefix("http://");
    let address = address.context("the reference server speaks HTTP")?;
    let mut ours = Streamed::open(&node.address())?;
    let mut theirs = Streamed::open(address)?;
    let asked = get(&format!("/zeros/{bytes}"));
    let invoked = get(&url_path(node, "flood")?);
    let rate = |answer: &Answer| answer.bytes as f64 / 1e6 / answer.whole.as_secs_f64();
    let (mut our_rates, mut their_rates) = (Vec::new(), Vec::new());
    for round in 0..=effort.rounds {
        progress(&format!("100 MB streamed, round {round} of {}", effort.rounds));
        let (we, they) = (ours.exchange(&invoked)?, theirs.exchange(&asked)?);
        ensure!(
            we.bytes == bytes && they.bytes == bytes,
            "{} and {} bytes",
            we.bytes,
            they.bytes
        );
        if round > 0 {
            our_rates.push(rate(&we));
            their_rates.push(rate(&they));
        }
    }
    let row = "100 MB streamed through a function URL, Wasm command";
    let goal = Goal::RatioAtLeast(0.5);
    Ok(Row::judged(
        row,
        "MB/s",
        goal,
        median(our_rates),
        Some(median(their_rates)),
    ))
}

/// Gives a function a URL that streams and that anybody may call; returns its path.
fn url_path(node: &Node, name: &str) -> Result<String> {
    let lambda = node.lambda();
    let url = json!({
        "StatementId": "all", "Action": "lambda:InvokeFunctionUrl", "Principal": "*", "FunctionUrlAuthType": "NONE",
    });
    let function = json!({
        "StatementId": "via", "Action": "lambda:InvokeFunction", "Principal": "*", "InvokedViaFunctionUrl": true,
    });
    for permission in [url, function] {
        lambda
            .post(&format!("/2015-03-31/functions/{name}/policy"), &permission)?
            .expect(201)?;
    }
    let config = json!({ "AuthType": "NONE", "InvokeMode": "RESPONSE_STREAM" });
    let made = lambda.post(&format!("/2021-10-31/functions/{name}/url"), &config)?;
    let url = made.expect(201)?.json()["FunctionUrl"].clone();
    let host = url.as_str().and_then(|url| url.strip_prefix("http://"));
    let id = host
        .and_then(|host| host.split('.').next())
        .context("a URL with an identifier")?;
    Ok(format!("/lambda-url/{id}/"))
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: server\r\n\r\n").into_bytes()
}

fn invocation(name: &str, event: &[u8]) -> Vec<u8> {
    let mut request = format!(
        "POST /2021-11-15/functions/{name}/response-streaming-invocations HTTP/1.1\r\nHost: node\r\n\
         Content-Length: {}\r\n\r\n",
        event.len()
    )
    .into_bytes();
    request.extend_from_slice(event);
    request
}

/// A connection whose answers come in chunks.
struct Streamed {
    stream: BufReader<TcpStream>,
    clock: Clock,
}

/// When the first byte of a body came, when the last, and how many there were.
struct Answer {
    first: Duration,
    whole: Duration,
    bytes: usize,
}

impl Streamed {
    fn open(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to `{address}`"))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::with_capacity(READ_BYTES, stream),
            clock: Clock::system(),
        })
    }

    fn exchange(&mut self, request: &[u8]) -> Result<Answer> {
        let begin = self.clock.monotonic();
        self.stream.get_mut().write_all(request)?;
        let status = self.line()?;
        ensure!(status.starts_with("HTTP/1.1 200"), "the answer begins with `{status}`");
        while !self.line()?.is_empty() {}
        let (mut first, mut bytes) = (None, 0);
        loop {
            let size = usize::from_str_radix(&self.line()?, 16).context("the answer comes in chunks")?;
            first.get_or_insert_with(|| self.clock.monotonic().since(begin));
            self.skip(size)?;
            ensure!(self.line()?.is_empty(), "a chunk ends with a line's end");
            bytes += size;
            if size == 0 {
                let whole = self.clock.monotonic().since(begin);
                return Ok(Answer {
                    first: first.unwrap_or(whole),
                    whole,
                    bytes,
                });
            }
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(
            self.stream.read_line(&mut line)? > 0,
            "the other side closed the connection"
        );
        line.truncate(line.trim_end().len());
        Ok(line)
    }

    fn skip(&mut self, mut bytes: usize) -> Result<()> {
        while bytes > 0 {
            let there = self.stream.fill_buf()?.len().min(bytes);
            ensure!(there > 0, "the other side closed the connection");
            self.stream.consume(there);
            bytes -= there;
        }
        Ok(())
    }
}
