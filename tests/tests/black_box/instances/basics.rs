//! Files, what is made from them, and what is refused.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{Fleet, file, node, place, processes_of, shell};

#[test]
fn a_t1_a_file_outlives_the_node_and_every_server() -> Result<()> {
    let mut node = node()?;
    let fleet = Fleet::of(&node);
    let text = file("shop", 128, "");
    let kept = fleet.put("shop", &text)?;
    fleet.create(json!({ "file": "shop" }))?;
    let server = fleet.running("shop")?["server"]
        .as_str()
        .context("no server")?
        .to_owned();
    ensure!(!processes_of(&server).is_empty(), "the control: there is a server");
    node.kill()?;
    node.start_again()?;
    fleet.running("shop")?;
    fleet.lambda.delete("/v1/instances/shop")?.expect(204)?;
    ensure!(processes_of(&server).is_empty(), "the server is destroyed");
    let back = fleet.lambda.get("/v1/instance-files/shop")?.expect(200)?;
    ensure!(back.body == text.as_bytes());
    let listed = fleet.lambda.get("/v1/instance-files")?.expect(200)?.json();
    ensure!(listed["items"][0]["digest"] == kept["digest"], "{listed}");
    // The control: a change is another digest and the next revision.
    let changed = fleet.put("shop", &file("shop", 256, ""))?;
    ensure!(
        changed["digest"] != kept["digest"] && changed["revision"] == 2,
        "{changed}"
    );
    Ok(())
}

/// Says what a server sees of itself, once both services run.
const WITNESS: &str = "grep -q s1 /data/order || exit 3; echo s2 >> /data/order; \
    for g in memory '' ; do for f in memory.limit_in_bytes memory.max; do \
    p=$(grep -E \":($g):\" /proc/self/cgroup | head -1 | cut -d: -f3); \
    for r in /sys/fs/cgroup/memory /sys/fs/cgroup /sys/fs/cgroup/unified; do cat $r$p/$f $r${p%/bowline-node}/$f 2>/dev/null; done; done; done > /data/limit; \
    cat /proc/self/mountinfo > /data/mounts; echo done > /data/seen; exec sleep 1000";

#[test]
fn a_t2_a_server_is_what_its_file_says() -> Result<()> {
    let node = node()?;
    let fleet = Fleet::of(&node);
    let first = shell("echo s1 >> /data/order; exec sleep 1000");
    let rest = format!(
        "[[volumes]]\nsource = \"orders\"\nmount = \"/data\"\n\
         [[services]]\nname = \"s2\"\norder = 2\ncommand = {}\n\
         [[services]]\nname = \"s1\"\norder = 1\ncommand = {first}\n\
         health = {{ check = {{ command = [\"/usr/bin/test\", \"-s\", \"/data/order\"] }}, interval_ms = 100 }}\n",
        shell(WITNESS)
    );
    fleet.make("shop", &file("shop", 256, &rest))?;
    let shown = fleet.running("shop")?;
    fleet.read("orders", "seen")?;
    let limits = fleet.read("orders", "limit")?;
    ensure!(
        limits.lines().any(|line| line == "268435456"),
        "limits seen from inside: {limits}"
    );
    let mounts = fleet.read("orders", "mounts")?;
    ensure!(mounts.contains(" /data "), "{mounts}");
    let hosts = std::fs::read_to_string("/proc/self/mountinfo")?;
    ensure!(!hosts.contains(" /data "), "the control: it is not mounted outside");
    ensure!(fleet.read("orders", "order")? == "s1\ns2\n");
    let events = fleet.events("shop")?;
    let server = shown["server"].as_str().context("no server")?;
    let order = ["locate", "determine", "configure", "spin_up", "running"];
    let places: Vec<usize> = order
        .iter()
        .map(|what| place(&events, what, server))
        .collect::<Result<_>>()?;
    ensure!(places.is_sorted(), "{events:?}");
    Ok(())
}

#[test]
fn a_t3_two_roles_of_one_file_are_two_configurations() -> Result<()> {
    let node = node()?;
    let fleet = Fleet::of(&node);
    let text = file(
        "shop",
        128,
        "[roles.web.resources]\nmemory_mib = 192\n[roles.archive.resources]\ncpu_millis = 300\n",
    );
    let before = fleet.put("shop", &text)?;
    fleet.create(json!({ "file": "shop", "name": "front", "role": "web" }))?;
    fleet.create(json!({ "file": "shop", "name": "back", "role": "archive" }))?;
    let (front, back) = (fleet.running("front")?, fleet.running("back")?);
    ensure!(
        (front["memory_mib"].as_u64(), front["cpu_millis"].as_u64()) == (Some(192), Some(1000)),
        "{front}"
    );
    ensure!(
        (back["memory_mib"].as_u64(), back["cpu_millis"].as_u64()) == (Some(128), Some(300)),
        "{back}"
    );
    ensure!(front["server"] != back["server"] && front["digest"] == before["digest"]);
    let refused = fleet.lambda.post(
        "/v1/instances",
        &json!({ "file": "shop", "name": "x", "role": "clerk" }),
    )?;
    ensure!(
        refused.status == 400,
        "the control: a role that the file does not have: {}",
        refused.status
    );
    ensure!(
        fleet.lambda.get("/v1/instance-files/shop")?.body == text.as_bytes(),
        "the file is unchanged"
    );
    Ok(())
}

#[test]
fn a_t9_costs_are_per_unit_and_time() -> Result<()> {
    let node = node()?;
    let fleet = Fleet::of(&node);
    for price in [0.5, 0.25, 0.75] {
        let body = json!({ "price": price, "currency": "EUR", "per_unit": "vcpu", "per_time": "hour" });
        fleet.lambda.post("/v1/roles/web/costs", &body)?.expect(201)?;
    }
    for body in [
        json!({ "price": 1, "currency": "EUR", "per_unit": "vcpu" }),
        json!({ "price": 1, "currency": "EUR", "per_unit": "vcpu", "per_time": "" }),
        json!({ "price": -1, "currency": "EUR", "per_unit": "vcpu", "per_time": "hour" }),
    ] {
        fleet.lambda.post("/v1/roles/web/costs", &body)?.expect(400)?;
    }
    let listed = fleet.lambda.get("/v1/roles/web/costs")?.expect(200)?.json();
    let rows = listed["items"].as_array().context("no rows")?;
    let prices: Vec<f64> = rows.iter().filter_map(|row| row["price"].as_f64()).collect();
    ensure!(prices == [0.5, 0.25, 0.75], "{listed}");
    let first = fleet.lambda.get("/v1/roles/web/costs?limit=2")?.expect(200)?.json();
    let next = first["next"].as_str().context("there is another page")?;
    let rest = fleet.lambda.get(&format!("/v1/roles/web/costs?limit=2&next={next}"))?;
    let rest = rest.expect(200)?.json();
    let joined = [&first, &rest].map(|page| page["items"].as_array().cloned().unwrap_or_default());
    ensure!(joined.concat() == *rows && rest["next"].is_null(), "{first} {rest}");
    ensure!(
        rows.iter()
            .all(|row| row["per_time"] == "hour" && row["per_unit"] == "vcpu" && row["at"].is_string())
    );
    Ok(())
}

#[test]
fn what_is_wrong_with_a_file_is_told_with_its_place() -> Result<()> {
    let node = node()?;
    let fleet = Fleet::of(&node);
    let text = file("shop", 128, "").replace("128", "3");
    let refused = fleet
        .lambda
        .send("PUT", "/v1/instance-files/shop", &[], text.as_bytes())?
        .expect(400)?;
    let detail = refused.json()["detail"].to_string();
    ensure!(
        refused.error() == "invalid_file" && detail.contains("line 4, column 14"),
        "{detail}"
    );
    let inline = file("shop", 128, "cpu_millis = 500\n").replace("process", "inline");
    let refused = fleet
        .lambda
        .send("PUT", "/v1/instance-files/shop", &[], inline.as_bytes())?
        .expect(400)?;
    let detail = refused.json()["detail"].to_string();
    ensure!(
        detail.contains("line 5, column 14") && detail.contains("no limit of an inline instance"),
        "{detail}"
    );
    fleet.put("shop", &file("shop", 128, "cpu_millis = 500\n"))?;
    let huge = file("huge", 1_000_000, "");
    fleet.put("huge", &huge)?;
    let refused = fleet
        .lambda
        .post("/v1/instances", &json!({ "file": "huge" }))?
        .expect(409)?;
    ensure!(refused.error() == "infeasible", "{}", refused.json());
    ensure!(
        fleet.lambda.get("/v1/instances")?.json()["items"] == json!([]),
        "nothing is left behind"
    );
    let missing = fleet
        .lambda
        .post("/v1/instances", &json!({ "file": "none" }))?
        .expect(404)?;
    ensure!(missing.error() == "no_such_file");
    Ok(())
}

#[test]
fn a_token_makes_one_instance() -> Result<()> {
    let node = node()?;
    let fleet = Fleet::of(&node);
    fleet.put("shop", &file("shop", 128, ""))?;
    let ask = |name: &str, token: &str| {
        let body = json!({ "file": "shop", "name": name }).to_string();
        let headers = [("content-type", "application/json"), ("idempotency-key", token)];
        fleet.lambda.send("POST", "/v1/instances", &headers, body.as_bytes())
    };
    let made = ask("one", "t1")?.expect(201)?.json();
    let again = ask("one", "t1")?.expect(201)?.json();
    ensure!(made["server"] == again["server"], "{again}");
    ask("two", "t1")?.expect(409)?;
    ask("one", "t2")?.expect(409)?;
    ask("two", "t3")?.expect(201)?;
    let listed = fleet.lambda.get("/v1/instances")?.json();
    ensure!(
        listed["items"].as_array().map(Vec::len) == Some(2),
        "the control: other tokens make others: {listed}"
    );
    Ok(())
}
