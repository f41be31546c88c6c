//! What the forecasts have learnt, kept in the store: written rarely, read at the node's start.
//!
//! ```text
//!   every half hour, and at the stop ─▶ a record a version, one of what all have taught ─▶ start: recall ─▶ consider
//! ```
//! Each node keeps its own, for it forecasts the calls that it has seen. A record is a help and no more: one that is missing or
//! cannot be used costs cold starts until the same is learnt again.

use std::collections::HashMap;
use std::sync::Arc;

use bowline_capacity::forecast::{FunctionIndex, Teaching};
use bowline_capacity::keeper::Memory;
use bowline_store::record::Record;
use bowline_store::{Entry, Key, ReadError, Write};
use serde::{Deserialize, Serialize};

use super::{Foresight, State, Step};
use crate::invoke::Pool;
use crate::service::Inner;

/// How many minutes pass from one time to the next.
pub(super) const SAVED_EVERY: u32 = 30;
/// Records of one commit, or of one page: they have some kilobytes each.
const PAGE: usize = 256;

/// What is known of the calls of one version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct ForecastRecord {
    /// How long its last start took.
    start_micros: u32,
    /// Names other versions by their ARN.
    memory: Memory<String>,
}

impl Record for ForecastRecord {
    const FORMAT: u32 = 1;
}

/// What the functions of one node have taught.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct TeachingRecord {
    teaching: Teaching,
}

impl Record for TeachingRecord {
    const FORMAT: u32 = 1;
}

/// `forecasts/NODE/version/ARN`: a [`ForecastRecord`]; the node's name is that of its data folder. Lives until the node
/// finds the version gone. Missing: nothing is known of its calls.
fn version(node: &str, arn: &str) -> Key {
    format!("{}{arn}", versions(node)).into()
}

fn versions(node: &str) -> String {
    format!("forecasts/{node}/version/")
}

/// `forecasts/NODE/teaching`: a [`TeachingRecord`]. Lives for ever. Missing: no function has taught anything.
fn teaching(node: &str) -> Key {
    format!("forecasts/{node}/teaching").into()
}

impl Foresight {
    /// Says what is to be done at once, if memories have come.
    pub(super) fn consider(&self) -> Vec<Step> {
        let mut state = self.state.lock();
        if !std::mem::take(&mut state.recalled) {
            return Vec::new();
        }
        let changes = state.keeper.consider();
        state.steps(changes)
    }

    /// Writes for a page of versions, those from `from` on; `None` if there are no more.
    fn page(&self, node: &str, from: usize) -> Option<Vec<Write>> {
        let mut state = self.state.lock();
        let mut places: Vec<(Box<str>, FunctionIndex)> = Vec::new();
        places.extend(state.known.iter().map(|(key, place)| (key.clone(), *place)));
        places.sort_unstable_by_key(|(_, place)| *place);
        let names: HashMap<FunctionIndex, &str> = places.iter().map(|(key, place)| (*place, &**key)).collect();
        let page: Vec<_> = places.iter().skip(from).take(PAGE).collect();
        if page.is_empty() {
            return None;
        }
        let mut writes = Vec::new();
        for (key, place) in page {
            let pool = state.pools[place.0 as usize].upgrade();
            let Some(pool) = pool.filter(|pool| !pool.is_retired()) else {
                continue;
            };
            let Memory { habits, crowd } = state.keeper.memory(*place);
            let record = ForecastRecord {
                start_micros: u32::try_from(pool.start_time().as_micros()).unwrap_or(u32::MAX),
                memory: Memory {
                    habits: habits.renamed(|leader| names.get(&leader).map(|name| (*name).to_owned())),
                    crowd,
                },
            };
            writes.push(Write::Put(version(node, key), record.encode()));
            state.kept.insert(key.clone());
        }
        Some(writes)
    }

    /// Writes that remove what is known of versions that are gone.
    fn departed(&self, node: &str) -> Vec<Write> {
        let mut state = self.state.lock();
        let State { kept, known, pools, .. } = &mut *state;
        let is_gone = |place: &FunctionIndex| pools[place.0 as usize].upgrade().is_none_or(|pool| pool.is_retired());
        let gone: Vec<Box<str>> = kept.extract_if(|key| known.get(key).is_none_or(is_gone)).collect();
        gone.iter().map(|key| Write::Delete(version(node, key))).collect()
    }

    fn taught(&self) -> TeachingRecord {
        TeachingRecord {
            teaching: self.state.lock().keeper.teaching(),
        }
    }

    /// Takes what was known of the versions that are still there.
    fn recall(&self, pools: &[Arc<Pool>], mut records: HashMap<Box<str>, ForecastRecord>) {
        let mut state = self.state.lock();
        state.kept.extend(records.keys().cloned());
        let mut found: Vec<_> = pools
            .iter()
            .filter_map(|pool| Some((pool, records.remove(&pool.key)?)))
            .collect();
        // A new version is expected to be called as the one that was called last.
        found.sort_by_key(|(_, record)| record.memory.habits.last);
        for (pool, _) in &found {
            state.place(pool);
        }
        for (pool, ForecastRecord { start_micros, memory }) in found {
            let place = state.place(pool);
            let memory = Memory {
                habits: memory
                    .habits
                    .renamed(|leader| state.known.get(leader.as_str()).copied()),
                crowd: memory.crowd,
            };
            if state.keeper.recall(place, &memory) {
                pool.recall_start_time(start_micros);
                state.keeper.set_kept(place, super::judged(pool));
                state.recalled = true;
            } else {
                tracing::warn!(version = %pool.key, "what is known of its calls cannot be used: it is learnt anew");
            }
        }
    }
}

impl Inner {
    /// Writes down what the forecasts have learnt. What cannot be written now is written the next time.
    pub async fn keep_forecasts(&self) {
        let taught = Write::Put(teaching(&self.node), self.foresight.taught().encode());
        let mut writes = vec![taught];
        writes.extend(self.foresight.departed(&self.node));
        let mut from = 0;
        loop {
            // Deletions are small, but there may be many.
            for some in writes.chunks(PAGE) {
                if let Err(error) = self.registry.store().commit(Vec::new(), some.to_vec()).await {
                    tracing::warn!(%error, "what is known of the calls of functions cannot be kept now");
                    return;
                }
            }
            match self.foresight.page(&self.node, from) {
                Some(page) => writes = page,
                None => return,
            }
            from += PAGE;
        }
    }

    /// Goes on from what this node had learnt, if it can be read.
    pub async fn recall_forecasts(&self) {
        let records = match self.read_forecasts().await {
            Ok(records) => records,
            Err(error) => {
                tracing::warn!(%error, "what is known of the calls of functions cannot be read: it is learnt anew");
                return;
            }
        };
        let functions = self.registry.snapshot.all();
        let pools: Vec<Arc<Pool>> = functions.iter().flat_map(|entry| entry.pools()).cloned().collect();
        self.foresight.recall(&pools, records);
    }

    async fn read_forecasts(&self) -> Result<HashMap<Box<str>, ForecastRecord>, ReadError> {
        let store = self.registry.store();
        let taught = store.get(&teaching(&self.node)).await?;
        if let Some(record) = taught.and_then(|entry| read::<TeachingRecord>("teaching", &entry))
            && !self.foresight.state.lock().keeper.learn_from(&record.teaching)
        {
            tracing::warn!("what functions have taught cannot be used: it is learnt anew");
        }
        let prefix = versions(&self.node);
        let (mut records, mut after) = (HashMap::new(), None);
        loop {
            let page = store.scan(&prefix.clone().into(), after.as_ref(), PAGE).await?;
            let is_last = page.len() < PAGE;
            for (key, entry) in &page {
                let text = String::from_utf8_lossy(key);
                let arn = text.strip_prefix(&*prefix).unwrap_or_default();
                if let Some(record) = read::<ForecastRecord>(arn, entry) {
                    records.insert(arn.into(), record);
                }
            }
            after = page.into_iter().last().map(|(key, _)| key);
            if is_last {
                return Ok(records);
            }
        }
    }
}

fn read<R: Record>(what: &str, entry: &Entry) -> Option<R> {
    let read = R::decode(&entry.value);
    if let Err(error) = &read {
        tracing::warn!(what, %error, "a record of forecasts cannot be read: it is learnt anew");
    }
    read.ok()
}

#[cfg(test)]
mod tests {
    use bowline_capacity::forecast::{Habits, Led};
    use bowline_capacity::slot::Slot;

    use super::*;

    /// The record is read from its golden file, and written as it.
    fn check<R: Record + PartialEq + std::fmt::Debug>(record: &R, golden: &str) {
        let golden = golden.trim_end();
        assert_eq!(String::from_utf8_lossy(&record.encode()), golden);
        assert_eq!(&R::decode(golden.as_bytes()).unwrap(), record);
    }

    #[test]
    fn forecasts_read_as_they_were_written() {
        let habits = Habits {
            until: Slot(29_833_350),
            last: Some(Slot(29_833_340)),
            gaps: [vec![0, 3], vec![1], vec![1, 3]],
            ran_on: true,
            rhythm: [30, 29, 5],
            hours: vec![[1.5, 60.0], [0.0, 0.25]],
            week: vec![0, u64::MAX],
            rates: [0.5, 0.25, 0.125, 0.0625],
            watched: 20_000.0,
            leaders: vec![Led {
                leader: "arn:aws:lambda:us-east-1:000000000000:function:g:7".to_owned(),
                lag: 2,
                trials: 9,
                hits: 8,
                calls: 8,
            }],
        };
        let crowd = vec![1.0, 0.5, 12.0];
        let record = ForecastRecord {
            start_micros: 81_234,
            memory: Memory { habits, crowd },
        };
        check(&record, include_str!("golden/forecast-1.json"));
        let teaching = Teaching {
            odds: [vec![[0.5, 3.0]], vec![[0.25, 1.0]], Vec::new(), vec![[0.0, 1000.0]]],
            weights: [vec![vec![-0.5, 2.0]], vec![vec![0.125, 0.0], vec![1.0, 8.0]]],
        };
        check(&TeachingRecord { teaching }, include_str!("golden/teaching-1.json"));
    }
}
