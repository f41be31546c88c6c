//! Programs beside the guest, and sockets of the cell's network for the node.

use std::fs;
use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use bowline_sandbox_linux::cell::{COMPANIONS_DIR, Cell, Command, ExitStatus};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::PipeFlags;
use tokio::io::AsyncReadExt;
use tokio::net::TcpSocket;

use crate::harness::{Bench, lines, python, read_line, step_of, wait};

/// A folder for `/opt` with these scripts as companions.
fn opt(bench: &Bench, scripts: &[(&str, &str)]) -> PathBuf {
    let opt = bench.code("");
    let folder = opt.join("extensions");
    fs::create_dir_all(folder.join("a-folder")).unwrap();
    for (name, text) in scripts {
        fs::write(folder.join(name), text).unwrap();
    }
    for folder in [&folder, &folder.join("a-folder")] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    }
    opt
}

fn pipe() -> (OwnedFd, OwnedFd) {
    let (ours, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
    rustix::io::ioctl_fionbio(&ours, true).unwrap();
    (ours, theirs)
}

fn companion(name: &str) -> Command {
    python(&format!("{COMPANIONS_DIR}/{name}"))
}

fn lives(cell: &Cell) -> bool {
    let mut watched = [PollFd::from_borrowed_fd(cell.pidfd(), PollFlags::IN)];
    poll(&mut watched, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 0
}

#[tokio::test]
async fn companions_are_listed_and_outlive_the_guest() {
    let bench = Bench::start();
    let sleep = "import time\nprint('begun', flush=True)\ntime.sleep(600)\n";
    let opt = opt(&bench, &[("second", sleep), ("first", "")]);
    let mut cell = bench
        .furnished("sys.exit(4)", |furnishing| furnishing.layers = Some(opt))
        .await;
    assert_eq!(cell.companions(), ["first", "second"], "folders are none");
    let (ours, theirs) = pipe();
    cell.accompany(companion("second"), theirs).await.unwrap();
    assert_eq!(read_line(&mut lines(ours)).await, "begun");
    cell.exec(python("/var/task/script.py")).await.unwrap();
    poll_fn(|cx| cell.poll_news(cx)).await;
    assert_eq!(cell.try_exit().map(|exit| exit.status), Some(ExitStatus::Code(4)));
    assert!(lives(&cell), "the companion lives on");
    cell.signal(Some(0), libc::SIGTERM).unwrap();
    poll_fn(|cx| cell.poll_news(cx)).await;
    assert_eq!(cell.take_companions_ended(), [(0, ExitStatus::Signal(libc::SIGTERM))]);
    // With the last of them the cell ends.
    wait(&mut cell).await;
    cell.destroy().await;
}

#[tokio::test]
async fn a_companion_that_cannot_be_executed_is_an_error() {
    let bench = Bench::start();
    let mut cell = bench.furnished("", |_| {}).await;
    assert!(cell.companions().is_empty());
    let mut command = companion("absent");
    command.argv[0] = "/opt/extensions/absent".into();
    let (step, errno) = step_of(cell.accompany(command, pipe().1).await.unwrap_err());
    assert_eq!((step.as_str(), errno), ("execve", Some(libc::ENOENT)));
    cell.destroy().await;
}

#[tokio::test]
async fn lent_sockets_reach_listeners_inside() {
    const PORT: u16 = 8765;
    let bench = Bench::start();
    let script = format!(
        "
server = socket.create_server(('127.0.0.1', {PORT}))
print('listens', flush=True)
connection, _ = server.accept()
connection.sendall(b'inside')
connection.close()
time.sleep(600)"
    );
    let mut cell = bench.running(&script, |_| {}).await;
    let mut output = lines(cell.take_output());
    assert_eq!(read_line(&mut output).await, "listens");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    // The control: a socket of the host's network does not get there.
    assert!(TcpSocket::new_v4().unwrap().connect(address).await.is_err());
    let lender = cell.lender().unwrap();
    let socket = TcpSocket::from_std_stream(lender.socket().await.unwrap());
    let mut text = String::new();
    let mut stream = socket.connect(address).await.unwrap();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "inside");
    cell.destroy().await;
    assert!(lender.socket().await.is_err(), "a cell that is gone lends nothing");
}
