//! Places that save the same values share the code that does, and others do not: each stopped at every place.

use std::fmt::Write;

use bowline_checkpoint::{Options, Plan};
use wasmtime::Val;

use crate::run::Subject;

/// Bytes of what is run instead, without the types and the functions that save.
fn instrumented_bytes(text: &str) -> usize {
    let module = wat::parse_str(text).expect("the text is a module");
    Plan::instrument(module, Options::default())
        .expect("it can be stopped")
        .1
        .len()
}

/// `$spin` may stop, and gives back what it is given, as one value of each type and as two.
const SPINS: &str = "
    (func $spin (param $n i32) (result i32) (local $left i32)
        (local.set $left (i32.const 2))
        (loop $l (br_if $l (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
        (local.get $n))
    (func $i32 (param i32) (result i32) (i32.add (call $spin (local.get 0)) (i32.const 1)))
    (func $i64 (param i32) (result i64) (i64.extend_i32_u (call $spin (local.get 0))))
    (func $f32 (param i32) (result f32) (f32.convert_i32_u (call $spin (local.get 0))))
    (func $f64 (param i32) (result f64) (f64.convert_i32_u (call $spin (local.get 0))))
    (func $v128 (param i32) (result v128) (i64x2.splat (i64.extend_i32_u (call $spin (local.get 0)))))
    (func $funcref (param i32) (result funcref) (table.get (i32.and (call $spin (local.get 0)) (i32.const 1))))
    (func $two (param i32) (result i64 i32) (i64.extend_i32_u (call $spin (local.get 0))) (local.get 0))";

/// A module whose function `run` has this body.
fn run(body: &str) -> String {
    format!(
        "(module (memory (export \"memory\") 1) (table 2 funcref) (elem (i32.const 1) $spin) {SPINS}
            (func (export \"run\") (param $n i32) (result i32) (local $sum i32) (local $wide i64) (local $pair i32)
                {body} (local.get $sum)))"
    )
}

/// Adds what a call of `$spin` gives to a sum: such places save `$n` and `$sum`.
fn added(calls: usize) -> String {
    "(local.set $sum (i32.add (call $spin (local.get $n)) (i32.mul (local.get $sum) (i32.const 3))))".repeat(calls)
}

#[test]
fn places_that_save_the_same_values_share_what_saves_them() {
    let growth = |body: fn(usize) -> String| {
        let added = |calls| {
            let text = run(&body(calls));
            instrumented_bytes(&text) - wat::parse_str(text).unwrap().len()
        };
        (added(30) - added(10)) / 20
    };
    let alike = growth(added);
    assert!(alike <= 9, "{alike} bytes a place");
    // The control: each place saves one value more than that before.
    let different = growth(|calls| {
        let mut body = format!("(local{})", " i32".repeat(calls));
        for call in 0..calls {
            write!(body, "(local.set {} (call $spin (local.get $n)))", 4 + call).expect("a text takes more text");
        }
        for call in 0..calls {
            write!(body, "(drop (local.get {}))", 4 + call).expect("a text takes more text");
        }
        body
    });
    assert!(different > 2 * alike, "{different} bytes a place");
    assert!(Subject::text(&run(&added(30)), "run", &[Val::I32(5)]).check() >= 60);
}

#[test]
fn places_with_operands_share_by_their_types() {
    let twice = [
        "(local.set $sum (i32.add (call $i32 (local.get $n)) (local.get $sum)))",
        "(local.set $sum (i32.add (i32.wrap_i64 (call $i64 (local.get $n))) (local.get $sum)))",
        "(local.set $sum (i32.add (i32.trunc_f32_u (call $f32 (local.get $n))) (local.get $sum)))",
        "(local.set $sum (i32.add (i32.trunc_f64_u (call $f64 (local.get $n))) (local.get $sum)))",
        "(local.set $sum (i32.add (i32x4.extract_lane 2 (call $v128 (local.get $n))) (local.get $sum)))",
        "(local.set $sum (i32.add (ref.is_null (call $funcref (local.get $n))) (local.get $sum)))",
        "(call $two (local.get $n)) (local.set $pair) (local.set $wide)
            (local.set $sum (i32.add (i32.add (i32.wrap_i64 (local.get $wide)) (local.get $pair)) (local.get $sum)))",
        "(local.set $sum (i32.sub (i32.mul (local.get $sum) (i32.const 7)) (call $i32 (local.get $n))))",
    ];
    let all: String = twice.iter().map(|body| format!("{body} {body}")).collect();
    let hops = Subject::text(&run(&all), "run", &[Val::I32(41)]).check();
    assert!(hops >= 3 * 2 * twice.len(), "{hops} hops");
    for body in twice {
        let twice = Subject::text(&run(&format!("{body} {body}")), "run", &[Val::I32(6)]);
        assert!(twice.check() >= 4, "{body}");
    }
}

/// Blocks are around the whole function, so branches to its end, and out of loops, lead further.
#[test]
fn branches_in_a_function_whose_places_share_lead_where_they_led() {
    let body = format!(
        "(block $b
            (loop $l
                {0}
                (br_if $b (i32.gt_u (local.get $sum) (i32.const 900)))
                {0}
                (if (i32.eq (local.get $sum) (i32.const 4)) (then (br 3 (i32.const 8))))
                (br_table $l $b (i32.gt_u (local.get $sum) (i32.const 200)))))
        {0} (if (i32.eq (local.get $n) (i32.const 2)) (then (return (local.get $n))))
        (br_if 0 (local.get $sum) (i32.const 0)) (drop)",
        added(1)
    );
    for n in [1, 2, 5, 901] {
        assert!(Subject::text(&run(&body), "run", &[Val::I32(n)]).check() >= 4, "{n}");
    }
}

#[test]
fn what_is_not_meant_to_return_shares_too() {
    let fail = "(func $fail (param i32) (drop (call $spin (local.get 0))) (unreachable))";
    let body = |count: u32| {
        let case = |at| {
            format!("(if (i32.eq (local.get $n) (i32.const {at})) (then (call $fail (i32.const {at})) (unreachable)))")
        };
        (0..count).map(case).collect::<String>()
    };
    let text = |count| run(&body(count)).replace("(func (export", &format!("{fail} (func (export"));
    let own = |count| wat::parse_str(text(count)).unwrap().len();
    let growth = (instrumented_bytes(&text(40)) - instrumented_bytes(&text(20))) - (own(40) - own(20));
    assert!(growth <= 5 * 20, "{growth} bytes for 20 places");
    for n in [0, 19] {
        let subject = Subject::text(&text(20), "run", &[Val::I32(n)]);
        assert!(subject.plain().end.is_err(), "it fails");
        assert!(subject.check() >= 2);
    }
}

/// In a function of many places each saves by itself what differs, and all share what saves the rest.
#[test]
fn a_function_of_many_places_shares_less() {
    let bytes = |calls| instrumented_bytes(&run(&added(calls)));
    let few = (bytes(390) - bytes(190)) / 200;
    let many = (bytes(610) - bytes(410)) / 200;
    assert!(many > few + 5, "{many} bytes a place, {few} in smaller functions");
    let subject = Subject::text(&run(&added(402)), "run", &[Val::I32(3)]);
    let (seen, hops) = subject.staying(300, |_, _| {});
    assert_eq!(seen, subject.plain());
    assert!(hops >= 2, "{hops} hops");
}

/// So many variables, each given a value first and read at last; between, so many calls in blocks, behind each of which `changes` comes.
fn keeping(variables: usize, calls: usize, changes: &str) -> String {
    let each = |text: fn(usize) -> String| (4..4 + variables).map(text).collect::<String>();
    let call = format!("(block (drop (call $spin (local.get $n)))) {changes}");
    format!(
        "(local{}) {} {} {}",
        " i32".repeat(variables),
        each(|local| format!("(local.set {local} (i32.mul (local.get $n) (i32.const {local})))")),
        call.repeat(calls),
        each(|local| format!(
            "(local.set $sum (i32.add (i32.mul (local.get $sum) (i32.const 3)) (local.get {local})))"
        )),
    )
}

/// Of a variable that is assigned to again the places of a large function have different values.
#[test]
fn what_most_places_of_a_large_function_save_is_saved_once() {
    let change = "(local.set 4 (i32.add (local.get 4) (i32.const 5)))";
    for changes in ["", change] {
        let place = |variables| {
            let bytes = |calls| instrumented_bytes(&run(&keeping(variables, calls, changes)));
            (bytes(520) - bytes(420)) / 100
        };
        let (few, many) = (place(1), place(31));
        assert!(many <= few + 1, "{many} bytes a place, {few} with few variables");
    }
    let all_change: String = (4..14).map(|local| change.replace('4', &local.to_string())).collect();
    let place = |variables| {
        let bytes = |calls| instrumented_bytes(&run(&keeping(variables, calls, &all_change)));
        (bytes(520) - bytes(420)) / 100
    };
    assert!(place(40) < place(10) + 10, "thirty are the same");
    for changes in ["", change, &all_change] {
        let subject = Subject::text(&run(&keeping(12, 405, changes)), "run", &[Val::I32(3)]);
        let (seen, hops) = subject.staying(97, |_, _| {});
        assert_eq!(seen, subject.plain());
        assert!(hops >= 5, "{hops} hops");
    }
}

/// Where it would take too much work to find out which values are the same, each place saves all of them.
#[test]
fn large_functions_of_many_variables_and_blocks_share_nothing() {
    let nops = "(nop)".repeat(20);
    let place = |unused| {
        let unused = format!("{})", " f32".repeat(unused));
        let bytes = |calls| instrumented_bytes(&run(&keeping(10, calls, &nops).replacen(")", &unused, 1)));
        (bytes(720) - bytes(620)) / 100
    };
    let (shared, alone) = (place(20_000), place(45_000));
    assert!(
        alone > shared + 15,
        "{alone} bytes a place, {shared} with fewer variables"
    );
}

/// Frames are filled up to a few sizes, of values of four bytes and of larger ones each.
#[test]
fn frames_of_every_size_come_back() {
    let narrow = (0..14).chain([17, 25, 33, 49, 65, 100, 101]);
    for (narrow, wide) in narrow.zip([0, 1, 7, 2, 9, 21, 50].into_iter().cycle()) {
        let mut body = format!("(local{} {})", " f32".repeat(narrow), " i64".repeat(wide));
        for local in 0..narrow + wide {
            let value = match local < narrow {
                true => format!("f32.const {local}.5"),
                false => format!("i64.const {local}"),
            };
            write!(body, "(local.set {} ({value}))", 4 + local).expect("a text takes more text");
        }
        body.push_str(&added(2));
        for local in 0..narrow + wide {
            let value = match local < narrow {
                true => "i32.trunc_f32_u (f32.add (f32.const 0.5)",
                false => "i32.wrap_i64 (i64.mul (i64.const 3)",
            };
            let weighed = format!(
                "(i32.mul (i32.const {}) ({value} (local.get {}))))",
                local + 1,
                4 + local
            );
            write!(body, "(local.set $sum (i32.add (local.get $sum) {weighed}))").expect("a text takes more text");
        }
        assert!(
            Subject::text(&run(&body), "run", &[Val::I32(5)]).check() >= 4,
            "{narrow} and {wide}"
        );
    }
}
