//! Every record survives its round trip, is written as it was written before, and refuses what is not its own.

use bowline_foundation::clock::Timestamp;
use bowline_foundation::digest::Digest;
use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{ChainId, EventId, HostId, Position, Stamp};

fn drafts() -> Vec<Draft> {
    vec![
        Draft {
            id: EventId([1; 16]),
            is_given: true,
            origin: None,
            key: Some("key".into()),
            body: "one".into(),
        },
        Draft {
            id: EventId([2; 16]),
            is_given: false,
            origin: Some(Stamp(0x0102_0304)),
            key: None,
            body: Bytes::new(),
        },
    ]
}

fn run() -> Run {
    Run::encode((HostId(3), Stamp(0x1000), 7), drafts().iter())
}

fn head() -> Head {
    Head {
        is_sealed: true,
        epoch: 2,
        owner: HostId(3),
        floor: Stamp(4),
        first_node: 5,
        next_node: 6,
        next_index: 9,
        node_bytes: 10,
        last_stamp: Stamp(0x1001),
        runs: vec![run()],
    }
}

fn pack() -> Pack {
    Pack {
        first_number: 1,
        digest: Digest::of(b"pack"),
        nodes: vec![Packed { offset: 0, length: 10 }, Packed { offset: 10, length: 20 }],
        first_stamp: Stamp(1),
        last_stamp: Stamp(2),
        first_index: 3,
    }
}

fn directory() -> Directory {
    let chain = |id, state| ChainInfo {
        id: ChainId(id),
        state,
        owner: HostId(2),
        created: Timestamp::from_micros(3),
        floor: Stamp(4),
    };
    Directory {
        chains_at_first: 2,
        created: Timestamp::from_micros(1),
        trimmed: Position::before(Stamp(5)),
        settings: Settings {
            age_max: Some(std::time::Duration::from_micros(6)),
            bytes_max: Some(7),
            tier_after: None,
            chains_max: 8,
        },
        next_chain: ChainId(4),
        chains: vec![
            chain(1, ChainState::Active),
            chain(2, ChainState::Sealed),
            chain(3, ChainState::Pending),
        ],
    }
}

fn doomed() -> Doomed {
    Doomed {
        chains_at_first: 2,
        chains: vec![ChainId(1), ChainId(258)],
    }
}

fn member() -> Member {
    Member {
        state: MemberState::Fenced,
        address: "10.0.0.1:9000".to_owned(),
    }
}

fn beat() -> Beat {
    Beat {
        promise: Stamp(1),
        limit: Stamp(2),
        wall: Timestamp::from_micros(3),
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What format 1 looks like on disk. A change here is a change of the format.
#[test]
fn records_are_written_as_they_were() {
    let golden = include_str!("golden.txt");
    let node = Node::of(vec![run()]);
    let written = [
        ("head", head().encode()),
        ("node", node.encode()),
        ("pack", pack().encode()),
        ("directory", directory().encode()),
        ("member", member().encode()),
        ("beat", beat().encode()),
        ("doomed", doomed().encode()),
    ];
    let written: String = written
        .iter()
        .map(|(name, bytes)| format!("{name} {}\n", hexadecimal(bytes)))
        .collect();
    assert_eq!(written, golden);
}

#[test]
fn records_come_back() {
    assert_eq!(Doomed::decode(&doomed().encode()), Ok(doomed()));
    assert_eq!(Head::decode(&head().encode()), Ok(head()));
    let node = Node::of(vec![run()]);
    assert_eq!(node.bytes(), node.encode().len() as u64);
    assert_eq!(Stored::decode(&node.encode()), Ok(Stored::Node(node)));
    assert_eq!(Stored::decode(&pack().encode()), Ok(Stored::Pack(pack())));
    assert_eq!(Directory::decode(&directory().encode()), Ok(directory()));
    assert_eq!(Member::decode(&member().encode()), Ok(member()));
    assert_eq!(Beat::decode(&beat().encode()), Ok(beat()));
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let mut bytes = head().encode().to_vec();
    bytes[0] = 2;
    let error = Head::decode(&bytes.into()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a head has format `2`, this build knows up to `1`: start a newer build"
    );
}

#[test]
fn records_cut_short_are_refused() {
    fn check<T: PartialEq>(record: &Bytes, decode: impl Fn(&Bytes) -> Result<T, Damaged>) {
        assert!(decode(record).is_ok(), "control: the whole record is good");
        for length in 0..record.len() {
            assert!(
                decode(&record.slice(..length)).is_err(),
                "{length} bytes of {}",
                record.len()
            );
        }
    }
    check(&pack().encode(), Stored::decode);
    check(&directory().encode(), Directory::decode);
    check(&member().encode(), Member::decode);
    check(&beat().encode(), Beat::decode);
    // A head may end after its fields: then it has no events.
    check(&head().encode(), |bytes| match Head::decode(bytes)? {
        head if head.runs.is_empty() => Err(Damaged::Malformed { what: "a head" }),
        head => Ok(head),
    });
}

fn any_draft() -> impl Strategy<Value = Draft> {
    let bytes = |most: usize| proptest::collection::vec(any::<u8>(), 0..most).prop_map(Bytes::from);
    let flags = (any::<bool>(), proptest::option::of(any::<u64>()));
    (any::<[u8; 16]>(), flags, proptest::option::of(bytes(40)), bytes(300)).prop_map(
        |(id, (is_given, origin), key, body)| Draft {
            id: EventId(id),
            is_given,
            origin: origin.map(Stamp),
            key,
            body,
        },
    )
}

proptest! {
    #[test]
    fn any_events_come_back_from_their_run(drafts in proptest::collection::vec(any_draft(), 1..20)) {
        let run = Run::encode((HostId(1), Stamp(100), 50), drafts.iter());
        prop_assert_eq!(Run::split(run.bytes.clone()), Ok(vec![run.clone()]));
        let mut reader = RunReader::new(run.clone(), ChainId(4));
        prop_assert_eq!(reader.last(), run.position(ChainId(4), run.events - 1));
        for (at, draft) in drafts.iter().enumerate() {
            prop_assert_eq!(reader.peek(), Some(run.position(ChainId(4), at as u32)));
            let item = reader.next().unwrap();
            let back = Draft {
                id: item.event.id,
                is_given: item.is_given,
                origin: item.origin,
                key: item.event.key,
                body: item.event.body,
            };
            prop_assert_eq!(&back, draft);
        }
        prop_assert_eq!(reader.peek(), None);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = bytes;
        if let Some(format) = bytes.first_mut() {
            *format = 1;
        }
        let bytes = Bytes::from(bytes);
        let _ = (Directory::decode(&bytes), Member::decode(&bytes), Beat::decode(&bytes));
        let runs = [
            Head::decode(&bytes).map(|head| head.runs),
            Run::split(bytes.clone()),
            Stored::decode(&bytes).map(|stored| match stored {
                Stored::Node(node) => node.runs,
                Stored::Pack(_) => Vec::new(),
            }),
        ];
        for run in runs.into_iter().flatten().flatten() {
            let mut reader = RunReader::new(run, ChainId(1));
            while reader.peek().is_some() && reader.next().is_ok() {}
        }
    }
}
