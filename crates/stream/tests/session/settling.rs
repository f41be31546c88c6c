//! Acknowledging parts of a set, failing with a delay, extending, parking.

use bowline_stream::Position;
use bowline_stream::session::limits::{LEASE_DEFAULT, LEASE_MAX, PARKED_SETS_MAX, PARKS_PER_COMMIT_MAX, REDRIVES_MAX};
use bowline_stream::session::{
    BatchToken, Failed, Outcome, ParkingError, Pick, ReadRequest, Retry, SessionId, Settings, SettleError,
};

use crate::world::{World, caller, numbers, seconds};

fn failed(events: Failed, retry: Retry) -> Outcome {
    Outcome::Failed {
        events,
        retry,
        reason: "boom".to_owned(),
    }
}

/// Takes five events, settles them like this, and says what is given out next and after a while.
async fn check(outcome: impl FnOnce(&[Position]) -> Outcome, now: &[(u32, Vec<u64>)], later: &[(u32, Vec<u64>)]) {
    let world = World::with_events(5);
    let session = world.session(Settings::default()).await;
    let batch = world.take(&session, 5).await;
    let places: Vec<Position> = batch.events.iter().map(|event| event.position).collect();
    let outcome = outcome(&places);
    world
        .handle
        .settle(&session, batch.token.unwrap(), outcome)
        .await
        .unwrap();
    assert_eq!(world.drain(&session, 5).await, now);
    world.clock.advance(seconds(10));
    assert_eq!(world.drain(&session, 5).await, later);
    let again = world.handle.ack(&session, batch.token.unwrap()).await.unwrap_err();
    assert!(matches!(again, SettleError::StaleToken(_)), "{again}");
}

#[tokio::test(start_paused = true)]
async fn what_failed_comes_again_and_nothing_else() {
    let at_once = Retry::After(seconds(0));
    let later = Retry::After(seconds(10));
    check(|_| Outcome::Done, &[], &[]).await;
    check(|_| failed(Failed::All, at_once), &[(2, vec![1, 2, 3, 4, 5])], &[]).await;
    check(|_| failed(Failed::All, later), &[], &[(2, vec![1, 2, 3, 4, 5])]).await;
    check(|at| failed(Failed::From(at[2]), at_once), &[(2, vec![3, 4, 5])], &[]).await;
    check(|at| failed(Failed::From(at[4]), later), &[], &[(2, vec![5])]).await;
    check(
        |at| failed(Failed::Only(vec![at[3], at[0], at[3]]), at_once),
        &[(2, vec![1, 4])],
        &[],
    )
    .await;
    check(|_| failed(Failed::Only(Vec::new()), at_once), &[], &[]).await;
    check(|at| failed(Failed::Only(vec![at[1]]), Retry::Park), &[], &[]).await;
}

#[tokio::test(start_paused = true)]
async fn a_part_of_a_part_can_fail() {
    let world = World::with_events(5);
    let session = world.session(Settings::default()).await;
    let first = world.take(&session, 5).await;
    let at = |index: usize| first.events[index].position;
    let at_once = Retry::After(seconds(0));
    let part = failed(Failed::Only(vec![at(1), at(3), at(4)]), at_once);
    world.handle.settle(&session, first.token.unwrap(), part).await.unwrap();
    let second = world.take(&session, 5).await;
    assert_eq!((second.attempt, numbers(&second)), (2, vec![2, 4, 5]));
    let not_in = failed(Failed::From(at(2)), at_once);
    let refused = world
        .handle
        .settle(&session, second.token.unwrap(), not_in)
        .await
        .unwrap_err();
    assert!(
        matches!(refused, SettleError::NotInSet(place) if place == at(2)),
        "{refused}"
    );
    let rest = failed(Failed::From(at(3)), at_once);
    world
        .handle
        .settle(&session, second.token.unwrap(), rest)
        .await
        .unwrap();
    assert_eq!(world.drain(&session, 5).await, [(3, vec![4, 5])]);
}

#[tokio::test(start_paused = true)]
async fn parking_by_hand_keeps_the_reason_and_can_be_undone() {
    let world = World::with_events(3);
    let session = world.session(Settings::default()).await;
    for _ in 1..=3 {
        let batch = world.take(&session, 1).await;
        let park = failed(Failed::All, Retry::Park);
        world.handle.settle(&session, batch.token.unwrap(), park).await.unwrap();
    }
    let parked = world.handle.parked(&session, None).await.unwrap();
    assert_eq!(parked.len(), 3);
    assert_eq!(parked[0].reason.as_deref(), Some("boom"));
    assert_eq!(
        world.handle.parked(&session, Some(parked[1].batch)).await.unwrap(),
        parked[2..]
    );

    let missing = world
        .handle
        .redrive(&caller(), &session, Pick::Sets(vec![99]))
        .await
        .unwrap_err();
    assert!(matches!(missing, ParkingError::NotParked(99)), "{missing}");
    let dropped = world.handle.drop_parked(&caller(), &session, Pick::Sets(vec![1])).await;
    assert_eq!(dropped.unwrap(), 1);
    let redriven = world.handle.redrive(&caller(), &session, Pick::Sets(vec![3])).await;
    assert_eq!(redriven.unwrap(), 1);
    assert_eq!(world.drain(&session, 1).await, [(1, vec![3])]);
    assert_eq!(world.handle.stat(&session).await.unwrap().parked_sets, 1);
}

#[tokio::test(start_paused = true)]
async fn a_full_parking_list_loses_nothing() {
    let world = World::with_events(PARKED_SETS_MAX as u64 + 1);
    let settings = Settings {
        attempts_max: Some(1),
        ..Settings::default()
    };
    let session = world.session(settings).await;
    for _ in 0..PARKED_SETS_MAX {
        let batch = world.take(&session, 1).await;
        let park = failed(Failed::All, Retry::Park);
        world.handle.settle(&session, batch.token.unwrap(), park).await.unwrap();
    }
    let last = world.take(&session, 1).await;
    let park = failed(Failed::All, Retry::Park);
    let refused = world
        .handle
        .settle(&session, last.token.unwrap(), park)
        .await
        .unwrap_err();
    assert!(
        matches!(refused, SettleError::ParkingFull(PARKED_SETS_MAX)),
        "{refused}"
    );
    world.clock.advance(LEASE_DEFAULT);
    let again = world.take(&session, 1).await;
    assert_eq!(
        (again.attempt, numbers(&again)),
        (2, numbers(&last)),
        "given out beyond its attempts"
    );
    world.handle.drop_parked(&caller(), &session, Pick::All).await.unwrap();
    world.clock.advance(LEASE_DEFAULT);
    world.take_nothing(&session).await;
    assert_eq!(world.handle.stat(&session).await.unwrap().parked_sets, 1);
}

#[tokio::test(start_paused = true)]
async fn an_extended_lease_keeps_a_set() {
    let world = World::with_events(1);
    let session = world.session(Settings::default()).await;
    let batch = world.take(&session, 1).await;
    world.clock.advance(LEASE_DEFAULT - seconds(1));
    let until = world
        .handle
        .extend(&session, batch.token.unwrap(), seconds(60))
        .await
        .unwrap();
    assert_eq!(until, world.clock.now().after(seconds(60)));
    world.clock.advance(seconds(59));
    world.take_nothing(&session).await;
    world.clock.advance(seconds(1));
    assert_eq!(world.take(&session, 1).await.attempt, 2, "control: it ends");
    let too_long = world
        .handle
        .extend(&session, batch.token.unwrap(), LEASE_MAX + seconds(1))
        .await;
    assert!(matches!(too_long, Err(SettleError::TooLong { .. })));
}

#[tokio::test(start_paused = true)]
async fn unknown_sessions_and_tokens_have_names() {
    let world = World::with_events(1);
    let session = world.session(Settings::default()).await;
    let token: BatchToken = "1-0000000000000001".parse().unwrap();
    let stale = world.handle.ack(&session, token).await.unwrap_err();
    assert!(matches!(stale, SettleError::StaleToken(_)), "{stale}");
    let nobody: SessionId = "0".repeat(32).parse().unwrap();
    let unknown = world.handle.ack(&nobody, token).await.unwrap_err();
    assert!(matches!(unknown, SettleError::NoSuchSession(_)), "{unknown}");
}

/// A consumer's loop waits for a set that failed: the read ends when the delay does.
#[tokio::test(start_paused = true)]
async fn a_waiting_reader_is_woken_by_a_set_that_is_due_again() {
    let world = World::with_events(1);
    let session = world.session(Settings::default()).await;
    let batch = world.take(&session, 1).await;
    world
        .handle
        .nack(&session, batch.token.unwrap(), seconds(5))
        .await
        .unwrap();
    let patient = ReadRequest {
        wait: seconds(20),
        ..ReadRequest::default()
    };
    let began = tokio::time::Instant::now();
    let pass = async {
        for _ in 0..5 {
            tokio::time::sleep(seconds(1)).await;
            world.clock.advance(seconds(1));
        }
    };
    let (got, ()) = tokio::join!(world.handle.read(&session, patient), pass);
    assert_eq!(got.unwrap().unwrap().attempt, 2);
    assert!(began.elapsed() <= seconds(7), "{:?}", began.elapsed());
}

/// More sets than one commit parks, and more than one call gives out again.
#[tokio::test(start_paused = true)]
async fn many_sets_are_parked_and_given_out_again() {
    let count = REDRIVES_MAX + PARKS_PER_COMMIT_MAX;
    let world = World::with_events(count as u64 + 1);
    let settings = Settings {
        attempts_max: Some(1),
        ..Settings::default()
    };
    let session = world.session(settings).await;
    for _ in 0..count {
        world.take(&session, 1).await;
    }
    world.clock.advance(LEASE_DEFAULT);
    assert_eq!(
        world.drain(&session, 1).await,
        [(1, vec![count as u64 + 1])],
        "none goes beyond its attempts"
    );
    assert_eq!(world.handle.stat(&session).await.unwrap().parked_sets, count as u64);
    let redrive = async |sets| world.handle.redrive(&caller(), &session, sets).await;
    let too_many = redrive(Pick::Sets((1..=count as u64).collect())).await.unwrap_err();
    assert!(matches!(too_many, ParkingError::NoRoom { .. }), "{too_many}");
    assert_eq!(redrive(Pick::All).await.unwrap(), REDRIVES_MAX);
    assert_eq!(redrive(Pick::All).await.unwrap(), PARKS_PER_COMMIT_MAX);
    assert_eq!(world.drain(&session, 1).await.len(), count);
}
