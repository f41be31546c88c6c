//! A store that fails and loses replies, and a stream that cannot be read.

use std::sync::Arc;

use bowline_foundation::entropy::Entropy;
use bowline_store::{Fault, FaultRates, FaultyStore, MemoryStore};
use bowline_stream::session::{Mode, ReadError, Settings};

use crate::world::{World, at_most, numbers};

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
        for fault in [Fault::FailBefore, Fault::LoseReply] {
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
