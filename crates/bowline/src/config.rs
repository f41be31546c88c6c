//! The node's configuration: four layers (defaults, file, environment, flags), each value with its origin.

mod file;
mod key;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bowline_aws::{Endpoint, InvalidEndpoint};
use bowline_foundation::limits::{STREAM_BYTES_PER_SECOND_MAX, STREAM_BYTES_PER_SECOND_MIN};
use bowline_foundation::units::Mebibytes;
use bowline_functions::cluster::Placing;
use bowline_inventory::file::{Kind, is_name};
use bowline_oci::registry::{InvalidRegistry, RegistryAddress};
use bowline_store::PostgresUrl;
pub use file::FileError;
pub use key::Key;

/// The file that is read when it lies in the working folder and no other is named.
pub const FILE_NAME: &str = "bowline.toml";

/// Less than this holds no sandbox.
const MEMORY_BUDGET_MIB_MIN: u32 = 128;

/// Folders that a node watches.
const WATCHED_MAX: usize = 16;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    File { path: PathBuf, line: usize },
    Environment(String),
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "env {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// A value as it was written, before it is understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    pub text: String,
    pub origin: Origin,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// Where a node keeps its records.
#[derive(Clone, Debug)]
pub enum StoreChoice {
    /// In an SQLite database in the data folder.
    Embedded,
    /// In a PostgreSQL database, which other nodes may use too.
    Postgres(Box<PostgresUrl>),
}

/// Where one of the independent stores of objects is.
#[derive(Clone, Debug)]
pub enum ObjectStore {
    /// In an SQLite database of its own.
    File(PathBuf),
    Postgres(Box<PostgresUrl>),
}

/// Two files in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The node's certificate, then those of its issuers.
    pub chain: PathBuf,
    pub key: PathBuf,
}

impl ObjectStore {
    /// What it stands on: with any of these it fails. The servers of a database, or the disk of a file.
    pub fn grounds(&self) -> Vec<String> {
        match self {
            Self::File(path) => {
                let folder = path
                    .parent()
                    .filter(|folder| *folder != Path::new(""))
                    .unwrap_or(Path::new("."));
                let disk = std::fs::metadata(folder).map(|found| found.dev());
                disk.map(|disk| vec![format!("disk {disk}")]).unwrap_or_default()
            }
            Self::Postgres(url) => url.servers(),
        }
    }
}

/// The effective configuration.
#[derive(Clone, Debug)]
pub struct Config {
    pub listen: SocketAddr,
    pub data: PathBuf,
    pub store: StoreChoice,
    /// Where blobs lie, if not in the data folder.
    pub blobs: Option<PathBuf>,
    /// The independent stores of objects by name; none if they lie beside the store.
    pub object_stores: Vec<(String, ObjectStore)>,
    /// How long a node of a cluster may be silent before the others take it for dead.
    pub lease: Duration,
    /// Where invocations run that arrive at a node of a cluster.
    pub placing: Placing,
    pub region: String,
    pub concurrency: u32,
    /// How long an idle sandbox is kept at most.
    pub keep_alive: Duration,
    /// What all sandboxes together may have; by the machine's memory if nothing is said.
    pub memory_budget: Option<Mebibytes>,
    /// How long the node must be short of memory or processors until invocations that can be suspended leave it; never if
    /// none.
    pub pressure: Option<Duration>,
    /// The bandwidth of a streamed answer after its first bytes; none if it is not limited.
    pub stream_bytes_per_second: Option<u32>,
    pub log_format: LogFormat,
    pub log_level: tracing::Level,
    /// Sandboxes kept ready for each runtime that starts slowly.
    pub prewarmed: usize,
    /// What all of these together may use.
    pub prewarmed_memory: Mebibytes,
    /// What the node serves HTTPS with; plain HTTP without.
    pub certificate: Option<Certificate>,
    /// Where code packages in buckets are fetched from.
    pub s3_endpoint: Option<Endpoint>,
    /// Where the queues are that functions read.
    pub sqs_endpoint: Option<Endpoint>,
    /// Where images of functions may be fetched from.
    pub registries: Vec<RegistryAddress>,
    /// Where functions run whose account has no instance: in the node, or on a process instance that it gets.
    pub instances: Kind,
    /// Folders whose files are uploads, by their names.
    pub watch: Vec<(String, PathBuf)>,
    values: BTreeMap<Key, Value>,
}

/// What the layers are read from.
pub struct Sources<'a> {
    /// The file that a flag or the environment names; it must exist.
    pub file: Option<PathBuf>,
    /// The folder in which [`FILE_NAME`] is looked for otherwise.
    pub folder: &'a Path,
    /// Looks up an environment variable.
    pub environment: &'a dyn Fn(&str) -> Option<String>,
    /// The flags given, by key.
    pub flags: Vec<(Key, String)>,
}

/// Why there is no effective configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("`{key}` cannot be `{text}` ({origin}): {reason}")]
    Value {
        key: Key,
        text: String,
        origin: Origin,
        reason: String,
    },
}

impl Config {
    /// Merges the layers and checks every value.
    pub fn load(sources: Sources<'_>) -> Result<Self, ConfigError> {
        let mut values: BTreeMap<Key, Value> = Key::ALL.into_iter().map(|key| (key, default(key))).collect();
        values.extend(file::read(sources.file.as_deref(), sources.folder)?);
        for key in Key::ALL {
            if let Some(text) = (sources.environment)(&key.variable()) {
                let origin = Origin::Environment(key.variable());
                values.insert(key, Value { text, origin });
            }
        }
        for (key, text) in sources.flags {
            let origin = Origin::Flag(key.flag());
            values.insert(key, Value { text, origin });
        }
        Self::understand(values)
    }

    fn understand(values: BTreeMap<Key, Value>) -> Result<Self, ConfigError> {
        let read = Reader(&values);
        Ok(Self {
            listen: read.with(Key::Listen, listen)?,
            data: read.with(Key::Data, |text| non_empty(text).map(PathBuf::from))?,
            store: read.with(Key::Store, store)?,
            blobs: read
                .with(Key::Blobs, |text| non_empty(text).map(PathBuf::from))
                .map(|folder| (folder != Path::new(Key::Blobs.default())).then_some(folder))?,
            object_stores: read.with(Key::ObjectStores, object_stores)?,
            lease: read
                .with(Key::LeaseSeconds, |text| number(text, 1, 3600))
                .map(|seconds| Duration::from_secs(seconds.into()))?,
            placing: read.with(Key::Placement, placing)?,
            region: read.with(Key::Region, region)?,
            concurrency: read.with(Key::Concurrency, |text| number(text, 1, 1_000_000))?,
            keep_alive: read
                .with(Key::KeepAliveSeconds, |text| number(text, 1, 86_400))
                .map(|seconds| Duration::from_secs(seconds.into()))?,
            memory_budget: read.with(Key::MemoryBudget, memory_budget)?,
            pressure: read
                .with(Key::PressureSeconds, |text| number(text, 0, 3600))
                .map(|seconds| (seconds > 0).then(|| Duration::from_secs(seconds.into())))?,
            stream_bytes_per_second: read.with(Key::StreamBytesPerSecond, bandwidth)?,
            log_format: read.with(Key::LogFormat, log_format)?,
            log_level: read.with(Key::LogLevel, log_level)?,
            prewarmed: read.with(Key::Prewarmed, |text| number(text, 0, 64))? as usize,
            prewarmed_memory: read.with(Key::PrewarmedMemory, |text| amount(text, 1))?,
            certificate: certificate(&read)?,
            s3_endpoint: read.with(Key::S3Endpoint, endpoint)?,
            sqs_endpoint: read.with(Key::SqsEndpoint, endpoint)?,
            registries: read.with(Key::Registries, registries)?,
            instances: read.with(Key::Instances, instances)?,
            watch: read.with(Key::Watch, watched)?,
            values,
        })
    }

    /// Every value with its origin, in the order of [`Key::ALL`].
    pub fn values(&self) -> impl Iterator<Item = (Key, &Value)> {
        self.values.iter().map(|(key, value)| (*key, value))
    }
}

/// A value as it may be shown: a store's or a registry's address without its password.
pub fn shown(key: Key, text: &str) -> String {
    match (key, text.parse::<PostgresUrl>()) {
        (Key::Store, Ok(url)) => url.to_string(),
        (Key::Store | Key::ObjectStores | Key::Registries, Err(_)) if text.contains('@') => {
            "(with a secret)".to_owned()
        }
        _ => text.to_owned(),
    }
}

fn default(key: Key) -> Value {
    Value {
        text: key.default().to_owned(),
        origin: Origin::Default,
    }
}

struct Reader<'a>(&'a BTreeMap<Key, Value>);

impl<'a> Reader<'a> {
    fn with<T>(&self, key: Key, parse: impl Fn(&'a str) -> Result<T, String>) -> Result<T, ConfigError> {
        let value = self.0.get(&key).expect("the default layer has every key");
        parse(&value.text).map_err(|reason| ConfigError::Value {
            key,
            text: shown(key, &value.text),
            origin: value.origin.clone(),
            reason,
        })
    }
}

fn listen(text: &str) -> Result<SocketAddr, String> {
    let address = match text.strip_prefix("localhost:") {
        Some(port) => port
            .parse()
            .ok()
            .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        None => text.parse::<SocketAddr>().ok(),
    };
    address.ok_or_else(|| "expected an address and a port, `127.0.0.1:9000` say".to_owned())
}

/// The two files, which are given together.
fn certificate(read: &Reader<'_>) -> Result<Option<Certificate>, ConfigError> {
    let file = |key: Key| {
        read.with(key, non_empty)
            .map(|text| (text != key.default()).then_some(text))
    };
    match (file(Key::TlsCert)?, file(Key::TlsPrivate)?) {
        (None, None) => Ok(None),
        (Some(chain), Some(key)) => Ok(Some(Certificate {
            chain: chain.into(),
            key: key.into(),
        })),
        (chain, _) => {
            let (missing, other) = match chain {
                Some(_) => (Key::TlsPrivate, Key::TlsCert),
                None => (Key::TlsCert, Key::TlsPrivate),
            };
            read.with(missing, |_| {
                Err(format!("`{other}` is given, and one without the other serves nobody"))
            })
        }
    }
}

fn non_empty(text: &str) -> Result<&str, String> {
    if text.is_empty() {
        return Err("expected a path".to_owned());
    }
    Ok(text)
}

fn store(text: &str) -> Result<StoreChoice, String> {
    if text == "embedded" {
        return Ok(StoreChoice::Embedded);
    }
    if !PostgresUrl::is_one(text) {
        return Err("expected `embedded` or `postgres://USER:PASSWORD@HOST:PORT/DATABASE`".to_owned());
    }
    let url: PostgresUrl = text.parse().map_err(|error| format!("{error}"))?;
    Ok(StoreChoice::Postgres(Box::new(url)))
}

fn object_stores(text: &str) -> Result<Vec<(String, ObjectStore)>, String> {
    if text == Key::ObjectStores.default() {
        return Ok(Vec::new());
    }
    let stores: Vec<_> = text.split(',').map(object_store).collect::<Result<_, _>>()?;
    if stores.len() < 2 {
        return Err("expected at least two stores, `a=/disk1/a.db,b=/disk2/b.db` say".to_owned());
    }
    Ok(stores)
}

fn object_store(text: &str) -> Result<(String, ObjectStore), String> {
    let parts = text
        .split_once('=')
        .filter(|(name, place)| !name.is_empty() && !place.is_empty());
    let (name, place) = parts.ok_or("expected `NAME=FILE` or `NAME=postgres://...`, with commas between")?;
    let place = if PostgresUrl::is_one(place) {
        let url: PostgresUrl = place.parse().map_err(|error| format!("{error}"))?;
        ObjectStore::Postgres(Box::new(url))
    } else {
        ObjectStore::File(PathBuf::from(place))
    };
    Ok((name.to_owned(), place))
}

fn placing(text: &str) -> Result<Placing, String> {
    match text {
        "cluster" => Ok(Placing::Cluster),
        "node" => Ok(Placing::Node),
        _ => Err("expected `cluster` or `node`".to_owned()),
    }
}

fn region(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if text.is_empty() || text.len() > 32 || !text.bytes().all(allowed) {
        return Err("expected a region's name, `us-east-1` say".to_owned());
    }
    Ok(text.to_owned())
}

fn number(text: &str, min: u32, max: u32) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (min..=max).contains(number));
    number.ok_or_else(|| format!("expected a whole number from {min} to {max}"))
}

fn memory_budget(text: &str) -> Result<Option<Mebibytes>, String> {
    if text == Key::MemoryBudget.default() {
        return Ok(None);
    }
    amount(text, MEMORY_BUDGET_MIB_MIN).map(Some)
}

fn amount(text: &str, mib_min: u32) -> Result<Mebibytes, String> {
    let sized = [("TiB", 1 << 20), ("GiB", 1 << 10), ("MiB", 1)];
    let amount = sized.iter().find_map(|(unit, mebibytes)| {
        let number: u32 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
        number.checked_mul(*mebibytes).filter(|amount| *amount >= mib_min)
    });
    let amount = amount.map(Mebibytes);
    amount.ok_or_else(|| format!("expected an amount from {mib_min}MiB on, `512MiB`, `24GiB` or `2TiB` say"))
}

fn bandwidth(text: &str) -> Result<Option<u32>, String> {
    if text == Key::StreamBytesPerSecond.default() {
        return Ok(None);
    }
    let number = number(text, STREAM_BYTES_PER_SECOND_MIN, STREAM_BYTES_PER_SECOND_MAX);
    number.map(Some).map_err(|error| format!("{error}, or `unlimited`"))
}

fn endpoint(text: &str) -> Result<Option<Endpoint>, String> {
    if text == Key::S3Endpoint.default() {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|error: InvalidEndpoint| error.to_string())
}

fn registries(text: &str) -> Result<Vec<RegistryAddress>, String> {
    if text == Key::Registries.default() {
        return Ok(Vec::new());
    }
    let addresses = text.split(',').map(str::trim).map(str::parse);
    let addresses: Result<_, InvalidRegistry> = addresses.collect();
    addresses.map_err(|error| format!("{error}, with commas between"))
}

fn instances(text: &str) -> Result<Kind, String> {
    match text {
        "inline" => Ok(Kind::Inline),
        "process" => Ok(Kind::Process),
        "vm" => Ok(Kind::Vm),
        _ => Err("expected `inline`, `process` or `vm`".to_owned()),
    }
}

fn watched(text: &str) -> Result<Vec<(String, PathBuf)>, String> {
    if text == Key::Watch.default() {
        return Ok(Vec::new());
    }
    let mut folders: Vec<(String, PathBuf)> = Vec::new();
    for part in text.split(',').map(str::trim) {
        let parts = part.split_once('=').filter(|(_, folder)| !folder.is_empty());
        let (name, folder) = parts.ok_or("expected `NAME=FOLDER`, with commas between")?;
        if !is_name(name) {
            return Err(format!(
                "`{name}` is no name of a folder: expected 1 to 40 lower-case letters, digits and hyphens, a letter first"
            ));
        }
        if folders.iter().any(|(other, _)| other == name) {
            return Err(format!("two folders are named `{name}`"));
        }
        folders.push((name.to_owned(), folder.into()));
    }
    if folders.len() > WATCHED_MAX {
        return Err(format!("{} folders; at most {WATCHED_MAX} are possible", folders.len()));
    }
    Ok(folders)
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("expected `text` or `json`".to_owned()),
    }
}

fn log_level(text: &str) -> Result<tracing::Level, String> {
    let known = ["error", "warn", "info", "debug", "trace"].contains(&text);
    let level = known.then(|| text.parse().ok()).flatten();
    level.ok_or_else(|| "expected `error`, `warn`, `info`, `debug` or `trace`".to_owned())
}

#[cfg(test)]
mod tests;
