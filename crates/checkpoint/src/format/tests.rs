//! Round trips, the golden file, and every single damage.

use bowline_foundation::digest::Digest;

use super::*;
use crate::{Frame, Identity, MemoryChanges, MemoryImage, Options, Page, Site, Stop, TableImage, Value};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/version-2.ckpt");
const GOLDEN_DELTA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/delta-2.ckptd");
const LIMITS: ReadLimits = ReadLimits {
    body_bytes_max: 1 << 24,
};

fn read(bytes: &[u8]) -> Result<Checkpoint, ReadError> {
    Checkpoint::read(&Bytes::copy_from_slice(bytes), &key(), LIMITS)
}

fn read_delta(bytes: &[u8]) -> Result<Delta, ReadError> {
    Delta::read(&Bytes::copy_from_slice(bytes), &key(), LIMITS)
}

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
    assert_eq!(read(&golden), Ok(sample()));
    let written = sample().write(&key());
    assert_eq!(written[..72], golden[..72], "the header is the same to the byte");
    assert_eq!(Checkpoint::read(&written, &key(), LIMITS), Ok(sample()));
}

/// A change of this file's bytes is a new version of the format of deltas.
#[test]
fn the_golden_delta_is_read_and_written_alike() {
    if std::env::var_os("BOWLINE_WRITE_GOLDEN").is_some() {
        std::fs::write(GOLDEN_DELTA, sample_delta().write(&key())).unwrap();
    }
    let golden = std::fs::read(GOLDEN_DELTA).unwrap();
    assert_eq!(read_delta(&golden), Ok(sample_delta()));
    let written = sample_delta().write(&key());
    assert_eq!(
        written[..104],
        golden[..104],
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
        let mut damaged = written.to_vec();
        damaged[byte] ^= 1 << (byte % 8);
        assert!(read(&damaged).is_err(), "byte {byte}");
    }
    for length in 0..written.len() {
        assert!(read(&written[..length]).is_err(), "length {length}");
    }
    let written = sample_delta().write(&key());
    for byte in 0..written.len() {
        let mut damaged = written.to_vec();
        damaged[byte] ^= 1 << (byte % 8);
        assert!(read_delta(&damaged).is_err(), "byte {byte} of a delta");
    }
}

#[test]
fn another_key_another_version_and_too_much_are_told_apart() {
    let written = sample().write(&key());
    let other = SigningKey::new(&[8; 32]);
    assert_eq!(Checkpoint::read(&written, &other, LIMITS), Err(ReadError::Signature));
    for other in [FORMAT_VERSION - 1, FORMAT_VERSION + 1] {
        let mut bytes = written.to_vec();
        bytes[8] = other as u8;
        let (found, known) = (other, FORMAT_VERSION);
        assert_eq!(read(&bytes), Err(ReadError::Version { found, read: known }));
    }
    let delta = sample_delta().write(&key());
    let other_kind = Checkpoint::read(&delta, &key(), LIMITS);
    assert_eq!(other_kind, Err(ReadError::NotACheckpoint));
    assert_eq!(Delta::read(&written, &key(), LIMITS), Err(ReadError::NotADelta));
    assert_eq!(read(b"text"), Err(ReadError::NotACheckpoint));
    let small = ReadLimits { body_bytes_max: 100 };
    let refused = Checkpoint::read(&written, &key(), small);
    assert!(matches!(refused, Err(ReadError::TooLarge { max: 100, .. })));
}

/// What the signer itself writes wrong is refused by the reader of the body.
#[test]
fn a_malformed_body_is_refused_although_it_is_signed() {
    let resigned = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = sample().write(&key()).to_vec();
        bytes.truncate(bytes.len() - SIGNATURE_BYTES);
        change(&mut bytes);
        bytes.extend_from_slice(&key().seal(&bytes));
        read(&bytes)
    };
    assert!(resigned(&|_| {}).is_ok(), "the control");
    let malformed = |text| Err(ReadError::Malformed(text));
    assert_eq!(resigned(&|bytes| bytes.push(0)), malformed("bytes are left over"));
    assert_eq!(
        resigned(&|bytes| bytes[52] = 9),
        malformed("its header names no kind of poll")
    );
    // The header counts two pages.
    let pages = |count: u64| {
        let (state, page) = (encode::state(&Content::of(&sample())), [1; Page::BYTES]);
        let mut bytes = sample().write(&key())[..72].to_vec();
        bytes[64..].copy_from_slice(&count.to_le_bytes());
        chunks::pack(&state, &vec![&page[..]; count as usize], &mut bytes);
        bytes.extend_from_slice(&key().seal(&bytes));
        read(&bytes)
    };
    assert!(pages(2).is_ok(), "the control");
    assert_eq!(pages(1), malformed("it lists more pages than it has"));
    assert_eq!(pages(3), malformed("it has more pages than it lists"));
    assert_eq!(
        resigned(&|bytes| bytes[64] = 3),
        malformed("a chunk has the wrong length"),
        "counted, but not there"
    );
    let too_many = resigned(&|bytes| bytes[64..72].fill(0xff));
    assert!(matches!(too_many, Err(ReadError::TooLarge { .. })), "{too_many:?}");
}

/// Pages that gain nothing by packing are parts of the bytes that were read; others are packed although none of the
/// first was.
#[test]
fn pages_come_back_packed_or_not() {
    let noise = |index: u64| {
        let word = |at: u64| (index * 4096 + at).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        Page {
            index,
            bytes: (0..Page::BYTES as u64 / 8).flat_map(word).collect::<Vec<u8>>().into(),
        }
    };
    let mut large = sample();
    let pages = |indices: std::ops::Range<u64>, make: &dyn Fn(u64) -> Page| indices.map(make).collect::<Vec<_>>();
    large.memories[0].size_pages = 64;
    large.memories[0].pages = [pages(0..600, &noise), pages(600..1000, &|index| page(index, 7))].concat();
    let written = large.write(&key());
    let bytes = written.len() / Page::BYTES;
    assert!((600..700).contains(&bytes), "{bytes} pages' worth");
    let back = Checkpoint::read(&written, &key(), LIMITS).unwrap();
    assert_eq!(back, large);
    let lies_within = |page: &Page| written.as_ptr_range().contains(&page.bytes.as_ptr());
    assert!(lies_within(&back.memories[0].pages[0]), "no copy was made");
    assert!(!lies_within(&back.memories[0].pages[999]), "the control");
}
