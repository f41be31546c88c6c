//! Checkpoints that no run has made are refused before anything of them is used.

use bowline_checkpoint::{Checkpoint, Mismatch, Options, Page, Stop, Value};
use bowline_foundation::digest::Digest;
use wasmtime::Val;

use crate::run::{Subject, options};

const TEXT: &str = "(module (memory 1 3) (global (mut i32) (i32.const 0))
    (table (export \"t\") 1 2 funcref) (elem declare func $hidden_not)
    (func $hidden) (func $hidden_not)
    (func $inner (param $n i32) (result i32)
        (loop $l (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
        (i32.const 1))
    (func (export \"run\") (param $n i32) (result i32)
        (i32.add (call $inner (local.get $n)) (i32.const 1))))";

/// What the plan says of a good checkpoint that was changed so.
fn verdict(change: impl Fn(&mut Checkpoint)) -> Result<(), Mismatch> {
    let subject = Subject::text(TEXT, "run", &[Val::I32(3)]);
    let mut verdict = None;
    subject.hopping(1, |hop, checkpoint| {
        if hop == 1 {
            let mut forged = checkpoint.clone();
            change(&mut forged);
            verdict = Some(subject.prepared().plan().check(&forged));
        }
    });
    verdict.expect("the run was stopped twice")
}

#[test]
fn another_module_or_pass_is_refused() {
    assert_eq!(verdict(|_| {}), Ok(()), "the control");
    let other = verdict(|checkpoint| checkpoint.identity.module = Digest::of(b"other"));
    assert!(matches!(other, Err(Mismatch::Module { .. })));
    assert_eq!(verdict(|checkpoint| checkpoint.identity.pass += 1), Err(Mismatch::Pass));
    let smaller = Options {
        stack_bytes: 1,
        ..options(bowline_checkpoint::Poll::Countdown)
    };
    assert_eq!(
        verdict(|checkpoint| checkpoint.identity.options = smaller),
        Err(Mismatch::Pass)
    );
}

#[test]
fn state_that_the_module_cannot_have_is_refused() {
    let page = |index| Page {
        index,
        bytes: vec![1; Page::BYTES].into(),
    };
    assert_eq!(
        verdict(|checkpoint| checkpoint.memories[0].size_pages = 4),
        Err(Mismatch::Memory(0))
    );
    assert_eq!(
        verdict(|checkpoint| checkpoint.memories[0].size_pages = 0),
        Err(Mismatch::Memory(0))
    );
    assert_eq!(
        verdict(|checkpoint| checkpoint.memories[0].pages = vec![page(16)]),
        Err(Mismatch::Memory(0))
    );
    assert_eq!(
        verdict(|checkpoint| checkpoint.memories[0].pages = vec![page(3), page(3)]),
        Err(Mismatch::Memory(0))
    );
    assert_eq!(
        verdict(|checkpoint| checkpoint.memories[0].pages = vec![page(15)]),
        Ok(())
    );
    assert_eq!(
        verdict(|checkpoint| checkpoint.globals[0] = Value::I64(1)),
        Err(Mismatch::Value("a global"))
    );
    let count = verdict(|checkpoint| checkpoint.globals.clear());
    assert!(matches!(count, Err(Mismatch::Count { what: "globals", .. })));
    assert_eq!(
        verdict(|checkpoint| checkpoint.tables[0].elements = vec![Value::Function(None); 3]),
        Err(Mismatch::Table(0))
    );
}

/// A reference leads only to functions that the module's own references can lead to.
#[test]
fn a_reference_to_a_hidden_function_is_refused() {
    let with = |function| verdict(move |checkpoint| checkpoint.tables[0].elements[0] = Value::Function(Some(function)));
    assert_eq!(with(0), Err(Mismatch::Value("a table")));
    assert_eq!(with(1), Ok(()));
    assert_eq!(with(99), Err(Mismatch::Value("a table")));
}

#[test]
fn frames_that_no_run_can_leave_are_refused() {
    let site =
        |change: fn(&mut bowline_checkpoint::Frame)| verdict(move |checkpoint| change(&mut checkpoint.frames[0]));
    assert_eq!(site(|frame| frame.site.function = 0), Err(Mismatch::Site(0)));
    assert_eq!(site(|frame| frame.site.function = u32::MAX), Err(Mismatch::Site(0)));
    assert_eq!(site(|frame| frame.site.place = 7), Err(Mismatch::Site(0)));
    assert_eq!(site(|frame| frame.site.stop = Stop::Inside), Err(Mismatch::Chain(0)));
    assert_eq!(
        site(|frame| frame.values[0] = Value::F32(0)),
        Err(Mismatch::Value("a frame"))
    );
    assert_eq!(site(|frame| frame.values.clear()), Err(Mismatch::Value("a frame")));
    assert_eq!(
        verdict(|checkpoint| checkpoint.frames[1].site.stop = Stop::Here),
        Err(Mismatch::Chain(1))
    );
    let none = verdict(|checkpoint| checkpoint.frames.clear());
    assert!(matches!(none, Err(Mismatch::Count { what: "frames", .. })));
    let endless = verdict(|checkpoint| {
        let outer = checkpoint.frames[1].clone();
        checkpoint.frames.extend(vec![outer; 1 << 20]);
    });
    assert_eq!(endless, Err(Mismatch::FramesTooLarge));
}
