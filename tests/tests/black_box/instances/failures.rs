//! Servers that break: what is repaired, what is replaced, and what is given up.

use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_tests::{Artifact, patience};
use serde_json::json;

use super::{
    Fleet, PATIENCE, agent_pid, file, greeter, greeting, node, node_with, place, processes_of, runs, shell, signal,
};

/// The file of a server that greets.
fn greeting_file(text: &str, policy: &str) -> String {
    let rest = format!(
        "[[services]]\nname = \"greeter\"\ncommand = {}\n\
         health = {{ check = {{ tcp = 7070 }}, interval_ms = 200 }}\n[policy]\n{policy}\n",
        greeter(text)
    );
    file("shop", 256, &rest)
}

#[test]
fn a_t4_a_crashed_service_is_repaired_on_the_same_server() -> Result<()> {
    let node = node()?;
    let fleet = Fleet::of(&node);
    fleet.make("shop", &greeting_file("ahoy", ""))?;
    let shown = fleet.running("shop")?;
    let (server, address) = (
        shown["server"].as_str().context("no server")?,
        shown["address"].as_str().context("no address")?,
    );
    ensure!(greeting(address, 7070)? == "ahoy", "the control: it greets");
    let agent = agent_pid(&shown)?;
    let service = processes_of(server).into_iter().find(|pid| {
        std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with("/usr/bin/python3"))
    });
    signal(service.context("no service")?, "-KILL")?;
    let repaired = patience::until(PATIENCE, || place(&fleet.events("shop").ok()?, "repaired", server).ok());
    let events = fleet.events("shop")?;
    ensure!(repaired.is_some(), "{events:?}");
    for what in ["error", "repair", "repaired"] {
        place(&events, what, server)?;
    }
    let after = fleet.running("shop")?;
    ensure!(after["server"] == server && after["replacements"] == 0, "{after}");
    ensure!(agent_pid(&after)? == agent && greeting(address, 7070)? == "ahoy");
    Ok(())
}

#[test]
fn what_a_service_prints_is_kept_within_bounds() -> Result<()> {
    const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
    let node = node()?;
    let fleet = Fleet::of(&node);
    let script = "head -c 11000000 /dev/zero | tr '\\0' x; echo; echo the end; exec sleep 1000";
    let rest = format!("[[services]]\nname = \"talker\"\ncommand = {}\n", shell(script));
    fleet.make("shop", &file("shop", 128, &rest))?;
    let shown = fleet.running("shop")?;
    let server = shown["server"].as_str().context("no server")?;
    let folder = node.data().join("instances").join(server).join("state/services");
    let said = || std::fs::read_to_string(folder.join("talker.log")).unwrap_or_default();
    let ended = patience::until(PATIENCE, || said().ends_with("\nthe end\n").then_some(()));
    ended.with_context(|| format!("the last words are missing: {} bytes", said().len()))?;
    let mut sizes = Vec::new();
    for entry in std::fs::read_dir(&folder)? {
        sizes.push(entry?.metadata()?.len());
    }
    sizes.sort_unstable();
    let newest = 11_000_009 % FILE_BYTES_MAX;
    ensure!(
        sizes == [newest, FILE_BYTES_MAX],
        "eleven million bytes were printed: {sizes:?}"
    );
    Ok(())
}

#[test]
fn a_t5_and_a_t8_a_killed_server_is_cut_off_then_replaced() -> Result<()> {
    let node = node()?;
    let fleet = Fleet::of(&node);
    let text = greeting_file("ahoy", "").replace("[policy]", "[roles.web.resources]\nmemory_mib = 192\n[policy]");
    fleet.put("shop", &text)?;
    fleet.create(json!({ "file": "shop", "role": "web" }))?;
    let old = fleet.running("shop")?;
    let (server, address) = (
        old["server"].as_str().context("no server")?,
        old["address"].as_str().context("no address")?,
    );
    ensure!(greeting(address, 7070)? == "ahoy", "the control: it greets");
    signal(agent_pid(&old)?, "-KILL")?;
    let new = fleet.replaced("shop", &old)?;
    ensure!(
        TcpStream::connect((address, 7070)).is_err(),
        "the old address is refused"
    );
    let new_address = new["address"].as_str().context("no address")?;
    ensure!(greeting(new_address, 7070)? == "ahoy");
    ensure!(
        new["replaces"] == server && new["memory_mib"] == 192 && new["digest"] == old["digest"],
        "{new}"
    );
    let events = fleet.events("shop")?;
    let created = place(&events, "create", new["server"].as_str().context("no server")?)?;
    ensure!(place(&events, "fence", server)? < created, "{events:?}");
    ensure!(processes_of(server).is_empty(), "nothing of the old one runs");

    // It runs a moment before it is in place.
    let in_place = patience::until(PATIENCE, || place(&fleet.events("shop").ok()?, "cmdb", "").ok());
    in_place.context("the new server is never put in place")?;
    let history = fleet.history("shop")?;
    let rows = history["assignments"].as_array().context("no assignments")?;
    let row = |address: &str| rows.iter().find(|row| row["address"] == address);
    let ended = row(address).context("no row of the old address")?;
    let open = row(new_address).context("no row of the new address")?;
    ensure!(ended["role"] == "web" && ended["to"].is_string(), "{history}");
    ensure!(open["role"] == "web" && open["to"].is_null(), "{history}");
    Ok(())
}

#[test]
fn a_t6_a_replacement_follows_the_file_unless_it_is_pinned() -> Result<()> {
    for pinned in [false, true] {
        let node = node()?;
        let fleet = Fleet::of(&node);
        let policy = format!("pin_revision = {pinned}");
        fleet.make("shop", &greeting_file("before", &policy))?;
        let old = fleet.running("shop")?;
        fleet.put("shop", &greeting_file("after", &policy))?;
        let address = old["address"].as_str().context("no address")?;
        ensure!(
            greeting(address, 7070)? == "before",
            "the control: the server that runs is as it was"
        );
        signal(agent_pid(&old)?, "-KILL")?;
        let new = fleet.replaced("shop", &old)?;
        let said = greeting(new["address"].as_str().context("no address")?, 7070)?;
        ensure!(
            said == if pinned { "before" } else { "after" },
            "pinned {pinned}: {said}"
        );
        ensure!((new["digest"] == old["digest"]) == pinned, "{new}");
    }
    Ok(())
}

#[test]
fn a_t7_a_server_of_too_little_efficiency_is_replaced() -> Result<()> {
    let node = node()?;
    let fleet = Fleet::of(&node);
    fleet.make("shop", &file("shop", 128, "[policy]\nefficiency_min = 0.20\n"))?;
    let old = fleet.running("shop")?;
    let tell = |efficiency: f64| {
        fleet
            .lambda
            .post("/v1/instances/shop/report", &json!({ "efficiency": efficiency }))
    };
    tell(0.20)?.expect(200)?;
    tell(0.90)?.expect(200)?;
    let untouched = fleet.running("shop")?;
    ensure!(
        untouched["server"] == old["server"],
        "the control: the least itself is enough"
    );
    tell(1.5)?.expect(400)?;
    tell(0.10)?.expect(200)?;
    let new = fleet.replaced("shop", &old)?;
    let events = fleet.events("shop")?;
    let (old, new) = (
        old["server"].as_str().context("no server")?,
        new["server"].as_str().context("no server")?,
    );
    ensure!(
        place(&events, "fence", old)? < place(&events, "create", new)?,
        "{events:?}"
    );
    let history = fleet.history("shop")?.to_string();
    ensure!(history.contains("efficiency 0.1 is below 0.2"), "{history}");
    Ok(())
}

#[test]
fn a_t10_a_fenced_writer_writes_no_more() -> Result<()> {
    let node = node()?;
    let fleet = Fleet::of(&node);
    // It leaves its group and session, so that only the place holds it.
    let writer = "setsid sh -c 'n=0; while :; do n=$((n+1)); echo $n-$BOWLINE_INSTANCE > /data/count; echo $$ > /data/pid; \
        sleep 0.01; done' & exec sleep 1000";
    let rest = format!(
        "[[volumes]]\nsource = \"orders\"\nmount = \"/data\"\n[[services]]\nname = \"writer\"\ncommand = {}\n",
        shell(writer)
    );
    fleet.make("shop", &file("shop", 128, &rest))?;
    let old = fleet.running("shop")?;
    let writer: u32 = fleet.read("orders", "pid")?.trim().parse()?;
    let count = || std::fs::read_to_string(fleet.volume("orders").join("count")).unwrap_or_default();
    ensure!(runs(writer), "the control: it runs");
    let first = count();
    patience::until(PATIENCE, || (count() != first).then_some(())).context("the control: it writes")?;
    fleet.lambda.delete("/v1/instance-files/shop?force=true")?.expect(204)?;
    signal(agent_pid(&old)?, "-STOP")?;
    let server = old["server"].as_str().context("no server")?.to_owned();
    let fenced = patience::until(PATIENCE, || place(&fleet.events("shop").ok()?, "fence", &server).ok());
    fenced.context("an agent that stands still is never fenced")?;
    let at = count();
    patience::rest(Duration::from_millis(500));
    ensure!(count() == at, "it wrote after the fence");
    ensure!(!runs(writer), "the writer lives");
    Ok(())
}

#[test]
fn a_t12_a_service_that_always_dies_ends_in_a_hold() -> Result<()> {
    let node = node()?;
    let fleet = Fleet::of(&node);
    let rest = format!(
        "[[services]]\nname = \"mayfly\"\ncommand = {}\n[policy]\nrepair_attempts = 1\nbackoff_ms = 50\n",
        shell("sleep 0.1; exit 1")
    );
    fleet.make("shop", &file("shop", 128, &rest))?;
    let held = fleet.until("shop", "held", |shown| shown["state"] == "HELD")?;
    ensure!(held["replacements"] == 3 && held["held"].is_string(), "{held}");
    let created = |events: &[(String, String)]| events.iter().filter(|(what, _)| what == "create").count();
    patience::rest(Duration::from_millis(500));
    ensure!(created(&fleet.events("shop")?) == 3, "no fourth");
    ensure!(node.log().contains("an instance is held"), "an alert is logged");
    let metrics = fleet.lambda.get("/metrics")?.expect(200)?;
    ensure!(String::from_utf8_lossy(&metrics.body).contains("bowline_instance_holds_total 1"));
    let server = held["server"].as_str().context("no server")?;
    ensure!(processes_of(server).is_empty(), "the last one is fenced");
    // The control: with the cause gone and somebody's word it goes on.
    fleet.put("shop", &file("shop", 128, ""))?;
    fleet
        .lambda
        .post("/v1/instances/shop/resume", &json!({}))?
        .expect(200)?;
    fleet.running("shop")?;
    Ok(())
}

#[test]
fn a_t13_without_its_file_a_broken_server_is_fenced_and_not_replaced() -> Result<()> {
    let node = node()?;
    let fleet = Fleet::of(&node);
    fleet.make("shop", &greeting_file("ahoy", ""))?;
    let old = fleet.running("shop")?;
    let address = old["address"].as_str().context("no address")?;
    fleet.lambda.delete("/v1/instance-files/shop")?.expect(409)?;
    fleet.lambda.delete("/v1/instance-files/shop?force=true")?.expect(204)?;
    ensure!(
        greeting(address, 7070)? == "ahoy",
        "the control: it runs without its file"
    );
    signal(agent_pid(&old)?, "-KILL")?;
    let held = fleet.until("shop", "held", |shown| shown["held"].is_string())?;
    ensure!(held["held"].to_string().contains("does not exist any more"), "{held}");
    ensure!(
        held["state"] == "ACCESS_TERMINATED" && held["server"] == old["server"],
        "{held}"
    );
    ensure!(
        TcpStream::connect((address, 7070)).is_err()
            && processes_of(old["server"].as_str().context("no server")?).is_empty()
    );
    Ok(())
}

/// What is held waits for a person, and whoever calls is told so, as something to be tried again.
#[test]
fn a_t12_a_call_for_an_account_whose_instance_is_held_is_told_to_try_again() -> Result<()> {
    let node = node_with(&[("BOWLINE_INSTANCES", "process")])?;
    let fleet = Fleet::of(&node);
    let rest = format!(
        "[[services]]\nname = \"mayfly\"\ncommand = {}\n[policy]\nrepair_attempts = 1\nbackoff_ms = 50\n",
        shell("sleep 0.1; exit 1")
    );
    fleet.make("default", &file("default", 256, &rest))?;
    fleet.until("default", "held", |shown| shown["state"] == "HELD")?;
    fleet.lambda.deploy("hello", &Artifact::reactor()?, json!({}))?;
    let refused = fleet.lambda.invoke("hello", &json!({"name": "ada"}))?.expect(503)?;
    ensure!(refused.error() == "ServiceException", "{}", refused.error());
    let told = refused.json().to_string();
    for says in ["`default`", "is held", "bowline instance resume default", "try again"] {
        ensure!(told.contains(says), "no `{says}` in {told}");
    }
    // The control: with the cause gone and somebody's word the same call is served.
    fleet.put("default", &file("default", 256, ""))?;
    fleet
        .lambda
        .post("/v1/instances/default/resume", &json!({}))?
        .expect(200)?;
    fleet.running("default")?;
    fleet.lambda.invoke("hello", &json!({"name": "ada"}))?.expect(200)?;
    Ok(())
}
