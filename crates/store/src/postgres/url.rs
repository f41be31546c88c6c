//! The address of a database, as the operator writes it; shown without the password.

use std::fmt;
use std::str::FromStr;

use tokio_postgres::config::Host;
use tokio_postgres::{Config, config::SslMode, config::TargetSessionAttrs};

/// The schema that holds the tables unless the URL names another.
const SCHEMA_DEFAULT: &str = "bowline";
const PORT_DEFAULT: u16 = 5432;
/// PostgreSQL cuts longer names off.
const SCHEMA_BYTES_MAX: usize = 63;

/// Where a store's database is: `postgres://USER:PASSWORD@HOST:PORT/DATABASE?schema=NAME`.
///
/// All parameters of `libpq` that the driver knows may follow the `?`. `schema` is our own: two stores
/// in two schemas of one database have nothing in common. Neither `Display` nor `Debug` shows the password.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl {
    config: Config,
    schema: String,
}

/// Why a text is no usable address; never quotes the text, which may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPostgresUrl {
    #[error("not a PostgreSQL address: expected `postgres://USER:PASSWORD@HOST:PORT/DATABASE`")]
    Malformed,
    /// A bare `@`, which would make it unclear where the password ends.
    #[error("more than one `@` in the PostgreSQL address: write `%40` for one in the user name or password")]
    Ambiguous,
    #[error("`sslmode={0}` asks for TLS, which this build does not speak: use `disable`, or a tunnel")]
    TlsUnsupported(String),
    #[error("`sslmode={0}` is unknown: this build takes `disable`, `allow` and `prefer`, and speaks plain TCP")]
    UnknownSslMode(String),
    #[error("schema name `{0}` is refused: expected lower-case letters, digits and `_`, at most 63, no digit first")]
    Schema(String),
}

impl PostgresUrl {
    /// Whether `text` has the form of such an address, usable or not.
    pub fn is_one(text: &str) -> bool {
        text.starts_with("postgres://") || text.starts_with("postgresql://")
    }

    /// The servers it names, by host and port: what fails together with any of their databases.
    pub fn servers(&self) -> Vec<String> {
        let ports = self.config.get_ports();
        let port = |at: usize| ports.get(at).or(ports.first()).copied().unwrap_or(PORT_DEFAULT);
        let hosts = self.config.get_hosts().iter().enumerate();
        let named = hosts.map(|(at, host)| match host {
            Host::Tcp(name) => format!("{name}:{}", port(at)),
            Host::Unix(path) => format!("{}:{}", path.display(), port(at)),
        });
        let addresses = self.config.get_hostaddrs().iter().enumerate();
        named
            .chain(addresses.map(|(at, address)| format!("{address}:{}", port(at))))
            .collect()
    }

    /// The schema that holds the store's tables.
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// The same database with another schema.
    pub fn with_schema(&self, schema: &str) -> Result<Self, InvalidPostgresUrl> {
        check_schema(schema)?;
        Ok(Self {
            config: self.config.clone(),
            schema: schema.to_owned(),
        })
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }
}

impl FromStr for PostgresUrl {
    type Err = InvalidPostgresUrl;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !Self::is_one(text) {
            return Err(InvalidPostgresUrl::Malformed);
        }
        let (address, query) = text.split_once('?').unwrap_or((text, ""));
        check_at_signs(text)?;
        let mut schema = SCHEMA_DEFAULT;
        let mut others = Vec::new();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.split_once('=') {
                Some(("schema", name)) => schema = name,
                Some(("sslmode", mode)) => check_ssl_mode(mode)?,
                _ => others.push(parameter),
            }
        }
        check_schema(schema)?;
        let rest = format!("{address}?{}", others.join("&"));
        let mut config = Config::from_str(&rest).map_err(|_| InvalidPostgresUrl::Malformed)?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(InvalidPostgresUrl::Malformed);
        }
        config.ssl_mode(SslMode::Disable);
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        Ok(Self {
            config,
            schema: schema.to_owned(),
        })
    }
}

/// The only `@` may be the one before the host.
fn check_at_signs(text: &str) -> Result<(), InvalidPostgresUrl> {
    let authority = text.split_once("://").map_or("", |(_, rest)| rest);
    let authority = authority.split(['/', '?']).next().unwrap_or_default();
    match (text.matches('@').count(), authority.contains('@')) {
        (0, _) | (1, true) => Ok(()),
        _ => Err(InvalidPostgresUrl::Ambiguous),
    }
}

fn check_ssl_mode(mode: &str) -> Result<(), InvalidPostgresUrl> {
    match mode {
        "disable" | "allow" | "prefer" => Ok(()),
        "require" | "verify-ca" | "verify-full" => Err(InvalidPostgresUrl::TlsUnsupported(mode.to_owned())),
        _ => Err(InvalidPostgresUrl::UnknownSslMode(mode.to_owned())),
    }
}

fn check_schema(name: &str) -> Result<(), InvalidPostgresUrl> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let starts_well = name.bytes().next().is_some_and(|byte| !byte.is_ascii_digit());
    if starts_well && name.len() <= SCHEMA_BYTES_MAX && name.bytes().all(allowed) && !name.starts_with("pg_") {
        return Ok(());
    }
    Err(InvalidPostgresUrl::Schema(name.to_owned()))
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "postgres://")?;
        if let Some(user) = self.config.get_user() {
            write!(f, "{user}@")?;
        }
        for (index, host) in self.config.get_hosts().iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            match host {
                Host::Tcp(name) => write!(f, "{separator}{name}")?,
                #[cfg(unix)]
                Host::Unix(path) => write!(f, "{separator}{}", path.display())?,
            }
            let ports = self.config.get_ports();
            if let Some(port) = ports.get(index).or_else(|| ports.first()) {
                write!(f, ":{port}")?;
            }
        }
        let database = self.config.get_dbname().unwrap_or_default();
        write!(f, "/{database}?schema={}", self.schema)
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, &str>) {
        let shown = text.parse::<PostgresUrl>().map(|url| format!("{url}"));
        match expected {
            Ok(url) => assert_eq!(shown.as_deref(), Ok(url), "{text}"),
            Err(part) => {
                let error = shown.expect_err(text).to_string();
                assert!(error.contains(part), "{text}: {error}");
                assert!(!error.contains("hidden"), "{text}: {error}");
            }
        }
    }

    #[test]
    fn addresses_are_read_and_shown_without_the_password() {
        check(
            "postgres://ann:hidden@db:5433/apps?connect_timeout=3&schema=blue",
            Ok("postgres://ann@db:5433/apps?schema=blue"),
        );
        check(
            "postgresql://ann@db/apps?sslmode=prefer",
            Ok("postgres://ann@db:5432/apps?schema=bowline"),
        );
        let url: PostgresUrl = "postgres://ann:hidden@db/apps".parse().unwrap();
        assert!(!format!("{url:?}").contains("hidden"));
        assert_eq!(url.with_schema("red").unwrap().schema(), "red");
    }

    #[test]
    fn what_cannot_be_used_is_refused_without_quoting_the_password() {
        check("mysql://ann:hidden@db/apps", Err("expected `postgres://"));
        check("postgres://", Err("expected `postgres://"));
        check("postgres://ann:hidden@db:port/apps", Err("expected `postgres://"));
        check("postgres://ann:hidden@db/apps?colour=red", Err("expected `postgres://"));
        check("postgres://ann:a@hidden@db/apps", Err("`%40`"));
        check("postgres://ann:1/hidden@db/apps", Err("`%40`"));
        for mode in ["require", "verify-ca", "verify-full"] {
            check(
                &format!("postgres://ann:hidden@db/apps?sslmode={mode}"),
                Err("asks for TLS"),
            );
        }
        check(
            "postgres://ann:hidden@db/apps?sslmode=maybe",
            Err("`sslmode=maybe` is unknown"),
        );
        for schema in ["", "1a", "Blue", "a;b", "pg_toast"] {
            check(
                &format!("postgres://ann:hidden@db/apps?schema={schema}"),
                Err("schema name"),
            );
        }
    }
}
