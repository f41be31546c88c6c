//! g-T3, g-T10 with real processes: a node over a database is killed at a named moment, and the next process
//! goes on.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_store::{SqliteStore, Store};
use bowline_stream::session::limits::LEASE_DEFAULT;
use bowline_stream::session::{CrashPoints, CreateRequest, Handle, Service, SessionId, Settings, Start};

use crate::memory_log::{MemoryLog, start};
use crate::world::{at_most, caller, numbers, options, seconds, stream};

const FOLDER: &str = "SESSION_TEST_FOLDER";
const MOMENT: &str = "SESSION_TEST_MOMENT";

/// One process: the same stream each time, the store from the folder, some time after the last one.
async fn with_node<T>(
    folder: &Path,
    crash: CrashPoints,
    late: bool,
    work: impl AsyncFnOnce(Handle, SessionId) -> T,
) -> T {
    let clock = Clock::fake(start());
    let log = Arc::new(MemoryLog::new(stream(), clock.clone()));
    for number in 1..=5 {
        log.append(None, number.to_string());
    }
    if late {
        clock.advance(LEASE_DEFAULT + seconds(1));
    }
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&folder.join("sessions.db")).unwrap());
    let service = Service::start_with(options(&clock, &Entropy::system(), &store, &log), crash);
    let request = CreateRequest {
        stream: stream(),
        start: Start::Oldest,
        settings: Settings::default(),
        client_token: Some("kill".to_owned()),
    };
    let session = service.handle().create(&caller(), request).await.unwrap();
    work(service.handle(), session).await
}

/// In the child: reads and never returns.
async fn die_reading(folder: &Path, moment: String) {
    let crash = CrashPoints::with(move |reached| {
        if reached == moment {
            std::process::abort();
        }
        bowline_stream::session::Fate::Live
    });
    with_node(folder, crash, false, async |handle, session| {
        let batch = handle.read(&session, at_most(2)).await.unwrap().unwrap();
        // After the reply has left, the node may live for a moment yet.
        handle.read(&session, at_most(2)).await.unwrap();
        panic!("outlived {:?}", numbers(&batch));
    })
    .await;
}

#[test]
fn a_killed_process_leaves_a_session_that_loses_nothing() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    if let (Some(folder), Ok(moment)) = (std::env::var_os(FOLDER), std::env::var(MOMENT)) {
        return runtime.block_on(die_reading(Path::new(&folder), moment));
    }
    for moment in CrashPoints::NAMES {
        let folder = tempfile::tempdir().unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::a_killed_process_leaves_a_session_that_loses_nothing"])
            .env(FOLDER, folder.path())
            .env(MOMENT, moment)
            .output()
            .unwrap();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&child.status),
            Some(6),
            "{moment}"
        );
        let sets = runtime.block_on(with_node(
            folder.path(),
            CrashPoints::default(),
            true,
            async |handle, session| {
                let mut sets = Vec::new();
                while let Some(batch) = handle.read(&session, at_most(2)).await.unwrap() {
                    sets.push((batch.attempt, numbers(&batch)));
                }
                sets
            },
        ));
        let first = if *moment == "after_select" { 1 } else { 2 };
        assert_eq!(sets, [(first, vec![1, 2]), (1, vec![3, 4]), (1, vec![5])], "{moment}");
    }
}
