//! Guests that another thread asks to stop by the word, as a node does.

use std::sync::{Arc, OnceLock, mpsc};

use bowline_checkpoint::engine::{CaptureError, Outcome, Prepared, Stopper};
use bowline_checkpoint::{Options, Poll, Value};
use wasmtime::{Linker, Store, Val};

use crate::run::{engine, options};

/// Counts until somebody writes to its memory, which no run of its own does.
const ENDLESS: &str = "(module (import \"host\" \"running\" (func $running)) (memory (export \"memory\") 1)
    (func (export \"run\") (result i64) (local $count i64)
        (call $running)
        (loop $l
            (local.set $count (i64.add (local.get $count) (i64.const 1)))
            (br_if $l (i32.eqz (i32.load (i32.const 128)))))
        (local.get $count)))";

/// Stores nothing, loads nothing, calls nothing.
const EMPTY: &str = "(module (import \"host\" \"running\" (func $running))
    (func (export \"run\") (call $running) (loop $l (br $l))))";

fn prepare(text: &str) -> Prepared {
    let module = wat::parse_str(text).expect("the text is a module");
    Prepared::new(engine(), &module, options(Poll::Word)).expect("it can be stopped")
}

/// Runs a guest on a thread of its own, asks it to stop once it runs, and gives what it left.
fn stopped(prepared: &Prepared) -> Result<bowline_checkpoint::Checkpoint, CaptureError> {
    let (running, runs) = mpsc::channel();
    let mut linker = Linker::new(engine());
    linker
        .func_wrap("host", "running", move || running.send(()).expect("the test waits"))
        .expect("the name is free");
    let mut store = Store::new(engine(), ());
    let guest = prepared.instantiate(&mut store, &linker).expect("its import is there");
    let stopper = guest.stopper();
    let asker = std::thread::spawn(move || {
        runs.recv().expect("the guest runs");
        stopper.request().expect("the word can be set");
    });
    let outcome = guest.call(&mut store, "run", &[]).expect("it does not fail");
    asker.join().expect("the asker ends well");
    assert!(matches!(outcome, Outcome::Stopped), "{outcome:?}");
    prepared.capture(&guest, &mut store, Vec::new())
}

fn silent() -> Linker<()> {
    let mut linker = Linker::new(engine());
    linker.func_wrap("host", "running", || {}).expect("the name is free");
    linker
}

#[test]
fn a_running_loop_stops_when_asked_and_goes_on() {
    let prepared = prepare(ENDLESS);
    let mut checkpoint = stopped(&prepared).unwrap();
    let counted = checkpoint.frames[0].values.clone();
    // The end of the loop comes from outside: the guest goes on and finds it.
    let mut page = vec![0; bowline_checkpoint::Page::BYTES];
    page[128] = 1;
    checkpoint.memories[0].pages = vec![bowline_checkpoint::Page {
        index: 0,
        bytes: page.into(),
    }];
    let mut store = Store::new(engine(), ());
    let mut guest = prepared.restore(&mut store, &silent(), &checkpoint).unwrap();
    let Outcome::Finished(results) = guest.resume(&mut store).unwrap() else {
        panic!("nobody asked it to stop again")
    };
    let [Val::I64(count)] = results[..] else {
        panic!("{results:?}")
    };
    let [Value::I64(before)] = counted[..] else {
        panic!("{counted:?}")
    };
    assert_eq!(count, before.cast_signed() + 1, "the count goes on where it stood");
}

#[test]
fn a_loop_that_does_nothing_stops_when_asked() {
    let prepared = prepare(EMPTY);
    let checkpoint = stopped(&prepared).unwrap();
    assert_eq!(checkpoint.frames.len(), 1);
    let mut store = Store::new(engine(), ());
    let mut guest = prepared.restore(&mut store, &silent(), &checkpoint).unwrap();
    guest.stopper().request().unwrap();
    assert!(
        matches!(guest.resume(&mut store), Ok(Outcome::Stopped)),
        "it was asked before it went on"
    );
    assert_eq!(prepared.continuations(), 1, "the same place again");
}

/// A request that comes while a guest is stopped is not lost when it goes on in place; the next one is not made up.
#[test]
fn a_guest_that_goes_on_in_place_heeds_who_asked_meanwhile() {
    let prepared = prepare(EMPTY);
    let mut store = Store::new(engine(), ());
    let mut guest = prepared.instantiate(&mut store, &silent()).unwrap();
    assert!(prepared.go_on(&mut guest, &mut store).is_err(), "it has not stopped");
    guest.stopper().request().unwrap();
    let outcome = guest.call(&mut store, "run", &[]).unwrap();
    assert!(matches!(outcome, Outcome::Stopped));
    guest.stopper().request().unwrap();
    prepared.go_on(&mut guest, &mut store).unwrap();
    let late = prepared.capture(&guest, &mut store, Vec::new());
    assert!(matches!(late, Err(CaptureError::NotStopped)), "it is about to go on");
    assert!(prepared.go_on(&mut guest, &mut store).is_err(), "once is enough");
    let outcome = guest.resume(&mut store).unwrap();
    assert!(matches!(outcome, Outcome::Stopped), "it was asked while it was stopped");
    prepared.go_on(&mut guest, &mut store).unwrap();
    let stopper = guest.stopper();
    let asker = std::thread::spawn(move || stopper.request().expect("the word can be set"));
    let outcome = guest.resume(&mut store).unwrap();
    asker.join().expect("the asker ends well");
    assert!(matches!(outcome, Outcome::Stopped), "it ran until it was asked again");
    assert_eq!(prepared.continuations(), 1);
}

#[test]
fn a_guest_that_has_not_stopped_is_not_captured() {
    let prepared = prepare("(module (func (export \"run\") (loop (nop))))");
    let mut store = Store::new(engine(), ());
    let guest = prepared.instantiate(&mut store, &silent()).unwrap();
    let outcome = guest.call(&mut store, "run", &[]).unwrap();
    assert!(matches!(outcome, Outcome::Finished(_)), "nobody asked");
    let captured = prepared.capture(&guest, &mut store, Vec::new());
    assert!(matches!(captured, Err(CaptureError::NotStopped)));
}

#[test]
fn a_stopped_guest_is_not_called_again() {
    let prepared = prepare(EMPTY);
    let mut store = Store::new(engine(), ());
    let guest = prepared.instantiate(&mut store, &silent()).unwrap();
    guest.stopper().request().unwrap();
    assert!(matches!(guest.call(&mut store, "run", &[]), Ok(Outcome::Stopped)));
    assert!(
        guest.call(&mut store, "run", &[]).is_err(),
        "its frames are still there"
    );
    assert!(guest.start(&mut store).is_err());
    let checkpoint = prepared.capture(&guest, &mut store, Vec::new()).unwrap();
    let mut store = Store::new(engine(), ());
    let restored = prepared.restore(&mut store, &silent(), &checkpoint).unwrap();
    assert!(
        restored.call(&mut store, "run", &[]).is_err(),
        "it has not gone on with its call"
    );
}

/// The guest has no index for the word and the save memory: what it writes to its own memories stays there.
#[test]
fn a_guest_cannot_reach_the_word_or_its_frames() {
    let text = "(module (memory (export \"memory\") 1)
        (func (export \"run\") (result i32)
            (memory.fill (i32.const 0) (i32.const 2) (i32.const 65536))
            (loop (nop))
            (i32.load (i32.const 0))))";
    let prepared = prepare(text);
    let mut store = Store::new(engine(), ());
    let guest = prepared.instantiate(&mut store, &silent()).unwrap();
    let Outcome::Finished(results) = guest.call(&mut store, "run", &[]).unwrap() else {
        panic!("nobody asked it to stop")
    };
    assert!(matches!(results[..], [Val::I32(0x0202_0202)]));
    let second = wat::parse_str("(module (memory 1) (func (drop (i32.load 1 (i32.const 0)))))").unwrap();
    let refused = Prepared::new(engine(), &second, Options::default());
    assert!(
        refused.is_err(),
        "an index beyond the module's own memories is not valid"
    );
}

/// What `$i` is where a guest stops that was asked to before its endless code, in which `$i` begins with `start`.
fn stopped_with(start: i32, code: &str) -> i32 {
    let text = format!(
        "(module (import \"host\" \"ask\" (func $ask)) (memory 1)
            (func (export \"run\") (local $n i32) (local $i i32)
                (call $ask) (local.set $n (i32.const 1)) (local.set $i (i32.const {start})) {code}))"
    );
    let prepared = prepare(&text);
    let stopper = Arc::new(OnceLock::<Stopper>::new());
    let asked = Arc::clone(&stopper);
    let mut linker = Linker::new(engine());
    let ask = move || asked.get().expect("the guest is there").request();
    linker.func_wrap("host", "ask", ask).expect("the name is free");
    let mut store = Store::new(engine(), ());
    let guest = prepared.instantiate(&mut store, &linker).expect("its import is there");
    assert!(stopper.set(guest.stopper()).is_ok());
    let outcome = guest.call(&mut store, "run", &[]).expect("it does not fail");
    assert!(matches!(outcome, Outcome::Stopped), "{outcome:?}");
    let checkpoint = prepared
        .capture(&guest, &mut store, Vec::new())
        .expect("it has stopped");
    match checkpoint.frames[0].values.last() {
        Some(Value::I32(value)) => value.cast_signed(),
        values => panic!("{values:?}"),
    }
}

#[test]
fn a_loop_that_counts_its_rounds_looks_once_in_sixty_four() {
    let by = |step: i32| format!("(local.set $i (i32.add (local.get $i) (i32.const {step})))");
    assert_eq!(stopped_with(1, &format!("(loop $l {} (br $l))", by(1))), 64);
    assert_eq!(stopped_with(5, &format!("(loop $l {} (br $l))", by(-1))), 0);
    assert_eq!(stopped_with(9, &format!("(loop $l {} (br $l))", by(8))), 513);
    assert_eq!(
        stopped_with(9, &format!("(loop $l {} (br $l))", by(-24))),
        9 - 43 * 24,
        "in whichever order the bits come"
    );
    let left = format!(
        "(loop $l (block $b (br_if $b (local.get $n)) (return)) {} (br $l))",
        by(1)
    );
    assert_eq!(stopped_with(1, &left), 64, "ways out of the loop come back to no head");
    let last = "(loop $l (br_if $l (local.tee $i (i32.add (local.get $i) (i32.const 3)))))";
    assert_eq!(stopped_with(3, last), 192);
    let both = format!(
        "(loop $l {} (local.set $n (i32.add (local.get $n) (i32.const -1))) (br $l))",
        by(1)
    );
    assert_eq!(
        stopped_with(60, &both),
        61,
        "of two the one that falls, here from 1 to 0"
    );
}

#[test]
fn a_loop_that_does_not_count_each_round_looks_in_each() {
    let by = |step: i32| format!("(local.set $i (i32.add (local.get $i) (i32.const {step})))");
    let one = by(1);
    let others = [
        format!("(loop $l {} (br $l))", by(0)),
        format!("(loop $l {} (br $l))", by(1 << 30)),
        format!("(loop $l (block $b (br_if $b (local.get $n)) {one}) (br $l))"),
        format!("(loop $l (br_if $l (local.get $n)) {one} (br $l))"),
        format!("(loop $l (if (i32.eqz (local.get $n)) (then {one})) (br $l))"),
        format!("(loop $l (if (local.get $n) (then) (else {one})) (br $l))"),
        format!("(loop $l {one} {} (br $l))", by(-1)),
        format!("(loop $l {one} (local.set $i (i32.const 1)) (br $l))"),
        // The head inside is all that the rounds of the loop around pass.
        "(loop $o (local.set $i (i32.const 1))
            (loop $l (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 4))))
            (br $o))"
            .to_owned(),
        "(loop $l (memory.fill (i32.const 0) (local.get $n) (i32.const 9)) (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br $l))"
            .to_owned(),
    ];
    for code in others {
        assert_eq!(stopped_with(1, &code), 1, "{code}");
    }
}
