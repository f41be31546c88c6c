//! A request's work that outlives its connection.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// A future that, dropped before its end, runs on as a task of its own: a client that hangs up neither
/// cancels an invocation nor leaves a change half done. Costs nothing while the client stays.
pub struct Detach<F: Future + Send + 'static>
where
    F::Output: Send,
{
    running: Option<Pin<Box<F>>>,
    /// Tells the server that something still runs; none if the work is to end with its connection.
    alive: Option<mpsc::Sender<()>>,
}

impl<F: Future + Send + 'static> Detach<F>
where
    F::Output: Send,
{
    /// Without `alive` the work ends where it stands when the client hangs up.
    pub fn new(future: Pin<Box<F>>, alive: Option<mpsc::Sender<()>>) -> Self {
        Self {
            running: Some(future),
            alive,
        }
    }
}

impl<F: Future + Send + 'static> Future for Detach<F>
where
    F::Output: Send,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let running = self.running.as_mut().expect("not polled after its end");
        let output = ready!(running.as_mut().poll(context));
        self.running = None;
        Poll::Ready(output)
    }
}

impl<F: Future + Send + 'static> Drop for Detach<F>
where
    F::Output: Send,
{
    fn drop(&mut self) {
        let parts = (self.running.take(), self.alive.take(), Handle::try_current());
        if let (Some(running), Some(alive), Ok(runtime)) = parts {
            runtime.spawn(async move {
                running.await;
                drop(alive);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_dropped_future_runs_on_and_keeps_the_server_alive() {
        let (go, gate) = oneshot::channel::<()>();
        let (done, result) = oneshot::channel();
        let (alive, mut ended) = mpsc::channel(1);
        let work = async move {
            gate.await.expect("the gate opens");
            done.send(7).expect("the test waits");
        };
        let mut detached = Box::pin(Detach::new(Box::pin(work), Some(alive)));
        let mut context = Context::from_waker(Waker::noop());
        assert!(detached.as_mut().poll(&mut context).is_pending());
        drop(detached);
        assert_eq!(ended.try_recv(), Err(mpsc::error::TryRecvError::Empty));
        go.send(()).expect("the work waits");
        assert_eq!(result.await, Ok(7));
        assert_eq!(ended.recv().await, None);
    }

    #[tokio::test]
    async fn a_finished_future_leaves_nothing() {
        let (alive, mut ended) = mpsc::channel(1);
        assert_eq!(Detach::new(Box::pin(async { 3 }), Some(alive)).await, 3);
        assert_eq!(ended.recv().await, None);
    }

    #[tokio::test]
    async fn work_that_only_waits_ends_with_its_client() {
        let (held, mut ended) = mpsc::channel::<()>(1);
        let work = async move {
            std::future::pending::<()>().await;
            drop(held);
        };
        drop(Detach::new(Box::pin(work), None));
        assert_eq!(ended.recv().await, None, "all that the work held is free");
    }
}
