//! Changes of a stream's directory: chains are registered, activated, adopted and sealed.
//!
//! ```text
//!   (none) ──register──▶ Pending ──activate──▶ Active ──seal──▶ Sealed
//!                          │ owner dead          │ owner dead
//!                          └──▶ removed          └──▶ Active with another owner and the next epoch
//! ```
//! Each arrow is one commit of the directory and the chain's head, on the condition of both versions and of
//! the actor's member record. Registration takes two of them because the floor of a new chain must be read
//! after every reader can see that the chain is coming: a reader that saw no pending chain after it had
//! collected its tails has a safe time at or under that floor.

use std::collections::BTreeSet;
use std::sync::Arc;

use bowline_store::{CommitError, Condition, ReadError, Version, Write};
use parking_lot::RwLock;

use super::owner::Owner;
use super::queue::{Bounds, Queue};
use super::window::Window;
use super::{Inner, Listed, Owned, Stream, lease};
use crate::record::{ChainInfo, ChainState, Damaged, Directory, Head, MemberState};
use crate::{ChainId, HostId, Stamp, StreamId, key};

/// Streams that are listed at once.
const STREAMS_AT_ONCE: usize = 256;
/// Heads that are read at once.
const HEADS_AT_ONCE: usize = 512;

/// Why a directory was not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    #[error("somebody else changed it first")]
    Raced,
    #[error("the store cannot be reached: {0}")]
    Unavailable(String),
    #[error("what is stored is damaged: {0}")]
    Damaged(String),
}

impl From<ReadError> for ChangeError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Unavailable(reason) => Self::Unavailable(reason),
            ReadError::Damaged(reason) => Self::Damaged(reason),
        }
    }
}

impl From<CommitError> for ChangeError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Conflict(_) => Self::Raced,
            error => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<Damaged> for ChangeError {
    fn from(damaged: Damaged) -> Self {
        Self::Damaged(damaged.to_string())
    }
}

impl From<lease::StartError> for ChangeError {
    fn from(error: lease::StartError) -> Self {
        match error {
            lease::StartError::Read(error) => error.into(),
            lease::StartError::Commit(error) => error.into(),
            lease::StartError::Damaged(reason) => Self::Damaged(reason),
        }
    }
}

/// A known stream's directory as it is stored now; none if the stream is no more.
pub(crate) async fn current(host: &Inner, stream: &Arc<Stream>) -> Result<Option<Listed>, ReadError> {
    let found = read(host, stream.id.name()).await?;
    match found.filter(|found| stream.is(&found.directory)) {
        Some(listed) => {
            stream.learn(listed.clone());
            Ok(Some(listed))
        }
        None => {
            host.forget(stream);
            Ok(None)
        }
    }
}

/// Reads a directory.
pub(super) async fn read(host: &Inner, name: &str) -> Result<Option<Listed>, ReadError> {
    let found = host.store.get(&key::directory(name)).await?;
    found
        .map(|entry| {
            Ok(Listed {
                directory: Arc::new(decode(&entry.value)?),
                version: entry.version,
            })
        })
        .transpose()
}

fn decode(value: &bytes::Bytes) -> Result<Directory, ReadError> {
    Directory::decode(value).map_err(|error| ReadError::Damaged(error.to_string()))
}

/// All streams with their directories, freshly read. Known ones that are no more are forgotten.
pub(super) async fn all(host: &Inner) -> Result<Vec<(Arc<Stream>, Listed)>, ReadError> {
    // One that is made meanwhile is not among these.
    let known = host.streams();
    let streams = scan_all(host).await?;
    let is_there = |known: &Arc<Stream>| streams.iter().any(|(there, _)| there.id.name() == known.id.name());
    known
        .iter()
        .filter(|known| !is_there(known))
        .for_each(|gone| host.forget(gone));
    Ok(streams)
}

async fn scan_all(host: &Inner) -> Result<Vec<(Arc<Stream>, Listed)>, ReadError> {
    let (prefix, mut after, mut streams) = (key::directories(), None, Vec::new());
    loop {
        let page = host.store.scan(&prefix, after.as_ref(), STREAMS_AT_ONCE).await?;
        for (key, entry) in &page {
            let damaged = |error: String| ReadError::Damaged(error);
            let name = std::str::from_utf8(&key[prefix.len()..]).map_err(|error| damaged(error.to_string()))?;
            let directory = decode(&entry.value)?;
            let id = StreamId::new(name, directory.chains_at_first).map_err(|error| damaged(error.to_string()))?;
            let listed = Listed {
                directory: Arc::new(directory),
                version: entry.version,
            };
            streams.push((host.meet(id, listed.clone()), listed));
        }
        if page.len() < STREAMS_AT_ONCE {
            return Ok(streams);
        }
        after = page.last().map(|(key, _)| key.clone());
    }
}

/// Reads a chain's head.
pub(crate) async fn read_head(host: &Inner, stream: &Stream, chain: ChainId) -> Result<(Head, Version), ChangeError> {
    let found = host.store.get(&key::head(stream.id.name(), chain)).await?;
    let entry = found.ok_or_else(|| ChangeError::Damaged(format!("chain `{}` has no head", chain.0)))?;
    Ok((Head::decode(&entry.value)?, entry.version))
}

/// All heads of a stream, as of one moment.
pub(crate) async fn read_heads(host: &Inner, stream: &Stream) -> Result<Vec<(ChainId, Head)>, crate::reader::Trouble> {
    let (name, mut after, mut heads) = (stream.id.name(), None, Vec::new());
    loop {
        let page = host
            .store
            .scan(&key::heads(name), after.as_ref(), HEADS_AT_ONCE)
            .await?;
        for (key, entry) in &page {
            if let Some(chain) = key::chain_of(name, key) {
                heads.push((chain, Head::decode(&entry.value)?));
            }
        }
        if page.len() < HEADS_AT_ONCE {
            return Ok(heads);
        }
        after = page.last().map(|(key, _)| key.clone());
    }
}

/// Starts the owner of a chain whose head this host has just written.
pub(super) fn own(host: &Arc<Inner>, stream: &Arc<Stream>, chain: ChainId, (head, version): (Head, Version)) {
    let owned = Arc::new(Owned {
        chain,
        slot: host.clock.slot(&stream.id),
        queue: Queue::new(Bounds {
            events_max: host.config.queue_events_max,
            bytes_max: host.config.queue_bytes_max,
        }),
        tail: RwLock::new(Arc::new(head.clone())),
    });
    stream.own(Arc::clone(&owned));
    let owner = Owner {
        host: Arc::clone(host),
        stream: Arc::clone(stream),
        owned,
        head,
        version,
        window: Window::new(host.config.dedup_events),
    };
    host.spawn(owner.run());
}

/// What one commit changes: the directory, and a chain's head.
pub(super) struct Change {
    pub directory: Directory,
    pub chain: ChainId,
    /// The head to be written, and what it replaces.
    pub head: Head,
    pub over: Option<Version>,
}

/// Commits a change; finds out how it ended if the store does not say.
pub(super) async fn commit(
    host: &Inner,
    stream: &Stream,
    before: &Listed,
    change: &Change,
) -> Result<Version, ChangeError> {
    let name = stream.id.name();
    let (directory_key, head_key) = (key::directory(name), key::head(name, change.chain));
    let conditions = vec![
        Condition::AtVersion(directory_key.clone(), before.version),
        host.guard(),
        match change.over {
            Some(version) => Condition::AtVersion(head_key.clone(), version),
            None => Condition::Absent(head_key.clone()),
        },
    ];
    let encoded = change.directory.encode();
    let writes = vec![
        Write::Put(directory_key.clone(), encoded.clone()),
        Write::Put(head_key, change.head.encode()),
    ];
    let version = match host.store.commit(conditions, writes).await {
        Ok(version) => version,
        Err(CommitError::Unknown(reason)) => match host.store.get(&directory_key).await? {
            Some(entry) if entry.value == encoded => entry.version,
            _ => return Err(ChangeError::Unavailable(reason)),
        },
        Err(error) => return Err(error.into()),
    };
    stream.learn(Listed {
        directory: Arc::new(change.directory.clone()),
        version,
    });
    Ok(version)
}

/// Above everything that any host may have promised, any chain may hold, or this host has stamped.
async fn floor(host: &Inner, stream: &Stream, directory: &Directory) -> Result<Stamp, ChangeError> {
    let mut floor = host.clock.now();
    for chain in &directory.chains {
        if chain.state != ChainState::Pending {
            let (head, _) = read_head(host, stream, chain.id).await?;
            floor = floor.max(head.bound());
        }
        floor = floor.max(chain.floor);
    }
    let (_, beats) = lease::read_hosts(host).await?;
    let promised = beats.values().map(|(beat, _)| beat.limit.max(beat.promise)).max();
    Ok(floor.max(promised.unwrap_or_default()))
}

/// Step one of a new chain: everybody can see that it comes.
pub(super) async fn register(host: &Inner, stream: &Arc<Stream>, owner: HostId) -> Result<ChainId, ChangeError> {
    let _one_at_a_time = stream.changing.lock().await;
    let before = fresh(host, stream).await?;
    let mut directory = Directory::clone(&before.directory);
    if directory.has_pending() || directory.active().count() >= directory.settings.chains_max as usize {
        return Err(ChangeError::Raced);
    }
    let chain = directory.next_chain;
    directory.next_chain = ChainId(chain.0 + 1);
    directory.chains.push(ChainInfo {
        id: chain,
        state: ChainState::Pending,
        owner,
        created: host.clock.wall().now(),
        floor: Stamp(0),
    });
    let change = Change {
        directory,
        chain,
        head: Head::empty(owner, Stamp(0)),
        over: None,
    };
    commit(host, stream, &before, &change).await?;
    Ok(chain)
}

/// Step two: fixes the floor and opens the chain, whose owner this host is.
pub(super) async fn activate(host: &Arc<Inner>, stream: &Arc<Stream>, chain: ChainId) -> Result<(), ChangeError> {
    let _one_at_a_time = stream.changing.lock().await;
    let before = fresh(host, stream).await?;
    let is_ours = |info: &&ChainInfo| info.owner == host.id && info.state == ChainState::Pending;
    if before.directory.chain(chain).filter(is_ours).is_none() {
        return Err(ChangeError::Raced);
    }
    let floor = floor(host, stream, &before.directory).await?;
    host.clock
        .observe(floor)
        .map_err(|skew| ChangeError::Unavailable(skew.to_string()))?;
    let (_, over) = read_head(host, stream, chain).await?;
    let mut directory = Directory::clone(&before.directory);
    if let Some(info) = directory.chain_mut(chain) {
        info.state = ChainState::Active;
        info.floor = floor;
    }
    let head = Head::empty(host.id, floor);
    let change = Change {
        directory,
        chain,
        head: head.clone(),
        over: Some(over),
    };
    let version = commit(host, stream, &before, &change).await?;
    own(host, stream, chain, (head, version));
    Ok(())
}

/// The directory as it is stored now.
pub(super) async fn fresh(host: &Inner, stream: &Arc<Stream>) -> Result<Listed, ChangeError> {
    // One that was deleted cannot be changed any more.
    current(host, stream).await?.ok_or(ChangeError::Raced)
}

/// Adopts the chains of all fenced hosts, in all streams.
pub(super) async fn adopt_all(host: &Arc<Inner>) -> Result<(), String> {
    loop {
        match adopt_round(host).await {
            Ok(()) => return Ok(()),
            Err(ChangeError::Damaged(reason)) => return Err(reason),
            Err(_) => tokio::time::sleep(host.config.retry_pause).await,
        }
    }
}

/// One look at all chains: those whose owners are fenced find a new one.
///
/// The order of reading matters. An owner that a directory names was registered before, so members that are
/// read later hold it unless it is gone for good. A host that was fenced before the directories were read
/// gained no chain after, so if they do not name it, it may be forgotten, and its limit with it.
pub(super) async fn adopt_round(host: &Arc<Inner>) -> Result<(), ChangeError> {
    let (members_before, _) = lease::read_hosts(host).await?;
    let streams: Vec<(Arc<Stream>, Listed)> = all(host).await?;
    let (members, _) = lease::read_hosts(host).await?;
    let mut owners = BTreeSet::new();
    for (stream, listed) in &streams {
        for chain in &listed.directory.chains {
            if chain.state == ChainState::Sealed {
                continue;
            }
            owners.insert(chain.owner);
            let is_ours = chain.owner == host.id && chain.state == ChainState::Active;
            let is_live = members
                .get(&chain.owner)
                .is_some_and(|(member, _)| member.state == MemberState::Live);
            if (is_ours && stream.owned(chain.id).is_none()) || !is_live {
                adopt(host, stream, chain.id, chain.owner).await?;
            }
        }
    }
    forget_hosts(host, &members_before, &owners).await
}

/// Takes back the registration of a chain that its owner does not open.
pub(super) async fn give_up(host: &Arc<Inner>, stream: &Arc<Stream>, chain: ChainId) -> Result<(), ChangeError> {
    let _one_at_a_time = stream.changing.lock().await;
    let before = fresh(host, stream).await?;
    let is_pending = |info: &&ChainInfo| info.state == ChainState::Pending;
    if before.directory.chain(chain).filter(is_pending).is_none() {
        return Ok(());
    }
    let (_, over) = read_head(host, stream, chain).await?;
    let directory = Directory::clone(&before.directory);
    remove(host, stream, (&before, directory), (chain, over)).await
}

/// Takes a chain over from a host that is gone, or takes its registration back if it never opened.
async fn adopt(host: &Arc<Inner>, stream: &Arc<Stream>, chain: ChainId, from: HostId) -> Result<(), ChangeError> {
    let _one_at_a_time = stream.changing.lock().await;
    let before = fresh(host, stream).await?;
    let Some(info) = before.directory.chain(chain).copied() else {
        return Ok(());
    };
    // Somebody else may have adopted it since, who is alive.
    if info.state == ChainState::Sealed || info.owner != from {
        return Ok(());
    }
    if info.owner == host.id && stream.owned(chain).is_some() {
        return Ok(());
    }
    let (old, over) = read_head(host, stream, chain).await?;
    let mut directory = Directory::clone(&before.directory);
    if info.state == ChainState::Pending {
        return remove(host, stream, (&before, directory), (chain, over)).await;
    }
    let floor = floor(host, stream, &directory).await?;
    host.clock
        .observe(floor)
        .map_err(|skew| ChangeError::Unavailable(skew.to_string()))?;
    if let Some(info) = directory.chain_mut(chain) {
        info.owner = host.id;
        info.floor = floor;
    }
    let head = Head {
        epoch: old.epoch + 1,
        owner: host.id,
        floor,
        ..old
    };
    let change = Change {
        directory,
        chain,
        head: head.clone(),
        over: Some(over),
    };
    let version = commit(host, stream, &before, &change).await?;
    tracing::info!(stream = %stream.id, chain = chain.0, from = info.owner.0, "a chain has been adopted");
    own(host, stream, chain, (head, version));
    Ok(())
}

/// Removes a chain that never opened.
async fn remove(
    host: &Inner,
    stream: &Stream,
    (before, mut directory): (&Listed, Directory),
    (chain, over): (ChainId, Version),
) -> Result<(), ChangeError> {
    directory.chains.retain(|info| info.id != chain);
    let (directory_key, head_key) = (key::directory(stream.id.name()), key::head(stream.id.name(), chain));
    let conditions = vec![
        Condition::AtVersion(directory_key.clone(), before.version),
        host.guard(),
        Condition::AtVersion(head_key.clone(), over),
    ];
    let writes = vec![Write::Put(directory_key, directory.encode()), Write::Delete(head_key)];
    let version = host.store.commit(conditions, writes).await?;
    stream.learn(Listed {
        directory: Arc::new(directory),
        version,
    });
    Ok(())
}

/// Removes the records of fenced hosts that own nothing any more.
async fn forget_hosts(
    host: &Inner,
    members: &std::collections::BTreeMap<HostId, (crate::record::Member, Version)>,
    owners: &BTreeSet<HostId>,
) -> Result<(), ChangeError> {
    for (&id, (member, version)) in members {
        if member.state == MemberState::Fenced && !owners.contains(&id) && id != host.id {
            let conditions = vec![Condition::AtVersion(key::member(id), *version)];
            let writes = vec![Write::Delete(key::member(id)), Write::Delete(key::beat(id))];
            match host.store.commit(conditions, writes).await {
                Ok(_) | Err(CommitError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}
