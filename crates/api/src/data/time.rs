//! Moments on this wire: RFC 3339 in UTC, to the microsecond.

use bowline_foundation::clock::Timestamp;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The text of a moment.
pub fn text(moment: Timestamp) -> String {
    let nanos = i128::from(moment.as_micros()) * 1000;
    let shown = OffsetDateTime::from_unix_timestamp_nanos(nanos)
        .ok()
        .and_then(|moment| moment.format(&Rfc3339).ok());
    shown.unwrap_or_else(|| "9999-12-31T23:59:59Z".to_owned())
}

/// Reads a moment, with any offset; none before 1970.
pub fn read(text: &str) -> Option<Timestamp> {
    let moment = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    let micros = u64::try_from(moment.unix_timestamp_nanos() / 1000).ok()?;
    Some(Timestamp::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_survive_their_text_form() {
        let moment = Timestamp::from_micros(1_795_217_079_123_456);
        assert_eq!(text(moment), "2026-11-20T23:24:39.123456Z");
        assert_eq!(read(&text(moment)), Some(moment));
        assert_eq!(read("2026-11-21T00:24:39.123456+01:00"), Some(moment));
        for bad in ["", "yesterday", "2026-11-20", "1969-12-31T23:59:59Z"] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!(text(Timestamp::from_micros(u64::MAX)), "9999-12-31T23:59:59Z");
    }
}
