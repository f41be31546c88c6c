//! Each kind of record: its golden file, and the way there and back.

use std::fmt::Debug;

use bowline_foundation::clock::Timestamp;

use super::*;
use crate::session::settings::{Mode, Order};
use crate::{ChainId, HostId, Position, Stamp};

/// The record is read from its golden file, and written as it.
fn check<R: Record + PartialEq + Debug>(record: &R, golden: &str) {
    let golden = golden.trim_end();
    assert_eq!(String::from_utf8_lossy(&record.encode()), golden);
    assert_eq!(&R::decode(golden.as_bytes()).unwrap(), record);
}

fn place(index: u64) -> Position {
    Position {
        stamp: Stamp::of(Timestamp::from_micros(1_795_217_079_123_456)),
        host: HostId(3),
        chain: ChainId(2),
        index,
    }
}

fn marker() -> MarkerRecord {
    MarkerRecord {
        batch: 17,
        nonce: u64::MAX,
        state: MarkerState::InFlight,
        after: place(4),
        to: place(9),
        events: Some(vec![
            Chosen {
                at: place(5),
                key: Some(42),
            },
            Chosen {
                at: place(9),
                key: None,
            },
        ]),
        count: 2,
        attempts: 3,
        worker: "worker-a".to_owned(),
        request_id: Some("r-1".to_owned()),
        first_sent_at: Timestamp::from_micros(1),
        sent_at: Timestamp::from_micros(2),
        due_at: Timestamp::from_micros(3),
        reason: Some("timed out".to_owned()),
    }
}

fn session() -> SessionRecord {
    SessionRecord {
        stream: "orders~4".parse().unwrap(),
        name: "mailer".to_owned(),
        start: "OLDEST".to_owned(),
        mode: Mode::AtLeastOnce,
        order: Order::PerKey,
        lease_ms: 30_000,
        attempts_max: Some(5),
        idle_ttl_ms: 86_400_000,
        filter: Some("body.kind == 'order'".to_owned()),
        created_at: Timestamp::from_micros(1),
        read_at: Timestamp::from_micros(2),
        cursor: place(9),
        batch: 17,
        parked: 1,
        withheld: vec![Withheld { at: place(6), key: 42 }],
        recent: vec![Recent {
            batch: 16,
            from: place(1),
            to: place(3),
            count: 3,
            worker: "worker-b".to_owned(),
            sent_at: Timestamp::from_micros(4),
        }],
        skipped: 7,
        filter_errors: 1,
        trimmed: 2,
        nonce: 99,
    }
}

#[test]
fn sessions() {
    check(&session(), include_str!("golden/session-1.json"));
}

#[test]
fn markers() {
    check(&marker(), include_str!("golden/marker-1.json"));
    let whole = MarkerRecord {
        state: MarkerState::Waiting,
        events: None,
        request_id: None,
        reason: None,
        ..marker()
    };
    check(&whole, include_str!("golden/marker-1-whole.json"));
}

#[test]
fn parked_sets() {
    let parked = ParkedRecord {
        set: marker(),
        parked_at: Timestamp::from_micros(5),
    };
    check(&parked, include_str!("golden/parked-1.json"));
}

#[test]
fn audit_rows() {
    let row = AuditRecord {
        who: "000000000000".to_owned(),
        request_id: "r-2".to_owned(),
        action: "SeekSession".to_owned(),
        subject: "0123456789abcdef0123456789abcdef".to_owned(),
        before: Some("cursor a".to_owned()),
        after: None,
        at: Timestamp::from_micros(6),
    };
    check(&row, include_str!("golden/audit-1.json"));
}

#[test]
fn a_newer_format_is_refused_with_both_numbers() {
    let newer = br#"{"format":2,"record":{"anything":true}}"#;
    let refused = SessionRecord::decode(newer).unwrap_err().to_string();
    assert_eq!(refused, "record has format `2`, this build knows `1`");
    assert!(SessionRecord::decode(b"not json").is_err());
    assert!(SessionRecord::decode(br#"{"format":1,"record":{}}"#).is_err());
}

/// The largest record of a session stays far below the store's limit.
#[test]
fn a_session_with_full_lists_is_small() {
    use crate::session::limits::{FILTER_BYTES_MAX, NAME_BYTES_MAX, RECENT_SETS_MAX, WITHHELD_EVENTS_MAX};
    let withheld = Withheld {
        at: place(u64::MAX),
        key: u64::MAX,
    };
    let mut full = session();
    full.filter = Some("x".repeat(FILTER_BYTES_MAX));
    full.withheld = vec![withheld; WITHHELD_EVENTS_MAX];
    full.recent[0].worker = "w".repeat(NAME_BYTES_MAX);
    full.recent = vec![full.recent[0].clone(); RECENT_SETS_MAX];
    let bytes = full.encode().len();
    assert!(bytes < 48 * 1024, "{bytes}");
}
