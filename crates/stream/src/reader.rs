//! Reading a stream: a merge of its chains, in the order of positions, up to the safe time.
//!
//! ```text
//!   read(after) ─▶ view ─▶ a cursor for each chain: node ▸ node ▸ … ▸ head ─▶ merge ─▶ copies dropped ─▶ page
//!                   │ made anew when the reader has come to its safe time     (`view.rs`)
//! ```
//! Everything a view holds is immutable: heads as they were, nodes that never change, a safe time under
//! which nothing is ever added. So any number of readers use one view, and an old view is merely short.

mod ahead;
mod backward;
mod cache;
mod copies;
mod cursor;
mod merge;
mod view;

use async_trait::async_trait;
use std::sync::Arc;

pub(crate) use self::ahead::Ahead;
pub use self::backward::Backward;
pub(crate) use self::cache::Cache;
pub(crate) use self::merge::Places;
pub(crate) use self::view::View;
use crate::host::{Handle, Inner, Sharing, Stream};
use crate::record::{Damaged, Head};
use crate::{ChainId, Log, Page, Position, ReadError, ReadLimit, Stamp, StreamId};

/// How often a read starts anew because what it read was trimmed under it.
const ATTEMPTS: u32 = 4;

/// Why a view, or what it speaks of, could not be read.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// A node that the view counts is gone: it has been trimmed since.
    Stale,
    /// The stream has been deleted.
    Gone,
    Unavailable(String),
    Damaged(String),
}

impl From<bowline_store::ReadError> for Trouble {
    fn from(error: bowline_store::ReadError) -> Self {
        match error {
            bowline_store::ReadError::Unavailable(reason) => Self::Unavailable(reason),
            bowline_store::ReadError::Damaged(reason) => Self::Damaged(reason),
        }
    }
}

impl From<Damaged> for Trouble {
    fn from(damaged: Damaged) -> Self {
        Self::Damaged(damaged.to_string())
    }
}

impl Trouble {
    pub fn of(self, stream: &StreamId) -> ReadError {
        let stream = stream.clone();
        match self {
            Self::Stale => ReadError::Unavailable {
                stream,
                reason: "it is being trimmed".to_owned(),
            },
            Self::Gone => ReadError::NoSuchStream(stream),
            Self::Unavailable(reason) => ReadError::Unavailable { stream, reason },
            Self::Damaged(reason) => ReadError::Damaged { stream, reason },
        }
    }
}

#[async_trait]
impl Log for Handle {
    async fn read(&self, stream: &StreamId, after: Position, limit: ReadLimit) -> Result<Page, ReadError> {
        let host = self.inner();
        let stream = host.to_read(stream).await?;
        let mut wanted = Freshness::Beyond(after);
        for _ in 0..ATTEMPTS {
            match host.page(&stream, after, limit, wanted).await? {
                Some(page) => return Ok(page),
                None => wanted = Freshness::New,
            }
        }
        Err(Trouble::Stale.of(&stream.id))
    }

    async fn end(&self, stream: &StreamId) -> Result<Position, ReadError> {
        let host = self.inner();
        let stream = host.to_read(stream).await?;
        let viewed = host.view(&stream, Freshness::New).await;
        let (view, _) = viewed.map_err(|trouble| trouble.of(&stream.id))?;
        Ok(view.end())
    }

    async fn wait(&self, stream: &StreamId, after: Position) {
        let host = self.inner();
        let Ok(stream) = host.to_read(stream).await else {
            return tokio::time::sleep(host.config.poll_every).await;
        };
        let is_there = || stream.newest() >= after.stamp && host.promised_here(&stream) >= after.stamp;
        match host.is_alone(&stream) {
            true => stream.news(is_there).await,
            false => {
                let news = stream.news(is_there);
                // Nobody announces other hosts' writes: look again.
                let _ = tokio::time::timeout(host.config.poll_every, news).await;
            }
        }
    }
}

/// The position of the oldest event of a chain that is left.
pub(crate) async fn first_position(
    host: &Inner,
    stream: &Stream,
    (chain, head): (ChainId, &Arc<Head>),
) -> Result<Option<Position>, Trouble> {
    let source = cursor::Source { host, stream };
    let cursor = cursor::Cursor::seek(&source, (chain, Arc::clone(head)), Position::START, None).await?;
    Ok(cursor.peek())
}

/// The end of the last node of a chain whose events are all at or under `cut`.
pub(crate) async fn last_node_under(
    host: &Inner,
    stream: &Stream,
    (chain, head): (ChainId, &Head),
    cut: Stamp,
) -> Result<Option<Stamp>, Trouble> {
    let source = cursor::Source { host, stream };
    let after = cursor::search(&source, (chain, head), cut.next()).await?;
    if after == head.first_node {
        return Ok(None);
    }
    Ok(Some(source.node(chain, after - 1, 1).await?.last_stamp))
}

/// How new a view must be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Freshness {
    /// Its safe time reaches beyond the position.
    Beyond(Position),
    /// Made after the call began.
    New,
}

impl Inner {
    pub(crate) async fn to_read(&self, id: &StreamId) -> Result<Arc<Stream>, ReadError> {
        let found = self
            .find(id.name())
            .await
            .map_err(|error| Trouble::from(error).of(id))?;
        found
            .filter(|stream| stream.id == *id)
            .ok_or_else(|| ReadError::NoSuchStream(id.clone()))
    }

    /// A page, or nothing if the view turned out to be too old.
    async fn page(
        self: &Arc<Self>,
        stream: &Arc<Stream>,
        after: Position,
        limit: ReadLimit,
        wanted: Freshness,
    ) -> Result<Option<Page>, ReadError> {
        let in_stream = |trouble: Trouble| trouble.of(&stream.id);
        let (view, is_new) = self.view(stream, wanted).await.map_err(in_stream)?;
        let trimmed = view.trimmed(stream);
        if after < trimmed {
            return Err(ReadError::Trimmed {
                stream: stream.id.clone(),
                available: trimmed,
            });
        }
        match merge::forward(self, stream, &view, after, limit).await {
            Ok(page) if is_new || page.more => {
                self.read_ahead(stream, &view, page.next);
                Ok(Some(page))
            }
            // The view ended, but the stream may have gone on since.
            Ok(page) if !page.events.is_empty() => Ok(Some(Page { more: true, ..page })),
            Ok(_) | Err(Trouble::Stale) => Ok(None),
            Err(trouble) => Err(in_stream(trouble)),
        }
    }

    /// Whether only this host writes to the stream, so that all news of it are announced here.
    fn is_alone(&self, stream: &Stream) -> bool {
        let listed = stream.listed();
        let has_neighbours = !self.neighbours.lock().live.is_empty();
        let is_ours = || listed.directory.active().all(|chain| chain.owner == self.id);
        self.sharing == Sharing::Exclusive || (!has_neighbours && is_ours())
    }

    /// The safe time over the chains that this host owns.
    fn promised_here(&self, stream: &Stream) -> Stamp {
        let owned = stream.all_owned();
        let bounds = owned
            .iter()
            .map(|owned| self.clock.promise(owned.slot).max(owned.head().bound()));
        bounds.min().unwrap_or_default()
    }
}
