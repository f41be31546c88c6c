//! A guest has no privilege, and the spawner needs none.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

use bowline_sandbox_linux::cell::{Spawner, SpawnerOptions};

use crate::harness::{Bench, SPAWNER, host, is_root, world_readable_dir};

const STATUS: &str = "
fields = dict(line.rstrip('\\n').split(':\\t', 1) for line in open('/proc/self/status'))
for name in ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb', 'NoNewPrivs', 'Seccomp']:
    print(name, int(fields[name], 16))
print(fields['Uid'])
print(open('/proc/self/uid_map').read().split())";

#[tokio::test]
async fn a_guest_has_no_capability_and_gets_none() {
    let bench = Bench::start();
    let file = bench.code(STATUS).join("script.py");
    let outside = host("/usr/bin/python3", &[file.to_str().unwrap()]);
    assert!(
        !outside.contains("CapBnd 0\n") && outside.contains("NoNewPrivs 0\n"),
        "{outside}"
    );
    let outcome = bench.run(STATUS).await;
    let lines = outcome.lines();
    let expected = [
        "CapInh 0",
        "CapPrm 0",
        "CapEff 0",
        "CapBnd 0",
        "CapAmb 0",
        "NoNewPrivs 1",
        "Seccomp 2",
    ];
    assert_eq!(lines[..7], expected);
    assert_eq!(lines[7], "1000\t1000\t1000\t1000");
}

#[tokio::test]
async fn cells_run_as_different_users_as_root() {
    if !is_root("cells_run_as_different_users_as_root") {
        return;
    }
    let bench = Bench::start();
    // Both live at once: the user of one that is gone may be used again.
    let script = "print(open('/proc/self/uid_map').read().split()[1], flush=True)\ntime.sleep(60)";
    let mut users = Vec::new();
    let mut cells = Vec::new();
    for _ in 0..2 {
        let mut cell = bench.running(script, |_| {}).await;
        users.push(crate::harness::read_line(&mut crate::harness::lines(cell.take_output())).await);
        cells.push(cell);
    }
    // Inside, the outer number shows as the reader's own.
    let seen = |marker: &str| crate::harness::processes_with(marker).len();
    assert!(seen("/var/task/script.py") >= 2);
    for cell in cells {
        cell.destroy().await;
    }
    let inside: Vec<_> = users.iter().map(|user| user.parse::<u32>().unwrap()).collect();
    assert!(inside.iter().all(|user| *user >= 0x7000_0000), "{inside:?}");
    assert_ne!(inside[0], inside[1]);
}

/// A spawner that gives up root before it starts.
fn unprivileged() -> Bench {
    let dir = world_readable_dir();
    let copy = dir.path().join("spawner");
    fs::copy(SPAWNER, &copy).unwrap();
    let wrapper = dir.path().join("wrapper");
    let script = format!(
        "#!/bin/sh\nexec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all {} \"$@\"\n",
        copy.display()
    );
    fs::write(&wrapper, script).unwrap();
    let state_dir = dir.path().join("state");
    fs::create_dir(&state_dir).unwrap();
    chown(&state_dir, Some(65534), Some(65534)).unwrap();
    for file in [&copy, &wrapper] {
        fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let options = SpawnerOptions {
        state_dir,
        program: Some(wrapper),
    };
    let spawner = Spawner::start(options).expect("the spawner starts without root");
    Bench { spawner, dir }
}

fn can_be_unprivileged(test: &str) -> bool {
    let allowed = || {
        let probe = [
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "unshare",
            "-Urm",
            "echo",
            "yes",
        ];
        host("setpriv", &probe) == "yes\n"
    };
    let can = is_root(test) && allowed();
    if !can {
        eprintln!("{test}: skipped, it takes root to drop it, and user namespaces for everybody");
    }
    can
}

#[tokio::test]
async fn everything_but_cgroups_works_without_root_as_root_dropped() {
    if !can_be_unprivileged("everything_but_cgroups_works_without_root_as_root_dropped") {
        return;
    }
    let bench = unprivileged();
    let outcome = bench.run(STATUS).await;
    assert_eq!(
        outcome.lines()[..7],
        [
            "CapInh 0",
            "CapPrm 0",
            "CapEff 0",
            "CapBnd 0",
            "CapAmb 0",
            "NoNewPrivs 1",
            "Seccomp 2"
        ]
    );
    let script = "
attempt(lambda: open('/var/task/new', 'w'))
attempt(lambda: os.kill(1, 9))
attempt(lambda: open('/proc/1/environ').read())
attempt(lambda: open('/tmp/fill', 'wb').write(bytes(20 << 20)))
print(sorted(os.listdir('/proc/self/fd'))[:4], os.listdir('/')) ";
    let outcome = bench.run(script).await;
    assert_eq!(
        outcome.lines()[..4],
        ["EROFS", "ok", "EACCES", "ENOSPC"],
        "{}",
        outcome.output
    );
    bench.spawner.shut_down().await;
}

#[tokio::test]
async fn memory_and_processes_are_bounded_without_cgroups_as_root_dropped() {
    if !can_be_unprivileged("memory_and_processes_are_bounded_without_cgroups_as_root_dropped") {
        return;
    }
    let bench = unprivileged();
    let script = "
try:
    data = bytearray(200 << 20)
    print('done')
except MemoryError:
    print('refused')
def bear():
    if os.fork() == 0:
        time.sleep(60)
for _ in range(10):
    bear()
attempt(bear)";
    let within = bench.run(script).await;
    assert_eq!(within.lines(), ["done", "ok"]);
    let beyond = bench
        .run_with(script, |furnishing| {
            furnishing.memory.0 = 64;
            furnishing.pids = 11;
        })
        .await;
    assert_eq!(beyond.lines(), ["refused", "EAGAIN"]);
}

#[tokio::test]
async fn a_cell_freezes_without_cgroups_as_root_dropped() {
    if !can_be_unprivileged("a_cell_freezes_without_cgroups_as_root_dropped") {
        return;
    }
    let bench = unprivileged();
    let mut cell = bench
        .running("for line in open(3): print(line, end='', flush=True)", |_| {})
        .await;
    let mut output = crate::harness::lines(cell.take_output());
    let control = std::os::unix::net::UnixStream::from(cell.take_control());
    let say = |word: &str| std::io::Write::write_all(&mut &control, format!("{word}\n").as_bytes()).unwrap();
    say("one");
    assert_eq!(crate::harness::read_line(&mut output).await, "one");
    cell.freeze().unwrap();
    let stopped = async || {
        let stat = |pid: i32| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let guests = crate::harness::processes_with("/var/task/script.py");
        guests.into_iter().any(|pid| stat(pid).contains(") T "))
    };
    while !stopped().await {
        tokio::task::yield_now().await;
    }
    say("two");
    cell.thaw().unwrap();
    assert_eq!(crate::harness::read_line(&mut output).await, "two");
    cell.destroy().await;
}
