//! Commands that can be checkpointed: the word alone stops them, and they go on from what they left.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bowline_sandbox::suspension::{CHECKPOINT_VARIABLE, Kept};
use bowline_sandbox::{Backend, Control, Frozen, Keeper, LogSink, Outcome, Sandbox, Suspendable, Suspension, Wish};
use bytes::Bytes;
use serde_json::json;

use crate::guests::Bench;

const WASI: &str = "wasi_snapshot_preview1";
const ENDLESS: &str = r#"(module (memory (export "memory") 1) (func (export "_start") (loop $l (br $l))))"#;

/// Counts for a while, then answers `7`.
fn counter() -> String {
    format!(
        r#"(module (import "{WASI}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "\08\00\00\00\01\00\00\007")
        (func (export "_start") (local $n i32)
            (loop $l (br_if $l (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 1000000))))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 100)))))"#
    )
}

/// Grows its memory by so many pages; exits with 0 if it got them.
fn growing(pages: u32) -> String {
    format!(
        r#"(module (import "{WASI}" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (func (export "_start") (call $exit (i32.eq (memory.grow (i32.const {pages})) (i32.const -1)))))"#
    )
}

/// Says something, sleeps for [`SLEEP`], and answers `7`: nowhere in between can it stop.
fn sleeper() -> String {
    format!(
        r#"(module (import "{WASI}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (import "{WASI}" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "\08\00\00\00\01\00\00\007")
        (func (export "_start")
            (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 100)))
            (i32.store (i32.const 272) (i32.const 1))
            (i64.store (i32.const 280) (i64.const {nanos}))
            (drop (call $poll (i32.const 256) (i32.const 512) (i32.const 1) (i32.const 600)))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 100)))))"#,
        nanos = SLEEP.as_nanos()
    )
}

const SLEEP: Duration = Duration::from_millis(300);

/// Asks for a copy as soon as the guest says something.
struct Asking(Option<Arc<Control>>);

impl LogSink for Asking {
    fn write(&self, _bytes: &[u8]) {
        if let Some(control) = &self.0 {
            control.ask(Wish::Copy);
        }
    }
}

fn bench(text: &str) -> Bench {
    let mut bench = Bench::of_text(text);
    let version = Arc::get_mut(&mut bench.version).unwrap();
    version
        .environment
        .insert(CHECKPOINT_VARIABLE.to_owned(), "on".to_owned());
    version.timeout = Duration::from_secs(20);
    bench
}

async fn start(bench: &Bench) -> Box<dyn Sandbox> {
    let sandbox = bench.start().await;
    assert_eq!(bench.backend.suspendable(&bench.version), Suspendable::Yes);
    sandbox
}

/// Counts what it is given.
#[derive(Default)]
struct Counting(AtomicU32);

#[async_trait]
impl Keeper for Counting {
    async fn keep(&self, frozen: Frozen) -> Kept {
        assert!(!frozen.bytes.is_empty());
        self.0.fetch_add(1, Ordering::SeqCst);
        Kept::GoOn
    }
}

/// One invocation of which something is asked before it begins.
async fn asked(
    bench: &Bench,
    sandbox: &mut Box<dyn Sandbox>,
    wish: Option<Wish>,
    from: Option<Bytes>,
) -> (Outcome, u32) {
    let keeper = Arc::new(Counting::default());
    let control = Arc::new(Control::default());
    if let Some(wish) = wish {
        control.ask(wish);
    }
    let mut invocation = bench.invocation(&json!({}));
    invocation.suspension = Some(Suspension {
        control,
        keeper: keeper.clone(),
        from,
    });
    let outcome = sandbox.invoke(invocation).await.outcome;
    (outcome, keeper.0.load(Ordering::SeqCst))
}

#[tokio::test]
async fn a_deadline_ends_a_loop_that_no_epoch_reaches() {
    let mut bench = bench(ENDLESS);
    Arc::get_mut(&mut bench.version).unwrap().timeout = Duration::from_millis(200);
    let mut sandbox = start(&bench).await;
    let outcome = sandbox.invoke(bench.invocation(&json!({}))).await.outcome;
    let Outcome::Failed(error) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(error.error_type, "Sandbox.Timedout");
    sandbox.destroy().await;
}

#[tokio::test]
async fn a_dropped_invocation_ends_its_guest() {
    let bench = bench(ENDLESS);
    let mut sandbox = start(&bench).await;
    let invocation = bench.invocation(&json!({}));
    let late = tokio::time::timeout(Duration::from_millis(100), sandbox.invoke(invocation)).await;
    assert!(late.is_err(), "the control: it runs for ever");
    sandbox.destroy().await;
}

/// A guest that is asked to stop while it sleeps, and then ends, has slept all the same.
#[tokio::test]
async fn a_sleep_is_not_cut_short_by_a_wish() {
    for is_asked in [false, true] {
        let bench = bench(&sleeper());
        drop(start(&bench).await);
        let control = Arc::new(Control::default());
        let sink = Arc::new(Asking(is_asked.then(|| control.clone())));
        let mut sandbox = bench.backend.create(bench.version.clone(), sink).await.unwrap();
        let mut invocation = bench.invocation(&json!({}));
        invocation.suspension = Some(Suspension {
            control,
            keeper: Arc::new(Counting::default()),
            from: None,
        });
        let report = sandbox.invoke(invocation).await;
        assert_eq!(report.outcome, Outcome::Success("7".into()), "asked: {is_asked}");
        assert!(report.usage.duration >= SLEEP, "asked: {is_asked}: {report:?}");
        sandbox.destroy().await;
    }
}

/// The save memory, which is much larger, does not count.
#[tokio::test]
async fn the_memory_limit_is_the_guest_s() {
    for (pages, fits) in [(16, true), (2 * 1024, false)] {
        let bench = bench(&growing(pages));
        let mut sandbox = start(&bench).await;
        let outcome = sandbox.invoke(bench.invocation(&json!({}))).await.outcome;
        assert_eq!(
            matches!(outcome, Outcome::Success(_)),
            fits,
            "{pages} pages: {outcome:?}"
        );
    }
}

#[tokio::test]
async fn a_guest_leaves_a_checkpoint_and_goes_on() {
    let bench = bench(&counter());
    let mut sandbox = start(&bench).await;
    let (outcome, kept) = asked(&bench, &mut sandbox, None, None).await;
    assert_eq!(
        (outcome, kept),
        (Outcome::Success("7".into()), 0),
        "the control: nobody asks"
    );
    let (outcome, kept) = asked(&bench, &mut sandbox, Some(Wish::Copy), None).await;
    assert_eq!((outcome, kept), (Outcome::Success("7".into()), 1));
}

#[tokio::test]
async fn a_guest_leaves_and_goes_on_in_another_sandbox_and_under_no_other_key() {
    let bench = bench(&counter());
    let mut first = start(&bench).await;
    let (outcome, kept) = asked(&bench, &mut first, Some(Wish::Leave), None).await;
    let Outcome::Suspended(frozen) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(kept, 0, "it is not kept, it is given");
    let facts = bench.backend.inspect(&frozen.bytes).unwrap();
    assert_eq!((facts.frames, facts.memory_bytes), (1, 65_536));
    first.destroy().await;
    let mut second = start(&bench).await;
    let (outcome, _) = asked(&bench, &mut second, None, Some(frozen.bytes.clone())).await;
    assert_eq!(outcome, Outcome::Success("7".into()));
    let mut changed = frozen.bytes.to_vec();
    changed[100] ^= 1;
    let (outcome, _) = asked(&bench, &mut second, None, Some(changed.into())).await;
    assert!(
        matches!(&outcome, Outcome::Broken(reason) if reason.contains("signature")),
        "{outcome:?}"
    );
    // Another process has another key.
    let other = self::bench(&counter());
    let mut elsewhere = start(&other).await;
    let (outcome, _) = asked(&other, &mut elsewhere, None, Some(frozen.bytes)).await;
    assert!(
        matches!(&outcome, Outcome::Broken(reason) if reason.contains("signature")),
        "{outcome:?}"
    );
}
