//! Shared memory and volumes of functions on instances that are virtual machines: their kernel asks the node for each thing that
//! is done. The labels are those of system 01.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_tests::node::Settings;
use bowline_tests::{Artifact, Lambda, patience};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::machines::{data, file, node_on, qemu};
use super::{Fleet, Ground, PATIENCE, signal};
use crate::mounted_state::{SOURCE, attach, call, create, detach, fill, is_not_there_for_another, sum};

const MIB: u32 = 16;
const CALLS_EACH: u64 = 6;

/// Functions with time for an interpreter that is translated.
fn deploy(lambda: &Lambda, names: &[&str]) -> Result<()> {
    for name in names {
        let settings = json!({"Timeout": 120, "MemorySize": 256});
        lambda.deploy(name, &Artifact::python_source(SOURCE)?, settings)?;
    }
    Ok(())
}

fn make(fleet: &Fleet) -> Result<Value> {
    fleet.make("shop", &file(""))?;
    fleet.running("shop")
}

/// Checks how many sandboxes the machine has.
fn has(fleet: &Fleet, sandboxes: u64) -> Result<()> {
    let shown = fleet.show("shop")?;
    ensure!(shown["sandboxes"] == sandboxes, "{shown}");
    Ok(())
}

/// The processes of a node that serve folders: what may be done there, and whether one has rights that no function has.
fn servers(node: u32) -> Vec<(String, bool)> {
    let serves = |pid: &Path| {
        let words = std::fs::read_to_string(pid.join("cmdline")).ok()?;
        let access = words
            .split('\0')
            .skip_while(|word| *word != "__folder")
            .nth(1)?
            .to_owned();
        let status = std::fs::read_to_string(pid.join("status")).ok()?;
        let number = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.split_whitespace().next())
        };
        let is_ours = number("PPid:")? == node.to_string();
        let has_rights = number("Uid:")? == "0" || number("CapEff:")?.bytes().any(|digit| digit != b'0');
        is_ours.then_some((access, has_rights))
    };
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut found: Vec<_> = processes.filter_map(|process| serves(&process.path())).collect();
    found.sort();
    found
}

/// What one function wrote in the node is read by another one on a machine, and the other way round.
fn is_seen_both_ways(kind: &str) -> Result<()> {
    let data = data()?;
    let node = node_on(&data)?;
    let fleet = Fleet::of(&node);
    let lambda = &fleet.lambda;
    deploy(lambda, &["here", "reads", "writes", "strange"])?;
    create(lambda, "shared", kind, MIB, "any")?;
    for (function, access) in [("here", "write"), ("writes", "write"), ("reads", "read")] {
        attach(lambda, "shared", function, &json!({"access": access}))?;
    }
    let list = json!({"do": "list"});
    let filled = fill(lambda, "here", 2)?;
    make(&fleet)?;
    has(&fleet, 0)?;
    let seen = sum(lambda, "reads")?;
    has(&fleet, 1)?;
    ensure!(
        seen.is_string() && filled["sum"] == seen,
        "{filled}, but {seen} is read"
    );
    let refused = fill(lambda, "reads", 1)?;
    ensure!(refused["error"] == "EROFS", "it may only read: {refused}");

    let filled = fill(lambda, "writes", 3)?;
    has(&fleet, 2)?;
    let seen = sum(lambda, "here")?;
    ensure!(filled["sum"] == seen, "{filled}, but {seen} is read in the node");
    ensure!(sum(lambda, "reads")? == seen, "what was read before is not kept");
    let grown = call(
        lambda,
        "here",
        &json!({"do": "fill", "mib": 1, "path": "/mnt/shared/new"}),
    )?;
    let new = call(lambda, "reads", &json!({"do": "sum", "path": "/mnt/shared/new"}))?;
    ensure!(grown["sum"] == new["sum"], "{grown} {new}");
    ensure!(call(lambda, "reads", &list)?["files"] == json!({"shared": ["file", "new"]}));
    has(&fleet, 2)?;
    let expected = ["read", "write"].map(|access| (access.to_owned(), false));
    ensure!(servers(node.pid()) == expected, "{:?}", servers(node.pid()));
    let large = fill(lambda, "writes", u64::from(MIB) + 1)?;
    ensure!(large["error"] == "ENOSPC", "it has a size: {large}");

    let strange = call(lambda, "strange", &list)?;
    has(&fleet, 3)?;
    ensure!(
        strange["mnt"] == json!([]),
        "the control: not attached, and yet {strange}"
    );
    for function in ["here", "reads", "writes"] {
        detach(lambda, "shared", function)?;
    }
    ensure!(call(lambda, "writes", &list)?["mnt"] == json!([]));
    lambda.delete("/v1/state/shared")?.expect(204)?;
    let gone = patience::until(PATIENCE, || servers(node.pid()).is_empty().then_some(()));
    gone.context("a folder that was removed is still served")
}

#[test]
fn t_a5_memory_is_seen_both_ways_between_the_node_and_a_machine() -> Result<()> {
    is_seen_both_ways("memory")
}

#[test]
fn t_a3_root_a_volume_is_seen_both_ways_between_the_node_and_a_machine() -> Result<()> {
    match crate::mounted_state::can_mount() {
        true => is_seen_both_ways("volume"),
        false => Ok(()),
    }
}

#[test]
fn what_has_a_folder_is_not_suspended_with_its_machine_and_says_so() -> Result<()> {
    let node = super::node()?;
    let lambda = Fleet::of(&node).lambda;
    let settings = json!({"Environment": {"Variables": {"BOWLINE_CHECKPOINT": "on"}}});
    lambda.deploy("f", &Artifact::native()?, settings)?;
    let asked = || -> Result<Value> { Ok(lambda.get("/v1/functions/f/checkpointing")?.expect(200)?.json()) };
    ensure!(asked()?["Checkpointing"] == "on", "the control: {}", asked()?);
    create(&lambda, "shared", "memory", 4, "one")?;
    attach(&lambda, "shared", "f", &json!({}))?;
    let refused = asked()?;
    ensure!(
        refused["Checkpointing"] == "refused" && refused["Reason"].to_string().contains("folders in common"),
        "{refused}"
    );
    Ok(())
}

/// A node where every account gets a machine, and so each has one of its own.
fn machines_for_all(data: &TempDir) -> Result<Ground> {
    Ground::start(Settings {
        data: Some(data.path().to_owned()),
        environment: vec![("BOWLINE_INSTANCES".into(), "vm".into())],
        ..Settings::default()
    })
}

#[test]
fn t_a7_a_folder_of_one_account_is_not_there_on_anothers_machine() -> Result<()> {
    let data = data()?;
    is_not_there_for_another(&*machines_for_all(&data)?)
}

/// One function counts in the node and another on a machine, in one file; what they counted to, and what there was to count.
fn count_at_once(writers: &str) -> Result<(u64, u64)> {
    let data = data()?;
    let node = node_on(&data)?;
    let fleet = Fleet::of(&node);
    let lambda = &fleet.lambda;
    let functions = ["here", "there"];
    deploy(lambda, &functions)?;
    create(lambda, "shared", "memory", 4, writers)?;
    for function in functions {
        attach(lambda, "shared", function, &json!({}))?;
    }
    let count = |function: &str, pause: f64| call(lambda, function, &json!({"do": "count", "pause": pause}));
    count("here", 0.0)?;
    make(&fleet)?;
    count("there", 0.0)?;
    has(&fleet, 1)?;
    std::thread::scope(|scope| {
        let calls = |function: &'static str| {
            scope.spawn(move || (0..CALLS_EACH).try_for_each(|_| count(function, 0.4).map(drop)))
        };
        let mut callers = functions.map(calls).into_iter();
        callers.try_for_each(|caller| caller.join().expect("callers do not panic"))
    })?;
    has(&fleet, 1)?;
    let last = count("here", 0.0)?;
    Ok((last["n"].as_u64().context("no number")?, 2 * CALLS_EACH + 3))
}

#[test]
fn t_a8_increments_in_the_node_and_on_a_machine_are_all_there_with_one_writer_and_not_with_any() -> Result<()> {
    let (one, all) = count_at_once("one")?;
    ensure!(one == all, "{one} of {all}");
    let (any, all) = count_at_once("any")?;
    ensure!(any < all, "control: many writers lose some, here none was lost");
    Ok(())
}

#[test]
fn t_a9_a_machine_that_is_killed_leaves_all_that_it_was_told_is_written() -> Result<()> {
    let data = data()?;
    let node = node_on(&data)?;
    let fleet = Fleet::of(&node);
    let lambda = &fleet.lambda;
    deploy(lambda, &["here", "writes"])?;
    create(lambda, "shared", "memory", MIB, "one")?;
    attach(lambda, "shared", "here", &json!({"access": "read"}))?;
    call(lambda, "here", &json!({"do": "list"}))?;
    attach(lambda, "shared", "writes", &json!({}))?;
    let old = make(&fleet)?;
    let judge = || call(lambda, "here", &json!({"do": "judge"}));
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| lambda.invoke("writes", &json!({"do": "journal"})));
        let said = |least: u64| judge().ok()?["said"].as_u64().filter(|said| *said >= least);
        patience::until(PATIENCE, || said(20)).context("nothing is written")?;
        signal(qemu(&old)?, "-KILL")?;
        let writer = writing.join().expect("the writer panicked")?;
        ensure!(writer.status != 200 || !writer.header("x-amz-function-error").is_empty());
        Ok(())
    })?;
    fleet.replaced("shop", &old)?;
    let left = judge()?;
    let (said, blocks) = (left["said"].as_u64(), left["blocks"].as_u64());
    ensure!(said >= Some(20) && blocks >= said && left["whole"] == true, "{left}");
    patience::rest(Duration::from_millis(500));
    ensure!(judge()?["blocks"] == left["blocks"], "nothing of it writes on");
    let next = call(lambda, "writes", &json!({"do": "count"}))?;
    ensure!(next["n"] == 1, "the next one has its turn: {next}");
    has(&fleet, 1)
}
