//! The settings a node has, by their names in the file, the environment and the flags.

use std::fmt;

/// One setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Listen,
    Data,
    Store,
    Blobs,
    ObjectStores,
    LeaseSeconds,
    Placement,
    Region,
    Concurrency,
    KeepAliveSeconds,
    MemoryBudget,
    PressureSeconds,
    StreamBytesPerSecond,
    LogFormat,
    LogLevel,
    Prewarmed,
    PrewarmedMemory,
    TlsCert,
    TlsPrivate,
    S3Endpoint,
    SqsEndpoint,
    Registries,
    Instances,
    Watch,
}

impl Key {
    pub const ALL: [Self; 24] = [
        Self::Listen,
        Self::Data,
        Self::Store,
        Self::Blobs,
        Self::ObjectStores,
        Self::LeaseSeconds,
        Self::Placement,
        Self::Region,
        Self::Concurrency,
        Self::KeepAliveSeconds,
        Self::MemoryBudget,
        Self::PressureSeconds,
        Self::StreamBytesPerSecond,
        Self::LogFormat,
        Self::LogLevel,
        Self::Prewarmed,
        Self::PrewarmedMemory,
        Self::TlsCert,
        Self::TlsPrivate,
        Self::S3Endpoint,
        Self::SqsEndpoint,
        Self::Registries,
        Self::Instances,
        Self::Watch,
    ];

    /// The name in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Listen => "listen",
            Self::Data => "data",
            Self::Store => "store",
            Self::Blobs => "blobs",
            Self::ObjectStores => "object_stores",
            Self::LeaseSeconds => "lease_seconds",
            Self::Placement => "placement",
            Self::Region => "region",
            Self::Concurrency => "concurrency",
            Self::KeepAliveSeconds => "keep_alive_seconds",
            Self::MemoryBudget => "memory_budget",
            Self::PressureSeconds => "pressure_seconds",
            Self::StreamBytesPerSecond => "stream_bytes_per_second",
            Self::LogFormat => "log_format",
            Self::LogLevel => "log_level",
            Self::Prewarmed => "prewarmed",
            Self::PrewarmedMemory => "prewarmed_memory",
            Self::TlsCert => "tls_cert",
            Self::TlsPrivate => "tls_key",
            Self::S3Endpoint => "s3_endpoint",
            Self::SqsEndpoint => "sqs_endpoint",
            Self::Registries => "registries",
            Self::Instances => "instances",
            Self::Watch => "watch",
        }
    }

    /// The value when no layer sets one, as it would be written.
    pub const fn default(self) -> &'static str {
        match self {
            Self::Listen => "127.0.0.1:9000",
            Self::Data => "bowline-data",
            Self::Store => "embedded",
            Self::Blobs => "DATA/blobs",
            Self::ObjectStores => "beside the store",
            Self::LeaseSeconds => "10",
            Self::Placement => "cluster",
            Self::Region => "us-east-1",
            Self::Concurrency => "1000",
            Self::KeepAliveSeconds => "3600",
            Self::MemoryBudget => "16 times the machine's",
            Self::PressureSeconds => "5",
            Self::StreamBytesPerSecond => "unlimited",
            Self::LogFormat => "text",
            Self::LogLevel => "info",
            Self::Prewarmed => "2",
            Self::PrewarmedMemory => "512MiB",
            Self::TlsCert | Self::TlsPrivate => "none",
            Self::S3Endpoint | Self::SqsEndpoint | Self::Registries => "none",
            Self::Instances => "inline",
            Self::Watch => "none",
        }
    }

    /// The environment variable.
    pub fn variable(self) -> String {
        format!("BOWLINE_{}", self.name().to_ascii_uppercase())
    }

    /// The flag.
    pub fn flag(self) -> String {
        format!("--{}", self.name().replace('_', "-"))
    }

    /// The setting of that name, if there is one.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|key| key.name() == name)
    }

    /// The setting whose name is most like `name`, unless none is like it at all.
    pub fn nearest(name: &str) -> Option<Self> {
        let distance = |key: &Self| edit_distance(key.name(), name);
        let nearest = Self::ALL.into_iter().min_by_key(distance)?;
        (distance(&nearest) <= nearest.name().len().max(name.len()) / 2).then_some(nearest)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The number of single-character insertions, removals and replacements between two names.
fn edit_distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, from) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, to) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}
