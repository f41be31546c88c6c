//! Messages come back as they were, and nothing else is taken for one.

use bowline_foundation::entropy::Entropy;

use super::*;

fn errand() -> Errand {
    Errand {
        request_id: RequestId::random(&Entropy::seeded(1)),
        account: AccountId::default_account(),
        function: "hello".parse().expect("a good name"),
        version: Version::Number(7),
        identity: 42,
        invoked_arn: "arn:aws:lambda:us-east-1:000000000000:function:hello:live".to_owned(),
        client_context: Some("{}".to_owned()),
        trace_id: None,
        wants: Wants {
            log_tail: true,
            pieces: false,
        },
        payload: Bytes::from_static(b"{\"a\":1}"),
    }
}

fn offer() -> Offer {
    Offer {
        run: RequestId::random(&Entropy::seeded(2)),
        epoch: 3,
        needs: Needs {
            format_version: 1,
            pass_version: 1,
            memory_mib: 128,
        },
        decision: "{}".to_owned(),
    }
}

fn all_asked() -> Vec<Asked> {
    let bare = Errand {
        version: Version::Latest,
        client_context: None,
        trace_id: Some("Root=1".to_owned()),
        wants: Wants {
            log_tail: false,
            pieces: true,
        },
        payload: Bytes::new(),
        ..errand()
    };
    vec![
        Asked::Tell,
        Asked::Go,
        Asked::Facts,
        Asked::Prepare(Digest::of(b"checkpoint")),
        Asked::Offer(Box::new(offer())),
        Asked::Invoke(Box::new(errand())),
        Asked::Invoke(Box::new(bare)),
    ]
}

fn all_told() -> Vec<Told> {
    let ended = |result, log_tail| Told::Ended(Ending { result, log_tail });
    let failed = Outcome::Failed {
        error_type: "Handler.Oops".to_owned(),
        payload: Bytes::from_static(b"{}"),
    };
    vec![
        Told::Advert(Advert::default()),
        Told::Advert(Advert {
            is_stopping: true,
            kinds: 3,
            load: 9,
            warm: vec![(1, 2), (u64::MAX, u32::MAX)],
        }),
        Told::Facts(Facts {
            is_stopping: true,
            format_version: 1,
            pass_version: 2,
            memory_free_mib: 3,
            load_percent: 4,
            processors: 5,
            wanted_percent: 6,
        }),
        Told::Running,
        Told::Misfit(Misfit::new("memory", "128 MiB", "3 MiB free")),
        Told::Denied("why".to_owned()),
        Told::Taken,
        Told::Refused(Refusal::Stopping),
        Told::Refused(Refusal::Unknown),
        Told::Refused(Refusal::Full),
        Told::Begun("text/plain".to_owned()),
        Told::Piece(Bytes::from_static(b"piece")),
        ended(Outcome::Answer(Bytes::from_static(b"1")), None),
        ended(failed, Some(Bytes::from_static(b"log"))),
        ended(Outcome::Broken("why".to_owned()), None),
    ]
}

fn whole(head: &[u8], payload: &[u8]) -> Bytes {
    [head, payload].concat().into()
}

/// What nodes said before they knew how many processors they have.
#[test]
fn facts_of_an_older_node_are_read() {
    let facts = Facts {
        is_stopping: true,
        load_percent: 4,
        ..Facts::default()
    };
    let head = Told::Facts(facts).head();
    let older = head.slice(..head.len() - 8);
    assert_eq!(Told::decode(older), Ok(Told::Facts(facts)));
    for cut in 1..8 {
        let damaged = head.slice(..head.len() - cut);
        assert_eq!(Told::decode(damaged), Err(InvalidMessage::Malformed), "{cut}");
    }
}

#[test]
fn messages_come_back() {
    for asked in all_asked() {
        assert_eq!(Asked::decode(whole(&asked.head(), asked.payload())), Ok(asked));
    }
    for told in all_told() {
        assert_eq!(Told::decode(whole(&told.head(), told.payload())), Ok(told));
    }
}

#[test]
fn heads_that_are_cut_off_are_refused() {
    for head in all_asked().iter().map(Asked::head) {
        for length in 0..head.len() {
            assert!(
                Asked::decode(head.slice(..length)).is_err(),
                "{length} bytes of {head:?}"
            );
        }
    }
    for told in all_told() {
        let head = told.head();
        // What an older node says of itself ends before two numbers.
        let older = matches!(told, Told::Facts(_)).then(|| head.len() - 8);
        for length in (0..head.len()).filter(|length| Some(*length) != older) {
            assert!(
                Told::decode(head.slice(..length)).is_err(),
                "{length} bytes of {head:?}"
            );
        }
    }
}

#[test]
fn what_is_no_message_is_refused() {
    assert_eq!(
        Asked::decode(Bytes::from_static(b"\x02T")),
        Err(InvalidMessage::Format(2))
    );
    for bytes in [
        &b"\x01TT"[..],
        b"\x01G?",
        b"\x01X",
        b"\x01Y!",
        b"\x01N\x09",
        b"\x01A\x02",
        b"\x01F\x02",
        b"\x01R!",
        b"\x01D",
    ] {
        let bytes = Bytes::copy_from_slice(bytes);
        assert!(Asked::decode(bytes.clone()).is_err() && Told::decode(bytes).is_err());
    }
    let mut long = BytesMut::from(&b"\x01A\0\0\0\0\0\0"[..]);
    long.put_u32(u32::MAX);
    assert_eq!(Told::decode(long.freeze()), Err(InvalidMessage::Malformed));
}

#[test]
fn an_advert_is_bounded() {
    let advert = Advert {
        warm: (0..WARM_MAX as u64 + 5).map(|identity| (identity, 1)).collect(),
        ..Advert::default()
    };
    let head = Told::Advert(advert).head();
    assert!(head.len() < 64 * 1024, "{} bytes", head.len());
    let Ok(Told::Advert(read)) = Told::decode(head) else {
        panic!("it is no advert");
    };
    assert_eq!(read.warm.len(), WARM_MAX);
}
