//! Wakes that a task gives itself while it is polled, answered in place.
//!
//! A connection and its request's work are one task, and they talk through channels: taking the body
//! wakes the reader of the socket, which is the task that runs. The scheduler answers such a wake by
//! queueing the task anew and waking another thread to help with it, twice a request. Here the task
//! is polled again at once instead; a wake that comes from elsewhere goes the ordinary way.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// Polls in a row, so that a task that wakes itself without end gives way to others.
const PASSES_MAX: u32 = 16;

const IDLE: u8 = 0;
const POLLED: u8 = 1;
const WOKEN: u8 = 2;

/// A future that is polled until it waits for something that is not its own doing.
pub struct Settle<F> {
    future: Pin<Box<F>>,
    bell: Arc<Bell>,
    waker: Waker,
}

#[derive(Default)]
struct Bell {
    state: AtomicU8,
    task: AtomicWaker,
}

impl Bell {
    fn ring(&self) {
        let rung = self
            .state
            .compare_exchange(POLLED, WOKEN, Ordering::AcqRel, Ordering::Acquire);
        if rung == Err(IDLE) {
            self.task.wake();
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

impl<F: Future> Settle<F> {
    pub fn new(future: F) -> Self {
        let bell = Arc::new(Bell::default());
        Self {
            future: Box::pin(future),
            waker: Waker::from(Arc::clone(&bell)),
            bell,
        }
    }
}

impl<F: Future> Future for Settle<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        this.bell.task.register(context.waker());
        let mut own = Context::from_waker(&this.waker);
        for _ in 0..PASSES_MAX {
            this.bell.state.store(POLLED, Ordering::Release);
            let polled = this.future.as_mut().poll(&mut own);
            let woken = this.bell.state.swap(IDLE, Ordering::AcqRel) == WOKEN;
            if polled.is_ready() || !woken {
                return polled;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    /// Counts how often the task is woken.
    #[derive(Default)]
    struct Task(AtomicU32);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Wakes itself `wakes` times, a poll each, then waits for ever; hands its waker out.
    fn waking_itself(wakes: u32, polls: Arc<AtomicU32>, outside: Arc<AtomicWaker>) -> impl Future<Output = ()> {
        std::future::poll_fn(move |context| {
            outside.register(context.waker());
            if polls.fetch_add(1, Ordering::SeqCst) < wakes {
                context.waker().wake_by_ref();
            }
            Poll::Pending
        })
    }

    /// Polls once; returns how often the future was polled and the task woken.
    fn check(wakes: u32, outside_wakes: u32, expected: (u32, u32)) {
        let (task, polls, outside) = (Arc::<Task>::default(), Arc::<AtomicU32>::default(), Arc::default());
        let mut settle = Settle::new(waking_itself(wakes, Arc::clone(&polls), Arc::clone(&outside)));
        let waker = Waker::from(Arc::clone(&task));
        let polled = Pin::new(&mut settle).poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
        for _ in 0..outside_wakes {
            outside.wake();
        }
        let seen = (polls.load(Ordering::SeqCst), task.0.load(Ordering::SeqCst));
        assert_eq!(seen, expected, "{wakes} wakes of its own, {outside_wakes} from outside");
    }

    #[test]
    fn its_own_wakes_are_answered_in_place_and_others_wake_the_task() {
        check(0, 0, (1, 0));
        check(2, 0, (3, 0));
        check(0, 1, (1, 1));
        check(2, 1, (3, 1));
    }

    #[test]
    fn a_task_that_wakes_itself_without_end_gives_way() {
        check(u32::MAX, 0, (PASSES_MAX, 1));
    }
}
