//! The acceptance tests of receiver sessions that need no crash: g-T1, g-T2, g-T3, g-T5 to g-T9, g-T11, g-T12.

use bowline_stream::session::limits::{EXPIRED_KEPT, IDLE_TTL_DEFAULT, IDLE_TTL_PARTS, LEASE_DEFAULT};
use bowline_stream::session::{Mode, Pick, ReadError, ReadRequest, Settings, SettleError, Start};
use bowline_stream::{Position, Stamp};
use tokio::time::Instant;

use crate::world::{World, at_most, caller, numbers, seconds, take};

/// g-T1, g-T5.
#[tokio::test(start_paused = true)]
async fn a_set_is_what_follows_the_cursor_and_the_store_shows_it() {
    let world = World::new();
    let places = world.append(1..=10);
    let session = world.session(Settings::default()).await;
    let request = ReadRequest {
        events_max: 4,
        worker: "worker-a".to_owned(),
        ..ReadRequest::default()
    };
    let batch = world.handle.read(&session, request).await.unwrap().unwrap();
    assert_eq!(numbers(&batch), [1, 2, 3, 4]);

    let shown = world.handle.show(&session).await.unwrap();
    assert_eq!(shown.cursor, places[3]);
    let [set] = shown.in_flight.as_slice() else {
        panic!("{shown:?}")
    };
    assert!(set.from < places[0] && set.to == places[3] && set.events == 4);
    assert_eq!((set.worker.as_str(), set.attempts), ("worker-a", 1));
    let prefix = format!("sessions/marker/{session}/").into();
    assert_eq!(world.store.scan(&prefix, None, 10).await.unwrap().len(), 1);
}

/// g-T5 for a session that keeps no markers.
#[tokio::test(start_paused = true)]
async fn a_session_without_markers_shows_what_it_gave_out() {
    let world = World::new();
    let places = world.append(1..=4);
    let settings = Settings {
        mode: Mode::AtMostOnce,
        ..Settings::default()
    };
    let session = world.session(settings).await;
    assert_eq!(world.take(&session, 4).await.token, None);
    let shown = world.handle.show(&session).await.unwrap();
    assert_eq!((shown.in_flight[0].from, shown.in_flight[0].to), (places[0], places[3]));
}

/// g-T2, g-T3.
#[tokio::test(start_paused = true)]
async fn any_node_goes_on_where_another_stopped() {
    let world = World::with_events(10);
    let session = world.session(Settings::default()).await;
    let (x, y) = (world.another_node(), world.another_node());
    assert_eq!(numbers(&take(&x.handle(), &session, 4).await), [1, 2, 3, 4]);
    assert_eq!(numbers(&take(&y.handle(), &session, 4).await), [5, 6, 7, 8]);
    let gone = x.handle();
    x.shut_down().await;
    let refused = gone.read(&session, at_most(4)).await.unwrap_err();
    assert!(matches!(refused, ReadError::RetryLater(_)), "{refused}");
    assert_eq!(numbers(&take(&y.handle(), &session, 4).await), [9, 10]);
}

/// g-T6.
#[tokio::test(start_paused = true)]
async fn sessions_do_not_see_each_other() {
    let world = World::with_events(10);
    let one = world.session(Settings::default()).await;
    let two = world.session(Settings::default()).await;
    assert_eq!(world.take(&one, 8).await.events.len(), 8);
    assert_eq!(numbers(&world.take(&two, 4).await), [1, 2, 3, 4]);
    world.handle.delete(&caller(), &one).await.unwrap();
    assert_eq!(numbers(&world.take(&two, 4).await), [5, 6, 7, 8]);
    let refused = world.read_error(&one).await;
    assert!(matches!(refused, ReadError::NoSuchSession(_)), "{refused}");
    assert_eq!(world.handle.list(&crate::world::stream(), None).await.unwrap(), [two]);
}

/// g-T7.
#[tokio::test(start_paused = true)]
async fn a_reader_at_the_end_waits_for_an_append() {
    let world = World::with_events(1);
    let session = world.session(Settings::default()).await;
    world.take(&session, 1).await;
    let cursor = world.handle.show(&session).await.unwrap().cursor;
    let patient = ReadRequest {
        wait: seconds(20),
        ..ReadRequest::default()
    };
    let began = Instant::now();
    let append = async {
        tokio::time::sleep(seconds(3)).await;
        world.append([2]);
    };
    let (got, ()) = tokio::join!(world.handle.read(&session, patient.clone()), append);
    let batch = got.unwrap().unwrap();
    assert_eq!(numbers(&batch), [2]);
    assert_eq!(began.elapsed().as_secs(), 3);
    world.handle.ack(&session, batch.token.unwrap()).await.unwrap();

    // Nothing comes: the reply is empty at the end of the wait, which is cut to 20 s.
    let moved = world.handle.show(&session).await.unwrap().cursor;
    assert!(moved > cursor);
    let began = Instant::now();
    let longer = ReadRequest {
        wait: seconds(60),
        ..patient
    };
    assert_eq!(world.handle.read(&session, longer).await.unwrap(), None);
    assert_eq!(began.elapsed().as_secs(), 20);
    assert_eq!(world.handle.show(&session).await.unwrap().cursor, moved);
}

/// g-T8, first half.
#[tokio::test(start_paused = true)]
async fn a_set_whose_worker_died_comes_again_before_newer_ones() {
    let world = World::with_events(12);
    let session = world.session(Settings::default()).await;
    let lost = world.take(&session, 4).await;
    let kept = world.take(&session, 4).await;
    world.handle.ack(&session, kept.token.unwrap()).await.unwrap();
    world.clock.advance(LEASE_DEFAULT - seconds(1));
    assert_eq!(
        numbers(&world.take(&session, 2).await),
        [9, 10],
        "control: the lease still runs"
    );
    world.clock.advance(seconds(1));
    let again = world.take(&session, 4).await;
    assert_eq!((again.attempt, numbers(&again)), (2, vec![1, 2, 3, 4]));
    assert_eq!((again.batch, again.first_sent_at), (lost.batch, lost.first_sent_at));
    let stale = world.handle.ack(&session, lost.token.unwrap()).await.unwrap_err();
    assert!(matches!(stale, SettleError::StaleToken(_)), "{stale}");
    world.handle.ack(&session, again.token.unwrap()).await.unwrap();
    world.clock.advance(seconds(3600));
    let left = world.drain(&session, 4).await;
    assert_eq!(
        left,
        [(2, vec![9, 10]), (1, vec![11, 12])],
        "acknowledged sets never come again"
    );
}

/// g-T8, second half.
#[tokio::test(start_paused = true)]
async fn a_poison_set_is_parked_and_the_session_goes_on() {
    let world = World::with_events(3);
    let session = world.session(Settings::default()).await;
    for attempt in 1..=5 {
        let poison = world.take(&session, 2).await;
        assert_eq!((poison.attempt, numbers(&poison)), (attempt, vec![1, 2]));
        world.clock.advance(LEASE_DEFAULT);
    }
    assert_eq!(world.drain(&session, 2).await, [(1, vec![3])]);
    let parked = world.handle.parked(&session, None).await.unwrap();
    assert_eq!((parked.len(), parked[0].attempts, parked[0].events.len()), (1, 5, 2));
    assert_eq!(world.handle.stat(&session).await.unwrap().parked_sets, 1);

    let redriven = world.handle.redrive(&caller(), &session, Pick::All).await.unwrap();
    assert_eq!(redriven, 1);
    assert_eq!(world.drain(&session, 2).await, [(1, vec![1, 2])]);
    assert_eq!(world.handle.parked(&session, None).await.unwrap(), []);
}

/// g-T9.
#[tokio::test(start_paused = true)]
async fn the_same_request_gets_the_same_set() {
    let world = World::with_events(10);
    let session = world.session(Settings::default()).await;
    let request = |id: &str| ReadRequest {
        events_max: 2,
        request_id: Some(id.to_owned()),
        ..ReadRequest::default()
    };
    let first = world.handle.read(&session, request("r")).await.unwrap().unwrap();
    let again = world
        .another_node()
        .handle()
        .read(&session, request("r"))
        .await
        .unwrap();
    assert_eq!(again.as_ref(), Some(&first));
    let other = world.handle.read(&session, request("s")).await.unwrap().unwrap();
    assert_eq!(numbers(&other), [3, 4], "control: another request gets other events");
    let both = tokio::join!(
        world.handle.read(&session, request("t")),
        world.handle.read(&session, request("t"))
    );
    assert_eq!(both.0.unwrap(), both.1.unwrap(), "twice at the same time");
    world.handle.ack(&session, first.token.unwrap()).await.unwrap();
    let after = world.handle.read(&session, request("r")).await.unwrap().unwrap();
    assert_eq!(numbers(&after), [7, 8], "once acknowledged, the request is a new one");
}

/// g-T11, first half.
#[tokio::test(start_paused = true)]
async fn a_session_that_nobody_reads_is_gone() {
    let world = World::with_events(3);
    let session = world.session(Settings::default()).await;
    world.take(&session, 1).await;
    for _ in 0..3 {
        world.clock.advance(IDLE_TTL_DEFAULT);
        world.drain(&session, 1).await;
    }
    world
        .clock
        .advance(IDLE_TTL_DEFAULT + IDLE_TTL_DEFAULT / IDLE_TTL_PARTS);
    for _ in 0..2 {
        let refused = world.read_error(&session).await;
        assert!(matches!(refused, ReadError::Gone(_)), "{refused}");
    }
    let refused = world.handle.seek(&caller(), &session, Start::Oldest).await.unwrap_err();
    assert!(refused.to_string().contains("is gone"), "{refused}");
    assert_eq!(world.handle.sweep().await.unwrap(), 0);
    world.clock.advance(EXPIRED_KEPT);
    assert_eq!(world.handle.sweep().await.unwrap(), 1);
    let refused = world.read_error(&session).await;
    assert!(matches!(refused, ReadError::NoSuchSession(_)), "{refused}");
}

/// g-T11, second half: newer events trimmed, and a set in flight trimmed.
#[tokio::test(start_paused = true)]
async fn trimming_under_a_session_is_said_once() {
    let world = World::new();
    let places = world.append(1..=10);
    let session = world.session(Settings::default()).await;
    world.take(&session, 4).await;
    world.log.trim(places[6]);
    let said = world.read_error(&session).await;
    assert!(
        matches!(said, ReadError::Trimmed { next_available } if next_available == places[6]),
        "{said}"
    );
    assert_eq!(world.drain(&session, 2).await, [(1, vec![8, 9]), (1, vec![10])]);

    world.log.trim(places[7]);
    world.clock.advance(LEASE_DEFAULT);
    let said = world.read_error(&session).await;
    assert!(
        matches!(said, ReadError::Trimmed { .. }),
        "the set 1 to 4 is gone: {said}"
    );
    let said = world.read_error(&session).await;
    assert!(
        matches!(said, ReadError::Trimmed { .. }),
        "half of the set 8, 9 is gone: {said}"
    );
    assert_eq!(world.drain(&session, 2).await, [(2, vec![9]), (2, vec![10])]);
    assert_eq!(world.handle.stat(&session).await.unwrap().trimmed, 3);
}

/// g-T12.
#[tokio::test(start_paused = true)]
async fn a_session_begins_and_goes_on_where_it_is_told() {
    let world = World::new();
    let early = world.append(1..=2);
    world.clock.advance(seconds(10));
    let noon = world.clock.now();
    world.append(3..=4);
    for (start, expected) in [
        (Start::Oldest, vec![1, 2, 3, 4, 5]),
        (Start::Latest, vec![5]),
        (Start::AtTime(noon), vec![3, 4, 5]),
        (Start::After(early[0]), vec![2, 3, 4, 5]),
    ] {
        let session = world.session_from(start, Settings::default()).await;
        let last = world.append([5])[0];
        assert_eq!(numbers(&world.take(&session, 10).await), expected, "{start:?}");
        world.handle.seek(&caller(), &session, start).await.unwrap();
        let sought = world.handle.show(&session).await.unwrap();
        assert_eq!(sought.in_flight, [], "nothing stays in flight");
        assert!(start != Start::Latest || sought.cursor == last);
        if start == Start::AtTime(noon) {
            assert_eq!(sought.cursor, Position::before(Stamp::of(noon)));
        }
        world.clock.advance(seconds(60));
        // The next round begins with the events 1 to 4 again.
        world.log.forget_last();
    }
}

#[tokio::test(start_paused = true)]
async fn seeking_makes_tokens_stale_and_leaves_an_audit_row() {
    let world = World::with_events(4);
    let session = world.session(Settings::default()).await;
    let batch = world.take(&session, 2).await;
    world.handle.seek(&caller(), &session, Start::Oldest).await.unwrap();
    let stale = world.handle.ack(&session, batch.token.unwrap()).await.unwrap_err();
    assert!(matches!(stale, SettleError::StaleToken(_)), "{stale}");
    assert_eq!(world.drain(&session, 4).await, [(1, vec![1, 2, 3, 4])]);
    let rows = world.store.scan(&"sessions/audit/".into(), None, 10).await.unwrap();
    let sought = |value: &[u8]| String::from_utf8_lossy(value).contains("SeekSession");
    assert_eq!(rows.iter().filter(|(_, row)| sought(&row.value)).count(), 1);
    assert_eq!(rows.len(), 2, "and one of the creation");
}
