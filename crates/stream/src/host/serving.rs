//! What a host does for others: storing forwarded appends, and giving promises.

use std::sync::Arc;

use super::{Handle, Inner, Stream, directory, raise_limit};
use crate::append::AppendError;
use crate::peers::{Forward, ForwardedEvent, PeerError, PromiseRequest};
use crate::record::{ChainState, Draft};
use crate::{ChainId, Position, Stamp};

impl Handle {
    /// Stores events that another host has forwarded, later than that host's stamp, in a chain of ours.
    ///
    /// A chain that the sender has just registered for us is opened first. **Idempotence.** Events with given
    /// identifiers are stored once; copies of others are told apart by their origin.
    pub async fn accept(&self, forward: Forward) -> Result<Vec<Position>, PeerError> {
        let host = &self.inner();
        if host.is_fenced() {
            return Err(PeerError::Refused("this host has been fenced".to_owned()));
        }
        let refused = |error: &dyn std::fmt::Display| PeerError::Refused(error.to_string());
        host.clock.observe(forward.stamp).map_err(|skew| refused(&skew))?;
        let latest = forward.stamp.moment().after(host.config.copies_within / 2);
        if host.clock.now().moment() > latest {
            return Err(PeerError::Refused("the request is too old".to_owned()));
        }
        let found = host
            .find(forward.stream.name())
            .await
            .map_err(|error| refused(&error))?;
        let stream = found
            .filter(|stream| stream.id == forward.stream)
            .ok_or_else(|| PeerError::Refused(format!("stream `{}` does not exist", forward.stream)))?;
        tracing::debug!(stream = %stream.id, hosts = ?forward.hosts, chains = ?forward.chains, stamp = forward.stamp.0,
            "a forwarded append has come in");
        let new = host.open_new(&stream, &forward).await;
        let origin = forward.origin;
        let drafts: Vec<Draft> = forward.events.into_iter().map(|event| draft(event, origin)).collect();
        if drafts.is_empty() {
            return Ok(Vec::new());
        }
        let stored = host.store_in_own(&stream, forward.chain.or(new), drafts).await;
        stored.map_err(|error| match error {
            Some(AppendError::Unknown { reason, .. }) => PeerError::Unknown(reason),
            Some(error) => refused(&error),
            None => PeerError::Refused("the chain is not here".to_owned()),
        })
    }

    /// Promises a stamp: everything that this host has stored or will store in the stream at or under it
    /// can be read already. Only for the life that is asked: of an earlier one, commits may be under way.
    pub async fn promise(&self, request: PromiseRequest) -> Result<Stamp, PeerError> {
        let host = &self.inner();
        if request.host != host.id {
            return Err(PeerError::Refused(format!("host `{}` is no more", request.host.0)));
        }
        // A clock that is too far ahead is not followed, but our own promise holds all the same.
        let _ = host.clock.observe(request.stamp);
        if host.clock.limit() < request.stamp {
            raise_limit(host, request.stamp).await;
        }
        if host.is_fenced() {
            return Err(PeerError::Refused("this host has been fenced".to_owned()));
        }
        Ok(host.clock.promise_for(&request.stream))
    }
}

impl Inner {
    /// Opens the chain that a forward says is ours, if it is new to us.
    async fn open_new(self: &Arc<Self>, stream: &Arc<Stream>, forward: &Forward) -> Option<ChainId> {
        let listed = stream.listed().directory;
        let is_new = |id: ChainId| {
            let state = listed.chain(id).map(|chain| chain.state);
            stream.owned(id).is_none() && matches!(state, None | Some(ChainState::Pending))
        };
        let ours = forward
            .chains
            .iter()
            .find(|chain| chain.owner == self.id && is_new(chain.id))?;
        match directory::activate(self, stream, ours.id).await {
            Ok(()) => Some(ours.id),
            Err(error) => {
                tracing::debug!(%error, chain = ours.id.0, "a new chain was not opened");
                None
            }
        }
    }
}

fn draft(event: ForwardedEvent, origin: Option<Stamp>) -> Draft {
    Draft {
        id: event.id,
        is_given: event.is_given,
        origin,
        key: event.key,
        body: event.body,
    }
}
