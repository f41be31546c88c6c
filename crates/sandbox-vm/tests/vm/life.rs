//! How machines begin and end.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::Clock;
use bowline_foundation::units::Mebibytes;
use bowline_sandbox_vm::vm::Origin;
use bowline_sandbox_vm::{Accelerator, Machine, Vm, VmError};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::time::timeout;

use super::harness::{SOON, World, agent, kept, shell};

fn pid(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).unwrap()).unwrap()
}

/// The value of a line of `/proc/PID/status`.
fn status(vm: &Vm, name: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{}/status", vm.pid())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').trim().to_owned()
}

#[tokio::test]
async fn a_guest_answers_has_few_rights_and_its_death_is_noticed() {
    let world = World::new().await;
    let vm = world.golden().await.start().await.unwrap();
    assert!(matches!(vm.origin(), Origin::Golden(_)));
    assert_eq!(
        shell(&vm, "uname -s; tr '\\0' ' ' </proc/1/cmdline").await,
        "Linux\n/usr/bin/bowline __vm-guest"
    );
    let ran = vm.run(&["/bin/busybox", "false"], SOON).await.unwrap();
    assert_eq!((ran.code, ran.timed_out), (Some(1), false));
    let ran = vm
        .run(&["/bin/busybox", "sleep", "600"], Duration::from_millis(100))
        .await
        .unwrap();
    assert!(ran.timed_out);
    let missing = vm.run(&["/no/such"], SOON).await.unwrap_err();
    assert!(matches!(missing, VmError::Guest(_)), "{missing}");

    assert_eq!(status(&vm, "NoNewPrivs"), "1");
    assert_eq!(status(&vm, "Seccomp"), "2");
    let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", vm.pid())).unwrap();
    assert!(groups.contains("bowline-vm-"), "{groups}");
    if rustix::process::geteuid().is_root() {
        let user = status(&vm, "Uid");
        assert!(!user.split_whitespace().any(|id| id == "0"), "{user}");
        let network = std::fs::read_to_string(format!("/proc/{}/net/dev", vm.pid())).unwrap();
        let devices = network.lines().filter(|line| line.contains(':')).count();
        assert_eq!(devices, 1, "it has the loopback alone: {network}");
    }

    let clock = Clock::system();
    let killed = clock.monotonic();
    kill_process(pid(vm.pid()), Signal::KILL).unwrap();
    let words = timeout(Duration::from_secs(1), vm.ended())
        .await
        .expect("noticed within a second");
    assert!(words.contains("signal: 9"), "{words}");
    assert!(clock.monotonic().since(killed) < Duration::from_secs(1));
    assert!(!vm.is_alive());
    let refused = vm.clock().await.unwrap_err();
    assert!(matches!(refused, VmError::Ended(_)), "{refused}");
}

#[tokio::test]
async fn a_guest_that_is_asked_when_it_dies_does_not_keep_the_caller() {
    let world = World::new().await;
    let vm = Arc::new(world.golden().await.start().await.unwrap());
    let asked = Arc::clone(&vm);
    let asked = tokio::spawn(async move { asked.run(&["/bin/busybox", "sleep", "600"], SOON).await });
    shell_has_begun(&vm).await;
    kill_process(pid(vm.pid()), Signal::KILL).unwrap();
    let answer = timeout(Duration::from_secs(2), asked).await.expect("noticed").unwrap();
    assert!(matches!(answer, Err(VmError::Ended(_))), "{answer:?}");
}

/// Until the order is on its way there is nothing to see from outside; a turn of the runtime is enough for it.
async fn shell_has_begun(vm: &Vm) {
    tokio::task::yield_now().await;
    assert!(vm.is_alive());
}

#[tokio::test]
async fn the_agents_stream_goes_both_ways_and_is_given_once() {
    let world = World::new().await;
    let vm = world.golden().await.start().await.unwrap();
    let mut stream = vm.take_agent().unwrap();
    assert!(vm.take_agent().is_none());
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(b"word").unwrap();
    shell(
        &vm,
        "for port in /sys/class/virtio-ports/*; do
             [ $(cat $port/name) = bowline.agent ] && exec 3<>/dev/${port##*/}
         done
         head -c 4 <&3 | tr a-z A-Z >&3",
    )
    .await;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"WORD");
}

#[tokio::test]
async fn a_boot_has_a_deadline_and_leaves_nothing() {
    let world = World::new().await;
    let boot = Vm::boot_within(
        Arc::clone(&world.host),
        Arc::clone(&world.image),
        Machine::micro(Mebibytes(256)),
        // No guest boots in it.
        Duration::from_millis(1),
    );
    let late = boot.await.unwrap_err();
    assert!(matches!(late, VmError::Deadline { .. }), "{late}");
    let none = || {
        let mut processes = std::fs::read_dir("/proc").unwrap().flatten();
        let ours = format!("bowline-vm-{}-", world.host.mark());
        !processes.any(|process| {
            let groups = std::fs::read_to_string(process.path().join("cgroup")).unwrap_or_default();
            groups.contains(&ours)
        })
    };
    let gone = async {
        while !none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(5), gone).await.expect("its QEMU is gone");
}

#[tokio::test]
async fn nothing_is_left_of_machines_on_their_way_out_when_a_host_has_ended_all() {
    let world = World::new().await;
    let golden = world.golden().await;
    let (dying, running) = (golden.start().await.unwrap(), golden.start().await.unwrap());
    assert!(groups(world.host.mark()) >= 2, "the control: each has at least one");
    drop(dying);
    let host = Arc::clone(&world.host);
    tokio::task::spawn_blocking(move || host.end_all()).await.unwrap();
    assert_eq!(groups(world.host.mark()), 0);
    timeout(SOON, running.ended()).await.expect("it has ended too");
}

/// How many control groups there are of a host's machines.
fn groups(mark: &str) -> usize {
    let name = format!("bowline-vm-{mark}-");
    let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
    let mut count = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            count += usize::from(entry.file_name().to_string_lossy().starts_with(&name));
            folders.extend(entry.file_type().is_ok_and(|kind| kind.is_dir()).then(|| entry.path()));
        }
    }
    count
}

#[tokio::test]
async fn qemu_dies_with_its_node() {
    let world = World::new().await;
    drop(world.golden().await);
    let mut node = Command::new(agent())
        .arg("node")
        .args([world.image.folder(), &kept().join("golden")])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(node.stdout.take().unwrap())
        .read_line(&mut said)
        .unwrap();
    let qemu = pid(said.trim().parse().expect("the node says which process it started"));
    test_kill_process(qemu).expect("it runs while its node runs");
    node.kill().unwrap();
    node.wait().unwrap();
    let gone = async {
        while test_kill_process(qemu).is_ok() && !is_zombie(qemu) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(2), gone)
        .await
        .expect("QEMU has died with its node");
}

/// Where nobody reaps orphans, the dead stay visible.
fn is_zombie(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_none_or(|rest| rest.trim_start().starts_with('Z'))
}

#[tokio::test]
async fn what_runs_the_guests_is_known_and_why() {
    let world = World::new().await;
    match (world.host.accelerator(), world.host.why_not_kvm()) {
        (Accelerator::Kvm, None) => assert!(world.host.tsc_khz().is_none()),
        (Accelerator::Tcg, Some(reason)) => {
            assert!(!reason.is_empty());
            let khz = world.host.tsc_khz().unwrap();
            assert!((100_000..10_000_000).contains(&khz), "{khz}");
        }
        other => panic!("{other:?}"),
    }
}
