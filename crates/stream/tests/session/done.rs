//! Reads that acknowledge the set before.

use std::sync::Arc;

use bowline_foundation::entropy::Entropy;
use bowline_store::{Fault, FaultRates, FaultyStore, MemoryStore};
use bowline_stream::session::limits::{COMMIT_ATTEMPTS_MAX, IN_FLIGHT_SETS_MAX};
use bowline_stream::session::{Batch, Mode, Order, ReadError, ReadRequest, SessionId, Settings, SettleError};

use crate::world::{World, at_most, numbers, seconds};

fn after(batch: &Batch, events_max: usize) -> ReadRequest {
    ReadRequest {
        done: batch.token,
        ..at_most(events_max)
    }
}

fn faulty() -> (Arc<FaultyStore>, World) {
    let inner = Arc::new(MemoryStore::default());
    let store = Arc::new(FaultyStore::new(inner, FaultRates::default(), Entropy::seeded(1)));
    let world = World::over(store.clone());
    (store, world)
}

async fn in_flight(world: &World, session: &SessionId) -> Vec<u64> {
    let shown = world.handle.show(session).await.unwrap();
    shown.in_flight.iter().map(|set| set.batch).collect()
}

#[tokio::test(start_paused = true)]
async fn a_read_acknowledges_the_set_before() {
    let world = World::with_events(6);
    let session = world.session(Settings::default()).await;
    let mut batch = world.take(&session, 2).await;
    let mut seen = vec![numbers(&batch)];
    while let Some(next) = world.handle.read(&session, after(&batch, 2)).await.unwrap() {
        assert_eq!(in_flight(&world, &session).await, [next.batch]);
        seen.push(numbers(&next));
        batch = next;
    }
    assert_eq!(seen, [vec![1, 2], vec![3, 4], vec![5, 6]]);
    let left = in_flight(&world, &session).await;
    assert!(left.is_empty(), "the last one too, though nothing follows: {left:?}");
    world.clock.advance(seconds(60));
    world.take_nothing(&session).await;
}

#[tokio::test(start_paused = true)]
async fn the_set_is_acknowledged_while_its_reader_waits_for_another() {
    let world = World::with_events(1);
    let session = world.session(Settings::default()).await;
    let batch = world.take(&session, 1).await;
    let patient = ReadRequest {
        wait: seconds(20),
        ..after(&batch, 1)
    };
    let append = async {
        tokio::time::sleep(seconds(1)).await;
        assert!(in_flight(&world, &session).await.is_empty());
        world.append([2]);
    };
    let (got, ()) = tokio::join!(world.handle.read(&session, patient), append);
    assert_eq!(numbers(&got.unwrap().unwrap()), [2]);
}

#[tokio::test(start_paused = true)]
async fn with_a_stale_token_nothing_is_read() {
    let world = World::with_events(4);
    let session = world.session(Settings::default()).await;
    let batch = world.take(&session, 1).await;
    world.handle.ack(&session, batch.token.unwrap()).await.unwrap();
    let second = world.take(&session, 1).await;
    let stale = |error| matches!(error, ReadError::StaleToken(stale) if Some(stale.0) == batch.token);
    assert!(stale(world.handle.read(&session, after(&batch, 1)).await.unwrap_err()));
    // Others are not held up by it, and of two who name the same set one is right.
    let (one, two, other) = tokio::join!(
        world.handle.read(&session, after(&second, 1)),
        world.handle.read(&session, after(&second, 1)),
        world.handle.read(&session, at_most(1)),
    );
    assert_eq!(numbers(&one.unwrap().unwrap()), [3]);
    assert!(matches!(two.unwrap_err(), ReadError::StaleToken(_)));
    assert_eq!(numbers(&other.unwrap().unwrap()), [4]);
    let again = world.handle.ack(&session, second.token.unwrap()).await.unwrap_err();
    assert!(matches!(again, SettleError::StaleToken(_)), "{again}");
}

#[tokio::test(start_paused = true)]
async fn the_same_request_again_gets_its_set_though_the_token_is_used() {
    let world = World::with_events(4);
    let session = world.session(Settings::default()).await;
    let batch = world.take(&session, 1).await;
    let request = |id: &str| ReadRequest {
        request_id: Some(id.to_owned()),
        ..after(&batch, 1)
    };
    let first = world.handle.read(&session, request("r")).await.unwrap();
    assert_eq!(numbers(first.as_ref().unwrap()), [2]);
    assert_eq!(world.handle.read(&session, request("r")).await.unwrap(), first);
    let other = world.handle.read(&session, request("s")).await.unwrap_err();
    assert!(
        matches!(other, ReadError::StaleToken(_)),
        "control: another request is told: {other}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_set_that_is_processed_after_its_lease_is_not_given_out_again() {
    let world = World::with_events(2);
    let session = world.session(Settings::default()).await;
    let batch = world.take(&session, 1).await;
    world.clock.advance(seconds(60));
    let next = world.handle.read(&session, after(&batch, 1)).await.unwrap().unwrap();
    assert_eq!((next.attempt, numbers(&next)), (1, vec![2]));
    world.clock.advance(seconds(60));
    assert_eq!(
        world.drain(&session, 1).await,
        [(2, vec![2])],
        "control: one that is not comes again"
    );
}

/// Its attempts are used up as well, so it would be parked.
#[tokio::test(start_paused = true)]
async fn a_set_that_is_processed_is_not_parked() {
    let world = World::with_events(2);
    let settings = Settings {
        attempts_max: Some(1),
        ..Settings::default()
    };
    let session = world.session(settings).await;
    let batch = world.take(&session, 1).await;
    world.clock.advance(seconds(60));
    let next = world.handle.read(&session, after(&batch, 1)).await.unwrap().unwrap();
    assert_eq!(numbers(&next), [2]);
    assert_eq!(world.handle.parked(&session, None).await.unwrap(), []);
    world.clock.advance(seconds(60));
    world.take_nothing(&session).await;
    assert_eq!(
        world.handle.parked(&session, None).await.unwrap().len(),
        1,
        "control: one that is not is parked"
    );
}

#[tokio::test(start_paused = true)]
async fn its_keys_and_its_room_are_free_at_once() {
    let world = World::new();
    for (key, number) in [("a", 1), ("a", 2), ("b", 3)] {
        world.log.append(Some(key), number.to_string());
    }
    let settings = Settings {
        order: Order::PerKey,
        ..Settings::default()
    };
    let ordered = world.session(settings).await;
    let batch = world.take(&ordered, 1).await;
    let next = world.handle.read(&ordered, after(&batch, 9)).await.unwrap();
    assert_eq!(numbers(&next.unwrap()), [2, 3]);

    let world = World::with_events(IN_FLIGHT_SETS_MAX as u64 + 1);
    let session = world.session(Settings::default()).await;
    let batch = world.take(&session, 1).await;
    assert_eq!(world.drain(&session, 1).await.len(), IN_FLIGHT_SETS_MAX - 1);
    world.take_nothing(&session).await;
    let next = world.handle.read(&session, after(&batch, 1)).await.unwrap();
    assert_eq!(numbers(&next.unwrap()), [IN_FLIGHT_SETS_MAX as u64 + 1]);
}

#[tokio::test(start_paused = true)]
async fn a_session_without_markers_has_nothing_to_acknowledge() {
    let world = World::with_events(2);
    let settings = Settings {
        mode: Mode::AtMostOnce,
        ..Settings::default()
    };
    let session = world.session(settings).await;
    let batch = world.take(&session, 1).await;
    assert_eq!(batch.token, None);
    let next = world.handle.read(&session, after(&batch, 1)).await.unwrap();
    assert_eq!(numbers(&next.unwrap()), [2]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_cannot_be_read_holds_up_no_acknowledgement() {
    let world = World::with_events(2);
    let session = world.session(Settings::default()).await;
    let batch = world.take(&session, 1).await;
    world.log.go_away();
    let refused = world.handle.read(&session, after(&batch, 1)).await.unwrap_err();
    assert!(matches!(refused, ReadError::RetryLater(_)), "{refused}");
    world.log.come_back();
    assert!(in_flight(&world, &session).await.is_empty());
    assert_eq!(numbers(&world.take(&session, 1).await), [2]);
}

/// It is said once, by the read that acknowledges.
#[tokio::test(start_paused = true)]
async fn what_was_trimmed_is_said_to_who_acknowledges() {
    for fault in [Fault::None, Fault::LoseReply] {
        let (store, world) = faulty();
        let places = world.append(1..=4);
        let session = world.session(Settings::default()).await;
        let batch = world.take(&session, 1).await;
        world.log.trim(places[2]);
        store.script([Fault::None, Fault::None, fault]);
        let said = world.handle.read(&session, after(&batch, 1)).await.unwrap_err();
        assert!(
            matches!(said, ReadError::Trimmed { next_available } if next_available == places[2]),
            "{fault:?}: {said}"
        );
        assert!(in_flight(&world, &session).await.is_empty(), "{fault:?}");
        assert_eq!(world.drain(&session, 1).await, [(1, vec![4])], "{fault:?}");
    }
}

/// The commit was applied, its reply is lost, and nothing can be read back for a while.
#[tokio::test(start_paused = true)]
async fn an_acknowledgement_that_cannot_be_looked_up_is_not_taken_for_stale() {
    let (store, world) = faulty();
    world.append(1..=3);
    let session = world.session(Settings::default()).await;
    let batch = world.take(&session, 1).await;
    let lost = [Fault::None, Fault::None, Fault::LoseReply];
    let looks = [Fault::FailBefore; COMMIT_ATTEMPTS_MAX as usize];
    store.script(lost.into_iter().chain(looks));
    let next = world.handle.read(&session, after(&batch, 1)).await.unwrap();
    assert_eq!(
        numbers(&next.unwrap()),
        [3],
        "the set that was lost with the reply waits for its lease"
    );
    let again = world.handle.ack(&session, batch.token.unwrap()).await.unwrap_err();
    assert!(matches!(again, SettleError::StaleToken(_)), "{again}");
    world.clock.advance(seconds(60));
    assert_eq!(world.drain(&session, 1).await, [(2, vec![2]), (2, vec![3])]);
}

/// Whether or not there is something to give, and whatever the commit writes besides.
#[tokio::test(start_paused = true)]
async fn an_acknowledgement_whose_reply_is_lost_is_not_taken_for_stale() {
    for fault in [Fault::FailBefore, Fault::LoseReply] {
        for (events, filter) in [(1, None), (2, None), (2, Some("body == 1"))] {
            let (store, world) = faulty();
            world.append([1]);
            let settings = Settings {
                filter: filter.map(str::to_owned),
                ..Settings::default()
            };
            let session = world.session(settings).await;
            let batch = world.take(&session, 1).await;
            world.append(2..=events);
            // The session, its markers, the commit.
            store.script([Fault::None, Fault::None, fault]);
            let next = world.handle.read(&session, after(&batch, 1)).await.unwrap();
            let wanted = (events == 2 && filter.is_none()).then(|| vec![2]);
            assert_eq!(
                next.as_ref().map(numbers),
                wanted,
                "{fault:?}, {events} events, {filter:?}"
            );
            let left: Vec<u64> = next.iter().map(|next| next.batch).collect();
            assert_eq!(in_flight(&world, &session).await, left, "{fault:?}, {events} events");
        }
    }
}
