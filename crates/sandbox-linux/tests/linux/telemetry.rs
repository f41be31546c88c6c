//! Telemetry as it arrives at listeners inside real sandboxes.

use std::collections::BTreeMap;

use bowline_sandbox::{Backend, Runtime};
use serde_json::{Value, json};

use crate::clients::build_fixture;
use crate::extensions::{version, with_opt};
use crate::harness::{Live, World};

/// An extension that subscribes and prints each record it gets, one a line.
const LISTENER: &str = r#"
class Listener(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_):
        pass
    def do_POST(self):
        records = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        for record in records:
            say("got", json.dumps(record))
        status = STATUSES.pop(0) if STATUSES else 200
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()
def listen_http():
    server = http.server.ThreadingHTTPServer(("sandbox.localdomain", 8080), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return {"protocol": "HTTP", "URI": "http://sandbox.localdomain:8080"}
def listen_tcp():
    server = socket.create_server(("127.0.0.1", 8081))
    def serve():
        for line in server.accept()[0].makefile():
            say("got", line.strip())
    threading.Thread(target=serve, daemon=True).start()
    return {"protocol": "TCP", "port": 8081}
def subscribe(me, path, schema, types, destination):
    body = {"schemaVersion": schema, "types": types, "destination": destination, "buffering": {"timeoutMs": 25}}
    status, headers, body = call("PUT", path, me, json.dumps(body))
    assert (status, body) == (200, '"OK"'), body
STATUSES = []
"#;

/// The records that extension `name` got, by type.
fn records(log: &str, name: &str) -> BTreeMap<String, Vec<Value>> {
    let mut all = BTreeMap::<_, Vec<_>>::new();
    let prefix = format!("{name} got ");
    for line in log.lines().filter_map(|line| line.strip_prefix(&prefix)) {
        let record: Value = serde_json::from_str(line).expect("records are JSON");
        let kind = record["type"].as_str().expect("a type").to_owned();
        assert!(
            record["time"].as_str().is_some_and(|time| time.ends_with('Z')),
            "{record}"
        );
        all.entry(kind).or_default().push(record["record"].clone());
    }
    all
}

async fn run(world: &World, name: &str, text: &str, handler: &str) -> Option<(String, Vec<String>)> {
    let version = version(world, handler, &[(name, &format!("{LISTENER}{text}"))])?;
    let mut live = world.create(version).await.expect("it starts");
    let mut ids = Vec::new();
    for _ in 0..2 {
        let answer = live.ask(json!({})).await;
        ids.push(answer["id"].as_str().expect("an id").to_owned());
        assert!(live.sandbox.settle().await, "{}", live.log.text());
        // What was told just before is sent when it moves again, at the latest when it ends.
        live.sandbox.idle().await;
    }
    let Live { sandbox, log, .. } = live;
    sandbox.destroy().await;
    Some((log.text(), ids))
}

#[tokio::test(flavor = "multi_thread")]
async fn records_arrive_over_http() {
    let world = World::start(1);
    let text = "me = register(['INVOKE', 'SHUTDOWN'])\nsubscribe(me, '/2022-07-01/telemetry', '2022-12-13', ['platform', 'function'], listen_http())\nfollow(me)\n";
    let Some((log, ids)) = run(&world, "ear.py", text, "app.answer").await else {
        return;
    };
    assert!(
        log.contains("TELEMETRY\tName: ear.py\tState: Subscribed\tTypes: [Platform, Function]\n"),
        "{log}"
    );
    let all = records(&log, "ear.py");
    for kind in ["platform.initStart", "platform.initRuntimeDone", "platform.initReport"] {
        assert_eq!(all[kind].len(), 1, "{kind}: {log}");
        assert_eq!(all[kind][0]["initializationType"], "on-demand");
    }
    assert_eq!(all["platform.initStart"][0]["functionName"], "subject");
    assert_eq!(all["platform.initReport"][0]["status"], "success");
    let extension = json!({"name": "ear.py", "state": "Ready", "events": ["INVOKE", "SHUTDOWN"]});
    assert_eq!(all["platform.extension"], [extension]);
    let subscription = json!({"name": "ear.py", "state": "Subscribed", "types": ["platform", "function"]});
    assert_eq!(all["platform.telemetrySubscription"], [subscription]);
    for kind in ["platform.start", "platform.runtimeDone", "platform.report"] {
        let of: Vec<_> = all[kind]
            .iter()
            .map(|record| record["requestId"].as_str().expect("an id"))
            .collect();
        assert_eq!(of, ids, "{kind}: {log}");
    }
    assert_eq!(all["platform.start"][0]["version"], "$LATEST");
    assert_eq!(all["platform.runtimeDone"][0]["status"], "success");
    let metrics = &all["platform.report"][0]["metrics"];
    assert_eq!(metrics["memorySizeMB"], 256);
    assert!(
        metrics["initDurationMs"].is_number() && metrics["maxMemoryUsedMB"].is_number(),
        "{metrics}"
    );
    assert_eq!(all["platform.report"][1]["metrics"]["initDurationMs"], Value::Null);
    assert_eq!(all["function"], ["the function ran", "the function ran"]);
    assert!(!all.contains_key("extension"), "{log}");
    world.backend.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_arrive_over_tcp_as_the_older_api_says_them() {
    let world = World::start(0);
    let text = "me = register(['INVOKE', 'SHUTDOWN'])\nsubscribe(me, '/2020-08-15/logs', '2021-03-18', ['platform', 'function'], listen_tcp())\nfollow(me)\n";
    let Some((log, ids)) = run(&world, "ear.py", text, "app.answer").await else {
        return;
    };
    let all = records(&log, "ear.py");
    for kind in [
        "platform.start",
        "platform.runtimeDone",
        "platform.end",
        "platform.report",
    ] {
        let of: Vec<_> = all[kind]
            .iter()
            .map(|record| record["requestId"].as_str().expect("an id"))
            .collect();
        assert_eq!(of, ids, "{kind}: {log}");
    }
    assert_eq!(all["platform.logsSubscription"][0]["state"], "Subscribed");
    assert!(!all.contains_key("platform.initStart"), "{log}");
    assert_eq!(all["function"].len(), 2);
    world.backend.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_listener_refuses_comes_again() {
    let world = World::start(0);
    let text = "STATUSES = [500, 503]\nme = register(['INVOKE', 'SHUTDOWN'])\nsubscribe(me, '/2022-07-01/telemetry', '2022-07-01', ['platform'], listen_http())\nfollow(me)\n";
    let Some((log, _)) = run(&world, "ear.py", text, "app.answer").await else {
        return;
    };
    let all = records(&log, "ear.py");
    assert_eq!(all["platform.initStart"].len(), 3, "twice refused, once taken: {log}");
    world.backend.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn extensions_hear_what_extensions_print() {
    let world = World::start(0);
    let ear = "me = register(['SHUTDOWN'])\nheard = []\ndef say(*words):\n    heard.append(words)\nsubscribe(me, '/2022-07-01/telemetry', '2022-07-01', ['extension'], listen_http())\nwhile following(me)['eventType'] != 'SHUTDOWN':\n    pass\nfor words in heard:\n    print(NAME, *words)\n";
    let mouth = "say('early')\nfollow(register(['INVOKE', 'SHUTDOWN']))\n";
    let extensions = [("ear.py", format!("{LISTENER}{ear}")), ("mouth.py", mouth.to_owned())];
    let extensions = extensions.each_ref().map(|(name, text)| (*name, text.as_str()));
    let Some(version) = version(&world, "app.answer", &extensions) else {
        return;
    };
    let mut live = world.create(version).await.expect("it starts");
    let answer = live.ask(json!({})).await;
    assert!(live.sandbox.settle().await);
    let Live { sandbox, log, .. } = live;
    sandbox.destroy().await;
    let all = records(&log.text(), "ear.py");
    let said = format!("mouth.py invoke {}", answer["id"].as_str().expect("an id"));
    let lines: Vec<_> = all["extension"]
        .iter()
        .map(|line| line.as_str().expect("a text"))
        .collect();
    assert_eq!(lines[..2], ["mouth.py early", &said], "{}", log.text());
    assert_eq!(all.len(), 1, "nothing else was asked for: {all:?}");
    world.backend.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_is_not_there_holds_nobody_up() {
    let world = World::start(0);
    let text = "me = register(['INVOKE', 'SHUTDOWN'])\nsubscribe(me, '/2022-07-01/telemetry', '2022-07-01', ['platform', 'function'], {'protocol': 'HTTP', 'URI': 'http://sandbox:7'})\nfollow(me)\n";
    let Some((log, ids)) = run(&world, "ear.py", text, "app.answer").await else {
        return;
    };
    assert_eq!(ids.len(), 2);
    assert!(log.ends_with("ear.py shutdown spindown\n"), "{log}");
    world.backend.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_public_rust_extension_works_unchanged() {
    let Some(program) = build_fixture("public-extension") else {
        return;
    };
    let world = World::start(0);
    // One program under two names hears telemetry, and logs by the older API.
    let files = ["extensions/hears-telemetry", "extensions/logs"].map(|name| (name, program.as_slice()));
    let Some(version) = with_opt(&world, "app.answer", world.code(&files)) else {
        return;
    };
    let mut live = world.create(version).await.expect("it starts");
    let answer = live.ask(json!({})).await;
    let id = answer["id"].as_str().expect("an id");
    assert!(live.sandbox.settle().await, "{}", live.log.text());
    let Live { sandbox, log, .. } = live;
    sandbox.destroy().await;
    let log = log.text();
    let expected = [
        "public account 000000000000\n".to_owned(),
        format!("public invoke {id} Root=1-5759e988-bd862e3fe1be46a994272793\n"),
        "public telemetry {\"type\":\"platform.initReport\"".to_owned(),
        "public telemetry {\"type\":\"function\",\"record\":\"the function ran\"}\n".to_owned(),
        format!("public log PlatformEnd {{ request_id: \"{id}\" }}\n"),
        "public log Function(\"the function ran\")\n".to_owned(),
    ];
    for text in expected {
        assert!(log.contains(&text), "`{text}` is not in {log}");
    }
    for kind in ["platform.start", "platform.runtimeDone", "platform.report"] {
        let text = format!("public telemetry {{\"type\":\"{kind}\",\"record\":{{\"requestId\":\"{id}\"");
        assert!(log.contains(&text), "{kind}: {log}");
    }
    assert_eq!(log.matches("public shutdown spindown\n").count(), 2, "{log}");
    world.backend.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_public_rust_client_shuts_down_gracefully() {
    let Some(program) = build_fixture("public-extension") else {
        return;
    };
    let world = World::start(0);
    let code = world.code(&[("bootstrap", &program)]);
    let version = world.version(Runtime::ProvidedAl2023, "bootstrap", code);
    let mut live = world.create(version).await.expect("it starts");
    for knot in ["bowline", "sheet bend"] {
        assert_eq!(live.ask(json!({"knot": knot})).await, json!({"knot": knot}));
        assert!(live.sandbox.settle().await, "{}", live.log.text());
    }
    let Live { sandbox, log, .. } = live;
    sandbox.destroy().await;
    let log = log.text();
    assert!(log.contains("public goodbye\n"), "{log}");
    assert!(log.ends_with("[runtime] Graceful shutdown completed\n"), "{log}");
    world.backend.shut_down().await;
}
