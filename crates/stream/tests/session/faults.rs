//! A store that fails and loses replies, and a stream that cannot be read.

use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::entropy::Entropy;
use bowline_store::{Fault, FaultRates, FaultyStore, MemoryStore};
use bowline_stream::session::{Mode, ReadError, ReadRequest, Settings};

use crate::world::{World, at_most, numbers, seconds};

fn faulty() -> (Arc<FaultyStore>, World) {
    let inner = Arc::new(MemoryStore::default());
    let store = Arc::new(FaultyStore::new(inner, FaultRates::default(), Entropy::seeded(1)));
    let world = World::over(store.clone());
    world.append(1..=6);
    (store, world)
}

/// The calls of one read: the session, its markers, the commit.
const BEFORE_COMMIT: [Fault; 2] = [Fault::None, Fault::None];

#[tokio::test(start_paused = true)]
async fn a_commit_that_fails_or_loses_its_reply_is_made_good() {
    for mode in [Mode::AtLeastOnce, Mode::AtMostOnce] {
        for fault in [Fault::FailBefore, Fault::LoseReply, Fault::LoseRequest] {
            let (store, world) = faulty();
            let settings = Settings {
                mode,
                ..Settings::default()
            };
            let session = world.session(settings).await;
            store.script(BEFORE_COMMIT.into_iter().chain([fault]));
            assert_eq!(numbers(&world.take(&session, 2).await), [1, 2], "{mode:?} {fault:?}");
            assert_eq!(
                world.drain(&session, 4).await,
                [(1, vec![3, 4, 5, 6])],
                "{mode:?} {fault:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_whose_reply_is_lost_counts() {
    let (store, world) = faulty();
    let session = world.session(Settings::default()).await;
    let batch = world.take(&session, 2).await;
    store.script([Fault::None, Fault::LoseReply]);
    world.handle.ack(&session, batch.token.unwrap()).await.unwrap();
    assert_eq!(world.handle.show(&session).await.unwrap().in_flight, []);
}

/// Has an acknowledgement, or a read with one, go wrong so that nobody can say how, and its set given out anew
/// before it tries again.
async fn settled_late(fault: Fault, by_read: bool) -> (Option<u32>, Result<(), String>) {
    let (store, world) = faulty();
    let session = world.session(Settings::default()).await;
    let token = world.take(&session, 6).await.token.unwrap();
    let settle = async {
        if by_read {
            store.script(BEFORE_COMMIT.into_iter().chain([fault]));
            let request = ReadRequest {
                done: Some(token),
                ..at_most(1)
            };
            let read = world.handle.read(&session, request).await;
            read.map(drop).map_err(|error| error.to_string())
        } else {
            store.script([Fault::None, fault]);
            let acknowledged = world.handle.ack(&session, token).await;
            acknowledged.map_err(|error| error.to_string())
        }
    };
    let other = world.another_node();
    let give_out_anew = async {
        // The first try comes first.
        tokio::time::sleep(Duration::from_millis(1)).await;
        world.clock.advance(seconds(60));
        let again = other.handle().read(&session, at_most(6)).await.unwrap();
        again.map(|batch| batch.attempt)
    };
    let (settled, again) = tokio::join!(settle, give_out_anew);
    (again, settled)
}

#[tokio::test(start_paused = true)]
async fn whose_set_was_given_out_anew_is_told_though_its_own_try_left_it_open() {
    for by_read in [false, true] {
        let (again, settled) = settled_late(Fault::LoseRequest, by_read).await;
        let stale = settled.unwrap_err();
        assert_eq!(again, Some(2), "by a read: {by_read}");
        assert!(stale.contains("token"), "by a read: {by_read}: {stale}");
        let control = settled_late(Fault::LoseReply, by_read).await;
        assert_eq!(control, (None, Ok(())), "by a read: {by_read}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stays_away_is_said_after_a_bounded_number_of_tries() {
    let (store, world) = faulty();
    let session = world.session(Settings::default()).await;
    store.go_away();
    let refused = world.read_error(&session).await;
    assert!(matches!(refused, ReadError::RetryLater(_)), "{refused}");
    assert!(world.handle.show(&session).await.is_err());
    store.come_back();
    assert_eq!(numbers(&world.take(&session, 2).await), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_cannot_be_read_leaves_the_session_as_it_was() {
    let (_, world) = faulty();
    let session = world.session(Settings::default()).await;
    let before = world.handle.show(&session).await.unwrap().cursor;
    world.log.go_away();
    let refused = world.handle.read(&session, at_most(2)).await.unwrap_err();
    assert!(matches!(refused, ReadError::RetryLater(_)), "{refused}");
    world.log.come_back();
    assert_eq!(world.handle.show(&session).await.unwrap().cursor, before);
    assert_eq!(numbers(&world.take(&session, 2).await), [1, 2]);
}
