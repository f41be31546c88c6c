//! g-T10: a node dies at each named moment of a delivery.

use std::collections::BTreeMap;

use bowline_stream::session::limits::LEASE_DEFAULT;
use bowline_stream::session::{CrashPoints, Fate, Mode, Settings};

use crate::world::{World, at_most, numbers};

/// Kills a node at `moment` of its delivery of the events 1 and 2, has another node deliver everything that
/// is left, also after leases have run out, and counts how often each event reached a worker.
async fn deliveries(mode: Mode, moment: &'static str) -> BTreeMap<u64, u32> {
    let world = World::with_events(5);
    let settings = Settings {
        mode,
        ..Settings::default()
    };
    let session = world.session(settings).await;
    let dies = CrashPoints::with(move |reached| if reached == moment { Fate::Die } else { Fate::Live });
    let doomed = world.node_with(dies);
    let mut reached = BTreeMap::new();
    let mut count = |numbers: Vec<u64>| {
        numbers
            .into_iter()
            .for_each(|number| *reached.entry(number).or_default() += 1)
    };
    if let Ok(Some(batch)) = doomed.handle().read(&session, at_most(2)).await {
        count(numbers(&batch));
    }
    assert!(doomed.handle().read(&session, at_most(2)).await.is_err(), "it is dead");
    for _ in 0..2 {
        while let Some(batch) = world.handle.read(&session, at_most(2)).await.unwrap() {
            count(numbers(&batch));
            if let Some(token) = batch.token {
                world.handle.ack(&session, token).await.unwrap();
            }
        }
        world.clock.advance(LEASE_DEFAULT);
    }
    reached
}

#[tokio::test(start_paused = true)]
async fn at_least_once_loses_nothing() {
    for moment in CrashPoints::NAMES {
        let reached = deliveries(Mode::AtLeastOnce, moment).await;
        assert_eq!(reached.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4, 5], "{moment}");
        // The reply has left, and nobody acknowledged: only then is anything given out twice.
        let twice = reached.values().any(|times| *times > 1);
        assert_eq!(twice, *moment == "after_send", "{moment}");
    }
}

#[tokio::test(start_paused = true)]
async fn at_most_once_repeats_nothing() {
    for moment in CrashPoints::NAMES {
        let reached = deliveries(Mode::AtMostOnce, moment).await;
        assert!(reached.values().all(|times| *times == 1), "{moment}: {reached:?}");
        // Control: between the commit and the reply it does lose.
        let lost = !reached.contains_key(&1);
        assert_eq!(lost, matches!(*moment, "after_marker" | "after_cursor"), "{moment}");
    }
}
