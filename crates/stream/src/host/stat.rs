//! What a stream looks like from here: its chains, what they hold, and how far readers may go.

use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::Timestamp;

use super::{Handle, Inner, Stream};
use crate::reader::{Freshness, Trouble, View, first_position};
use crate::record::{ChainState, Head};
use crate::{ChainId, HostId, Position, ReadError, Settings, Stamp, StreamId};

/// A stream at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    pub stream: StreamId,
    pub created: Timestamp,
    pub settings: Settings,
    pub chains: Vec<ChainStat>,
    /// Events that are left, copies included.
    pub events: u64,
    /// Bytes of the nodes and heads that are left, in the store and in blobs.
    pub bytes: u64,
    /// Everything at or under it has been given up.
    pub trimmed: Position,
    /// Readers see everything at or under it, and nothing after it.
    pub safe: Stamp,
    /// How far the safe time is behind the newest event; zero if readers see all.
    pub lag: Duration,
}

/// A chain at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainStat {
    pub id: ChainId,
    pub state: ChainState,
    pub owner: HostId,
    pub epoch: u64,
    pub first: Option<Position>,
    pub last: Option<Position>,
    pub events: u64,
    pub bytes: u64,
}

impl Handle {
    /// Looks at a stream.
    pub async fn stat(&self, stream: &StreamId) -> Result<Stat, ReadError> {
        let host = self.inner();
        let found = host.to_read(stream).await?;
        stat(&host, &found).await.map_err(|trouble| trouble.of(stream))
    }
}

async fn stat(host: &Inner, stream: &Arc<Stream>) -> Result<Stat, Trouble> {
    let (view, _) = host.view(stream, Freshness::New).await?;
    let mut chains = Vec::new();
    for (&id, head) in &view.heads {
        chains.push(chain(host, stream, &view, (id, head)).await?);
    }
    let newest = view
        .heads
        .values()
        .map(|head| head.last_stamp)
        .max()
        .unwrap_or_default();
    Ok(Stat {
        stream: stream.id.clone(),
        created: view.directory.created,
        settings: view.directory.settings,
        events: chains.iter().map(|chain| chain.events).sum(),
        bytes: chains.iter().map(|chain| chain.bytes).sum(),
        chains,
        trimmed: view.directory.trimmed,
        safe: view.safe,
        lag: lag(newest, view.safe),
    })
}

fn lag(newest: Stamp, safe: Stamp) -> Duration {
    match newest > safe {
        true => newest.moment().since(safe.moment()).max(Duration::from_micros(1)),
        false => Duration::ZERO,
    }
}

async fn chain(
    host: &Inner,
    stream: &Stream,
    view: &View,
    (id, head): (ChainId, &Arc<Head>),
) -> Result<ChainStat, Trouble> {
    let first = first_position(host, stream, (id, head)).await?;
    let state = view.directory.chain(id).map_or(ChainState::Pending, |info| info.state);
    Ok(ChainStat {
        id,
        state,
        owner: head.owner,
        epoch: head.epoch,
        first,
        last: head.last_position(id),
        events: first.map_or(0, |first| head.next_index - first.index),
        bytes: head.node_bytes + head.run_bytes() as u64,
    })
}
