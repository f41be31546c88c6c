//! The header timeout's timer: one sleep a connection, moved from request to request.
//!
//! hyper asks for a new sleep for each request's head and drops it when the head has come. A sleep of
//! the runtime costs two turns of a lock each time; moving one that exists to a later moment costs none.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};

type Shared = Arc<Mutex<Pin<Box<tokio::time::Sleep>>>>;

/// A timer whose sleeps are one sleep underneath; only the newest is ever waited for.
#[derive(Clone, Debug, Default)]
pub struct ConnectionTimer(Arc<Mutex<Option<Shared>>>);

struct MovedSleep(Shared);

impl Timer for ConnectionTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = match &*slot {
            Some(shared) => {
                reset(shared, deadline);
                Arc::clone(shared)
            }
            None => {
                let sleep = tokio::time::sleep_until(deadline.into());
                let shared = Arc::new(Mutex::new(Box::pin(sleep)));
                *slot = Some(Arc::clone(&shared));
                shared
            }
        };
        Box::pin(MovedSleep(shared))
    }
}

fn reset(shared: &Shared, deadline: Instant) {
    let mut sleep = shared.lock().unwrap_or_else(PoisonError::into_inner);
    sleep.as_mut().reset(deadline.into());
}

impl Future for MovedSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut sleep = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sleep.as_mut().poll(context)
    }
}

impl Sleep for MovedSleep {}
