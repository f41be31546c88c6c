//! Reactors that ask the platform.

use std::sync::Arc;

use async_trait::async_trait;
use bowline_sandbox::{PLATFORM_BODY_BYTES_MAX, Platform, PlatformRequest, PlatformResponse, Report};
use serde_json::{Value, json};

use crate::guests::{Bench, answer, error};

/// A platform that answers with what it was asked.
struct Echo;

#[async_trait]
impl Platform for Echo {
    async fn ask(&self, request: PlatformRequest) -> PlatformResponse {
        // As one that waits for a store.
        tokio::task::yield_now().await;
        let body = String::from_utf8_lossy(&request.body).into_owned();
        PlatformResponse {
            status: 200,
            exception: None,
            body: json!([request.method, request.target, body]).to_string().into(),
        }
    }
}

/// A reactor that asks with these addresses and lengths, and answers with what it was told.
fn asking(parts: [i64; 6], answer_at: i64) -> Bench {
    let parts = parts.map(|part| format!("(i32.const {part})")).join(" ");
    Bench::of_text(&format!(
        r#"(module
            (import "bowline_v1" "ask" (func $ask (param i32 i32 i32 i32 i32 i32) (result i64)))
            (import "bowline_v1" "answer" (func $answer (param i32)))
            (memory (export "memory") 1)
            (data (i32.const 16) "POST/v1/knots{{}}")
            (func (export "bowline_v1_reserve") (param i32) (result i32) i32.const 4096)
            (func (export "bowline_v1_invoke") (param i32) (result i64) (local $packed i64)
                (local.set $packed (call $ask {parts}))
                (call $answer (i32.const {answer_at}))
                (i64.or
                    (i64.shl (i64.const {answer_at}) (i64.const 32))
                    (i64.and (local.get $packed) (i64.const 0xffffffff)))))"#
    ))
}

const GOOD: [i64; 6] = [16, 4, 20, 9, 29, 2];
const ANSWER_AT: i64 = 32_768;

async fn ask(bench: &Bench, platform: bool) -> Report {
    let mut sandbox = bench.start().await;
    let mut invocation = bench.invocation(&json!(1));
    invocation.platform = platform.then(|| Arc::new(Echo) as Arc<dyn Platform>);
    let report = sandbox.invoke(invocation).await;
    sandbox.destroy().await;
    report
}

async fn told(parts: [i64; 6], platform: bool) -> Value {
    answer(&ask(&asking(parts, ANSWER_AT), platform).await.outcome)
}

#[tokio::test]
async fn a_reactor_is_answered_what_it_asks() {
    assert_eq!(told(GOOD, true).await, json!(["POST", "/v1/knots", "{}"]));
    assert_eq!(told([16, 4, 20, 9, 0, 0], true).await, json!(["POST", "/v1/knots", ""]));
    let refused = told(GOOD, false).await;
    assert_eq!(refused["error"], "AccessDeniedException", "the control: {refused}");
}

#[tokio::test]
async fn what_is_too_large_is_refused_by_an_answer() {
    let body = i64::try_from(PLATFORM_BODY_BYTES_MAX).unwrap() + 1;
    for parts in [
        [16, 17, 20, 9, 29, 2],
        [16, 4, 20, 8193, 29, 2],
        [16, 4, 20, 9, 29, body],
    ] {
        assert_eq!(
            told(parts, true).await["error"],
            "RequestTooLargeException",
            "{parts:?}"
        );
    }
}

#[tokio::test]
async fn addresses_outside_the_guests_memory_end_it() {
    for parts in [
        [-4, 4, 20, 9, 29, 2],
        [16, 4, 65_530, 9, 29, 2],
        [16, 4, 20, 9, 65_535, 2],
        [16, 4, 20, 9, 0, 65_537],
    ] {
        let report = ask(&asking(parts, ANSWER_AT), true).await;
        assert_eq!(error(&report.outcome).0, "Runtime.ExitError", "{parts:?}");
        assert!(!report.reusable);
    }
    for answer_at in [-1, 65_530] {
        let report = ask(&asking(GOOD, answer_at), true).await;
        assert_eq!(error(&report.outcome).0, "Runtime.ExitError", "{answer_at}");
    }
}
