//! What operators see of streams, sessions and objects at `/metrics`.
//!
//! Counts are made as requests are served. Lags, parked batches and the stores' weights are read when they
//! are asked for, no more often than every [`FRESH`], and for at most [`TIME_MAX`].

use std::time::Duration;

use bowline_foundation::clock::{Clock, Monotonic};
use bowline_stream::{Event, StreamId, session};
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::AtomicU64;

use super::Data;

/// How old what is read may be.
const FRESH: Duration = Duration::from_secs(5);
/// How long a reading may take; what is not read by then stays as it was.
const TIME_MAX: Duration = Duration::from_secs(2);
/// Most sessions that are shown one by one.
const SESSIONS_MAX: usize = 1000;

type Seconds = Gauge<f64, AtomicU64>;

/// A cheap handle to all counters.
#[derive(Debug)]
pub struct DataMetrics {
    append_durations: Family<StreamLabels, Histogram, fn() -> Histogram>,
    appended_events: Family<StreamLabels, Counter>,
    appended_bytes: Family<StreamLabels, Counter>,
    failed_appends: Family<StreamLabels, Counter>,
    read_events: Family<StreamLabels, Counter>,
    read_bytes: Family<StreamLabels, Counter>,
    delivered_events: Counter,
    delivered_bytes: Counter,
    stream_lag: Family<StreamLabels, Seconds>,
    session_lag: Family<SessionLabels, Seconds>,
    parked: Family<SessionLabels, Gauge>,
    objects_created: Family<StoreLabels, Counter>,
    objects_failed: Family<StoreLabels, Counter>,
    store_weight: Family<StoreLabels, Seconds>,
    refreshed: Mutex<Option<Monotonic>>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StreamLabels {
    stream: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SessionLabels {
    stream: String,
    session: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StoreLabels {
    store: String,
}

fn durations() -> Histogram {
    // 100 us to 6.5 s, by factors of two.
    Histogram::new(exponential_buckets(0.000_1, 2.0, 17))
}

impl Default for DataMetrics {
    /// Counters that nobody sees.
    fn default() -> Self {
        Self {
            append_durations: Family::new_with_constructor(durations),
            appended_events: Family::default(),
            appended_bytes: Family::default(),
            failed_appends: Family::default(),
            read_events: Family::default(),
            read_bytes: Family::default(),
            delivered_events: Counter::default(),
            delivered_bytes: Counter::default(),
            stream_lag: Family::default(),
            session_lag: Family::default(),
            parked: Family::default(),
            objects_created: Family::default(),
            objects_failed: Family::default(),
            store_weight: Family::default(),
            refreshed: Mutex::default(),
        }
    }
}

impl DataMetrics {
    /// Makes the counters and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        metrics.register_streams(registry);
        metrics.register_sessions(registry);
        metrics.register_objects(registry);
        metrics
    }

    fn register_streams(&self, registry: &mut Registry) {
        let appends = self.append_durations.clone();
        registry.register_with_unit(
            "append_duration",
            "Time from an append to its being on disk",
            Unit::Seconds,
            appends,
        );
        let counters = [
            ("stream_appended_events", "Events appended", &self.appended_events),
            (
                "stream_appended_bytes",
                "Bytes of keys and bodies appended",
                &self.appended_bytes,
            ),
            (
                "stream_failed_appends",
                "Appends that were refused or failed",
                &self.failed_appends,
            ),
            ("stream_read_events", "Events read without a session", &self.read_events),
            (
                "stream_read_bytes",
                "Bytes of keys and bodies read without a session",
                &self.read_bytes,
            ),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        let help = "How far the safe time is behind the newest event";
        registry.register_with_unit("stream_safe_time_lag", help, Unit::Seconds, self.stream_lag.clone());
    }

    fn register_sessions(&self, registry: &mut Registry) {
        let (events, bytes) = (self.delivered_events.clone(), self.delivered_bytes.clone());
        registry.register("session_delivered_events", "Events given out by sessions", events);
        registry.register(
            "session_delivered_bytes",
            "Bytes of keys and bodies given out by sessions",
            bytes,
        );
        let help = "How long the oldest event that was given to nobody has been waiting";
        registry.register_with_unit("session_lag", help, Unit::Seconds, self.session_lag.clone());
        registry.register(
            "session_parked_batches",
            "Batches whose attempts are used up",
            self.parked.clone(),
        );
    }

    fn register_objects(&self, registry: &mut Registry) {
        registry.register(
            "objects_created",
            "Objects created, by store",
            self.objects_created.clone(),
        );
        let help = "Creates that failed, by store; `any` if no store took it";
        registry.register("objects_failed", help, self.objects_failed.clone());
        let help = "The share of creates that a store gets";
        registry.register("store_weight", help, self.store_weight.clone());
    }

    pub(super) fn appended<E>(&self, stream: &str, result: Result<(usize, usize), E>, took: Duration) {
        let labels = StreamLabels {
            stream: stream.to_owned(),
        };
        let Ok((events, bytes)) = result else {
            // A name that no stream has must not become a row.
            if self.appended_events.get(&labels).is_some() {
                self.failed_appends.get_or_create(&labels).inc();
            }
            return;
        };
        self.append_durations.get_or_create(&labels).observe(took.as_secs_f64());
        self.appended_events.get_or_create(&labels).inc_by(events as u64);
        self.appended_bytes.get_or_create(&labels).inc_by(bytes as u64);
    }

    pub(super) fn read(&self, stream: &str, events: &[Event]) {
        if events.is_empty() {
            return;
        }
        let labels = StreamLabels {
            stream: stream.to_owned(),
        };
        self.read_events.get_or_create(&labels).inc_by(events.len() as u64);
        self.read_bytes.get_or_create(&labels).inc_by(bytes_of(events));
    }

    pub(super) fn delivered(&self, events: &[Event]) {
        self.delivered_events.inc_by(events.len() as u64);
        self.delivered_bytes.inc_by(bytes_of(events));
    }

    /// `Err` has the store that failed, if it was one.
    pub(super) fn object_created(&self, result: Result<&str, Option<&str>>) {
        let (family, store) = match result {
            Ok(store) => (&self.objects_created, store),
            Err(store) => (&self.objects_failed, store.unwrap_or("any")),
        };
        let store = store.to_owned();
        family.get_or_create(&StoreLabels { store }).inc();
    }

    fn show(&self, lags: Vec<(StreamLabels, Duration)>, sessions: Vec<(SessionLabels, session::Stat)>) {
        self.stream_lag.clear();
        self.session_lag.clear();
        self.parked.clear();
        for (labels, lag) in lags {
            self.stream_lag.get_or_create(&labels).set(lag.as_secs_f64());
        }
        for (labels, stat) in sessions {
            let parked = i64::try_from(stat.parked_sets).unwrap_or(i64::MAX);
            self.session_lag.get_or_create(&labels).set(stat.lag.as_secs_f64());
            self.parked.get_or_create(&labels).set(parked);
        }
    }

    fn is_due(&self, clock: &Clock) -> bool {
        let now = clock.monotonic();
        let mut refreshed = self.refreshed.lock();
        let is_due = refreshed.is_none_or(|last| now.since(last) >= FRESH);
        if is_due {
            *refreshed = Some(now);
        }
        is_due
    }
}

fn bytes_of(events: &[Event]) -> u64 {
    let sizes = events.iter();
    let sizes = sizes.map(|event| event.body.len() + event.key.as_ref().map_or(0, bytes::Bytes::len));
    sizes.sum::<usize>() as u64
}

impl Data {
    /// Reads what only the store knows, if that is due.
    pub(crate) async fn refresh_metrics(&self, clock: &Clock) {
        if self.metrics.is_due(clock) {
            let reading = async { tokio::join!(self.refresh_streams(), self.refresh_stores()) };
            if tokio::time::timeout(TIME_MAX, reading).await.is_err() {
                tracing::debug!("some gauges of streams and stores stay as they were: reading them takes too long");
            }
        }
    }

    async fn refresh_stores(&self) {
        for status in self.objects.status().await {
            let store = status.store.to_string();
            self.metrics
                .store_weight
                .get_or_create(&StoreLabels { store })
                .set(status.weight);
        }
    }

    async fn refresh_streams(&self) {
        let Ok(streams) = self.streams.list().await else {
            return;
        };
        let (mut lags, mut sessions) = (Vec::new(), Vec::new());
        for stream in &streams {
            if let Ok(stat) = self.streams.stat(stream).await {
                let labels = StreamLabels {
                    stream: stream.name().to_owned(),
                };
                lags.push((labels, stat.lag));
            }
            self.read_sessions(stream, &mut sessions).await;
        }
        // Only now, so that what is gone disappears and what was not read in time stays as it was.
        self.metrics.show(lags, sessions);
    }

    async fn read_sessions(&self, stream: &StreamId, found: &mut Vec<(SessionLabels, session::Stat)>) {
        let mut after = None;
        while found.len() < SESSIONS_MAX {
            let Ok(page) = self.sessions.list(stream, after.as_ref()).await else {
                return;
            };
            let Some(last) = page.last().cloned() else { return };
            for session in page {
                if let Ok(stat) = self.sessions.stat(&session).await {
                    let labels = SessionLabels {
                        stream: stream.name().to_owned(),
                        session: session.to_string(),
                    };
                    found.push((labels, stat));
                }
            }
            after = Some(last);
        }
    }
}
