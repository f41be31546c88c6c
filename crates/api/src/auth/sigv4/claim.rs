//! What a request says about its signature, in a header or in its query.

use std::time::Duration;

use bowline_aws::sign::moment;
use bowline_foundation::clock::Timestamp;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use time::{Date, Month, PrimitiveDateTime, Time};

use super::{ALGORITHM, SERVICE, TERMINATOR};
use crate::auth::Refusal;
use crate::route::Query;

/// How far the clocks of client and node may be apart.
const SKEW_MAX: Duration = Duration::from_secs(5 * 60);
/// Longest life of a presigned query: seven days.
const EXPIRES_SECONDS_MAX: u64 = 604_800;
/// Says what a body has that comes behind the head.
pub const CONTENT_HASH: &str = "x-amz-content-sha256";

/// A signature with what it says of itself; formed well, nothing more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub access_key: String,
    /// Of the scope: `YYYYMMDD`.
    pub date: String,
    pub region: String,
    service: String,
    terminator: String,
    pub signed_headers: String,
    pub signature: [u8; 32],
    /// `YYYYMMDDTHHMMSSZ`.
    pub moment: String,
    at: Timestamp,
    /// How long it holds from then on; none for a header's, which holds as long as clocks may differ.
    expires: Option<Duration>,
}

/// The parts as they are written, whatever form they come in.
struct Written {
    credential: String,
    signed_headers: String,
    signature: String,
    moment: String,
    expires: Option<String>,
}

impl Claim {
    /// Reads the signature of a request.
    pub fn of(headers: &HeaderMap, query: Query<'_>) -> Result<Self, Refusal> {
        let written = match headers.get(AUTHORIZATION) {
            Some(value) => {
                let value = value
                    .to_str()
                    .map_err(|_| incomplete("Authorization header is not ASCII text."))?;
                in_header(value, headers)?
            }
            None => in_query(query)?,
        };
        let claim = Self::read(written)?;
        claim.check_headers(headers)?;
        Ok(claim)
    }

    fn read(written: Written) -> Result<Self, Refusal> {
        let parts: Vec<&str> = written.credential.split('/').collect();
        let [access_key, date, region, service, terminator] = parts[..] else {
            return Err(incomplete(format!(
                "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, got \
                 '{}'",
                written.credential
            )));
        };
        let signature =
            read_signature(&written.signature).ok_or_else(|| incomplete("Signature is not 64 hexadecimal digits."))?;
        let at = read_moment(&written.moment).ok_or_else(|| {
            incomplete(format!(
                "Date must be in ISO-8601 'basic format'. Got '{}'.",
                written.moment
            ))
        })?;
        let expires = match &written.expires {
            None => None,
            Some(text) => Some(read_expires(text)?),
        };
        Ok(Self {
            access_key: access_key.to_owned(),
            date: date.to_owned(),
            region: region.to_owned(),
            service: service.to_owned(),
            terminator: terminator.to_owned(),
            signed_headers: written.signed_headers,
            signature,
            moment: written.moment,
            at,
            expires,
        })
    }

    /// The host must be covered, and every header that changes what is asked.
    fn check_headers(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let covers = |name: &str| self.signed_headers.split(';').any(|signed| signed == name);
        if !covers("host") {
            return Err(invalid(
                "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.",
            ));
        }
        let names = headers.keys().map(http::HeaderName::as_str);
        let mut uncovered = names.filter(|name| name.starts_with("x-amz-") && !covers(name));
        match uncovered.next() {
            None => Ok(()),
            Some(name) => Err(invalid(format!(
                "'{name}' must be a 'SignedHeader' in the AWS Authorization."
            ))),
        }
    }

    /// Whether the signature is for this service in this region.
    pub fn check_scope(&self, region: &str) -> Result<(), Refusal> {
        if self.terminator != TERMINATOR {
            return Err(invalid(format!(
                "Credential should be scoped with a valid terminator: '{TERMINATOR}', not '{}'.",
                self.terminator
            )));
        }
        if self.service != SERVICE {
            return Err(invalid(format!(
                "Credential should be scoped to correct service: '{SERVICE}'."
            )));
        }
        if self.region != region {
            return Err(invalid(format!(
                "Credential should be scoped to a valid region: this node's is '{region}', not '{}'.",
                self.region
            )));
        }
        if self.date != self.moment[..8] {
            return Err(invalid(format!(
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '{}' != \
                 '{}', from '{}'.",
                self.date,
                &self.moment[..8],
                self.moment
            )));
        }
        Ok(())
    }

    /// Whether the signature holds at this moment.
    pub fn check_time(&self, now: Timestamp) -> Result<(), Refusal> {
        if self.at > now.after(SKEW_MAX) {
            return Err(invalid(format!(
                "Signature not yet current: {} is still later than {} ({} + 5 min.)",
                self.moment,
                moment(now.after(SKEW_MAX)),
                moment(now)
            )));
        }
        let holds = self.expires.unwrap_or(SKEW_MAX);
        if now.since(self.at) > holds {
            return Err(invalid(format!(
                "Signature expired: {} is now earlier than {} ({} - {} s)",
                self.moment,
                moment(now.before(holds)),
                moment(now),
                holds.as_secs()
            )));
        }
        Ok(())
    }

    /// A body that is not signed, or signed piece by piece, is not taken; nor one of another digest.
    pub fn check_payload(&self, headers: &HeaderMap, payload: &str) -> Result<(), Refusal> {
        let Some(said) = headers.get(CONTENT_HASH).and_then(|value| value.to_str().ok()) else {
            return Ok(());
        };
        if said == "UNSIGNED-PAYLOAD" || said.starts_with("STREAMING-") {
            return Err(invalid(format!(
                "The payload must be signed as a whole: '{said}' is not supported."
            )));
        }
        if said != payload {
            return Err(invalid(
                "The digest in 'x-amz-content-sha256' is not the one of the body.",
            ));
        }
        Ok(())
    }
}

fn in_header(value: &str, headers: &HeaderMap) -> Result<Written, Refusal> {
    let (algorithm, rest) = value.split_once(' ').unwrap_or((value, ""));
    if algorithm != ALGORITHM {
        return Err(incomplete(format!(
            "Unsupported AWS 'algorithm': '{algorithm}'; expected '{ALGORITHM}'."
        )));
    }
    let (mut credential, mut signed_headers, mut signature) = (None, None, None);
    for part in rest.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let Some((name, value)) = part.split_once('=') else {
            return Err(incomplete(format!(
                "'{part}' not a valid key=value pair (missing equal-sign) in Authorization header."
            )));
        };
        let slot = match name {
            "Credential" => &mut credential,
            "SignedHeaders" => &mut signed_headers,
            "Signature" => &mut signature,
            _ => return Err(incomplete(format!("'{name}' is no part of an Authorization header."))),
        };
        if slot.replace(value.to_owned()).is_some() {
            return Err(incomplete(format!("Authorization header has '{name}' twice.")));
        }
    }
    let part = |value: Option<String>, name: &str| {
        value.ok_or_else(|| incomplete(format!("Authorization header requires '{name}' parameter.")))
    };
    let moment = ["x-amz-date", "date"].iter().find_map(|name| headers.get(*name));
    let moment = moment.ok_or_else(|| {
        incomplete("Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.")
    })?;
    Ok(Written {
        credential: part(credential, "Credential")?,
        signed_headers: part(signed_headers, "SignedHeaders")?,
        signature: part(signature, "Signature")?,
        moment: String::from_utf8_lossy(moment.as_bytes()).into_owned(),
        expires: None,
    })
}

fn in_query(query: Query<'_>) -> Result<Written, Refusal> {
    let algorithm = query.get("X-Amz-Algorithm").ok_or(Refusal::Missing)?;
    if algorithm != ALGORITHM {
        return Err(incomplete(format!(
            "Unsupported AWS 'algorithm': '{algorithm}'; expected '{ALGORITHM}'."
        )));
    }
    let part = |name: &str| {
        let mut all = query.all(name);
        match (all.next(), all.next()) {
            (Some(value), None) => Ok(value.into_owned()),
            (None, _) => Err(incomplete(format!(
                "AWS query-string parameters must include '{name}'."
            ))),
            (Some(_), Some(_)) => Err(incomplete(format!("The query has '{name}' twice."))),
        }
    };
    Ok(Written {
        credential: part("X-Amz-Credential")?,
        signed_headers: part("X-Amz-SignedHeaders")?,
        signature: part("X-Amz-Signature")?,
        moment: part("X-Amz-Date")?,
        expires: Some(part("X-Amz-Expires")?),
    })
}

fn read_signature(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    let mut raw = [0; 32];
    if digits.len() != 2 * raw.len() {
        return None;
    }
    let value = |digit: u8| {
        char::from(digit)
            .to_digit(16)
            .and_then(|value| u8::try_from(value).ok())
    };
    for (byte, pair) in raw.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(raw)
}

fn read_expires(text: &str) -> Result<Duration, Refusal> {
    let seconds = text
        .parse()
        .ok()
        .filter(|seconds| (1..=EXPIRES_SECONDS_MAX).contains(seconds));
    let seconds = seconds.ok_or_else(|| {
        incomplete(format!(
            "X-Amz-Expires must be a number of seconds from 1 to {EXPIRES_SECONDS_MAX}, got '{text}'."
        ))
    })?;
    Ok(Duration::from_secs(seconds))
}

/// Reads `YYYYMMDDTHHMMSSZ`, from 1970 on.
fn read_moment(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let is_digit = |at: usize| bytes[at].is_ascii_digit();
    if bytes.len() != 16 || bytes[8] != b'T' || bytes[15] != b'Z' || !(0..8).chain(9..15).all(is_digit) {
        return None;
    }
    let number = |from: usize, to: usize| text[from..to].parse::<u16>().ok();
    let part = |from: usize| number(from, from + 2).and_then(|part| u8::try_from(part).ok());
    let month = Month::try_from(part(4)?).ok()?;
    let date = Date::from_calendar_date(number(0, 4)?.into(), month, part(6)?).ok()?;
    let time = Time::from_hms(part(9)?, part(11)?, part(13)?).ok()?;
    let seconds = PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp();
    let micros = u64::try_from(seconds).ok()?.checked_mul(1_000_000)?;
    Some(Timestamp::from_micros(micros))
}

fn incomplete(text: impl Into<String>) -> Refusal {
    Refusal::Incomplete(text.into())
}

fn invalid(text: impl Into<String>) -> Refusal {
    Refusal::Invalid(text.into())
}
