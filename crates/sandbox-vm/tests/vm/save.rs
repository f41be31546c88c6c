//! Whole machines saved and begun again: nothing is lost, nothing is taken back, and what does not fit is refused.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use bowline_sandbox_vm::snapshot::MemoryIn;
use bowline_sandbox_vm::vm::Origin;
use bowline_sandbox_vm::{After, Snapshot, Vm, VmError};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::timeout;

use super::harness::{World, shell};

/// A program that counts for as long as it lives.
const COUNTER: &str = "(i=0; while :; do i=$((i+1)); echo $i > /tmp/next; mv /tmp/next /tmp/count; done) \
                       >/dev/null 2>&1 &";

async fn count(vm: &Vm) -> u64 {
    shell(vm, "until cat /tmp/count 2>/dev/null; do :; done")
        .await
        .parse()
        .unwrap()
}

async fn kill_9(vm: Vm) {
    let pid = Pid::from_raw(i32::try_from(vm.pid()).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    vm.ended().await;
}

#[tokio::test]
async fn a_count_goes_on_in_another_qemu_without_a_step_back() {
    let world = World::new().await;
    let vm = world.golden().await.start().await.unwrap();
    shell(&vm, COUNTER).await;
    let before = count(&vm).await;
    let first = vm.save(&world.path("first"), After::GoOn).await.unwrap();
    assert_eq!(first.record().memory_in, MemoryIn::State, "its memory was shared");
    let went_on = count(&vm).await;
    assert!(went_on > before, "the saved machine goes on: {went_on} > {before}");
    kill_9(vm).await;

    let vm = world.restore(&world.path("first")).await.unwrap();
    assert_eq!(vm.origin(), Origin::Restored(first.digest()));
    let again = count(&vm).await;
    assert!(again >= before, "no step back: {again} >= {before}");
    let later = count(&vm).await;
    assert!(later > again, "it counts on: {later} > {again}");

    // Once more, from a machine whose memory is its own.
    let second = vm.save(&world.path("second"), After::Stand).await.unwrap();
    assert_eq!(second.record().memory_in, MemoryIn::File);
    kill_9(vm).await;
    let vm = world.restore(&world.path("second")).await.unwrap();
    let again = count(&vm).await;
    assert!(again >= later && count(&vm).await > again, "{again} >= {later}");

    // The control: a machine that was not restored knows of no count.
    let fresh = world.golden().await.start().await.unwrap();
    assert_eq!(shell(&fresh, "cat /tmp/count 2>/dev/null || echo none").await, "none");
}

#[tokio::test]
async fn a_machine_goes_on_when_nobody_waits_for_its_snapshot_any_more() {
    let world = World::new().await;
    let vm = world.golden().await.start().await.unwrap();
    let files = || std::fs::read_dir(world.folder.path()).unwrap().flatten();
    let begun = async {
        while !files().any(|folder| folder.path().join("state").exists()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let given_up = world.path("given-up");
    tokio::select! {
        biased;
        () = begun => {}
        saved = vm.save(&given_up, After::Stand) => panic!("it was sooner: {saved:?}"),
    }
    vm.clock().await.expect("it answers, for it goes on");
    assert_eq!(files().count(), 0, "nothing is left");

    // The control: one that is to stand after a save does not answer.
    vm.save(&world.path("whole"), After::Stand).await.unwrap();
    let silent = timeout(Duration::from_secs(1), vm.clock()).await;
    assert!(silent.is_err(), "{silent:?}");
}

#[tokio::test]
async fn a_snapshot_that_does_not_fit_or_is_damaged_is_refused() {
    let world = World::new().await;
    let golden = world.golden().await;
    // A copy, for the golden one is everybody's.
    let folder = world.path("copy");
    let kept = golden.snapshot().folder();
    std::fs::create_dir(&folder).unwrap();
    for name in ["state", "memory", "snapshot.json"] {
        std::fs::copy(kept.join(name), folder.join(name)).unwrap();
    }
    world
        .restore(&folder)
        .await
        .expect("the copy is as good as what it was made of")
        .kill()
        .await;

    let record = std::fs::read_to_string(folder.join("snapshot.json")).unwrap();
    let other = record.replace(world.host.version(), "1.2.3");
    std::fs::write(folder.join("snapshot.json"), other).unwrap();
    let unfit = world.restore(&folder).await.unwrap_err();
    assert!(
        matches!(unfit, VmError::Unfit { .. }) && unfit.to_string().contains("1.2.3"),
        "{unfit}"
    );
    std::fs::write(folder.join("snapshot.json"), &record).unwrap();

    for name in ["memory", "state"] {
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .open(folder.join(name))
            .unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 20_000).unwrap();
        file.write_all_at(&[!byte[0]], 20_000).unwrap();
        let damaged = world.restore(&folder).await.unwrap_err();
        assert!(matches!(damaged, VmError::Damaged { .. }), "{damaged}");
        file.write_all_at(&byte, 20_000).unwrap();
    }
    std::fs::remove_file(folder.join("snapshot.json")).unwrap();
    assert!(Snapshot::open(&folder).is_err());
}
