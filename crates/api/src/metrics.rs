//! Counts of requests by operation and status, kept so that counting one is a single atomic add.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use bowline_foundation::clock::Monotonic;
use http::StatusCode;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::route::Operation;

/// The statuses the node answers with, and those that functions commonly answer with at their URLs; anything
/// else is counted under the last.
const STATUSES: [u16; 31] = [
    200, 201, 202, 204, 206, 301, 302, 303, 304, 307, 308, 401, 406, 422, 501, 400, 402, 403, 404, 405, 408, 409, 410,
    412, 413, 415, 429, 502, 503, 504, 500,
];
/// One row an operation, and one for requests that mean none.
const ROWS: usize = Operation::ALL.len() + 1;

/// What the server counts.
pub struct HttpMetrics {
    requests: Vec<[AtomicU64; STATUSES.len()]>,
    /// Microseconds from having the head to having the answer, by operation.
    busy_micros: Vec<AtomicU64>,
    connections: AtomicU64,
}

impl HttpMetrics {
    pub fn new() -> Self {
        Self {
            requests: (0..ROWS).map(|_| Default::default()).collect(),
            busy_micros: (0..ROWS).map(|_| AtomicU64::new(0)).collect(),
            connections: AtomicU64::new(0),
        }
    }

    /// Counts an answered request.
    pub fn answered(&self, operation: Option<Operation>, status: StatusCode, began: Monotonic, now: Monotonic) {
        let row = operation.map_or(ROWS - 1, |operation| operation as usize);
        let column = STATUSES.iter().position(|known| *known == status.as_u16());
        self.requests[row][column.unwrap_or(STATUSES.len() - 1)].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(now.since(began).as_micros()).unwrap_or(u64::MAX);
        self.busy_micros[row].fetch_add(micros, Ordering::Relaxed);
    }

    /// Counts an accepted connection.
    pub fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }
}

fn name(row: usize) -> &'static str {
    Operation::ALL
        .get(row)
        .map_or("UnknownOperation", |operation| operation.name())
}

impl fmt::Debug for HttpMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpMetrics").finish_non_exhaustive()
    }
}

impl Collector for HttpMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let mut family = encoder.encode_descriptor(
            "bowline_http_connections",
            "Connections accepted",
            None,
            MetricType::Counter,
        )?;
        family.encode_counter::<NoLabelSet, _, u64>(&self.connections.load(Ordering::Relaxed), None)?;

        let mut family = encoder.encode_descriptor(
            "bowline_http_requests",
            "Requests answered, by operation and status",
            None,
            MetricType::Counter,
        )?;
        for (row, counts) in self.requests.iter().enumerate() {
            for (status, count) in STATUSES.iter().zip(counts) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    let labels = [("operation", name(row).to_owned()), ("status", status.to_string())];
                    family
                        .encode_family(&labels)?
                        .encode_counter::<NoLabelSet, _, u64>(&count, None)?;
                }
            }
        }

        let mut family = encoder.encode_descriptor(
            "bowline_http_request_seconds",
            "Time from a request's head to its answer, summed by operation",
            None,
            MetricType::Counter,
        )?;
        for (row, micros) in self.busy_micros.iter().enumerate() {
            let micros = micros.load(Ordering::Relaxed);
            if micros > 0 {
                let labels = [("operation", name(row).to_owned())];
                let seconds = micros as f64 / 1e6;
                family
                    .encode_family(&labels)?
                    .encode_counter::<NoLabelSet, _, u64>(&seconds, None)?;
            }
        }
        Ok(())
    }
}
