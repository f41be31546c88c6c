//! Appends combined into one batch: which of their events are new, and where the others already lie.

use std::collections::HashMap;

use super::queue::{Pending, Refusal, Reply};
use super::window::Window;
use crate::record::Draft;
use crate::{ChainId, EventId, HostId, Position, Stamp};

/// The new events of a batch, and for each append where its events are.
pub(crate) struct Batch {
    pub drafts: Vec<Draft>,
    appends: Vec<Append>,
}

struct Append {
    places: Places,
    reply: Reply,
}

enum Places {
    /// All events are new: so many from this number of the batch on.
    New { first: usize, count: usize },
    /// Some are repetitions.
    Mixed(Vec<Place>),
}

enum Place {
    New(usize),
    Known(Position),
}

impl Batch {
    pub fn of(pending: Vec<Pending>, window: &Window) -> Self {
        let mut batch = Self {
            drafts: Vec::with_capacity(pending.iter().map(|pending| pending.drafts.len()).sum()),
            appends: Vec::with_capacity(pending.len()),
        };
        let mut given: HashMap<EventId, usize> = HashMap::new();
        for Pending { drafts, reply, .. } in pending {
            let places = if drafts.iter().any(|draft| draft.is_given) {
                Places::Mixed(batch.add_given(drafts, window, &mut given))
            } else {
                let (first, count) = (batch.drafts.len(), drafts.len());
                batch.drafts.extend(drafts);
                Places::New { first, count }
            };
            batch.appends.push(Append { places, reply });
        }
        batch
    }

    fn add_given(&mut self, drafts: Vec<Draft>, window: &Window, given: &mut HashMap<EventId, usize>) -> Vec<Place> {
        let mut places = Vec::with_capacity(drafts.len());
        for draft in drafts {
            let known = if draft.is_given { window.get(&draft.id) } else { None };
            places.push(match (known, given.get(&draft.id)) {
                (Some(position), _) => Place::Known(position),
                (None, Some(&number)) => Place::New(number),
                (None, None) => {
                    given.insert(draft.id, self.drafts.len());
                    self.drafts.push(draft);
                    Place::New(self.drafts.len() - 1)
                }
            });
        }
        places
    }

    /// The answers once the batch is stored, its first event with this stamp and index.
    pub fn answers(self, (host, chain): (HostId, ChainId), first_stamp: Stamp, first_index: u64) -> Answers {
        let position = |number: usize| Position {
            stamp: Stamp(first_stamp.0 + number as u64),
            host,
            chain,
            index: first_index + number as u64,
        };
        let answer = |append: Append| {
            let positions = match append.places {
                Places::New { first, count } => (first..first + count).map(position).collect(),
                Places::Mixed(places) => places
                    .into_iter()
                    .map(|place| match place {
                        Place::New(number) => position(number),
                        Place::Known(known) => known,
                    })
                    .collect(),
            };
            (append.reply, positions)
        };
        Answers(self.appends.into_iter().map(answer).collect())
    }

    /// Tells every append why it was not stored.
    pub fn refuse(self, refusal: impl Fn() -> Refusal) {
        for append in self.appends {
            // Whoever gave up waiting does not want the answer.
            let _ = append.reply.send(Err(refusal()));
        }
    }

    /// Hands the events back, so that they may go elsewhere. Repetitions count as new there.
    pub fn hand_back(self) {
        let drafts = self.drafts;
        for append in self.appends {
            let numbers: Vec<usize> = match append.places {
                Places::New { first, count } => (first..first + count).collect(),
                Places::Mixed(places) if places.iter().any(|place| matches!(place, Place::Known(_))) => {
                    let _ = append
                        .reply
                        .send(Err(Refusal::NotStored("the chain has moved".to_owned())));
                    continue;
                }
                Places::Mixed(places) => places
                    .iter()
                    .filter_map(|place| match place {
                        Place::New(number) => Some(*number),
                        Place::Known(_) => None,
                    })
                    .collect(),
            };
            let back = numbers.into_iter().map(|number| drafts[number].clone()).collect();
            let _ = append.reply.send(Err(Refusal::Moved(back)));
        }
    }
}

/// Answers that wait to be sent.
pub(crate) struct Answers(Vec<(Reply, Vec<Position>)>);

impl Answers {
    pub fn send(self) {
        for (reply, positions) in self.0 {
            // Whoever gave up waiting does not want the answer.
            let _ = reply.send(Ok(positions));
        }
    }
}
