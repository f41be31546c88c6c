//! Machines that begin where one stood: what they share, and what none may.

use std::time::Duration;

use bowline_foundation::clock::Clock;
use bowline_sandbox_vm::Vm;

use super::harness::{World, shell};

/// How far a guest's clock may be from ours when it has just been set: the way of the question and the answer.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(2);

/// Machines that begin as they were, beside the first.
const STALE: usize = 4;

async fn randomness(vm: &Vm) -> String {
    shell(vm, "head -c 32 /dev/urandom | od -A n -t x1").await
}

/// How far the guest's clock is behind ours, in microseconds; negative if it is ahead.
async fn behind(vm: &Vm) -> i64 {
    let guest = vm.clock().await.unwrap();
    let here = Clock::system().now().as_micros();
    i64::try_from(here).unwrap() - i64::try_from(guest).unwrap()
}

#[tokio::test]
async fn clones_have_the_time_of_day_and_randomness_of_their_own() {
    let world = World::new().await;
    let golden = world.golden().await;
    let saved = golden.snapshot().record().saved;
    let tolerance = i64::try_from(CLOCK_TOLERANCE.as_micros()).unwrap();

    let one = golden.start().await.unwrap();
    let other = golden.start().await.unwrap();
    assert_ne!(randomness(&one).await, randomness(&other).await);
    for vm in [&one, &other] {
        let behind = behind(vm).await;
        assert!(behind.abs() < tolerance, "{behind} us behind");
    }
    drop((one, other));

    // The control: without being told, a clone is where the golden machine stood.
    let age = Clock::system().now().since(saved);
    let stale = golden.start_stale().await.unwrap();
    let behind = behind(&stale).await;
    assert!(
        behind > i64::try_from(age.as_micros()).unwrap() - tolerance,
        "{behind} us behind, {age:?} old"
    );
    // Some may be so late that their kernel has reseeded itself; two that draw the same 32 bytes are no chance.
    let mut drawn = vec![stale.draw().await.unwrap()];
    drop(stale);
    for _ in 0..STALE {
        let stale = golden.start_stale().await.unwrap();
        drawn.push(stale.draw().await.unwrap());
    }
    let first = drawn
        .iter()
        .find(|bytes| drawn.iter().filter(|other| other == bytes).count() > 1);
    let first = first.expect("machines with one state draw the same randomness");
    let renewed = golden.start().await.unwrap();
    assert_ne!(renewed.draw().await.unwrap(), *first);
}

#[tokio::test]
async fn clones_share_what_they_do_not_write_and_see_nothing_of_each_other() {
    let world = World::new().await;
    let golden = world.golden().await;
    let one = golden.start().await.unwrap();
    shell(
        &one,
        "echo secret > /tmp/mark; head -c 8000000 /dev/zero | tr '\\0' x > /tmp/fill",
    )
    .await;
    let other = golden.start().await.unwrap();
    assert_eq!(shell(&one, "cat /tmp/mark").await, "secret");
    assert_eq!(shell(&other, "cat /tmp/mark 2>/dev/null || echo none").await, "none");
    for vm in [&one, &other] {
        assert!(
            vm.resident_bytes() < 256 << 20,
            "less than its memory is there: {}",
            vm.resident_bytes()
        );
    }
}
