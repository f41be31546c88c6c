//! Instances in fleets, by how often functions are called.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_tests::{Artifact, patience};
use serde_json::{Value, json};

use super::{ACCOUNT, Fleet, PATIENCE, file, node};

/// Calls a function, and says what is wrong if it does not run there.
fn runs_on(fleet: &Fleet, function: &str, wanted: &str) -> Result<()> {
    let found = fleet_of(fleet, function)?;
    let shown = fleet.lambda.get("/v1/fleets")?.json();
    ensure!(
        found == wanted,
        "`{function}` runs on `{found}`, not on `{wanted}`: {shown}"
    );
    Ok(())
}

/// The fleet that an invocation's sandbox is in.
fn fleet_of(fleet: &Fleet, function: &str) -> Result<String> {
    let reply = fleet.lambda.invoke(function, &json!({"name": "ada"}))?.expect(200)?;
    Ok(reply.header("x-bowline-fleet").to_owned())
}

/// A file of an instance that is in a fleet.
fn in_fleet(id: &str, fleet: &str) -> String {
    file(id, 256, "").replacen("[resources]", &format!("fleet = \"{fleet}\"\n[resources]"), 1)
}

/// Which fleet last had which instance make a sandbox of a function.
fn acquired(fleet: &Fleet, function: &str) -> Result<Option<(String, String)>> {
    let shown = fleet.lambda.get("/v1/fleets")?.expect(200)?.json();
    let all = shown["acquired"].as_array().context("no acquisitions")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let last = all.iter().rfind(|one| one["function"] == function);
    Ok(last.map(|one| (text(&one["fleet"]), text(&one["instance"]))))
}

/// 03/T-C3 (C5): three managers, each for a band of the requests for a function; the control is two fleets.
#[test]
fn t_c3_a_fleet_for_each_band_of_calls_acquires_its_own_instances() -> Result<()> {
    const FUNCTIONS: [(&str, usize, &str, &str); 3] = [
        ("five", 5, "low", "few"),
        ("fifty", 50, "10+", "some"),
        ("fivehundred", 500, "100+", "many"),
    ];
    let node = node()?;
    let fleet = Fleet::of(&node);
    for (function, ..) in FUNCTIONS {
        fleet.lambda.deploy(function, &Artifact::reactor()?, json!({}))?;
    }
    fleet.make("few", &file("few", 256, ""))?;
    fleet.make("busy", &in_fleet("busy", "high"))?;
    fleet.running("few")?;
    fleet.running("busy")?;
    let criteria = json!({"dwell_seconds": 0}).to_string();
    let headers = [("content-type", "application/json")];
    fleet
        .lambda
        .send("PUT", "/v1/fleets", &headers, criteria.as_bytes())?
        .expect(200)?;
    for (function, count, ..) in FUNCTIONS {
        for _ in 0..count {
            fleet_of(&fleet, function)?;
        }
    }
    let class_of = |function: &str, least: u64| {
        let shown = fleet.lambda.get("/v1/fleets").ok()?.json();
        let all = shown["versions"].as_array()?;
        let of = all.iter().find(|version| version["function"] == function)?;
        (of["count"].as_u64()? >= least).then(|| of["fleet"].clone())
    };
    let class = patience::until(PATIENCE, || class_of("fifty", 50)).context("calls are not counted")?;
    ensure!(class == "low", "the control: of two fleets it is rare");

    fleet.lambda.delete("/v1/instances/busy")?.expect(204)?;
    for (name, band) in [("some", "10+"), ("many", "100+")] {
        fleet.make(name, &in_fleet(name, band))?;
        ensure!(fleet.running(name)?["fleet"] == band);
    }
    for (function, _, manager, instance) in FUNCTIONS {
        let comes = patience::until(PATIENCE, || {
            class_of(function, 0).filter(|class| *class == manager).map(drop)
        });
        comes.with_context(|| format!("`{function}` never came to `{manager}`"))?;
        // What had been made elsewhere ends a moment later; each of these is a call, too.
        for _ in 0..3 {
            if fleet_of(&fleet, function)? == manager {
                break;
            }
            patience::rest(Duration::from_secs(1));
        }
        runs_on(&fleet, function, manager)?;
        let last = acquired(&fleet, function)?;
        ensure!(
            last == Some((manager.to_owned(), instance.to_owned())),
            "`{function}` of account {ACCOUNT}: {last:?}"
        );
    }
    let bands = fleet.lambda.get("/v1/fleets")?.expect(200)?.json()["fleets"].clone();
    let expected = json!([
        {"fleet": "low", "from": 0, "instances": ["few"]},
        {"fleet": "10+", "from": 10, "instances": ["some"]},
        {"fleet": "100+", "from": 100, "instances": ["many"]},
    ]);
    ensure!(bands == expected, "{bands}");
    for (.., instance) in FUNCTIONS {
        let shown = fleet.until(instance, "the place of one sandbox", |shown| shown["sandboxes"] == 1)?;
        ensure!(shown["state"] == "RUNNING", "{shown}");
    }
    Ok(())
}

/// 03/T-C1 and 03/T-C2.
#[test]
fn t_c1_and_c2_a_version_that_is_called_often_runs_on_the_high_fleet_after_a_restart_too() -> Result<()> {
    let mut node = node()?;
    let fleet = Fleet::of(&node);
    for function in ["hot", "cold"] {
        fleet.lambda.deploy(function, &Artifact::reactor()?, json!({}))?;
    }
    fleet.make("plain", &file("plain", 512, ""))?;
    fleet.running("plain")?;
    ensure!(fleet_of(&fleet, "hot")?.is_empty(), "the control: there are no fleets");
    let high = file("busy", 512, "").replacen("[resources]", "fleet = \"high\"\n[resources]", 1);
    fleet.make("busy", &high)?;
    ensure!(fleet.running("busy")?["fleet"] == "high");
    ensure!(fleet.show("plain")?["fleet"].is_null());
    let criteria = json!({"promote_at": 0.2, "demote_at": 0.1, "dwell_seconds": 0});
    let answer = fleet.lambda.send(
        "PUT",
        "/v1/fleets",
        &[("content-type", "application/json")],
        criteria.to_string().as_bytes(),
    )?;
    let fleets = answer.expect(200)?.json();
    ensure!(
        fleets["in_use"] == true && fleets["criteria"]["low_idle_seconds"] == 60,
        "{fleets}"
    );
    runs_on(&fleet, "cold", "low")?;
    // More than sixty calls within five minutes.
    let came = patience::until(PATIENCE, || {
        let is_there = fleet_of(&fleet, "hot").is_ok_and(|name| name == "high");
        is_there.then_some(())
    });
    let shown = || fleet.lambda.get("/v1/fleets").map(|reply| reply.json());
    came.with_context(|| format!("it never came there: {:?}", shown()))?;
    runs_on(&fleet, "cold", "low")?;
    let metrics = String::from_utf8(fleet.lambda.get("/metrics")?.expect(200)?.body)?;
    ensure!(
        metrics.contains("bowline_fleet_moves_total{fleet=\"high\"} 1"),
        "{metrics}"
    );

    node.terminate()?;
    node.wait_for_end()?;
    node.start_again()?;
    let fleet = Fleet::of(&node);
    let ready = patience::until(PATIENCE, || {
        let metrics = fleet.lambda.get("/metrics").ok()?.body;
        String::from_utf8_lossy(&metrics)
            .contains("\nbowline_instances_running 2\n")
            .then_some(())
    });
    ready.context("the instances are not back")?;
    runs_on(&fleet, "hot", "high")?;
    runs_on(&fleet, "cold", "low")?;
    Ok(())
}
