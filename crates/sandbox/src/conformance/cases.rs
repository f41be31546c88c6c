//! The cases of the suite, one function each, in the order a sandbox meets them.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use bowline_foundation::id::RequestId;
use serde_json::{Value, json};

use super::{Ability, Bench, Prober};
use crate::{CreateError, FunctionError, Outcome, Report};

/// How long past its deadline an invocation may take to come back, on a busy machine.
pub(super) const GRACE: Duration = Duration::from_secs(3);

/// An event comes back as sent.
pub async fn answers_events(bench: &Bench<'_>) {
    let mut live = bench.start(Prober::named("echo")).await;
    let value = json!({"text": "žluťoučký \u{1f980}\n", "numbers": [0, -1, 1.5], "nothing": null});
    let answer = live.ask_ok(json!({"do": "echo", "value": value})).await;
    assert_eq!(answer["value"], value);
    live.end().await;
}

/// An event and an answer of five megabytes pass.
pub async fn answers_large_events(bench: &Bench<'_>) {
    let mut live = bench.start(Prober::named("large").memory_mib(256)).await;
    let value = Value::from("Bowline ".repeat(5_000_000 / 8));
    let answer = live.ask_ok(json!({"do": "echo", "value": value})).await;
    assert_eq!(answer["value"].as_str().map(str::len), value.as_str().map(str::len));
    assert!(answer["value"] == value, "the large value changed on its way");
    live.end().await;
}

/// The handler learns its request id, deadline, ARN, client context and function name.
pub async fn tells_the_context(bench: &Bench<'_>) {
    let mut live = bench.start(Prober::named("context")).await;
    let mut invocation = live.invocation(&json!({"do": "context"}));
    invocation.client_context = Some(r#"{"custom":{"knot":"bowline"}}"#.to_owned());
    let (request_id, deadline) = (invocation.request_id, invocation.deadline);
    let invoked_arn = invocation.invoked_arn.clone();
    let report = live.sandbox.invoke(invocation).await;
    let answer = answer_of(&report);
    assert_eq!(answer["ok"], true, "{answer}");
    assert_eq!(answer["request_id"], request_id.as_str());
    assert_eq!(answer["deadline_ms"], deadline.wall.as_millis());
    assert_eq!(answer["invoked_arn"], invoked_arn.as_str());
    assert_eq!(answer["function_name"], "context");
    assert_eq!(answer["client_context"]["custom"]["knot"], "bowline");

    let answer = live.ask_ok(json!({"do": "context"})).await;
    assert_eq!(
        answer["client_context"],
        Value::Null,
        "left over from the invocation before"
    );
    live.end().await;
}

/// The owner's variables and Lambda's are set, and no others of the node.
pub async fn gives_the_environment(bench: &Bench<'_>) {
    let mut live = bench
        .start(Prober::named("environment").variable("COLOUR", "tyrian purple"))
        .await;
    for (name, value) in [
        ("COLOUR", json!("tyrian purple")),
        ("AWS_LAMBDA_FUNCTION_NAME", json!("environment")),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", json!("128")),
        ("CARGO_MANIFEST_DIR", Value::Null),
    ] {
        let answer = live.ask_ok(json!({"do": "read_env", "name": name})).await;
        assert_eq!(answer["value"], value, "{name}");
    }
    assert!(
        std::env::var_os("CARGO_MANIFEST_DIR").is_some(),
        "the control: the node itself has that variable"
    );
    live.end().await;
}

/// A second invocation meets the first one's state; another sandbox does not.
pub async fn reuses_a_warm_sandbox(bench: &Bench<'_>) {
    let mut live = bench.start(Prober::named("warm")).await;
    for expected in 1..=3 {
        assert!(live.sandbox.is_alive());
        let report = live.report(json!({"do": "count"})).await;
        assert!(report.reusable, "{report:?}");
        assert_eq!(answer_of(&report)["count"], expected);
        live.sandbox.idle().await;
    }
    let mut other = bench.start(Prober::named("warm")).await;
    assert_eq!(other.ask_ok(json!({"do": "count"})).await["count"], 1);
    live.end().await;
    other.end().await;
}

/// What a function prints reaches its own sink, whole.
pub async fn captures_the_log(bench: &Bench<'_>) {
    let mut live = bench.start(Prober::named("log")).await;
    let mut silent = bench.start(Prober::named("silent")).await;
    live.ask_ok(json!({"do": "log", "text": "a line of the log", "repeat": 1000}))
        .await;
    silent.ask_ok(json!({"do": "echo", "value": 1})).await;
    let (log, silence) = (live.log.clone(), silent.log.clone());
    live.end().await;
    silent.end().await;
    assert_eq!(log.text().matches("a line of the log\n").count(), 1000);
    assert_eq!(silence.text().matches("a line of the log").count(), 0);
}

/// A guest that takes more memory than its limit ends with a function error; the node does not.
pub async fn ends_a_memory_hog(bench: &Bench<'_>) {
    let mut live = bench.start(Prober::named("frugal")).await;
    live.ask_ok(json!({"do": "allocate", "mib": 48})).await;

    let mut hog = bench.start(Prober::named("hog")).await;
    let report = hog.report(json!({"do": "allocate", "mib": 400})).await;
    error_of(&report);
    assert!(!report.reusable, "{report:?}");
    hog.end().await;

    let mut roomy = bench.start(Prober::named("roomy").memory_mib(640)).await;
    roomy.ask_ok(json!({"do": "allocate", "mib": 400})).await;
    roomy.end().await;

    live.ask_ok(json!({"do": "echo", "value": 1})).await;
    live.end().await;
}

/// The report tells the peak of memory: at least what was touched, at most the limit.
pub async fn reports_the_peak_of_memory(bench: &Bench<'_>) {
    let mut live = bench.start(Prober::named("peak")).await;
    let report = live.report(json!({"do": "echo", "value": 1})).await;
    let before = report.usage.memory_bytes_max;
    let report = live.report(json!({"do": "allocate", "mib": 48})).await;
    assert_eq!(answer_of(&report)["ok"], true);
    let peak = report.usage.memory_bytes_max;
    assert!((48 << 20..=128 << 20).contains(&peak), "peak {peak}");
    assert!(before < 48 << 20, "the control: {before} before the allocation");
    live.end().await;
}

/// A guest that computes for ever ends at its deadline.
pub async fn ends_an_infinite_loop(bench: &Bench<'_>) {
    ends_at_the_deadline(bench, json!({"do": "spin"}), json!({"do": "spin", "ms": 200})).await;
}

/// A guest that waits for ever ends at its deadline.
pub async fn ends_a_guest_that_never_answers(bench: &Bench<'_>) {
    ends_at_the_deadline(bench, json!({"do": "answer_never"}), json!({"do": "sleep", "ms": 200})).await;
}

async fn ends_at_the_deadline(bench: &Bench<'_>, event: Value, in_time: Value) {
    let limit = Duration::from_millis(1200);
    let mut live = bench.start(Prober::named("late").timeout_ms(1200)).await;
    live.ask_ok(in_time).await;

    // First, for the deadline counts from the making of the invocation.
    let started = bench.clock.monotonic();
    let invocation = live.invocation(&event);
    let request_id = invocation.request_id;
    let report = live.sandbox.invoke(invocation).await;
    let took = bench.clock.monotonic().since(started);
    assert_timed_out(&report, request_id, limit);
    assert!(!report.reusable, "{report:?}");
    // The time runs from when the invocation was made, a little before it was handed over.
    let shortest = limit - Duration::from_millis(50);
    assert!((shortest..limit + GRACE).contains(&took), "came back after {took:?}");
    assert!(report.usage.duration >= shortest, "{report:?}");
    live.end().await;
}

fn assert_timed_out(report: &Report, request_id: RequestId, limit: Duration) {
    assert_eq!(
        report.outcome,
        Outcome::Failed(FunctionError::timed_out(request_id, limit))
    );
    let message = error_of(report).1["errorMessage"].to_string();
    assert!(message.contains("Task timed out after 1.20 seconds"), "{message}");
}

/// While one function computes without end, another one is answered.
pub async fn keeps_neighbours_going(bench: &Bench<'_>) {
    let mut quiet = bench.start(Prober::named("quiet")).await;
    quiet.ask_ok(json!({"do": "echo", "value": 0})).await;
    let mut busy = bench.start(Prober::named("busy").timeout_ms(1500)).await;
    let spin = busy.report(json!({"do": "spin"}));
    let ask = async {
        let mut answered = 0;
        let mut slowest = Duration::ZERO;
        let started = bench.clock.monotonic();
        while bench.clock.monotonic().since(started) < Duration::from_millis(1200) {
            let asked = bench.clock.monotonic();
            quiet.ask_ok(json!({"do": "echo", "value": answered})).await;
            slowest = slowest.max(bench.clock.monotonic().since(asked));
            answered += 1;
            tokio::task::yield_now().await;
        }
        (answered, slowest)
    };
    let (report, (answered, slowest)) = tokio::join!(spin, ask);
    error_of(&report);
    assert!(answered >= 20, "only {answered} answers beside a busy neighbour");
    assert!(slowest < Duration::from_millis(800), "an answer took {slowest:?}");
    busy.end().await;
    quiet.end().await;
}

/// `/tmp` takes what it is sized for and no more, and is private.
pub async fn bounds_tmp(bench: &Bench<'_>) {
    let mut live = bench.start(Prober::named("tmp").memory_mib(256)).await;
    if bench.lacks(Ability::Tmp) {
        live.ask_refused(json!({"do": "fill_tmp", "mib": 1})).await;
        return live.end().await;
    }
    live.ask_ok(json!({"do": "fill_tmp", "mib": 32})).await;
    live.ask_refused(json!({"do": "fill_tmp", "mib": 100})).await;
    live.ask_ok(json!({"do": "write_path", "path": "/tmp/mine", "text": "still room"}))
        .await;
    live.end().await;
}

/// The code is read-only: neither replaced nor joined by a new file.
pub async fn keeps_the_code_unwritten(bench: &Bench<'_>) {
    let mut live = bench.start(Prober::named("code")).await;
    let folder = live.version.code.path.clone();
    let before = listing(&folder);
    assert!(!before.is_empty(), "the code folder holds the prober");
    let names = before.iter().map(|(name, _)| name.as_str());
    for name in names.chain(["intruder"]) {
        let path = format!("/var/task/{name}");
        live.ask_refused(json!({"do": "write_path", "path": path, "text": "changed"}))
            .await;
    }
    assert_eq!(listing(&folder), before);
    if !bench.lacks(Ability::Tmp) {
        live.ask_ok(json!({"do": "write_path", "path": "/tmp/allowed", "text": "changed"}))
            .await;
    }
    live.end().await;
}

fn listing(folder: &Path) -> Vec<(String, u64)> {
    let entries = std::fs::read_dir(folder).expect("the code lies unpacked");
    let entries = entries.map(|entry| entry.expect("the folder is readable"));
    let mut files: Vec<_> = entries
        .map(|entry| {
            let bytes = entry.metadata().expect("the file is there").len();
            (entry.file_name().to_string_lossy().into_owned(), bytes)
        })
        .collect();
    files.sort();
    files
}

/// A function reads neither the node's files, nor another's code, nor another's `/tmp`.
pub async fn hides_the_files_of_others(bench: &Bench<'_>) {
    let folder = std::env::temp_dir().join(format!("bowline-conformance-{:016x}", bench.entropy.number()));
    std::fs::create_dir(&folder).expect("the node may write its own files");
    let secret = folder.join("secret");
    std::fs::write(&secret, "the node's secret").expect("the node may write its own files");

    let mut other = bench.start(Prober::named("owner")).await;
    let mut live = bench.start(Prober::named("reader")).await;
    live.ask_refused(json!({"do": "read_path", "path": secret})).await;
    live.ask_refused(json!({"do": "read_path", "path": "/tmp/private"}))
        .await;
    if let Some(answer) = bench.subject.outside(&json!({"do": "read_path", "path": secret})) {
        assert_eq!(answer["text"], "the node's secret", "the control: {answer}");
    }
    if !bench.lacks(Ability::Tmp) {
        other
            .ask_ok(json!({"do": "write_path", "path": "/tmp/private", "text": "a diary"}))
            .await;
        let read = json!({"do": "read_path", "path": "/tmp/private"});
        assert_eq!(other.ask_ok(read.clone()).await["text"], "a diary");
        live.ask_refused(read).await;
    }
    let text = std::fs::read_to_string(&secret).expect("the control: the node reads it");
    assert_eq!(text, "the node's secret");
    std::fs::remove_dir_all(&folder).expect("the folder is the case's own");
    live.end().await;
    other.end().await;
}

/// A function sees neither the processes nor the environment of the node or of another function.
pub async fn hides_the_environment_of_others(bench: &Bench<'_>) {
    let secret = format!("{:016x}", bench.entropy.number());
    let mut other = bench.start(Prober::named("owner").variable("SECRET", &secret)).await;
    let mut live = bench.start(Prober::named("reader")).await;
    let look = json!({"do": "find_in_proc", "needle": secret});
    if bench.lacks(Ability::Proc) {
        live.ask_refused(look).await;
    } else {
        assert_eq!(other.ask_ok(look.clone()).await["found"], true, "the control: its own");
        assert_eq!(live.ask_ok(look.clone()).await["found"], false);
        if let Some(answer) = bench.subject.outside(&look) {
            assert_eq!(answer["found"], true, "the control: {answer}");
        }
    }
    let answer = live.ask_ok(json!({"do": "read_env", "name": "SECRET"})).await;
    assert_eq!(answer["value"], Value::Null);
    live.end().await;
    other.end().await;
}

/// A function reaches no address of the node, nor any other.
pub async fn refuses_sockets(bench: &Bench<'_>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
    let address = listener.local_addr().expect("it is bound").to_string();
    let connect = json!({"do": "open_socket", "address": address});
    let mut live = bench.start(Prober::named("socket")).await;
    live.ask_refused(connect.clone()).await;
    if !bench.lacks(Ability::Sockets)
        && let Some(answer) = bench.subject.outside(&connect)
    {
        assert_eq!(answer["ok"], true, "the control: {answer}");
    }
    std::net::TcpStream::connect(&address).expect("the control: the node itself connects");
    live.end().await;
}

/// A function traces no process, not even its own child.
pub async fn refuses_ptrace(bench: &Bench<'_>) {
    refuses(bench, Ability::Ptrace, json!({"do": "ptrace"})).await;
}

/// A function mounts nothing.
pub async fn refuses_mounting(bench: &Bench<'_>) {
    refuses(bench, Ability::Mount, json!({"do": "mount"})).await;
}

async fn refuses(bench: &Bench<'_>, ability: Ability, event: Value) {
    let mut live = bench.start(Prober::named("refused")).await;
    live.ask_refused(event.clone()).await;
    live.ask_ok(json!({"do": "echo", "value": 1})).await;
    live.end().await;
    if !bench.lacks(ability)
        && let Some(answer) = bench.subject.outside(&event)
    {
        assert_eq!(answer["ok"], true, "the control: {answer}");
    }
}

/// A fork bomb stops at the limit, and the node goes on.
pub async fn bounds_processes(bench: &Bench<'_>) {
    let mut live = bench
        .start(Prober::named("forks").memory_mib(512).timeout_ms(60_000))
        .await;
    if bench.lacks(Ability::Fork) {
        live.ask_refused(json!({"do": "fork_bomb", "processes": 1})).await;
        return live.end().await;
    }
    live.ask_ok(json!({"do": "fork_bomb", "processes": 4})).await;
    let report = live.report(json!({"do": "fork_bomb", "processes": 20_000})).await;
    match &report.outcome {
        Outcome::Success(_) => {
            let answer = answer_of(&report);
            assert_eq!(answer["ok"], false, "{answer}");
            assert!(
                answer["started"].as_u64().is_some_and(|started| started <= 1100),
                "{answer}"
            );
        }
        Outcome::Failed(_) => assert!(!report.reusable, "{report:?}"),
        Outcome::Broken(text) => panic!("the platform broke: {text}"),
        Outcome::Suspended(_) => panic!("nobody has asked it to leave"),
    }
    live.end().await;
    let mut next = bench.start(Prober::named("forks")).await;
    next.ask_ok(json!({"do": "echo", "value": 1})).await;
    next.end().await;
}

/// Of two answers the first counts, and the second never reaches the next caller.
pub async fn takes_the_first_of_two_answers(bench: &Bench<'_>) {
    let mut live = bench.start(Prober::named("twice")).await;
    if bench.lacks(Ability::AnswerTwice) {
        live.ask_refused(json!({"do": "answer_twice"})).await;
        return live.end().await;
    }
    let report = live.report(json!({"do": "answer_twice"})).await;
    assert_eq!(answer_of(&report), json!({"ok": true, "answer": 1}));
    if report.reusable {
        let answer = live.ask_ok(json!({"do": "echo", "value": "mine"})).await;
        assert_eq!(answer["value"], "mine");
    }
    live.end().await;
}

/// An answer over the limit becomes an error; one just inside passes.
pub async fn refuses_seven_megabytes(bench: &Bench<'_>) {
    let bytes = 6 * 1024 * 1024;
    let mut live = bench.start(Prober::named("output").memory_mib(256)).await;
    let report = live.report(json!({"do": "output_bytes", "bytes": bytes})).await;
    assert_eq!(answer_of(&report).as_str().map(str::len), Some(bytes - 2));

    let report = live.report(json!({"do": "output_bytes", "bytes": 7_000_000})).await;
    let (error_type, payload) = error_of(&report);
    assert_eq!(error_type, "Function.ResponseSizeTooLarge", "{payload}");
    let message = payload["errorMessage"].to_string();
    assert!(message.contains("exceeded maximum allowed payload size"), "{message}");
    live.end().await;
}

/// A program that dies before its first event is a function error of the creation, and can start later.
pub async fn survives_death_in_init(bench: &Bench<'_>) {
    for how in ["exit", "crash"] {
        let born_dead = bench
            .try_start(Prober::named("stillborn").variable("PROBER_INIT", how))
            .await;
        match born_dead.map(|_| ()) {
            Err(CreateError::Init(error)) => {
                let payload: Value = serde_json::from_slice(&error.payload).expect("the error is JSON");
                assert!(payload["errorMessage"].is_string(), "{how}: {payload}");
            }
            other => panic!("{how}: the creation should fail in init, but: {other:?}"),
        }
    }
    assert_eq!(bench.traces_left().await, Vec::<String>::new());
    let mut live = bench.start(Prober::named("stillborn")).await;
    live.ask_ok(json!({"do": "echo", "value": 1})).await;
    live.end().await;
}

/// A slow initialisation is waited for, inside the creation.
pub async fn waits_for_slow_init(bench: &Bench<'_>) {
    let started = bench.clock.monotonic();
    let mut live = bench
        .start(Prober::named("sleepy").variable("PROBER_INIT", "sleep:700"))
        .await;
    live.ask_ok(json!({"do": "echo", "value": 1})).await;
    assert!(bench.clock.monotonic().since(started) >= Duration::from_millis(700));
    live.end().await;
}

/// A program that dies while it works is a function error, and a new sandbox serves the next event.
pub async fn survives_death_in_the_middle(bench: &Bench<'_>) {
    for event in [json!({"do": "exit", "code": 3}), json!({"do": "crash"})] {
        let mut live = bench.start(Prober::named("mortal")).await;
        live.ask_ok(json!({"do": "echo", "value": 1})).await;
        let report = live.report(event.clone()).await;
        let (error_type, payload) = error_of(&report);
        assert_eq!(error_type, "Runtime.ExitError", "{event}: {payload}");
        assert!(!report.reusable, "{event}");
        live.end().await;
        let mut next = bench.start(Prober::named("mortal")).await;
        assert_eq!(next.ask_ok(json!({"do": "count"})).await["count"], 1);
        next.end().await;
    }
}

/// An error that the handler returns reaches the caller whole, and the sandbox serves on.
pub async fn passes_handler_errors_on(bench: &Bench<'_>) {
    let mut live = bench.start(Prober::named("errors")).await;
    let event = json!({"do": "fail", "type": "KnotError", "message": "the knot \"slipped\""});
    let report = live.report(event).await;
    let (error_type, payload) = error_of(&report);
    assert_eq!(error_type, "KnotError");
    assert_eq!(payload["errorType"], "KnotError");
    assert_eq!(payload["errorMessage"], "the knot \"slipped\"");
    assert!(payload["stackTrace"].is_array(), "{payload}");
    assert!(report.reusable);
    assert_eq!(live.ask_ok(json!({"do": "count"})).await["count"], 2);
    live.end().await;
}

/// When the caller's future is dropped the guest ends, though it would have run on.
pub async fn ends_a_guest_whose_caller_left(bench: &Bench<'_>) {
    for event in [json!({"do": "spin"}), json!({"do": "answer_never"})] {
        let mut live = bench.start(Prober::named("abandoned").timeout_ms(600_000)).await;
        let left = tokio::time::timeout(Duration::from_millis(300), live.report(event.clone())).await;
        assert!(left.is_err(), "{event} came back: {left:?}");
        let ended = tokio::time::timeout(GRACE, live.end()).await;
        assert!(ended.is_ok(), "{event}: destroying takes too long");
        assert_eq!(bench.traces_left().await, Vec::<String>::new(), "{event}");
    }
}

/// A destroyed sandbox leaves nothing on the host, whatever it did.
pub async fn leaves_nothing_behind(bench: &Bench<'_>) {
    let mut live = bench.start(Prober::named("tidy")).await;
    assert_ne!(
        bench.subject.traces(),
        Vec::<String>::new(),
        "the control: a living sandbox shows"
    );
    if !bench.lacks(Ability::Tmp) {
        live.ask_ok(json!({"do": "write_path", "path": "/tmp/rubbish", "text": "x"}))
            .await;
    }
    live.ask_ok(json!({"do": "allocate", "mib": 8})).await;
    live.end().await;
    assert_eq!(bench.traces_left().await, Vec::<String>::new());
    let idle = bench.start(Prober::named("unused")).await;
    idle.end().await;
    assert_eq!(bench.traces_left().await, Vec::<String>::new());
}

fn answer_of(report: &Report) -> Value {
    match &report.outcome {
        Outcome::Success(answer) => serde_json::from_slice(answer).expect("the prober answers JSON"),
        other => panic!("there should be an answer, but: {other:?}"),
    }
}

pub(super) fn error_of(report: &Report) -> (&str, Value) {
    match &report.outcome {
        Outcome::Failed(error) => {
            let payload = serde_json::from_slice(&error.payload).expect("an error's payload is JSON");
            (&error.error_type, payload)
        }
        other => panic!("there should be a function error, but: {other:?}"),
    }
}
