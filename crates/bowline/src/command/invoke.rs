//! `bowline invoke`: runs a function and prints its answer.

mod local;
mod stream;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use ureq::http::{HeaderMap, HeaderValue, Method};

use super::deploy::{Deployable, Making};
use crate::client::{Client, ClientError, Remote, escape, function_path};
use crate::output::{self, Output};
use crate::progress::Progress;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name or ARN of the function, with `:QUALIFIER` if wanted; with `--local` the path of its code.
    name: String,
    /// Run the code at this path once, without a node: whatever `bowline deploy` takes.
    #[arg(long, conflicts_with = "qualifier")]
    local: bool,
    /// Run this code once in the place of the function's own, whatever `bowline deploy` takes but images; the function lets
    /// it by `BOWLINE_CODE=request` in its environment.
    #[arg(long, value_name = "PATH", conflicts_with = "local")]
    code: Option<PathBuf>,
    /// The event: JSON, `@FILE`, or `-` for standard input.
    #[arg(short, long, value_name = "JSON", default_value = "{}")]
    data: String,
    /// Version or alias to run.
    #[arg(long, value_name = "VERSION|ALIAS")]
    qualifier: Option<String>,
    /// Print the end of the invocation's log on standard error.
    #[arg(long)]
    tail: bool,
    /// Print the answer while the function writes it.
    #[arg(long, conflicts_with = "local")]
    stream: bool,
    #[command(flatten)]
    remote: Remote,
    #[command(flatten, next_help_heading = "With --local")]
    making: Making,
}

/// What an invocation gave.
pub struct Invoked {
    pub payload: Vec<u8>,
    /// Set if the function failed.
    pub function_error: Option<String>,
    pub executed_version: String,
    pub log_tail: Option<Vec<u8>>,
}

pub fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let mut event = read_event(&args.data)?;
    if let Some(path) = &args.code {
        event = with_code(path, &event)?;
    }
    if args.stream {
        return stream::run(&args, event, output);
    }
    let invoked = if args.local {
        local::invoke(args.name.as_ref(), &args.making, event)?
    } else {
        if args.making != Making::default() {
            bail!(
                "how code is packaged and configured can be said with --local only; `bowline deploy` does it on a node"
            );
        }
        invoke(&args.remote.client(), &args.name, args.qualifier.as_deref(), event)?
    };
    // A local function has no other log.
    if (args.tail || args.local)
        && let Some(log) = &invoked.log_tail
    {
        std::io::stderr().write_all(log)?;
    }
    if output.json {
        output.print(&document(&invoked, args.tail), String::new)?;
    } else {
        output::bytes(&invoked.payload)?;
        if !invoked.payload.ends_with(b"\n") {
            output::bytes(b"\n")?;
        }
    }
    let hint = if args.local {
        "its log is above".to_owned()
    } else {
        elsewhere(&args.name)
    };
    Ok(ended(&args.name, invoked.function_error.as_deref(), &hint))
}

/// The event with the code that it is to run.
fn with_code(path: &Path, event: &[u8]) -> anyhow::Result<Vec<u8>> {
    let wanted = Making::default().wanted(path.to_owned(), None);
    let Deployable::Package(package) = Deployable::make(&wanted, &Progress::stderr())? else {
        bail!(
            "`{}` is a container image, which does not fit into an event",
            path.display()
        );
    };
    let event: Value = serde_json::from_slice(event).context("the event is no JSON")?;
    let event = json!({ "bowline:code": BASE64.encode(&package.code), "bowline:event": event });
    Ok(event.to_string().into_bytes())
}

/// Where the log of a function on a node is shown.
fn elsewhere(name: &str) -> String {
    format!("`bowline logs {name}` shows its log")
}

/// Says that the function failed, if it did, and where to look.
fn ended(name: &str, error: Option<&str>, hint: &str) -> ExitCode {
    let Some(error) = error else {
        return ExitCode::SUCCESS;
    };
    eprintln!("`{name}` failed ({error}); {hint}");
    ExitCode::FAILURE
}

/// Invokes a function through the API and asks for the end of its log.
pub fn invoke(client: &Client, name: &str, qualifier: Option<&str>, event: Vec<u8>) -> Result<Invoked, ClientError> {
    let path = function_path(name, &format!("/invocations{}", query(qualifier)));
    let mut headers = HeaderMap::new();
    headers.insert("x-amz-log-type", HeaderValue::from_static("Tail"));
    let answer = client.send(Method::POST, &path, headers, event)?;
    let header = |name: &str| {
        let value = answer.headers.get(name)?.to_str().ok()?;
        Some(value.to_owned())
    };
    Ok(Invoked {
        function_error: header("x-amz-function-error"),
        executed_version: header("x-amz-executed-version").unwrap_or_default(),
        log_tail: header("x-amz-log-result").and_then(|log| BASE64.decode(log).ok()),
        payload: answer.body,
    })
}

fn query(qualifier: Option<&str>) -> String {
    let query = qualifier.map(|qualifier| format!("?Qualifier={}", escape(qualifier)));
    query.unwrap_or_default()
}

fn document(invoked: &Invoked, with_log: bool) -> Value {
    let payload = serde_json::from_slice::<Value>(&invoked.payload)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&invoked.payload).into_owned()));
    let log = invoked.log_tail.as_deref().filter(|_| with_log);
    json!({
        "payload": payload,
        "functionError": invoked.function_error,
        "executedVersion": invoked.executed_version,
        "log": log.map(String::from_utf8_lossy),
    })
}

fn read_event(data: &str) -> anyhow::Result<Vec<u8>> {
    if data == "-" {
        let mut event = Vec::new();
        std::io::stdin()
            .read_to_end(&mut event)
            .context("cannot read standard input")?;
        return Ok(event);
    }
    match data.strip_prefix('@') {
        Some(path) => std::fs::read(path).with_context(|| format!("cannot read `{path}`")),
        None => Ok(data.as_bytes().to_vec()),
    }
}
