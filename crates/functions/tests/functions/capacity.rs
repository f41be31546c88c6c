//! What is kept warm: by forecast, within a budget, and who makes room for whom.

use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::{Clock, Timestamp};
use bowline_foundation::entropy::Entropy;
use bowline_foundation::units::Mebibytes;
use bowline_functions::error::{Error, Throttle};
use bowline_functions::{InvocationResponse, Rung};
use bowline_store::blob::Blobs;
use bowline_store::{Key, MemoryStore, Write};
use serde_json::json;
use tokio::task::{JoinHandle, JoinSet};

use crate::world::{World, WorldSettings, caller, request, target};

const MINUTE: Duration = Duration::from_secs(60);
/// Longer than the service takes to see that a minute has begun. The test's time jumps over it.
const SEEN: Duration = Duration::from_secs(1);

/// A service at a time that the test moves, with memory for so many sandboxes of 128 MiB.
async fn world(sandboxes: u32) -> (World, Clock) {
    let settings = WorldSettings {
        keep_alive: Duration::from_secs(7 * 86_400),
        memory_budget: Mebibytes(128 * sandboxes),
        ..WorldSettings::default()
    };
    let clock = Clock::fake(Timestamp::from_micros(1_790_000_000_000_000));
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let store = Arc::new(MemoryStore::default());
    let world = World::over_streams(store, Blobs::in_memory(), folder, settings, (clock.clone(), None)).await;
    (world, clock)
}

/// Lets so many minutes pass, of which the service sees each.
async fn pass(clock: &Clock, minutes: u32) {
    for _ in 0..minutes {
        clock.advance(MINUTE);
        tokio::time::sleep(SEEN).await;
    }
}

async fn rung(world: &World, name: &str) -> Rung {
    world.invoke(name, json!({})).await.unwrap().rung.unwrap()
}

fn hold(world: &World, name: &str) -> JoinHandle<Result<InvocationResponse, Error>> {
    let (handle, target) = (world.handle.clone(), target(name));
    tokio::spawn(async move { handle.invoke(&target, request(json!({"do": "hold"}))).await })
}

/// Whether the function is warm, without calling it: by the number of living sandboxes of a world with one.
fn living(world: &World) -> usize {
    world.fake.count().living()
}

/// 05/T-E1: the second call finds the loaded sandbox, and both say which rung they got.
#[tokio::test(start_paused = true)]
async fn e_t1_the_rung_is_told_and_counted() {
    let (mut world, _) = world(10).await;
    world.deploy("f").await;
    let rungs = [
        rung(&world, "f").await,
        rung(&world, "f").await,
        rung(&world, "f").await,
    ];
    assert_eq!(rungs, [Rung::Created, Rung::Warm, Rung::Warm]);
    assert_eq!(world.metric("provisioned_total{rung=\"created\"}"), 1.0);
    assert_eq!(world.metric("provisioned_total{rung=\"warm\"}"), 2.0);
    world.stop().await;
}

/// 05/T-E8: the busy one is kept after its runs, the rare one is dropped; flipped volumes flip it.
#[tokio::test(start_paused = true)]
async fn e_t8_the_volume_of_calls_decides_what_is_kept() {
    let (mut world, clock) = world(2).await;
    for name in ["hot", "rare"] {
        world.deploy(name).await;
    }
    let (mut hot, mut rare) = ("hot", "rare");
    for _ in 0..2 {
        for minute in 0..240 {
            world.answer(hot, json!({})).await;
            if minute % 120 == 0 {
                world.answer(rare, json!({})).await;
            }
            pass(&clock, 1).await;
        }
        assert_eq!(living(&world), 1, "{hot} is kept, {rare} is not");
        assert_eq!(rung(&world, hot).await, Rung::Warm);
        assert_eq!(rung(&world, rare).await, Rung::Created);
        std::mem::swap(&mut hot, &mut rare);
    }
    assert!(world.metric("keeper_dropped_total") > 0.0);
    world.stop().await;
}

/// A rhythm is foreseen: the sandbox is dropped after the call, and is there again before the next one.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_foreseen_finds_a_sandbox_that_was_started_ahead() {
    let (mut world, clock) = world(1).await;
    world.deploy("timer").await;
    let mut rungs = Vec::new();
    for _ in 0..40 {
        rungs.push(rung(&world, "timer").await);
        pass(&clock, 30).await;
    }
    assert_eq!(rungs[0], Rung::Created, "nobody could know");
    let foreseen = |rungs: &[Rung]| rungs.iter().filter(|rung| **rung == Rung::Prewarmed).count();
    assert!(foreseen(&rungs[30..]) >= 9, "{rungs:?}");
    assert!(world.metric("keeper_prewarmed_total") >= 9.0);
    // The control: it was not there all the time.
    assert!(world.metric("keeper_dropped_total") >= 9.0);
    world.stop().await;
}

/// The keys of what the node keeps of its forecasts.
async fn forecasts(world: &World) -> Vec<Key> {
    let found = world.store.scan(&"forecasts/".into(), None, 100).await.unwrap();
    found.into_iter().map(|(key, _)| key).collect()
}

/// A rhythm is foreseen right after a restart too; without the record it is not.
#[tokio::test(start_paused = true)]
async fn a_rhythm_that_was_learnt_is_foreseen_after_a_restart() {
    for is_kept in [true, false] {
        let (mut world, clock) = world(1).await;
        world.deploy("timer").await;
        for _ in 0..30 {
            rung(&world, "timer").await;
            pass(&clock, 30).await;
        }
        rung(&world, "timer").await;
        let saved = forecasts(&world).await;
        assert_eq!(saved.len(), 2, "a node that is killed has them too: {saved:?}");
        pass(&clock, 20).await;
        world.stop().await;
        if !is_kept {
            let deleted = forecasts(&world).await.into_iter().map(Write::Delete).collect();
            world.store.commit(Vec::new(), deleted).await.unwrap();
        }
        let mut world = world.restart_at(clock.clone()).await;
        pass(&clock, 10).await;
        let expected = if is_kept { Rung::Prewarmed } else { Rung::Created };
        assert_eq!(rung(&world, "timer").await, expected);
        world.stop().await;
    }
}

/// What is due in the very minute of the start is started at once.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_due_at_the_start_finds_a_sandbox() {
    let (mut world, clock) = world(1).await;
    world.deploy("timer").await;
    for _ in 0..30 {
        rung(&world, "timer").await;
        pass(&clock, 30).await;
    }
    world.stop().await;
    let mut world = world.restart_at(clock).await;
    tokio::time::sleep(SEEN).await;
    assert_eq!(rung(&world, "timer").await, Rung::Prewarmed);
    // One that is gone leaves no record behind.
    world.handle.delete_function(&caller(), &target("timer")).await.unwrap();
    world.stop().await;
    assert_eq!(forecasts(&world).await.len(), 1, "what all functions have taught stays");
}

/// As many as use to run at once are kept, and no more.
#[tokio::test(start_paused = true)]
async fn as_many_are_kept_as_run_at_once() {
    let (mut world, clock) = world(40).await;
    world.deploy("f").await;
    let mut learned = 0;
    for round in 0..20 {
        if round == 10 {
            learned = world.fake.count().created;
        }
        let before = world.fake.count().invoked;
        let held: Vec<_> = (0..5).map(|_| hold(&world, "f")).collect();
        world.fake.until(|counts| counts.invoked == before + 5).await;
        world.fake.hold_invocations(false);
        for one in held {
            one.await.unwrap().unwrap();
        }
        world.fake.hold_invocations(true);
        pass(&clock, 1).await;
    }
    assert_eq!(living(&world), 5);
    assert_eq!(
        world.fake.count().created,
        learned,
        "once that is known, none is made anew"
    );
    world.stop().await;
}

/// A call that needs room gets that of the idle sandbox that is worth least.
#[tokio::test(start_paused = true)]
async fn the_least_worthy_makes_room() {
    let (mut world, clock) = world(3).await;
    for name in ["busy", "rare", "new"] {
        world.deploy(name).await;
    }
    for minute in 0..200 {
        world.answer("busy", json!({})).await;
        if minute % 20 == 0 {
            world.answer("rare", json!({})).await;
        }
        pass(&clock, 1).await;
    }
    for name in ["busy", "rare"] {
        world.answer(name, json!({})).await;
    }
    pass(&clock, 1).await;
    let before = world.fake.count();
    let both = [hold(&world, "new"), hold(&world, "new")];
    world.fake.until(|counts| counts.invoked == before.invoked + 2).await;
    assert!(living(&world) <= 3, "the budget holds");
    assert_eq!(
        rung(&world, "busy").await,
        Rung::Warm,
        "the rare one went, not the busy one"
    );
    world.fake.hold_invocations(false);
    for one in both {
        one.await.unwrap().unwrap();
    }
    world.stop().await;
}

/// Where all are busy an invocation waits, and takes what becomes idle; in the end it is refused.
#[tokio::test(start_paused = true)]
async fn without_room_an_invocation_waits_and_is_refused_at_last() {
    let (mut world, _) = world(1).await;
    for name in ["f", "g"] {
        world.deploy(name).await;
    }
    let held = hold(&world, "f");
    world.fake.until(|counts| counts.invoked == 1).await;
    let refused = world.invoke("g", json!({})).await.map(drop);
    assert!(
        matches!(refused, Err(Error::Throttled(Throttle::Memory))),
        "{refused:?}"
    );
    assert_eq!(world.metric("throttles_total{function=\"g\",reason=\"memory\"}"), 1.0);
    // One of the same version takes the very sandbox, another one its room.
    let (same, other) = (hold(&world, "f"), hold(&world, "g"));
    tokio::time::sleep(SEEN).await;
    assert_eq!(world.fake.count().invoked, 1);
    world.fake.hold_invocations(false);
    held.await.unwrap().unwrap();
    assert_eq!(same.await.unwrap().unwrap().rung, Some(Rung::Warm));
    assert_eq!(other.await.unwrap().unwrap().rung, Some(Rung::Created));
    assert_eq!(living(&world), 1);
    assert_eq!(world.metric("memory_claimed_bytes"), 128.0 * 1024.0 * 1024.0);
    world.stop().await;
    assert_eq!(world.metric("memory_claimed_bytes"), 0.0, "nothing is left behind");
}

/// A function that is allowed more than the whole budget is refused at once.
#[tokio::test(start_paused = true)]
async fn what_can_never_fit_is_refused_at_once() {
    let settings = WorldSettings {
        memory_budget: Mebibytes(127),
        ..WorldSettings::default()
    };
    let mut world = World::with(settings).await;
    world.deploy("f").await;
    let before = tokio::time::Instant::now();
    let refused = world.invoke("f", json!({})).await.map(drop);
    assert!(matches!(refused, Err(Error::Throttled(Throttle::Memory))));
    assert!(before.elapsed() < SEEN);
    world.stop().await;
}

/// A thousand functions of mixed rates with memory for a tenth of them: no request is lost, the budget is
/// never exceeded, and nothing is left behind.
#[tokio::test(start_paused = true)]
async fn a_thousand_functions_share_a_tenth_of_their_memory() {
    const FUNCTIONS: usize = 1000;
    const ROOM: usize = 100;
    let (mut world, clock) = world(ROOM as u32).await;
    for index in 0..FUNCTIONS {
        world.deploy(&format!("f{index}")).await;
    }
    world.fake.hold_invocations(false);
    let dice = Entropy::seeded(7);
    let (mut answered, mut most) = (0, 0);
    for _ in 0..30 {
        for _ in 0..20 {
            let mut burst = JoinSet::new();
            for _ in 0..10 {
                // Some are called a thousand times as often as others.
                let place = (FUNCTIONS as f64).powf(dice.unit()) as usize - 1;
                burst.spawn(hold(&world, &format!("f{place}")));
            }
            while let Some(ended) = burst.join_next().await {
                ended.unwrap().unwrap().unwrap().result.unwrap();
                answered += 1;
                most = most.max(living(&world));
            }
        }
        pass(&clock, 1).await;
        most = most.max(living(&world));
    }
    assert_eq!((answered, world.fake.count().ended), (6000, 6000));
    assert!(most <= ROOM, "{most} sandboxes at once");
    assert!(most > ROOM * 9 / 10, "the control: room was short, {most}");
    assert!(world.metric("keeper_evicted_total") > 100.0);
    let warm = world.metric("provisioned_total{rung=\"warm\"}") + world.metric("provisioned_total{rung=\"prewarmed\"}");
    // Two thirds of the calls are for a tenth of the functions.
    assert!(warm > 3000.0, "a tenth of the memory serves most calls: {warm}");
    world.stop().await;
    assert_eq!((living(&world), world.metric("memory_claimed_bytes")), (0, 0.0));
}
