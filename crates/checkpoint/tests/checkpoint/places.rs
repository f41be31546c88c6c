//! Places that are not needed, and what holds where there are none: each case beside one in which they are.

use std::sync::mpsc;

use bowline_checkpoint::engine::{Outcome, Prepared, Stopper};
use bowline_checkpoint::{Options, Place, Plan, Poll};
use wasmtime::{Caller, Linker, Store, Val};

use crate::run::{Subject, engine, options};

fn plan_of(text: &str) -> Plan {
    let module = wat::parse_str(text).expect("the text is a module");
    Plan::new(module, Options::default()).expect("it can be stopped")
}

/// How many places the functions of a module have, in the order of the functions.
fn places(text: &str) -> Vec<usize> {
    let plan = plan_of(text);
    let of = |function| {
        (0..)
            .take_while(|&place| plan.layout(function, place).is_some())
            .count()
    };
    (0..).map(of).take(plan.functions().0).collect()
}

const SPIN: &str = "(func $spin (param $n i32) (result i32)
    (loop $l (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (i32.const 7))";

/// A module with the function `$spin` and an exported one of this body.
fn run(body: &str) -> String {
    format!("(module {SPIN} (func (export \"run\") (param $n i32) (result i32) (local $i i32) {body}))")
}

#[track_caller]
fn check(text: &str, places_of_run: usize, hops_min: usize) -> Subject {
    assert_eq!(places(text), [1, places_of_run]);
    let subject = Subject::text(text, "run", &[Val::I32(5)]);
    let hops = subject.check();
    assert!(hops >= hops_min, "{hops} hops");
    subject
}

#[test]
fn a_call_whose_results_are_returned_as_they_are_needs_no_place() {
    let last = [
        "(call $spin (local.get $n))",
        "(return (call $spin (local.get $n)))",
        "(drop (i32.const 1)) (block (result i32) (br 1 (call $spin (local.get $n))))",
        "(if (result i32) (local.get $n) (then (call $spin (local.get $n))) (else (i32.const 1)))",
        "(i32.const 3) (return (call $spin (local.get $n)))",
    ];
    for body in last {
        check(&run(body), 0, 5);
    }
    let not_last = [
        "(i32.add (call $spin (local.get $n)) (i32.const 1))",
        "(drop (call $spin (local.get $n))) (i32.const 1)",
        "(i32.const 9) (drop (call $spin (local.get $n)))",
    ];
    for body in not_last {
        check(&run(body), 1, 6);
    }
}

/// Who calls itself polls at its entry, or two such calls on each level would run for hours; the last one needs no place.
#[test]
fn a_last_call_on_a_cycle_of_calls_needs_no_place() {
    let text = "(module (func $down (export \"run\") (param $n i32) (result i32)
        (if (i32.eqz (local.get $n)) (then (return (i32.const 1))))
        (drop (call $down (i32.sub (local.get $n) (i32.const 1))))
        (call $down (i32.sub (local.get $n) (i32.const 1)))))";
    assert_eq!(places(text), [2]);
    Subject::text(text, "run", &[Val::I32(4)]).check();
}

#[test]
fn a_loop_whose_rounds_pass_other_places_needs_none_at_its_head() {
    let next = "(br_if $o (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 4)))";
    let inner = "(loop $l (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))";
    let polled = [
        (format!("(loop $o (drop (call $spin (local.get $n))) {next})"), 1),
        (format!("(loop $o (local.set $n (i32.const 3)) {inner} {next})"), 1),
        (
            format!(
                "(loop $o (if (local.get $n) (then (drop (call $spin (i32.const 1)))) (else (drop (call $spin (i32.const 2)))))
                    {next})"
            ),
            2,
        ),
        ("(loop $o (local.set $i (i32.const 3)))".to_owned(), 0),
    ];
    for (body, places) in polled {
        check(&run(&format!("{body} (local.get $i)")), places, places);
    }
    let not_polled = [
        format!("(loop $o (if (local.get $n) (then (drop (call $spin (i32.const 1))))) {next})"),
        format!("(loop $o {next} (drop (call $spin (i32.const 2))) {next})"),
        format!("(loop $o (block $b (br_if $b (local.get $n)) (drop (call $spin (i32.const 2)))) {next})"),
    ];
    for body in not_polled {
        let text = run(&format!("{body} (local.get $i)"));
        let plan = plan_of(&text);
        assert_eq!(
            plan.layout(1, 0).map(|layout| &layout.place),
            Some(&Place::Loop),
            "{body}"
        );
        Subject::text(&text, "run", &[Val::I32(5)]).check();
    }
}

/// A callee that throws, which polls at its entry, does not come back to the place behind it.
#[test]
fn a_loop_whose_call_may_throw_keeps_its_place() {
    let text = "(module (tag $e)
        (func $spin (param $n i32) (loop $l (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1))))) (throw $e))
        (func (export \"run\") (param $n i32) (result i32) (local $i i32)
            (loop $o
                (block $caught (try_table (catch $e $caught) (call $spin (i32.const 3))))
                (br_if $o (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 4))))
            (local.get $i)))";
    assert_eq!(places(text), [2, 2]);
    let hops = Subject::text(text, "run", &[Val::I32(5)]).check();
    assert!(hops >= 16, "{hops} hops");
}

#[test]
fn nothing_is_saved_behind_a_call_that_is_not_meant_to_return() {
    let text = "(module (memory (export \"memory\") 1)
        (func $fail (loop $l (i32.store (i32.const 0) (i32.add (i32.load (i32.const 0)) (i32.const 1)))
            (br_if $l (i32.lt_u (i32.load (i32.const 0)) (i32.const 9)))) (unreachable))
        (func (export \"run\") (param $n i32) (result i32)
            (i32.const 4)
            (if (local.get $n) (then (call $fail) (unreachable)))
            (i32.add (local.get $n))))";
    let plan = plan_of(text);
    assert_eq!(plan.layout(1, 0).unwrap().values.len(), 0);
    let subject = Subject::text(text, "run", &[Val::I32(5)]);
    assert!(subject.plain().end.is_err(), "it fails");
    assert!(subject.check() >= 9);
}

/// What returns although it was not meant to ends the guest where the code behind it would have.
#[test]
fn a_call_that_returns_all_the_same_ends_at_the_code_behind_it() {
    let text = format!(
        "(module {SPIN} (func $idle (drop (call $spin (i32.const 4)))) (func (export \"run\") (param i32)
        (call $idle) (unreachable)))"
    );
    let subject = Subject::text(&text, "run", &[Val::I32(5)]);
    let plain = subject.plain();
    assert!(plain.end.is_err(), "the code behind the call is reached");
    assert!(subject.check() >= 4);
}

fn prepared(text: &str) -> Prepared {
    let module = wat::parse_str(text).expect("the text is a module");
    Prepared::new(engine(), &module, options(Poll::Word)).expect("it can be stopped")
}

/// How a run ends that is asked to stop by what it calls as `$ask`, which leaves no place of its own behind.
fn asked(text: &str) -> Outcome {
    let idle = "(nop)".repeat(100);
    let ask = format!(
        "(import \"host\" \"ask\" (func $host)) (memory 1) (func $idle {idle})
        (func $ask (param i32) (if (local.get 0) (then (call $ask (i32.const 0)))) (return_call $host))"
    );
    let prepared = prepared(&format!("(module {ask} {text})"));
    let mut linker = Linker::new(engine());
    let request = |caller: Caller<'_, Option<Stopper>>| {
        let stopper = caller.data().as_ref().expect("it is there before the guest runs");
        stopper.request()
    };
    linker.func_wrap("host", "ask", request).expect("the name is free");
    let mut store = Store::new(engine(), None);
    let guest = prepared.instantiate(&mut store, &linker).expect("the module is whole");
    *store.data_mut() = Some(guest.stopper());
    guest.call(&mut store, "run", &[]).expect("it does not fail")
}

/// Whatever takes long, by itself or on each of many frames.
fn long_work(times: usize) -> [String; 5] {
    let round = "(nop)".repeat(50);
    [
        "(nop)".repeat(4_096 * times),
        "(call $idle)".repeat(41 * times),
        "(memory.fill (i32.const 0) (i32.const 0) (i32.const 9))".repeat(times),
        "(call $host)".repeat(times),
        // Too few rounds to poll, if they are counted from one.
        format!(
            "(local.set $i (i32.const 1))
            (loop {round} (br_if 0 (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 60))))"
        )
        .repeat(2 * times),
    ]
}

#[test]
fn a_stack_that_returns_through_frames_that_do_much_stops() {
    let down = |work: &str| {
        format!(
            "(func $down (param $n i32) (local $i i32)
                (if (local.get $n)
                    (then (call $down (i32.sub (local.get $n) (i32.const 1))))
                    (else (call $ask (i32.const 0))))
                {work})
            (func (export \"run\") (call $down (i32.const 100)))"
        )
    };
    assert!(matches!(asked(&down("(nop)")), Outcome::Finished(_)), "little need not");
    for work in long_work(1) {
        let outcome = asked(&down(&work));
        assert!(matches!(outcome, Outcome::Stopped), "{outcome:?}: {work:.80}");
    }
}

#[test]
fn a_function_that_does_much_by_itself_stops_behind_a_call() {
    let run = |work: &str| {
        let half = |work: &str| format!("(local.set $i (i32.const 1)) {work}");
        format!(
            "(func (export \"run\") (local $i i32) {} (call $ask (i32.const 0)) (nop) {})",
            half(work),
            half(work)
        )
    };
    assert!(matches!(asked(&run("(nop)")), Outcome::Finished(_)), "little need not");
    for work in long_work(16) {
        let outcome = asked(&run(&work));
        assert!(matches!(outcome, Outcome::Stopped), "{outcome:?}: {work:.80}");
    }
}

/// Places behind operators that are no calls, with results and without.
#[test]
fn what_goes_over_much_memory_may_be_stopped_behind() {
    let much = "(i32.const 5)
        (memory.fill (i32.const 0) (i32.const 7) (i32.const 9))
        (memory.copy (i32.const 20) (i32.const 0) (i32.const 4))
        (memory.init $data (i32.const 40) (i32.const 0) (i32.const 3))
        (table.fill $t (i32.const 0) (ref.func $idle) (i32.const 2))
        (table.copy $t $t (i32.const 1) (i32.const 0) (i32.const 1))
        (table.init $t $element (i32.const 0) (i32.const 0) (i32.const 1))
        (local.set $n (i32.add (local.get $n) (i32.add (memory.grow (i32.const 1)) (i32.load (i32.const 20)))))
        (local.set $n (i32.add (local.get $n) (table.grow $t (ref.null func) (i32.const 1))))
        (local.set $n (i32.add (local.get $n)))"
        .repeat(5);
    let text = format!(
        "(module (memory (export \"memory\") 1) (table $t (export \"table\") 2 funcref) (data $data \"abc\") (elem $element func $idle)
            (func $idle) (func (export \"run\") (param $n i32) (result i32) {much} (local.get $n)))"
    );
    assert_eq!(places(&text), [0, 1 + 8 * 5]);
    let hops = Subject::text(&text, "run", &[Val::I32(5)]).check();
    assert_eq!(hops, 1 + 8 * 5);
}

/// Asks a run to stop that has called `$running`; both times it does, and goes on in between.
fn stops_while_it_runs(text: &str) {
    let prepared = prepared(&format!(
        "(module (import \"host\" \"running\" (func $running)) {text})"
    ));
    let (running, runs) = mpsc::channel();
    let mut linker = Linker::new(engine());
    let announce = move || running.send(()).expect("the test waits");
    linker.func_wrap("host", "running", announce).expect("the name is free");
    let mut store = Store::new(engine(), ());
    let mut guest = prepared.instantiate(&mut store, &linker).expect("the module is whole");
    let stopper = guest.stopper();
    let asker = std::thread::spawn(move || {
        runs.recv().expect("the guest runs");
        stopper.request().expect("the word can be set");
        stopper
    });
    let outcome = guest.call(&mut store, "run", &[]);
    assert!(matches!(outcome, Ok(Outcome::Stopped)), "{outcome:?}");
    let stopper = asker.join().expect("it has asked");
    prepared.go_on(&mut guest, &mut store).expect("it can go on");
    stopper.request().expect("the word can be set");
    let outcome = guest.resume(&mut store);
    assert!(matches!(outcome, Ok(Outcome::Stopped)), "{outcome:?}");
}

/// Forty functions that call the next one twice have no loop, and would run for hours.
#[test]
fn work_without_a_loop_stops_when_asked() {
    let next = |level: u32| format!("(func (call {0}) (call {0}))", level + 1);
    let levels: String = (2..40).map(next).collect();
    stops_while_it_runs(&format!(
        "(func (export \"run\") (call $running) (call 2) (call 2)) {levels} (func)"
    ));
}

/// What an engine does not know for a call, in a loop in which nothing else polls, and which would not end.
#[test]
fn a_loop_of_what_is_no_call_stops_when_asked() {
    let fill = "(table.fill $t (i32.const 0) (ref.null func) (i32.const 9))";
    let fills = fill.repeat(32);
    stops_while_it_runs(&format!(
        "(table $t 10 funcref) (func (export \"run\") {fills} (call $running) (loop $l {fill} (br $l)))"
    ));
}

/// Exceptions that are caught pass the places behind calls by.
#[test]
fn a_function_that_catches_again_and_again_stops() {
    let caught = "(block $b (try_table (catch_all $b) (call $throw)))".repeat(100);
    let text = |work: &str| {
        format!(
            "(tag $e) (func $throw {work} (throw $e))
            (func (export \"run\") (call $ask (i32.const 0)) {caught})"
        )
    };
    let outcome = asked(&text("(nop)"));
    assert!(matches!(outcome, Outcome::Stopped), "{outcome:?}");
}
