//! An HTTP request as an event of payload format 2.0.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bowline_foundation::clock::Timestamp;
use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, COOKIE, EXPECT, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use time::OffsetDateTime;

use super::iam::Identity;
use crate::route::Query;

const DEFAULT: &str = "$default";
/// Headers that are about the connection, not about the request.
const OF_THE_CONNECTION: [HeaderName; 7] = [
    CONNECTION,
    EXPECT,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// What an event is made of, but for the body.
pub struct EventParts<'a> {
    pub id: &'a str,
    pub domain: &'a str,
    pub method: &'a str,
    pub path: &'a str,
    pub query: &'a str,
    pub protocol: &'a str,
    pub headers: &'a HeaderMap,
    pub source_ip: IpAddr,
    /// `http` or `https`: how the request came in.
    pub scheme: &'a str,
    /// The port it came in at.
    pub port: u16,
    pub trace_id: &'a str,
    pub request_id: &'a str,
    pub now: Timestamp,
    /// The caller, where callers are known.
    pub identity: Option<&'a Identity>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    version: &'static str,
    route_key: &'static str,
    raw_path: &'a str,
    raw_query_string: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cookies: Vec<String>,
    headers: BTreeMap<&'a str, Cow<'a, str>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    query_string_parameters: BTreeMap<String, String>,
    request_context: RequestContext<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Cow<'a, str>>,
    is_base64_encoded: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RequestContext<'a> {
    account_id: &'a str,
    api_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    authorizer: Option<Authorizer<'a>>,
    domain_name: &'a str,
    domain_prefix: &'a str,
    http: Http<'a>,
    request_id: &'a str,
    route_key: &'static str,
    stage: &'static str,
    time: String,
    time_epoch: u64,
}

#[derive(Serialize)]
struct Http<'a> {
    method: &'a str,
    path: Cow<'a, str>,
    protocol: &'a str,
    #[serde(rename = "sourceIp")]
    source_ip: IpAddr,
    #[serde(rename = "userAgent", skip_serializing_if = "Option::is_none")]
    user_agent: Option<Cow<'a, str>>,
}

#[derive(Serialize)]
struct Authorizer<'a> {
    iam: Iam<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Iam<'a> {
    access_key: &'a str,
    account_id: &'a str,
    caller_id: &'a str,
    cognito_identity: (),
    principal_org_id: (),
    user_arn: String,
    user_id: &'a str,
}

impl EventParts<'_> {
    /// The event with its body, as JSON.
    pub fn event(&self, body: &[u8]) -> Bytes {
        let (body, is_base64_encoded) = self.body(body);
        let event = Event {
            version: "2.0",
            route_key: DEFAULT,
            raw_path: self.path,
            raw_query_string: self.query,
            cookies: self.cookies(),
            headers: self.headers(),
            query_string_parameters: self.parameters(),
            request_context: self.context(),
            body,
            is_base64_encoded,
        };
        let bytes = serde_json::to_vec(&event).expect("an event has text keys and whole numbers");
        bytes.into()
    }

    /// Texts go as they are, everything else encoded; nothing if there is no body.
    fn body<'b>(&self, body: &'b [u8]) -> (Option<Cow<'b, str>>, bool) {
        if body.is_empty() {
            return (None, false);
        }
        match std::str::from_utf8(body) {
            Ok(text) if self.is_text() => (Some(text.into()), false),
            _ => (Some(STANDARD.encode(body).into()), true),
        }
    }

    fn is_text(&self) -> bool {
        let encoding = self.headers.get(CONTENT_ENCODING);
        if encoding.is_some_and(|encoding| encoding != "identity") {
            return false;
        }
        let kind = self.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let Some(kind) = kind else { return false };
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        kind.starts_with("text/")
            || ["application/json", "application/javascript", "application/xml"].contains(&kind.as_str())
            || (kind.starts_with("application/") && (kind.ends_with("+json") || kind.ends_with("+xml")))
    }

    fn cookies(&self) -> Vec<String> {
        let lines = self.headers.get_all(COOKIE).iter().map(text);
        let cookies = lines.flat_map(|line| {
            line.split(';')
                .map(|cookie| cookie.trim().to_owned())
                .collect::<Vec<_>>()
        });
        cookies.filter(|cookie| !cookie.is_empty()).collect()
    }

    /// Names in lower case, values of one name joined by commas (of cookies by semicolons); what the platform
    /// knows of the connection is over what the caller says of it.
    fn headers(&self) -> BTreeMap<&str, Cow<'_, str>> {
        let mut joined = BTreeMap::new();
        for name in self.headers.keys().filter(|name| !OF_THE_CONNECTION.contains(name)) {
            let mut values = self.headers.get_all(name).iter();
            let first = values.next().map(text).unwrap_or_default();
            let separator = if *name == COOKIE { "; " } else { "," };
            let value = values.fold(first, |mut joined, value| {
                joined.to_mut().push_str(separator);
                joined.to_mut().push_str(&text(value));
                joined
            });
            joined.insert(name.as_str(), value);
        }
        joined.insert("x-amzn-trace-id", self.trace_id.into());
        joined.insert("x-forwarded-for", self.source_ip.to_string().into());
        joined.insert("x-forwarded-port", self.port.to_string().into());
        joined.insert("x-forwarded-proto", self.scheme.into());
        joined
    }

    fn parameters(&self) -> BTreeMap<String, String> {
        let mut parameters: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in Query::new(self.query).pairs() {
            match parameters.get_mut(&*name) {
                None => drop(parameters.insert(name.into_owned(), value.into_owned())),
                Some(joined) => {
                    joined.push(',');
                    joined.push_str(&value);
                }
            }
        }
        parameters
    }

    fn context(&self) -> RequestContext<'_> {
        let authorizer = self.identity.map(|identity| Authorizer {
            iam: Iam {
                access_key: &identity.access_key,
                account_id: identity.account.as_str(),
                caller_id: &identity.access_key,
                cognito_identity: (),
                principal_org_id: (),
                user_arn: format!("arn:aws:iam::{}:root", identity.account),
                user_id: &identity.access_key,
            },
        });
        RequestContext {
            account_id: self.identity.map_or("anonymous", |identity| identity.account.as_str()),
            api_id: self.id,
            authorizer,
            domain_name: self.domain,
            domain_prefix: self.id,
            http: Http {
                method: self.method,
                path: percent_decode_str(self.path).decode_utf8_lossy(),
                protocol: self.protocol,
                source_ip: self.source_ip,
                user_agent: self.headers.get(USER_AGENT).map(text),
            },
            request_id: self.request_id,
            route_key: DEFAULT,
            stage: DEFAULT,
            time: moment(self.now),
            time_epoch: self.now.as_millis(),
        }
    }
}

fn text(value: &HeaderValue) -> Cow<'_, str> {
    String::from_utf8_lossy(value.as_bytes())
}

/// `12/Mar/2020:19:03:58 +0000`.
fn moment(at: Timestamp) -> String {
    let seconds = i64::try_from(at.as_millis() / 1000).unwrap_or(i64::MAX);
    let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let month = &at.month().to_string()[..3];
    format!(
        "{:02}/{month}/{:04}:{:02}:{:02}:{:02} +0000",
        at.day(),
        at.year(),
        at.hour(),
        at.minute(),
        at.second()
    )
}

#[cfg(test)]
mod tests;
