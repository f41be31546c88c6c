//! Code that would cost the pass too much, each kind beside code just below its limit.

use std::fmt::Write;

use bowline_checkpoint::{Options, Plan, Refusal};
use wasm_encoder::{
    BlockType, CodeSection, Function, FunctionSection, Instruction as I, Module, TypeSection, ValType as Encoded,
};
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

/// Code of a million operators. `$spin`, function 0, may stop.
fn hostile(results: usize, body: impl FnOnce(&mut Function)) -> Vec<u8> {
    let mut types = TypeSection::new();
    types.ty().function([], []);
    types.ty().function([], vec![Encoded::I32; results]);
    let mut functions = FunctionSection::new();
    functions.function(0).function(1);
    let mut spin = Function::new([]);
    spin.instruction(&I::Loop(BlockType::Empty))
        .instruction(&I::End)
        .instruction(&I::End);
    let mut large = Function::new([]);
    body(&mut large);
    large.instruction(&I::Unreachable).instruction(&I::End);
    assert!(
        (500_000..7_654_321).contains(&large.byte_len()),
        "{} bytes",
        large.byte_len()
    );
    let mut code = CodeSection::new();
    code.function(&spin).function(&large);
    let mut module = Module::new();
    module.section(&types).section(&functions).section(&code);
    module.finish()
}

fn repeat(code: &mut Function, times: usize, instructions: &[I<'_>]) {
    for _ in 0..times {
        for instruction in instructions {
            code.instruction(instruction);
        }
    }
}

/// Each of these would take hours, or all memory, if its places were looked at one by one with all that is around them.
#[test]
fn code_of_many_blocks_and_places_ends_in_bounded_work() {
    let refusal = |module: Vec<u8>| Plan::instrument(module, Options::default()).err();
    let (open, end, spin) = (I::Block(BlockType::Empty), I::End, I::Call(0));
    let calls_in_deep_blocks = hostile(0, |code| {
        repeat(code, 300_000, std::slice::from_ref(&open));
        repeat(code, 300_000, &[spin.clone(), I::Nop]);
        repeat(code, 300_000, std::slice::from_ref(&end));
    });
    assert_eq!(refusal(calls_in_deep_blocks), None);
    let branches_out_of_deep_blocks = hostile(0, |code| {
        repeat(code, 200_000, std::slice::from_ref(&open));
        repeat(
            code,
            300_000,
            &[open.clone(), spin.clone(), I::Br(150_000), end.clone()],
        );
        repeat(code, 200_000, std::slice::from_ref(&end));
    });
    assert_eq!(refusal(branches_out_of_deep_blocks), None);
    let operands_below_blocks = hostile(0, |code| {
        repeat(code, 50_000, &[I::I32Const(1)]);
        repeat(code, 300_000, &[open.clone(), spin.clone(), end.clone()]);
    });
    let operands = "its blocks and calls lie on too many operands";
    assert_eq!(refusal(operands_below_blocks), too_large(operands));
    let blocks_of_many_results = hostile(1_000, |code| {
        code.instruction(&I::Unreachable);
        repeat(
            code,
            300_000,
            &[I::Block(BlockType::FunctionType(1)), I::Unreachable, end.clone()],
        );
    });
    assert_eq!(refusal(blocks_of_many_results), too_large(operands));
    let calls_with_an_operand_waiting = hostile(0, |code| {
        code.instruction(&I::I32Const(1));
        repeat(code, 600_000, &[spin.clone(), I::Nop]);
    });
    assert_eq!(
        refusal(calls_with_an_operand_waiting),
        too_large("its code would exceed what engines read")
    );
    let loops_in_loops = hostile(0, |code| {
        repeat(code, 300_000, &[I::Loop(BlockType::Empty)]);
        repeat(code, 300_000, &[I::I32Const(0), I::BrIf(0), end.clone()]);
    });
    let again = "loops in loops make it too long to continue in their midst";
    assert_eq!(refusal(loops_in_loops), too_large(again));
}
