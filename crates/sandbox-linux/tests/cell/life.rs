//! The life of cells: starting, speaking, ending, and leaving nothing behind.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command as HostCommand, Stdio};

use bowline_sandbox::ProcessorShare;
use bowline_sandbox_linux::cell::{CellError, CellPlan, ExitStatus, ReadOnlyBind, Spawner, SpawnerOptions, Start};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::harness::{
    Bench, SPAWNER, cgroups, gone, host, lines, processes_with, python, read_all, read_line, step_of, wait,
    world_readable_dir,
};

#[tokio::test]
async fn statuses_arrive() {
    let bench = Bench::start();
    assert_eq!(bench.run("sys.exit(7)").await.exit.status.to_string(), "exit status 7");
    let aborted = bench.run("os.abort()").await.exit;
    assert_eq!(aborted.status, ExitStatus::Signal(libc::SIGABRT));
    assert!(!aborted.out_of_memory);
    assert_eq!(aborted.status.to_string(), "signal: aborted");
}

#[tokio::test]
async fn orphans_are_reaped_and_die_with_the_guest() {
    let bench = Bench::start();
    let script = "
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()
        print('orphan', flush=True)
        time.sleep(600)
    os._exit(0)
os.wait()
print(sorted(int(p) for p in os.listdir('/proc') if p.isdigit()))";
    // The orphan holds the pipe's end, so the output only ends when it is dead.
    let outcome = bench.run(script).await;
    assert!(outcome.output.contains("[1, 2, 4]"), "{}", outcome.output);
}

#[tokio::test]
async fn a_program_that_is_not_there_is_an_error() {
    let bench = Bench::start();
    let mut cell = bench.furnished("", |_| {}).await;
    let mut command = python("x");
    command.argv[0] = "/var/task/bootstrap".into();
    let (step, errno) = step_of(cell.exec(command).await.unwrap_err());
    assert_eq!((step.as_str(), errno), ("execve", Some(libc::ENOENT)));
    // A failed execution is not the end of the cell.
    cell.exec(python("/var/task/script.py")).await.unwrap();
    assert_eq!(wait(&mut cell).await.status, ExitStatus::Code(0));
}

#[tokio::test]
async fn code_that_is_not_there_is_an_error() {
    let bench = Bench::start();
    let plan = CellPlan {
        binds: Vec::new(),
        image: None,
        start: Start::Later,
    };
    let mut cell = bench.spawner.create(plan).await.unwrap();
    let furnishing = bowline_sandbox_linux::cell::Furnishing {
        code: Some("/nowhere".into()),
        layers: None,
        mounts: Vec::new(),
        tmp: bowline_foundation::units::Mebibytes(8),
        memory: bowline_foundation::units::Mebibytes(64),
        processors: ProcessorShare::of(100),
        pids: 10,
    };
    let (step, errno) = step_of(cell.furnish(furnishing).await.unwrap_err());
    assert_eq!((step.as_str(), errno), ("open code", Some(libc::ENOENT)));
    cell.destroy().await;
}

#[tokio::test]
async fn a_pre_warmed_program_gets_the_code_later() {
    let bench = Bench::start();
    let tools = bench.code("");
    fs::write(
        tools.join("warm.py"),
        "
import os, socket
control = socket.socket(fileno=3)
control.sendall(b'warm\\n')
name = control.recv(100).decode()
api = socket.create_connection(('127.0.0.1', 9001))
api.sendall(open('/var/task/' + name).read().encode())
api.close()
",
    )
    .unwrap();
    let plan = CellPlan {
        image: None,
        binds: vec![ReadOnlyBind {
            host: tools,
            inside: "/opt/bowline/clients".into(),
        }],
        start: Start::Now(python("/opt/bowline/clients/warm.py")),
    };
    let mut cell = bench.spawner.create(plan).await.unwrap();
    let mut control = UnixStream::from(cell.take_control());
    let listener = TcpListener::from(cell.take_listener());
    control.set_nonblocking(false).unwrap();
    listener.set_nonblocking(false).unwrap();
    let mut greeting = [0; 5];
    control.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"warm\n");

    let code = bench.code("");
    fs::write(code.join("data"), "the code").unwrap();
    cell.furnish(bowline_sandbox_linux::cell::Furnishing {
        code: Some(code),
        layers: None,
        mounts: Vec::new(),
        tmp: bowline_foundation::units::Mebibytes(8),
        memory: bowline_foundation::units::Mebibytes(64),
        processors: ProcessorShare::of(1000),
        pids: 10,
    })
    .await
    .unwrap();
    control.write_all(b"data").unwrap();
    let mut text = String::new();
    listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
    assert_eq!(text, "the code");
    assert_eq!(wait(&mut cell).await.status, ExitStatus::Code(0));
    cell.destroy().await;
}

fn mounts_naming(text: &str) -> usize {
    let mountinfo = |entry: fs::DirEntry| fs::read_to_string(entry.path().join("mountinfo")).ok();
    let all = fs::read_dir("/proc").unwrap().flatten().filter_map(mountinfo);
    all.filter(|mounts| mounts.contains(text)).count()
}

#[tokio::test]
async fn destroying_leaves_nothing() {
    let bench = Bench::start();
    let state_dir = bench.dir.path().join("state");
    let script = format!(
        "{:?}\nos.fork()\nprint('up', flush=True)\ntime.sleep(600)",
        bench.dir.path()
    );
    let mut cell = bench.running(&script, |_| {}).await;
    let mut output = lines(cell.take_output());
    assert_eq!(read_line(&mut output).await, "up");
    let pidfd = cell.pidfd().try_clone_to_owned().unwrap();
    let code = bench.dir.path().file_name().unwrap().to_str().unwrap();
    assert!(mounts_naming(code) > 0, "the control: the code is mounted somewhere");
    let inhabited = || {
        let procs = |folder: &std::path::PathBuf| fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        cgroups(&state_dir)
            .iter()
            .filter(|folder| !procs(folder).is_empty())
            .count()
    };
    if rustix::process::geteuid().is_root() {
        assert!(inhabited() > 0, "the control: the cell has cgroups");
    }
    cell.destroy().await;
    gone(&pidfd).await;
    assert_eq!(inhabited(), 0);
    assert_eq!(mounts_naming(&format!("{code}/code")), 0);
    bench.spawner.shut_down().await;
    assert_eq!(cgroups(&state_dir), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn dropping_destroys_too() {
    let bench = Bench::start();
    let cell = bench.running("time.sleep(600)", |_| {}).await;
    let pidfd = cell.pidfd().try_clone_to_owned().unwrap();
    drop(cell);
    gone(&pidfd).await;
}

#[tokio::test]
async fn a_cell_without_a_spawner_says_so() {
    let bench = Bench::start();
    let mut cell = bench.furnished("", |_| {}).await;
    bench.spawner.shut_down().await;
    assert!(matches!(
        cell.exec(python("/var/task/script.py")).await,
        Err(CellError::SpawnerGone)
    ));
    let plan = CellPlan {
        binds: Vec::new(),
        image: None,
        start: Start::Later,
    };
    assert!(matches!(bench.spawner.create(plan).await, Err(CellError::SpawnerGone)));
}

#[tokio::test]
async fn a_hundred_cells_live_at_once() {
    let bench = Bench::start();
    let cells = (0..100).map(async |number: usize| {
        let script = format!("print({number}, flush=True)\nopen(3).readline()");
        let mut cell = bench.running(&script, |_| {}).await;
        let mut output = lines(cell.take_output());
        assert_eq!(read_line(&mut output).await, number.to_string());
        cell
    });
    let mut living = Vec::new();
    for cell in cells {
        living.push(cell.await);
    }
    let mut ends = Vec::new();
    for mut cell in living {
        assert_eq!(cell.try_exit(), None);
        drop(cell.take_control());
        ends.push(tokio::spawn(async move {
            let exit = wait(&mut cell).await;
            cell.destroy().await;
            exit
        }));
    }
    for end in ends {
        assert_eq!(end.await.unwrap().status, ExitStatus::Code(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cells_are_made_concurrently() {
    let bench = Bench::start();
    let make = |number: usize| {
        let spawner = bench.spawner.clone();
        let start = Start::Now(bowline_sandbox_linux::cell::Command {
            argv: vec!["/usr/bin/echo".into(), number.to_string().into()],
            ..python("")
        });
        tokio::spawn(async move {
            let plan = CellPlan {
                binds: Vec::new(),
                image: None,
                start,
            };
            let mut cell = spawner.create(plan).await.unwrap();
            let output = read_all(cell.take_output()).await;
            cell.destroy().await;
            output
        })
    };
    let running: Vec<_> = (0..100).map(make).collect();
    for (number, output) in running.into_iter().enumerate() {
        assert_eq!(output.await.unwrap(), format!("{number}\n"));
    }
}

/// Starts the helper as a node with two cells that sleep, and returns it with the processes it made.
fn node(state_dir: &Path) -> (std::process::Child, Vec<i32>) {
    let mut node = HostCommand::new(SPAWNER)
        .args(["node", state_dir.to_str().unwrap()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(node.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "up\n");
    let mut made = descendants(node.id() as i32);
    made.sort_unstable();
    (node, made)
}

fn descendants(of: i32) -> Vec<i32> {
    let children = |pid: i32| {
        let listed = host("ps", &["--ppid", &pid.to_string(), "-o", "pid="]);
        listed
            .split_whitespace()
            .map(|pid| pid.parse().unwrap())
            .collect::<Vec<i32>>()
    };
    let mut found = children(of);
    let mut next = 0;
    while next < found.len() {
        found.extend(children(found[next]));
        next += 1;
    }
    found
}

async fn kill_and_wait(killed: i32, made: &[i32]) {
    let open = |pid: &i32| pidfd_open(Pid::from_raw(*pid).unwrap(), PidfdFlags::empty()).unwrap();
    let watched: Vec<_> = made.iter().map(open).collect();
    kill_process(Pid::from_raw(killed).unwrap(), Signal::KILL).unwrap();
    for pidfd in &watched {
        gone(pidfd).await;
    }
}

#[tokio::test]
async fn a_killed_node_leaves_nothing() {
    let dir = world_readable_dir();
    let state_dir = dir.path().join("state");
    let (mut node, made) = node(&state_dir);
    assert_eq!(made.len(), 5, "a spawner, two inits, two guests: {made:?}");
    kill_and_wait(node.id() as i32, &made).await;
    node.wait().unwrap();
    assert_eq!(cgroups(&state_dir), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn a_killed_spawner_leaves_only_what_the_next_removes() {
    let dir = world_readable_dir();
    let state_dir = dir.path().join("state");
    let (mut node, made) = node(&state_dir);
    let spawner = processes_with("__spawner").into_iter().find(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.contains(&format!("PPid:\t{}\n", node.id()))
    });
    kill_and_wait(spawner.expect("the node has a spawner"), &made).await;
    if rustix::process::geteuid().is_root() {
        assert_ne!(cgroups(&state_dir).len(), 0, "the control: cgroups are left");
    }
    node.kill().unwrap();
    node.wait().unwrap();
    let options = SpawnerOptions {
        state_dir: state_dir.clone(),
        program: Some(SPAWNER.into()),
    };
    let next = Spawner::start(options).unwrap();
    next.shut_down().await;
    assert_eq!(cgroups(&state_dir), Vec::<std::path::PathBuf>::new());
}
