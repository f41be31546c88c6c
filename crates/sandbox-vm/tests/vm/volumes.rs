//! Volumes of machines from a golden snapshot: seen where they were asked for, kept, and one writer's or many readers'.

use std::fs::{File, TryLockError};
use std::path::Path;

use bowline_foundation::units::Mebibytes;
use bowline_sandbox_vm::{Access, Golden, Machine, MachineKind, Vm, Volume};

use super::harness::{World, shell};

const MIB: u64 = 1024 * 1024;

async fn golden(world: &World, kind: MachineKind) -> Golden {
    let mut machine = Machine::micro(Mebibytes(256));
    machine.kind = kind;
    machine.volumes = 2;
    world.golden_of(machine).await
}

async fn open(path: &Path, mount: &str, access: Access) -> Volume {
    Volume::open(path, mount, access).await.unwrap()
}

/// Whether a machine has the volume in a way that keeps a writer out.
fn is_taken(path: &Path) -> bool {
    match File::open(path).unwrap().try_lock() {
        Ok(()) => false,
        Err(TryLockError::WouldBlock) => true,
        Err(error) => panic!("{error}"),
    }
}

/// What an attempt says that must fail.
async fn refusal(vm: &Vm, command: &str) -> String {
    shell(vm, &format!("if {command}; then echo done; fi 2>&1")).await
}

#[tokio::test]
async fn a_volume_outlives_machines_and_is_in_order_after_one_that_settled() {
    let world = World::new().await;
    let golden = golden(&world, MachineKind::Microvm).await;
    let (orders, notes) = (world.path("orders.ext4"), world.path("notes.ext4"));
    Volume::make(&orders, 24 * MIB).await.unwrap();
    Volume::make(&notes, 64 * MIB).await.unwrap();

    let without = golden.start().await.unwrap();
    assert_eq!(
        shell(&without, "ls /data 2>/dev/null || echo none").await,
        "none",
        "the control"
    );
    drop(without);

    let volumes = vec![
        open(&orders, "/data", Access::Write).await,
        open(&notes, "/opt", Access::Write).await,
    ];
    let first = golden.start_within(None, volumes).await.unwrap();
    assert!(is_taken(&orders), "no other machine gets it");
    assert_eq!(
        shell(&first, "ls -A /data /opt | grep -v :").await,
        "",
        "a new one is empty"
    );
    let sizes = shell(&first, "df -m /data /opt | awk 'NR > 1 { print ($2 > 40) }'").await;
    assert_eq!(sizes, "0\n1", "each has its own size");
    // Not synced: it lies in the guest's memory.
    shell(&first, "echo first > /data/order; echo noted > /opt/note").await;
    first.settle().await.unwrap();
    first.kill().await;
    assert!(!is_taken(&orders), "it is free with the machine's end");

    let read = open(&orders, "/data", Access::Read).await;
    assert!(read.is_in_order().unwrap());
    let one = golden.start_within(None, vec![read]).await.unwrap();
    let two = golden
        .start_within(None, vec![open(&orders, "/srv", Access::Read).await])
        .await
        .unwrap();
    assert_eq!(shell(&one, "cat /data/order").await, "first");
    assert_eq!(shell(&two, "cat /srv/order").await, "first");
    assert!(is_taken(&orders), "nobody writes while they read");
    assert!(refusal(&one, "touch /data/mark").await.contains("Read-only"));
    // Not even by the disk itself.
    let disk = "disk=$(grep ' /data ' /proc/mounts | cut -d' ' -f1); dd if=/dev/zero of=$disk count=1";
    let raw = refusal(&one, disk).await;
    assert!(!raw.contains("done"), "{raw}");
    drop((one, two));

    // One that is killed in the middle leaves a journal to be read, and loses what it had not written.
    let volume = open(&orders, "/data", Access::Write).await;
    let killed = golden.start_within(None, vec![volume]).await.unwrap();
    shell(&killed, "echo second >> /data/order; sync; echo third >> /data/order").await;
    killed.kill().await;
    let volume = open(&orders, "/data", Access::Write).await;
    assert!(!volume.is_in_order().unwrap());
    let again = golden.start_within(None, vec![volume]).await.unwrap();
    let kept = shell(&again, "cat /data/order").await;
    assert!(kept.starts_with("first\nsecond"), "{kept}");
    assert_eq!(
        refusal(&again, "touch /data/mark").await,
        "done",
        "the control: it may write"
    );
}

#[tokio::test]
async fn a_pc_has_volumes_too_and_what_cannot_be_mounted_is_told() {
    let world = World::new().await;
    let golden = golden(&world, MachineKind::Q35).await;
    let orders = world.path("orders.ext4");
    Volume::make(&orders, 16 * MIB).await.unwrap();
    let volume = open(&orders, "/data", Access::Write).await;
    let vm = golden.start_within(None, vec![volume]).await.unwrap();
    shell(&vm, "echo here > /data/order").await;
    vm.kill().await;
    let refused = |mount: &'static str| {
        let (golden, orders) = (&golden, &orders);
        async move {
            let volume = open(orders, mount, Access::Write).await;
            golden.start_within(None, vec![volume]).await.unwrap_err().to_string()
        }
    };
    let missing = refused("/data/deep").await;
    assert!(
        missing.contains("`/data/deep`") && missing.contains("no such folder"),
        "{missing}"
    );
    std::fs::write(&orders, vec![0_u8; 16 << 20]).unwrap();
    let empty = refused("/data").await;
    assert!(empty.contains("volume at `/data`"), "{empty}");
    let three = ["a", "b", "c"].map(|name| world.path(name));
    let mut volumes = Vec::new();
    for path in &three {
        std::fs::write(path, "").unwrap();
        volumes.push(open(path, "/data", Access::Write).await);
    }
    let many = golden.start_within(None, volumes).await.unwrap_err().to_string();
    assert!(many.contains("`3` volumes") && many.contains("room for `2`"), "{many}");
}
