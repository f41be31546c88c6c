//! Sessions that keep the order of each key.

use bowline_stream::session::limits::{LEASE_DEFAULT, WITHHELD_EVENTS_MAX};
use bowline_stream::session::{Failed, Order, Outcome, ReadRequest, Retry, SessionId, Settings};

use crate::world::{World, numbers, seconds};

async fn session(world: &World, order: Order) -> SessionId {
    let settings = Settings {
        order,
        ..Settings::default()
    };
    world.session(settings).await
}

fn append(world: &World, events: &[(&str, u64)]) {
    for (key, number) in events {
        let key = Some(*key).filter(|key| !key.is_empty());
        world.log.append(key, number.to_string());
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_in_flight_withholds_its_later_events_while_others_go_on() {
    let world = World::new();
    append(&world, &[("a", 1), ("a", 2), ("b", 3), ("a", 4), ("", 5)]);
    let ordered = session(&world, Order::PerKey).await;
    let first = world.take(&ordered, 1).await;
    assert_eq!(numbers(&first), [1]);
    assert_eq!(world.drain(&ordered, 1).await, [(1, vec![3]), (1, vec![5])]);
    assert_eq!(world.handle.stat(&ordered).await.unwrap().withheld_events, 2);
    world.handle.ack(&ordered, first.token.unwrap()).await.unwrap();
    let next = world.take(&ordered, 10).await;
    assert_eq!(
        numbers(&next),
        [2, 4],
        "a set may hold several events of a key, in order"
    );

    let free = session(&world, Order::Free).await;
    assert_eq!(
        world.drain(&free, 1).await.len(),
        5,
        "control: without the order nothing waits"
    );
}

#[tokio::test(start_paused = true)]
async fn a_key_stays_withheld_until_its_set_is_settled() {
    let world = World::new();
    append(&world, &[("a", 1), ("a", 2)]);
    let ordered = session(&world, Order::PerKey).await;
    let first = world.take(&ordered, 1).await;
    world
        .handle
        .nack(&ordered, first.token.unwrap(), seconds(10))
        .await
        .unwrap();
    world.take_nothing(&ordered).await;
    world.clock.advance(seconds(10));
    assert_eq!(world.drain(&ordered, 1).await, [(2, vec![1])]);
    for attempt in 3..=5 {
        world.clock.advance(LEASE_DEFAULT);
        assert_eq!(world.drain(&ordered, 1).await, [(attempt, vec![1])]);
    }
    world.clock.advance(LEASE_DEFAULT);
    let after_parking = world.drain(&ordered, 1).await;
    let later = world.drain(&ordered, 1).await;
    assert_eq!(
        [after_parking, later].concat(),
        [(1, vec![2])],
        "parked: the key goes on"
    );
}

#[tokio::test(start_paused = true)]
async fn only_the_keys_that_failed_stay_withheld() {
    let world = World::new();
    append(&world, &[("a", 1), ("b", 2), ("a", 3), ("b", 4)]);
    let ordered = session(&world, Order::PerKey).await;
    let first = world.take(&ordered, 2).await;
    let outcome = Outcome::Failed {
        events: Failed::Only(vec![first.events[0].position]),
        retry: Retry::After(seconds(10)),
        reason: String::new(),
    };
    world
        .handle
        .settle(&ordered, first.token.unwrap(), outcome)
        .await
        .unwrap();
    assert_eq!(world.drain(&ordered, 4).await, [(1, vec![4])]);
    world.clock.advance(seconds(10));
    let again = world.take(&ordered, 4).await;
    assert_eq!((again.attempt, numbers(&again)), (2, vec![1]));
    world.handle.ack(&ordered, again.token.unwrap()).await.unwrap();
    assert_eq!(world.drain(&ordered, 4).await, [(1, vec![3])]);
}

#[tokio::test(start_paused = true)]
async fn it_looks_past_only_so_many_events() {
    let world = World::new();
    let hot = WITHHELD_EVENTS_MAX as u64 + 2;
    (1..=hot).for_each(|number| append(&world, &[("hot", number)]));
    append(&world, &[("cold", hot + 1)]);
    let ordered = session(&world, Order::PerKey).await;
    let first = world.take(&ordered, 1).await;
    world.take_nothing(&ordered).await;
    let stat = world.handle.stat(&ordered).await.unwrap();
    assert_eq!(stat.withheld_events, WITHHELD_EVENTS_MAX as u64);
    world.handle.ack(&ordered, first.token.unwrap()).await.unwrap();
    let rest = world.take(&ordered, 1000).await;
    assert!(numbers(&rest).into_iter().eq(2..=hot + 1), "all at once, in order");
}

/// Withheld events are trimmed: said once, and the rest goes on.
#[tokio::test(start_paused = true)]
async fn trimming_reaches_withheld_events() {
    let world = World::new();
    append(&world, &[("a", 1), ("a", 2), ("b", 3)]);
    let ordered = session(&world, Order::PerKey).await;
    let first = world.take(&ordered, 1).await;
    let third = world.take(&ordered, 1).await;
    world.log.trim(third.events[0].position);
    world.handle.ack(&ordered, first.token.unwrap()).await.unwrap();
    let said = world.read_error(&ordered).await;
    assert!(said.to_string().contains("trimmed"), "{said}");
    append(&world, &[("a", 4)]);
    assert_eq!(world.drain(&ordered, 1).await, [(1, vec![4])]);
}

/// Withheld events are fetched as far as the reader takes them, and the others stay.
#[tokio::test(start_paused = true)]
async fn a_reader_takes_withheld_events_by_their_bytes() {
    let world = World::new();
    for number in 1..=6_u64 {
        world.log.append(Some("a"), format!("{number:04}"));
    }
    let ordered = session(&world, Order::PerKey).await;
    let first = world.take(&ordered, 1).await;
    world.take_nothing(&ordered).await;
    world.handle.ack(&ordered, first.token.unwrap()).await.unwrap();
    let request = ReadRequest {
        bytes_max: 11,
        ..ReadRequest::default()
    };
    let mut sets = Vec::new();
    while let Some(batch) = world.handle.read(&ordered, request.clone()).await.unwrap() {
        world.handle.ack(&ordered, batch.token.unwrap()).await.unwrap();
        sets.push(numbers(&batch));
    }
    assert_eq!(sets, [vec![2, 3], vec![4, 5], vec![6]]);
}
