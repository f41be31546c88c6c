//! Reads subscriptions to telemetry, by the Telemetry API and the older Logs API; pure and hostile-proof.

use std::time::Duration;

use serde::Deserialize;

/// The port of the Runtime API, where nobody else can listen.
const RUNTIME_API_PORT: u16 = 9001;
/// Longest path of a destination.
const PATH_BYTES_MAX: usize = 1024;
const MAX_ITEMS: (u64, u64) = (1_000, 10_000);
const MAX_BYTES: (u64, u64) = (262_144, 1_048_576);
const TIMEOUT_MS: (u64, u64) = (25, 30_000);
const TIMEOUT_MS_DEFAULT: u64 = 1_000;

/// The API by which a subscription is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// `/2022-07-01/telemetry`.
    Telemetry,
    /// `/2020-08-15/logs`.
    Logs,
}

impl Api {
    pub(super) fn closed_error_type(self) -> &'static str {
        match self {
            Self::Telemetry => "Telemetry.SubscriptionClosed",
            Self::Logs => "Logs.SubscriptionClosed",
        }
    }

    fn schemas(self) -> &'static [(&'static str, Schema)] {
        match self {
            Self::Telemetry => &[
                ("2022-07-01", Schema::Telemetry),
                ("2022-12-13", Schema::Telemetry),
                ("2025-01-29", Schema::Telemetry),
            ],
            Self::Logs => &[
                ("2020-08-15", Schema::Logs { runtime_done: false }),
                ("2021-03-18", Schema::Logs { runtime_done: true }),
            ],
        }
    }

    fn items_default(self) -> u64 {
        match self {
            Self::Telemetry => 1_000,
            Self::Logs => 10_000,
        }
    }
}

/// The form of the records that a subscriber gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schema {
    /// That of the Telemetry API; its versions differ in nothing that is said here.
    Telemetry,
    /// That of the Logs API.
    Logs {
        /// Whether the version knows `platform.runtimeDone`.
        runtime_done: bool,
    },
}

/// The three streams of telemetry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// What the platform tells.
    Platform,
    /// What the function prints.
    Function,
    /// What extensions print.
    Extension,
}

impl Stream {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::Function => "function",
            Self::Extension => "extension",
        }
    }
}

/// Who gets what, when and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The form of the records.
    pub schema: Schema,
    /// The streams, each once.
    pub streams: Vec<Stream>,
    /// When a batch is sent.
    pub buffering: Buffering,
    /// Where to.
    pub destination: Destination,
}

/// A batch is sent when it reaches one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffering {
    /// Records.
    pub items_max: usize,
    /// Bytes.
    pub bytes_max: usize,
    /// Since the first record.
    pub timeout: Duration,
}

/// A listener inside the sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Gets each batch as a JSON array.
    Http {
        /// Its port.
        port: u16,
        /// The path with the query.
        path: Box<str>,
        /// `PUT` instead of `POST`.
        put: bool,
    },
    /// Gets each record as a line of JSON.
    Tcp {
        /// Its port.
        port: u16,
    },
}

/// A body that is no subscription; the text says all that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadSubscription(String);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    schema_version: Option<String>,
    #[serde(default)]
    types: Vec<String>,
    buffering: Option<BodyBuffering>,
    destination: Option<BodyDestination>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BodyBuffering {
    max_items: Option<u64>,
    max_bytes: Option<u64>,
    timeout_ms: Option<u64>,
}

#[derive(Deserialize)]
struct BodyDestination {
    protocol: Option<String>,
    #[serde(rename = "URI")]
    uri: Option<String>,
    port: Option<u64>,
    method: Option<String>,
    encoding: Option<String>,
}

impl Subscription {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// The text names every member that is at fault.
    pub fn parse(api: Api, body: &[u8]) -> Result<Self, BadSubscription> {
        let body: Body = serde_json::from_slice(body)
            .map_err(|error| BadSubscription(format!("body is no subscription: {error}")))?;
        let mut faults = Vec::new();
        let schema = schema(api, body.schema_version.as_deref(), &mut faults);
        let streams = streams(&body.types, &mut faults);
        let buffering = buffering(api, &body.buffering.unwrap_or_default(), &mut faults);
        let destination = match body.destination {
            Some(destination) => parse_destination(&destination, &mut faults),
            None => fault(&mut faults, "`destination` is missing".to_owned()),
        };
        match (schema, destination) {
            (Some(schema), Some(destination)) if faults.is_empty() => Ok(Self {
                schema,
                streams,
                buffering,
                destination,
            }),
            _ => Err(BadSubscription(faults.join("; "))),
        }
    }
}

fn fault<T>(faults: &mut Vec<String>, text: String) -> Option<T> {
    faults.push(text);
    None
}

/// A foreign text in a message, not at its full length.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

fn schema(api: Api, version: Option<&str>, faults: &mut Vec<String>) -> Option<Schema> {
    let known = api.schemas();
    let Some(version) = version else {
        return match api {
            Api::Telemetry => fault(faults, "`schemaVersion` is missing".to_owned()),
            Api::Logs => Some(known[0].1),
        };
    };
    let found = known.iter().find(|(name, _)| *name == version);
    found.map(|(_, schema)| *schema).or_else(|| {
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        let names = names.join("`, `");
        fault(
            faults,
            format!("`schemaVersion` is `{}`, not one of `{names}`", shown(version)),
        )
    })
}

fn streams(types: &[String], faults: &mut Vec<String>) -> Vec<Stream> {
    if types.is_empty() {
        faults.push("`types` should not be empty".to_owned());
    }
    let mut streams = Vec::new();
    for name in types {
        let all = [Stream::Platform, Stream::Function, Stream::Extension];
        match all.into_iter().find(|stream| stream.name() == name) {
            Some(stream) if streams.contains(&stream) => {}
            Some(stream) => streams.push(stream),
            None => {
                faults.push(format!(
                    "type `{}` is none of `platform`, `function`, `extension`",
                    shown(name)
                ));
                return streams;
            }
        }
    }
    streams
}

fn buffering(api: Api, body: &BodyBuffering, faults: &mut Vec<String>) -> Buffering {
    let mut within = |name: &str, value: Option<u64>, default: u64, (min, max): (u64, u64)| {
        let value = value.unwrap_or(default);
        if value < min || value > max {
            faults.push(format!("`buffering.{name}` is {value}, not between {min} and {max}"));
        }
        value.clamp(min, max)
    };
    let items = within("maxItems", body.max_items, api.items_default(), MAX_ITEMS);
    let bytes = within("maxBytes", body.max_bytes, MAX_BYTES.0, MAX_BYTES);
    let timeout = within("timeoutMs", body.timeout_ms, TIMEOUT_MS_DEFAULT, TIMEOUT_MS);
    Buffering {
        items_max: usize::try_from(items).expect("at most ten thousand"),
        bytes_max: usize::try_from(bytes).expect("at most a mebibyte"),
        timeout: Duration::from_millis(timeout),
    }
}

fn parse_destination(body: &BodyDestination, faults: &mut Vec<String>) -> Option<Destination> {
    match body.protocol.as_deref() {
        Some("HTTP") => http(body, faults),
        Some("TCP") => {
            let port = body.port.and_then(|port| u16::try_from(port).ok()).filter(usable);
            match port {
                Some(port) => Some(Destination::Tcp { port }),
                None => fault(faults, "`destination.port` is missing or cannot be used".to_owned()),
            }
        }
        Some(other) => {
            let text = format!("`destination.protocol` is `{}`, neither `HTTP` nor `TCP`", shown(other));
            fault(faults, text)
        }
        None => fault(faults, "`destination.protocol` is missing".to_owned()),
    }
}

fn usable(port: &u16) -> bool {
    *port != 0 && *port != RUNTIME_API_PORT
}

fn http(body: &BodyDestination, faults: &mut Vec<String>) -> Option<Destination> {
    let put = match body.method.as_deref() {
        None | Some("POST") => false,
        Some("PUT") => true,
        Some(other) => {
            let text = format!("`destination.method` is `{}`, neither `POST` nor `PUT`", shown(other));
            return fault(faults, text);
        }
    };
    if let Some(encoding) = body.encoding.as_deref().filter(|encoding| *encoding != "JSON") {
        return fault(
            faults,
            format!("`destination.encoding` is `{}`, not `JSON`", shown(encoding)),
        );
    }
    let Some(uri) = body.uri.as_deref() else {
        return fault(faults, "`destination.URI` is missing".to_owned());
    };
    let Some(rest) = uri.strip_prefix("http://") else {
        return fault(faults, "`destination.URI` should begin with `http://`".to_owned());
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
    if !matches!(host, "sandbox.localdomain" | "sandbox") {
        return fault(
            faults,
            "the host of `destination.URI` should be `sandbox.localdomain`".to_owned(),
        );
    }
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let Some(port) = digits.then(|| port.parse().ok()).flatten().filter(usable) else {
        return fault(
            faults,
            "the port of `destination.URI` is missing or cannot be used".to_owned(),
        );
    };
    if path.len() > PATH_BYTES_MAX || !path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return fault(
            faults,
            "the path of `destination.URI` is too long or no path".to_owned(),
        );
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    Some(Destination::Http {
        port,
        path: format!("{slash}{path}").into(),
        put,
    })
}

#[cfg(test)]
mod tests;
