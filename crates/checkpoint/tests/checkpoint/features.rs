//! Each thing that WebAssembly can do, stopped at every place. Each run is compared with the original module's,
//! and the number of hops shows that it was stopped at all.

use wasmtime::Val;

use crate::run::Subject;

#[track_caller]
fn check(text: &str, arguments: &[Val], hops_min: usize) -> Subject {
    let subject = Subject::text(text, "run", arguments);
    let hops = subject.check();
    assert!(hops >= hops_min, "{hops} hops, at least {hops_min} were expected");
    subject
}

#[test]
fn loops_in_loops_with_operands_waiting_below() {
    let subject = check(
        "(module (memory (export \"memory\") 1) (global $g (export \"g\") (mut i64) (i64.const 5))
            (func (export \"run\") (param $n i32) (result i64) (local $i i32) (local $j i32) (local $sum i64)
                (i64.const 1000)
                (f32.const 1.5)
                (loop $outer
                    (local.set $j (i32.const 0))
                    (i32.const 77)
                    (loop $inner
                        (local.set $sum (i64.add (local.get $sum) (i64.extend_i32_u (local.get $j))))
                        (i64.store (i32.const 8) (local.get $sum))
                        (global.set $g (i64.mul (global.get $g) (i64.const 3)))
                        (br_if $inner (i32.lt_u (local.tee $j (i32.add (local.get $j) (i32.const 1))) (local.get $n))))
                    (local.set $sum (i64.add (i64.extend_i32_u) (local.get $sum)))
                    (br_if $outer (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))
                (i64.trunc_sat_f32_s)
                (i64.add) (local.get $sum) (i64.add)))",
        &[Val::I32(6)],
        36,
    );
    assert_eq!(subject.plain().end, Ok(vec!["I64(1553)".to_owned()]));
}

/// A host function that looks for the memory of the module that calls it finds it, also when a continuation calls.
#[test]
fn the_host_is_always_called_by_the_main_instance() {
    let subject = check(
        "(module (import \"wasi_snapshot_preview1\" \"random_get\" (func $fill (param i32 i32) (result i32)))
            (memory (export \"memory\") 1)
            (func (export \"run\") (param $n i32) (result i32) (local $at i32)
                (loop $l
                    (drop (call $fill (local.get $at) (i32.const 4)))
                    (local.set $at (i32.add (local.get $at) (i32.const 8)))
                    (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
                (i32.load (i32.const 8))))",
        &[Val::I32(5)],
        5,
    );
    assert_eq!(subject.plain().end, Ok(vec![format!("I32({})", 0x0707_0707)]));
}

#[test]
fn recursion_and_calls_with_operands_waiting() {
    let subject = check(
        "(module
            (func $fib (export \"run\") (param $n i32) (result i32)
                (if (result i32) (i32.lt_u (local.get $n) (i32.const 2))
                    (then (local.get $n))
                    (else (i32.add
                        (call $fib (i32.sub (local.get $n) (i32.const 1)))
                        (call $fib (i32.sub (local.get $n) (i32.const 2))))))))",
        &[Val::I32(9)],
        100,
    );
    assert_eq!(subject.plain().end, Ok(vec!["I32(34)".to_owned()]));
}

#[test]
fn blocks_loops_and_conditions_with_several_values() {
    check(
        "(module
            (func $both (param i32 i64) (result i64 i32) (loop (nop)) (local.get 1) (local.get 0))
            (func (export \"run\") (param $n i32) (result i64 i32 f64) (local $k i32)
                (f64.const 2.5)
                (i64.const 3) (local.get $n)
                (loop $l (param i64 i32) (result i64 i32)
                    (block $b (param i64 i32) (result i64 i32)
                        (i32.const 1) (i32.add)
                        (local.set $k)
                        (i64.const 7) (i64.add)
                        (if (param i64) (result i64 i32) (i32.and (local.get $k) (i32.const 1))
                            (then (local.get $k) (call $both (i64.const 9)) (drop) (drop) (i32.const 10))
                            (else (i32.const 20) (i64.const 4) (call $both) (br 1)))
                        (br 0))
                    (br_if $l (i32.lt_u (local.get $k) (i32.const 12))))
                (local.set $k) (local.set $n (i32.wrap_i64)) (drop)
                (i64.extend_i32_u (local.get $n)) (local.get $k) (f64.const 1)))",
        &[Val::I32(1)],
        2,
    );
}

#[test]
fn branches_through_tables_and_out_of_conditions() {
    check(
        "(module
            (func (export \"run\") (param $n i32) (result i32) (local $i i32) (local $sum i32)
                (block $done
                    (loop $next
                        (br_if $done (i32.ge_u (local.get $i) (local.get $n)))
                        (block $three (block $two (block $one (block $zero
                            (br_table $zero $one $two $three (i32.rem_u (local.get $i) (i32.const 5))))
                            (local.set $sum (i32.add (local.get $sum) (i32.const 1))))
                            (loop $small (local.set $sum (i32.add (local.get $sum) (i32.const 10)))
                                (br_if $small (i32.eqz (i32.rem_u (local.get $sum) (i32.const 4))))))
                            (if (i32.gt_u (local.get $sum) (i32.const 50))
                                (then (loop (local.set $sum (i32.sub (local.get $sum) (i32.const 3)))
                                    (br_if 0 (i32.and (local.get $sum) (i32.const 1)))))
                                (else (local.set $sum (i32.mul (local.get $sum) (i32.const 2))))))
                        (local.set $i (i32.add (local.get $i) (i32.const 1)))
                        (br $next)))
                (local.get $sum)))",
        &[Val::I32(23)],
        30,
    );
}

#[test]
fn vectors_live_across_places() {
    check(
        "(module (memory (export \"memory\") 1)
            (func (export \"run\") (param $n i32) (result v128) (local $v v128)
                (local.set $v (v128.const i32x4 1 2 3 4))
                (v128.const i64x2 5 -6)
                (loop $l
                    (local.set $v (i32x4.add (local.get $v) (i32x4.mul (local.get $v) (v128.const i32x4 3 5 7 9))))
                    (v128.store (i32.const 16) (local.get $v))
                    (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
                (local.get $v) (i64x2.sub)))",
        &[Val::I32(9)],
        9,
    );
}

#[test]
fn floats_keep_their_bits() {
    check(
        "(module
            (func (export \"run\") (param $n i32) (result f32 f64) (local $x f32) (local $y f64)
                (local.set $x (f32.const nan:0x200001)) (local.set $y (f64.const -0))
                (loop $l
                    (local.set $y (f64.div (local.get $y) (f64.const 3)))
                    (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
                (local.get $x) (local.get $y)))",
        &[Val::I32(4)],
        4,
    );
}

#[test]
fn references_live_across_places() {
    check(
        "(module
            (import \"host\" \"object\" (func $object (param i64) (result externref)))
            (import \"host\" \"number\" (func $number (param externref) (result i64)))
            (table $t (export \"table\") 3 10 funcref)
            (table $e (export \"objects\") 2 externref)
            (global $kept (mut externref) (ref.null extern))
            (global $f (mut funcref) (ref.null func))
            (elem declare func $seven $nine)
            (type $number (func (result i64)))
            (func $seven (result i64) (i64.const 7))
            (func $nine (result i64) (loop (nop)) (i64.const 9))
            (func (export \"run\") (param $n i32) (result i64 externref) (local $o externref) (local $g funcref)
                    (local $sum i64) (local $null externref)
                (local.set $o (call $object (i64.const 40)))
                (global.set $kept (call $object (i64.const 2)))
                (local.set $g (ref.func $seven))
                (ref.func $nine)
                (loop $l
                    (table.set $t (i32.const 1) (local.get $g))
                    (table.set $t (i32.const 2) (ref.func $nine))
                    (table.set $e (i32.const 0) (local.get $o))
                    (local.set $sum (i64.add (local.get $sum) (call $number (table.get $e (i32.const 0)))))
                    (local.set $sum (i64.add (local.get $sum) (call_indirect $t (type $number) (i32.const 1))))
                    (local.set $sum (i64.add (local.get $sum) (call_indirect $t (type $number) (i32.const 2))))
                    (global.set $f (table.get $t (i32.const 2)))
                    (drop (table.grow $t (ref.null func) (i32.const 1)))
                    (local.set $g (global.get $f))
                    (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
                (global.set $f)
                (i64.add (local.get $sum) (i64.extend_i32_u (ref.is_null (local.get $null))))
                (global.get $kept)))",
        &[Val::I32(5)],
        10,
    );
}

#[test]
fn calls_through_tables_stop_inside() {
    check(
        "(module
            (type $step (func (param i32) (result i32)))
            (table 3 funcref) (elem (i32.const 0) $double $loops $calls)
            (func $double (type $step) (i32.mul (local.get 0) (i32.const 2)))
            (func $loops (type $step) (local $i i32)
                (local.set $i (local.get 0))
                (loop $l (local.set 0 (i32.add (local.get 0) (local.get $i)))
                    (br_if $l (local.tee $i (i32.shr_u (local.get $i) (i32.const 1)))))
                (local.get 0))
            (func $calls (type $step)
                (i32.sub (local.get 0) (call_indirect (type $step) (i32.const 5) (i32.const 1))))
            (func (export \"run\") (param $n i32) (result i32) (local $x i32)
                (local.set $x (i32.const 1))
                (loop $l
                    (local.set $x (call_indirect (type $step) (local.get $x) (i32.rem_u (local.get $n) (i32.const 3))))
                    (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
                (local.get $x)))",
        &[Val::I32(8)],
        20,
    );
}

#[test]
fn exceptions_are_caught_where_the_original_catches_them() {
    let subject = check(
        "(module (tag $e (param i32)) (tag $other)
            (func $spin (param $n i32)
                (loop $l (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1))))))
            (func $may_throw (param $n i32) (result i32)
                (call $spin (i32.const 2))
                (if (i32.eq (local.get $n) (i32.const 2)) (then (throw $e (i32.const 40))))
                (if (i32.eq (local.get $n) (i32.const 4)) (then (throw $other)))
                (call $spin (i32.const 1))
                (local.get $n))
            (func (export \"run\") (param $n i32) (result i32) (local $sum i32) (local $kept i32)
                (local.set $kept (i32.const 1000))
                (loop $l
                    (block $any
                        (block $h (result i32)
                            (i32.const 5)
                            (try_table (result i32) (catch $e $h) (catch_all $any)
                                (call $spin (i32.const 3))
                                (call $may_throw (local.get $n))
                                (loop (call $spin (i32.const 1))))
                            (i32.add))
                        (local.set $sum (i32.add (local.get $sum)))
                        (call $spin (i32.const 2)))
                    (local.set $sum (i32.add (local.get $sum) (local.get $kept)))
                    (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
                (local.get $sum)))",
        &[Val::I32(6)],
        50,
    );
    assert_eq!(subject.plain().end, Ok(vec!["I32(6075)".to_owned()]));
}

/// The variable is needed by the handler alone, and the call that throws is the last one.
#[test]
fn a_handler_finds_its_variables_after_a_stop_in_the_call_that_throws() {
    let subject = check(
        "(module (tag $e)
            (func $throws_late (param $n i32)
                (loop $l (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
                (throw $e))
            (func (export \"run\") (param $n i32) (result i32) (local $needed i32)
                (local.set $needed (i32.mul (local.get $n) (i32.const 7)))
                (block $h (try_table (catch $e $h) (call $throws_late (local.get $n))) (return (i32.const 0)))
                (local.get $needed)))",
        &[Val::I32(3)],
        3,
    );
    assert_eq!(subject.plain().end, Ok(vec!["I32(21)".to_owned()]));
}

#[test]
fn an_exception_that_nobody_catches_ends_the_run() {
    let subject = check(
        "(module (tag $e)
            (func $inner (param $n i32)
                (loop $l (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
                (block $h (result exnref) (try_table (catch_all_ref $h) (throw $e)) (unreachable))
                (throw_ref))
            (func (export \"run\") (param $n i32) (call $inner (local.get $n))))",
        &[Val::I32(3)],
        3,
    );
    assert!(subject.plain().end.is_err());
}

#[test]
fn tail_calls_leave_no_frames() {
    let subject = check(
        "(module
            (type $t (func (param i32 i64) (result i64)))
            (table 1 funcref) (elem (i32.const 0) $odd)
            (func $even (type $t)
                (if (i32.eqz (local.get 0)) (then (return (local.get 1))))
                (return_call_indirect (type $t)
                    (i32.sub (local.get 0) (i32.const 1)) (i64.add (local.get 1) (i64.const 3)) (i32.const 0)))
            (func $odd (type $t)
                (return_call $even (i32.sub (local.get 0) (i32.const 1)) (i64.mul (local.get 1) (i64.const 3))))
            (func (export \"run\") (param $n i32) (result i64)
                (i64.add (i64.const 1) (call $even (local.get $n) (i64.const 1)))))",
        &[Val::I32(20)],
        10,
    );
    assert_eq!(subject.prepared().plan().functions(), (3, 2));
}

#[test]
fn memories_of_64_bits_grow_and_keep_their_content() {
    check(
        "(module (memory (export \"memory\") i64 1 20) (data (i64.const 100) \"initial\")
            (func (export \"run\") (param $n i64) (result i64)
                (loop $l
                    (drop (memory.grow (i64.const 1)))
                    (i64.store8 (i64.const 100) (i64.const 0))
                    (i64.store (i64.mul (memory.size) (i64.const 65528)) (local.get $n))
                    (memory.fill (i64.const 101) (i32.const 0) (i64.const 6))
                    (br_if $l (i64.ne (i64.const 0) (local.tee $n (i64.sub (local.get $n) (i64.const 1))))))
                (i64.add (memory.size) (i64.load (i64.const 65528)))))",
        &[Val::I64(5)],
        5,
    );
}

#[test]
fn several_memories_are_kept_apart() {
    check(
        "(module (memory $a (export \"a\") 1) (memory $b (export \"b\") 1) (data (memory $b) (i32.const 8) \"xyz\")
            (func (export \"run\") (param $n i32) (result i32)
                (loop $l
                    (i32.store $a (i32.const 4) (i32.add (i32.load $b (i32.const 8)) (local.get $n)))
                    (i32.store $b (i32.const 8) (i32.load $a (i32.const 4)))
                    (memory.copy $a $b (i32.const 100) (i32.const 8) (local.get $n))
                    (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
                (i32.load $b (i32.const 8))))",
        &[Val::I32(6)],
        6,
    );
}

const SEGMENTS: &str = "(module (memory (export \"memory\") 1) (table (export \"table\") 4 funcref)
    (data $d \"passive bytes\") (elem $e func $one $two)
    (type $t (func (result i32)))
    (func $one (result i32) (i32.const 1)) (func $two (result i32) (i32.const 2))
    (func (export \"run\") (param $n i32) (result i32) (local $sum i32)
        (loop $l
            (memory.init $d (local.get $n) (i32.const 1) (i32.const 5))
            (table.init $e (i32.and (local.get $n) (i32.const 1)) (i32.const 0) (i32.const 2))
            (local.set $sum (i32.add (local.get $sum) (call_indirect (type $t) (i32.const 1))))
            (if (i32.eq (local.get $n) (i32.const DROPPED)) (then (data.drop $d) (elem.drop $e)))
            (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
        (local.get $sum)))";

#[test]
fn passive_segments_are_there_after_a_stop() {
    let subject = check(&SEGMENTS.replace("DROPPED", "1"), &[Val::I32(6)], 6);
    assert!(subject.plain().end.is_ok());
}

#[test]
fn dropped_segments_stay_dropped_after_a_stop() {
    let subject = check(&SEGMENTS.replace("DROPPED", "4"), &[Val::I32(6)], 2);
    assert_eq!(
        subject.plain().end,
        Err("wasm trap: out of bounds memory access".to_owned())
    );
}

#[test]
fn the_start_function_stops_too_and_runs_once() {
    let subject = check(
        "(module (import \"host\" \"log\" (func $log (param i32)))
            (global $ready (export \"ready\") (mut i32) (i32.const 0))
            (start $begin)
            (func $begin
                (loop $l
                    (call $log (global.get $ready))
                    (global.set $ready (i32.add (global.get $ready) (i32.const 1)))
                    (br_if $l (i32.lt_u (global.get $ready) (i32.const 4)))))
            (func (export \"run\") (param $n i32) (result i32)
                (loop $l (call $log (local.get $n))
                    (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
                (global.get $ready)))",
        &[Val::I32(3)],
        7,
    );
    assert_eq!(subject.plain().world.log.len(), 4 * 7);
}

#[test]
fn a_trap_after_hops_is_the_same_trap() {
    let divides = "(module (memory (export \"memory\") 1)
        (func $deep (param $n i32) (result i32)
            (i32.store (i32.const 0) (local.get $n))
            (i32.div_u (i32.const 100) (local.get $n)))
        (func (export \"run\") (param $n i32) (result i32) (local $sum i32)
            (loop $l
                (local.set $sum (i32.add (local.get $sum) (call $deep (local.get $n))))
                (local.set $n (i32.sub (local.get $n) (i32.const 1)))
                (br $l))
            (local.get $sum)))";
    let subject = check(divides, &[Val::I32(4)], 5);
    assert_eq!(subject.plain().end, Err("wasm trap: integer divide by zero".to_owned()));
}

#[test]
fn code_that_is_never_reached_is_no_obstacle() {
    check(
        "(module
            (func $spin (loop (nop)))
            (func (export \"run\") (param $n i32) (result i32)
                (block (result i32)
                    (br 0 (i32.const 3))
                    (loop (result i32) (call $spin) (i32.const 1) (block (loop (call $spin) (br 1))))
                    (i32.add))
                (loop (call $spin))
                (if (i32.const 0) (then (unreachable) (loop (call $spin))) (else))))",
        &[Val::I32(0)],
        1,
    );
}

/// The save memory holds the frames of a deep stack; one made for a smaller stack does not.
#[test]
fn a_deep_stack_fits_the_save_memory() {
    let text = "(module
        (func $down (param $n i32) (param $x i64) (result i64)
            (if (result i64) (local.get $n)
                (then (i64.add (local.get $x)
                    (call $down (i32.sub (local.get $n) (i32.const 1)) (i64.add (local.get $x) (i64.const 3)))))
                (else (call $spin) (local.get $x))))
        (func $spin (local $i i32)
            (loop $l (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 5)))))
        (func (export \"run\") (param $n i32) (result i64) (call $down (local.get $n) (i64.const 1))))";
    let subject = Subject::text(text, "run", &[Val::I32(8_000)]);
    let plain = subject.plain();
    assert!(plain.end.is_ok(), "the stack is large enough: {:?}", plain.end);
    let (seen, hops) = subject.hopping(4_000, |_, _| {});
    assert_eq!(seen, plain);
    assert_eq!(hops, 4, "each frame is met at its entry and behind its call");
    let mut frames = 0;
    let first_only = |hop| if hop == 0 { 8_003 } else { u32::MAX };
    let (seen, _) = subject.hopping_by(first_only, |_, checkpoint| frames = checkpoint.frames.len());
    assert_eq!(seen, plain);
    assert_eq!(
        frames, 8_002,
        "the innermost stop lies below all calls that are not their callers' last act"
    );
    assert!(subject.prepared().plan().save_memory_bytes() > 8_000 * 24);
}
