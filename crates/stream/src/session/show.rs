//! Showing and counting sessions.

use std::time::Duration;

use bowline_foundation::clock::Timestamp;

use super::error::{Fault, LogFault, ShowError};
use super::id::SessionId;
use super::keys;
use super::limits::PAGE_MAX;
use super::record::{MarkerRecord, MarkerState, SessionRecord};
use super::service::Inner;
use super::settings::Settings;
use crate::{Position, ReadLimit, StreamId};

/// A session as its operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overview {
    pub stream: StreamId,
    pub settings: Settings,
    /// Where it began, in words.
    pub start: String,
    pub created_at: Timestamp,
    /// When it expires, or did, if nobody reads.
    pub expires_at: Timestamp,
    pub state: State,
    /// Everything up to here has been given out, skipped or withheld.
    pub cursor: Position,
    pub in_flight: Vec<InFlight>,
    pub stat: Stat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Active,
    Expired,
}

/// A set that is not settled; of a session that delivers at most once: one of the last given out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InFlight {
    pub batch: u64,
    /// The bound before its first event, or that event if nothing is in flight.
    pub from: Position,
    /// Its last event.
    pub to: Position,
    pub events: u32,
    pub attempts: u32,
    pub worker: String,
    pub sent_at: Timestamp,
    /// When it is due again; none: never.
    pub due_at: Option<Timestamp>,
    /// Why it failed last.
    pub reason: Option<String>,
}

/// Plain numbers, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// How long the oldest event that was given to nobody has been waiting; zero if there is none.
    pub lag: Duration,
    /// Sets that workers have.
    pub in_flight_sets: u64,
    pub in_flight_events: u64,
    /// Sets that failed and are due later, or whose lease is over.
    pub waiting_sets: u64,
    pub parked_sets: u64,
    pub withheld_events: u64,
    /// Sets given out for the first time, since the session began.
    pub sets: u64,
    pub skipped_events: u64,
    pub filter_errors: u64,
    /// How often events were trimmed before they could be given out.
    pub trimmed: u64,
}

impl Inner {
    pub async fn show(&self, id: &SessionId) -> Result<Overview, ShowError> {
        self.alive()?;
        let view = self.view(id).await?;
        let stat = self.count(&view.session.record, view.markers.iter().map(|marker| &marker.record));
        let record = view.session.record;
        let state = if self.clock.now() >= record.expires_at() {
            State::Expired
        } else {
            State::Active
        };
        let marked = view.markers.iter().map(|marker| in_flight(&marker.record));
        let recent = record.recent.iter().map(|recent| InFlight {
            batch: recent.batch,
            from: recent.from,
            to: recent.to,
            events: recent.count,
            attempts: 1,
            worker: recent.worker.clone(),
            sent_at: recent.sent_at,
            due_at: None,
            reason: None,
        });
        Ok(Overview {
            in_flight: marked.chain(recent).collect(),
            stream: record.stream.clone(),
            settings: settings(&record),
            start: record.start.clone(),
            created_at: record.created_at,
            expires_at: record.expires_at(),
            state,
            cursor: record.cursor,
            stat: Stat {
                lag: self.lag(&record).await?,
                ..stat
            },
        })
    }

    pub async fn stat(&self, id: &SessionId) -> Result<Stat, ShowError> {
        Ok(self.show(id).await?.stat)
    }

    pub async fn list(&self, stream: &StreamId, after: Option<&SessionId>) -> Result<Vec<SessionId>, ShowError> {
        self.alive()?;
        let prefix = keys::of_stream(stream);
        let after = after.map(|id| keys::by_stream(stream, id));
        let found = self
            .store
            .scan(&prefix, after.as_ref(), PAGE_MAX)
            .await
            .map_err(Fault::from)?;
        let ids = found.iter().map(|(key, _)| {
            let text = String::from_utf8_lossy(&key[prefix.len()..]);
            text.parse().map_err(Fault::damaged)
        });
        Ok(ids.collect::<Result<_, _>>()?)
    }

    fn count<'a>(&self, session: &SessionRecord, markers: impl Iterator<Item = &'a MarkerRecord>) -> Stat {
        let mut stat = Stat {
            parked_sets: session.parked.into(),
            withheld_events: session.withheld.len() as u64,
            sets: session.batch,
            skipped_events: session.skipped,
            filter_errors: session.filter_errors,
            trimmed: session.trimmed,
            ..Stat::default()
        };
        let now = self.clock.now();
        for marker in markers {
            if marker.state == MarkerState::InFlight && marker.due_at > now {
                stat.in_flight_sets += 1;
                stat.in_flight_events += u64::from(marker.count);
            } else {
                stat.waiting_sets += 1;
            }
        }
        stat
    }

    async fn lag(&self, session: &SessionRecord) -> Result<Duration, ShowError> {
        let limit = ReadLimit { events: 1, bytes: 1 };
        let withheld = session.withheld.first().map(|held| held.at);
        let oldest = match self
            .log
            .read(&session.stream, session.cursor, limit)
            .await
            .map_err(LogFault::from)
        {
            _ if withheld.is_some() => withheld,
            Ok(page) => page.events.first().map(|event| event.position),
            Err(LogFault::Trimmed(available)) => Some(session.cursor).filter(|cursor| *cursor < available),
            Err(LogFault::NoSuchStream(_)) => None,
            Err(LogFault::RetryLater(fault)) => return Err(fault.into()),
            Err(LogFault::Damaged(fault)) => return Err(fault.into()),
        };
        Ok(oldest.map_or(Duration::ZERO, |oldest| self.clock.now().since(oldest.stamp.moment())))
    }
}

fn in_flight(marker: &MarkerRecord) -> InFlight {
    InFlight {
        batch: marker.batch,
        from: marker.after,
        to: marker.to,
        events: marker.count,
        attempts: marker.attempts,
        worker: marker.worker.clone(),
        sent_at: marker.sent_at,
        due_at: Some(marker.due_at),
        reason: marker.reason.clone(),
    }
}

fn settings(record: &SessionRecord) -> Settings {
    Settings {
        mode: record.mode,
        order: record.order,
        lease: record.lease(),
        attempts_max: record.attempts_max,
        idle_ttl: Duration::from_millis(record.idle_ttl_ms),
        filter: record.filter.clone(),
        name: record.name.clone(),
    }
}
