//! Commands, components and odd modules, which the common suite does not know.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::Clock;
use bowline_foundation::digest::Digest;
use bowline_foundation::entropy::Entropy;
use bowline_foundation::id::{AccountId, RequestId};
use bowline_foundation::units::Mebibytes;
use bowline_sandbox::{
    Backend, CodeDir, CreateError, Deadline, Invocation, MemoryLog, Outcome, PrepareError, Report, Runtime, Sandbox,
    SandboxKind, VersionSpec,
};
use bowline_sandbox_wasm::{Options, WasmBackend};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::build;

/// A backend with a cache of its own, and one version.
pub struct Bench {
    pub backend: WasmBackend,
    pub version: Arc<VersionSpec>,
    log: Arc<MemoryLog>,
    clock: Clock,
    folder: TempDir,
}

impl Bench {
    pub fn new(module: &[u8], slots: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let code = folder.path().join("task");
        std::fs::create_dir(&code).unwrap();
        std::fs::write(code.join("bootstrap.wasm"), module).unwrap();
        let clock = Clock::system();
        let mut options = Options::new(clock.clone(), folder.path().join("cache"));
        options.slots = slots;
        let version = VersionSpec {
            account: AccountId::default_account(),
            region: "us-east-1".to_owned(),
            function: "guest".to_owned(),
            version: "7".to_owned(),
            runtime: Runtime::ProvidedAl2023,
            handler: String::new(),
            code: CodeDir {
                digest: Digest::of(module),
                path: code,
            },
            layers: None,
            image: None,
            kind: SandboxKind::Wasm,
            memory: Mebibytes(128),
            ephemeral_storage: Mebibytes(512),
            timeout: Duration::from_secs(2),
            environment: BTreeMap::from([("GREETING".to_owned(), "ahoy".to_owned())]),
            logging: bowline_sandbox::Logging::default(),
            mounts: Vec::new(),
            processors: None,
        };
        Self {
            backend: WasmBackend::new(options).unwrap(),
            version: Arc::new(version),
            log: Arc::default(),
            clock,
            folder,
        }
    }

    pub fn of_text(text: &str) -> Self {
        Self::new(&wat::parse_str(text).unwrap(), 20)
    }

    pub async fn create(&self) -> Result<Box<dyn Sandbox>, CreateError> {
        self.backend.create(self.version.clone(), self.log.clone()).await
    }

    pub async fn start(&self) -> Box<dyn Sandbox> {
        self.backend.prepare(&self.version).await.unwrap();
        self.create().await.unwrap()
    }

    pub fn invocation(&self, event: &Value) -> Invocation {
        let budget = self.version.timeout;
        Invocation {
            request_id: RequestId::random(&Entropy::seeded(5)),
            payload: event.to_string().into(),
            deadline: Deadline {
                wall: self.clock.now().after(budget),
                monotonic: self.clock.monotonic().after(budget),
                budget,
            },
            invoked_arn: "arn:aws:lambda:us-east-1:000000000000:function:guest".to_owned(),
            client_context: None,
            trace_id: None,
            sink: None,
            platform: None,
            suspension: None,
        }
    }

    async fn invoke(&self, sandbox: &mut Box<dyn Sandbox>, event: Value) -> Report {
        sandbox.invoke(self.invocation(&event)).await
    }

    /// The outcome of one invocation in a sandbox of its own.
    async fn outcome(&self, event: Value) -> Outcome {
        let mut sandbox = self.start().await;
        let report = self.invoke(&mut sandbox, event).await;
        sandbox.destroy().await;
        assert_eq!(self.backend.live_instances(), 0);
        report.outcome
    }
}

pub fn answer(outcome: &Outcome) -> Value {
    match outcome {
        Outcome::Success(answer) => serde_json::from_slice(answer).unwrap(),
        other => panic!("there should be an answer, but: {other:?}"),
    }
}

pub fn error(outcome: &Outcome) -> (&str, String) {
    match outcome {
        Outcome::Failed(error) => {
            let payload: Value = serde_json::from_slice(&error.payload).unwrap();
            (&error.error_type, payload["errorMessage"].as_str().unwrap().to_owned())
        }
        other => panic!("there should be an error, but: {other:?}"),
    }
}

/// A command that writes `text` so many times, then does `end`.
pub fn writer(times: u32, text: &str, end: &str) -> String {
    format!(
        r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (data (i32.const 64) "{text}")
        (func (export "_start") (local $left i32)
            (i32.store (i32.const 0) (i32.const 64))
            (i32.store (i32.const 4) (i32.const {length}))
            (local.set $left (i32.const {times}))
            (loop $again
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
                (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
            {end}))"#,
        length = text.len(),
    )
}

#[tokio::test]
async fn a_command_answers_on_standard_output() {
    let module = build::wasm("examples/rust-command", "wasm32-wasip1", "rust-command.wasm");
    let bench = Bench::new(&module, 20);
    let mut sandbox = bench.start().await;
    for name in ["knot", "rope"] {
        let report = bench.invoke(&mut sandbox, json!({"name": name})).await;
        assert_eq!(answer(&report.outcome), json!({"message": format!("hello, {name}")}));
        assert!(report.reusable && report.usage.memory_bytes_max > 0, "{report:?}");
    }
    assert_eq!(bench.backend.live_instances(), 0, "an instance outlived its invocation");

    let mut invocation = bench.invocation(&json!(null));
    invocation.payload = "no JSON".into();
    let report = sandbox.invoke(invocation).await;
    let (error_type, message) = error(&report.outcome);
    assert_eq!(error_type, "Runtime.ExitError");
    assert!(message.ends_with("exit status 1"), "{message}");
    assert!(bench.log.text().contains("expected"), "{}", bench.log.text());
}

#[tokio::test]
async fn a_command_ends_by_its_status() {
    let outcome = |end: &'static str| async move { Bench::of_text(&writer(1, "42", end)).outcome(json!(1)).await };
    assert_eq!(answer(&outcome("").await), 42);
    assert_eq!(answer(&outcome("(call $exit (i32.const 0))").await), 42);
    let failed = outcome("(call $exit (i32.const 3))").await;
    assert!(error(&failed).1.ends_with("exit status 3"), "{failed:?}");
    let trapped = outcome("unreachable").await;
    assert!(error(&trapped).1.contains("unreachable"), "{trapped:?}");
    let late = outcome("(loop $for_ever (br $for_ever))").await;
    assert!(error(&late).1.contains("Task timed out after 2.00 seconds"), "{late:?}");
}

#[tokio::test]
async fn a_command_s_output_is_limited() {
    let kilobyte = "1".repeat(1000);
    let outcome = |times| {
        let bench = Bench::of_text(&writer(times, &kilobyte, ""));
        async move { bench.outcome(json!(1)).await }
    };
    match outcome(6_000).await {
        Outcome::Success(answer) => assert_eq!(answer.len(), 6_000_000),
        other => panic!("{other:?}"),
    }
    let large = outcome(7_000).await;
    let (error_type, message) = error(&large);
    assert_eq!(error_type, "Function.ResponseSizeTooLarge");
    assert!(message.contains("7000000 bytes"), "{message}");
}

#[tokio::test]
async fn an_unchanged_http_component_serves_events() {
    let module = build::wasm("examples/rust-http", "wasm32-wasip2", "rust_http.wasm");
    let bench = Bench::new(&module, 20);
    let event = |method: &str, path: &str, body: &str| {
        json!({
            "version": "2.0", "rawPath": path, "rawQueryString": "a=1", "headers": {"accept": "*/*"}, "body": body,
            "isBase64Encoded": false, "requestContext": {"http": {"method": method, "path": path}},
        })
    };
    let mut sandbox = bench.start().await;
    let report = bench.invoke(&mut sandbox, event("PUT", "/knots", "a rope")).await;
    let expected = json!({
        "statusCode": 200, "headers": {"content-type": "text/plain"}, "cookies": ["visited=yes"],
        "body": "PUT /knots?a=1\na rope", "isBase64Encoded": false,
    });
    assert_eq!(answer(&report.outcome), expected);
    assert!(report.reusable);

    let report = bench.invoke(&mut sandbox, event("GET", "/missing", "")).await;
    assert_eq!(answer(&report.outcome)["statusCode"], 404);
    let long = "x".repeat(300_000);
    let report = bench.invoke(&mut sandbox, event("POST", "/", &long)).await;
    let body = answer(&report.outcome)["body"].as_str().unwrap().len();
    assert_eq!(body, "POST /?a=1\n".len() + long.len());
    let report = bench.invoke(&mut sandbox, json!({"name": "knot"})).await;
    assert_eq!(answer(&report.outcome)["body"], "POST /\n{\"name\":\"knot\"}");
    sandbox.destroy().await;
    assert_eq!(bench.backend.live_instances(), 0);
}

#[tokio::test]
async fn a_reactor_stays_warm_and_a_panic_reaches_the_caller() {
    let module = build::wasm("examples/rust-hello", "wasm32-wasip1", "rust_hello.wasm");
    let bench = Bench::new(&module, 20);
    let mut sandbox = bench.start().await;
    for served in 1..=2 {
        let report = bench.invoke(&mut sandbox, json!({"name": "knot"})).await;
        assert_eq!(
            answer(&report.outcome),
            json!({"message": "hello, knot", "served": served})
        );
    }
    let report = bench.invoke(&mut sandbox, json!({"name": ""})).await;
    assert_eq!(error(&report.outcome), ("NobodyThere", "`name` is empty".to_owned()));
    assert!(report.reusable);

    let bench = Bench::new(&build::prober(), 20);
    let mut sandbox = bench.start().await;
    let report = bench
        .invoke(&mut sandbox, json!({"do": "panic", "message": "the rope broke"}))
        .await;
    assert_eq!(error(&report.outcome), ("Runtime.Panic", "the rope broke".to_owned()));
    assert!(!report.reusable && !sandbox.is_alive());
    assert!(bench.log.text().contains("the rope broke"));
}

#[tokio::test]
async fn a_reactor_that_breaks_the_interface_harms_itself_alone() {
    let module = |reserve: &str, invoke: &str| {
        format!(
            r#"(module (memory (export "memory") 1)
                (func (export "bowline_v1_reserve") (param i32) (result i32) {reserve})
                (func (export "bowline_v1_invoke") (param i32) (result i64) {invoke}))"#
        )
    };
    let good = Bench::of_text(&module("i32.const 8", "i64.const 0x0000_0008_0000_0000"));
    assert_eq!(good.outcome(json!(1)).await, Outcome::Success("".into()));
    for (reserve, invoke) in [
        ("i32.const -8", "i64.const 0"),
        ("i32.const 65530", "i64.const 0"),
        ("i32.const 8", "i64.const 0xffff_ffff_0000_0010"),
        ("i32.const 8", "unreachable"),
    ] {
        let outcome = Bench::of_text(&module(reserve, invoke)).outcome(json!(1)).await;
        assert_eq!(error(&outcome).0, "Runtime.ExitError", "{reserve} {invoke}");
    }
    let wrapped = Bench::of_text(&module("i32.const 8", "i64.const 0x0000_0008_8000_0004"));
    assert_eq!(error(&wrapped.outcome(json!(1)).await).0, "Runtime.UnknownReason");
}

#[tokio::test]
async fn code_that_cannot_run_is_refused_before_it_is_active() {
    let check = |bench: Bench, part: &'static str| async move {
        match bench.backend.prepare(&bench.version).await {
            Err(PrepareError::InvalidCode(text)) => assert!(text.contains(part), "{text}"),
            other => panic!("{part}: {other:?}"),
        }
        let cache = std::fs::read_dir(bench.folder.path().join("cache")).unwrap();
        assert_eq!(cache.count(), 0, "something was left behind");
    };
    check(Bench::new(b"#!/bin/sh", 20), "does not begin with").await;
    check(Bench::of_text("(module)"), "neither `_start`").await;
    let wrong_type = r#"(module (import "wasi_snapshot_preview1" "fd_write" (func (param i64)))
        (memory (export "memory") 1) (func (export "_start")))"#;
    check(Bench::of_text(wrong_type), "cannot be run here").await;
    let huge_table = r#"(module (table 1000000 funcref) (memory (export "memory") 1) (func (export "_start")))"#;
    check(Bench::of_text(huge_table), "cannot be run here").await;
    let bench = Bench::of_text("(module)");
    std::fs::remove_file(bench.version.code.path.join("bootstrap.wasm")).unwrap();
    check(bench, "holds no `bootstrap.wasm`").await;
}

#[tokio::test]
async fn a_full_pool_is_told_from_a_failure() {
    let module = build::wasm("examples/rust-hello", "wasm32-wasip1", "rust_hello.wasm");
    let bench = Bench::new(&module, 2);
    let (first, _second) = (bench.start().await, bench.start().await);
    match bench.create().await.map(|_| ()) {
        Err(CreateError::Exhausted(_)) => {}
        other => panic!("{other:?}"),
    }
    first.destroy().await;
    assert!(bench.create().await.is_ok(), "the slot is free again");
}

#[tokio::test]
async fn garbage_is_what_no_version_uses() {
    let bench = Bench::of_text(&writer(1, "42", ""));
    assert!(
        matches!(bench.create().await, Err(CreateError::Backend(_))),
        "not prepared"
    );
    bench.start().await.destroy().await;
    let files = || std::fs::read_dir(bench.folder.path().join("cache")).unwrap().count();
    bench.backend.collect_garbage(&[bench.version.code.digest]).await;
    assert_eq!(files(), 1);
    assert!(bench.create().await.is_ok());
    bench.backend.collect_garbage(&[]).await;
    assert_eq!(files(), 0);
    assert!(matches!(bench.create().await, Err(CreateError::Backend(_))), "unmapped");
}

#[tokio::test]
async fn a_module_compiled_before_a_restart_is_not_compiled_again() {
    let bench = Bench::of_text(&writer(1, "42", ""));
    bench.backend.prepare(&bench.version).await.unwrap();
    // Without its source the module could not be compiled again.
    std::fs::remove_file(bench.version.code.path.join("bootstrap.wasm")).unwrap();
    let options = Options::new(bench.clock.clone(), bench.folder.path().join("cache"));
    let restarted = Bench {
        backend: WasmBackend::new(options).unwrap(),
        ..bench
    };
    assert_eq!(answer(&restarted.outcome(json!(1)).await), 42);
}
