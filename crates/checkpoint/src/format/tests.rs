//! Round trips, the golden file, and every single damage.

use bowline_foundation::digest::Digest;

use super::*;
use crate::{Frame, Identity, MemoryChanges, MemoryImage, Options, Page, Site, Stop, TableImage, Value};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/version-2.ckpt");
const GOLDEN_DELTA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/delta-2.ckptd");
const LIMITS: ReadLimits = ReadLimits {
    body_bytes_max: 1 << 24,
};

fn key() -> SigningKey {
    SigningKey::new(&[7; 32])
}

fn page(index: u64, byte: u8) -> Page {
    Page {
        index,
        bytes: vec![byte; Page::BYTES].into(),
    }
}

fn sample() -> Checkpoint {
    Checkpoint {
        identity: Identity {
            module: Digest::of(b"the original module"),
            pass: 1,
            options: Options::default(),
        },
        memories: vec![MemoryImage {
            size_pages: 17,
            pages: vec![page(0, 1), page(200, 2)],
        }],
        globals: vec![
            Value::I32(1),
            Value::I64(u64::MAX),
            Value::F32(f32::NAN.to_bits() | 1),
            Value::F64(1.5_f64.to_bits()),
            Value::V128(1 << 100),
        ],
        tables: vec![TableImage {
            elements: vec![
                Value::Function(None),
                Value::Function(Some(3)),
                Value::Extern(None),
                Value::Extern(Some(9)),
            ],
        }],
        frames: vec![
            Frame {
                site: Site {
                    function: 4,
                    place: 2,
                    stop: Stop::Here,
                },
                values: vec![Value::I32(5)],
            },
            Frame {
                site: Site {
                    function: 3,
                    place: 0,
                    stop: Stop::Inside,
                },
                values: Vec::new(),
            },
        ],
        host: b"descriptors".to_vec(),
    }
}

fn sample_delta() -> Delta {
    let sample = sample();
    Delta {
        identity: sample.identity,
        base: Mark([5; SIGNATURE_BYTES]),
        memories: vec![MemoryChanges {
            size_pages: 18,
            zeroed: vec![3, 200],
            pages: vec![page(0, 3), page(270, 4)],
        }],
        globals: sample.globals,
        tables: sample.tables,
        frames: sample.frames,
        host: sample.host,
    }
}

/// A change of this file's bytes is a new version of the format.
#[test]
fn the_golden_file_is_read_and_written_alike() {
    if std::env::var_os("BOWLINE_WRITE_GOLDEN").is_some() {
        std::fs::write(GOLDEN, sample().write(&key())).unwrap();
    }
    let golden = std::fs::read(GOLDEN).unwrap();
    assert_eq!(Checkpoint::read(&golden, &key(), LIMITS), Ok(sample()));
    let written = sample().write(&key());
    assert_eq!(written[..68], golden[..68], "the header is the same to the byte");
    assert_eq!(Checkpoint::read(&written, &key(), LIMITS), Ok(sample()));
}

/// A change of this file's bytes is a new version of the format of deltas.
#[test]
fn the_golden_delta_is_read_and_written_alike() {
    if std::env::var_os("BOWLINE_WRITE_GOLDEN").is_some() {
        std::fs::write(GOLDEN_DELTA, sample_delta().write(&key())).unwrap();
    }
    let golden = std::fs::read(GOLDEN_DELTA).unwrap();
    assert_eq!(Delta::read(&golden, &key(), LIMITS), Ok(sample_delta()));
    let written = sample_delta().write(&key());
    assert_eq!(
        written[..100],
        golden[..100],
        "header and mark are the same to the byte"
    );
    assert_eq!(Delta::read(&written, &key(), LIMITS), Ok(sample_delta()));
}

#[test]
fn a_body_of_many_chunks_comes_back() {
    let mut large = sample();
    large.host = (0..3 * chunks::CHUNK_BYTES + 17)
        .map(|place| (place % 251) as u8)
        .collect();
    let written = large.write(&key());
    assert!(written.len() < large.host.len() / 10, "repetition is packed");
    assert_eq!(Checkpoint::read(&written, &key(), LIMITS), Ok(large));
}

#[test]
fn every_flipped_bit_is_noticed() {
    let written = sample().write(&key());
    for byte in 0..written.len() {
        let mut damaged = written.clone();
        damaged[byte] ^= 1 << (byte % 8);
        assert!(Checkpoint::read(&damaged, &key(), LIMITS).is_err(), "byte {byte}");
    }
    for length in 0..written.len() {
        assert!(
            Checkpoint::read(&written[..length], &key(), LIMITS).is_err(),
            "length {length}"
        );
    }
    let written = sample_delta().write(&key());
    for byte in 0..written.len() {
        let mut damaged = written.clone();
        damaged[byte] ^= 1 << (byte % 8);
        assert!(Delta::read(&damaged, &key(), LIMITS).is_err(), "byte {byte} of a delta");
    }
}

#[test]
fn another_key_another_version_and_too_much_are_told_apart() {
    let written = sample().write(&key());
    let other = SigningKey::new(&[8; 32]);
    assert_eq!(Checkpoint::read(&written, &other, LIMITS), Err(ReadError::Signature));
    let mut newer = written.clone();
    newer[8] = 2;
    let newer = Checkpoint::read(&newer, &key(), LIMITS);
    assert_eq!(newer, Err(ReadError::Version { found: 2, read: 1 }));
    let delta = sample_delta().write(&key());
    let other_kind = Checkpoint::read(&delta, &key(), LIMITS);
    assert_eq!(other_kind, Err(ReadError::NotACheckpoint));
    assert_eq!(Delta::read(&written, &key(), LIMITS), Err(ReadError::NotADelta));
    assert_eq!(
        Checkpoint::read(b"text", &key(), LIMITS),
        Err(ReadError::NotACheckpoint)
    );
    let small = ReadLimits { body_bytes_max: 100 };
    let refused = Checkpoint::read(&written, &key(), small);
    assert!(matches!(refused, Err(ReadError::TooLarge { max: 100, .. })));
}

/// What the signer itself writes wrong is refused by the reader of the body.
#[test]
fn a_malformed_body_is_refused_although_it_is_signed() {
    let resign = |mut bytes: Vec<u8>| {
        bytes.truncate(bytes.len() - SIGNATURE_BYTES);
        bytes.extend_from_slice(&key().sign(&bytes));
        Checkpoint::read(&bytes, &key(), LIMITS)
    };
    assert!(resign(sample().write(&key())).is_ok(), "the control");
    let mut longer = sample().write(&key());
    longer.insert(longer.len() - SIGNATURE_BYTES, 0);
    assert_eq!(resign(longer), Err(ReadError::Malformed("bytes are left over")));
    let mut poll = sample().write(&key());
    poll[52] = 9;
    assert_eq!(
        resign(poll),
        Err(ReadError::Malformed("its header names no kind of poll"))
    );
}
