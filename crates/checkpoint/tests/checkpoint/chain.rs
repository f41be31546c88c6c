//! Runs that are checkpointed again and again and stay where they are: each time only what changed is written.

use bowline_checkpoint::engine::Tracker;
use bowline_checkpoint::{Checkpoint, Delta, Mark};
use wasmtime::Val;

use crate::run::{LIMITS, Leg, Subject, key};

/// In each round it fills one more of the pages, clears the one before, and now and then grows its memory.
const TEXT: &str = "(module (import \"host\" \"log\" (func $log (param i32)))
    (memory (export \"memory\") 1 4) (memory (export \"other\") 1)
    (global $g (export \"g\") (mut i64) (i64.const 1))
    (data (i32.const 40000) \"kept as it is\")
    (func (export \"run\") (param $rounds i32) (result i32) (local $at i32)
        (loop $l
            (call $log (local.get $at))
            (memory.fill (local.get $at) (i32.const 0) (i32.const 4096))
            (local.set $at (i32.add (local.get $at) (i32.const 4096)))
            (if (i32.ge_u (i32.add (local.get $at) (i32.const 4096)) (i32.mul (memory.size) (i32.const 65536)))
                (then (drop (memory.grow (i32.const 1)))))
            (memory.fill (local.get $at) (local.get $rounds) (i32.const 4096))
            (i32.store 1 (i32.const 0) (local.get $rounds))
            (global.set $g (i64.mul (global.get $g) (i64.const 3)))
            (br_if $l (local.tee $rounds (i32.sub (local.get $rounds) (i32.const 1)))))
        (i32.load (i32.const 40000))))";

/// A chain's last link: what it puts together to, and what the next one has to know.
struct Link {
    checkpoint: Checkpoint,
    tracker: Tracker,
}

fn mark(checkpoint: &Checkpoint) -> Mark {
    Mark::of(&checkpoint.write(&key())).expect("it is long enough")
}

#[test]
fn a_chain_of_deltas_holds_what_whole_checkpoints_hold() {
    let subject = Subject::text(TEXT, "run", &[Val::I32(30)]);
    let prepared = subject.prepared();
    let (mut chain, mut last): (Vec<Checkpoint>, Option<Link>) = (Vec::new(), None);
    let (mut written, mut zeroed) = (0, 0);
    let (seen, hops) = subject.staying(1, |guest, store| {
        let host = store.data().save();
        let whole = prepared
            .capture(guest, &mut *store, host.clone())
            .expect("it has stopped");
        let link = match last.take() {
            None => Link {
                tracker: Tracker::of(&whole, mark(&whole)),
                checkpoint: whole.clone(),
            },
            Some(mut link) => {
                let delta = prepared
                    .capture_changes(guest, &mut *store, host, &mut link.tracker)
                    .expect("it has stopped");
                written += delta.memories.iter().map(|memory| memory.pages.len()).sum::<usize>();
                zeroed += delta.memories[0].zeroed.len();
                let bytes = delta.write(&key());
                let delta = Delta::read(&bytes, &key(), LIMITS).expect("it was just written");
                link.checkpoint = delta.apply(link.checkpoint, link.tracker.base).expect("it follows");
                link.tracker.base = Mark::of(&bytes).expect("it is long enough");
                link
            }
        };
        assert_eq!(link.checkpoint, whole);
        chain.push(whole);
        last = Some(link);
    });
    assert_eq!(seen, subject.plain());
    assert_eq!(hops, 30);
    assert!((58..=62).contains(&written), "{written}: two pages change a round");
    assert!((27..=30).contains(&zeroed), "{zeroed}: one is cleared a round");
    let (seen, _) = subject.hopping(1, |hop, checkpoint| *checkpoint = chain[hop].clone());
    assert_eq!(seen, subject.plain(), "each of them can be gone on with");
}

/// Marks keep chains apart, even where a base would do as well.
#[test]
fn a_delta_applied_to_another_base_is_refused() {
    let subject = Subject::text(TEXT, "run", &[Val::I32(5)]);
    let prepared = subject.prepared();
    let mut whole: Vec<Checkpoint> = Vec::new();
    let mut refused = 0;
    subject.staying(1, |guest, store| {
        let now = prepared
            .capture(guest, &mut *store, Vec::new())
            .expect("it has stopped");
        if let [.., before, last] = whole.as_slice() {
            let mut tracker = Tracker::of(last, mark(last));
            let delta = prepared
                .capture_changes(guest, &mut *store, Vec::new(), &mut tracker)
                .expect("it has stopped");
            let other = delta.clone().apply(before.clone(), mark(before));
            assert_eq!(other, Err(bowline_checkpoint::DeltaError::OtherBase));
            assert_eq!(delta.apply(last.clone(), mark(last)).as_ref(), Ok(&now), "the control");
            refused += 1;
        }
        whole.push(now);
    });
    assert_eq!(refused, 3);
}

#[test]
fn a_run_in_legs_ends_as_one_that_never_stopped() {
    let subject = Subject::text(TEXT, "run", &[Val::I32(9)]);
    let mut leg = subject.first_leg(2);
    let mut legs = 1;
    let ended = loop {
        leg = match leg {
            Leg::Stopped(bytes) => subject.next_leg(&bytes, 2),
            Leg::Ended(seen) => break seen,
        };
        legs += 1;
    };
    assert_eq!(ended, subject.plain());
    assert!(legs > 3, "{legs} legs");
}
