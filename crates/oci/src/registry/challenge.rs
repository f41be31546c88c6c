//! How a registry says what it wants proved: `WWW-Authenticate`.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What is wanted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer {
        /// Who gives tokens.
        realm: String,
        /// What the token is for, as a query.
        query: String,
    },
}

impl Challenge {
    /// None for a scheme that is not known, or a challenge that is malformed.
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut realm = None;
        let mut query = Vec::new();
        for (name, value) in parameters(rest)? {
            match name.as_str() {
                "realm" => realm = Some(value),
                "service" | "scope" => {
                    query.push(format!("{name}={}", utf8_percent_encode(&value, UNRESERVED)));
                }
                _ => {}
            }
        }
        Some(Self::Bearer {
            realm: realm?,
            query: query.join("&"),
        })
    }
}

/// `name="value",name=value`; a quoted value may hold commas.
fn parameters(mut rest: &str) -> Option<Vec<(String, String)>> {
    let mut found = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', ',']);
        if rest.is_empty() {
            return Some(found);
        }
        let (name, after) = rest.split_once('=')?;
        let value;
        (value, rest) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        found.push((name.trim().to_ascii_lowercase(), value.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let bearer = |realm: &str, query: &str| {
            Some(Challenge::Bearer {
                realm: realm.to_owned(),
                query: query.to_owned(),
            })
        };
        for (text, expected) in [
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            ("basic", Some(Challenge::Basic)),
            (
                "Bearer realm=\"https://auth/token\",service=\"registry\",scope=\"repository:a/b:pull,push\"",
                bearer(
                    "https://auth/token",
                    "service=registry&scope=repository%3Aa%2Fb%3Apull%2Cpush",
                ),
            ),
            (
                "bearer service=s, realm=\"r\", error=\"invalid_token\"",
                bearer("r", "service=s"),
            ),
            ("Bearer service=\"s\"", None),
            ("Bearer realm=\"open", None),
            ("Bearer nonsense", None),
            ("Negotiate", None),
        ] {
            assert_eq!(Challenge::parse(text), expected, "{text}");
        }
    }
}
