//! The suite that every kind of sandbox passes.
//!
//! A kind brings a [`Subject`]: its backend and a *prober*, one guest program that does what the event
//! tells it. [`sandbox_conformance!`](crate::sandbox_conformance) makes one test of each case. Every case
//! has a control: the same step inside the limit, or with no sandbox around it, succeeds.
//!
//! # The prober's verbs
//! The event is a JSON object whose `do` names the verb; the answer is a JSON object with `ok`, and with
//! `error` (a text) where `ok` is false. A verb that the sandbox refuses answers `ok: false`; it does not
//! fail the invocation. A verb the kind cannot do at all answers `{"ok": false, "error": "unsupported"}`
//! and the subject names the [`Ability`] in [`Subject::lacks`].
//!
//! | verb and arguments | what it does, what it adds to `{"ok": true}` |
//! | --- | --- |
//! | `echo`, `value`: any | `value`: the same |
//! | `context` | `request_id`, `deadline_ms` (number), `invoked_arn`, `function_name`, `client_context` (JSON or null), as the runtime gives them to a handler |
//! | `count` | `count`: invocations since the program's initialisation, this one included (counts every verb) |
//! | `read_env`, `name` | `value`: the variable's text, or null |
//! | `log`, `text`, `repeat` (default 1) | prints `text` and a line feed to standard error, `repeat` times, unbuffered |
//! | `allocate`, `mib` | allocates, writes to every page, frees; if memory is refused the program crashes as its language does |
//! | `spin`, `ms` (absent: for ever) | computes without any system call but reading the clock (none at all when for ever) |
//! | `sleep`, `ms` | sleeps |
//! | `answer_never` | takes the event and waits for ever without computing and without answering |
//! | `answer_twice` | answers `{"ok": true, "answer": 1}`, then sends `{"ok": true, "answer": 2}` for the same request |
//! | `output_bytes`, `bytes` | the answer is not an object but a JSON string of ASCII letters, `bytes` long with both quotes |
//! | `stream`, `pieces`, `bytes`, `pause_ms` (default 0), `type`, `then` | streams an answer of content type `type`: `pieces` pieces of `bytes` letters `x`, sleeping between them, then ends well, or does what `then` says: `fail` (an error `KnotError`), `crash`, `hang` (for ever); wanted in one piece, the same bytes are the answer |
//! | `fail`, `type`, `message` | the handler returns an error: payload with `errorType`, `errorMessage`, `stackTrace` (array of texts) |
//! | `exit`, `code` | the program ends at once with that status, without answering |
//! | `crash` | the program aborts (a signal, a trap), without answering |
//! | `read_path`, `path` | `text`: the file's content (lossy UTF-8) |
//! | `write_path`, `path`, `text` | creates or replaces the file |
//! | `fill_tmp`, `mib` | writes that much to `/tmp/fill`, removes the file either way |
//! | `find_in_proc`, `needle` | `found`: whether any readable `/proc/*/environ` or `/proc/*/cmdline` contains the text (its own included) |
//! | `open_socket`, `address` (`ip:port`) | connects by TCP, closes |
//! | `ptrace` | forks a child, attaches to it by `PTRACE_ATTACH`, detaches, kills and reaps it |
//! | `mount` | mounts a tmpfs on a new folder in `/tmp`, unmounts it |
//! | `fork_bomb`, `processes` | forks until so many children sleep at once, kills and reaps them all; `ok` only if every fork succeeded; `started` (number) in either case |
//!
//! The variable `PROBER_INIT` changes what the program does before it takes its first event: `exit` ends
//! it with status 7, `crash` aborts it, `sleep:N` sleeps N milliseconds. With `PROBER_INIT` unset it
//! prints nothing and starts at once.

mod cases;
mod streaming;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_foundation::id::RequestId;
use bowline_foundation::units::Mebibytes;
use bytes::Bytes;
use serde_json::Value;

pub use cases::*;
pub use streaming::*;

use crate::{Backend, CreateError, Deadline, Invocation, MemoryLog, Outcome, Report, Sandbox, VersionSpec};

/// One kind of sandbox under test.
pub trait Subject: Send + Sync {
    /// The backend; the same one at each call.
    fn backend(&self) -> Arc<dyn Backend>;

    /// A version whose code is the prober, otherwise as asked. Called several times in a case, also with
    /// different function names; the code may be the same folder each time.
    fn version(&self, prober: Prober) -> VersionSpec;

    /// What the prober of this kind cannot do at all.
    fn lacks(&self) -> &[Ability];

    /// Names everything the backend's sandboxes hold on the host at this moment, one text a thing:
    /// processes, cgroups, mounts, folders, memory slots. Empty when no sandbox lives; what the backend
    /// keeps ready for any sandbox (a pool, a spawner process) is left out.
    fn traces(&self) -> Vec<String>;

    /// The clock that the backend was given: deadlines are readings of it, and of no other.
    fn clock(&self) -> Clock {
        Clock::system()
    }

    /// Does the event's verb in a plain process with no sandbox around it, as the control of verbs that
    /// every sandbox refuses (`open_socket`, `ptrace`, `mount`, `read_path`, `find_in_proc`). `None`: not
    /// possible with this kind or with this user's rights.
    fn outside(&self, event: &Value) -> Option<Value>;
}

/// What a kind's prober may be unable to do at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ability {
    /// `write_path` and `fill_tmp` in `/tmp`: the kind has no `/tmp`.
    Tmp,
    /// `fork_bomb`.
    Fork,
    /// `ptrace`.
    Ptrace,
    /// `mount`.
    Mount,
    /// `open_socket`, even outside a sandbox.
    Sockets,
    /// `find_in_proc`.
    Proc,
    /// `answer_twice`: the program has no way to say a second answer.
    AnswerTwice,
    /// `read_path` of files that exist: the kind has no files at all.
    Files,
    /// `stream`: the program's language has no way to say part of an answer.
    Stream,
}

/// What a case asks of a prober's version.
#[derive(Clone, Debug)]
pub struct Prober {
    /// The function's name.
    pub function: String,
    /// The memory limit.
    pub memory: Mebibytes,
    /// The size of `/tmp`.
    pub ephemeral_storage: Mebibytes,
    /// The longest time of an invocation.
    pub timeout: Duration,
    /// The owner's environment variables.
    pub environment: BTreeMap<String, String>,
}

impl Prober {
    /// A prober with 128 MiB of memory, 64 MiB of `/tmp`, 20 seconds and no variables.
    pub fn named(function: &str) -> Self {
        Self {
            function: function.to_owned(),
            memory: Mebibytes(128),
            ephemeral_storage: Mebibytes(64),
            timeout: Duration::from_secs(20),
            environment: BTreeMap::new(),
        }
    }

    /// The same with another memory limit.
    #[must_use]
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.memory = Mebibytes(mib);
        self
    }

    /// The same with another time limit.
    #[must_use]
    pub fn timeout_ms(mut self, ms: u64) -> Self {
        self.timeout = Duration::from_millis(ms);
        self
    }

    /// The same with one more variable.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }
}

/// Makes one `#[test]` of each case, for the subject that an `async fn() -> Option<impl Subject>` makes;
/// `None`, after saying on standard error why, skips the case.
#[macro_export]
macro_rules! sandbox_conformance {
    ($make:path) => {
        $crate::sandbox_conformance! { @each $make:
            answers_events
            answers_large_events
            tells_the_context
            gives_the_environment
            reuses_a_warm_sandbox
            captures_the_log
            ends_a_memory_hog
            reports_the_peak_of_memory
            ends_an_infinite_loop
            ends_a_guest_that_never_answers
            keeps_neighbours_going
            bounds_tmp
            keeps_the_code_unwritten
            hides_the_files_of_others
            hides_the_environment_of_others
            refuses_sockets
            refuses_ptrace
            refuses_mounting
            bounds_processes
            takes_the_first_of_two_answers
            refuses_seven_megabytes
            survives_death_in_init
            waits_for_slow_init
            survives_death_in_the_middle
            passes_handler_errors_on
            ends_a_guest_whose_caller_left
            leaves_nothing_behind
            streams_an_answer
            streams_the_first_piece_at_once
            holds_a_guest_back
            ends_a_guest_that_is_held_back
            goes_on_without_a_reader
            fails_in_the_middle_of_an_answer
            bounds_a_streamed_answer
        }
    };
    (@each $make:path: $($case:ident)*) => {
        $(
            #[test]
            fn $case() {
                $crate::conformance::run(stringify!($case), $make, $crate::conformance::$case);
            }
        )*
    };
}

/// Runs one case on a runtime of its own; [`sandbox_conformance!`](crate::sandbox_conformance) calls it.
///
/// # Panics
/// If the subject does not hold what the case asks.
pub fn run<S: Subject>(name: &str, make: impl AsyncFnOnce() -> Option<S>, case: impl AsyncFnOnce(&Bench<'_>)) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a test process may start threads");
    runtime.block_on(async {
        let Some(subject) = make().await else {
            eprintln!("{name}: skipped");
            return;
        };
        let bench = Bench {
            subject: &subject,
            clock: subject.clock(),
            entropy: Entropy::system(),
        };
        case(&bench).await;
        subject.backend().shut_down().await;
    });
}

/// A subject with what it takes to drive it.
pub struct Bench<'a> {
    subject: &'a dyn Subject,
    clock: Clock,
    entropy: Entropy,
}

impl Bench<'_> {
    fn lacks(&self, ability: Ability) -> bool {
        let lacks = self.subject.lacks().contains(&ability);
        if lacks {
            eprintln!("this kind has no {ability:?}: only the refusal is checked");
        }
        lacks
    }

    async fn try_start(&self, prober: Prober) -> Result<Live, CreateError> {
        let backend = self.subject.backend();
        let version = Arc::new(self.subject.version(prober));
        backend.prepare(&version).await.expect("the prober is valid code");
        let log = Arc::new(MemoryLog::default());
        let sandbox = backend.create(version.clone(), log.clone()).await?;
        Ok(Live {
            sandbox,
            version,
            log,
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
        })
    }

    async fn start(&self, prober: Prober) -> Live {
        self.try_start(prober).await.expect("the prober starts")
    }

    /// The traces that are still there after a while: some go only when the other end has noticed.
    async fn traces_left(&self) -> Vec<String> {
        let gone = async {
            while !self.subject.traces().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(GRACE, gone).await;
        self.subject.traces()
    }
}

/// A sandbox that lives, with its log.
struct Live {
    sandbox: Box<dyn Sandbox>,
    version: Arc<VersionSpec>,
    log: Arc<MemoryLog>,
    clock: Clock,
    entropy: Entropy,
}

impl Live {
    fn invocation(&self, event: &Value) -> Invocation {
        let budget = self.version.timeout;
        Invocation {
            request_id: RequestId::random(&self.entropy),
            payload: Bytes::from(event.to_string()),
            deadline: Deadline {
                wall: self.clock.now().after(budget),
                monotonic: self.clock.monotonic().after(budget),
                budget,
            },
            invoked_arn: format!(
                "arn:aws:lambda:us-east-1:000000000000:function:{}",
                self.version.function
            ),
            client_context: None,
            trace_id: None,
            sink: None,
            platform: None,
            suspension: None,
        }
    }

    async fn report(&mut self, event: Value) -> Report {
        let invocation = self.invocation(&event);
        self.sandbox.invoke(invocation).await
    }

    /// The answer's JSON.
    async fn ask(&mut self, event: Value) -> Value {
        let report = self.report(event.clone()).await;
        match report.outcome {
            Outcome::Success(answer) => serde_json::from_slice(&answer).expect("the prober answers JSON"),
            other => panic!("`{event}` should be answered, but: {other:?}; log: {}", self.log.text()),
        }
    }

    /// The answer of a verb that must succeed.
    async fn ask_ok(&mut self, event: Value) -> Value {
        let answer = self.ask(event.clone()).await;
        assert_eq!(answer["ok"], true, "`{event}` should be permitted: {answer}");
        answer
    }

    /// The answer of a verb that the sandbox must refuse.
    async fn ask_refused(&mut self, event: Value) -> Value {
        let answer = self.ask(event.clone()).await;
        assert_eq!(answer["ok"], false, "`{event}` should be refused: {answer}");
        answer
    }

    async fn end(self) {
        self.sandbox.destroy().await;
    }
}
