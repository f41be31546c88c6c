//! Servers for tests leave nothing behind, however their test ends.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use bowline_foundation::clock::Clock;
use bowline_test_postgres::{PASSWORD, Server, is_installed};

const CHILD: &str = "BOWLINE_TEST_POSTGRES_CHILD";

fn listens(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

fn is_skipped() -> bool {
    let skipped = !is_installed();
    if skipped {
        eprintln!("SKIPPED: PostgreSQL is not installed");
    }
    skipped
}

#[test]
fn a_server_stops_crashes_and_starts_again_on_its_port() {
    if is_skipped() {
        return;
    }
    let server = Server::start().unwrap();
    assert!(server.url().contains(PASSWORD) && listens(server.port()));
    for end in [Server::stop, Server::crash, Server::kill] {
        end(&server).unwrap();
        assert!(!listens(server.port()) && !server.is_running());
        server.start_again().unwrap();
        assert!(listens(server.port()));
    }
}

#[test]
fn a_dropped_server_is_gone() {
    if is_skipped() {
        return;
    }
    let server = Server::start().unwrap();
    let port = server.port();
    assert!(listens(port), "control: it was there");
    drop(server);
    assert!(!listens(port));
}

#[test]
fn the_server_of_a_killed_process_ends() {
    if std::env::var_os(CHILD).is_some() {
        let server = Server::start().unwrap();
        writeln!(std::io::stdout(), "\nport {}", server.port()).unwrap();
        let _ = std::io::stdin().read_line(&mut String::new());
        return;
    }
    if is_skipped() {
        return;
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_server_of_a_killed_process_ends", "--nocapture"])
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let port = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("port ")?.parse().ok());
    let port = port.expect("the child tells its port");
    assert!(listens(port), "control: it runs as long as the child");
    child.kill().unwrap();
    child.wait().unwrap();
    let clock = Clock::system();
    let begin = clock.monotonic();
    while listens(port) {
        assert!(
            clock.monotonic().since(begin) < Duration::from_secs(20),
            "port {port} still listens"
        );
        std::thread::yield_now();
    }
}
