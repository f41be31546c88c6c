//! `bowline logs`: what a function has printed, and goes on printing.

use std::io::Read;
use std::process::ExitCode;

use serde_json::json;

use crate::client::{Remote, escape};
use crate::output::{self, Output};

/// How much of the log's end is shown unless asked otherwise.
const TAIL_BYTES_DEFAULT: u64 = 64 * 1024;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the function.
    name: String,
    /// Go on printing as the function logs.
    #[arg(short, long, conflicts_with = "json")]
    follow: bool,
    /// How much of the log's end to print first.
    #[arg(long, value_name = "N", default_value_t = TAIL_BYTES_DEFAULT)]
    bytes: u64,
    #[command(flatten)]
    remote: Remote,
}

pub fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let client = args.remote.client();
    let path = format!(
        "/v1/functions/{}/logs?follow={}&bytes={}",
        escape(&args.name),
        args.follow,
        args.bytes
    );
    let mut log = client.stream(&path)?;
    if output.json {
        let mut bytes = Vec::new();
        log.read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        let document = json!({ "function": args.name, "lines": text.lines().collect::<Vec<_>>() });
        output.print(&document, String::new)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match log.read(&mut buffer)? {
            0 => return Ok(ExitCode::SUCCESS),
            read => output::bytes(&buffer[..read])?,
        }
    }
}
