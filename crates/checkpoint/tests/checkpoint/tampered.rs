//! The tests above can fail: whatever of a checkpoint is changed on the way shows in the end.

use bowline_checkpoint::{Checkpoint, Frame, Place, Stop, Value};
use wasmtime::Val;

use crate::run::Subject;

/// Everything that is saved matters to its end.
pub const TEXT: &str = "(module (import \"host\" \"log\" (func $log (param i32)))
    (memory (export \"memory\") 1)
    (global $g (export \"g\") (mut i64) (i64.const 1))
    (type $t (func (result i32)))
    (table (export \"table\") 2 funcref) (elem (i32.const 0) $one $two)
    (func $one (result i32) (i32.const 1))
    (func $two (result i32) (i32.const 2))
    (func $inner (param $a i32) (param $v v128) (result i32) (local $i i32)
        (loop $l
            (local.set $a (i32.add (i32.mul (local.get $a) (i32.const 3)) (local.get $i)))
            (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 3))))
        (i32.add (local.get $a) (i32.add
            (i32x4.extract_lane 0 (local.get $v)) (i32x4.extract_lane 3 (local.get $v)))))
    (func (export \"run\") (param $n i32) (result i32 f64) (local $sum i32) (local $f f64)
        (local.set $f (f64.const 1.25))
        (i32.const 9)
        (loop $l
            (call $log (local.get $sum))
            (local.set $sum (i32.add (local.get $sum)
                (call $inner (local.get $n) (v128.const i32x4 1 0 0 2))))
            (local.set $sum (i32.add (local.get $sum) (call_indirect (type $t) (i32.const 1))))
            (i32.store (i32.const 64) (i32.add (i32.load (i32.const 64)) (local.get $sum)))
            (global.set $g (i64.mul (global.get $g) (i64.const 5)))
            (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
        (local.get $sum) (i32.add) (local.get $f)))";

fn changed(value: &mut Value) {
    match value {
        Value::I32(bits) => *bits ^= 1,
        Value::F32(bits) => *bits ^= 1 << 20,
        Value::I64(bits) => *bits ^= 1,
        Value::F64(bits) => *bits ^= 1 << 50,
        Value::V128(bits) => *bits ^= 1,
        Value::Function(index) => *index = None,
        Value::Extern(handle) => *handle = None,
    }
}

/// Values at a frame's end that its callee still has to return: they hold nothing yet.
fn results_to_come(subject: &Subject, frame: &Frame) -> usize {
    let layout = subject.prepared().plan().layout(frame.site.function, frame.site.place);
    match layout.map(|layout| &layout.place) {
        Some(Place::Call(results)) if frame.site.stop == Stop::Inside => results.len(),
        _ => 0,
    }
}

/// Runs with one change of the checkpoint of one hop.
fn end_differs(subject: &Subject, hop: usize, change: impl Fn(&mut Checkpoint)) -> bool {
    let (seen, _) = subject.hopping(1, |at, checkpoint| {
        if at == hop {
            change(checkpoint);
        }
    });
    seen != subject.plain()
}

#[test]
fn every_changed_value_of_a_frame_is_noticed() {
    let subject = Subject::text(TEXT, "run", &[Val::I32(3)]);
    let mut frames = Vec::new();
    subject.hopping(1, |_, checkpoint| frames.push(checkpoint.frames.clone()));
    let mut values = 0;
    for hop in [0, 2, 5] {
        for (place, frame) in frames[hop].iter().enumerate() {
            for index in 0..frame.values.len() - results_to_come(&subject, frame) {
                values += 1;
                let noticed = end_differs(&subject, hop, |checkpoint| {
                    changed(&mut checkpoint.frames[place].values[index]);
                });
                assert!(noticed, "hop {hop}, frame {place} {:?}, value {index}", frame.site);
            }
        }
    }
    assert!(values > 12, "{values} values were changed");
}

#[test]
fn every_other_changed_part_is_noticed() {
    let subject = Subject::text(TEXT, "run", &[Val::I32(3)]);
    let last = 6;
    assert!(
        !end_differs(&subject, last, |_| {}),
        "the control: an unchanged checkpoint"
    );
    assert!(end_differs(&subject, last, |checkpoint| changed(
        &mut checkpoint.globals[0]
    )));
    assert!(end_differs(&subject, last, |checkpoint| {
        changed(&mut checkpoint.tables[0].elements[1]);
    }));
    assert!(end_differs(&subject, last, |checkpoint| {
        let page = &mut checkpoint.memories[0].pages[0];
        let mut bytes = page.bytes.to_vec();
        bytes[64] ^= 1;
        page.bytes = bytes.into();
    }));
    assert!(end_differs(&subject, last, |checkpoint| checkpoint.memories[0]
        .pages
        .clear()));
    assert!(end_differs(&subject, last, |checkpoint| checkpoint.memories[0].size_pages = 2));
    assert!(end_differs(&subject, last, |checkpoint| checkpoint.host[0] ^= 1));
}
