//! The lease of a host: its member record, its heartbeat, and how a silent host is fenced.
//!
//! ```text
//!   start:  hosts n → n+1, member(n+1) live, beat(n+1)         one commit
//!   beat:   {member is ours} → beat: promise, limit            every `beat_every`, or when a promise needs it
//!   fence:  {member and beat as seen} → member fenced          by anyone, after `dead_after` of silence
//!   leave:  {member is ours} → member fenced                   by itself, when it ends
//!   adopt:  {member of the adopter, directory, head} → …       see `directory.rs`
//! ```
//! This is all the membership that a cluster has: whatever else a node commits has its member record as a
//! condition too ([`super::GuardedStore`]). Nobody's clock decides whether a lease is valid: the store does.
//! A fenced host finds its member record changed, stops, and joins anew under another number; until it does,
//! its promises end at the limit of its last beat, and its appends at the versions of the heads, which the
//! adopters have changed. Silence counts only while the watcher could look, so that after an outage of the
//! store everybody has the time of a lease to be heard again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bowline_foundation::clock::Monotonic;
use bowline_store::{CommitError, Condition, Entry, ReadError, Store, Version, Write};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;

use super::{Inner, Options, Sharing, Task, directory};
use crate::hybrid::HybridClock;
use crate::reader::Cache;
use crate::record::{Beat, Damaged, Member, MemberState};
use crate::{HostId, Stamp, key};

/// Hosts that are read at once.
const HOSTS_MAX: usize = 1024;
/// How often the registration of a host is tried.
const ATTEMPTS: u32 = 50;

/// Why a host could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("streams cannot be read")]
    Read(#[from] ReadError),
    #[error("the host cannot be registered")]
    Commit(#[from] CommitError),
    #[error("what is stored of streams is damaged: {0}")]
    Damaged(String),
}

impl From<Damaged> for StartError {
    fn from(damaged: Damaged) -> Self {
        Self::Damaged(damaged.to_string())
    }
}

/// What a host knows of the others.
#[derive(Debug, Default)]
pub(crate) struct Neighbours {
    /// The version of each host's beat, and since when it has been that.
    heard: BTreeMap<HostId, (Version, Monotonic)>,
    /// When the hosts were last looked at.
    looked: Option<Monotonic>,
    pub live: BTreeMap<HostId, Neighbour>,
}

#[derive(Clone, Debug)]
pub(crate) struct Neighbour {
    pub address: String,
}

/// Draws an identifier and writes the host's records.
pub(super) async fn register(options: Options, tasks: mpsc::UnboundedSender<Task>) -> Result<Inner, StartError> {
    // A host that is alone has only its own stamps to follow, however its clock was set since.
    let skew_max = match options.sharing {
        Sharing::Exclusive => Duration::MAX,
        Sharing::Shared => options.config.skew_max,
    };
    let clock = HybridClock::new(options.clock.clone(), skew_max);
    let (id, member) = draw(&options).await?;
    Ok(Inner {
        id,
        store: options.store,
        blobs: options.blobs,
        clock,
        entropy: options.entropy,
        peers: options.peers,
        address: options.address,
        sharing: options.sharing,
        cache: Cache::new(options.config.cache_bytes_max),
        config: options.config,
        streams: RwLock::default(),
        tasks,
        member,
        is_fenced: AtomicBool::new(false),
        beating: tokio::sync::Mutex::new(member),
        neighbours: Mutex::default(),
    })
}

async fn draw(options: &Options) -> Result<(HostId, Version), StartError> {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        if last.is_some() {
            tokio::time::sleep(options.config.retry_pause).await;
        }
        match attempt(options).await {
            Ok(drawn) => return Ok(drawn),
            Err(StartError::Damaged(reason)) => return Err(StartError::Damaged(reason)),
            Err(error) => last = Some(error),
        }
    }
    Err(last.expect("every attempt but the last leaves its error"))
}

async fn attempt(options: &Options) -> Result<(HostId, Version), StartError> {
    let key = key::hosts();
    let found = options.store.get(&key).await?;
    let last = found.as_ref().map_or(Ok(0), number)?;
    let condition = found.map_or(Condition::Absent(key.clone()), |entry| {
        Condition::AtVersion(key.clone(), entry.version)
    });
    let id = HostId(last + 1);
    let member = Member {
        state: MemberState::Live,
        address: options.address.clone(),
    };
    let beat = Beat {
        wall: options.clock.now(),
        ..Beat::default()
    };
    let writes = vec![
        Write::Put(key, Bytes::copy_from_slice(&id.0.to_be_bytes())),
        Write::Put(key::member(id), member.encode()),
        Write::Put(key::beat(id), beat.encode()),
    ];
    // An attempt with an unknown end leaves a host that nobody runs; it is fenced like any dead one.
    let version = options.store.commit(vec![condition], writes).await?;
    Ok((id, version))
}

fn number(entry: &Entry) -> Result<u64, StartError> {
    let digits = entry.value[..].try_into();
    digits
        .map(u64::from_be_bytes)
        .map_err(|_| StartError::Damaged("the last host's number has not eight bytes".to_owned()))
}

/// Fences every other host and adopts what they owned; nobody else may use the store.
pub(super) async fn take_over(host: &Arc<Inner>) -> Result<(), StartError> {
    let (members, beats) = read_hosts(host).await?;
    for (&id, (member, version)) in members.iter().filter(|(id, _)| **id != host.id) {
        if member.state == MemberState::Live
            && let Some((_, beat)) = beats.get(&id)
        {
            fence(host, id, (member, *version), *beat).await?;
        }
    }
    directory::adopt_all(host).await.map_err(StartError::Damaged)?;
    Ok(())
}

type Members = BTreeMap<HostId, (Member, Version)>;
type Beats = BTreeMap<HostId, (Beat, Version)>;

/// All members and, read after them, all beats.
pub(crate) async fn read_hosts(host: &Inner) -> Result<(Members, Beats), StartError> {
    read_records(&*host.store).await
}

async fn read_records(store: &dyn Store) -> Result<(Members, Beats), StartError> {
    let (mut members, mut beats) = (Members::new(), Beats::new());
    for (key, entry) in store.scan(&key::members(), None, HOSTS_MAX).await? {
        if let Some(id) = key::host_of(&key) {
            members.insert(id, (Member::decode(&entry.value)?, entry.version));
        }
    }
    for (key, entry) in store.scan(&key::beats(), None, HOSTS_MAX).await? {
        if let Some(id) = key::host_of(&key) {
            beats.insert(id, (Beat::decode(&entry.value)?, entry.version));
        }
    }
    Ok((members, beats))
}

/// A host's last beat.
pub(crate) async fn read_beat(host: &Inner, id: HostId) -> Option<Beat> {
    let entry = host.store.get(&key::beat(id)).await.ok()??;
    Beat::decode(&entry.value).ok()
}

/// Takes a host's right to act away, if it has shown no sign of life since `beat` was read.
async fn fence(
    host: &Inner,
    id: HostId,
    (member, member_version): (&Member, Version),
    beat: Version,
) -> Result<(), CommitError> {
    let conditions = vec![
        host.guard(),
        Condition::AtVersion(key::member(id), member_version),
        Condition::AtVersion(key::beat(id), beat),
    ];
    host.store.commit(conditions, vec![fenced(id, member)]).await?;
    tracing::warn!(host = id.0, "a silent host has been fenced");
    Ok(())
}

fn fenced(id: HostId, member: &Member) -> Write {
    let fenced = Member {
        state: MemberState::Fenced,
        ..member.clone()
    };
    Write::Put(key::member(id), fenced.encode())
}

/// Gives up the host's own right to act. Being fenced already is no error.
pub(super) async fn leave(host: &Inner) -> Result<(), CommitError> {
    host.is_fenced.store(true, Ordering::Release);
    let member = Member {
        state: MemberState::Live,
        address: host.address.clone(),
    };
    match host
        .store
        .commit(vec![host.guard()], vec![fenced(host.id, &member)])
        .await
    {
        Err(CommitError::Conflict(_)) => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// Whether no host lives on `store` any more. Those that stay silent for `lease` are fenced meanwhile; after
/// two of them the addresses of those that live are returned.
pub async fn wait_for_silence(store: &dyn Store, lease: Duration) -> Result<Vec<String>, StartError> {
    let mut heard = living(store).await?;
    for _ in 0..2 {
        if heard.is_empty() {
            return Ok(Vec::new());
        }
        tokio::time::sleep(lease + lease / 4).await;
        let now = living(store).await?;
        for (&id, (member, version, beat)) in &now {
            if heard.get(&id).is_some_and(|(_, _, before)| before == beat) {
                let conditions = vec![
                    Condition::AtVersion(key::member(id), *version),
                    Condition::AtVersion(key::beat(id), *beat),
                ];
                match store.commit(conditions, vec![fenced(id, member)]).await {
                    Ok(_) | Err(CommitError::Conflict(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        heard = living(store).await?;
    }
    Ok(heard.into_values().map(|(member, ..)| member.address).collect())
}

type Living = BTreeMap<HostId, (Member, Version, Version)>;

/// The hosts that nobody has fenced, with the versions of their member records and beats.
async fn living(store: &dyn Store) -> Result<Living, StartError> {
    let (members, beats) = read_records(store).await?;
    let living = members.into_iter().filter_map(|(id, (member, version))| {
        let (_, beat) = beats.get(&id)?;
        (member.state == MemberState::Live).then_some((id, (member, version, *beat)))
    });
    Ok(living.collect())
}

/// Beats for as long as the host lives.
pub(super) async fn beat(host: Arc<Inner>) {
    if host.sharing == Sharing::Exclusive {
        return; // Nobody listens; promises ask for beats themselves.
    }
    loop {
        raise_limit(&host, Stamp(u64::MAX)).await;
        if host.is_fenced() {
            return;
        }
        tokio::time::sleep(host.config.beat_every).await;
    }
}

/// Makes a beat durable whose limit is a window ahead, unless promises up to `wanted` are possible already.
pub(crate) async fn raise_limit(host: &Inner, wanted: Stamp) {
    let mut version = host.beating.lock().await;
    if host.is_fenced() || host.clock.limit() >= wanted {
        return;
    }
    let promise = host.clock.promise_for_all();
    let window = host.config.promise_window;
    let limit = Stamp::of(host.clock.now().moment().after(window)).max(host.clock.limit());
    let beat = Beat {
        promise,
        limit,
        wall: host.clock.wall().now(),
    };
    // A beat whose end is unknown may arrive late; it must not undo a newer one.
    let conditions = vec![host.guard(), Condition::AtVersion(key::beat(host.id), *version)];
    let writes = vec![Write::Put(key::beat(host.id), beat.encode())];
    match host.store.commit(conditions, writes).await {
        Ok(written) => {
            *version = written;
            host.clock.raise_limit(limit);
        }
        Err(CommitError::Conflict(key)) if key == key::member(host.id) => be_fenced(host),
        Err(error) => {
            tracing::debug!(%error, "a heartbeat was not written");
            if let Ok(Some(entry)) = host.store.get(&key::beat(host.id)).await {
                *version = entry.version;
            }
        }
    }
}

/// Notes that others have taken this host for dead.
pub(super) fn be_fenced(host: &Inner) {
    if host.is_fenced.swap(true, Ordering::AcqRel) {
        return;
    }
    tracing::error!(host = host.id.0, "this host has been fenced");
    host.spawn(async {}); // Wakes the service, so that it sees it.
}

/// Looks at the other hosts every `maintain_every` for as long as the host lives. A round of maintenance
/// may take longer, and what is not looked at is not silent.
pub(super) async fn watch_others(host: Arc<Inner>) {
    while host.sharing == Sharing::Shared && !host.is_fenced() {
        if let Err(error) = watch(&host).await {
            tracing::debug!(%error, "the other hosts are not seen");
        }
        tokio::time::sleep(host.config.maintain_every).await;
    }
}

/// Looks once: learns who lives, and fences who has been silent for too long.
async fn watch(host: &Arc<Inner>) -> Result<(), StartError> {
    let (members, beats) = read_hosts(host).await?;
    let (now, wall) = (host.clock.wall().monotonic(), host.clock.wall().now());
    let mut ahead = None;
    let mut silent = Vec::new();
    {
        let mut neighbours = host.neighbours.lock();
        let looked = neighbours.looked.replace(now);
        if looked.is_some_and(|looked| now.since(looked) > host.config.dead_after / 2) {
            neighbours.heard.clear();
        }
        neighbours.live.clear();
        neighbours.heard.retain(|id, _| members.contains_key(id));
        for (&id, (member, _)) in members.iter().filter(|(id, _)| **id != host.id) {
            let Some(&(beat, version)) = beats.get(&id) else {
                continue;
            };
            let heard = neighbours.heard.entry(id).or_insert((version, now));
            if heard.0 != version {
                *heard = (version, now);
                let by = wall.since(beat.wall);
                ahead = Some(ahead.map_or(by, |least: Duration| least.min(by)));
            }
            if member.state == MemberState::Live && now.since(heard.1) >= host.config.dead_after {
                silent.push((id, version));
            } else if member.state == MemberState::Live {
                let address = member.address.clone();
                neighbours.live.insert(id, Neighbour { address });
            }
        }
    }
    // A beat that is new to us may be as old as the pause between two looks.
    let age_max = host.config.maintain_every + host.config.beat_every;
    match ahead {
        Some(ahead) => host.clock.be_ahead(ahead.saturating_sub(age_max)),
        None if host.neighbours.lock().live.is_empty() => host.clock.be_ahead(Duration::ZERO),
        None => {}
    }
    for (id, beat) in silent {
        let (member, version) = &members[&id];
        match fence(host, id, (member, *version), beat).await {
            Ok(()) | Err(CommitError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
