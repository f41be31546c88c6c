//! Shared memory and volumes of functions on instances that are processes: what a run on one leaves, a later run on another one
//! sees. The labels are those of system 01.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_tests::patience;
use serde_json::{Value, json};

use super::{Fleet, PATIENCE, agent_pid, file, node, processes_of, signal};
use crate::mounted_state::{
    attach, call, can_mount, can_run, count_at_once, create, deploy, detach, each_has_what_it_may, fill,
    one_writer_loses_nothing, sum,
};

impl Fleet {
    fn instance(&self, name: &str, memory_mib: u32) -> Result<Value> {
        self.make(name, &file(name, memory_mib, ""))?;
        self.running(name)
    }

    /// How many sandboxes each of these instances has.
    fn spread(&self, names: [&str; 2]) -> Result<[u64; 2]> {
        let mut counts = [0; 2];
        for (name, count) in names.iter().zip(&mut counts) {
            let shown = self.show(name)?;
            *count = shown["sandboxes"].as_u64().with_context(|| shown.to_string())?;
        }
        Ok(counts)
    }

    fn drain(&self, name: &str) -> Result<()> {
        let path = format!("/v1/instances/{name}/drain");
        self.lambda.post(&path, &json!({"draining": true}))?.expect(200)?;
        Ok(())
    }
}

/// 01/T-A5, 01/T-A3: one function writes on an instance, that is drained, and another function reads on the next one. A function
/// without the folder is the control.
fn is_seen_on_another_instance(kind: &str) -> Result<()> {
    let node = node()?;
    let fleet = Fleet::of(&node);
    let lambda = &fleet.lambda;
    fleet.instance("first", 1024)?;
    deploy(lambda, &["writes", "reads", "strange"])?;
    create(lambda, "shared", kind, 80, "one")?;
    attach(lambda, "shared", "writes", &json!({}))?;
    attach(lambda, "shared", "reads", &json!({"access": "read"}))?;
    let filled = fill(lambda, "writes", 64)?;
    ensure!(filled["sum"].is_string(), "{filled}");
    ensure!((filled["to_disk"] == 0) == (kind == "memory"), "{filled}");
    fleet.instance("second", 1024)?;
    ensure!(
        fleet.spread(["first", "second"])? == [1, 0],
        "it was written on the first"
    );
    fleet.drain("first")?;
    let seen = sum(lambda, "reads")?;
    ensure!(fleet.spread(["first", "second"])?[1] == 1, "it was read on the second");
    ensure!(filled["sum"] == seen, "{filled}, but {seen} is read");
    each_has_what_it_may(lambda)?;
    ensure!(fleet.spread(["first", "second"])?[1] == 2, "though it runs beside");
    Ok(())
}

#[test]
fn t_a5_memory_that_a_run_on_one_instance_wrote_is_read_on_another_one() -> Result<()> {
    if can_run() {
        is_seen_on_another_instance("memory")
    } else {
        Ok(())
    }
}

#[test]
fn t_a3_root_a_volume_that_a_run_on_one_instance_wrote_is_read_on_another_one() -> Result<()> {
    if can_mount() {
        is_seen_on_another_instance("volume")
    } else {
        Ok(())
    }
}

/// 01/T-A11: where the folder is, though another instance has more room; once that is full, on the other one.
#[test]
fn t_a11_runs_land_where_the_folder_is_as_long_as_there_is_room() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let node = node()?;
    let fleet = Fleet::of(&node);
    let lambda = &fleet.lambda;
    fleet.instance("first", 1024)?;
    let functions = ["a", "b", "c", "d"];
    deploy(lambda, &functions)?;
    deploy(lambda, &["plain"])?;
    create(lambda, "shared", "memory", 4, "any")?;
    for function in functions {
        attach(lambda, "shared", function, &json!({}))?;
    }
    let runs = |function: &str| call(lambda, function, &json!({"do": "list"}));
    runs("a")?;
    fleet.instance("second", 2048)?;
    for number in 0..20 {
        runs(functions[number % 3])?;
    }
    ensure!(
        fleet.spread(["first", "second"])? == [3, 0],
        "20 of 20 are where the folder is"
    );
    ensure!(fleet.show("first")?["held_mib"] == 3 * 256, "{}", fleet.show("first")?);
    runs("d")?;
    ensure!(fleet.spread(["first", "second"])? == [3, 1], "the first one is full");
    runs("plain")?;
    ensure!(
        fleet.spread(["first", "second"])? == [3, 2],
        "the control: without a folder, where there is room"
    );
    Ok(())
}

/// 01/T-A8 over instances: two functions count in one file, each on an instance of its own.
#[test]
fn t_a8_increments_from_two_instances_are_all_there_with_one_writer_and_not_with_any() -> Result<()> {
    one_writer_loses_nothing(|writers| {
        let node = node()?;
        let fleet = Fleet::of(&node);
        let lambda = &fleet.lambda;
        deploy(lambda, &["count", "also"])?;
        create(lambda, "shared", "memory", 4, writers)?;
        // The first one has room for one sandbox.
        for (function, instance, mib) in [("count", "first", 300), ("also", "second", 1100)] {
            attach(lambda, "shared", function, &json!({}))?;
            fleet.instance(instance, mib)?;
            call(lambda, function, &json!({"do": "list"}))?;
        }
        ensure!(fleet.spread(["first", "second"])? == [1, 1]);
        count_at_once(lambda, 0.05)
    })
}

/// 01/T-A9, 16/a-D4: an agent stands still while a function writes. Whoever writes next has its turn once the instance was cut
/// off; until then the file grows on, which is the control.
#[test]
fn t_a9_the_next_writer_waits_until_the_instance_of_the_one_before_is_cut_off() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let node = node()?;
    let fleet = Fleet::of(&node);
    let lambda = &fleet.lambda;
    let first = fleet.instance("first", 300)?;
    deploy(lambda, &["writes", "reads", "next"])?;
    create(lambda, "shared", "memory", 4, "one")?;
    attach(lambda, "shared", "writes", &json!({}))?;
    attach(lambda, "shared", "next", &json!({}))?;
    attach(lambda, "shared", "reads", &json!({"access": "read"}))?;
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| lambda.invoke("writes", &json!({"do": "write", "seconds": 25})));
        let begun = || (fleet.spread(["first", "first"]).ok()?[0] == 1).then_some(());
        patience::until(PATIENCE, begun).context("nobody writes")?;
        fleet.instance("second", 1024)?;
        let watch = |function: &str| call(lambda, function, &json!({"do": "watch"}));
        let grows = || watch("reads").ok()?["grew"].as_u64().filter(|grew| *grew > 0);
        patience::until(PATIENCE, grows).context("the control: the file does not grow")?;
        signal(agent_pid(&first)?, "-STOP")?;
        ensure!(
            watch("reads")?["grew"].as_u64() > Some(0),
            "it is written on: the agent alone stands still"
        );
        let next = watch("next")?;
        ensure!(next["grew"] == 0, "two write at once: {next}");
        let writer = writing.join().expect("the writer panicked")?;
        let has_failed = writer.status != 200 || !writer.header("x-amz-function-error").is_empty();
        ensure!(has_failed, "{} {}", writer.status, writer.json());
        Ok(())
    })?;
    fleet.replaced("first", &first)?;
    ensure!(call(lambda, "next", &json!({"do": "list"}))?["files"] == json!({"shared": ["file"]}));
    Ok(())
}

/// Whether any process of an instance has a folder mounted that is shared.
fn has_folders(server: &str) -> bool {
    let mounts = |pid: u32| std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("mountinfo"));
    processes_of(server)
        .into_iter()
        .filter_map(|pid| mounts(pid).ok())
        .any(|mounts| mounts.contains("/cells/shares/"))
}

#[test]
fn an_instance_gives_a_folder_back_that_was_detached_and_removed() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let node = node()?;
    let fleet = Fleet::of(&node);
    let lambda = &fleet.lambda;
    let first = fleet.instance("first", 1024)?;
    let server = first["server"].as_str().context("no server")?;
    deploy(lambda, &["f"])?;
    create(lambda, "shared", "memory", 4, "one")?;
    attach(lambda, "shared", "f", &json!({}))?;
    let list = || call(lambda, "f", &json!({"do": "list"}));
    ensure!(list()?["mnt"] == json!(["shared"]) && fleet.spread(["first", "first"])?[0] == 1);
    ensure!(has_folders(server), "the control: the instance has it");
    detach(lambda, "shared", "f")?;
    let without = list()?;
    ensure!(without["mnt"] == json!([]), "{without}");
    lambda.delete("/v1/state/shared")?.expect(204)?;
    let gone = patience::until(Duration::from_secs(30), || (!has_folders(server)).then_some(()));
    gone.context("the instance keeps a folder that was removed")
}
