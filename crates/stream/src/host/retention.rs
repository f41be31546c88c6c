//! Retention: trimming by age and size, and moving cold nodes to blobs.
//!
//! ```text
//!   trim:  directory.trimmed grows  ─▶  nodes wholly under it (and older than any copy) are deleted with the
//!          head that no longer counts them  ─▶  blobs of deleted packs are deleted
//!   tier:  blob put  ─▶  {head} pack put, its nodes deleted   one commit
//! ```
//! Crash points: after the blob is put, it is an orphan that no pack names; after nodes of a pack are
//! trimmed, its blob is. [`Handle::sweep_blobs`] removes orphans; a pack never names a missing blob.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::digest::Digest;
use bowline_store::{CommitError, Condition, Write};
use bytes::BytesMut;

use super::directory::{self, ChangeError, read_head};
use super::maintain::{ago, ask, before, work};
use super::owner::Owner;
use super::queue::{Bounds, Outcome, Queue, Work};
use super::window::Window;
use super::{Handle, Inner, Owned, Stream};
use crate::hybrid::Slot;
use crate::reader::{Trouble, last_node_under};
use crate::record::{ChainState, Directory, Head, Node, Pack, Packed, Stored};
use crate::session::{self, Caller};
use crate::{ChainId, Position, ReadError, Stamp, StreamId, key};

/// Nodes looked at in one step.
const NODES_AT_ONCE: u64 = 128;
/// Most nodes of one pack; with the head and the pack itself they fit into one commit.
const PACKED_MAX: usize = 1000;
/// Most steps of trimming by size in one round.
const STEPS_MAX: usize = 256;

impl Handle {
    /// Gives up all events at or under `until`: readers are told, and their nodes go in time. An audit row tells of it.
    pub async fn trim(&self, caller: &Caller, stream: &StreamId, until: Position) -> Result<(), ReadError> {
        let host = self.inner();
        let found = host.to_read(stream).await?;
        let trimmed = raise_trimmed(&host, &found, until, Some(caller)).await;
        trimmed.map_err(|error| ReadError::Unavailable {
            stream: stream.clone(),
            reason: error.to_string(),
        })
    }

    /// Deletes blobs that no pack names and that were last put longer ago than `older_than`, which must
    /// exceed the time between a blob's put and its commit. The blob store must be that of streams alone.
    pub async fn sweep_blobs(&self, older_than: Duration) -> Result<usize, String> {
        sweep_blobs(&self.inner(), older_than).await
    }
}

/// See [`Handle::sweep_blobs`].
pub(super) async fn sweep_blobs(host: &Inner, older_than: Duration) -> Result<usize, String> {
    let Some(blobs) = &host.blobs else { return Ok(0) };
    let infos = blobs.infos().await.map_err(|error| error.to_string())?;
    let named = named(host).await.map_err(|error| error.to_string())?;
    let now = host.clock.wall().now().as_micros();
    let age = u64::try_from(older_than.as_micros()).unwrap_or(u64::MAX);
    let cutoff = bowline_foundation::clock::Timestamp::from_micros(now.saturating_sub(age));
    let mut deleted = 0;
    for orphan in infos.iter().filter(|info| !named.contains(&info.digest)) {
        let gone = blobs.delete_if_older(&orphan.digest, cutoff).await;
        deleted += usize::from(gone.map_err(|error| error.to_string())?);
    }
    Ok(deleted)
}

/// The blobs that packs name, in all streams.
async fn named(host: &Inner) -> Result<BTreeSet<Digest>, ChangeError> {
    let mut named = BTreeSet::new();
    for (stream, listed) in directory::all(host).await? {
        for chain in &listed.directory.chains {
            let (prefix, mut after) = (key::nodes(stream.id.name(), chain.id), None);
            loop {
                let page = host.store.scan(&prefix, after.as_ref(), NODES_AT_ONCE as usize).await?;
                for (_, entry) in &page {
                    if let Stored::Pack(pack) = Stored::decode(&entry.value)? {
                        named.insert(pack.digest);
                    }
                }
                let Some((last, _)) = page.last() else { break };
                after = Some(last.clone());
            }
        }
    }
    Ok(named)
}

/// One round for a stream: what is too old or too much is given up, nodes go, cold ones move.
pub(super) async fn round(host: &Arc<Inner>, stream: &Arc<Stream>) -> Result<(), ChangeError> {
    let listed = stream.listed().directory;
    let settings = &listed.settings;
    if listed.active().next().is_some_and(|chain| chain.owner == host.id) {
        if let Some(age_max) = settings.age_max {
            trim_by_age(host, stream, ago(host, age_max)).await?;
        }
        if let Some(bytes_max) = settings.bytes_max {
            trim_to_size(host, stream, bytes_max).await?;
        }
    }
    let listed = stream.listed().directory;
    // A later copy of a trimmed event must still find the earlier one.
    let cut = before(listed.trimmed.stamp, host.config.copies_within);
    for chain in listed.chains.iter().filter(|chain| chain.state != ChainState::Pending) {
        if listed.trimmed > Position::START {
            on_chain(host, stream, chain.id, Work::Trim(cut)).await?;
        }
        if let Some(tier_after) = settings.tier_after
            && host.blobs.is_some()
        {
            on_chain(host, stream, chain.id, Work::Tier(ago(host, tier_after))).await?;
        }
    }
    Ok(())
}

/// Has the owner do `work`, if that is us; does it ourselves for a sealed chain.
async fn on_chain(host: &Arc<Inner>, stream: &Arc<Stream>, chain: ChainId, wanted: Work) -> Result<(), ChangeError> {
    if let Some(owned) = stream.owned(chain) {
        ask(&owned, wanted).await;
        return Ok(());
    }
    let (head, version) = read_head(host, stream, chain).await?;
    if !head.is_sealed {
        return Ok(());
    }
    let bounds = Bounds {
        events_max: 0,
        bytes_max: 0,
    };
    let owned = Owned {
        chain,
        slot: Slot::NONE,
        queue: Queue::new(bounds),
        tail: parking_lot::RwLock::new(Arc::new(head.clone())),
    };
    let mut owner = Owner {
        host: Arc::clone(host),
        stream: Arc::clone(stream),
        owned: Arc::new(owned),
        head,
        version,
        window: Window::new(0),
    };
    if let Err(reason) = work(&mut owner, wanted).await {
        tracing::debug!(reason, chain = chain.0, "work on a sealed chain was not done");
    }
    Ok(())
}

/// Notes in the directory that everything at or under `until` is given up, by somebody or by retention.
async fn raise_trimmed(
    host: &Inner,
    stream: &Arc<Stream>,
    until: Position,
    caller: Option<&Caller>,
) -> Result<(), ChangeError> {
    if stream.listed().directory.trimmed >= until {
        return Ok(());
    }
    let _one_at_a_time = stream.changing.lock().await;
    let before = directory::fresh(host, stream).await?;
    let mut listed = Directory::clone(&before.directory);
    listed.trimmed = listed.trimmed.max(until);
    let key = key::directory(stream.id.name());
    let condition = Condition::AtVersion(key.clone(), before.version);
    let mut writes = vec![Write::Put(key, listed.encode())];
    if let Some(caller) = caller {
        let told = (
            Some(before.directory.trimmed.to_string()),
            Some(listed.trimmed.to_string()),
        );
        writes.push(session::audit_row(host, caller, ("TrimStream", &stream.id), told));
    }
    match host.store.commit(vec![condition], writes).await {
        Ok(version) => {
            stream.learn(super::Listed {
                directory: Arc::new(listed),
                version,
            });
            Ok(())
        }
        // The next round reads what came of it.
        Err(CommitError::Unknown(_)) => directory::fresh(host, stream).await.map(|_| ()),
        Err(error) => Err(error.into()),
    }
}

/// Gives up all nodes whose events are at or under `cut`, and what lies before them in other chains.
async fn trim_by_age(host: &Arc<Inner>, stream: &Arc<Stream>, cut: Stamp) -> Result<(), ChangeError> {
    let listed = stream.listed().directory;
    let mut until = Position::START;
    for chain in listed.chains.iter().filter(|chain| chain.state != ChainState::Pending) {
        let head = match stream.owned(chain.id) {
            Some(owned) => owned.head(),
            None => Arc::new(read_head(host, stream, chain.id).await?.0),
        };
        match last_node_under(host, stream, (chain.id, &head), cut).await {
            Ok(Some(last)) => until = until.max(Position::before(last.next())),
            // Trimmed under us: the next round sees what is left.
            Ok(None) | Err(Trouble::Stale | Trouble::Gone) => {}
            Err(Trouble::Unavailable(reason)) => return Err(ChangeError::Unavailable(reason)),
            Err(Trouble::Damaged(reason)) => return Err(ChangeError::Damaged(reason)),
        }
    }
    raise_trimmed(host, stream, until, None).await
}

/// Gives up the oldest nodes of all chains until the rest is small enough.
async fn trim_to_size(host: &Arc<Inner>, stream: &Arc<Stream>, bytes_max: u64) -> Result<(), ChangeError> {
    let listed = stream.listed().directory;
    let mut chains: Vec<(ChainId, Head, u64)> = Vec::new();
    for chain in listed.chains.iter().filter(|chain| chain.state != ChainState::Pending) {
        let (head, _) = read_head(host, stream, chain.id).await?;
        let first = head.first_node;
        chains.push((chain.id, head, first));
    }
    let mut bytes: u64 = chains.iter().map(|(_, head, _)| head.node_bytes).sum();
    let mut until = Position::START;
    for _ in 0..STEPS_MAX {
        if bytes <= bytes_max {
            break;
        }
        let mut oldest: Option<(usize, u64, Stored)> = None;
        for (at, (chain, head, next)) in chains.iter().enumerate() {
            if *next >= head.next_node {
                continue;
            }
            let Some((number, stored)) = first_from(host, stream, *chain, *next).await? else {
                continue;
            };
            if oldest
                .as_ref()
                .is_none_or(|(_, _, other)| stored.last_stamp() < other.last_stamp())
            {
                oldest = Some((at, number, stored));
            }
        }
        let Some((at, number, stored)) = oldest else { break };
        chains[at].2 = number + 1;
        bytes = bytes.saturating_sub(stored.bytes());
        until = until.max(Position::before(stored.last_stamp().next()));
    }
    raise_trimmed(host, stream, until, None).await
}

async fn first_from(
    host: &Inner,
    stream: &Stream,
    chain: ChainId,
    number: u64,
) -> Result<Option<(u64, Stored)>, ChangeError> {
    let name = stream.id.name();
    let after = number.checked_sub(1).map(|before| key::node(name, chain, before));
    let found = host.store.scan(&key::nodes(name, chain), after.as_ref(), 1).await?;
    let Some((key, entry)) = found.into_iter().next() else {
        return Ok(None);
    };
    let number = key::node_number(&key).ok_or_else(|| ChangeError::Damaged("a node's key is short".to_owned()))?;
    Ok(Some((number, Stored::decode(&entry.value)?)))
}

/// Deletes nodes whose events are all at or under `cut`.
pub(super) async fn trim(owner: &mut Owner, cut: Stamp) -> Outcome {
    let mut is_done = false;
    loop {
        let (name, chain) = (owner.stream.id.name().to_owned(), owner.owned.chain);
        let mut head = owner.head.clone();
        let until = head.next_node.min(head.first_node + NODES_AT_ONCE);
        let (mut writes, mut blobs) = (Vec::new(), Vec::new());
        for (number, stored) in owner.nodes(head.first_node, until).await? {
            if stored.last_stamp() > cut {
                break;
            }
            head.first_node = number + 1;
            head.node_bytes = head.node_bytes.saturating_sub(stored.bytes());
            writes.push(Write::Delete(key::node(&name, chain, number)));
            if let Stored::Pack(pack) = stored {
                blobs.push(pack.digest);
            }
        }
        if writes.is_empty() {
            return Ok(is_done);
        }
        let version = owner
            .write(&head, Vec::new(), writes)
            .await
            .map_err(|fate| fate.to_string())?;
        owner.become_head(head, version);
        is_done = true;
        if let Some(store) = &owner.host.blobs {
            for digest in blobs {
                // A blob that stays is an orphan, which the sweep removes.
                let _ = store.delete(&digest).await;
            }
        }
    }
}

/// Moves the oldest nodes that are wholly at or under `cut` to one blob.
pub(super) async fn tier(owner: &mut Owner, cut: Stamp) -> Outcome {
    let Some(blobs) = owner.host.blobs.clone() else {
        return Ok(false);
    };
    let cold = cold_nodes(owner, cut).await?;
    if cold.len() < 2 {
        return Ok(false);
    }
    let (mut bytes, mut nodes) = (BytesMut::new(), Vec::new());
    for (_, node) in &cold {
        let encoded = node.encode();
        let at = |length: usize| u32::try_from(length).expect("packs are bounded");
        nodes.push(Packed {
            offset: at(bytes.len()),
            length: at(encoded.len()),
        });
        bytes.extend_from_slice(&encoded);
    }
    let digest = blobs.put(bytes.freeze()).await.map_err(|error| error.to_string())?;
    let (first, last) = (&cold[0], &cold[cold.len() - 1]);
    let pack = Pack {
        first_number: first.0,
        digest,
        nodes,
        first_stamp: first.1.first_stamp,
        last_stamp: last.1.last_stamp,
        first_index: first.1.first_index,
    };
    let (name, chain) = (owner.stream.id.name().to_owned(), owner.owned.chain);
    let replaced = cold[..cold.len() - 1].iter();
    let mut writes: Vec<Write> = replaced
        .map(|(number, _)| Write::Delete(key::node(&name, chain, *number)))
        .collect();
    writes.push(Write::Put(key::node(&name, chain, last.0), pack.encode()));
    let head = owner.head.clone();
    let version = owner
        .write(&head, Vec::new(), writes)
        .await
        .map_err(|fate| fate.to_string())?;
    owner.become_head(head, version);
    Ok(true)
}

/// The first nodes that follow each other, are not packed yet and are old enough, up to a pack's size.
async fn cold_nodes(owner: &Owner, cut: Stamp) -> Result<Vec<(u64, Node)>, String> {
    let (mut cold, mut bytes) = (Vec::new(), 0);
    let mut from = owner.head.first_node;
    while from < owner.head.next_node {
        let page = owner
            .nodes(from, owner.head.next_node.min(from + NODES_AT_ONCE))
            .await?;
        let Some(&(last, _)) = page.last() else { break };
        from = last + 1;
        for (number, stored) in page {
            let Stored::Node(node) = stored else { continue };
            bytes += usize::try_from(node.bytes()).unwrap_or(usize::MAX);
            let is_full = bytes > owner.host.config.pack_bytes_max || cold.len() >= PACKED_MAX;
            if node.last_stamp > cut || (is_full && !cold.is_empty()) {
                return Ok(cold);
            }
            cold.push((number, node));
        }
    }
    Ok(cold)
}
