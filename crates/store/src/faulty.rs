//! A wrapper that makes any store fail in every way the contract allows, by script or by seed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bowline_foundation::entropy::Entropy;
use parking_lot::Mutex;

use crate::{CommitError, Condition, Entry, Key, ReadError, Store, Version, Write};

/// One way for a call to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call fails and nothing is applied.
    FailBefore,
    /// A commit is carried out, but its answer is lost; a read fails.
    LoseReply,
    /// A commit is not carried out, and nobody says so; a read fails.
    LoseRequest,
    /// The call takes this much longer.
    Delay(Duration),
    /// The call works as ever; in a script, a place holder before the next fault.
    None,
}

/// How often calls go wrong by themselves, each a probability in `0..=1`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FaultRates {
    pub fail_before: f64,
    pub lose_reply: f64,
    pub delay: f64,
    /// The longest delay; each is drawn evenly up to it.
    pub delay_max: Duration,
}

/// A store that fails on purpose. What it lets through has the contract of the store inside.
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    rates: FaultRates,
    entropy: Entropy,
    script: Mutex<VecDeque<Fault>>,
    away: AtomicBool,
}

impl FaultyStore {
    /// Wraps `inner`; the same seed of `entropy` and the same calls give the same faults.
    pub fn new(inner: Arc<dyn Store>, rates: FaultRates, entropy: Entropy) -> Self {
        Self {
            inner,
            rates,
            entropy,
            script: Mutex::default(),
            away: AtomicBool::new(false),
        }
    }

    /// Has the next calls go wrong in this order, one fault a call, before chance decides again.
    pub fn script(&self, faults: impl IntoIterator<Item = Fault>) {
        self.script.lock().extend(faults);
    }

    /// From now on every call fails, as if the store could not be reached.
    pub fn go_away(&self) {
        self.away.store(true, Ordering::Release);
    }

    /// Ends [`FaultyStore::go_away`].
    pub fn come_back(&self) {
        self.away.store(false, Ordering::Release);
    }

    /// The fault of the next call; waits for a delay. None if the store is away.
    async fn next_fault(&self) -> Option<Fault> {
        if self.away.load(Ordering::Acquire) {
            return None;
        }
        let scripted = self.script.lock().pop_front();
        let fault = scripted.unwrap_or_else(|| self.draw());
        if let Fault::Delay(time) = fault {
            tokio::time::sleep(time).await;
        }
        // It may have gone while the call was on its way.
        (!self.away.load(Ordering::Acquire)).then_some(fault)
    }

    fn draw(&self) -> Fault {
        let mut chance = self.entropy.unit();
        let mut within = |rate: f64| {
            chance -= rate;
            chance < 0.0
        };
        if within(self.rates.fail_before) {
            Fault::FailBefore
        } else if within(self.rates.lose_reply) {
            Fault::LoseReply
        } else if within(self.rates.delay) {
            Fault::Delay(self.rates.delay_max.mul_f64(self.entropy.unit()))
        } else {
            Fault::None
        }
    }

    async fn before_read(&self) -> Result<(), ReadError> {
        match self.next_fault().await {
            None => Err(ReadError::Unavailable("the store has gone away".to_owned())),
            Some(Fault::FailBefore | Fault::LoseReply | Fault::LoseRequest) => {
                Err(ReadError::Unavailable("injected fault".to_owned()))
            }
            Some(Fault::Delay(_) | Fault::None) => Ok(()),
        }
    }
}

#[async_trait]
impl Store for FaultyStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, ReadError> {
        self.before_read().await?;
        self.inner.get(key).await
    }

    async fn scan(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, Entry)>, ReadError> {
        self.before_read().await?;
        self.inner.scan(prefix, after, limit).await
    }

    async fn commit(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> Result<Version, CommitError> {
        match self.next_fault().await {
            None => Err(CommitError::Unavailable("the store has gone away".to_owned())),
            Some(Fault::FailBefore) => Err(CommitError::Unavailable("injected fault".to_owned())),
            Some(Fault::LoseReply) => {
                // Whatever the answer was, a conflict too, the caller does not hear it.
                let _ = self.inner.commit(conditions, writes).await;
                Err(CommitError::Unknown("injected loss of the reply".to_owned()))
            }
            Some(Fault::LoseRequest) => Err(CommitError::Unknown("injected loss of the request".to_owned())),
            Some(Fault::Delay(_) | Fault::None) => self.inner.commit(conditions, writes).await,
        }
    }
}
