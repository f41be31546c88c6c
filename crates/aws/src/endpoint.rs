//! Where a service is reached.

use std::fmt;
use std::str::FromStr;

use http::uri::{Authority, Scheme, Uri};

/// The base address of a service: `http://127.0.0.1:9324`, say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    scheme: Scheme,
    authority: Authority,
    /// What stands before every path; without a slash at its end.
    prefix: String,
}

/// A text that is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected `http://HOST:PORT` or `https://HOST:PORT` without a user, a query or a fragment")]
pub struct InvalidEndpoint;

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        let uri: Uri = text.parse().map_err(|_| InvalidEndpoint)?;
        let authority = uri.authority().ok_or(InvalidEndpoint)?.clone();
        let known = [Scheme::HTTP, Scheme::HTTPS];
        let scheme = uri.scheme().filter(|scheme| known.contains(scheme));
        let scheme = scheme.ok_or(InvalidEndpoint)?.clone();
        if uri.query().is_some() || text.contains('#') || authority.as_str().contains('@') {
            return Err(InvalidEndpoint);
        }
        Ok(Self {
            scheme,
            authority,
            prefix: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

impl Endpoint {
    /// Whether it speaks TLS.
    pub fn is_private(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// The value of `Host`.
    pub(crate) fn host(&self) -> &str {
        self.authority.as_str()
    }

    /// The whole path of a resource whose own path begins with a slash.
    pub(crate) fn path(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    /// The address of a path that [`Endpoint::path`] gave, with its query.
    pub(crate) fn uri(&self, path_and_query: &str) -> Result<Uri, http::Error> {
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(path_and_query)
            .build()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_base_address() {
        for (text, shown) in [
            ("http://127.0.0.1:9324", "http://127.0.0.1:9324"),
            ("http://localhost:9000/", "http://localhost:9000"),
            ("http://h/base/", "http://h/base"),
            ("https://h", "https://h"),
        ] {
            assert_eq!(
                text.parse::<Endpoint>().map(|endpoint| endpoint.to_string()),
                Ok(shown.to_owned())
            );
        }
        for text in [
            "",
            "127.0.0.1:9324",
            "ftp://h",
            "http://u:p@h",
            "http://h/?q",
            "http://h/#f",
            "/path",
        ] {
            assert_eq!(text.parse::<Endpoint>(), Err(InvalidEndpoint), "{text}");
        }
    }
}
