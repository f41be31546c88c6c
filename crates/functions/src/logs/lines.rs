//! The platform's own lines in a function's log, as Lambda writes them.

use std::time::Duration;

use bowline_foundation::id::RequestId;

/// What the last line of an invocation says.
pub(crate) struct ReportLine<'a> {
    pub duration: Duration,
    /// Of the invocation that created its sandbox.
    pub init: Option<Duration>,
    pub memory_mib: u32,
    pub memory_bytes_max: u64,
    /// The length of the answer; only records tell it.
    pub answer_bytes: u64,
    pub status: Status<'a>,
}

/// How the invocation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status<'a> {
    Success,
    /// It reached its time limit.
    Timeout,
    Error {
        error_type: &'a str,
    },
}

pub(super) fn start(out: &mut Vec<u8>, request_id: &RequestId, version: &str) {
    put(
        out,
        &["START RequestId: ", request_id.as_str(), " Version: ", version, "\n"],
    );
}

pub(super) fn timed_out(out: &mut Vec<u8>, request_id: &RequestId, timeout: Duration) {
    put(
        out,
        &["RequestId: ", request_id.as_str(), " Error: Task timed out after "],
    );
    hundredths(out, timeout.as_nanos() / 10_000_000);
    put(out, &[" seconds\n"]);
}

pub(super) fn end(out: &mut Vec<u8>, request_id: &RequestId) {
    put(out, &["END RequestId: ", request_id.as_str(), "\n"]);
}

pub(super) fn report(out: &mut Vec<u8>, request_id: &RequestId, line: &ReportLine<'_>) {
    put(out, &["REPORT RequestId: ", request_id.as_str(), "\tDuration: "]);
    milliseconds(out, line.duration);
    put(out, &[" ms\tBilled Duration: "]);
    whole(out, line.duration.as_nanos().div_ceil(1_000_000));
    put(out, &[" ms\tMemory Size: "]);
    whole(out, line.memory_mib.into());
    put(out, &[" MB\tMax Memory Used: "]);
    whole(out, line.memory_bytes_max.div_ceil(1024 * 1024).into());
    put(out, &[" MB"]);
    if let Some(init) = line.init {
        put(out, &["\tInit Duration: "]);
        milliseconds(out, init);
        put(out, &[" ms"]);
    }
    match line.status {
        Status::Success => {}
        Status::Timeout => put(out, &["\tStatus: timeout"]),
        Status::Error { error_type } => put(out, &["\tStatus: error\tError Type: ", error_type]),
    }
    out.push(b'\n');
}

fn put(out: &mut Vec<u8>, texts: &[&str]) {
    texts.iter().for_each(|text| out.extend_from_slice(text.as_bytes()));
}

fn milliseconds(out: &mut Vec<u8>, duration: Duration) {
    hundredths(out, (duration.as_nanos() + 5_000) / 10_000);
}

/// A number with two decimals. The standard formatter takes ten times as long, twice in every report.
fn hundredths(out: &mut Vec<u8>, value: u128) {
    whole(out, value / 100);
    let rest = (value % 100) as u8;
    out.extend_from_slice(&[b'.', b'0' + rest / 10, b'0' + rest % 10]);
}

fn whole(out: &mut Vec<u8>, value: u128) {
    let mut rest = u64::try_from(value).unwrap_or(u64::MAX);
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use bowline_foundation::entropy::Entropy;

    use super::*;

    fn check(line: &ReportLine<'_>, expected: &str) {
        let id = RequestId::random(&Entropy::seeded(3));
        let mut out = Vec::new();
        report(&mut out, &id, line);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.strip_prefix(&format!("REPORT RequestId: {id}\t")), Some(expected));
    }

    #[test]
    fn reports_read_as_the_services_do() {
        let mut line = ReportLine {
            duration: Duration::from_micros(1_234),
            init: None,
            memory_mib: 128,
            memory_bytes_max: 30 * 1024 * 1024 + 1,
            answer_bytes: 0,
            status: Status::Success,
        };
        check(
            &line,
            "Duration: 1.23 ms\tBilled Duration: 2 ms\tMemory Size: 128 MB\tMax Memory Used: 31 MB\n",
        );
        line.init = Some(Duration::from_millis(105));
        line.status = Status::Error {
            error_type: "Runtime.ExitError",
        };
        check(
            &line,
            "Duration: 1.23 ms\tBilled Duration: 2 ms\tMemory Size: 128 MB\tMax Memory Used: 31 MB\t\
             Init Duration: 105.00 ms\tStatus: error\tError Type: Runtime.ExitError\n",
        );
    }

    #[test]
    fn timeouts_have_two_decimals() {
        let id = RequestId::random(&Entropy::seeded(3));
        let mut out = Vec::new();
        timed_out(&mut out, &id, Duration::from_secs(3));
        assert!(out.ends_with(b" Error: Task timed out after 3.00 seconds\n"));
    }
}
