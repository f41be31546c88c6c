//! Creating an object in whichever store is up, with one identifier told whatever fails on the way.
//!
//! ```text
//!   token? ─▶ look the claim up in all stores ─▶ found: the first answer
//!     │ not found; stores that could not be asked are in doubt
//!     ▼
//!   draw a store ─▶ commit [claim, sweep note, beacon, ITEM] ─▶ told
//!     ▲                 │ unavailable: nothing applied     │ unknown: in doubt
//!     └── another store ┴──────────────────────────────────┘ the next item supersedes those in doubt
//! ```

use futures_util::future::join_all;

use super::backend::{Backend, Deadline};
use super::error::{CreateError, StoreError, commit_failed};
use super::id::{ObjectId, Unique};
use super::model::{Create, Created, EventKind, check_body, check_indexes};
use super::record::{EventRecord, Item, Loser, LoserBy, Origin, State, decode_claim, encode_claim, encode_sweep};
use super::{Objects, detector, keys, settle};
use crate::{CommitError, Condition, Key, Write};

/// What all attempts of one create share.
struct Attempt {
    request_id: u128,
    origin: Origin,
    event_id: u128,
    indexes: Vec<super::record::IndexRef>,
    /// The items that may exist although nobody was told of them.
    doubts: Vec<Loser>,
    last_unique: Option<u128>,
    until: Deadline,
}

/// How the attempt on one store ended.
enum Tried {
    Done(Created),
    /// The token has made its object here earlier.
    Met,
    /// Nothing was applied there, and nothing will be.
    Nothing(String),
    Unknown(Loser, String),
    Failed(CreateError),
}

/// What a claim leads to.
enum Claimed {
    Nothing,
    /// The token may make nothing here any more.
    Barred,
    /// A claim whose item was not written yet.
    Unfinished(Unique),
    Item(ObjectId, Box<Item>),
}

/// What another store may still make of a token that has its object.
enum Open {
    /// Nothing has taken the token's claim there.
    Claim,
    /// The claim was taken for an item that has not come.
    Item(Unique),
    /// It could not be asked.
    Unasked,
}

impl Objects {
    /// Creates an object; the identifier tells in which store.
    pub async fn create(&self, create: Create) -> Result<Created, CreateError> {
        let mut attempt = self.attempt(&create)?;
        self.reach("create.begun").await;
        let created = loop {
            if attempt.origin == Origin::Token {
                if let Some(first) = self.first_answer(&mut attempt).await? {
                    break first;
                }
                self.reach("create.looked-up").await;
            }
            if let Some(created) = self.try_stores(&create, &mut attempt).await? {
                self.count(|metrics| metrics.created += 1);
                break created;
            }
        };
        if attempt.origin == Origin::Token {
            self.0.recall.lock().tell(attempt.request_id, &created);
        }
        Ok(created)
    }

    fn attempt(&self, create: &Create) -> Result<Attempt, CreateError> {
        create.caller.check()?;
        check_body(&create.body)?;
        let token = create.caller.token_number("create");
        Ok(Attempt {
            request_id: token.unwrap_or_else(|| self.random_number()),
            origin: if token.is_some() { Origin::Token } else { Origin::Random },
            event_id: self.random_number(),
            indexes: check_indexes(&create.indexes, 1)?,
            doubts: Vec::new(),
            last_unique: None,
            until: self.deadline(),
        })
    }

    /// None: the token has its object already.
    async fn try_stores(&self, create: &Create, attempt: &mut Attempt) -> Result<Option<Created>, CreateError> {
        let mut tried: Vec<usize> = Vec::new();
        let mut reason = "all stores are judged down".to_owned();
        let mut unknown = None;
        while let Some(index) = self.draw(&tried) {
            if attempt.until.is_over() {
                break;
            }
            if !tried.is_empty() {
                self.count(|metrics| metrics.create_retries += 1);
            }
            tried.push(index);
            self.reach("create.drawn").await;
            let backend = &self.0.backends[index];
            let unique = self.later_unique(attempt);
            match self.create_in(backend, unique, create, attempt).await {
                Tried::Done(created) => return Ok(Some(created)),
                Tried::Met => return Ok(None),
                Tried::Failed(error) => return Err(error),
                Tried::Nothing(why) => reason = why,
                Tried::Unknown(loser, why) => {
                    self.count(|metrics| metrics.creates_in_doubt += 1);
                    unknown = Some((index, unique, why));
                    if attempt.origin == Origin::Token {
                        self.0.recall.lock().doubt(attempt.request_id, &backend.name, unique);
                    }
                    attempt.doubts.push(loser);
                }
            }
        }
        match unknown {
            None => Err(CreateError::Unavailable(reason)),
            Some((index, unique, why)) => self.resolve(index, unique, attempt, why).await.map(Some),
        }
    }

    /// A fresh one that sorts after those of earlier attempts, so that the last attempt wins.
    fn later_unique(&self, attempt: &mut Attempt) -> Unique {
        let fresh = Unique::random(&self.0.clock, &self.0.entropy).number();
        let later = attempt.last_unique.map_or(fresh, |last| fresh.max(last + 1));
        attempt.last_unique = Some(later);
        Unique::from_number(later)
    }

    /// No other store took the object: the last one in doubt may have it after all.
    async fn resolve(
        &self,
        index: usize,
        unique: Unique,
        attempt: &Attempt,
        why: String,
    ) -> Result<Created, CreateError> {
        let backend = &self.0.backends[index];
        let item = match attempt.origin {
            Origin::Random => backend.item(unique, attempt.until).await.ok().flatten(),
            Origin::Token => None,
        };
        if item.is_some_and(|found| found.item.request_id == attempt.request_id && found.item.state != State::Barred) {
            return Ok(told(backend.id(unique)));
        }
        if let Ok(Claimed::Item(id, _)) = self.claimed(backend, attempt.request_id, attempt.until).await {
            return Ok(told(id));
        }
        Err(CreateError::Unknown(why))
    }

    /// The index of a store to create in, drawn by weight among those not tried yet.
    fn draw(&self, tried: &[usize]) -> Option<usize> {
        let weight = |(index, backend): (usize, &Backend)| {
            if tried.contains(&index) {
                return 0.0;
            }
            backend.judge(|detector, _| detector.weight())
        };
        let weights: Vec<f64> = self.0.backends.iter().enumerate().map(weight).collect();
        detector::pick(&weights, self.0.entropy.unit())
    }

    /// The answer that this token got before, if any. Stores that cannot be asked become doubts.
    async fn first_answer(&self, attempt: &mut Attempt) -> Result<Option<Created>, CreateError> {
        if let Some(created) = self.0.recall.lock().told(attempt.request_id) {
            return Ok(Some(created));
        }
        let (request_id, until) = (attempt.request_id, attempt.until);
        let ask = self
            .0
            .backends
            .iter()
            .map(|backend| self.claimed(backend, request_id, until));
        let (mut found, mut open) = (Vec::new(), Vec::new());
        attempt.doubts.retain(|doubt| doubt.by != LoserBy::Claim);
        for (backend, answer) in self.0.backends.iter().zip(join_all(ask).await) {
            match answer {
                Ok(Claimed::Item(id, item)) => found.push((id, *item)),
                Ok(Claimed::Nothing) => open.push((backend, Open::Claim)),
                Ok(Claimed::Unfinished(unique)) => open.push((backend, Open::Item(unique))),
                Ok(Claimed::Barred) => {}
                Err(StoreError::Unavailable { .. }) => {
                    open.push((backend, Open::Unasked));
                    attempt.doubts.push(Loser {
                        store: backend.name.clone(),
                        by: LoserBy::Claim,
                    });
                }
                Err(error) => return Err(error.into()),
            }
        }
        let unbeaten = found.iter().filter(|(id, item)| {
            let beaten = |(other, winner): &(ObjectId, Item)| other != id && beats((other, winner), (id, item));
            !found.iter().any(beaten)
        });
        let Some(winner) = unbeaten.map(|(id, _)| id).max_by_key(|id| id.unique) else {
            return Ok(None);
        };
        self.keep_out(winner, open, attempt).await?;
        Ok(Some(told(winner.clone())))
    }

    /// Before an earlier answer is told again, attempts still on their way to other stores are kept out:
    /// one of them could supersede it. A store that cannot be asked is trusted, unless this front end itself
    /// has left a later attempt there in doubt.
    async fn keep_out(
        &self,
        winner: &ObjectId,
        open: Vec<(&Backend, Open)>,
        attempt: &Attempt,
    ) -> Result<(), CreateError> {
        let (request_id, until) = (attempt.request_id, attempt.until);
        for (backend, open) in open {
            let is_kept_out = match open {
                Open::Claim => {
                    let claim = keys::claim(request_id);
                    let bar = Write::Put(claim.clone(), encode_claim(None));
                    self.bar(backend, claim, bar, until).await.is_ok()
                }
                Open::Item(unique) if unique > winner.unique => {
                    self.bar_item(backend, unique, request_id, until).await.is_ok()
                }
                Open::Item(_) => true,
                Open::Unasked => !self.0.recall.lock().threatens(request_id, &backend.name, winner.unique),
            };
            if !is_kept_out {
                let why = format!("`{winner}` is not certain to stay");
                return Err(CreateError::Unknown(why));
            }
        }
        Ok(())
    }

    async fn claimed(&self, backend: &Backend, request_id: u128, until: Deadline) -> Result<Claimed, StoreError> {
        let Some(entry) = backend.get(&keys::claim(request_id), until).await? else {
            return Ok(Claimed::Nothing);
        };
        let claim = decode_claim(entry.value).map_err(|source| backend.unreadable(source))?;
        let Some(unique) = claim else {
            return Ok(Claimed::Barred);
        };
        Ok(match backend.item(unique, until).await? {
            None => Claimed::Unfinished(unique),
            Some(found) if found.item.state == State::Barred => Claimed::Barred,
            Some(found) => Claimed::Item(backend.id(unique), Box::new(found.item)),
        })
    }

    async fn create_in(&self, backend: &Backend, unique: Unique, create: &Create, attempt: &Attempt) -> Tried {
        let item = self.first_item(backend, create, attempt);
        let mut conditions = vec![Condition::Absent(keys::item(unique))];
        let mut writes = writes(unique, &item);
        if attempt.origin == Origin::Token {
            let claim = keys::claim(attempt.request_id);
            conditions.insert(0, Condition::Absent(claim.clone()));
            writes.insert(0, Write::Put(claim, encode_claim(Some(unique))));
        }
        match backend.commit(conditions, writes, attempt.until).await {
            Err(CommitError::Conflict(key)) => self.met_other(backend, (unique, key), item, attempt).await,
            ended => self.committed(backend, unique, item, (ended, attempt)).await,
        }
    }

    /// Something is there already: the claim of the same token, or a bar against this item.
    async fn met_other(&self, backend: &Backend, met: (Unique, Key), item: Item, attempt: &Attempt) -> Tried {
        let (unique, key) = met;
        if key == keys::item(unique) {
            return match backend.item(unique, attempt.until).await {
                // The store applied it when it was first asked, and was asked again on the way.
                Ok(Some(found)) if found.item.request_id == attempt.request_id && found.item.state != State::Barred => {
                    Tried::Done(told(backend.id(unique)))
                }
                Ok(_) => Tried::Nothing("the identifier is taken".to_owned()),
                Err(error) => Tried::Unknown(loser(backend, unique, attempt), error.to_string()),
            };
        }
        match self.claimed(backend, attempt.request_id, attempt.until).await {
            Ok(Claimed::Item(..)) => Tried::Met,
            Ok(Claimed::Nothing | Claimed::Barred) => {
                Tried::Nothing("the token has made its object in another store".to_owned())
            }
            Ok(Claimed::Unfinished(claimed)) => self.finish(backend, claimed, item, attempt).await,
            Err(error) => Tried::Unknown(loser(backend, unique, attempt), error.to_string()),
        }
    }

    /// Writes the item that another process claimed for the same token and did not come to write.
    async fn finish(&self, backend: &Backend, unique: Unique, item: Item, attempt: &Attempt) -> Tried {
        let conditions = vec![Condition::Absent(keys::item(unique))];
        match backend.commit(conditions, writes(unique, &item), attempt.until).await {
            Err(CommitError::Conflict(_)) => match self.claimed(backend, attempt.request_id, attempt.until).await {
                Ok(Claimed::Item(..)) => Tried::Met,
                Ok(_) => Tried::Nothing("the token has made its object in another store".to_owned()),
                Err(error) => Tried::Unknown(loser(backend, unique, attempt), error.to_string()),
            },
            ended => self.committed(backend, unique, item, (ended, attempt)).await,
        }
    }

    async fn committed(
        &self,
        backend: &Backend,
        unique: Unique,
        item: Item,
        ended: (Result<crate::Version, CommitError>, &Attempt),
    ) -> Tried {
        let (ended, attempt) = ended;
        match ended {
            Ok(version) => {
                self.reach("create.committed").await;
                self.settle(backend, unique, settle::found(item, version), attempt.until)
                    .await;
                self.reach("create.settled").await;
                Tried::Done(told(backend.id(unique)))
            }
            Err(error @ CommitError::Unknown(_)) => Tried::Unknown(loser(backend, unique, attempt), error.to_string()),
            Err(error @ (CommitError::Unavailable(_) | CommitError::Conflict(_))) => Tried::Nothing(error.to_string()),
            Err(error @ CommitError::TooLarge(_)) => Tried::Failed(commit_failed(&backend.name, &error).into()),
        }
    }

    fn first_item(&self, backend: &Backend, create: &Create, attempt: &Attempt) -> Item {
        let at_micros = self.0.clock.now().as_micros();
        Item {
            state: State::Live,
            version: 1,
            created_at_micros: at_micros,
            request_id: attempt.request_id,
            supersedes: self.losers(backend, attempt),
            body: create.body.clone(),
            pending_removes: (!attempt.indexes.is_empty()).then(Vec::new),
            indexes: attempt.indexes.clone(),
            events: vec![EventRecord {
                event_id: attempt.event_id,
                kind: EventKind::Create,
                version: 1,
                at_micros,
                by: create.caller.by.clone(),
                request: create.caller.request.clone(),
                origin: Origin::Random,
                body: None,
            }],
        }
    }

    /// What the item in this store supersedes. A token's late attempts are kept out of all other stores; in
    /// its own store the conditions of the commit keep a second item out.
    fn losers(&self, backend: &Backend, attempt: &Attempt) -> Vec<Loser> {
        let mut losers = attempt.doubts.clone();
        losers.retain(|doubt| doubt.store != backend.name);
        if attempt.origin == Origin::Token {
            let others = self.0.backends.iter().map(|other| &other.name);
            let unnamed: Vec<_> = others
                .filter(|name| **name != backend.name && losers.iter().all(|loser| loser.store != **name))
                .cloned()
                .collect();
            losers.extend(unnamed.into_iter().map(|store| Loser {
                store,
                by: LoserBy::Claim,
            }));
        }
        losers
    }
}

/// The writes of a first item, the item last: what comes before it means nothing without it.
fn writes(unique: Unique, item: &Item) -> Vec<Write> {
    let sweep = (!item.supersedes.is_empty()).then(|| Write::Put(keys::sweep(unique), encode_sweep()));
    let beacon = settle::beacon(unique, item);
    let item = Write::Put(keys::item(unique), item.encode());
    sweep.into_iter().chain(beacon).chain([item]).collect()
}

fn loser(backend: &Backend, unique: Unique, attempt: &Attempt) -> Loser {
    Loser {
        store: backend.name.clone(),
        by: match attempt.origin {
            Origin::Random => LoserBy::Unique(unique),
            Origin::Token => LoserBy::Claim,
        },
    }
}

/// Whether the first of two items of one request is the one that stays. If each supersedes the other it is
/// the later one: a retry made it, after the other attempt had been given up.
pub(super) fn beats(winner: (&ObjectId, &Item), loser: (&ObjectId, &Item)) -> bool {
    let mutual = supersedes(loser.1, winner.0);
    supersedes(winner.1, loser.0) && (!mutual || winner.0.unique > loser.0.unique)
}

fn supersedes(item: &Item, other: &ObjectId) -> bool {
    let mut named = item.supersedes.iter().filter(|loser| loser.store == other.store);
    named.any(|loser| loser.by == LoserBy::Claim || loser.by == LoserBy::Unique(other.unique))
}

fn told(id: ObjectId) -> Created {
    Created { id, version: 1 }
}
