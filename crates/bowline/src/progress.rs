//! Progress of long work on standard error: a spinner on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write as _};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use bowline_foundation::clock::{Clock, Monotonic};

const FRAME: Duration = Duration::from_millis(90);
const FRAMES: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];

/// Where progress is shown.
#[derive(Clone, Debug)]
pub struct Progress {
    clock: Clock,
    spins: bool,
}

/// A piece of work under way; dropping it without [`Step::done`] clears its spinner.
pub struct Step {
    clock: Clock,
    began: Monotonic,
    spinner: Option<Spinner>,
}

struct Spinner {
    notes: Sender<String>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Progress on standard error.
    pub fn stderr() -> Self {
        Self {
            clock: Clock::system(),
            spins: std::io::stderr().is_terminal(),
        }
    }

    /// Begins a piece of work.
    pub fn step(&self, what: &str) -> Step {
        let spinner = if self.spins {
            Spinner::start(what.to_owned(), self.clock.clone())
        } else {
            eprintln!("{what} ...");
            None
        };
        Step {
            clock: self.clock.clone(),
            began: self.clock.monotonic(),
            spinner,
        }
    }

    /// Says something beside the work.
    pub fn say(&self, text: &str) {
        eprintln!("{text}");
    }
}

impl Step {
    /// Replaces what a spinner shows.
    pub fn note(&self, what: &str) {
        if let Some(spinner) = &self.spinner {
            let _ = spinner.notes.send(what.to_owned());
        }
    }

    /// Ends the work; says what was reached and how long it took.
    pub fn done(self, what: &str) -> Duration {
        let took = self.clock.monotonic().since(self.began);
        drop(self.spinner);
        eprintln!("{what} ({})", seconds(took));
        took
    }
}

impl Spinner {
    fn start(mut what: String, clock: Clock) -> Option<Self> {
        let (notes, changed) = channel::<String>();
        let draw = move || {
            let began = clock.monotonic();
            for frame in FRAMES.into_iter().cycle() {
                let took = seconds(clock.monotonic().since(began));
                let mut out = std::io::stderr().lock();
                let _ = write!(out, "\r\x1b[2K{frame} {what} {took}");
                let _ = out.flush();
                drop(out);
                match changed.recv_timeout(FRAME) {
                    Ok(note) => what = note,
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            eprint!("\r\x1b[2K");
        };
        let thread = std::thread::Builder::new()
            .name("progress".to_owned())
            .spawn(draw)
            .ok()?;
        Some(Self {
            notes,
            thread: Some(thread),
        })
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.notes = channel().0;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A time in the unit that suits it.
pub fn seconds(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds >= 1.0 => format!("{seconds:.1} s"),
        seconds => format!("{:.0} ms", seconds * 1000.0),
    }
}

/// A size in the unit that suits it.
pub fn size(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "shown with one decimal")]
    let bytes = bytes as f64;
    match bytes {
        b if b >= 1_048_576.0 => format!("{:.1} MiB", b / 1_048_576.0),
        b if b >= 1024.0 => format!("{:.1} KiB", b / 1024.0),
        b => format!("{b} B"),
    }
}
