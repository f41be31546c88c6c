//! Deltas of checkpoints: any signed bytes are read or refused, what was read is written alike, nothing unsigned is
//! read, and what is applied rises in its pages.
#![no_main]

use bowline_checkpoint::{Checkpoint, Delta, Mark, MemoryImage, ReadLimits, SigningKey};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

const LIMITS: ReadLimits = ReadLimits {
    body_bytes_max: 4 << 20,
};

fuzz_target!(|data: &[u8]| {
    let key = SigningKey::new(&[7; 32]);
    assert!(
        Delta::read(&Bytes::copy_from_slice(data), &key, LIMITS).is_err(),
        "these bytes bear no signature"
    );
    let signed = Bytes::from([data, &key.seal(data)].concat());
    let Ok(delta) = Delta::read(&signed, &key, LIMITS) else {
        return;
    };
    let written = delta.write(&key);
    assert_eq!(Delta::read(&written, &key, LIMITS).as_ref(), Ok(&delta));
    apply(delta);
});

/// Applies it to a base that it fits.
fn apply(delta: Delta) {
    let empty = MemoryImage {
        size_pages: 0,
        pages: Vec::new(),
    };
    let base = Checkpoint {
        identity: delta.identity,
        memories: vec![empty; delta.memories.len()],
        globals: Vec::new(),
        tables: Vec::new(),
        frames: Vec::new(),
        host: Vec::new(),
    };
    let mark = delta.base;
    assert!(
        delta.clone().apply(base.clone(), other_than(mark)).is_err(),
        "another base"
    );
    if let Ok(applied) = delta.apply(base, mark) {
        for memory in applied.memories {
            assert!(memory.pages.is_sorted_by(|left, right| left.index < right.index));
        }
    }
}

fn other_than(mark: Mark) -> Mark {
    [Mark::of(&[0; 32]), Mark::of(&[1; 32])]
        .into_iter()
        .flatten()
        .find(|other| *other != mark)
        .expect("one of two marks is another")
}
