//! Several callers that invoke one function again and again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use super::FUNCTION;
use crate::client::{Client, ClientError};
use crate::command::invoke::{self, Invoked};

/// The sandboxes of so many fill a server: those of an older version make way for those of a newer one.
const CALLERS: usize = 4;
/// Between two calls of a caller.
const PAUSE: Duration = Duration::from_millis(5);
/// As clients of Lambda do it where their first attempt fails by the service's doing: again, and later each time.
const BACKOFF: Duration = Duration::from_millis(50);
/// Attempts of such a client: enough for a server that boots meanwhile.
pub(super) const ATTEMPTS: u32 = 8;
/// Errors that are told.
const ERRORS_MAX: usize = 4;

/// What callers have seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// Answers by their text.
    pub answers: BTreeMap<String, u64>,
    /// Answers whose text is not the version that the service says it ran.
    pub untrue: u64,
    pub retries: u64,
    /// Calls that had no answer in the end.
    pub failures: u64,
    pub errors: Vec<String>,
}

impl Tally {
    pub fn answered(&self) -> u64 {
        self.answers.values().sum()
    }

    fn note(&mut self, invoked: Invoked, is_versioned: bool) {
        let text = String::from_utf8_lossy(&invoked.payload).trim_matches('"').to_owned();
        if invoked.function_error.is_some() {
            self.fail(text);
            return;
        }
        self.untrue += u64::from(is_versioned && text != invoked.executed_version);
        *self.answers.entry(text).or_default() += 1;
    }

    fn fail(&mut self, error: String) {
        self.failures += 1;
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(error);
        }
    }
}

/// Callers at work.
pub(super) struct Callers {
    is_over: Arc<AtomicBool>,
    tally: Arc<Mutex<Tally>>,
    threads: Vec<JoinHandle<()>>,
}

impl Callers {
    /// Begins to call; each call is attempted so often at most.
    pub fn start(client: &Client, qualifier: Option<&'static str>, attempts: u32) -> Self {
        let (is_over, tally) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<Tally>>::default());
        let caller = || {
            let (client, is_over, tally) = (client.clone(), is_over.clone(), tally.clone());
            std::thread::spawn(move || {
                while !is_over.load(Ordering::Acquire) {
                    call(&client, (qualifier, attempts), &tally);
                    std::thread::park_timeout(PAUSE);
                }
            })
        };
        let threads = (0..CALLERS).map(|_| caller()).collect();
        Self {
            is_over,
            tally,
            threads,
        }
    }

    /// What they have seen until now.
    pub fn tally(&self) -> Tally {
        self.tally.lock().clone()
    }

    /// Lets each end its call.
    pub fn stop(self) -> Tally {
        self.is_over.store(true, Ordering::Release);
        for thread in self.threads {
            // One that panicked has told so, and its calls are missing.
            let _ = thread.join();
        }
        self.tally.lock().clone()
    }
}

fn call(client: &Client, (qualifier, attempts): (Option<&str>, u32), tally: &Mutex<Tally>) {
    let mut backoff = BACKOFF;
    for attempt in 1..=attempts {
        match invoke::invoke(client, FUNCTION, qualifier, b"{}".to_vec()) {
            Ok(invoked) => return tally.lock().note(invoked, qualifier.is_some()),
            Err(error) if attempt < attempts && is_retryable(&error) => tally.lock().retries += 1,
            Err(error) => return tally.lock().fail(error.to_string()),
        }
        std::thread::park_timeout(backoff);
        backoff *= 2;
    }
}

/// Whether a client of Lambda tries again.
fn is_retryable(error: &ClientError) -> bool {
    matches!(error, ClientError::Service(error) if error.status == 429 || error.status >= 500)
}
