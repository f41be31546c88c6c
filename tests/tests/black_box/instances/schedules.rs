//! Servers that wait during hours which a file declares.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_foundation::clock::{Clock, Timestamp};
use bowline_tests::patience;
use serde_json::json;

use super::functions::waiting;
use super::{Fleet, PATIENCE, file, node};

/// A time of the day in UTC, as files say it.
fn time_of(at: Timestamp) -> String {
    let seconds = at.as_millis() / 1000 % 86_400;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// The servers of a node whose agent's process runs.
fn agents(fleet: &Fleet) -> Result<usize> {
    let folder = fleet.data.canonicalize()?.join("instances").display().to_string();
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        // It may end meanwhile.
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let mut words = line.split('\0').skip_while(|word| *word != "--socket");
        found.extend(words.nth(1).filter(|path| path.contains(&folder)).map(str::to_owned));
    }
    Ok(found.len())
}

fn has_metric(fleet: &Fleet, line: &str) -> bool {
    let metrics = fleet.lambda.get("/metrics").map(|reply| reply.body).unwrap_or_default();
    String::from_utf8_lossy(&metrics).lines().any(|found| found == line)
}

/// 04/T-D6, with real servers; the control is a configuration without a schedule.
#[test]
fn t_d6_real_servers_wait_by_a_declared_schedule_and_go_when_it_is_over() -> Result<()> {
    let node = node()?;
    let (fleet, clock) = (Fleet::of(&node), Clock::system());
    let (from, to) = (
        clock.now().after(Duration::from_secs(9)),
        clock.now().after(Duration::from_secs(30)),
    );
    let window = format!(
        "[[schedule]]\nfrom = \"{}\"\nto = \"{}\"\nservers = 2\n",
        time_of(from),
        time_of(to)
    );
    fleet.put("rush", &file("rush", 96, &window))?;
    fleet.put("calm", &file("calm", 97, ""))?;
    ensure!(agents(&fleet)? == 0, "nobody waits yet");
    let scheduled = "bowline_instances_scheduled{kind=\"process\"} 2";
    let due = patience::until(PATIENCE, || has_metric(&fleet, scheduled).then(|| clock.now()));
    let due = due.context("the schedule was not followed")?;
    ensure!(due < from, "they are to be ready when it begins");
    waiting(&node, "process", 2)?;
    ensure!(agents(&fleet)? == 2);

    fleet.create(json!({"file": "rush"}))?;
    fleet.running("rush")?;
    let given = "bowline_instances_warmed_total{kind=\"process\"} 1";
    ensure!(has_metric(&fleet, given), "a server that waited became the instance's");
    fleet.create(json!({"file": "calm"}))?;
    fleet.running("calm")?;
    ensure!(has_metric(&fleet, given), "the control: nobody waited for this one");
    waiting(&node, "process", 2)?;
    ensure!(agents(&fleet)? == 4, "the one that was given is replaced");

    waiting(&node, "process", 0)?;
    // The file says whole seconds.
    ensure!(
        clock.now().after(Duration::from_secs(1)) >= to,
        "they wait until it is over"
    );
    let ended = patience::until(PATIENCE, || (agents(&fleet).ok()? == 2).then_some(()));
    ended.context("servers outlive their schedule")?;
    ensure!(fleet.show("rush")?["state"] == "RUNNING", "what was given goes on");
    Ok(())
}
