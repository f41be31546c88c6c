//! Chains of deltas, and deltas that do not fit.

use bowline_foundation::digest::Digest;

use super::*;
use crate::{Options, SigningKey};

fn page(index: u64, byte: u8) -> Page {
    Page {
        index,
        bytes: vec![byte; Page::BYTES].into(),
    }
}

fn base() -> (Checkpoint, Mark) {
    let checkpoint = Checkpoint {
        identity: Identity {
            module: Digest::of(b"a module"),
            pass: 1,
            options: Options::default(),
        },
        memories: vec![MemoryImage {
            size_pages: 1,
            pages: vec![page(1, 1), page(4, 4), page(9, 9)],
        }],
        globals: vec![Value::I32(1)],
        tables: Vec::new(),
        frames: Vec::new(),
        host: b"before".to_vec(),
    };
    let mark = Mark::of(&checkpoint.write(&SigningKey::new(&[1; 32]))).unwrap();
    (checkpoint, mark)
}

fn delta(mark: Mark) -> Delta {
    let (base, _) = base();
    Delta {
        identity: base.identity,
        base: mark,
        memories: vec![MemoryChanges {
            size_pages: 2,
            zeroed: vec![4],
            pages: vec![page(0, 5), page(9, 6), page(20, 7)],
        }],
        globals: vec![Value::I32(2)],
        tables: Vec::new(),
        frames: Vec::new(),
        host: b"after".to_vec(),
    }
}

#[test]
fn a_delta_replaces_adds_and_clears_pages() {
    let (base, mark) = base();
    let applied = delta(mark).apply(base, mark).unwrap();
    assert_eq!(applied.memories[0].size_pages, 2);
    assert_eq!(
        applied.memories[0].pages,
        [page(0, 5), page(1, 1), page(9, 6), page(20, 7)]
    );
    assert_eq!(applied.globals, [Value::I32(2)]);
    assert_eq!(applied.host, b"after");
}

#[test]
fn a_delta_that_does_not_fit_its_base_is_refused() {
    let refused = |change: fn(&mut Delta)| {
        let (base, mark) = base();
        let mut delta = delta(mark);
        change(&mut delta);
        delta.apply(base, mark).err()
    };
    assert_eq!(refused(|_| {}), None, "the control");
    assert_eq!(
        refused(|delta| delta.base = Mark([0; SIGNATURE_BYTES])),
        Some(DeltaError::OtherBase)
    );
    assert_eq!(
        refused(|delta| delta.identity.module = Digest::of(b"other")),
        Some(DeltaError::OtherModule)
    );
    assert_eq!(refused(|delta| delta.memories.clear()), Some(DeltaError::Memory(0)));
    let memory = Some(DeltaError::Memory(0));
    assert_eq!(refused(|delta| delta.memories[0].size_pages = 0), memory);
    assert_eq!(refused(|delta| delta.memories[0].zeroed = vec![4, 4]), memory);
    assert_eq!(refused(|delta| delta.memories[0].pages.reverse()), memory);
}
