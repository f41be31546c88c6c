//! Instances in fleets, by how often functions are called.

use anyhow::{Context, Result, ensure};
use bowline_tests::{Artifact, patience};
use serde_json::json;

use super::{Fleet, PATIENCE, file, node};

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
