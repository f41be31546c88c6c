//! An instance is killed while it is called, and another takes its place.

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::callers::{ATTEMPTS, Callers, Tally};
use super::{Account, Part, Show};
use crate::progress::seconds;

/// Answers before the kill, and after the replacement runs.
const ANSWERS: u64 = 50;

pub(super) fn play(show: &Show, home: &Account) -> anyhow::Result<Part> {
    let before = home.instance(show, "").context("the account has no instance")?;
    let pid = agent(&before).context("the instance's process is not known")?;
    let callers = Callers::start(&home.client, None, ATTEMPTS);
    show.until("nothing was answered", || {
        (callers.tally().answered() >= ANSWERS).then_some(())
    })?;
    show.progress.say(&format!(
        "kill -9 {}: the instance of account {}",
        pid.as_raw_nonzero(),
        home.number
    ));
    kill_process(pid, Signal::KILL).context("cannot kill the instance")?;
    let killed = show.clock.monotonic();
    let after = show.until("the instance was not replaced", || {
        let shown = home.instance(show, "")?;
        (shown["state"] == "RUNNING" && shown["server"] != before["server"]).then_some(shown)
    })?;
    let took = show.clock.monotonic().since(killed);
    let so_far = callers.tally().answered();
    show.until("the replacement answers nothing", || {
        (callers.tally().answered() >= so_far + ANSWERS).then_some(())
    })?;
    let tally = callers.stop();
    let history = home.instance(show, "/history").context("the instance has no history")?;
    let is_fenced_first = fenced_first(&history, &before["server"], &after["server"]);
    let seen = format!(
        "replaced after {}, {}, {} calls answered, {} attempts repeated, {} lost",
        seconds(took),
        if is_fenced_first {
            "fenced before"
        } else {
            "NOT FENCED BEFORE"
        },
        tally.answered(),
        tally.retries,
        lost(&tally),
    );
    Ok(Part {
        name: "loss",
        holds: is_fenced_first && tally.failures == 0,
        seen,
        facts: json!({
            "killed": before["server"],
            "replacement": after["server"],
            "replacedMs": took.as_millis(),
            "fencedFirst": is_fenced_first,
            "answered": tally.answered(),
            "retries": tally.retries,
            "lost": tally.failures,
            "errors": tally.errors,
        }),
    })
}

fn lost(tally: &Tally) -> String {
    match tally.errors.first() {
        None => tally.failures.to_string(),
        Some(error) => format!("{} ({error})", tally.failures),
    }
}

fn agent(shown: &Value) -> Option<Pid> {
    let pid = shown["detail"].as_str()?.strip_prefix("process ")?;
    Pid::from_raw(pid.parse().ok()?)
}

/// Whether the old server was cut off before the new one was made.
fn fenced_first(history: &Value, old: &Value, new: &Value) -> bool {
    let events = history["events"].as_array().map(Vec::as_slice).unwrap_or_default();
    let place = |what: &str, server: &Value| {
        let is = |event: &Value| event["what"] == what && event["server"] == *server;
        events.iter().position(is)
    };
    matches!((place("fence", old), place("create", new)), (Some(fenced), Some(created)) if fenced < created)
}
