//! Invocations that leave their channel before the machine is saved, and get another one when it goes on.
//!
//! ```text
//!   node: Part ─▶ control ── nothing else runs ──▶ the invocation's place: Parted, closes its channel ─▶ control: Parted
//!                        └── something does ─────▶ NotParted: all goes on
//!   later: Hello with a greater epoch ─▶ Attach ─▶ the place goes on with the new channel
//! ```

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Shared;
use crate::message::Attach;
use crate::wire::Framed;

/// How long a place may take to write what it has queued.
const PART_MAX: Duration = Duration::from_secs(10);

/// The way to a place that has parted: its next channel, of this epoch.
pub(super) type Back = oneshot::Sender<(Framed, u64)>;

/// What an invocation that runs is told: to part, and to whom it gives the way back.
pub(super) type Told = oneshot::Receiver<oneshot::Sender<Back>>;

/// Invocations by their request ids.
#[derive(Default)]
pub(super) struct Runs {
    running: HashMap<String, oneshot::Sender<oneshot::Sender<Back>>>,
    parted: HashMap<String, Back>,
    /// One is parting, or has: no other one begins until it is attached.
    parting: bool,
}

/// An invocation that counts among those that run, until this is dropped.
pub(super) struct Running {
    shared: Arc<Shared>,
    run: String,
}

impl Running {
    /// Whether it is to part is told so.
    pub(super) fn told(&self) -> Told {
        let (tell, told) = oneshot::channel();
        self.shared.runs.lock().running.insert(self.run.clone(), tell);
        told
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.runs.lock().running.remove(&self.run);
    }
}

impl Shared {
    /// Counts an invocation in.
    pub(super) fn begins(self: &Arc<Self>, run: String) -> io::Result<(Running, Told)> {
        let (tell, told) = oneshot::channel();
        let mut runs = self.runs.lock();
        if runs.parting {
            return Err(io::Error::other("the machine is about to be saved"));
        }
        runs.running.insert(run.clone(), tell);
        drop(runs);
        let shared = self.clone();
        Ok((Running { shared, run }, told))
    }

    /// Takes the only invocation that runs here off its channel; or says why not, and nothing has changed then.
    pub(super) async fn part(&self, run: &str) -> Result<(), String> {
        let tell = self.choose_to_part(run)?;
        let (back, parted) = oneshot::channel();
        let has_parted = async {
            tell.send(back).ok()?;
            parted.await.ok()
        };
        let way = timeout(PART_MAX, has_parted).await;
        let mut runs = self.runs.lock();
        let Ok(Some(way)) = way else {
            runs.parting = false;
            return Err("it has just ended, or does not leave its channel".to_owned());
        };
        runs.parted.insert(run.to_owned(), way);
        drop(runs);
        // Until the next node comes there is none to wait for.
        self.lease_micros.store(u64::MAX, Ordering::Release);
        Ok(())
    }

    fn choose_to_part(&self, run: &str) -> Result<oneshot::Sender<oneshot::Sender<Back>>, String> {
        let mut runs = self.runs.lock();
        let mut others: Vec<&str> = runs
            .running
            .keys()
            .map(String::as_str)
            .filter(|one| *one != run)
            .collect();
        if !others.is_empty() {
            others.sort_unstable();
            let others = others.join("`, `");
            return Err(format!("its virtual machine runs other invocations too: `{others}`"));
        }
        let tell = runs.running.remove(run);
        let tell = tell.ok_or("it does not run there, or has just ended")?;
        runs.parting = true;
        Ok(tell)
    }

    /// Gives an invocation that has parted its next channel.
    pub(super) fn attach(&self, attach: &Attach, framed: Framed) -> io::Result<()> {
        let mut runs = self.runs.lock();
        runs.parting = false;
        let way = runs.parted.remove(&attach.run);
        drop(runs);
        let way = way.ok_or_else(|| io::Error::other("no such invocation has parted here"))?;
        let attached = way.send((framed, attach.epoch));
        attached.map_err(|_| io::Error::other("the invocation that had parted is gone"))
    }
}

#[cfg(test)]
mod tests;
