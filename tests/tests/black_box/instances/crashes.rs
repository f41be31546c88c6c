//! The node is killed at each named moment of a replacement, and started again.

use anyhow::{Context, Result, ensure};
use bowline_tests::node::Settings;
use bowline_tests::patience;

use super::{Fleet, Ground, PATIENCE, agent_pid, file, greeter, greeting, leftovers, node, processes_of, signal};

fn survives(moment: &str) -> Result<()> {
    // A node that dies at the moment, and its data for one that does not.
    let data = tempfile::tempdir()?;
    let settings = |environment: &[(&str, &str)]| Settings {
        address: None,
        data: Some(data.path().to_owned()),
        environment: environment
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
    };
    let mut doomed = Ground::start(settings(&[("BOWLINE_TEST_CRASH", moment)]))?;
    let fleet = Fleet::of(&doomed);
    let rest = format!(
        "[[volumes]]\nsource = \"orders\"\nmount = \"/data\"\n\
         [[services]]\nname = \"greeter\"\ncommand = {}\nhealth = {{ check = {{ tcp = 7070 }}, interval_ms = 200 }}\n",
        greeter("ahoy")
    );
    fleet.make("shop", &file("shop", 256, &rest))?;
    let old = fleet.running("shop")?;
    let server = old["server"].as_str().context("no server")?.to_owned();
    signal(agent_pid(&old)?, "-KILL")?;
    let died = patience::until(PATIENCE, || (!doomed.is_running()).then_some(()));
    died.with_context(|| format!("the node never reached `{moment}`: {}", doomed.log()))?;
    drop(doomed);

    let node = Ground::start(settings(&[]))?;
    let fleet = Fleet::of(&node);
    let new = fleet.replaced("shop", &old)?;
    ensure!(new["replaces"] == server.as_str(), "{new}");
    ensure!(processes_of(&server).is_empty(), "the old one is fenced");
    let address = new["address"].as_str().context("no address")?;
    ensure!(greeting(address, 7070)? == "ahoy");
    // A node that died between the start and the entry runs it before it has written who has the role.
    let has_the_role = || {
        let history = fleet.history("shop").ok()?;
        let mut open = history["assignments"]
            .as_array()?
            .iter()
            .filter(|row| row["to"].is_null());
        let only = open.next()?["server"] == new["server"] && open.next().is_none();
        only.then_some(())
    };
    patience::until(PATIENCE, has_the_role)
        .with_context(|| format!("not exactly one has the role: {:?}", fleet.history("shop")))?;
    // Nothing that no instance names is left at the provider.
    let folders = std::fs::read_dir(node.data().join("instances"))?.flatten();
    let folders: Vec<_> = folders
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    ensure!(folders == [new["server"].as_str().context("no server")?], "{folders:?}");
    Ok(())
}

#[test]
fn a_t11_a_node_killed_after_detect_finishes_with_one_replacement() -> Result<()> {
    survives("after_detect")
}

#[test]
fn a_t11_a_node_killed_after_fence_finishes_with_one_replacement() -> Result<()> {
    survives("after_fence")
}

#[test]
fn a_t11_a_node_killed_after_create_finishes_with_one_replacement() -> Result<()> {
    survives("after_create")
}

#[test]
fn a_t11_a_node_killed_after_start_finishes_with_one_replacement() -> Result<()> {
    survives("after_start")
}

#[test]
fn a_t11_a_node_killed_after_cmdb_finishes_with_one_replacement() -> Result<()> {
    survives("after_cmdb")
}

#[test]
fn a_killed_nodes_servers_end_and_come_back_with_it() -> Result<()> {
    let mut node = node()?;
    let fleet = Fleet::of(&node);
    let rest = format!("[[services]]\nname = \"greeter\"\ncommand = {}\n", greeter("ahoy"));
    fleet.make("shop", &file("shop", 128, &rest))?;
    let before = fleet.running("shop")?;
    let server = before["server"].as_str().context("no server")?;
    ensure!(!processes_of(server).is_empty(), "the control: it runs");
    node.kill()?;
    patience::until(PATIENCE, || processes_of(server).is_empty().then_some(()))
        .context("a server outlives its node")?;
    node.start_again()?;
    let after = fleet.running("shop")?;
    ensure!(
        after["server"] == server && after["replacements"] == 0,
        "a node's own end is no error of its servers: {after}"
    );
    node.terminate()?;
    node.wait_for_end()?;
    ensure!(
        processes_of(server).is_empty(),
        "a node that stops takes its servers along"
    );
    Ok(())
}

#[test]
fn a_node_that_stops_leaves_nothing_of_its_instances() -> Result<()> {
    let node = node()?;
    let fleet = Fleet::of(&node);
    let rest = "[[volumes]]\nsource = \"orders\"\nmount = \"/data\"\n\
        [[services]]\nname = \"sleeper\"\ncommand = [\"/bin/sleep\", \"1000\"]\n";
    fleet.make("shop", &file("shop", 128, rest))?;
    let shown = fleet.running("shop")?;
    let server = shown["server"].as_str().context("no server")?.to_owned();
    let data = node.data();
    let held = leftovers(&data);
    ensure!(
        held.iter().any(|left| left.starts_with("/sys/fs/cgroup"))
            && held.iter().any(|left| left.starts_with("/proc/")),
        "the control: it has a group and processes: {held:?}"
    );
    // Looks by itself what is left.
    drop(node);
    ensure!(processes_of(&server).is_empty());
    Ok(())
}
