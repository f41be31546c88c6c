//! The world: hosts on one store, each with its clock, its line and its fate.

use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_store::{FaultRates, FaultyStore, MemoryStore, Store};
use bowline_stream::{Config, Growth, Handle, HeadLimits, Options, Record, Sharing};
use tokio::task::JoinHandle;

use crate::clock::SimClock;
use crate::line::{Gate, Line};
use crate::network::{Loss, Network, SimPeers};

/// The longest way between two hosts or to the store.
const DELAY_MAX: Duration = Duration::from_millis(8);

/// A place where a host runs, or has run.
pub struct Place {
    pub clock: Arc<SimClock>,
    pub gate: Arc<Gate>,
    pub host: Option<Running>,
}

/// A running host.
pub struct Running {
    pub handle: Handle,
    store: Arc<FaultyStore>,
    service: JoinHandle<()>,
}

/// See the top of the file.
pub struct World {
    pub entropy: Entropy,
    memory: Arc<MemoryStore>,
    rates: FaultRates,
    stores: Vec<Arc<FaultyStore>>,
    network: Arc<Network>,
    pub config: Config,
    pub places: Vec<Place>,
}

/// Numbers that make everything happen within a simulated minute.
pub fn config() -> Config {
    Config {
        head: HeadLimits {
            bytes_max: 400,
            events_max: 5,
            node_bytes_max: 600,
        },
        growth: Growth {
            latency_max: Duration::from_millis(60),
            events_per_second_max: 40.0,
            over: Duration::from_secs(3),
            ..Growth::default()
        },
        dead_after: Duration::from_secs(2),
        beat_every: Duration::from_millis(100),
        maintain_every: Duration::from_millis(300),
        promise_window: Duration::from_millis(500),
        seal_after: Duration::from_secs(4),
        forward_timeout: Duration::from_millis(200),
        skew_max: Duration::from_secs(5),
        commit_retry: Duration::from_secs(1),
        cache_bytes_max: 20_000,
        ..Config::default()
    }
}

impl World {
    /// A world without hosts, all of whose chances follow from `seed`.
    pub fn new(seed: u64, rates: FaultRates, config: Config) -> Self {
        let entropy = Entropy::seeded(seed);
        let network = Network::new(Entropy::seeded(entropy.number()), DELAY_MAX);
        Self {
            memory: Arc::default(),
            rates,
            stores: Vec::new(),
            network: Arc::new(network),
            config,
            places: Vec::new(),
            entropy,
        }
    }

    /// Adds a place whose clock is off by `offset_micros` and runs fast by `drift_ppm`, and starts its host.
    pub async fn add(&mut self, offset_micros: i64, drift_ppm: i64) -> usize {
        self.places.push(Place {
            clock: Arc::new(SimClock::new(offset_micros, drift_ppm)),
            gate: Arc::new(Gate::open()),
            host: None,
        });
        let at = self.places.len() - 1;
        self.start(at).await;
        at
    }

    /// The store itself, without faults.
    pub fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.memory) as Arc<dyn Store>
    }

    /// How calls between hosts go wrong from now on.
    pub fn set_loss(&self, loss: Loss) {
        *self.network.loss.lock() = loss;
    }

    /// Every forward that has arrived, with its receiver.
    pub fn forwards(&self) -> Vec<(bowline_stream::HostId, bowline_stream::Forward)> {
        self.network.forwards.lock().clone()
    }

    /// Starts a host at a place where none runs; gives up if the store fails too often.
    pub async fn start(&mut self, at: usize) {
        let seed = self.entropy.number();
        let faults = Entropy::seeded(self.entropy.number());
        let store = Arc::new(FaultyStore::new(self.store(), self.rates, faults));
        let place = &mut self.places[at];
        place.clock = Arc::new(place.clock.restarted());
        place.gate = Arc::new(Gate::open());
        let options = Options {
            store: Arc::new(Line {
                store: Arc::clone(&store),
                gate: Arc::clone(&place.gate),
                entropy: Entropy::seeded(seed ^ 1),
                delay_max: DELAY_MAX,
            }),
            blobs: None,
            clock: Clock::driven_by(Arc::clone(&place.clock) as _),
            entropy: Entropy::seeded(seed),
            peers: Arc::new(SimPeers(Arc::downgrade(&self.network))),
            address: at.to_string(),
            sharing: Sharing::Shared,
            config: self.config,
        };
        self.stores.push(Arc::clone(&store));
        if let Ok((service, handle)) = options.start().await {
            self.network.connect(&handle, &place.gate);
            let service = tokio::spawn(service.run());
            place.host = Some(Running { handle, store, service });
        }
    }

    /// The handle of a place's host, if one runs.
    pub fn handle(&self, at: usize) -> Option<Handle> {
        self.places[at].host.as_ref().map(|host| host.handle.clone())
    }

    /// Ends a host at once, wherever its tasks are.
    pub fn crash(&mut self, at: usize) {
        if let Some(host) = self.places[at].host.take() {
            self.network.disconnect(host.handle.id());
            host.service.abort();
        }
    }

    /// Stops a host between two instructions; its clock goes on.
    pub fn freeze(&self, at: usize) {
        self.places[at].gate.set_open(false);
    }

    /// Ends [`World::freeze`].
    pub fn thaw(&self, at: usize) {
        self.places[at].gate.set_open(true);
    }

    /// Has the store go away for all hosts, or come back.
    pub fn set_store_away(&self, is_away: bool) {
        for store in &self.stores {
            if is_away { store.go_away() } else { store.come_back() }
        }
    }

    /// Cuts one host off from the store, while it still reaches the others; ended as for all.
    pub fn cut_off(&self, at: usize) {
        if let Some(host) = &self.places[at].host {
            host.store.go_away();
        }
    }

    /// From now on nothing goes wrong any more, for hosts that are started later too.
    pub fn heal(&mut self) {
        self.rates = FaultRates::default();
        self.set_loss(Loss::default());
        self.set_store_away(false);
        (0..self.places.len()).for_each(|at| self.thaw(at));
    }
}

/// The record of an append's number, which is its body.
pub fn record_of(number: u64) -> Record {
    Record {
        body: bytes::Bytes::copy_from_slice(&number.to_be_bytes()),
        ..Record::default()
    }
}
