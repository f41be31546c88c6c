//! Which subscriptions are taken, and what is said of the others.

use serde_json::{Value, json};

use super::*;

fn body() -> Value {
    json!({
        "schemaVersion": "2022-12-13",
        "types": ["platform", "function", "extension", "platform"],
        "buffering": {"maxItems": 1000, "maxBytes": 262_144, "timeoutMs": 25},
        "destination": {"protocol": "HTTP", "URI": "http://sandbox.localdomain:8080/logs?a=1"},
    })
}

fn parse(api: Api, body: &Value) -> Result<Subscription, String> {
    Subscription::parse(api, body.to_string().as_bytes()).map_err(|bad| bad.to_string())
}

/// What is said when `member` of an otherwise good subscription is `value`.
fn fault(api: Api, member: &str, value: Value) -> String {
    let mut body = body();
    if api == Api::Logs {
        body["schemaVersion"] = "2021-03-18".into();
    }
    *body.pointer_mut(member).expect("the member is there") = value;
    parse(api, &body).expect_err("it is at fault")
}

#[test]
fn a_subscription_is_read_whole() {
    let subscription = parse(Api::Telemetry, &body()).expect("it is good");
    let expected = Subscription {
        schema: Schema::Telemetry,
        streams: vec![Stream::Platform, Stream::Function, Stream::Extension],
        buffering: Buffering {
            items_max: 1000,
            bytes_max: 262_144,
            timeout: Duration::from_millis(25),
        },
        destination: Destination::Http {
            port: 8080,
            path: "/logs?a=1".into(),
            put: false,
        },
    };
    assert_eq!(subscription, expected);
}

#[test]
fn defaults_are_those_of_each_api() {
    let small = json!({"types": ["function"], "destination": {"protocol": "TCP", "port": 4243}});
    let logs = parse(Api::Logs, &small).expect("this API has a default version");
    assert_eq!(logs.schema, Schema::Logs { runtime_done: false });
    assert_eq!(logs.destination, Destination::Tcp { port: 4243 });
    assert_eq!((logs.buffering.items_max, logs.buffering.bytes_max), (10_000, 262_144));
    assert_eq!(logs.buffering.timeout, Duration::from_secs(1));
    assert_eq!(
        parse(Api::Telemetry, &small),
        Err("`schemaVersion` is missing".to_owned())
    );
    let mut telemetry = small;
    telemetry["schemaVersion"] = "2025-01-29".into();
    let telemetry = parse(Api::Telemetry, &telemetry).expect("it is good");
    assert_eq!(telemetry.buffering.items_max, 1_000);
}

#[test]
fn limits_of_buffering_hold_at_both_ends() {
    let limits = [
        ("maxItems", 1_000, 10_000),
        ("maxBytes", 262_144, 1_048_576),
        ("timeoutMs", 25, 30_000),
    ];
    for (name, min, max) in limits {
        let pointer = format!("/buffering/{name}");
        for good in [min, max] {
            let mut body = body();
            *body.pointer_mut(&pointer).expect("the member is there") = good.into();
            assert!(parse(Api::Telemetry, &body).is_ok(), "{name} {good}");
        }
        for bad in [min - 1, max + 1] {
            let text = fault(Api::Telemetry, &pointer, bad.into());
            let expected = format!("`buffering.{name}` is {bad}, not between {min} and {max}");
            assert_eq!(text, expected);
        }
    }
}

#[test]
fn what_is_wrong_is_said() {
    let cases = [
        (
            "/schemaVersion",
            json!("2021-03-18"),
            "`schemaVersion` is `2021-03-18`, not one of `2022-07-01`",
        ),
        ("/types", json!([]), "`types` should not be empty"),
        ("/types", json!(["platform", "metrics"]), "type `metrics` is none of"),
        ("/types", json!("platform"), "body is no subscription"),
        ("/destination", Value::Null, "`destination` is missing"),
        ("/destination/protocol", json!("UDP"), "`destination.protocol` is `UDP`"),
        ("/destination/protocol", json!("TCP"), "`destination.port` is missing"),
        (
            "/destination/URI",
            json!("https://sandbox:1"),
            "should begin with `http://`",
        ),
        ("/destination/URI", json!("http://sandbox.localdomain"), "the port of"),
        ("/destination/URI", json!("http://sandbox:65536"), "the port of"),
        ("/destination/URI", json!("http://sandbox:+80"), "the port of"),
        ("/destination/URI", json!("http://sandbox:9001"), "cannot be used"),
        (
            "/destination/URI",
            json!("http://169.254.169.254:80/x"),
            "should be `sandbox.localdomain`",
        ),
        ("/destination/URI", json!("http://sandbox:80/a\r\nX: y"), "no path"),
        ("/destination/URI", Value::Null, "`destination.URI` is missing"),
    ];
    for (member, value, expected) in cases {
        let text = fault(Api::Telemetry, member, value.clone());
        assert!(text.contains(expected), "{member} = {value}: {text}");
    }
    let two = json!({"schemaVersion": "2022-07-01", "destination": {"protocol": "HTTP", "URI": "http://sandbox"}});
    let text = parse(Api::Telemetry, &two).expect_err("two faults");
    assert_eq!(text.matches("; ").count(), 1, "{text}");
}

#[test]
fn the_older_api_has_a_method_and_an_encoding() {
    let with = |method: &str, encoding: &str| {
        let destination = json!({
            "protocol": "HTTP", "URI": "http://sandbox:80", "method": method, "encoding": encoding,
        });
        parse(Api::Logs, &json!({"types": ["platform"], "destination": destination}))
    };
    let destination = with("PUT", "JSON").expect("it is good").destination;
    let expected = Destination::Http {
        port: 80,
        path: "/".into(),
        put: true,
    };
    assert_eq!(destination, expected);
    assert!(with("PATCH", "JSON").expect_err("no such method").contains("`PATCH`"));
    assert!(with("PUT", "XML").expect_err("no such encoding").contains("`XML`"));
    assert!(fault(Api::Logs, "/schemaVersion", json!("2022-07-01")).contains("`2020-08-15`"));
}
