//! `bowline object`: objects over independent stores.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};
use ureq::http::{HeaderMap, Method};

use super::{cell, payload, removed};
use crate::client::{Client, Remote, escape, header};
use crate::output::{self, Output, table};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make an object; its identifier says which store keeps it.
    Create {
        /// The body: a text, `@FILE`, or `-` for standard input.
        body: String,
        #[command(flatten)]
        indexes: Indexes,
        /// The same token again names the object that it made.
        #[arg(long, value_name = "TEXT")]
        token: Option<String>,
        #[command(flatten)]
        remote: Remote,
    },
    /// Print an object's body.
    Get {
        /// The object's identifier.
        object: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Give an object another body; without --index its keys stay.
    Update {
        /// The object's identifier.
        object: String,
        /// The body: a text, `@FILE`, or `-` for standard input.
        body: String,
        #[command(flatten)]
        indexes: Indexes,
        #[command(flatten)]
        expected: Expected,
        #[command(flatten)]
        remote: Remote,
    },
    /// Delete an object; its events remain.
    Rm {
        /// The object's identifier.
        object: String,
        #[command(flatten)]
        expected: Expected,
        #[command(flatten)]
        remote: Remote,
    },
    /// Find objects by a key of an index, in all stores at once.
    Find {
        /// The index's name.
        index: String,
        /// Exactly this key; without it all keys.
        key: Option<String>,
        /// All keys that begin so.
        #[arg(long, value_name = "TEXT", conflicts_with = "key")]
        prefix: Option<String>,
        /// Fail if a store cannot be asked, instead of answering without it.
        #[arg(long)]
        complete: bool,
        #[command(flatten)]
        remote: Remote,
    },
    /// List what happened to an object.
    Events {
        /// The object's identifier.
        object: String,
        #[command(flatten)]
        remote: Remote,
    },
}

#[derive(Debug, clap::Args)]
struct Indexes {
    /// A key under which the object is found; may be repeated.
    #[arg(long = "index", value_name = "INDEX=KEY", value_parser = index)]
    indexes: Vec<(String, String)>,
}

#[derive(Debug, clap::Args)]
struct Expected {
    /// Only if this is the object's version.
    #[arg(long, value_name = "N")]
    if_version: Option<u64>,
}

fn index(text: &str) -> Result<(String, String), String> {
    let (index, key) = text.split_once('=').ok_or("expected INDEX=KEY, `by-name=ada` say")?;
    Ok((index.to_owned(), key.to_owned()))
}

impl Expected {
    fn headers(&self) -> anyhow::Result<HeaderMap> {
        match self.if_version {
            Some(version) => header("if-match", &format!("\"{version}\"")),
            None => Ok(HeaderMap::new()),
        }
    }
}

pub fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::Create {
            body,
            indexes,
            token,
            remote,
        } => {
            let headers = match &token {
                Some(token) => header("idempotency-key", token)?,
                None => HeaderMap::new(),
            };
            let request = request(&body, &indexes)?;
            let made = remote
                .client()
                .send_json(Method::POST, "/v1/objects", headers, request)?;
            // The identifier alone, so that a script can keep it.
            output.print(&made, || cell(&made["object"]))?;
        }
        Action::Get { object, remote } => get(&remote.client(), &object, output)?,
        Action::Update {
            object,
            body,
            indexes,
            expected,
            remote,
        } => {
            let request = request(&body, &indexes)?;
            let client = remote.client();
            let updated = client.send_json(Method::PUT, &path(&object, ""), expected.headers()?, request)?;
            output.print(&updated, || format!("version {}", cell(&updated["version"])))?;
        }
        Action::Rm {
            object,
            expected,
            remote,
        } => {
            let client = remote.client();
            client.send(Method::DELETE, &path(&object, ""), expected.headers()?, Vec::new())?;
            output.print(&removed(&object), || format!("removed {object}"))?;
        }
        Action::Find {
            index,
            key,
            prefix,
            complete,
            remote,
        } => {
            let select = match (key, prefix) {
                (Some(key), _) => format!("&key={}", escape(&key)),
                (None, Some(prefix)) => format!("&prefix={}", escape(&prefix)),
                (None, None) => String::new(),
            };
            let partial = if complete { "refuse" } else { "allow" };
            let query = format!("&index={}{select}&partial={partial}", escape(&index));
            find(&remote.client(), &query, output)?;
        }
        Action::Events { object, remote } => events(&remote.client(), &object, output)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The path of an object, or of what lies below it.
fn path(object: &str, below: &str) -> String {
    format!("/v1/objects/{}{below}", escape(object))
}

fn request(body: &str, indexes: &Indexes) -> anyhow::Result<Vec<u8>> {
    let mut request = json!({});
    payload::put(&mut request, "body", &payload::whole(body)?);
    if !indexes.indexes.is_empty() {
        let keys = indexes.indexes.iter();
        let keys = keys.map(|(index, key)| json!({ "index": index, "key": key }));
        request["indexes"] = keys.collect();
    }
    Ok(request.to_string().into_bytes())
}

fn get(client: &Client, object: &str, output: Output) -> anyhow::Result<()> {
    let found = client.get(&path(object, ""))?;
    if output.json {
        return output.print(&found, String::new);
    }
    let mut body = payload::get(&found, "body");
    if !body.ends_with(b"\n") {
        body.push(b'\n');
    }
    output::bytes(&body)
}

fn find(client: &Client, query: &str, output: Output) -> anyhow::Result<()> {
    let (mut hits, mut partial) = (Vec::new(), Vec::new());
    let mut next = String::new();
    loop {
        let mut page = client.get(&format!("/v1/objects?limit=100{query}{next}"))?;
        hits.extend(page["items"].as_array_mut().into_iter().flatten().map(Value::take));
        for store in page["partial"].as_array().into_iter().flatten() {
            if !partial.contains(store) {
                partial.push(store.clone());
            }
        }
        match page["next"].as_str() {
            Some(place) => next = format!("&next={}", escape(place)),
            None => break,
        }
    }
    for store in &partial {
        eprintln!(
            "note: store `{}` could not be asked; its objects are missing here",
            cell(store)
        );
    }
    let document = json!({ "objects": hits, "partial": partial });
    output.print(&document, || {
        if hits.is_empty() {
            return "no object has such a key".to_owned();
        }
        let row = |hit: &Value| ["object", "version", "key"].map(|member| cell(&hit[member]));
        table(["OBJECT", "VERSION", "KEY"], &hits.iter().map(row).collect::<Vec<_>>())
    })
}

fn events(client: &Client, object: &str, output: Output) -> anyhow::Result<()> {
    let events = client.pages(&path(object, "/events"), "")?;
    output.print(&json!({ "events": events }), || {
        let row = |event: &Value| ["version", "kind", "time", "by", "request"].map(|member| cell(&event[member]));
        let headings = ["VERSION", "KIND", "TIME", "BY", "REQUEST"];
        table(headings, &events.iter().map(row).collect::<Vec<_>>())
    })
}
