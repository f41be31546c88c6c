//! Waiting that ends when the guest is asked to stop.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Ends the waits of one guest. Clones end those of the same one.
#[derive(Clone, Default)]
pub struct Interrupt(Arc<(Mutex<bool>, Condvar)>);

impl Interrupt {
    /// Ends the wait that is under way, and every later one until it is lowered.
    pub fn raise(&self) {
        let (raised, wake) = &*self.0;
        *raised.lock() = true;
        wake.notify_all();
    }

    /// Lets later waits last again.
    pub fn lower(&self) {
        *self.0.0.lock() = false;
    }

    /// Whether it was raised.
    pub fn is_raised(&self) -> bool {
        *self.0.0.lock()
    }

    /// Waits; false if it was raised before the time was over.
    pub fn wait(&self, time: Duration) -> bool {
        let (raised, wake) = &*self.0;
        let mut raised = raised.lock();
        let result = wake.wait_while_for(&mut raised, |raised| !*raised, time);
        result.timed_out()
    }
}
