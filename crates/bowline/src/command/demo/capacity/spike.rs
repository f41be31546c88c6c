//! Several accounts call for the first time at one moment, each for a server of its own.

use std::sync::Barrier;
use std::time::Duration;

use anyhow::Context;
use bowline_foundation::clock::Timestamp;
use serde_json::json;
use ureq::http::{HeaderMap, Method};

use super::{Account, FUNCTION, Part, Show};
use crate::client::{function_path, header};
use crate::progress::seconds;

/// The accounts that nobody expected, and those that were announced.
const SURPRISE: [&str; 3] = ["100000000001", "100000000002", "100000000003"];
const ANNOUNCED: [&str; 3] = [HOME, "200000000002", "200000000003"];
/// One of them, which goes on to the next part.
pub(super) const HOME: &str = "200000000001";
/// Different sizes, so that no server for the one waits for the other.
const SURPRISE_MIB: u32 = 496;
const ANNOUNCED_MIB: u32 = 512;
/// Servers boot five seconds before they are to be there.
const AHEAD: Duration = Duration::from_secs(9);
const LASTS: Duration = Duration::from_secs(120);
/// The rung of a server that waited.
const WAITED: &str = "warming-pool";

/// How the first call of an account was served.
struct Arrival {
    rung: String,
    took: Duration,
}

pub(super) fn play(show: &Show) -> anyhow::Result<Part> {
    let accounts = |numbers: [&str; 3]| numbers.map(|number| Account::of(show, number));
    let (surprise, announced) = (accounts(SURPRISE), accounts(ANNOUNCED));
    for (group, mib) in [(&surprise, SURPRISE_MIB), (&announced, ANNOUNCED_MIB)] {
        for account in group {
            put_file(show, account, &file(mib))?;
            account.deploy(show, "1")?;
        }
    }
    show.progress.say("three accounts call at once, by surprise");
    let surprised = all_at_once(show, &surprise)?;
    let from = show.now().after(AHEAD);
    let schedule = format!(
        "\n[[schedule]]\nfrom = \"{}\"\nto = \"{}\"\nservers = 3\n",
        time_of(from),
        time_of(from.after(LASTS))
    );
    put_file(show, &announced[0], &format!("{}{schedule}", file(ANNOUNCED_MIB)))?;
    let step = show.progress.step("servers boot for a spike that was announced");
    // The other one is for whoever comes.
    show.until("the announced servers did not wait", || {
        (waiting(show)? > 3).then_some(())
    })?;
    let ready = show.now();
    step.done("three servers wait");
    show.until("the clock stands still", || (show.now() >= from).then_some(()))?;
    show.progress.say("three accounts call at once, as announced");
    let expected = all_at_once(show, &announced)?;
    Ok(judge((ready, from), &surprised, &expected))
}

fn judge((ready, from): (Timestamp, Timestamp), surprised: &[Arrival], expected: &[Arrival]) -> Part {
    let waited = |arrivals: &[Arrival]| arrivals.iter().filter(|arrival| arrival.rung == WAITED).count();
    let slowest = |arrivals: &[Arrival]| arrivals.iter().map(|arrival| arrival.took).max().unwrap_or_default();
    let rungs = |arrivals: &[Arrival]| arrivals.iter().map(|arrival| arrival.rung.clone()).collect::<Vec<_>>();
    let holds = waited(expected) == expected.len() && waited(surprised) == 0 && ready < from;
    let seen = format!(
        "servers waited for {} of {} accounts, {} before their time, slowest first answer {}; by surprise for {} of {}, {}",
        waited(expected),
        expected.len(),
        seconds(from.since(ready)),
        seconds(slowest(expected)),
        waited(surprised),
        surprised.len(),
        seconds(slowest(surprised)),
    );
    let group = |arrivals: &[Arrival]| json!({"rungs": rungs(arrivals), "slowestMs": slowest(arrivals).as_millis()});
    Part {
        name: "spike",
        holds,
        seen,
        facts: json!({
            "announced": group(expected),
            "surprise": group(surprised),
            "readyBeforeMs": from.since(ready).as_millis(),
        }),
    }
}

fn file(memory_mib: u32) -> String {
    format!("id = \"default\"\nkind = \"process\"\n\n[resources]\nmemory_mib = {memory_mib}\n")
}

fn put_file(show: &Show, account: &Account, text: &str) -> anyhow::Result<()> {
    let path = format!("/v1/instance-files/default?account={}", account.number);
    let headers = header("content-type", "application/toml")?;
    show.operator()
        .send(Method::PUT, &path, headers, text.as_bytes().to_vec())?;
    Ok(())
}

/// A time of the day, as files say it.
fn time_of(at: Timestamp) -> String {
    let seconds = at.as_millis() / 1000 % 86_400;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// How many servers wait for whoever comes.
fn waiting(show: &Show) -> Option<u32> {
    let answer = show
        .operator()
        .send(Method::GET, "/metrics", HeaderMap::new(), Vec::new());
    let text = String::from_utf8(answer.ok()?.body).ok()?;
    let count = |line: &str| {
        line.strip_prefix("bowline_instances_warming{kind=\"process\"} ")?
            .parse()
            .ok()
    };
    text.lines().find_map(count)
}

fn all_at_once(show: &Show, accounts: &[Account]) -> anyhow::Result<Vec<Arrival>> {
    let start = Barrier::new(accounts.len());
    let call = |account: &Account| {
        start.wait();
        let began = show.clock.monotonic();
        let path = function_path(FUNCTION, "/invocations");
        let answer = account
            .client
            .send(Method::POST, &path, HeaderMap::new(), b"{}".to_vec())?;
        let rung = answer.headers.get("x-bowline-provisioned");
        anyhow::Ok(Arrival {
            rung: rung.and_then(|rung| rung.to_str().ok()).unwrap_or_default().to_owned(),
            took: show.clock.monotonic().since(began),
        })
    };
    std::thread::scope(|scope| {
        let calls: Vec<_> = accounts.iter().map(|account| scope.spawn(|| call(account))).collect();
        let ended = calls
            .into_iter()
            .map(|call| call.join().ok().context("a caller failed")?);
        ended.collect()
    })
}
