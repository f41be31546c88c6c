//! Load by `wrk`, the same for every server.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell;

/// What is sent, and to whom.
pub struct Load<'a> {
    pub url: &'a str,
    pub connections: u32,
    pub seconds: u32,
    /// `name: value`, beside those of the script.
    pub headers: &'a [String],
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    pub requests_per_second: f64,
    pub p50_micros: f64,
}

impl Load<'_> {
    /// Sends the small JSON body of `assets/post.lua` for the given time.
    pub fn run(&self) -> Result<Measured> {
        let script = shell::root().join("xtask/assets/post.lua");
        // One thread drives one connection, two share many; every server gets the same.
        let threads = if self.connections == 1 { 1 } else { 2 };
        let mut command = Command::new("wrk");
        command
            .arg("--latency")
            .arg(format!("-t{threads}"))
            .arg(format!("-c{}", self.connections))
            .arg(format!("-d{}s", self.seconds))
            .arg("-s")
            .arg(script)
            .args(self.headers.iter().flat_map(|header| ["-H", header]))
            .arg(self.url);
        let report = shell::output(&mut command)?;
        read_report(&report).with_context(|| format!("`wrk` against `{}` said:\n{report}", self.url))
    }
}

fn read_report(report: &str) -> Result<Measured> {
    let after = |label: &str| {
        let line = report.lines().find_map(|line| line.trim().strip_prefix(label));
        line.map(str::trim).with_context(|| format!("no line `{label}`"))
    };
    if let Ok(failed) = after("Non-2xx or 3xx responses:") {
        bail!("{failed} requests failed");
    }
    if let Ok(failed) = after("Socket errors:") {
        bail!("sockets failed: {failed}");
    }
    Ok(Measured {
        requests_per_second: after("Requests/sec:")?.parse()?,
        p50_micros: micros(after("50%")?)?,
    })
}

fn micros(text: &str) -> Result<f64> {
    let split = text
        .find(|mark: char| mark.is_alphabetic())
        .context("a time without a unit")?;
    let value: f64 = text[..split].parse()?;
    match &text[split..] {
        "us" => Ok(value),
        "ms" => Ok(value * 1e3),
        "s" => Ok(value * 1e6),
        unit => bail!("unknown unit `{unit}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_and_failures_are_not_overlooked() {
        let good = "  Latency Distribution\n     50%  233.00us\n     99%    1.02ms\nRequests/sec:  91234.56\n";
        let measured = read_report(good).unwrap();
        assert_eq!(measured.p50_micros.to_bits(), 233.0_f64.to_bits());
        assert_eq!(measured.requests_per_second.to_bits(), 91_234.56_f64.to_bits());
        assert!(read_report(&format!("  Non-2xx or 3xx responses: 7\n{good}")).is_err());
        assert!(read_report("").is_err());
    }
}
