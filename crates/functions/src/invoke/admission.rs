//! Who may run now: limits of an account and of a function, counted without locks.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use bowline_foundation::id::AccountId;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::provision::Lane;
use crate::error::Throttle;
use crate::logs::FunctionLog;

/// What an account runs without a reservation.
pub(crate) struct AccountLive {
    unreserved_max: AtomicU32,
    running: AtomicU32,
}

/// All accounts seen so far.
pub(crate) struct Accounts {
    concurrency_max: u32,
    accounts: Mutex<HashMap<AccountId, Arc<AccountLive>>>,
}

impl Accounts {
    pub fn new(concurrency_max: u32) -> Self {
        Self {
            concurrency_max,
            accounts: Mutex::default(),
        }
    }

    pub fn get(&self, account: &AccountId) -> Arc<AccountLive> {
        let fresh = || {
            Arc::new(AccountLive {
                unreserved_max: AtomicU32::new(self.concurrency_max),
                running: AtomicU32::new(0),
            })
        };
        self.accounts
            .lock()
            .entry(account.clone())
            .or_insert_with(fresh)
            .clone()
    }

    /// What functions without a reservation share, once `reserved` is taken off.
    pub fn unreserved(&self, reserved: u32) -> u32 {
        self.concurrency_max.saturating_sub(reserved)
    }

    /// Says how much is reserved in the account.
    pub fn set_reserved(&self, account: &AccountId, reserved: u32) {
        self.get(account)
            .unreserved_max
            .store(self.unreserved(reserved), Ordering::Relaxed);
    }
}

/// What lives as long as a function and is not durable.
pub(crate) struct FunctionLive {
    pub account: Arc<AccountLive>,
    pub log: Arc<FunctionLog>,
    /// Bumped whenever the function's snapshot entry is replaced or removed.
    pub changes: watch::Sender<u64>,
    /// Whether shared state is attached to it.
    pub has_state: AtomicBool,
    running: AtomicU32,
}

impl FunctionLive {
    pub fn new(account: Arc<AccountLive>, log: Arc<FunctionLog>) -> Arc<Self> {
        Arc::new(Self {
            account,
            log,
            changes: watch::Sender::new(0),
            has_state: AtomicBool::new(false),
            running: AtomicU32::new(0),
        })
    }

    /// Lets an invocation in, or says which limit it would pass. What is provisioned for its version is used
    /// before what all functions share.
    pub fn admit(self: &Arc<Self>, reserved: Option<u32>, lane: &Arc<Lane>) -> Result<Admission, Throttle> {
        if reserved.is_none() && lane.enter() {
            return Ok(Admission {
                function: self.clone(),
                counted: Counted::Lane(lane.clone()),
            });
        }
        let (counter, max, throttle) = match reserved {
            Some(max) => (&self.running, max, Throttle::ReservedConcurrency),
            None => (
                &self.account.running,
                self.account.unreserved_max.load(Ordering::Relaxed),
                Throttle::AccountConcurrency,
            ),
        };
        if counter.fetch_add(1, Ordering::AcqRel) >= max {
            counter.fetch_sub(1, Ordering::AcqRel);
            return Err(throttle);
        }
        Ok(Admission {
            function: self.clone(),
            counted: match reserved {
                Some(_) => Counted::Function,
                None => Counted::Account,
            },
        })
    }
}

/// The right to run one invocation; given back when dropped.
pub(crate) struct Admission {
    function: Arc<FunctionLive>,
    counted: Counted,
}

/// Where an invocation is counted.
enum Counted {
    Account,
    Function,
    Lane(Arc<Lane>),
}

impl Drop for Admission {
    fn drop(&mut self) {
        let counter = match &self.counted {
            Counted::Account => &self.function.account.running,
            Counted::Function => &self.function.running,
            Counted::Lane(lane) => return lane.leave(),
        };
        counter.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Invocations of the whole node, so that a stop can wait for them.
#[derive(Default)]
pub(crate) struct Running {
    count: AtomicUsize,
    closing: AtomicBool,
    ended: Notify,
}

impl Running {
    /// Counts an invocation in; `None` once the node stops.
    pub fn enter(self: &Arc<Self>) -> Option<Entered> {
        let entered = Entered(self.clone());
        self.count.fetch_add(1, Ordering::SeqCst);
        (!self.closing.load(Ordering::SeqCst)).then_some(entered)
    }

    /// How many are inside.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// Lets nobody in any more and waits until nobody is inside.
    pub async fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        loop {
            let ended = self.ended.notified();
            if self.count.load(Ordering::SeqCst) == 0 {
                return;
            }
            ended.await;
        }
    }
}

/// An invocation that is inside; counted out when dropped.
pub(crate) struct Entered(Arc<Running>);

impl Drop for Entered {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::SeqCst) == 1 && self.0.is_closing() {
            self.0.ended.notify_waiters();
        }
    }
}
