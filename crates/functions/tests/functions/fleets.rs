//! Sandboxes in the fleets that their versions belong to.

use std::sync::Arc;
use std::time::Duration;

use bowline_capacity::fleet::Class;
use bowline_foundation::clock::{Clock, Timestamp};
use bowline_functions::Rung;
use bowline_sandbox::{Berth, Stand};
use bowline_store::MemoryStore;
use bowline_store::blob::Blobs;
use serde_json::json;

use crate::world::{World, WorldSettings, request, target};

const LOW: Berth = Berth {
    fleet: Class::Low,
    idle_max: Some(Duration::from_secs(60)),
    has_room: true,
};
const HIGH: Berth = Berth {
    fleet: Class::High,
    idle_max: None,
    has_room: true,
};
/// Longer than it takes until it is looked where sandboxes belong.
const SEEN: Duration = Duration::from_secs(6);

/// A service with one function, at a time that the test moves.
async fn world(berth: Option<Berth>) -> (World, Clock) {
    let settings = WorldSettings {
        keep_alive: Duration::from_secs(600),
        ..WorldSettings::default()
    };
    let clock = Clock::fake(Timestamp::from_micros(1_790_000_000_000_000));
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let store = Arc::new(MemoryStore::default());
    let world = World::over_streams(store, Blobs::in_memory(), folder, settings, (clock.clone(), None)).await;
    world.fake.moor(berth.map(|berth| (berth, true)));
    world.deploy("f").await;
    pass(&clock, SEEN).await;
    (world, clock)
}

/// Lets time pass, for timers as for the clock.
async fn pass(clock: &Clock, time: Duration) {
    let step = Duration::from_secs(1);
    for _ in 0..time.as_secs() {
        clock.advance(step);
        tokio::time::sleep(step).await;
    }
}

/// Calls the function; where its sandbox came from and stands.
async fn call(world: &World) -> (Rung, Option<Stand>) {
    let response = world.invoke("f", json!({})).await.unwrap();
    (response.rung.unwrap(), response.stand)
}

fn at(fleet: Class) -> Option<Stand> {
    Some(Stand {
        fleet,
        is_spilled: false,
    })
}

/// 03/T-C10.
#[tokio::test(start_paused = true)]
async fn t_c10_the_high_fleet_keeps_code_between_bursts_and_the_low_one_lets_it_go() {
    // How many live after two minutes, and after an hour, and what the next call gets.
    let living = async |berth| {
        let (world, clock) = world(berth).await;
        let stand = call(&world).await.1;
        assert_eq!(stand, berth.and_then(|berth: Berth| at(berth.fleet)));
        pass(&clock, Duration::from_secs(120)).await;
        let soon = world.fake.count().living();
        pass(&clock, Duration::from_secs(3600)).await;
        (soon, world.fake.count().living(), call(&world).await.0)
    };
    assert_eq!(living(Some(LOW)).await, (0, 0, Rung::Created));
    assert_eq!(living(Some(HIGH)).await, (1, 1, Rung::Warm));
    assert_eq!(living(None).await, (1, 0, Rung::Created), "the control: without fleets");
}

#[tokio::test(start_paused = true)]
async fn of_many_in_the_high_fleet_one_stays() {
    let (world, clock) = world(Some(HIGH)).await;
    let hold = || {
        let (handle, target) = (world.handle.clone(), target("f"));
        tokio::spawn(async move { handle.invoke(&target, request(json!({"do": "hold"}))).await })
    };
    let runs = [hold(), hold(), hold()];
    world.fake.until(|counts| counts.invoked == 3).await;
    world.fake.hold_invocations(false);
    for run in runs {
        run.await.unwrap().unwrap();
    }
    assert_eq!(world.fake.count().living(), 3, "the control");
    pass(&clock, Duration::from_secs(3600)).await;
    assert_eq!(world.fake.count().living(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_called_often_has_a_sandbox_there_before_its_old_one_ends() {
    let (world, clock) = world(Some(LOW)).await;
    assert_eq!(call(&world).await, (Rung::Created, at(Class::Low)));
    assert_eq!(call(&world).await, (Rung::Warm, at(Class::Low)), "the control");
    world.fake.moor(Some((HIGH, true)));
    pass(&clock, SEEN).await;
    let counts = world.fake.until(|counts| counts.destroyed == 1).await;
    assert_eq!(counts.created, 2);
    assert_eq!(call(&world).await, (Rung::Prewarmed, at(Class::High)));
    assert_eq!(call(&world).await, (Rung::Warm, at(Class::High)));
}

#[tokio::test(start_paused = true)]
async fn what_runs_is_not_moved() {
    let (world, clock) = world(Some(HIGH)).await;
    let (handle, target) = (world.handle.clone(), target("f"));
    let run = tokio::spawn(async move { handle.invoke(&target, request(json!({"do": "hold"}))).await });
    world.fake.until(|counts| counts.invoked == 1).await;
    world.fake.moor(Some((LOW, true)));
    pass(&clock, SEEN).await;
    assert_eq!(world.fake.count().destroyed, 0, "it runs on");
    world.fake.hold_invocations(false);
    let response = run.await.unwrap().unwrap();
    assert_eq!((response.stand, response.result.is_ok()), (at(Class::High), true));
    // Nor is it used again where it does not belong.
    world.fake.until(|counts| counts.destroyed == 1).await;
    assert_eq!(call(&world).await, (Rung::Created, at(Class::Low)));
}

#[tokio::test(start_paused = true)]
async fn one_that_found_no_room_in_its_fleet_stays_where_it_is_until_there_is_room() {
    let (world, clock) = world(Some(HIGH)).await;
    world.fake.moor(Some((HIGH, false)));
    let spilled = Some(Stand {
        fleet: Class::Low,
        is_spilled: true,
    });
    assert_eq!(call(&world).await, (Rung::Created, spilled));
    pass(&clock, SEEN).await;
    assert_eq!(call(&world).await, (Rung::Warm, spilled));
    // Twice, for it may just be told that it is idle.
    world.fake.moor(Some((HIGH, true)));
    pass(&clock, SEEN + SEEN).await;
    world.fake.until(|counts| counts.destroyed == 1).await;
    assert_eq!(call(&world).await, (Rung::Prewarmed, at(Class::High)));
    // In the low fleet it is made when it is called for.
    world.fake.moor(Some((LOW, false)));
    pass(&clock, SEEN).await;
    assert_eq!(call(&world).await.1.unwrap().to_string(), "high; spilled");
    world.fake.moor(Some((LOW, true)));
    pass(&clock, SEEN + SEEN).await;
    assert_eq!(call(&world).await, (Rung::Created, at(Class::Low)));
}

#[tokio::test(start_paused = true)]
async fn every_call_is_told_once_and_none_where_there_are_no_fleets() {
    let (world, clock) = world(None).await;
    for _ in 0..3 {
        call(&world).await;
    }
    pass(&clock, SEEN).await;
    assert_eq!(world.fake.told(), []);
    // What was before is from no time that is known.
    world.fake.moor(Some((LOW, true)));
    pass(&clock, SEEN).await;
    for _ in 0..5 {
        call(&world).await;
    }
    let before = clock.now();
    pass(&clock, SEEN + SEEN).await;
    let told = world.fake.told();
    assert_eq!(told.iter().map(|(_, count)| count).sum::<u64>(), 5, "{told:?}");
    assert!(told.iter().all(|(since, _)| *since <= before), "{told:?}");
    let mut world = world;
    call(&world).await;
    world.stop().await;
    assert_eq!(world.fake.told().iter().map(|(_, count)| count).sum::<u64>(), 6);
}
