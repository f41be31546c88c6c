//! Stops the process at a named moment where a test says so; what becomes of it then is the test's to decide.

use std::path::PathBuf;
use std::time::Duration;

use bowline_functions::CrashPoints;
use rustix::process::{Signal, getpid, kill_process};

/// A folder: the node stops (SIGSTOP) at a moment of which a file there has the name, and removes the file before.
const HALT_VARIABLE: &str = "BOWLINE_TEST_HALT";
/// The signal may take a moment to reach all threads.
const ARRIVES_WITHIN: Duration = Duration::from_millis(50);

/// What happens at the named moments: nothing but in tests.
pub fn points() -> CrashPoints {
    let Some(folder) = std::env::var_os(HALT_VARIABLE).map(PathBuf::from) else {
        return CrashPoints::default();
    };
    CrashPoints::with(move |name| {
        if std::fs::remove_file(folder.join(name)).is_ok() {
            let _ = kill_process(getpid(), Signal::STOP);
            std::thread::park_timeout(ARRIVES_WITHIN);
        }
    })
}
