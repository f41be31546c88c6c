//! Code that would cost the pass too much, each kind beside code just below its limit.

use std::fmt::Write;

use bowline_checkpoint::{Options, Plan, Refusal};
use wasmtime::Val;

use crate::run::Subject;

/// Why a module with this body of a function is refused. `$spin` may stop.
fn refusal(body: &str) -> Option<Refusal> {
    let text = format!("(module (func $spin (loop (nop))) (func {body}))");
    let module = wat::parse_str(text).expect("the text is a module");
    let options = Options {
        stack_bytes: 1 << 16,
        ..Options::default()
    };
    Plan::new(module, options).err()
}

fn too_large(what: &'static str) -> Option<Refusal> {
    Some(Refusal::TooLarge { function: 1, what })
}

fn variables(count: usize) -> String {
    format!("(local{})", " i32".repeat(count))
}

/// Many variables, all needed to the end, and many calls.
fn saving(variables_count: usize, calls: usize) -> String {
    let mut body = variables(variables_count);
    body.push_str(&"(call $spin)".repeat(calls));
    for variable in 0..variables_count {
        write!(body, "(drop (local.get {variable}))").expect("a text takes more text");
    }
    body
}

#[test]
fn functions_that_would_grow_beyond_limits_are_refused() {
    let values = "its places save too many values";
    assert_eq!(refusal(&saving(2_000, 1_001)), too_large(values));
    assert_eq!(refusal(&saving(2_000, 900)), None);
    let blocks = "it has too many blocks for its many local variables";
    let nested = |depth| {
        let (begin, end) = ("block ".repeat(depth), "end ".repeat(depth));
        format!("{} {begin} (call $spin) (drop (i32.const 0)) {end}", variables(40_000))
    };
    assert_eq!(refusal(&nested(6_800)), too_large(blocks));
    assert_eq!(refusal(&nested(100)), None);
    let locals = "it has too many local variables";
    let more_than_a_call = "(call $spin) (drop (i32.const 0))";
    assert_eq!(
        refusal(&format!("{} {more_than_a_call}", variables(49_999))),
        too_large(locals)
    );
    assert_eq!(refusal(&format!("{} {more_than_a_call}", variables(49_000))), None);
    let high = |count| {
        let operands = "(i32.const 1)".repeat(count);
        format!("{operands}(call $spin){}", "(drop)".repeat(count))
    };
    assert_eq!(refusal(&high(1_001)), too_large("its operand stack is too high"));
    assert_eq!(refusal(&high(1_000)), None);
}

/// Loops in loops, each reading a variable before the inner one: what an outer loop needs has to be found again
/// in all inner ones.
fn loops_in_loops(depth: usize) -> String {
    let mut code = String::new();
    for variable in 0..depth {
        write!(code, "loop local.get {variable} drop ").expect("a text takes more text");
    }
    code.push_str(&"i32.const 0 br_if 0 end ".repeat(depth));
    let variables = variables(depth);
    format!("(module (func (export \"run\") {variables} (local $unused i64) {code}))")
}

#[test]
fn code_that_needs_too_many_rounds_saves_everything() {
    let saved = |depth| {
        let module = wat::parse_str(loops_in_loops(depth)).expect("the text is a module");
        let plan = Plan::new(module, Options::default()).expect("it can be stopped");
        plan.layout(0, 0).expect("it has a loop").values.len()
    };
    assert_eq!(saved(20), 20, "not what is unused");
    assert_eq!(saved(700), 701, "all variables");
    let hops = Subject::text(&loops_in_loops(6), "run", &[] as &[Val]).check();
    assert_eq!(hops, 1, "the heads of the outer loops need no place");
}
