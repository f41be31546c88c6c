//! Making a stream, and finding one that was made.

use std::sync::Arc;

use bowline_store::{CommitError, Condition, ReadError, Write};

use super::{Handle, Inner, Listed, Stream, directory, lease};
use crate::record::{ChainInfo, ChainState, Directory, Head, Settings};
use crate::session::{self, Caller};
use crate::{ChainId, Position, StreamId, key};

/// Why a stream could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// A stream of this name exists, with as many chains at first as `existing` says.
    #[error("stream `{existing}` exists already")]
    Exists { existing: StreamId },
    /// Nothing was made; retry later.
    #[error("stream `{stream}` cannot be made now: {reason}")]
    Unavailable { stream: StreamId, reason: String },
    /// Made or not, unknown; try again and take [`CreateError::Exists`] for success.
    #[error("whether stream `{stream}` was made is unknown: {reason}")]
    Unknown { stream: StreamId, reason: String },
    /// Other hosts have taken this host for dead, and it is about to join anew; nothing was made.
    #[error("this host has lost its lease and joins the cluster anew; try again")]
    Fenced,
}

/// The streams could not be listed.
#[derive(Debug, thiserror::Error)]
#[error("streams cannot be listed")]
pub struct ListError(#[source] ReadError);

impl Handle {
    /// Makes a stream for the platform itself.
    pub async fn create(&self, id: &StreamId, settings: Settings) -> Result<(), CreateError> {
        self.make(None, id, settings).await
    }

    /// Makes a stream for somebody, with an audit row.
    pub async fn create_for(&self, caller: &Caller, id: &StreamId, settings: Settings) -> Result<(), CreateError> {
        self.make(Some(caller), id, settings).await
    }

    /// Makes a stream whose chains this host owns: the directory and all heads in one commit.
    async fn make(&self, caller: Option<&Caller>, id: &StreamId, settings: Settings) -> Result<(), CreateError> {
        let host = &self.inner();
        let floor = host.clock.now();
        let directory = first_directory(host, id, settings, floor);
        let mut conditions = vec![
            Condition::Absent(key::directory(id.name())),
            Condition::Absent(key::doomed(id.name())),
            host.guard(),
        ];
        let mut writes = vec![Write::Put(key::directory(id.name()), directory.encode())];
        if let Some(caller) = caller {
            let told = (None, Some(format!("{settings:?}")));
            writes.push(session::audit_row(host, caller, ("CreateStream", id), told));
        }
        let head = Head::empty(host.id, floor);
        for chain in &directory.chains {
            let key = key::head(id.name(), chain.id);
            conditions.push(Condition::Absent(key.clone()));
            writes.push(Write::Put(key, head.encode()));
        }
        match host.store.commit(conditions, writes).await {
            Ok(version) => {
                let chains: Vec<ChainId> = directory.chains.iter().map(|chain| chain.id).collect();
                let listed = Listed {
                    directory: Arc::new(directory),
                    version,
                };
                let stream = host.meet(id.clone(), listed);
                for chain in chains {
                    directory::own(host, &stream, chain, (head.clone(), version));
                }
                Ok(())
            }
            Err(error) => Err(self.why_not(id, error).await),
        }
    }

    async fn why_not(&self, id: &StreamId, error: CommitError) -> CreateError {
        let host = &self.inner();
        let (stream, reason) = (id.clone(), error.to_string());
        match error {
            CommitError::Conflict(key) if key == key::member(host.id) => {
                lease::be_fenced(host);
                CreateError::Fenced
            }
            CommitError::Conflict(key) if key == key::doomed(id.name()) => CreateError::Unavailable {
                stream,
                reason: "an earlier one of this name is still being removed".to_owned(),
            },
            CommitError::Unknown(_) => {
                // The chains are ours if it was made; the next round of maintenance finds and owns them.
                CreateError::Unknown { stream, reason }
            }
            CommitError::Conflict(_) => match host.find(id.name()).await {
                Ok(Some(found)) => CreateError::Exists {
                    existing: found.id.clone(),
                },
                _ => CreateError::Unavailable { stream, reason },
            },
            _ => CreateError::Unavailable { stream, reason },
        }
    }

    /// The streams there are, by name.
    pub async fn list(&self) -> Result<Vec<StreamId>, ListError> {
        let streams = directory::all(&self.inner()).await.map_err(ListError)?;
        Ok(streams.iter().map(|(stream, _)| stream.id.clone()).collect())
    }
}

fn first_directory(host: &Inner, id: &StreamId, settings: Settings, floor: crate::Stamp) -> Directory {
    let created = host.clock.wall().now();
    let chain = |number| ChainInfo {
        id: ChainId(number),
        state: ChainState::Active,
        owner: host.id,
        created,
        floor,
    };
    Directory {
        chains_at_first: id.chains(),
        created,
        trimmed: Position::START,
        settings,
        next_chain: ChainId(id.chains() + 1),
        chains: (1..=id.chains()).map(chain).collect(),
    }
}

impl Inner {
    /// Whether this is the stream that goes by its name here.
    pub(crate) fn known_as(&self, stream: &Stream) -> bool {
        let known = self.known(stream.id.name());
        known.is_some_and(|known| known.serial == stream.serial)
    }

    /// The stream of this name, from memory or the store.
    pub(crate) async fn find(&self, name: &str) -> Result<Option<Arc<Stream>>, ReadError> {
        if let Some(stream) = self.known(name) {
            return Ok(Some(stream));
        }
        let Some(listed) = directory::read(self, name).await? else {
            return Ok(None);
        };
        let id = StreamId::new(name, listed.directory.chains_at_first)
            .map_err(|error| ReadError::Damaged(error.to_string()))?;
        Ok(Some(self.meet(id, listed)))
    }

    /// Takes note of a stream that was read or written.
    pub(super) fn meet(&self, id: StreamId, listed: Listed) -> Arc<Stream> {
        let known = self.known(id.name());
        if let Some(other) = known.filter(|known| !known.is(&listed.directory)) {
            // What was read late may be of the earlier one.
            if listed.version < other.listed().version {
                return Arc::new(Stream::new(id, self.cache.serial(), listed));
            }
            self.forget(&other);
        }
        let mut streams = self.streams.write();
        let stream = streams
            .entry(id.name().to_owned())
            .or_insert_with(|| Arc::new(Stream::new(id, self.cache.serial(), listed.clone())));
        stream.learn(listed);
        Arc::clone(stream)
    }
}
