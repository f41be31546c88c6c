//! The whole binary: a node as a process, driven by the command line as a process.

#![allow(clippy::unwrap_used, reason = "a panic is how a test reports")]

mod harness;
mod machines;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use harness::{Node, Ran, World, bowline};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Deploys a Python function, unless this machine cannot run one.
fn deploy_python(world: &World, node: &Node, source: &str) -> Option<Ran> {
    let path = world.write("greet.py", source);
    let deployed = node.deploy(&path, &[]);
    let said = deployed.stderr();
    if deployed.code() != Some(0) && (said.contains("cannot run `python3`") || said.contains("Linux sandbox")) {
        eprintln!("SKIPPED: this machine runs no Python functions: {said}");
        return None;
    }
    deployed.ok();
    Some(deployed)
}

#[test]
fn a_wasm_function_lives_its_whole_life() {
    let world = World::new();
    let node = world.start();
    let deployed = node
        .deploy(&world.path("echo.wasm"), &["--memory", "256", "--env", "COLOUR=red"])
        .json();
    assert_eq!(deployed["State"], "Active");
    assert_eq!(deployed["MemorySize"], 256);

    assert_eq!(
        node.run(&["invoke", "echo", "-d", r#"{"a": 1}"#]).ok().trim(),
        r#"{"a": 1}"#
    );
    let event = world.write("event.json", "[1,2]");
    let from_file = format!("@{}", event.display());
    let tailed = node.run(&["invoke", "echo", "-d", &from_file, "--tail", "--json"]);
    assert_eq!(tailed.json()["payload"], json!([1, 2]));
    assert!(tailed.stderr().contains("REPORT RequestId:"), "{}", tailed.stderr());

    assert_eq!(
        node.run(&["functions", "ls", "--json"]).json()["functions"][0]["FunctionName"],
        "echo"
    );
    assert!(node.run(&["functions", "show", "echo"]).ok().contains("COLOUR=red"));
    assert!(node.run(&["logs", "echo"]).ok().contains("echoing"));
    assert_eq!(
        node.run(&["functions", "rm", "echo", "--json"]).json(),
        json!({ "removed": "echo" })
    );
    let gone = node.run(&["invoke", "echo"]);
    assert_eq!(gone.code(), Some(2));
    assert!(gone.stderr().contains("ResourceNotFoundException"), "{}", gone.stderr());
    assert_eq!(node.stop().code(), Some(0));
}

#[test]
fn versions_and_aliases_are_published_moved_and_removed() {
    let world = World::new();
    let node = world.start();
    node.deploy(&world.path("echo.wasm"), &[]).ok();
    assert_eq!(
        node.run(&["versions", "publish", "echo", "--json"]).json()["Version"],
        "1"
    );
    node.deploy(&world.path("echo.wasm"), &["--timeout", "9"]).ok();
    assert!(node.run(&["versions", "publish", "echo"]).ok().contains("version 2"));
    let listed = node.run(&["versions", "ls", "echo", "--json"]).json();
    let numbers: Vec<_> = listed["versions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v["Version"].clone())
        .collect();
    assert_eq!(numbers, ["$LATEST", "1", "2"]);
    assert!(
        node.run(&["versions", "show", "echo", "2"])
            .ok()
            .contains("timeout s    9")
    );

    node.run(&["aliases", "set", "echo", "live", "1"]).ok();
    let set = ["aliases", "set", "echo", "live", "2", "--weight", "1=0.25", "--json"];
    let weights = node.run(&set).json()["RoutingConfig"]["AdditionalVersionWeights"].clone();
    assert_eq!(weights, json!({ "1": 0.25 }));
    assert!(node.run(&["aliases", "ls", "echo"]).ok().contains("1=0.25"));
    let invoked = node.run(&["invoke", "echo", "--qualifier", "live", "--json"]).json();
    assert!(["1", "2"].contains(&invoked["executedVersion"].as_str().unwrap()));
    node.run(&["aliases", "set", "echo", "live", "2"]).ok();
    assert!(!node.run(&["aliases", "show", "echo", "live"]).ok().contains("0.25"));
    node.run(&["aliases", "rm", "echo", "live"]).ok();
    assert_eq!(node.run(&["aliases", "rm", "echo", "live"]).code(), Some(2));
    node.run(&["versions", "rm", "echo", "1"]).ok();
    assert_eq!(node.run(&["versions", "show", "echo", "1"]).code(), Some(2));
}

#[test]
fn layers_are_published_used_and_removed() {
    let world = World::new();
    let node = world.start();
    let source = "import knots\ndef handler(event, context):\n    return knots.NAME\n";
    std::fs::create_dir_all(world.path("layer/python")).unwrap();
    world.write("layer/python/knots.py", "NAME = 'bowline'\n");
    let folder = world.path("layer");
    let publish = [
        "layer",
        "publish",
        "knots",
        folder.to_str().unwrap(),
        "--runtime",
        "python3.12",
    ];
    let published = node
        .run(&[&publish[..], &["--description", "knots for all", "--json"]].concat())
        .json();
    assert_eq!(published["Version"], 1);
    let arn = published["LayerVersionArn"].as_str().unwrap();
    world.write("layer/python/knots.py", "NAME = 'sheet bend'\n");
    assert!(node.run(&publish).ok().contains("--layer arn:aws:lambda:"));
    assert!(node.run(&["layer", "ls"]).ok().contains("knots"));
    let listed = node.run(&["layer", "ls", "knots", "--json"]).json();
    assert_eq!(listed["versions"][1]["Description"], "knots for all");
    let absent = world.write("no.zip", "no archive");
    let refused = node.run(&["layer", "publish", "knots", absent.to_str().unwrap()]);
    assert!(refused.stderr().contains("as an archive"), "{}", refused.stderr());

    if deploy_python(&world, &node, "def handler(event, context):\n    return None\n").is_some() {
        let path = world.write("greet.py", source);
        node.deploy(&path, &["--layer", arn]).ok();
        assert_eq!(node.run(&["invoke", "greet"]).ok().trim(), "\"bowline\"");
        assert!(node.run(&["functions", "show", "greet"]).ok().contains(arn));
        assert!(
            node.deploy(&path, &["--layer", arn])
                .stderr()
                .contains("left as it was")
        );
        node.run(&["layer", "rm", "knots", "1"]).ok();
        assert_eq!(node.run(&["invoke", "greet"]).ok().trim(), "\"bowline\"");
        let other = format!("{}2", arn.strip_suffix('1').unwrap());
        assert!(
            node.deploy(&path, &["--layer", &other])
                .stderr()
                .contains("reconfigured")
        );
        assert_eq!(node.run(&["invoke", "greet"]).ok().trim(), "\"sheet bend\"");
        let gone = node.deploy(&path, &["--layer", arn]);
        assert!(gone.stderr().contains("does not exist"), "{}", gone.stderr());
    }
}

#[test]
fn deploying_again_changes_only_what_differs() {
    let world = World::new();
    let node = world.start();
    let path = world.path("echo.wasm");
    let first = node.deploy(&path, &[]);
    assert!(first.stderr().contains("created echo"), "{}", first.stderr());
    assert!(node.deploy(&path, &[]).stderr().contains("left as it was"));
    assert!(
        node.deploy(&path, &["--memory", "512"])
            .stderr()
            .contains("reconfigured echo")
    );
    let other = harness::ECHO.replace("echoing", "ECHOING");
    std::fs::write(&path, wat::parse_str(other).unwrap()).unwrap();
    let second = node.deploy(&path, &[]);
    assert!(second.stderr().contains("updated echo"), "{}", second.stderr());
    assert_eq!(second.json()["MemorySize"], 512);
    assert_ne!(second.json()["CodeSha256"], first.json()["CodeSha256"]);
}

#[test]
fn code_that_cannot_run_is_refused_and_leaves_nothing() {
    let world = World::new();
    let node = world.start();
    std::fs::write(world.path("broken.wasm"), b"\0asm\x01\0\0\0nonsense").unwrap();
    let refused = node.deploy(&world.path("broken.wasm"), &[]);
    assert_eq!(refused.code(), Some(2));
    assert!(refused.stderr().contains("error: "), "{}", refused.stderr());
    assert_eq!(node.run(&["functions", "ls", "--json"]).json()["functions"], json!([]));
}

#[test]
fn a_python_function_answers_logs_and_fails_as_one() {
    let world = World::new();
    let node = world.start();
    let source =
        "def handler(event, context):\n    print('greeting', event['name'])\n    return {'hello': event['name']}\n";
    let Some(_) = deploy_python(&world, &node, source) else {
        return;
    };
    let answer: Value = node
        .run(&["invoke", "greet", "-d", r#"{"name": "Ann"}"#, "--json"])
        .json();
    assert_eq!(answer["payload"], json!({ "hello": "Ann" }));
    let failed = node.run(&["invoke", "greet"]);
    assert_eq!(failed.code(), Some(1), "{}", failed.stderr());
    assert!(failed.stdout().contains("KeyError"), "{}", failed.stdout());
    assert!(failed.stderr().contains("bowline logs greet"), "{}", failed.stderr());
    assert!(node.run(&["logs", "greet"]).ok().contains("greeting Ann"));
    assert_eq!(node.stop().code(), Some(0));
}

#[test]
fn sigterm_lets_a_running_invocation_end() {
    let world = World::new();
    let node = world.start();
    let source = "import time\ndef handler(event, context):\n    print('begun', flush=True)\n    time.sleep(1)\n    return 'ended'\n";
    let Some(_) = deploy_python(&world, &node, source) else {
        return;
    };
    let mut follow = node
        .command(&["logs", "-f", "greet"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let invoke = node
        .command(&["invoke", "greet"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let log = BufReader::new(follow.stdout.take().unwrap());
    assert!(log.lines().map_while(Result::ok).any(|line| line.contains("begun")));
    assert_eq!(node.stop().code(), Some(0));
    let invoked = Ran(invoke.wait_with_output().unwrap());
    assert_eq!(invoked.ok().trim(), "\"ended\"");
    let _ = follow.kill();
    follow.wait().unwrap();
}

#[test]
fn what_was_deployed_survives_kill_nine() {
    let world = World::new();
    let node = world.start();
    node.deploy(&world.path("echo.wasm"), &[]).ok();
    node.run(&["versions", "publish", "echo"]).ok();
    node.run(&["aliases", "set", "echo", "live", "1"]).ok();
    node.signal(Signal::KILL);
    assert_eq!(node.ended().code(), None);

    let node = world.start();
    assert_eq!(node.run(&["invoke", "echo", "-d", "7"]).ok().trim(), "7");
    let invoked = node.run(&["invoke", "echo:live", "-d", "8", "--json"]).json();
    assert_eq!(
        (&invoked["payload"], &invoked["executedVersion"]),
        (&json!(8), &json!("1"))
    );
    assert_eq!(node.stop().code(), Some(0));
}

#[test]
fn a_second_node_is_refused_the_address_and_the_data() {
    let (world, other) = (World::new(), World::new());
    let node = world.start();
    let address = node.endpoint.strip_prefix("http://").unwrap();
    let refused = |mut command: std::process::Command| {
        let ran = Ran(command.output().unwrap());
        assert_eq!(ran.code(), Some(2));
        ran.stderr()
    };
    let mut second = bowline();
    second
        .args(["up", "--listen", address, "--data"])
        .arg(other.path("data"));
    let said = refused(second);
    assert!(said.contains("is in use") && said.contains("--listen"), "{said}");
    let said = refused(world.up());
    assert!(said.contains("cannot use the data folder"), "{said}");
    let mut open = bowline();
    open.args(["up", "--listen", "0.0.0.0:0", "--data"])
        .arg(other.path("data"));
    let said = refused(open);
    assert!(said.contains("access keys and TLS"), "{said}");
}

#[test]
fn without_a_node_every_client_command_says_how_to_start_one() {
    let world = World::new();
    let wasm = world.path("echo.wasm");
    for arguments in [
        &["functions", "ls"][..],
        &["invoke", "echo"],
        &["logs", "echo"],
        &["deploy", wasm.to_str().unwrap()],
    ] {
        // Port 1 of the loopback interface: nobody listens there.
        let ran = Ran(bowline()
            .args(arguments)
            .args(["--endpoint", "http://127.0.0.1:1"])
            .output()
            .unwrap());
        assert_eq!(ran.code(), Some(2), "{arguments:?}");
        assert!(ran.stderr().contains("start one with `bowline up`"), "{}", ran.stderr());
    }
}

#[test]
fn the_effective_configuration_names_its_origins() {
    let world = World::new();
    world.write("bowline.toml", "concurrency = 12\nregion = \"eu-west-1\"\n");
    let config = |arguments: &[&str]| {
        let mut command = bowline();
        command
            .current_dir(world.path(""))
            .env("BOWLINE_REGION", "eu-north-1")
            .arg("config")
            .args(arguments);
        Ran(command.output().unwrap())
    };
    let shown = config(&["--json", "--listen", "127.0.0.1:9100"]).json();
    assert_eq!(
        shown["concurrency"],
        json!({ "value": "12", "origin": "bowline.toml:1" })
    );
    assert_eq!(
        shown["region"],
        json!({ "value": "eu-north-1", "origin": "env BOWLINE_REGION" })
    );
    assert_eq!(
        shown["listen"],
        json!({ "value": "127.0.0.1:9100", "origin": "flag --listen" })
    );
    assert_eq!(shown["data"]["origin"], "default");
    world.write("bowline.toml", "regoin = 1\n");
    let refused = config(&[]);
    assert_eq!(refused.code(), Some(2));
    assert!(
        refused
            .stderr()
            .contains("bowline.toml:1:1: unknown setting `regoin`; did you mean `region`?")
    );
}
