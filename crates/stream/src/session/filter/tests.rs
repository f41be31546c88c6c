//! What filters match, what they refuse, and how long the worst ones take.

use std::time::Duration;

use bowline_foundation::clock::{Clock, Timestamp};
use bytes::Bytes;

use super::*;
use crate::{EventId, Position, Stamp};

fn event(body: impl Into<Bytes>) -> Event {
    Event {
        position: Position::before(Stamp::of(Timestamp::from_micros(5_000_000))),
        id: EventId([0xab; 16]),
        key: Some(Bytes::from_static(b"k1")),
        body: body.into(),
    }
}

#[track_caller]
fn check(filter: &str, body: &str, expected: Match) {
    let filter = Filter::compile(filter).unwrap();
    assert_eq!(filter.judge(&event(body.to_owned())).verdict, expected, "{body}");
}

#[test]
fn bodies_are_json_or_text_or_bytes() {
    check(
        "body.kind == 'order' && body.total > 10",
        r#"{"kind":"order","total":11}"#,
        Match::Yes,
    );
    check(
        "body.kind == 'order' && body.total > 10",
        r#"{"kind":"order","total":9.5}"#,
        Match::No,
    );
    check("body.count + 1 == 3", r#"{"count":2}"#, Match::Yes);
    check("has(body.kind)", "{}", Match::No);
    check("body.startsWith('no')", "no json", Match::Yes);
    let bytes = Filter::compile("body == b'\\xff\\xfe'").unwrap();
    assert_eq!(bytes.judge(&event(vec![0xff, 0xfe])).verdict, Match::Yes);
    assert_eq!(bytes.judge(&event(vec![0xff, 0xff])).verdict, Match::No);
}

#[test]
fn key_time_and_identifier_can_be_asked_for() {
    check(
        "key == 'k1' && at == 5000 && id == 'abababababababababababababababab'",
        "",
        Match::Yes,
    );
    check("key == 'k2' || at > 5000", "", Match::No);
}

#[test]
fn macros_go_over_lists_once() {
    let body = r#"{"items":[{"n":1},{"n":2},{"n":3}]}"#;
    check("body.items.exists(i, i.n == 3)", body, Match::Yes);
    check("body.items.all(i, i.n < 3)", body, Match::No);
    check("body.items.exists_one(i, i.n > 2)", body, Match::Yes);
    check("body.items.filter(i, i.n > 1).size() == 2", body, Match::Yes);
    check("body.items.filter(i, i.n > 1).exists(i, i.n == 1)", body, Match::No);
}

#[test]
fn what_cannot_be_evaluated_does_not_match() {
    check("body.missing == 1", "{}", Match::Error);
    check("body.n / 0 == 1", r#"{"n":1}"#, Match::Error);
    check("body.n", r#"{"n":1}"#, Match::Error);
    check("body.n", r#"{"n":true}"#, Match::Yes);
}

#[test]
fn bad_expressions_are_refused_with_what_is_wrong() {
    let refused = |text: &str| Filter::compile(text).unwrap_err().to_string();
    assert!(
        refused("body.kind ==").contains("no CEL expression"),
        "{}",
        refused("body.kind ==")
    );
    assert_eq!(
        refused("boddy.kind == 1"),
        "filter uses `boddy`; it may use `body`, `key`, `at` and `id`"
    );
    assert!(refused("body.matches('a+')").contains("`matches`"));
    assert!(refused(&"1 == 1 && ".repeat(200)).contains("bytes"));
    assert!(refused(&format!("{}1{}", "[".repeat(100), "]".repeat(100))).contains("no CEL expression"));
    let many = vec!["1"; 300].join("<");
    assert_eq!(Filter::compile(&many).unwrap_err(), InvalidFilter::TooComplex(599));
}

#[test]
fn work_that_grows_without_bound_is_refused() {
    for bomb in [
        "body.map(a, a).size() > 1",
        "body.map(a, true, [a]).size() > 1",
        "[body].map(a, [a, a]).map(a, [a, a]) == []",
        "body.all(a, body.all(b, b == a))",
        "body.all(a, body == a)",
        "body.exists(a, a + a == a)",
        "body+body+body+body+body+body+body+body+body+body == ''",
    ] {
        let refused = Filter::compile(bomb).unwrap_err();
        assert!(matches!(refused, InvalidFilter::Unbounded(_)), "{bomb}: {refused}");
    }
    check("body.all(a, a == key)", r#"["k1","k1"]"#, Match::Yes);
}

#[test]
fn an_event_that_would_take_too_long_is_an_error() {
    let long = vec!["a == a"; 30].join(" && ");
    let filter = Filter::compile(&format!("body.all(a, {long})")).unwrap();
    let ones = |count: usize| format!("[{}]", vec!["1"; count].join(","));
    let small = filter.judge(&event(ones(1000)));
    assert_eq!(small.verdict, Match::Yes);
    assert!(small.steps <= FILTER_STEPS_MAX);
    assert_eq!(filter.judge(&event(ones(20_000))).verdict, Match::Error);
    let large = format!("\"{}\"", "x".repeat(300_000));
    check("true", &large, Match::Error);
    check("true", &large[..200_000], Match::Yes);
}

#[test]
fn a_long_key_counts_in_each_round() {
    let filter = Filter::compile("body.all(a, key.contains(a))").unwrap();
    let mut event = event(format!("[{}]", vec!["\"k\""; 500].join(",")));
    assert_eq!(filter.judge(&event).verdict, Match::Yes);
    event.key = Some(Bytes::from(vec![b'k'; 64 * 1024]));
    assert_eq!(filter.judge(&event).verdict, Match::Error);
}

/// A step is well below a microsecond, also where nothing is optimised.
#[test]
fn the_worst_permitted_event_takes_less_than_a_second() {
    let long = vec!["a == a"; 30].join(" && ");
    let filter = Filter::compile(&format!("body.all(a, {long})")).unwrap();
    let clock = Clock::system();
    let before = clock.monotonic();
    let judged = filter.judge(&event(format!("[{}]", vec!["1"; 2500].join(","))));
    let took = clock.monotonic().since(before);
    assert_eq!(judged.verdict, Match::Yes);
    assert!(judged.steps > FILTER_STEPS_MAX / 2, "{}", judged.steps);
    assert!(took < Duration::from_secs(1), "{took:?} for {} steps", judged.steps);
    println!("{took:?} for {} steps", judged.steps);
}

/// What has no value is an error, and nothing an expression can say stops the evaluator.
#[test]
fn arithmetic_at_the_edges_is_an_error() {
    for text in [
        "body.min / -1 == 0",
        "body.min % -1 == 0 && body.min - 1 == 0",
        "-body.min == 0",
        "body.max + 1 == 0",
        "body.max * 2 == 0",
        "1 % body.zero == 0",
        "int(1e300) == 0",
        "uint(-1) == 0u",
        "int('x') == 0",
        "[1][5] == 0",
        "[1][-1] == 0",
        "body[0] == 1",
        "{'a': 1}['b'] == 1",
        "'a' < 1",
        "string(b'\\xff') == ''",
        "size(1) == 1",
        "bool('maybe')",
        "{1.5: 2}[1.5] == 2",
    ] {
        let edges = r#"{"min":-9223372036854775808,"max":9223372036854775807,"zero":0}"#;
        check(text, edges, Match::Error);
    }
}

#[test]
fn deep_bodies_are_no_danger() {
    let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
    check("body == body && size(body) == 1", &deep, Match::Yes);
    let too_deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    check("body.startsWith('[[')", &too_deep, Match::Yes);
}
