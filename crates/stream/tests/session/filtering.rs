//! Sessions with a filter (g-D12).

use bowline_stream::session::limits::{EVENTS_EXAMINED_MAX, LEASE_DEFAULT};
use bowline_stream::session::{ReadRequest, Settings};

use crate::world::{World, at_most, numbers, seconds};

fn filter(text: &str) -> Settings {
    Settings {
        filter: Some(text.to_owned()),
        ..Settings::default()
    }
}

#[tokio::test(start_paused = true)]
async fn only_events_that_match_are_given_out_and_given_out_again() {
    let world = World::with_events(10);
    let session = world.session(filter("body % 3 == 0")).await;
    let first = world.take(&session, 2).await;
    assert_eq!(numbers(&first), [3, 6]);
    world.clock.advance(LEASE_DEFAULT);
    assert_eq!(world.drain(&session, 2).await, [(2, vec![3, 6]), (1, vec![9])]);
    let unfiltered = world.session(Settings::default()).await;
    assert_eq!(world.drain(&unfiltered, 10).await.len(), 1, "control");
}

#[tokio::test(start_paused = true)]
async fn skipped_events_move_the_cursor_too() {
    let world = World::new();
    let places = world.append(1..=10);
    let session = world.session(filter("body > 100")).await;
    world.take_nothing(&session).await;
    let shown = world.handle.show(&session).await.unwrap();
    assert_eq!(shown.cursor, places[9]);
    assert_eq!((shown.stat.skipped_events, shown.stat.filter_errors), (10, 0));
}

#[tokio::test(start_paused = true)]
async fn errors_do_not_match_and_are_counted() {
    let world = World::new();
    world.log.append(None, "no json");
    world.append([7]);
    let session = world.session(filter("body > 5")).await;
    assert_eq!(world.drain(&session, 10).await, [(1, vec![7])]);
    let stat = world.handle.stat(&session).await.unwrap();
    assert_eq!((stat.skipped_events, stat.filter_errors), (1, 1));
}

/// More than one commit may examine lies before the event that matches.
#[tokio::test(start_paused = true)]
async fn a_rare_event_is_found_in_one_read() {
    let world = World::with_events(2 * EVENTS_EXAMINED_MAX as u64 + 500);
    let session = world.session(filter("body == 20300")).await;
    assert_eq!(numbers(&world.take(&session, 5).await), [20300]);
}

#[tokio::test(start_paused = true)]
async fn a_reader_waits_for_an_event_that_matches() {
    let world = World::new();
    let session = world.session(filter("key == 'wanted'")).await;
    let patient = ReadRequest {
        wait: seconds(20),
        ..at_most(10)
    };
    let append = async {
        for (key, number) in [("other", "1"), ("wanted", "2")] {
            tokio::time::sleep(seconds(1)).await;
            world.log.append(Some(key), number);
        }
    };
    let (got, ()) = tokio::join!(world.handle.read(&session, patient), append);
    assert_eq!(numbers(&got.unwrap().unwrap()), [2]);
}

/// A search that takes long ends, and what it has skipped stays skipped.
#[tokio::test(start_paused = true)]
async fn a_long_search_ends_without_an_event() {
    let world = World::with_events(10 * EVENTS_EXAMINED_MAX as u64);
    let session = world.session(filter("body == 0")).await;
    world.log.slow_down(10);
    let began = tokio::time::Instant::now();
    world.take_nothing(&session).await;
    assert!(began.elapsed() < seconds(5), "{:?}", began.elapsed());
    let skipped = world.handle.stat(&session).await.unwrap().skipped_events;
    assert!(
        (EVENTS_EXAMINED_MAX as u64..10 * EVENTS_EXAMINED_MAX as u64).contains(&skipped),
        "{skipped}"
    );
}
