//! Every record: its golden file in hexadecimal, and the way there and back.

use proptest::prelude::*;

use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn golden(text: &str) -> Bytes {
    let digits = text.trim_end().as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn index(key: &'static str, since: u64) -> IndexRef {
    IndexRef {
        index: "colour".to_owned(),
        key: Bytes::from_static(key.as_bytes()),
        since,
    }
}

fn event(version: u64, body: Option<&'static str>) -> EventRecord {
    EventRecord {
        event_id: 0x1234_5678 + u128::from(version),
        kind: if version == 1 {
            EventKind::Create
        } else {
            EventKind::Update
        },
        version,
        at_micros: 1_795_217_079_123_456,
        by: "ann".to_owned(),
        request: "r-1".to_owned(),
        origin: if version == 1 { Origin::Random } else { Origin::Token },
        body: body.map(|body| Bytes::from_static(body.as_bytes())),
    }
}

fn item() -> Item {
    Item {
        state: State::Live,
        version: 2,
        created_at_micros: 1_795_217_079_000_000,
        request_id: 7,
        supersedes: vec![
            Loser {
                store: "a".parse().unwrap(),
                by: LoserBy::Unique(Unique::from_number(9)),
            },
            Loser {
                store: "b".parse().unwrap(),
                by: LoserBy::Claim,
            },
        ],
        body: Bytes::from_static(b"second"),
        indexes: vec![index("red", 2)],
        pending_removes: Some(vec![index("blue", 1)]),
        events: vec![event(1, Some("first")), event(2, None)],
    }
}

#[test]
fn items() {
    let file = include_str!("golden/item-1.hex");
    assert_eq!(hex(&item().encode()), file.trim_end());
    assert_eq!(Item::decode(golden(file)), Ok(item()));
}

#[test]
fn nodes_beacons_claims_notes_and_applied_tokens() {
    let events = vec![event(1, Some("first")), event(2, Some("second"))];
    assert_eq!(hex(&encode_node(&events)), include_str!("golden/node-1.hex").trim_end());
    assert_eq!(decode_node(golden(include_str!("golden/node-1.hex"))), Ok(events));
    let adds = vec![index("red", 2)];
    assert_eq!(
        hex(&encode_beacon(&adds)),
        include_str!("golden/beacon-1.hex").trim_end()
    );
    assert_eq!(decode_beacon(golden(include_str!("golden/beacon-1.hex"))), Ok(adds));
    let claim = Some(Unique::from_number(9));
    assert_eq!(hex(&encode_claim(claim)), include_str!("golden/claim-1.hex").trim_end());
    assert_eq!(decode_claim(golden(include_str!("golden/claim-1.hex"))), Ok(claim));
    assert_eq!(decode_claim(encode_claim(None)), Ok(None));
    assert_eq!(hex(&encode_sweep()), "5301");
    assert_eq!(hex(&encode_applied(7)), include_str!("golden/applied-1.hex").trim_end());
    assert_eq!(decode_applied(golden(include_str!("golden/applied-1.hex"))), Ok(7));
}

#[test]
fn a_newer_format_is_refused_and_damage_is_named() {
    let mut newer = item().encode().to_vec();
    newer[1] = 2;
    let error = Item::decode(newer.into()).unwrap_err();
    assert_eq!(error, RecordError::NewerFormat { found: 2, known: 1 });
    assert!(error.to_string().contains("start a newer build"));
    let whole = item().encode();
    for length in 0..whole.len() {
        assert!(
            matches!(Item::decode(whole.slice(..length)), Err(RecordError::Damaged(_))),
            "{length}"
        );
    }
    assert_eq!(Item::decode(encode_sweep()), Err(RecordError::Damaged("head")));
}

proptest! {
    #[test]
    fn no_bytes_break_the_decoder(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = bytes;
        if bytes.len() > 1 {
            bytes[0] = ITEM;
            bytes[1] = 1;
        }
        if let Ok(item) = Item::decode(bytes.clone().into()) {
            prop_assert_eq!(item.encode(), Bytes::from(bytes));
        }
    }
}
