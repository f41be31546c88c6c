//! Where a registry is, and where it may send to.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use http::uri::{Authority, Uri};
use percent_encoding::percent_decode_str;

/// A registry with what proves to it who asks: `https://[USER:PASSWORD@]HOST[:PORT]`, or `http://` on this machine.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistryAddress {
    is_secure: bool,
    /// Without a user.
    authority: Authority,
    credentials: Option<(String, String)>,
}

/// A text that is no registry's address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected `https://[USER:PASSWORD@]HOST[:PORT]`, or `http://` with a loopback address")]
pub struct InvalidRegistry;

/// Something that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub is_secure: bool,
    authority: Authority,
    /// With its query.
    pub path: String,
}

/// Neither over TLS nor on this machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it sends to `{0}`, which is neither `https` nor on this machine")]
pub(super) struct NotSafe(String);

impl FromStr for RegistryAddress {
    type Err = InvalidRegistry;

    fn from_str(text: &str) -> Result<Self, InvalidRegistry> {
        let uri: Uri = text.parse().map_err(|_| InvalidRegistry)?;
        let (user, authority) = match uri.authority().ok_or(InvalidRegistry)?.as_str().rsplit_once('@') {
            Some((user, authority)) => (Some(user), authority),
            None => (None, uri.authority().ok_or(InvalidRegistry)?.as_str()),
        };
        let authority: Authority = authority.parse().map_err(|_| InvalidRegistry)?;
        let is_secure = uri.scheme_str() == Some("https");
        let is_plain = uri.scheme_str() == Some("http") && is_loopback(authority.host());
        if !(is_secure || is_plain) || uri.path() != "/" || uri.query().is_some() || text.contains('#') {
            return Err(InvalidRegistry);
        }
        let decode = |text: &str| percent_decode_str(text).decode_utf8().map(|text| text.into_owned());
        let credentials = match user {
            None => None,
            Some(user) => {
                let (user, password) = user.split_once(':').ok_or(InvalidRegistry)?;
                let decoded = (decode(user), decode(password));
                let (Ok(user), Ok(password)) = decoded else {
                    return Err(InvalidRegistry);
                };
                Some((user, password))
            }
        };
        Ok(Self {
            is_secure,
            authority,
            credentials,
        })
    }
}

impl RegistryAddress {
    /// Whether it speaks TLS.
    pub fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// The host, with its port if that is not the usual one.
    pub fn host(&self) -> &str {
        self.authority.as_str()
    }

    pub(super) fn target(&self, path: &str) -> Target {
        Target {
            is_secure: self.is_secure,
            authority: self.authority.clone(),
            path: path.to_owned(),
        }
    }

    /// The value of `Authorization`.
    pub(super) fn basic(&self) -> Option<HeaderValue> {
        let (user, password) = self.credentials.as_ref()?;
        let encoded = STANDARD.encode(format!("{user}:{password}"));
        let mut value = HeaderValue::from_str(&format!("Basic {encoded}")).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl Target {
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    pub fn host(&self) -> &str {
        self.authority.host().trim_start_matches('[').trim_end_matches(']')
    }

    pub fn port(&self) -> u16 {
        self.authority
            .port_u16()
            .unwrap_or(if self.is_secure { 443 } else { 80 })
    }

    /// Where a location leads that was given there.
    pub fn follow(&self, location: &str) -> Result<Self, NotSafe> {
        let shown = location.split('?').next().unwrap_or_default().to_owned();
        let uri: Uri = location.parse().map_err(|_| NotSafe(shown.clone()))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let Some(authority) = uri.authority() else {
            return match path.starts_with('/') {
                true => Ok(Self { path, ..self.clone() }),
                false => Err(NotSafe(shown)),
            };
        };
        let is_secure = uri.scheme_str() == Some("https");
        let is_plain = uri.scheme_str() == Some("http") && is_loopback(authority.host()) && !self.is_secure;
        if !(is_secure || is_plain) || authority.as_str().contains('@') {
            return Err(NotSafe(shown));
        }
        Ok(Self {
            is_secure,
            authority: authority.clone(),
            path,
        })
    }
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Without the password.
impl fmt::Display for RegistryAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_secure { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority)
    }
}

impl fmt::Debug for RegistryAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_reached_by_tls_or_on_this_machine() {
        for (text, shown) in [
            ("https://registry.example.com", "https://registry.example.com"),
            (
                "https://user:pa%40ss@registry.example.com:5000/",
                "https://registry.example.com:5000",
            ),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
            ("http://[::1]:5000", "http://[::1]:5000"),
            ("http://localhost:5000", "http://localhost:5000"),
        ] {
            let read: RegistryAddress = text.parse().unwrap();
            assert_eq!(
                (read.to_string().as_str(), format!("{read:?}").as_str()),
                (shown, shown)
            );
        }
        for text in [
            "",
            "registry.example.com",
            "http://registry.example.com",
            "https://h/path",
            "https://h?q",
            "ftp://h",
            "https://user@h",
            "https://h#f",
        ] {
            assert_eq!(text.parse::<RegistryAddress>(), Err(InvalidRegistry), "{text}");
        }
        let read: RegistryAddress = "https://user:pa%40ss@h".parse().unwrap();
        assert_eq!(read.basic().unwrap(), "Basic dXNlcjpwYUBzcw==");
    }

    #[test]
    fn nobody_is_sent_where_others_listen() {
        let check = |from: &str, location: &str, expected: &str| {
            let from: RegistryAddress = from.parse().unwrap();
            let found = from.target("/v2/a").follow(location);
            let shown = found.map(|target| format!("{}{}", target.authority(), target.path));
            assert_eq!(shown.unwrap_or_else(|error| error.to_string()), expected, "{location}");
        };
        check("https://h", "/other?x=1", "h/other?x=1");
        check("https://h", "https://cdn/blob?sign=1", "cdn/blob?sign=1");
        check("http://127.0.0.1:5000", "http://127.0.0.1:5001/t", "127.0.0.1:5001/t");
        let refused = "it sends to `http://127.0.0.1/x`, which is neither `https` nor on this machine";
        check("https://h", "http://127.0.0.1/x?secret", refused);
        let refused = "it sends to `http://evil/x`, which is neither `https` nor on this machine";
        check("http://127.0.0.1:5000", "http://evil/x", refused);
    }
}
