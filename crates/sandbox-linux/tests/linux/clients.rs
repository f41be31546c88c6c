//! The clients that the binary carries, and the public ones, each with real interpreters.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bowline_sandbox::{Runtime, VersionSpec};
use serde_json::{Value, json};

use crate::harness::{World, node, python};

/// A file's name and content.
type File<'a> = (&'a str, &'a [u8]);

const PYTHON_HANDLERS: &str = r#"
import decimal, json, logging, os, sys
def echo(event, context):
    return event
def about(event, context):
    print("printed")
    logging.getLogger().warning("logged")
    remaining = context.get_remaining_time_in_millis()
    return {
        "name": context.function_name, "memory": context.memory_limit_in_mb, "arn": context.invoked_function_arn,
        "group": context.log_group_name, "remaining": 0 < remaining <= 20000, "cwd": os.getcwd(),
        "first": sys.path[0], "trace": os.environ["_X_AMZN_TRACE_ID"], "number": decimal.Decimal("1.5"),
        "credentials": [name for name in os.environ if "SECRET" in name or "TOKEN" in name],
    }
def fail(event, context):
    raise ValueError("no such knot: \u017elu\u0165")
def unserialisable(event, context):
    return object()
def leave(event, context):
    sys.exit(4)
"#;

async fn python_function(world: &World, handler: &str, source: &str) -> Option<VersionSpec> {
    let code = world.code(&[
        ("app.py", source.as_bytes()),
        ("nested/deep.py", PYTHON_HANDLERS.as_bytes()),
    ]);
    Some(world.version(python()?, handler, code))
}

#[tokio::test(flavor = "multi_thread")]
async fn python_handlers_get_their_context() {
    let world = World::start(0);
    let Some(version) = python_function(&world, "app.about", PYTHON_HANDLERS).await else {
        return;
    };
    let mut live = world.create(version).await.expect("it starts");
    let answer = live.ask(json!({})).await;
    let expected = json!({
        "name": "subject", "memory": "256", "group": "/aws/lambda/subject", "remaining": true, "cwd": "/var/task",
        "arn": "arn:aws:lambda:eu-central-1:000000000000:function:subject", "first": "/var/task",
        "trace": "Root=1-5759e988-bd862e3fe1be46a994272793", "number": 1.5, "credentials": [],
    });
    assert_eq!(answer, expected);
    let log = live.log.text();
    assert!(log.starts_with("printed\n[WARNING]\t"), "{log}");
    assert!(log.ends_with("\tlogged\n"), "{log}");
    live.sandbox.destroy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_errors_have_their_official_shape() {
    let world = World::start(0);
    let Some(version) = python_function(&world, "app.fail", PYTHON_HANDLERS).await else {
        return;
    };
    let mut live = world.create(version.clone()).await.expect("it starts");
    let (error_type, payload) = live.error(json!({})).await;
    assert_eq!(error_type, "ValueError");
    assert_eq!(payload["errorMessage"], "no such knot: \u{17e}lu\u{165}");
    let frame = payload["stackTrace"][0].as_str().expect("a frame is text");
    assert!(
        frame.contains("\"/var/task/app.py\"") && frame.contains("in fail"),
        "{frame}"
    );
    assert!(
        live.log.text().contains("[ERROR] ValueError: no such knot"),
        "{}",
        live.log.text()
    );
    live.sandbox.destroy().await;

    for (handler, error_type) in [
        ("app.unserialisable", "Runtime.MarshalError"),
        ("nested/deep.fail", "ValueError"),
    ] {
        let version = VersionSpec {
            handler: handler.to_owned(),
            ..version.clone()
        };
        let mut live = world.create(version).await.expect("it starts");
        assert_eq!(live.error(json!({})).await.0, error_type, "{handler}");
        live.sandbox.destroy().await;
    }
    let version = VersionSpec {
        handler: "app.leave".to_owned(),
        ..version
    };
    let mut live = world.create(version).await.expect("it starts");
    let (error_type, payload) = live.error(json!({})).await;
    assert_eq!(error_type, "Runtime.ExitError");
    let message = payload["errorMessage"].as_str().expect("a text");
    assert!(
        message.ends_with("Error: Runtime exited with error: exit status 4"),
        "{message}"
    );
    live.sandbox.destroy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_that_cannot_start_says_why() {
    let world = World::start(0);
    let cases = [
        ("import nothing_of_that_name", "app.x", "Runtime.ImportModuleError"),
        ("def broken(:", "app.x", "Runtime.UserCodeSyntaxError"),
        ("", "app.absent", "Runtime.HandlerNotFound"),
        ("", "elsewhere.handler", "Runtime.ImportModuleError"),
        ("raise KeyError('x')", "app.x", "KeyError"),
        ("import sys; sys.exit(3)", "app.x", "Runtime.ExitError"),
    ];
    for (source, handler, expected) in cases {
        let Some(version) = python_function(&world, handler, source).await else {
            return;
        };
        let (error_type, payload) = world.init_error(version).await;
        assert_eq!(error_type, expected, "{source}: {payload}");
        assert!(payload["errorMessage"].is_string(), "{payload}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn python_flags_in_the_environment_take_effect() {
    let world = World::start(1);
    let source = "import sys\ndef handler(event, context): return sys.flags.optimize";
    let Some(mut version) = python_function(&world, "app.handler", source).await else {
        return;
    };
    for (value, expected) in [(None, 0), (Some("2"), 2)] {
        version
            .environment
            .extend(value.map(|value| ("PYTHONOPTIMIZE".to_owned(), value.to_owned())));
        let mut live = world.create(version.clone()).await.expect("it starts");
        assert_eq!(live.ask(json!({})).await, expected);
        live.sandbox.destroy().await;
    }
}

const NODE_HANDLERS: &str = r#"
exports.echo = async (event) => event;
exports.about = async (event, context) => {
  console.log('printed %d\ntwice', 1);
  return {
    name: context.functionName, memory: context.memoryLimitInMB, arn: context.invokedFunctionArn, cwd: process.cwd(),
    remaining: context.getRemainingTimeInMillis() > 0, trace: process.env._X_AMZN_TRACE_ID,
  };
};
exports.callback = (event, context, callback) => setTimeout(() => callback(null, { called: true }), 5);
exports.early = (event, context, callback) => {
  context.callbackWaitsForEmptyEventLoop = false;
  setTimeout(() => {}, 60000);
  callback(null, 'early');
};
exports.silent = () => 'a value that is not a promise is no answer';
exports.succeed = (event, context) => context.succeed({ old: 'style' });
exports.fail = async () => { const error = new Error('no such knot'); error.name = 'KnotError'; throw error; };
exports.failback = (event, context, callback) => callback(new TypeError('called back'));
exports.text = async () => { throw 'just a text'; };
exports.stray = async () => { setTimeout(() => { throw new Error('stray'); }, 1); return new Promise(() => {}); };
exports.stream = awslambda.streamifyResponse(async (event, stream) => { stream.write('{"a":'); stream.end('1}'); });
exports.nested = { handler: async () => 'nested' };
"#;

async fn ask_node(world: &World, runtime: Runtime, handler: &str) -> (Result<Value, (String, Value)>, String) {
    let code = world.code(&[("index.js", NODE_HANDLERS.as_bytes())]);
    let version = world.version(runtime, handler, code);
    let mut live = world.create(version).await.expect("it starts");
    let report = live.report(&json!({"knot": "bowline"})).await;
    let result = match report.outcome {
        bowline_sandbox::Outcome::Success(answer) => Ok(serde_json::from_slice(&answer).expect("JSON")),
        bowline_sandbox::Outcome::Failed(error) => {
            let payload = serde_json::from_slice(&error.payload).expect("JSON");
            Err((error.error_type, payload))
        }
        other => panic!("{handler}: {other:?}"),
    };
    let log = live.log.text();
    live.sandbox.destroy().await;
    (result, log)
}

#[tokio::test(flavor = "multi_thread")]
async fn node_handlers_answer_in_every_style() {
    let world = World::start(1);
    let Some(runtime) = node() else {
        return;
    };
    let cases = [
        ("index.echo", json!({"knot": "bowline"})),
        ("index.callback", json!({"called": true})),
        ("index.early", json!("early")),
        ("index.silent", Value::Null),
        ("index.succeed", json!({"old": "style"})),
        ("index.stream", json!({"a": 1})),
        ("index.nested.handler", json!("nested")),
    ];
    for (handler, expected) in cases {
        let (answer, log) = ask_node(&world, runtime, handler).await;
        assert_eq!(answer, Ok(expected), "{handler}: {log}");
    }
    let (answer, log) = ask_node(&world, runtime, "index.about").await;
    let expected = json!({
        "name": "subject", "memory": "256", "cwd": "/var/task", "remaining": true,
        "arn": "arn:aws:lambda:eu-central-1:000000000000:function:subject",
        "trace": "Root=1-5759e988-bd862e3fe1be46a994272793",
    });
    assert_eq!(answer, Ok(expected));
    assert!(log.ends_with("\tINFO\tprinted 1\rtwice\n"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn node_errors_have_their_official_shape() {
    let world = World::start(1);
    let Some(runtime) = node() else {
        return;
    };
    let cases = [
        ("index.fail", "KnotError", "no such knot"),
        ("index.failback", "TypeError", "called back"),
        ("index.text", "string", "just a text"),
        ("index.stray", "Runtime.UncaughtException", "stray"),
    ];
    for (handler, expected, message) in cases {
        let (answer, log) = ask_node(&world, runtime, handler).await;
        let Err((error_type, payload)) = answer else {
            panic!("{handler} should fail, but: {answer:?}; {log}");
        };
        assert_eq!(error_type, expected, "{handler}: {payload}");
        assert_eq!(payload["errorMessage"], message, "{handler}: {payload}");
        assert!(payload["trace"].is_array(), "{handler}: {payload}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn node_finds_handlers_in_modules_of_both_kinds() {
    let world = World::start(0);
    let Some(runtime) = node() else {
        return;
    };
    let es = "export const handler = async () => 'es';".as_bytes();
    let common = "exports.handler = async () => require('helper');".as_bytes();
    let sets: [(&[File<'_>], &str, &str); 4] = [
        (&[("index.mjs", es)], "index.handler", "es"),
        (
            &[("lib/index.js", es), ("package.json", b"{\"type\":\"module\"}")],
            "lib/index.handler",
            "es",
        ),
        (
            &[
                ("index.cjs", common),
                ("node_modules/helper/index.js", b"module.exports = 'helped'"),
            ],
            "index.handler",
            "helped",
        ),
        (
            &[("index.mjs", b"export default { handler: async () => 'default' };")],
            "index.handler",
            "default",
        ),
    ];
    for (files, handler, expected) in sets {
        let version = world.version(runtime, handler, world.code(files));
        let mut live = world.create(version).await.expect("it starts");
        assert_eq!(live.ask(json!({})).await, expected, "{files:?}");
        live.sandbox.destroy().await;
    }
    let failing: [(&str, &str, &str); 4] = [
        (
            "require('nothing-of-that-name')",
            "index.x",
            "Runtime.ImportModuleError",
        ),
        ("function (", "index.x", "Runtime.UserCodeSyntaxError"),
        ("exports.y = 1", "index.x", "Runtime.HandlerNotFound"),
        ("throw new RangeError('early')", "index.x", "RangeError"),
    ];
    for (source, handler, expected) in failing {
        let version = world.version(runtime, handler, world.code(&[("index.js", source.as_bytes())]));
        let (error_type, payload) = world.init_error(version).await;
        assert_eq!(error_type, expected, "{source}: {payload}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_never_asks_is_given_up() {
    let world = World::start(0);
    let code = world.code(&[("bootstrap", b"#!/bin/sh\necho thinking\nexec sleep 600\n")]);
    let version = VersionSpec {
        timeout: Duration::from_secs(3),
        ..world.version(Runtime::ProvidedAl2023, "", code)
    };
    let started = world.clock.monotonic();
    let (error_type, payload) = world.init_error(version).await;
    let took = world.clock.monotonic().since(started);
    assert_eq!(error_type, "Sandbox.Timedout", "{payload}");
    assert!((10..15).contains(&took.as_secs()), "given up after {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_starts_slowly_is_waited_for_as_long_as_an_invocation_may_take() {
    let world = World::start(0);
    let text = "import time\ntime.sleep(10.5)\ndef handler(event, context):\n    return 1\n";
    let Some(runtime) = python() else {
        return;
    };
    let code = world.code(&[("slow.py", text.as_bytes())]);
    let version = world.version(runtime, "slow.handler", code);
    let mut live = world.create(version).await.expect("it starts");
    assert_eq!(live.ask(json!({})).await, 1);
    live.sandbox.destroy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_may_have_any_name() {
    let world = World::start(0);
    let source = "def handler(event, context): raise type('Knot\\r\\nX: \u{17e}', (Exception,), {})('x')";
    let Some(version) = python_function(&world, "app.handler", source).await else {
        return;
    };
    let mut live = world.create(version).await.expect("it starts");
    assert_eq!(live.error(json!({})).await.0, "Knot\r\nX: \u{17e}");
    live.sandbox.destroy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn native_programs_that_cannot_start_say_why() {
    let world = World::start(0);
    let cases: [(&[u8], &str, &str); 3] = [
        (b"#!/bin/sh\nexit 9\n", "Runtime.ExitError", "exit status 9"),
        (
            b"#!/bin/sh\nexit 0\n",
            "Runtime.ExitError",
            "without providing a reason",
        ),
        (
            b"#!/no/such/shell\n",
            "Runtime.InvalidEntrypoint",
            "/var/task/bootstrap",
        ),
    ];
    for (bootstrap, expected, text) in cases {
        let code = world.code(&[("bootstrap", bootstrap)]);
        let version = world.version(Runtime::ProvidedAl2023, "", code);
        let (error_type, payload) = world.init_error(version).await;
        assert_eq!(error_type, expected, "{payload}");
        assert!(
            payload["errorMessage"]
                .as_str()
                .is_some_and(|message| message.contains(text)),
            "{payload}"
        );
    }
}

/// Installs a Python package into a code folder; `None` where no package index can be reached.
fn pip_install(python: &str, package: &str, folder: &Path) -> Option<()> {
    let mut command = Command::new(python);
    command.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--target",
    ]);
    let output = command.arg(folder).arg(package).output().ok()?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).into_owned();
        eprintln!("`{package}` cannot be installed here, skipped: {reason}");
        return None;
    }
    Some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_public_python_client_works_unchanged() {
    let world = World::start(0);
    if python().is_none() {
        return;
    }
    // The one of the system: a bootstrap sees no other.
    let system = PathBuf::from("/usr/bin/python3");
    if !system.exists() {
        eprintln!("no {} here: skipped", system.display());
        return;
    }
    let bootstrap = "#!/bin/sh\nexec /usr/bin/python3 -m awslambdaric app.echo\n";
    let code = world.code(&[
        ("bootstrap", bootstrap.as_bytes()),
        ("app.py", PYTHON_HANDLERS.as_bytes()),
    ]);
    if pip_install("/usr/bin/python3", "awslambdaric", &code).is_none() {
        return;
    }
    let version = world.version(Runtime::ProvidedAl2023, "app.echo", code.clone());
    let mut live = world.create(version).await.expect("it starts");
    for knot in ["bowline", "sheet bend"] {
        assert_eq!(live.ask(json!({"knot": knot})).await, json!({"knot": knot}));
    }
    live.sandbox.destroy().await;
}

/// Builds a fixture over public Rust clients, a folder beside this one; `None` where no registry can be
/// reached.
pub fn build_fixture(name: &str) -> Option<Vec<u8>> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let output = Command::new("cargo")
        .args(["build", "--quiet"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name))
        .env("CARGO_TARGET_DIR", &target)
        .output()
        .ok()?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).into_owned();
        eprintln!("`{name}` cannot be built here, skipped: {reason}");
        return None;
    }
    Some(std::fs::read(target.join("debug").join(name)).expect("cargo built it"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_public_rust_client_works_unchanged() {
    let Some(bootstrap) = build_fixture("public-client") else {
        return;
    };
    let world = World::start(0);
    let code = world.code(&[("bootstrap", &bootstrap)]);
    let version = world.version(Runtime::ProvidedAl2023, "bootstrap", code);
    let mut live = world.create(version).await.expect("it starts");
    for knot in ["bowline", "sheet bend"] {
        let answer = live.ask(json!({"knot": knot})).await;
        assert_eq!(answer["event"]["knot"], knot);
        assert_eq!(answer["name"], "subject");
        assert_eq!(
            answer["arn"],
            "arn:aws:lambda:eu-central-1:000000000000:function:subject"
        );
        assert_eq!(answer["id"].as_str().map(str::len), Some(36), "{answer}");
    }
    let (_, payload) = live.error(json!({"fail": "it slipped"})).await;
    assert_eq!(payload["errorMessage"], "it slipped");
    assert_eq!(live.ask(json!({"knot": "again"})).await["event"]["knot"], "again");
    live.sandbox.destroy().await;
}
