//! `bowline invoke --stream`: prints the answer while the function writes it.

use std::io::{Read, Write};
use std::process::ExitCode;

use anyhow::{Context, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bowline_api::event_stream::{Decoder, Message};
use serde::Deserialize;

use super::{Args, elsewhere, ended, query};
use crate::client::{escape, header};
use crate::output::{self, Output};

/// How the node says that the answer is over.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct End {
    error_code: Option<String>,
    error_details: Option<String>,
    log_result: Option<String>,
}

pub fn run(args: &Args, event: Vec<u8>, output: Output) -> anyhow::Result<ExitCode> {
    if output.json {
        bail!("`--stream` prints the answer as it comes, which `--json` cannot; leave one of them out");
    }
    let path = format!(
        "/2021-11-15/functions/{}/response-streaming-invocations{}",
        escape(&args.name),
        query(args.qualifier.as_deref())
    );
    let log_type = header("x-amz-log-type", if args.tail { "Tail" } else { "None" })?;
    let answer = args.remote.client().post_stream(&path, log_type, event)?;
    let end = print(answer)?;
    if let Some(log) = end.log_result.and_then(|log| BASE64.decode(log).ok()) {
        std::io::stderr().write_all(&log)?;
    }
    if let Some(details) = end.error_details {
        eprintln!("{details}");
    }
    Ok(ended(&args.name, end.error_code.as_deref(), &elsewhere(&args.name)))
}

/// Prints the pieces as they come, up to the end.
fn print(mut answer: impl Read) -> anyhow::Result<End> {
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        while let Some(message) = decoder.next_message()? {
            if let Some(end) = take(&message)? {
                return Ok(end);
            }
        }
        match answer.read(&mut buffer).context("the answer broke off")? {
            0 => bail!("the answer broke off"),
            bytes => decoder.push(&buffer[..bytes]),
        }
    }
}

/// Prints what a message brings; gives the end if it is that.
fn take(message: &Message) -> anyhow::Result<Option<End>> {
    match (message.header(":message-type"), message.header(":event-type")) {
        (Some("event"), Some("PayloadChunk")) => output::bytes(&message.payload)?,
        (Some("event"), Some("InvokeComplete")) => {
            let end = serde_json::from_slice(&message.payload);
            return Ok(Some(end.context("the end of the answer is not JSON")?));
        }
        (Some("event"), _) => {}
        _ => {
            let kind = message.header(":exception-type").or(message.header(":error-code"));
            let text = String::from_utf8_lossy(&message.payload);
            bail!("the answer broke off ({}): {text}", kind.unwrap_or("error"));
        }
    }
    Ok(None)
}
