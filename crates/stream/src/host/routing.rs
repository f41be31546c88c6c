//! Where an append goes: to a chain here, or to another host.
//!
//! ```text
//!   first identifier given ──▶ its home: chain 1 + hash % chains at first, wherever its owner is
//!   else, a chain here     ──▶ the first one that is not busy, else the least busy
//!   else                   ──▶ forwarded to the owner of an active chain, with others that go there;
//!                              all fail: stored in a chain that is added here
//! ```
//! A client's retry begins with the same identifier, so it meets the chain that remembers the first try.
//! An append without identifiers that is forwarded carries its origin with it: should the answer be lost
//! and another host store it again, readers drop the later copy.

use std::sync::Arc;

use super::{Handle, Inner, Refusal, Stream, directory, maintain};
use crate::append::{AppendError, Record, check};
use crate::peers::{Forward, ForwardedEvent, PeerChain, PeerError, PeerHost};
use crate::record::{ChainState, Draft};
use crate::{ChainId, EventId, HostId, Position, Stamp, StreamId};

/// A chain with more events waiting than this is busy: the next one is taken.
const BUSY_EVENTS: usize = 512;
/// How often an append is routed anew before it fails.
const ATTEMPTS: u32 = 8;

/// What is left of an append that was not acknowledged.
pub(super) enum Left {
    /// To be routed again.
    Again(Back),
    Failed(AppendError),
}

impl Left {
    pub fn stopping(stream: &StreamId) -> Self {
        Self::Failed(unknown(stream, "the host is stopping".to_owned()))
    }

    pub fn overloaded(stream: &StreamId) -> Self {
        Self::Failed(AppendError::Overloaded(stream.clone()))
    }

    /// What is left of the first so many drafts.
    pub fn split(&mut self, count: usize) -> Self {
        match self {
            Self::Failed(error) => Self::Failed(error.clone()),
            Self::Again(back) => {
                let later = back.drafts.split_off(count.min(back.drafts.len()));
                Self::Again(Back {
                    drafts: std::mem::replace(&mut back.drafts, later),
                    reason: back.reason.clone(),
                    may_be_stored: back.may_be_stored,
                })
            }
        }
    }
}

/// Where an append may be stored.
enum Way {
    Here(ChainId),
    There(HostId, Option<ChainId>),
}

/// An append that came back.
pub(super) struct Back {
    drafts: Vec<Draft>,
    reason: String,
    /// Whether a host that did not answer may have stored it. Its events have an origin then.
    may_be_stored: bool,
}

impl Back {
    fn unstored(drafts: Vec<Draft>, reason: impl Into<String>) -> Left {
        Left::Again(Self {
            drafts,
            reason: reason.into(),
            may_be_stored: false,
        })
    }
}

impl Handle {
    /// Stores `records` one after the other in one chain, all or none; returns their positions.
    ///
    /// **Durability.** What `Ok` returned positions for survives the death of the process and the machine.
    /// **Idempotence.** Records with identifiers are stored once, however often they are appended.
    /// **Cancellation.** Leaves open whether the records are stored.
    /// **Waiting.** For as long as the store does not say how a commit ended: the caller limits the time.
    pub async fn append(&self, stream: &StreamId, records: Vec<Record>) -> Result<Vec<Position>, AppendError> {
        check(&records)?;
        let host = self.inner();
        let found = host.of(stream).await?;
        let drafts = host.drafts(records);
        let positions = host.route(&found, drafts).await?;
        self.hear(&host, &positions);
        Ok(positions)
    }
}

impl Inner {
    async fn of(&self, id: &StreamId) -> Result<Arc<Stream>, AppendError> {
        if let Some(stream) = self.known(id.name())
            && stream.id == *id
        {
            return Ok(stream);
        }
        match self.find(id.name()).await {
            Ok(Some(stream)) if stream.id == *id => Ok(stream),
            Ok(_) => Err(AppendError::NoSuchStream(id.clone())),
            Err(bowline_store::ReadError::Damaged(reason)) => Err(AppendError::Damaged {
                stream: id.clone(),
                reason,
            }),
            Err(bowline_store::ReadError::Unavailable(reason)) => Err(unavailable(id, reason)),
        }
    }

    /// Gives identifiers to records that have none: one random number an append, counted on.
    fn drafts(&self, records: Vec<Record>) -> Vec<Draft> {
        let mut base = [0; 16];
        self.entropy.fill(&mut base);
        let base = u128::from_be_bytes(base);
        let draft = |(at, record): (usize, Record)| Draft {
            is_given: record.id.is_some(),
            id: record
                .id
                .unwrap_or_else(|| EventId(base.wrapping_add(at as u128).to_be_bytes())),
            origin: None,
            key: record.key,
            body: record.body,
        };
        records.into_iter().enumerate().map(draft).collect()
    }

    async fn route(
        self: &Arc<Self>,
        stream: &Arc<Stream>,
        mut drafts: Vec<Draft>,
    ) -> Result<Vec<Position>, AppendError> {
        let (mut last, mut may_be_stored) = (String::new(), false);
        for attempt in 0..ATTEMPTS {
            if self.is_fenced() && !may_be_stored {
                return Err(AppendError::Fenced);
            }
            if attempt > 0 && !self.look_again(stream).await {
                return Err(match may_be_stored {
                    true => unknown(&stream.id, "the stream has been deleted".to_owned()),
                    false => AppendError::NoSuchStream(stream.id.clone()),
                });
            }
            let left = match drafts[0].is_given.then(|| home(stream, drafts[0].id)) {
                Some(chain) => self.store_in(stream, chain, drafts).await,
                None => self.store_anywhere(stream, drafts).await,
            };
            match left {
                Ok(positions) => return Ok(positions),
                Err(Left::Failed(error)) if !may_be_stored => return Err(error),
                Err(Left::Failed(error)) => return Err(unknown(&stream.id, error.to_string())),
                Err(Left::Again(back)) => {
                    (drafts, last) = (back.drafts, back.reason);
                    may_be_stored |= back.may_be_stored;
                }
            }
        }
        match may_be_stored {
            true => Err(unknown(&stream.id, last)),
            false => Err(unavailable(&stream.id, last)),
        }
    }

    /// Reads the directory again, after a pause: what we knew of it led nowhere. Whether there is a stream.
    async fn look_again(&self, stream: &Arc<Stream>) -> bool {
        tokio::time::sleep(self.config.retry_pause).await;
        !matches!(directory::current(self, stream).await, Ok(None))
    }

    async fn store_in(&self, stream: &Arc<Stream>, chain: ChainId, drafts: Vec<Draft>) -> Result<Vec<Position>, Left> {
        if stream.owned(chain).is_some() {
            return self.store_here(stream, chain, drafts).await;
        }
        let listed = stream.listed();
        match listed.directory.chain(chain) {
            Some(info) if info.owner != self.id => self.forward(stream, (info.owner, Some(chain)), drafts, None).await,
            _ => Err(Back::unstored(drafts, format!("chain `{}` is changing hands", chain.0))),
        }
    }

    async fn store_anywhere(self: &Arc<Self>, stream: &Arc<Stream>, drafts: Vec<Draft>) -> Result<Vec<Position>, Left> {
        let mut back = Back {
            drafts,
            reason: "no chain is active".to_owned(),
            may_be_stored: false,
        };
        // A chain that was added elsewhere for this load gets the next request, with the news of it.
        let grown = stream.grown.lock().take();
        let news = grown.map(|(owner, chain)| Way::There(owner, Some(chain)));
        let here = pick(stream).map(Way::Here);
        let others = self.others(stream).into_iter().map(|owner| Way::There(owner, None));
        for way in news.into_iter().chain(here).chain(others) {
            let sent = match way {
                Way::Here(chain) => self.store_here(stream, chain, back.drafts).await,
                Way::There(owner, None) => self.send_along(stream, owner, back.drafts).await,
                Way::There(owner, chain) => {
                    let origin = self.give_origin(&mut back.drafts);
                    self.forward(stream, (owner, chain), back.drafts, Some(origin)).await
                }
            };
            match sent {
                Ok(positions) => return Ok(positions),
                Err(Left::Failed(error)) if !back.may_be_stored => return Err(Left::Failed(error)),
                Err(Left::Failed(error)) => return Err(Left::Failed(unknown(&stream.id, error.to_string()))),
                Err(Left::Again(next)) => {
                    back = Back {
                        may_be_stored: back.may_be_stored || next.may_be_stored,
                        ..next
                    };
                }
            }
        }
        if stream.all_owned().is_empty()
            && let Err(error) = maintain::add_own(self, stream).await
        {
            tracing::debug!(%error, stream = %stream.id, "no chain of our own was added");
        }
        Err(Left::Again(back))
    }

    /// From now on copies of the drafts may lie in several chains. The earliest origin that one has is everyone's:
    /// a copy may lie elsewhere since then.
    pub(super) fn give_origin(&self, drafts: &mut [Draft]) -> Stamp {
        let earliest = drafts.iter().filter_map(|draft| draft.origin).min();
        let origin = earliest.unwrap_or_else(|| self.clock.now());
        drafts.iter_mut().for_each(|draft| draft.origin = Some(origin));
        origin
    }

    /// Owners of active chains, without us, in an order that differs from append to append.
    fn others(&self, stream: &Stream) -> Vec<HostId> {
        let listed = stream.listed();
        let mut owners: Vec<HostId> = listed.directory.active().map(|chain| chain.owner).collect();
        owners.retain(|owner| *owner != self.id);
        owners.sort_unstable();
        owners.dedup();
        if !owners.is_empty() {
            let turn = (self.entropy.number() % owners.len() as u64) as usize;
            owners.rotate_left(turn);
        }
        owners
    }

    /// Has the owner of a chain of this host store the drafts.
    pub(crate) async fn store_in_own(
        &self,
        stream: &Arc<Stream>,
        chain: Option<ChainId>,
        drafts: Vec<Draft>,
    ) -> Result<Vec<Position>, Option<AppendError>> {
        let Some(chain) = chain.or_else(|| pick(stream)) else {
            return Err(None);
        };
        match self.store_here(stream, chain, drafts).await {
            Ok(positions) => Ok(positions),
            Err(Left::Failed(error)) => Err(Some(error)),
            Err(Left::Again(..)) => Err(None),
        }
    }

    async fn store_here(&self, stream: &Stream, chain: ChainId, drafts: Vec<Draft>) -> Result<Vec<Position>, Left> {
        let moved = || format!("chain `{}` has moved", chain.0);
        let Some(owned) = stream.owned(chain) else {
            return Err(Back::unstored(drafts, moved()));
        };
        let refusal = match owned.queue.push(drafts) {
            Err(refusal) => refusal,
            Ok(answer) => match answer.await {
                Ok(Ok(positions)) => return Ok(positions),
                Ok(Err(refusal)) => refusal,
                Err(_) => Refusal::Unknown("the host is stopping".to_owned()),
            },
        };
        let id = stream.id.clone();
        Err(match refusal {
            Refusal::Moved(drafts) => Back::unstored(drafts, moved()),
            Refusal::Full => Left::Failed(AppendError::Overloaded(id)),
            Refusal::NotStored(reason) => Left::Failed(unavailable(&id, reason)),
            Refusal::Unknown(reason) => Left::Failed(unknown(&id, reason)),
            Refusal::Skew(skew) => Left::Failed(AppendError::ClockSkew(skew)),
            Refusal::Damaged(reason) => Left::Failed(AppendError::Damaged { stream: id, reason }),
        })
    }

    /// Hands the drafts to another host. An answer that does not come leaves them with us if readers can
    /// tell copies apart: if they have an origin.
    pub(super) async fn forward(
        &self,
        stream: &Stream,
        (owner, chain): (HostId, Option<ChainId>),
        drafts: Vec<Draft>,
        origin: Option<Stamp>,
    ) -> Result<Vec<Position>, Left> {
        let Some(to) = self.peer(owner).await else {
            return Err(Back::unstored(drafts, format!("host `{}` is unknown", owner.0)));
        };
        let forward = Forward {
            stream: stream.id.clone(),
            events: drafts.iter().map(forwarded).collect(),
            hosts: self.peers_known(),
            chains: chains_known(stream),
            chain,
            stamp: self.clock.now(),
            origin,
        };
        let sent = tokio::time::timeout(self.config.forward_timeout, self.peers.forward(&to, forward)).await;
        let error = match sent {
            Ok(Ok(positions)) if positions.len() != drafts.len() => {
                PeerError::Unknown(format!("{} positions for {} events", positions.len(), drafts.len()))
            }
            Ok(Ok(positions)) => {
                // Whatever is stamped here from now on comes after what we have just heard of.
                if let Some(last) = positions.iter().max() {
                    self.clock.follow(last.stamp);
                }
                return Ok(positions);
            }
            Ok(Err(error)) => error,
            Err(_) => PeerError::Unknown("no answer in time".to_owned()),
        };
        let may_be_stored = matches!(error, PeerError::Unknown(_));
        if may_be_stored && origin.is_none() {
            return Err(Left::Failed(unknown(&stream.id, error.to_string())));
        }
        Err(Left::Again(Back {
            drafts,
            reason: error.to_string(),
            may_be_stored,
        }))
    }

    /// Where another host is reached.
    pub(crate) async fn peer(&self, id: HostId) -> Option<PeerHost> {
        let known = self.neighbours.lock().live.get(&id).map(|found| found.address.clone());
        let address = match known {
            Some(address) => address,
            None => {
                let entry = self.store.get(&crate::key::member(id)).await.ok()??;
                crate::record::Member::decode(&entry.value).ok()?.address
            }
        };
        Some(PeerHost { id, address })
    }

    pub(crate) fn peers_known(&self) -> Vec<PeerHost> {
        let us = PeerHost {
            id: self.id,
            address: self.address.clone(),
        };
        let neighbours = self.neighbours.lock();
        let others = neighbours.live.iter().map(|(&id, neighbour)| PeerHost {
            id,
            address: neighbour.address.clone(),
        });
        std::iter::once(us).chain(others).collect()
    }
}

fn unknown(stream: &StreamId, reason: String) -> AppendError {
    AppendError::Unknown {
        stream: stream.clone(),
        reason,
    }
}

fn unavailable(stream: &StreamId, reason: String) -> AppendError {
    AppendError::Unavailable {
        stream: stream.clone(),
        reason,
    }
}

fn forwarded(draft: &Draft) -> ForwardedEvent {
    ForwardedEvent {
        id: draft.id,
        is_given: draft.is_given,
        key: draft.key.clone(),
        body: draft.body.clone(),
    }
}

fn chains_known(stream: &Stream) -> Vec<PeerChain> {
    let listed = stream.listed();
    let unsealed = listed
        .directory
        .chains
        .iter()
        .filter(|chain| chain.state != ChainState::Sealed);
    unsealed
        .map(|chain| PeerChain {
            id: chain.id,
            owner: chain.owner,
        })
        .collect()
}

/// The chain that takes all events of an append whose first identifier was given.
fn home(stream: &Stream, id: EventId) -> ChainId {
    // FNV-1a: the same on every host and in every build.
    let hash = id.0.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    ChainId(1 + (hash % u64::from(stream.id.chains())) as u32)
}

/// The first chain here that is not busy, else the least busy one.
fn pick(stream: &Stream) -> Option<ChainId> {
    let owned = stream.all_owned();
    let depths = owned.iter().map(|owned| (owned.queue.depth(), owned.chain));
    let idle = depths.clone().find(|(depth, _)| *depth < BUSY_EVENTS);
    idle.or_else(|| depths.min()).map(|(_, chain)| chain)
}
