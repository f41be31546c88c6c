//! The truth about functions: durable records in the store, and a snapshot of them in memory.
//!
//! ```text
//!   operation ──▶ one commit: record(s) + audit row, on version conditions ──▶ snapshot entry replaced
//!   invocation ──▶ snapshot (no lock, no store)
//! ```
//! The commit is what decides. The snapshot changes after it and never without it; a start loads it anew.

mod access_keys;
mod commit;
mod entry;
mod identity;
mod images;
mod keys;
mod layers;
mod leases;
mod load;
mod mappings;
mod outbox;
mod record;
mod snapshot;

pub use access_keys::{AccessKeyError, AccessKeys};
pub(crate) use commit::{Audit, Change};
pub(crate) use entry::{AliasEntry, AttachedEntry, EventInvokeEntry, FunctionEntry, PolicyEntry, VersionEntry};
pub(crate) use images::ImageEntry;
pub(crate) use layers::{LayerEntry, LayerVersionEntry};
pub(crate) use load::{LoadError, Loaded};
pub(crate) use mappings::MappingEntry;
pub(crate) use snapshot::{Snapshot, fold};

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bowline_foundation::clock::Clock;
use bowline_store::{Sharing, Store};

/// The store with the snapshot of it.
pub(crate) struct Registry {
    store: Arc<dyn Store>,
    clock: Clock,
    pub sharing: Sharing,
    pub snapshot: Snapshot,
    pub mappings: mappings::Mappings,
    pub layers: layers::Layers,
    pub images: images::Images,
    /// Whether audit rows go into a stream too.
    publishes: bool,
    /// Told of rows for the stream.
    pub outbox_news: tokio::sync::Notify,
    /// Keeps the keys of two audit rows of one microsecond apart.
    audit_rows: AtomicU64,
}
