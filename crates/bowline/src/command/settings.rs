//! The flags that set a node's configuration, shared by the commands that take them.

use std::path::PathBuf;

use crate::config::{Config, ConfigError, Key, Sources};

/// Settings of a node; each may also stand in bowline.toml or in the environment as `BOWLINE_NAME`.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Settings (also in bowline.toml, or in the environment as BOWLINE_NAME)")]
pub struct SettingFlags {
    /// Read this file instead of ./bowline.toml.
    #[arg(long, env = "BOWLINE_CONFIG", hide_env_values = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address to listen on; any but loopback needs access keys and a certificate [default: 127.0.0.1:9000].
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Folder that holds everything the node keeps [default: ./bowline-data].
    #[arg(long, value_name = "DIR")]
    pub data: Option<String>,
    /// Where records are kept: `embedded` in the data folder, or `postgres://USER:PASSWORD@HOST/DATABASE`,
    /// which several nodes may share [default: embedded].
    #[arg(long, value_name = "URL")]
    pub store: Option<String>,
    /// Folder of code packages and other large values; nodes that share a store share it
    /// [default: `blobs` in the data folder].
    #[arg(long, value_name = "DIR")]
    pub blobs: Option<String>,
    /// Independent stores of objects, `NAME=FILE` or `NAME=postgres://...`, two or more, with commas between;
    /// only on servers or disks of their own they fail apart (`bowline stores status` tells)
    /// [default: two beside the store, `a` and `b`].
    #[arg(long, value_name = "LIST")]
    pub object_stores: Option<String>,
    /// How long a node of a cluster may be silent before the others take it for dead; the same for all nodes
    /// [default: 10].
    #[arg(long, value_name = "SECONDS")]
    pub lease_seconds: Option<String>,
    /// Where invocations run that arrive at a node of a cluster: `cluster`, on the node that holds the version
    /// warm, or `node`, where they arrive [default: cluster].
    #[arg(long, value_name = "WHERE")]
    pub placement: Option<String>,
    /// Region in names and in functions' environment [default: us-east-1].
    #[arg(long, value_name = "NAME")]
    pub region: Option<String>,
    /// Invocations that may run at once [default: 1000].
    #[arg(long, value_name = "N")]
    pub concurrency: Option<String>,
    /// How long an idle sandbox is kept at most; within that forecasts decide [default: 3600].
    #[arg(long, value_name = "SECONDS")]
    pub keep_alive_seconds: Option<String>,
    /// What all sandboxes together may have, each counted with the memory that its function is allowed: `512MiB`,
    /// `24GiB` [default: 16 times the machine's memory, for functions seldom use what they are allowed].
    #[arg(long, value_name = "AMOUNT")]
    pub memory_budget: Option<String>,
    /// How long a node of a cluster must be short of memory or processors until invocations that can be suspended move to
    /// nodes where they find more, those of the lowest priority first; 0: they stay [default: 5].
    #[arg(long, value_name = "SECONDS")]
    pub pressure_seconds: Option<String>,
    /// Bytes a second of a streamed answer after its first 6 MiB, or `unlimited` [default: unlimited].
    #[arg(long, value_name = "N")]
    pub stream_bytes_per_second: Option<String>,
    /// Form of log lines: text or json [default: text].
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Least severe log lines: error, warn, info, debug or trace [default: info].
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Sandboxes kept ready for each runtime in use that starts slowly, more while many are taken; 0: none [default: 2].
    #[arg(long, value_name = "N")]
    pub prewarmed: Option<String>,
    /// What all of these together may use, and as much again in each instance; those that spare most start time for it
    /// come first [default: 512MiB].
    #[arg(long, value_name = "AMOUNT")]
    pub prewarmed_memory: Option<String>,
    /// File with the certificate to serve HTTPS with, and its issuers' (PEM); read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<String>,
    /// File with the certificate's private key (PEM).
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<String>,
    /// Where code packages in S3 buckets are fetched from, `http://127.0.0.1:9090` or `https://HOST`, say; the keys are read
    /// from the environment, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and the authorities that are trusted from
    /// the file that AWS_CA_BUNDLE names, else from the system [default: none].
    #[arg(long, value_name = "URL")]
    pub s3_endpoint: Option<String>,
    /// Where the SQS queues are that functions read, with the same keys and authorities [default: none].
    #[arg(long, value_name = "URL")]
    pub sqs_endpoint: Option<String>,
    /// Registries that functions' images may be fetched from, `https://[USER:PASSWORD@]HOST[:PORT]`, or `http://`
    /// on this machine, with commas between [default: none].
    #[arg(long, value_name = "LIST")]
    pub registries: Option<String>,
    /// Where functions run whose account has no instance: `inline`, in the node, or `process` or `vm`, on an instance of
    /// that kind which the account gets then; one waits ready for the next account [default: inline].
    #[arg(long, value_name = "KIND")]
    pub instances: Option<String>,
    /// Folders whose new files run functions, `NAME=FOLDER`, with commas between: those of this node's default account
    /// with a tag `bowline:on-upload=folder:NAME/` and, if wanted, the beginning of the path behind it [default: none].
    #[arg(long, value_name = "LIST")]
    pub watch: Option<String>,
}

impl SettingFlags {
    /// The effective configuration.
    pub fn load(self) -> Result<Config, ConfigError> {
        let given = [
            (Key::Listen, self.listen),
            (Key::Data, self.data),
            (Key::Store, self.store),
            (Key::Blobs, self.blobs),
            (Key::ObjectStores, self.object_stores),
            (Key::LeaseSeconds, self.lease_seconds),
            (Key::Placement, self.placement),
            (Key::Region, self.region),
            (Key::Concurrency, self.concurrency),
            (Key::KeepAliveSeconds, self.keep_alive_seconds),
            (Key::MemoryBudget, self.memory_budget),
            (Key::PressureSeconds, self.pressure_seconds),
            (Key::StreamBytesPerSecond, self.stream_bytes_per_second),
            (Key::LogFormat, self.log_format),
            (Key::LogLevel, self.log_level),
            (Key::Prewarmed, self.prewarmed),
            (Key::PrewarmedMemory, self.prewarmed_memory),
            (Key::TlsCert, self.tls_cert),
            (Key::TlsPrivate, self.tls_key),
            (Key::S3Endpoint, self.s3_endpoint),
            (Key::SqsEndpoint, self.sqs_endpoint),
            (Key::Registries, self.registries),
            (Key::Instances, self.instances),
            (Key::Watch, self.watch),
        ];
        Config::load(Sources {
            file: self.config,
            folder: &std::env::current_dir().unwrap_or_default(),
            environment: &|name| std::env::var(name).ok(),
            flags: given.into_iter().filter_map(|(key, text)| Some((key, text?))).collect(),
        })
    }
}
