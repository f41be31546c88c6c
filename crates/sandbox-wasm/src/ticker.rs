//! Advances the engines' epochs while guests run, so that a guest that computes gives way at each tick.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use wasmtime::EngineWeak;

/// The longest time a guest computes before it gives way.
pub(crate) const TICK: Duration = Duration::from_millis(2);
/// Idle ticks before the thread goes to sleep; waking it costs an invocation a system call.
const IDLE_TICKS_MAX: u32 = 500;

#[derive(Default)]
struct State {
    /// Something began since the last tick. Written once a tick at most, so that all cores can keep it cached.
    active: AtomicBool,
    /// Guests that outlasted their first tick.
    running: AtomicUsize,
    parked: AtomicBool,
    stopped: AtomicBool,
}

/// A thread that ticks while something runs and sleeps when nothing has run for a second.
pub(crate) struct Ticker {
    state: Arc<State>,
    thread: Thread,
    handle: Option<JoinHandle<()>>,
}

/// Keeps the ticker going while it lives.
pub(crate) struct Running<'a>(&'a Ticker);

impl Ticker {
    pub(crate) fn start(engines: Vec<EngineWeak>) -> std::io::Result<Self> {
        let state = Arc::new(State::default());
        let handle = {
            let state = state.clone();
            std::thread::Builder::new()
                .name("wasm-ticker".to_owned())
                .spawn(move || state.tick(&engines))?
        };
        Ok(Self {
            thread: handle.thread().clone(),
            state,
            handle: Some(handle),
        })
    }

    /// Says that a guest begins now: it will see ticks for a second at least.
    pub(crate) fn touch(&self) {
        if self.state.active.load(Ordering::Relaxed) {
            return;
        }
        // Paired with `sleep`: either that sees the mark, or this sees that it sleeps.
        self.state.active.store(true, Ordering::SeqCst);
        if self.state.parked.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
    }

    /// Says that a guest runs until the returned value is dropped.
    pub(crate) fn running(&self) -> Running<'_> {
        self.state.running.fetch_add(1, Ordering::SeqCst);
        self.touch();
        Running(self)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.state.running.fetch_sub(1, Ordering::Release);
    }
}

impl State {
    fn tick(&self, engines: &[EngineWeak]) {
        let mut idle = 0;
        while !self.stopped.load(Ordering::Acquire) {
            std::thread::park_timeout(TICK);
            for engine in engines {
                let Some(engine) = engine.upgrade() else { return };
                engine.increment_epoch();
            }
            let quiet = !self.active.swap(false, Ordering::SeqCst) && self.running.load(Ordering::Relaxed) == 0;
            idle = if quiet { idle + 1 } else { 0 };
            if idle >= IDLE_TICKS_MAX {
                self.sleep();
                idle = 0;
            }
        }
    }

    fn sleep(&self) {
        self.parked.store(true, Ordering::SeqCst);
        while !self.active.load(Ordering::SeqCst) && !self.stopped.load(Ordering::Acquire) {
            std::thread::park();
        }
        self.parked.store(false, Ordering::SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::Release);
        self.thread.unpark();
        if let Some(handle) = self.handle.take() {
            // The thread only panics if the engine does, and then there is nothing left to stop.
            let _ = handle.join();
        }
    }
}
