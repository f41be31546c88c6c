//! Memory that is taken from a guest, given back, and added.

use std::time::Duration;

use bowline_foundation::units::Mebibytes;
use bowline_sandbox_vm::{After, Machine, VmError};
use tokio::time::timeout;

use super::harness::{World, shell};

#[tokio::test]
async fn a_balloon_takes_memory_from_the_guest_and_frees_it_for_others() {
    let world = World::new().await;
    let golden = world.golden().await;
    let vm = world.restore(golden.snapshot().folder()).await.unwrap();
    // Memory that was used once and is free again stays with the process; that is the control.
    shell(&vm, "head -c 100000000 /dev/zero > /tmp/fill; rm /tmp/fill").await;
    let full = vm.resident_bytes();
    let before = vm.guest_memory().await.unwrap();
    assert_eq!(vm.balloon_bytes().await.unwrap(), 256 << 20);

    assert_eq!(vm.balloon(Mebibytes(128)).await.unwrap(), 128 << 20);
    let after = vm.guest_memory().await.unwrap();
    assert!(after.available + (100 << 20) < before.available, "{after:?} {before:?}");
    let small = vm.resident_bytes();
    assert!(small + (50 << 20) < full, "{small} bytes are resident, {full} were");

    assert_eq!(vm.balloon(Mebibytes(256)).await.unwrap(), 256 << 20);
    let again = vm.guest_memory().await.unwrap();
    assert!(again.available + (20 << 20) > before.available, "{again:?} {before:?}");
}

#[tokio::test]
async fn memory_is_added_to_a_pc_while_it_runs_and_to_no_other() {
    let world = World::new().await;
    let machine = Machine::growing(Mebibytes(192), Mebibytes(512));
    let vm = world.boot(machine).await;
    let before = vm.guest_memory().await.unwrap().total;
    vm.add_memory(Mebibytes(128)).await.unwrap();
    let grown = async {
        while vm.guest_memory().await.unwrap().total < before + (100 << 20) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), grown)
        .await
        .expect("the guest uses what was added");
    let beyond = vm.add_memory(Mebibytes(512)).await.unwrap_err();
    assert!(matches!(beyond, VmError::Refused { .. }), "{beyond}");
    let unfit = vm.save(&world.path("saved"), After::GoOn).await.unwrap_err();
    assert!(matches!(unfit, VmError::Unfit { .. }), "{unfit}");
    vm.kill().await;

    let micro = world.golden().await.start().await.unwrap();
    let refused = micro.add_memory(Mebibytes(128)).await.unwrap_err();
    assert!(refused.to_string().contains("q35"), "{refused}");
}
