//! Patterns against events, and what is no pattern.

use proptest::prelude::*;

use super::*;

#[track_caller]
fn fits(pattern: &str, yes: &[&str], no: &[&str]) {
    let parsed = Pattern::parse(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
    for (events, expected) in [(yes, true), (no, false)] {
        for event in events {
            let value: Value = serde_json::from_str(event).unwrap();
            assert_eq!(parsed.matches(&value), expected, "{pattern} against {event}");
        }
    }
}

#[test]
fn values_are_compared_by_type() {
    fits(
        r#"{"a": ["x"]}"#,
        &[r#"{"a": "x"}"#, r#"{"a": ["y", "x"]}"#, r#"{"a": "x", "b": 1}"#],
        &[
            r#"{"a": "X"}"#,
            r#"{"a": null}"#,
            r#"{"b": "x"}"#,
            r#"{"a": {"x": 1}}"#,
            "[]",
            r#""x""#,
        ],
    );
    fits(
        r#"{"a": [1]}"#,
        &[r#"{"a": 1}"#, r#"{"a": 1.0}"#, r#"{"a": 1e0}"#],
        &[r#"{"a": "1"}"#, r#"{"a": 2}"#, r#"{"a": true}"#],
    );
    fits(
        r#"{"a": [null]}"#,
        &[r#"{"a": null}"#],
        &["{}", r#"{"a": ""}"#, r#"{"a": 0}"#],
    );
    fits(r#"{"a": [""]}"#, &[r#"{"a": ""}"#], &["{}", r#"{"a": null}"#]);
    fits(
        r#"{"a": [true, "t"]}"#,
        &[r#"{"a": true}"#, r#"{"a": "t"}"#],
        &[r#"{"a": false}"#],
    );
    fits("{}", &["{}", r#"{"a": 1}"#], &["1"]);
}

#[test]
fn all_keys_must_fit_at_every_depth() {
    fits(
        r#"{"a": {"b": ["x"], "c": [1]}, "d": ["y"]}"#,
        &[r#"{"a": {"b": "x", "c": 1}, "d": "y"}"#],
        &[
            r#"{"a": {"b": "x"}, "d": "y"}"#,
            r#"{"a": {"b": "x", "c": 1}}"#,
            r#"{"a": "x", "d": "y"}"#,
        ],
    );
    // Of a list of objects one must fit as a whole.
    fits(
        r#"{"a": {"b": [1], "c": [2]}}"#,
        &[r#"{"a": [{"b": 1, "c": 2}, {"b": 3}]}"#],
        &[r#"{"a": [{"b": 1}, {"c": 2}]}"#],
    );
}

#[test]
fn texts_are_compared_by_their_parts() {
    fits(
        r#"{"a": [{"prefix": "ab"}]}"#,
        &[r#"{"a": "abc"}"#, r#"{"a": "ab"}"#],
        &[r#"{"a": "a"}"#, r#"{"a": "ABc"}"#],
    );
    fits(
        r#"{"a": [{"suffix": ".png"}]}"#,
        &[r#"{"a": "x.png"}"#],
        &[r#"{"a": "x.PNG"}"#, r#"{"a": 1}"#],
    );
    fits(
        r#"{"a": [{"prefix": {"equals-ignore-case": "AB"}}, {"suffix": {"equals-ignore-case": "yz"}}]}"#,
        &[r#"{"a": "aBc"}"#, r#"{"a": "xYZ"}"#],
        &[r#"{"a": "cab"}"#],
    );
    fits(
        r#"{"a": [{"equals-ignore-case": "aLiCe"}]}"#,
        &[r#"{"a": "ALICE"}"#],
        &[r#"{"a": "alicex"}"#],
    );
}

#[test]
fn wildcards_stand_for_any_characters() {
    let check = |wildcard: &str, yes: &[&str], no: &[&str]| {
        let pattern = serde_json::json!({ "a": [{ "wildcard": wildcard }] }).to_string();
        let events = |texts: &[&str]| -> Vec<String> {
            let quoted = texts.iter().map(|text| serde_json::json!({ "a": text }).to_string());
            quoted.collect()
        };
        let (yes, no) = (events(yes), events(no));
        fits(
            &pattern,
            &yes.iter().map(String::as_str).collect::<Vec<_>>(),
            &no.iter().map(String::as_str).collect::<Vec<_>>(),
        );
    };
    check("*.txt", &["a.txt", ".txt"], &["a.txt.gz", "txt"]);
    check("dir/*/x*", &["dir/a/x", "dir/a/b/xyz"], &["dir/x", "a/dir/b/x"]);
    check("*a*b*", &["ab", "xaxbx", "aab"], &["ba", "a"]);
    check("a*a", &["aa", "aba"], &["a", "ab"]);
    check("*", &["", "x"], &[]);
    check("", &[""], &["x"]);
    check(r"a\*b\\", &[r"a*b\"], &["axb"]);
    check("ab*ab", &["abab", "abxab"], &["ab", "aab"]);
}

#[test]
fn numbers_are_compared_by_bounds() {
    fits(
        r#"{"n": [{"numeric": [">", 0, "<=", 5]}]}"#,
        &[r#"{"n": 0.5}"#, r#"{"n": 5}"#, r#"{"n": [9, 1]}"#],
        &[r#"{"n": 0}"#, r#"{"n": 5.1}"#, r#"{"n": "1"}"#, "{}"],
    );
    fits(
        r#"{"n": [{"numeric": ["=", 3e2]}]}"#,
        &[r#"{"n": 300}"#],
        &[r#"{"n": 301}"#],
    );
    fits(
        r#"{"n": [{"numeric": ["<", -1]}, 7]}"#,
        &[r#"{"n": -2}"#, r#"{"n": 7}"#],
        &[r#"{"n": -1}"#],
    );
}

#[test]
fn anything_but_needs_a_value() {
    fits(
        r#"{"a": [{"anything-but": ["x", 1]}]}"#,
        &[r#"{"a": "y"}"#, r#"{"a": 2}"#, r#"{"a": null}"#],
        &[r#"{"a": "x"}"#, r#"{"a": 1}"#, "{}"],
    );
    fits(
        r#"{"a": [{"anything-but": "x"}]}"#,
        &[r#"{"a": "y"}"#],
        &[r#"{"a": "x"}"#],
    );
    fits(
        r#"{"a": [{"anything-but": {"prefix": ["us-", "eu-"]}}]}"#,
        &[r#"{"a": "ap-1"}"#],
        &[r#"{"a": "us-1"}"#, r#"{"a": "eu-1"}"#, "{}"],
    );
    fits(
        r#"{"a": [{"anything-but": {"suffix": ".png"}}]}"#,
        &[r#"{"a": "x"}"#],
        &[r#"{"a": "x.png"}"#],
    );
    fits(
        r#"{"a": [{"anything-but": {"equals-ignore-case": "X"}}]}"#,
        &[r#"{"a": "y"}"#],
        &[r#"{"a": "x"}"#],
    );
    fits(
        r#"{"a": [{"anything-but": {"wildcard": "*/lib/*"}}]}"#,
        &[r#"{"a": "/bin/"}"#],
        &[r#"{"a": "/lib/x"}"#],
    );
}

#[test]
fn existence_is_that_of_a_leaf() {
    fits(
        r#"{"a": [{"exists": true}]}"#,
        &[r#"{"a": null}"#, r#"{"a": ""}"#, r#"{"a": [1]}"#],
        &["{}", r#"{"a": {"b": 1}}"#, r#"{"a": []}"#],
    );
    fits(
        r#"{"a": [{"exists": false}]}"#,
        &["{}", r#"{"b": 1}"#],
        &[r#"{"a": null}"#],
    );
    fits(
        r#"{"a": {"b": [{"exists": false}]}}"#,
        &["{}", r#"{"a": {}}"#, r#"{"a": {"c": 1}}"#],
        &[r#"{"a": {"b": 1}}"#],
    );
    fits(
        r#"{"a": ["x", {"exists": false}]}"#,
        &["{}", r#"{"a": "x"}"#],
        &[r#"{"a": "y"}"#],
    );
}

#[test]
fn networks_hold_addresses() {
    fits(
        r#"{"ip": [{"cidr": "10.0.0.0/24"}]}"#,
        &[r#"{"ip": "10.0.0.255"}"#],
        &[r#"{"ip": "10.0.1.0"}"#, r#"{"ip": "x"}"#, r#"{"ip": "::a00:1"}"#],
    );
    fits(
        r#"{"ip": [{"cidr": "0.0.0.0/0"}]}"#,
        &[r#"{"ip": "8.8.8.8"}"#],
        &[r#"{"ip": "::1"}"#],
    );
    fits(
        r#"{"ip": [{"cidr": "2001:db8::/32"}]}"#,
        &[r#"{"ip": "2001:db8:1::1"}"#],
        &[r#"{"ip": "2001:db9::1"}"#],
    );
}

#[test]
fn one_alternative_must_fit() {
    fits(
        r#"{"a": [1], "$or": [{"b": ["x"]}, {"c": [{"numeric": [">", 5]}]}]}"#,
        &[r#"{"a": 1, "b": "x"}"#, r#"{"a": 1, "c": 6}"#],
        &[r#"{"a": 1}"#, r#"{"a": 2, "b": "x"}"#, r#"{"a": 1, "b": "y", "c": 5}"#],
    );
    // Two groups at two depths.
    fits(
        r#"{"$or": [{"a": {"$or": [{"b": [1]}, {"c": [1]}]}}, {"d": [1]}]}"#,
        &[r#"{"a": {"c": 1}}"#, r#"{"d": 1}"#],
        &[r#"{"a": {"d": 1}}"#],
    );
}

#[test]
fn what_is_no_pattern_is_refused() {
    use InvalidPattern::*;
    let check = |text: &str, expected: fn(&InvalidPattern) -> bool| {
        let error = Pattern::parse(text).expect_err(text);
        assert!(expected(&error), "{text}: {error:?}");
    };
    for text in ["", "[]", "1", "{", "{\"a\": [1]} x", "\"x\""] {
        check(text, |error| *error == NotAnObject);
    }
    for text in [
        r#"{"a": 1}"#,
        r#"{"a": "x"}"#,
        r#"{"a": []}"#,
        r#"{"a": {}}"#,
        r#"{"a": [[1]]}"#,
        r#"{"a": null}"#,
    ] {
        check(text, |error| matches!(error, NotALeaf(_)));
    }
    for text in [
        r#"{"a": [{"like": "x"}]}"#,
        r#"{"a": [{}]}"#,
        r#"{"a": [{"prefix": "x", "suffix": "y"}]}"#,
    ] {
        check(text, |error| matches!(error, UnknownOperator(_)));
    }
    for argument in [
        r#"{"prefix": 1}"#,
        r#"{"exists": "yes"}"#,
        r#"{"numeric": []}"#,
        r#"{"numeric": [">", "1"]}"#,
        r#"{"numeric": ["<", 5, ">", 0]}"#,
        r#"{"numeric": [">", 5, "<", 0]}"#,
        r#"{"numeric": ["!", 5]}"#,
        r#"{"cidr": "10.0.0.0"}"#,
        r#"{"cidr": "10.0.0.0/33"}"#,
        r#"{"wildcard": "a**b"}"#,
        r#"{"wildcard": "a\\x"}"#,
        r#"{"anything-but": [true]}"#,
        r#"{"anything-but": []}"#,
        r#"{"equals-ignore-case": ["x"]}"#,
    ] {
        check(&format!(r#"{{"a": [{argument}]}}"#), |error| {
            matches!(error, Argument { .. })
        });
    }
    check(&format!(r#"{{"a": ["{}"]}}"#, "x".repeat(PATTERN_CHARS_MAX)), |error| {
        matches!(error, TooLong(_))
    });
    let deep = format!("{}[1]{}", r#"{"a":"#.repeat(DEPTH_MAX + 1), "}".repeat(DEPTH_MAX + 1));
    check(&deep, |error| *error == TooDeep);
    let two = r#"[{"a":[1]},{"b":[1]}]"#;
    let wide: Vec<String> = (0..10).map(|at| format!(r#""k{at}":{{"$or":{two}}}"#)).collect();
    check(&format!("{{{}}}", wide.join(",")), |error| {
        *error == TooManyAlternatives
    });
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(pattern in "\\PC{0,60}", event in "\\PC{0,60}") {
        let _ = check(&pattern, event.as_bytes());
    }

    #[test]
    fn a_value_fits_the_pattern_made_of_it(value in "[a-z*\\\\]{0,8}", other in "[a-z]{0,8}") {
        let pattern = serde_json::json!({ "a": [value] }).to_string();
        let event = |text: &str| serde_json::json!({ "a": text }).to_string();
        prop_assert_eq!(check(&pattern, event(&value).as_bytes()), Ok(Some(true)));
        prop_assert_eq!(check(&pattern, event(&other).as_bytes()), Ok(Some(other == value)));
    }

    #[test]
    fn wildcards_agree_with_a_slow_reading(pattern in "[ab*]{0,7}", text in "[ab]{0,8}") {
        if let Some(parts) = glob::parse(&pattern) {
            prop_assert_eq!(glob::matches(&parts, &text), slow(pattern.as_bytes(), text.as_bytes()));
        }
    }
}

fn slow(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => slow(rest, text) || (!text.is_empty() && slow(pattern, &text[1..])),
        ([first, rest @ ..], [actual, left @ ..]) => first == actual && slow(rest, left),
        _ => false,
    }
}
