//! Every checker fires on the history that it is there for, and on none that is good.

use bowline_sim::{Acked, Ended, History, ReadStep, check};
use bowline_stream::{ChainId, HostId, Position, Stamp};

fn at(stamp: u64, host: u64, index: u64) -> Position {
    Position {
        stamp: Stamp(stamp),
        host: HostId(host),
        chain: ChainId(1),
        index,
    }
}

fn acked(number: u64, position: Position, sent: u64) -> Acked {
    Acked {
        events: vec![(number, position)],
        host: HostId(1),
        sent,
        acked: sent + 1,
        is_retry: false,
    }
}

/// Three events, all acknowledged, read by two readers; one change of owner.
fn good() -> History {
    let events = vec![(1, at(10, 1, 0)), (2, at(20, 1, 1)), (3, at(30, 2, 2))];
    let page = |reader, after, events: &[(u64, Position)], next| ReadStep {
        reader,
        after,
        events: events.to_vec(),
        next,
    };
    History {
        acked: (0..3).map(|n| acked(n + 1, events[n as usize].1, 1 + 2 * n)).collect(),
        reads: vec![
            page(0, Position::START, &events[..1], at(10, 1, 0)),
            page(0, at(10, 1, 0), &events[1..], Position::before(Stamp(40))),
            page(1, Position::START, &events, Position::before(Stamp(40))),
        ],
        refused: vec![7],
        owners: vec![(ChainId(1), 1, HostId(1)), (ChainId(1), 2, HostId(2))],
        ended: Ended {
            events,
            end: Position::before(Stamp(40)),
        },
        steps: 10,
    }
}

/// `spoil` must make `checker`, at least, find something.
fn fires(checker: &str, spoil: impl Fn(&mut History)) {
    let mut history = good();
    assert_eq!(check::all(&history), Vec::<String>::new(), "control: the good history");
    spoil(&mut history);
    let (_, check) = check::CHECKERS.iter().find(|(name, _)| *name == checker).unwrap();
    assert!(!check(&history).is_empty(), "`{checker}` does not fire");
}

#[test]
fn a_lost_event_is_found() {
    fires("lost", |history| history.ended.events.truncate(2));
    fires("lost", |history| history.ended.events[1].1.stamp = Stamp(25));
}

#[test]
fn a_refused_event_that_is_there_is_found() {
    fires("refused", |history| history.refused.push(2));
}

#[test]
fn an_event_that_is_there_twice_is_found() {
    fires("twice", |history| history.ended.events.push((2, at(35, 2, 3))));
}

#[test]
fn disorder_is_found() {
    fires("order", |history| history.ended.events.swap(0, 1));
}

#[test]
fn an_insertion_behind_a_reader_is_found() {
    fires("behind", |history| history.ended.events.insert(1, (9, at(15, 3, 0))));
    fires("behind", |history| history.reads[1].events.truncate(1));
    fires("behind", |history| history.reads[2].events.swap(0, 1));
    fires("behind", |history| history.reads[1].next = Position::START);
}

#[test]
fn a_chain_that_runs_back_is_found() {
    fires("chains", |history| history.ended.events[1].1.index = 0);
    fires("chains", |history| history.ended.events[0].1.stamp = Stamp(21));
    fires("chains", |history| history.ended.events.push((4, at(35, 1, 3))));
}

#[test]
fn an_effect_before_its_cause_is_found() {
    fires("causal", |history| {
        history.acked[0] = acked(1, at(10, 1, 0), 20);
        history.acked[0].is_retry = false;
    });
}

#[test]
fn two_owners_in_one_epoch_are_found() {
    fires("owners", |history| history.owners.push((ChainId(1), 2, HostId(3))));
}
