//! Extensions in real sandboxes: their start, their events, their failures and the end.

use std::path::PathBuf;
use std::time::Duration;

use bowline_foundation::digest::Digest;
use bowline_sandbox::{Backend, CodeDir, Outcome, Runtime, VersionSpec};
use serde_json::json;

use crate::harness::{Live, World, python};

/// What every extension begins with: the API over plain HTTP.
pub const PRELUDE: &str = r#"#!/usr/bin/python3
import http.client, http.server, json, os, signal, socket, sys, threading, time
NAME = os.path.basename(sys.argv[0])
def call(method, path, fields={}, body=None):
    connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    connection.request(method, path, body, fields)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read().decode()
def say(*words):
    print(NAME, *words, flush=True)
def register(events):
    status, headers, body = call("POST", "/2020-01-01/extension/register", {"Lambda-Extension-Name": NAME},
        json.dumps({"events": events}))
    assert status == 200, body
    return {"Lambda-Extension-Identifier": headers["Lambda-Extension-Identifier"]}
def following(me):
    status, headers, body = call("GET", "/2020-01-01/extension/event/next", me)
    assert status == 200, body
    return json.loads(body)
def follow(me, on_invoke=lambda event: None):
    while True:
        event = following(me)
        if event["eventType"] == "SHUTDOWN":
            say("shutdown", event["shutdownReason"])
            return
        say("invoke", event["requestId"])
        on_invoke(event)
"#;
const FOLLOWER: &str = "follow(register(['INVOKE', 'SHUTDOWN']))\n";
const FUNCTION: &str = r#"
import os, signal, sys, time
def answer(event, context):
    print("the function ran")
    return {"id": context.aws_request_id}
def hang(event, context):
    time.sleep(600)
def leave(event, context):
    os._exit(7)
def note(event, context):
    signal.signal(signal.SIGTERM, lambda *_: (print("terminated", flush=True), os._exit(0)))
    return "noted"
"#;

/// A version of the function with these programs (a name, and what follows the prelude) as extensions.
pub fn version(world: &World, handler: &str, extensions: &[(&str, &str)]) -> Option<VersionSpec> {
    let texts: Vec<_> = extensions
        .iter()
        .map(|(name, text)| (format!("extensions/{name}"), format!("{PRELUDE}{text}")))
        .collect();
    let files: Vec<_> = texts
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_bytes()))
        .collect();
    with_opt(world, handler, world.code(&files))
}

/// A version of the function with this folder as `/opt`.
pub fn with_opt(world: &World, handler: &str, opt: PathBuf) -> Option<VersionSpec> {
    let code = world.code(&[("app.py", FUNCTION.as_bytes())]);
    let mut version = world.version(python()?, handler, code);
    version.layers = Some(CodeDir {
        digest: Digest::of(opt.as_os_str().as_encoded_bytes()),
        path: opt,
    });
    Some(version)
}

/// Destroys a sandbox; what it printed up to its end, and how long the end took.
async fn end(world: &World, live: Live) -> (String, Duration) {
    let begun = world.clock.monotonic();
    live.sandbox.destroy().await;
    (live.log.text(), world.clock.monotonic().since(begun))
}

async fn follows_its_function(warm_cells: usize) {
    let world = World::start(warm_cells);
    let Some(version) = version(&world, "app.answer", &[("knots.py", FOLLOWER)]) else {
        return;
    };
    let mut live = world.create(version).await.expect("it starts");
    let log = live.log.text();
    assert!(
        log.contains("EXTENSION\tName: knots.py\tState: Ready\tEvents: [INVOKE, SHUTDOWN]\n"),
        "{log}"
    );
    for _ in 0..2 {
        let answer = live.ask(json!({})).await;
        assert!(live.sandbox.settle().await, "{}", live.log.text());
        assert!(live.sandbox.is_alive());
        let said = format!("knots.py invoke {}\n", answer["id"].as_str().expect("an id"));
        assert!(live.log.text().contains(&said), "{}", live.log.text());
        // Frozen, it takes up where it was.
        live.sandbox.idle().await;
    }
    let (log, took) = end(&world, live).await;
    assert!(log.ends_with("knots.py shutdown spindown\n"), "{log}");
    assert!(took < Duration::from_millis(1900), "nobody made it wait: {took:?}");
    world.backend.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_follows_its_function() {
    follows_its_function(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_follows_a_function_of_the_pool() {
    follows_its_function(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_caller_does_not_wait_for_extensions() {
    let world = World::start(0);
    let slow = "follow(register(['INVOKE', 'SHUTDOWN']), lambda event: (time.sleep(0.4), say('done')))\n";
    let Some(version) = version(&world, "app.answer", &[("slow.py", slow)]) else {
        return;
    };
    let mut live = world.create(version.clone()).await.expect("it starts");
    live.ask(json!({})).await;
    assert!(!live.sandbox.is_settled(), "the extension still works");
    assert!(!live.log.text().contains("slow.py done"), "{}", live.log.text());
    assert!(live.sandbox.settle().await);
    assert!(live.sandbox.is_settled());
    assert!(live.log.text().contains("slow.py done"), "{}", live.log.text());
    live.ask(json!({})).await;
    live.sandbox.destroy().await;

    // The control: without extensions an answer settles everything.
    let mut alone = version;
    alone.layers = None;
    let mut live = world.create(alone).await.expect("it starts");
    live.ask(json!({})).await;
    assert!(live.sandbox.is_settled());
    live.sandbox.destroy().await;
    world.backend.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_that_is_never_done_ends_the_sandbox() {
    let world = World::start(0);
    let text = "follow(register(['INVOKE', 'SHUTDOWN']), lambda event: time.sleep(event['deadlineMs'] / 1e3 - time.time() + 0.3))\n";
    let Some(version) = version(&world, "app.answer", &[("late.py", text)]) else {
        return;
    };
    let mut live = world.create(version).await.expect("it starts");
    let report = live.report_within(&json!({}), Duration::from_secs(1)).await;
    assert!(
        matches!(report.outcome, Outcome::Success(_)),
        "the caller has its answer: {report:?}"
    );
    assert!(!live.sandbox.settle().await, "the deadline has passed");
    let (log, _) = end(&world, live).await;
    assert!(log.ends_with("late.py shutdown timeout\n"), "{log}");
    world.backend.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn extensions_hear_why_the_sandbox_ends() {
    let world = World::start(0);
    let cases = [
        ("app.answer", "spindown"),
        ("app.hang", "timeout"),
        ("app.leave", "failure"),
    ];
    for (handler, reason) in cases {
        let Some(version) = version(&world, handler, &[("knots.py", FOLLOWER)]) else {
            return;
        };
        let mut live = world.create(version).await.expect("it starts");
        let report = live.report_within(&json!({}), Duration::from_secs(1)).await;
        assert_eq!(report.reusable, reason == "spindown", "{report:?}");
        let (log, _) = end(&world, live).await;
        assert!(
            log.contains(&format!("knots.py shutdown {reason}\n")),
            "{handler}: {log}"
        );
    }
    world.backend.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn extensions_that_fail_fail_the_initialisation() {
    let world = World::start(0);
    let cases = [
        ("sys.exit(3)\n", "Extension.Crash", "exit status 3"),
        (
            "me = register([])\ncall('POST', '/2020-01-01/extension/init/error', {**me, 'Lambda-Extension-Function-Error-Type': 'Knot.Slipped'}, '')\nsys.exit(1)\n",
            "Extension.InitError",
            "Knot.Slipped",
        ),
        (
            "me = register([])\ncall('POST', '/2020-01-01/extension/exit/error', {**me, 'Lambda-Extension-Function-Error-Type': 'Knot.Broke'}, '')\n",
            "Extension.ExitError",
            "Knot.Broke",
        ),
    ];
    for (text, expected, detail) in cases {
        let Some(version) = version(&world, "app.answer", &[("knots.py", text)]) else {
            return;
        };
        let (error_type, payload) = world.init_error(version).await;
        assert_eq!(error_type, expected, "{payload}");
        let message = payload["errorMessage"].as_str().expect("a text");
        assert!(message.contains("`knots.py`") && message.contains(detail), "{message}");
    }
    let opt = world.code(&[("extensions/knots", b"#!/no/such/shell\n")]);
    let version = with_opt(&world, "app.answer", opt).expect("there was a Python before");
    let (error_type, payload) = world.init_error(version).await;
    assert_eq!(error_type, "Extension.LaunchError", "{payload}");
    world.backend.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_extensions_start_and_eleven_do_not() {
    let world = World::start(0);
    let names: Vec<_> = (0..11).map(|number| format!("knot-{number:02}.py")).collect();
    let all: Vec<_> = names.iter().map(|name| (name.as_str(), FOLLOWER)).collect();
    let Some(ten) = version(&world, "app.answer", &all[..10]) else {
        return;
    };
    let mut live = world.create(ten).await.expect("ten may be");
    live.ask(json!({})).await;
    assert!(live.sandbox.settle().await);
    let (log, _) = end(&world, live).await;
    assert_eq!(log.matches(" shutdown spindown\n").count(), 10, "{log}");
    let eleven = version(&world, "app.answer", &all).expect("there was a Python before");
    let (error_type, payload) = world.init_error(eleven).await;
    assert_eq!(error_type, "Extension.LaunchError", "{payload}");
    world.backend.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_that_never_asks_is_given_up() {
    let world = World::start(0);
    let Some(version) = version(&world, "app.answer", &[("mute.py", "register([])\ntime.sleep(600)\n")]) else {
        return;
    };
    let version = VersionSpec {
        timeout: Duration::from_secs(3),
        ..version
    };
    let begun = world.clock.monotonic();
    let (error_type, payload) = world.init_error(version).await;
    let took = world.clock.monotonic().since(begun);
    assert_eq!(error_type, "Sandbox.Timedout");
    assert!(
        payload["errorMessage"]
            .as_str()
            .is_some_and(|text| text.contains("`mute.py`")),
        "{payload}"
    );
    assert!((10..15).contains(&took.as_secs()), "given up after {took:?}");
    world.backend.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_that_crashes_fails_the_invocation() {
    let world = World::start(0);
    let text = "follow(register(['INVOKE']), lambda event: os._exit(5))\n";
    let Some(version) = version(&world, "app.hang", &[("frail.py", text)]) else {
        return;
    };
    let mut live = world.create(version).await.expect("it starts");
    let (error_type, payload) = live.error(json!({})).await;
    assert_eq!(error_type, "Extension.Crash");
    let message = payload["errorMessage"].as_str().expect("a text");
    assert!(
        message.starts_with("RequestId: ") && message.contains("exit status 5"),
        "{message}"
    );
    live.sandbox.destroy().await;
    world.backend.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_phase_has_its_limits() {
    let world = World::start(0);
    let stubborn =
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nme = register(['SHUTDOWN'])\nfollow(me)\ntime.sleep(600)\n";
    let deaf = "follow(register(['INVOKE']))\n";
    let Some(external) = version(&world, "app.note", &[("stubborn.py", stubborn), ("deaf.py", deaf)]) else {
        return;
    };
    let mut live = world.create(external.clone()).await.expect("it starts");
    live.ask(json!({})).await;
    assert!(live.sandbox.settle().await);
    let (log, took) = end(&world, live).await;
    // The runtime may finish first; who does not end in two seconds is killed.
    assert!(log.contains("terminated\nstubborn.py shutdown spindown\n"), "{log}");
    assert!((1900..3500).contains(&took.as_millis()), "{took:?}");

    // Without extensions the runtime is killed at once.
    let mut alone = external;
    alone.layers = None;
    let mut live = world.create(alone).await.expect("it starts");
    live.ask(json!({})).await;
    let (log, took) = end(&world, live).await;
    assert!(!log.contains("terminated"), "{log}");
    assert!(took < Duration::from_millis(1000), "{took:?}");
    world.backend.shut_down().await;
}

const INTERNAL: &str = r#"
import http.client, json, os, signal, sys, threading
def call(method, path, fields={}, body=None):
    connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    connection.request(method, path, body, fields)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read().decode()
def register(events):
    return call("POST", "/2020-01-01/extension/register", {"Lambda-Extension-Name": "inside"}, json.dumps({"events": events}))
status, headers, body = register(["SHUTDOWN"])
refused = json.loads(body)["errorType"]
status, headers, body = register(["INVOKE"])
me = {"Lambda-Extension-Identifier": headers["Lambda-Extension-Identifier"]}
seen = []
def follow():
    while True:
        seen.append(json.loads(call("GET", "/2020-01-01/extension/event/next", me)[2])["requestId"])
threading.Thread(target=follow, daemon=True).start()
def terminated(*_):
    print("terminated", flush=True)
    os._exit(0)
signal.signal(signal.SIGTERM, terminated)
def handler(event, context):
    return {"refused": refused, "late": json.loads(register([])[2])["errorType"], "seen": len(seen)}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_internal_extension_lives_in_the_runtime() {
    let world = World::start(1);
    let Some(runtime) = python() else { return };
    let code = world.code(&[("app.py", INTERNAL.as_bytes())]);
    let mut live = world
        .create(world.version(runtime, "app.handler", code))
        .await
        .expect("it starts");
    for seen in 0..2 {
        let answer = live.ask(json!({})).await;
        assert_eq!(answer["refused"], "Extension.InvalidEventType");
        assert_eq!(answer["late"], "Extension.RegistrationClosed");
        assert!(answer["seen"].as_u64().is_some_and(|count| count >= seen), "{answer}");
        assert!(live.sandbox.settle().await);
    }
    let (log, took) = end(&world, live).await;
    assert!(log.ends_with("terminated\n"), "{log}");
    assert!(took < Duration::from_millis(1500), "{took:?}");
    world.backend.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn extensions_get_the_environment_without_the_runtimes_part() {
    let world = World::start(0);
    let text =
        "say(json.dumps(sorted(os.environ)))\nsay(os.environ['KNOT'], os.getcwd())\nfollow(register(['SHUTDOWN']))\n";
    let Some(mut version) = version(&world, "app.answer", &[("knots.py", text)]) else {
        return;
    };
    version.environment.insert("KNOT".to_owned(), "bowline".to_owned());
    let live = world.create(version).await.expect("it starts");
    let (log, _) = end(&world, live).await;
    let names = log
        .lines()
        .find_map(|line| line.strip_prefix("knots.py ["))
        .expect("it said so");
    for present in [
        "AWS_LAMBDA_FUNCTION_NAME",
        "AWS_LAMBDA_RUNTIME_API",
        "AWS_REGION",
        "PATH",
        "TZ",
    ] {
        assert!(names.contains(&format!("\"{present}\"")), "{present}: {names}");
    }
    for absent in [
        "_HANDLER",
        "LAMBDA_TASK_ROOT",
        "AWS_EXECUTION_ENV",
        "AWS_LAMBDA_LOG_GROUP_NAME",
        "PYTHONPATH",
    ] {
        assert!(!names.contains(&format!("\"{absent}\"")), "{absent}: {names}");
    }
    assert!(log.contains("knots.py bowline /\n"), "{log}");
    world.backend.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_native_runtime_has_extensions_too() {
    let world = World::start(0);
    if python().is_none() {
        return;
    }
    let opt = world.code(&[("extensions/knots.py", format!("{PRELUDE}{FOLLOWER}").as_bytes())]);
    let bootstrap = format!(
        "{PRELUDE}\nwhile True:\n    status, fields, body = call('GET', '/2018-06-01/runtime/invocation/next')\n    call('POST', f\"/2018-06-01/runtime/invocation/{{fields['Lambda-Runtime-Aws-Request-Id']}}/response\", {{}}, body)\n"
    );
    let code = world.code(&[("bootstrap", bootstrap.as_bytes())]);
    let mut version = world.version(Runtime::ProvidedAl2023, "x", code);
    version.layers = Some(CodeDir {
        digest: Digest::of(opt.as_os_str().as_encoded_bytes()),
        path: opt,
    });
    let mut live = world.create(version).await.expect("it starts");
    assert_eq!(live.ask(json!({"knot": 1})).await, json!({"knot": 1}));
    assert!(live.sandbox.settle().await);
    let (log, _) = end(&world, live).await;
    assert!(log.ends_with("knots.py shutdown spindown\n"), "{log}");
    world.backend.shut_down().await;
}
