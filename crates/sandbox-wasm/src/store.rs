//! Stores: the world of one instance, with its limits and its place in the epochs.

use wasmtime::{Engine, Store};

use crate::guest::Guest;

/// A store for a core module's instance.
pub(crate) fn new(engine: &Engine, guest: Guest) -> Store<Guest> {
    let mut store = Store::new(engine, guest);
    store.limiter(|guest| &mut guest.limits);
    give_way_at_ticks(&mut store);
    store
}

/// Makes whatever runs in `store` give way at each tick.
pub(crate) fn give_way_at_ticks<T: 'static>(store: &mut Store<T>) {
    store.epoch_deadline_async_yield_and_update(1);
    rearm(store);
}

/// Gives the guest a whole tick from now; ticks went by while it was idle.
pub(crate) fn rearm<T: 'static>(store: &mut Store<T>) {
    store.set_epoch_deadline(2);
}
