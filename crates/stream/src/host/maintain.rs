//! The rounds of work beside appends: adoption, growth, sealing, retention, tiering.
//!
//! Each round looks at every stream and decides; what changes a chain is done by its owner between two
//! batches, on the same condition as an append. Sealed chains have no owner: whoever comes first does it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::{Monotonic, Timestamp};
use bowline_store::Condition;
use bowline_store::Write;

use super::directory::ChangeError;
use super::owner::Owner;
use super::queue::{Outcome, Work};
use super::{Inner, Owned, Stream, directory, removal, retention};
use crate::record::{ChainState, Directory, Head};
use crate::{ChainId, HostId, Stamp, key};

/// Chains that were seen pending, and since when.
pub(crate) type Pending = BTreeMap<(String, ChainId), Monotonic>;

/// How often blobs that no stream names are looked for, and how old they must be.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// Does a round every `maintain_every` for as long as the host lives.
pub(super) async fn run(host: Arc<Inner>) {
    let mut pending = Pending::new();
    let mut swept = host.clock.wall().monotonic();
    while !host.is_fenced() {
        let now = host.clock.wall().monotonic();
        if now.since(swept) >= SWEEP_EVERY {
            swept = now;
            if let Err(reason) = retention::sweep_blobs(&host, SWEEP_EVERY).await {
                tracing::warn!(reason, "blobs that no stream names stay until the next sweep");
            }
        }
        if let Err(error) = round(&host, &mut pending).await {
            tracing::debug!(%error, "a round of maintenance was cut short");
        }
        tokio::time::sleep(host.config.maintain_every).await;
    }
}

async fn round(host: &Arc<Inner>, pending: &mut Pending) -> Result<(), ChangeError> {
    if let Err(error) = removal::round(host).await {
        tracing::debug!(%error, "what is left of deleted streams goes later");
    }
    directory::adopt_round(host).await?;
    for stream in host.streams() {
        settle_pending(host, &stream, pending).await?;
        grow(host, &stream).await?;
        seal_idle(host, &stream).await;
        retention::round(host, &stream).await?;
    }
    Ok(())
}

/// Opens our pending chains, and removes those whose owners do not open them.
async fn settle_pending(host: &Arc<Inner>, stream: &Arc<Stream>, since: &mut Pending) -> Result<(), ChangeError> {
    let listed = stream.listed();
    let now = host.clock.wall().monotonic();
    since.retain(|(name, chain), _| name != stream.id.name() || listed.directory.chain(*chain).is_some());
    for chain in listed
        .directory
        .chains
        .iter()
        .filter(|chain| chain.state == ChainState::Pending)
    {
        let seen = *since.entry((stream.id.name().to_owned(), chain.id)).or_insert(now);
        if now.since(seen) >= host.config.dead_after {
            directory::give_up(host, stream, chain.id).await?;
        } else if chain.owner == host.id {
            directory::activate(host, stream, chain.id).await?;
        }
    }
    Ok(())
}

/// Adds a chain if our appends need one: here if we have none, else on the host with the fewest chains of the stream.
async fn grow(host: &Arc<Inner>, stream: &Arc<Stream>) -> Result<(), ChangeError> {
    let now = host.clock.wall().monotonic();
    let Some(reason) = stream.load.lock().judge(now, &host.config.growth) else {
        return Ok(());
    };
    let owner = if stream.all_owned().is_empty() {
        host.id
    } else {
        least_loaded(host, &stream.listed().directory)
    };
    let chain = match directory::register(host, stream, owner).await {
        Ok(chain) => chain,
        Err(ChangeError::Raced) => return Ok(()), // Somebody else adds one, or there are enough.
        Err(error) => return Err(error),
    };
    tracing::info!(stream = %stream.id, chain = chain.0, owner = owner.0, ?reason, "a chain has been added");
    if owner == host.id {
        return directory::activate(host, stream, chain).await;
    }
    // The next append takes the news to the new chain's owner.
    *stream.grown.lock() = Some((owner, chain));
    Ok(())
}

/// Adds a chain of our own: we have none, and reach nobody who has one.
pub(super) async fn add_own(host: &Arc<Inner>, stream: &Arc<Stream>) -> Result<(), ChangeError> {
    let chain = directory::register(host, stream, host.id).await?;
    tracing::info!(stream = %stream.id, chain = chain.0, owner = host.id.0, "a chain has been added: no other host takes appends");
    directory::activate(host, stream, chain).await
}

/// The host with the fewest chains; another one rather than us.
fn least_loaded(host: &Inner, directory: &Directory) -> HostId {
    let chains_of = |id: HostId| directory.active().filter(|chain| chain.owner == id).count();
    let neighbours = host.neighbours.lock();
    let others = neighbours.live.keys().copied();
    others.min_by_key(|&id| (chains_of(id), id)).unwrap_or(host.id)
}

/// Seals our added chains that have been idle for long.
async fn seal_idle(host: &Arc<Inner>, stream: &Arc<Stream>) {
    let listed = stream.listed();
    for owned in stream.all_owned() {
        let head = owned.head();
        let idle = host.clock.now().moment().since(head.bound().moment());
        if !listed.directory.is_addressable(owned.chain) && idle >= host.config.seal_after {
            let next_index = head.next_index;
            ask(&owned, Work::Seal { next_index }).await;
        }
    }
}

/// Has the owner of a chain do `work`; says whether anything was done.
pub(super) async fn ask(owned: &Owned, work: Work) -> bool {
    let Some(answer) = owned.queue.ask(work) else {
        return false;
    };
    match answer.await {
        Ok(Ok(is_done)) => is_done,
        Ok(Err(reason)) => {
            tracing::debug!(reason, chain = owned.chain.0, "work on a chain was not done");
            false
        }
        Err(_) => false,
    }
}

/// Does work that only a chain's owner may do.
pub(super) async fn work(owner: &mut Owner, work: Work) -> Outcome {
    match work {
        Work::Seal { next_index } => seal(owner, next_index).await,
        Work::Trim(cut) => retention::trim(owner, cut).await,
        Work::Tier(cut) => retention::tier(owner, cut).await,
    }
}

/// Takes the chain out of service: head and directory in one commit. Its bound covers whatever we promised.
async fn seal(owner: &mut Owner, next_index: u64) -> Outcome {
    if owner.head.next_index != next_index || owner.head.is_sealed {
        return Ok(false);
    }
    let (host, stream, chain) = (Arc::clone(&owner.host), Arc::clone(&owner.stream), owner.owned.chain);
    let _one_at_a_time = stream.changing.lock().await;
    let before = directory::fresh(&host, &stream)
        .await
        .map_err(|error| error.to_string())?;
    let mut listed = Directory::clone(&before.directory);
    if listed.active().count() <= 1 {
        return Ok(false);
    }
    let floor = owner.head.bound().max(host.clock.limit()).max(host.clock.now());
    let Some(info) = listed.chain_mut(chain) else {
        return Ok(false);
    };
    info.state = ChainState::Sealed;
    info.floor = floor;
    let head = Head {
        is_sealed: true,
        floor,
        ..owner.head.clone()
    };
    let directory_key = key::directory(stream.id.name());
    let conditions = vec![
        Condition::AtVersion(directory_key.clone(), before.version),
        host.guard(),
    ];
    let writes = vec![Write::Put(directory_key, listed.encode())];
    let version = owner
        .write(&head, conditions, writes)
        .await
        .map_err(|fate| fate.to_string())?;
    stream.learn(super::Listed {
        directory: Arc::new(listed),
        version,
    });
    owner.become_head(head, version);
    owner.owned.queue.close();
    tracing::info!(stream = %stream.id, chain = chain.0, "an idle chain has been sealed");
    Ok(true)
}

/// The stamp of `age` ago.
pub(super) fn ago(host: &Inner, age: Duration) -> Stamp {
    before(host.clock.now(), age)
}

/// A stamp that much earlier.
pub(super) fn before(stamp: Stamp, age: Duration) -> Stamp {
    let age = u64::try_from(age.as_micros()).unwrap_or(u64::MAX);
    let micros = stamp.moment().as_micros().saturating_sub(age);
    Stamp::of(Timestamp::from_micros(micros))
}
