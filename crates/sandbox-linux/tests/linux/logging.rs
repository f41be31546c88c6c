//! What the clients make of a function's log format and level.

use bowline_sandbox::{ApplicationLogLevel, LogFormat, Logging, Runtime, SystemLogLevel, VersionSpec};
use serde_json::{Value, json};

use crate::harness::{World, node, python};

const PYTHON: &str = r#"
import logging
log = logging.getLogger("knots")
def handler(event, context):
    print("printed")
    log.debug("a debug %s", 1)
    log.info("an info", extra={"rope": 7, "odd": {1, 1}, "twisted": {(1, 2): float("nan")}})
    try:
        raise KeyError("loose")
    except KeyError:
        log.exception("an error")
    return context.aws_request_id
def fail(event, context):
    raise ValueError("no such knot")
"#;

const NODE: &str = r#"
exports.handler = async (event, context) => {
  process.stdout.write('printed\n');
  console.debug('a debug %d', 1);
  console.info({ rope: 7 });
  console.log(7n);
  console.error('an error', new RangeError('loose'));
  return context.awsRequestId;
};
exports.fail = async () => { throw new TypeError('no such knot'); };
"#;

/// A function of either language.
struct Case<'a> {
    runtime: Runtime,
    file: &'a str,
    source: &'a str,
    module: &'a str,
    /// How a level is called in its lines, whatever it is in the setting.
    levels: [&'a str; 3],
}

impl Case<'_> {
    fn version(&self, world: &World, handler: &str, application: Option<ApplicationLogLevel>) -> VersionSpec {
        let code = world.code(&[(self.file, self.source.as_bytes())]);
        let format = application.map_or(LogFormat::Text, |application| LogFormat::Json {
            application,
            system: SystemLogLevel::default(),
        });
        VersionSpec {
            logging: Logging { format, group: None },
            ..world.version(self.runtime, &format!("{}.{handler}", self.module), code)
        }
    }

    /// The levels of the records, in order. What was printed stands among them as it was.
    async fn levels_logged(&self, world: &World, application: ApplicationLogLevel) -> Vec<String> {
        let version = self.version(world, "handler", Some(application));
        let mut live = world.create(version).await.expect("it starts");
        let id = live.ask(json!({})).await;
        let log = live.log.text();
        assert!(log.starts_with("printed\n"), "{log}");
        let records: Vec<Value> = log.lines().skip(1).map(record).collect();
        for record in &records {
            assert_eq!(record["requestId"], id, "{log}");
            let timestamp = record["timestamp"].as_str().expect("a timestamp is text");
            assert!(timestamp.len() == 24 && timestamp.ends_with('Z'), "{timestamp}");
            assert!(!record["message"].is_null(), "{log}");
        }
        live.sandbox.destroy().await;
        let levels = records.iter().map(|record| record["level"].as_str());
        levels.map(|level| level.expect("a level is text").to_owned()).collect()
    }
}

fn record(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("`{line}` is no JSON: {error}"))
}

async fn levels_filter(world: &World, case: &Case<'_>) {
    let [debug, info, error] = case.levels;
    // In JavaScript something else is logged at the level of information.
    let infos = if case.module == "index" {
        vec![info; 2]
    } else {
        vec![info]
    };
    let from_info = [infos.as_slice(), &[error]].concat();
    let from_debug = [&[debug], from_info.as_slice()].concat();
    for (level, expected) in [
        (ApplicationLogLevel::Trace, from_debug.as_slice()),
        (ApplicationLogLevel::Debug, &from_debug),
        (ApplicationLogLevel::Info, &from_info),
        (ApplicationLogLevel::Error, &[error]),
        (ApplicationLogLevel::Fatal, &[]),
    ] {
        assert_eq!(case.levels_logged(world, level).await, expected, "{level:?}");
    }
}

/// The log of one invocation of a handler, which may fail.
async fn log_of(world: &World, version: VersionSpec) -> String {
    let mut live = world.create(version).await.expect("it starts");
    live.report(&json!({})).await;
    let log = live.log.text();
    live.sandbox.destroy().await;
    log
}

fn python_case() -> Option<Case<'static>> {
    Some(Case {
        runtime: python()?,
        file: "app.py",
        source: PYTHON,
        module: "app",
        levels: ["DEBUG", "INFO", "ERROR"],
    })
}

fn node_case() -> Option<Case<'static>> {
    Some(Case {
        runtime: node()?,
        file: "index.js",
        source: NODE,
        module: "index",
        levels: ["DEBUG", "INFO", "ERROR"],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn python_logs_json_of_the_level_asked_for() {
    let world = World::start(0);
    let Some(case) = python_case() else { return };
    levels_filter(&world, &case).await;
    let log = log_of(&world, case.version(&world, "handler", Some(ApplicationLogLevel::Info))).await;
    let records: Vec<Value> = log.lines().skip(1).map(record).collect();
    let info = &records[0];
    assert_eq!(
        (&info["message"], &info["logger"]),
        (&json!("an info"), &json!("knots"))
    );
    assert_eq!((&info["rope"], &info["odd"]), (&json!(7), &json!("{1}")));
    assert_eq!(info["twisted"], "{(1, 2): nan}", "what has no form in JSON is a text");
    let error = &records[1];
    assert_eq!(
        (&error["errorType"], &error["errorMessage"]),
        (&json!("KeyError"), &json!("'loose'"))
    );
    let frame = error["stackTrace"][0].as_str().expect("a frame is text");
    assert!(frame.contains("/var/task/app.py"), "{frame}");
    // The control: text has all of it, unfiltered, in its own form.
    let log = log_of(&world, case.version(&world, "handler", None)).await;
    assert!(log.contains("[ERROR]\t") && log.contains("\tan error\n"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn node_logs_json_of_the_level_asked_for() {
    let world = World::start(0);
    let Some(case) = node_case() else { return };
    levels_filter(&world, &case).await;
    let log = log_of(&world, case.version(&world, "handler", Some(ApplicationLogLevel::Info))).await;
    let records: Vec<Value> = log.lines().skip(1).map(record).collect();
    assert_eq!(records[0]["message"], json!({"rope": 7}));
    assert_eq!(records[1]["message"], "7n");
    let error = &records[2];
    assert_eq!(
        (&error["errorType"], &error["errorMessage"]),
        (&json!("RangeError"), &json!("loose"))
    );
    assert!(error["stackTrace"].is_array(), "{error}");
    // The control: text has all of it, unfiltered, in its own form.
    let log = log_of(&world, case.version(&world, "handler", None)).await;
    assert!(
        log.contains("\tDEBUG\ta debug 1\n") && log.contains("\tERROR\tan error"),
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_catches_is_logged_as_json_too() {
    let world = World::start(0);
    for (case, error_type) in [(python_case(), "ValueError"), (node_case(), "TypeError")] {
        let Some(case) = case else { continue };
        let log = log_of(&world, case.version(&world, "fail", Some(ApplicationLogLevel::Error))).await;
        let record = record(log.trim_end());
        assert_eq!(record["level"], "ERROR", "{log}");
        // The client of either language puts the error where the service's does.
        let error = if record["message"].is_object() {
            &record["message"]
        } else {
            &record
        };
        assert_eq!(error["errorType"], error_type, "{log}");
        assert_eq!(error["errorMessage"], "no such knot", "{log}");
        assert!(error["stackTrace"].is_array(), "{log}");
        let log = log_of(&world, case.version(&world, "fail", Some(ApplicationLogLevel::Fatal))).await;
        assert_eq!(log, "");
        let log = log_of(&world, case.version(&world, "fail", None)).await;
        assert!(log.contains(error_type) && !log.starts_with('{'), "{log}");
    }
}
