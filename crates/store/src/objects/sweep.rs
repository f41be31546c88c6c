//! Removing the second objects that creates in doubt may have left, and finishing what others began.
//!
//! An item with losers has a sweep note beside it, in its own store, until each loser is deleted with an
//! event or barred: a bar in its place makes a create that is still on its way fail for good.

use bytes::Bytes;
use futures_util::future::join_all;

use super::backend::{Backend, Deadline, Found};
use super::create::beats;
use super::error::StoreError;
use super::id::{ObjectId, Unique};
use super::model::{Caller, Delete, Expect, SweepReport};
use super::record::{Item, Loser, LoserBy, State, decode_claim, encode_claim};
use super::{ChangeError, Objects, keys};
use crate::{Condition, Key, Write};

/// Who deletes losers, in their events.
const SWEEPER: &str = "bowline/sweeper";
/// Notes worked on at the same time.
const NOTES_AT_ONCE: usize = 32;

impl SweepReport {
    fn add(&mut self, other: Self) {
        self.removed += other.removed;
        self.barred += other.barred;
        self.unresolved += other.unresolved;
        self.tidied += other.tidied;
        self.double_visible_max = self.double_visible_max.max(other.double_visible_max);
    }
}

impl Objects {
    /// Looks once through all stores that answer.
    pub async fn sweep(&self) -> SweepReport {
        let mut report = SweepReport::default();
        for backend in &self.0.backends {
            if let Err(error) = self.sweep_store(backend, &mut report).await {
                tracing::debug!(store = %backend.name, %error, "sweep is left to the next turn");
            }
        }
        self.reach("sweep.done").await;
        self.count(|metrics| {
            metrics.double_visible_removed += report.removed;
            metrics.double_visible_max = metrics.double_visible_max.max(report.double_visible_max);
        });
        report
    }

    async fn sweep_store(&self, backend: &Backend, report: &mut SweepReport) -> Result<(), StoreError> {
        for (key, _) in backend.scan_all(keys::BEACONS, self.deadline()).await? {
            report.tidied += self.settle_beacon(backend, key, self.deadline()).await;
        }
        let notes = backend.scan_all(keys::SWEEPS, self.deadline()).await?;
        for some in notes.chunks(NOTES_AT_ONCE) {
            let sweeps = some.iter().map(|(key, _)| self.sweep_note(backend, key));
            for swept in join_all(sweeps).await {
                report.add(swept?);
            }
        }
        Ok(())
    }

    async fn sweep_note(&self, backend: &Backend, note: &Key) -> Result<SweepReport, StoreError> {
        let mut report = SweepReport::default();
        let Some(unique) = keys::parse_sweep(note) else {
            return Ok(report);
        };
        self.reach("sweep.noted").await;
        // Without its item the note was written ahead, and the item may still come.
        if let Some(Found { item, .. }) = backend.item(unique, self.deadline()).await? {
            let winner = (note.clone(), backend.id(unique), &item);
            self.sweep_losers(backend, winner, &mut report).await;
        }
        Ok(report)
    }

    async fn sweep_losers(&self, backend: &Backend, winner: (Key, ObjectId, &Item), report: &mut SweepReport) {
        let (note, id, item) = winner;
        let until = self.deadline();
        for loser in &item.supersedes {
            if let Err(error) = self.sweep_loser((&id, item), loser, report, until).await {
                tracing::debug!(store = %loser.store, %error, "loser is left to the next sweep");
                report.unresolved += 1;
                return;
            }
            self.reach("sweep.resolved").await;
        }
        if backend.commit(vec![], vec![Write::Delete(note)], until).await.is_err() {
            report.unresolved += 1;
        }
    }

    async fn sweep_loser(
        &self,
        winner: (&ObjectId, &Item),
        loser: &Loser,
        report: &mut SweepReport,
        until: Deadline,
    ) -> Result<(), ChangeError> {
        let backend = self.backend(&loser.store)?;
        let unique = match loser.by {
            LoserBy::Unique(unique) => unique,
            LoserBy::Claim => match self
                .claimed_or_barred(backend, winner.1.request_id, (report, until))
                .await?
            {
                Some(unique) => unique,
                None => return Ok(()),
            },
        };
        let Some(found) = backend.item(unique, until).await? else {
            self.bar_item(backend, unique, winner.1.request_id, until).await?;
            report.barred += 1;
            return Ok(());
        };
        let loser = (&backend.id(unique), &found.item);
        let same = found.item.request_id == winner.1.request_id;
        if same && found.item.state == State::Live && beats(winner, loser) {
            self.remove(backend, loser, winner.1, report).await?;
        }
        Ok(())
    }

    async fn claimed_or_barred(
        &self,
        backend: &Backend,
        request_id: u128,
        sweep: (&mut SweepReport, Deadline),
    ) -> Result<Option<Unique>, ChangeError> {
        let (report, until) = sweep;
        let key = keys::claim(request_id);
        match backend.get(&key, until).await? {
            Some(entry) => Ok(decode_claim(entry.value).map_err(|source| backend.unreadable(source))?),
            None => {
                self.bar(backend, key.clone(), Write::Put(key, encode_claim(None)), until)
                    .await?;
                report.barred += 1;
                Ok(None)
            }
        }
    }

    /// Takes the place of an item that has not come, so that it never will.
    pub(super) async fn bar_item(
        &self,
        backend: &Backend,
        unique: Unique,
        request_id: u128,
        until: Deadline,
    ) -> Result<(), StoreError> {
        let bar = Write::Put(keys::item(unique), barred(request_id));
        self.bar(backend, keys::item(unique), bar, until).await
    }

    /// Takes a place that nothing has taken, so that nothing else can.
    pub(super) async fn bar(
        &self,
        backend: &Backend,
        place: Key,
        bar: Write,
        until: Deadline,
    ) -> Result<(), StoreError> {
        let ended = backend.commit(vec![Condition::Absent(place)], vec![bar], until).await;
        ended
            .map(drop)
            .map_err(|error| super::error::commit_failed(&backend.name, &error))
    }

    async fn remove(
        &self,
        backend: &Backend,
        loser: (&ObjectId, &Item),
        winner: &Item,
        report: &mut SweepReport,
    ) -> Result<(), ChangeError> {
        let (id, item) = loser;
        let delete = Delete {
            id: id.clone(),
            expect: Expect::Any,
            caller: Caller {
                by: SWEEPER.to_owned(),
                request: format!("{:032x}", item.request_id),
                token: None,
            },
        };
        match self.delete(delete).await {
            Ok(_) | Err(ChangeError::NotFound) => {}
            Err(error) => return Err(error),
        }
        // Both are visible once the later one is there and the loser's store answers again.
        let both_at = winner.created_at_micros.max(item.created_at_micros);
        let answers_since = backend.judge(|_, since| since);
        let since = answers_since.max(bowline_foundation::clock::Timestamp::from_micros(both_at));
        report.removed += 1;
        report.double_visible_max = report.double_visible_max.max(self.0.clock.now().since(since));
        Ok(())
    }
}

fn barred(request_id: u128) -> Bytes {
    let item = Item {
        state: State::Barred,
        version: 0,
        created_at_micros: 0,
        request_id,
        supersedes: Vec::new(),
        body: Bytes::new(),
        indexes: Vec::new(),
        pending_removes: None,
        events: Vec::new(),
    };
    item.encode()
}
