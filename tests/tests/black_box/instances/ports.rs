//! Services of virtual machines, which have no network, at their instances' addresses.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use anyhow::{Context, Result, ensure};
use bowline_tests::node::binary;
use bowline_tests::{Artifact, patience};
use serde_json::{Value, json};

use super::machines::{data, node_on, qemu, well};
use super::{Fleet, PATIENCE, place, signal};

/// Answers each connection, once it has said all, with its own text and what it heard, backwards. Told to hush it lives on
/// and listens no more.
const CLERK: &str = "import os,socket,sys,threading,time
s=socket.create_server((eval(sys.argv[1]),int(sys.argv[2])))
def attend(c):
  d=bytearray()
  while p:=c.recv(65536): d+=p
  if d==b'hush': s.shutdown(2)
  c.sendall(sys.argv[3].encode()+d[::-1])
  c.close()
while True:
  try: c=s.accept()[0]
  except OSError: s.close(); time.sleep(10**6)
  threading.Thread(target=attend,args=(c,)).start()";

/// Where a service listens that goes by the instance's address.
const OWN: &str = "os.environ['BOWLINE_ADDRESS']";

/// A service at a port, which the node is told of or not.
fn clerk(name: &str, host: &str, port: u16, ports: &str) -> String {
    let command = json!([
        "/usr/bin/python3",
        "-c",
        CLERK,
        host,
        port.to_string(),
        format!("{name}:")
    ]);
    format!(
        "[[services]]\nname = \"{name}\"\ncommand = {command}\n{ports}\n\
         health = {{ check = {{ tcp = {port} }}, interval_ms = 200 }}\n"
    )
}

fn file(id: &str, services: &str) -> String {
    format!("id = \"{id}\"\nkind = \"vm\"\n[resources]\nmemory_mib = 512\n{services}")
}

fn address(shown: &Value) -> Result<&str> {
    shown["address"].as_str().context("no address")
}

/// What a service says to this.
fn ask(address: &str, port: u16, word: &[u8]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect((address, port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(word)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

fn is_refused(address: &str, port: u16) -> bool {
    TcpStream::connect((address, port)).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// A connection whose service waits for more.
fn held(address: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect((address, 7070))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"more follows")?;
    Ok(stream)
}

fn is_reset(mut held: TcpStream) -> Result<()> {
    let ended = held.read(&mut [0]).map_err(|error| error.kind());
    ensure!(ended == Err(ErrorKind::ConnectionReset), "{ended:?}");
    Ok(())
}

/// Tries to reach what it is told.
const REACHES: &[u8] = b"import socket
def handler(event, context):
    def tried(host, port):
        try:
            socket.create_connection((host, port), 5)
            return 'reached'
        except OSError as error:
            return str(error)
    return [tried(host, port) for host, port in event]
";

#[test]
fn services_of_machines_answer_at_their_own_addresses_and_only_at_ports_that_are_named() -> Result<()> {
    let data = data()?;
    let node = node_on(&data)?;
    let fleet = Fleet::of(&node);
    let services =
        |name: &str, host: &str| clerk(name, host, 7070, "ports = [7070]") + &clerk("hidden", "'0.0.0.0'", 7071, "");
    fleet.make("shop", &file("shop", &services("shop", OWN)))?;
    fleet.make("mill", &file("mill", &services("mill", "'127.0.0.1'")))?;
    let (shop, mill) = (fleet.running("shop")?, fleet.running("mill")?);
    let at = [("shop", address(&shop)?), ("mill", address(&mill)?)];
    ensure!(at[0].1 != at[1].1);
    let much: Vec<u8> = (0..3_000_000).map(|at| (at % 251) as u8).collect();
    for (name, address) in at {
        ensure!(ask(address, 7070, b"abc")? == format!("{name}:cba").as_bytes());
        let answer = ask(address, 7070, &much)?;
        ensure!(answer.len() == much.len() + 5 && answer[5..].iter().eq(much.iter().rev()));
        // It listens, or else the instance would not run.
        ensure!(is_refused(address, 7071), "its port is not named");
    }
    ensure!(shop["ports"] == json!([{ "service": "shop", "port": 7070 }]), "{shop}");
    let mut show = std::process::Command::new(binary()?);
    show.args(["instance", "show", "shop", "--endpoint", &fleet.endpoint]);
    let text = String::from_utf8(show.output()?.stdout)?;
    ensure!(text.contains("7070 (shop)"), "{text}");

    let one = held(at[0].1)?;
    let counts = |count: u32| {
        let line = format!("\nbowline_instance_connections {count}\n");
        patience::until(PATIENCE, || {
            let metrics = fleet.lambda.get("/metrics").ok()?.body;
            String::from_utf8_lossy(&metrics).contains(&line).then_some(())
        })
    };
    counts(1).context("the connection is not counted")?;
    drop(one);
    counts(0).context("its end is not counted")?;

    // Functions there have no network, as everywhere: neither the guest's nor the host's.
    let reaches = Artifact::python_source(REACHES)?;
    fleet
        .lambda
        .deploy("reaches", &reaches, json!({"MemorySize": 128, "Timeout": 60}))?;
    let host = std::net::TcpListener::bind("127.0.0.1:0")?;
    let places = json!([
        [at[0].1, 7070],
        ["127.0.0.1", 7070],
        ["127.0.0.1", 7071],
        ["127.0.0.1", host.local_addr()?.port()]
    ]);
    let tried = well(fleet.lambda.invoke("reaches", &places)?)?;
    ensure!(
        tried
            .as_array()
            .is_some_and(|tried| tried.len() == 4 && !tried.contains(&json!("reached"))),
        "{tried}"
    );
    let sandboxes = |name: &str| Ok::<_, anyhow::Error>(fleet.show(name)?["sandboxes"].as_u64().unwrap_or_default());
    ensure!(
        sandboxes("shop")? + sandboxes("mill")? == 1,
        "the control: it runs in a machine"
    );

    fleet.lambda.delete("/v1/instances/shop")?.expect(204)?;
    ensure!(is_refused(at[0].1, 7070), "a removed instance's port refuses");
    ensure!(
        ask(at[1].1, 7070, b"abc")? == b"mill:cba",
        "the control: the other one answers"
    );
    Ok(())
}

#[test]
fn a_machines_port_works_again_after_a_repair_a_replacement_and_the_nodes_death() -> Result<()> {
    let data = data()?;
    let mut node = node_on(&data)?;
    let fleet = Fleet::of(&node);
    fleet.make("shop", &file("shop", &clerk("shop", OWN, 7070, "ports = [7070]")))?;
    let old = fleet.running("shop")?;
    let (server, old_address) = (old["server"].as_str().context("no server")?, address(&old)?);
    let well = |address: &str| -> Result<()> {
        ensure!(ask(address, 7070, b"abc")? == b"shop:cba");
        Ok(())
    };
    well(old_address)?;

    // It lives, but its check fails.
    ensure!(ask(old_address, 7070, b"hush")? == b"shop:hsuh");
    let repaired = patience::until(PATIENCE, || place(&fleet.events("shop").ok()?, "repaired", server).ok());
    repaired.with_context(|| format!("{:?}", fleet.events("shop")))?;
    let error = fleet.history("shop")?["events"].to_string();
    ensure!(
        error.contains("failed 3 checks in a row") && error.contains("7070"),
        "{error}"
    );
    let same = fleet.running("shop")?;
    ensure!(same["server"] == server && same["address"] == old["address"], "{same}");
    well(old_address)?;

    let cut = held(old_address)?;
    signal(qemu(&same)?, "-KILL")?;
    is_reset(cut).context("of a machine that was killed")?;
    let new = fleet.replaced("shop", &old)?;
    ensure!(is_refused(old_address, 7070), "the old address is refused");
    let new_address = address(&new)?;
    well(new_address)?;

    let cut = held(new_address)?;
    node.kill()?;
    is_reset(cut).context("of a node that was killed")?;
    ensure!(is_refused(new_address, 7070), "nobody listens without the node");
    let process = qemu(&new)?;
    node.start_again()?;
    let back = fleet.until("shop", "back", |shown| {
        shown["state"] == "RUNNING" && shown["machine"]["process"] != process
    })?;
    ensure!(
        back["server"] == new["server"] && back["address"] == new["address"],
        "{back}"
    );
    well(new_address)
}
