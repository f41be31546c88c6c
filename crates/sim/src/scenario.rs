//! One simulated run: clients append, readers tail, and everything goes wrong for a while.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::entropy::Entropy;
use bowline_store::FaultRates;
use bowline_stream::{
    AppendError, ChainState, CreateError, Event, EventId, Handle, Log, Position, ReadLimit, Record, Settings, Stat,
    StreamId,
};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::check;
use crate::history::{Acked, Ended, History, ReadStep};
use crate::line::Gate;
use crate::network::Loss;
use crate::world::{World, config, record_of};

/// How long things go wrong, and how long they then take to settle.
const TROUBLE: Duration = Duration::from_secs(20);
const SETTLING: Duration = Duration::from_secs(8);
const CLIENTS: usize = 6;
const READERS: usize = 3;
/// How far clocks are off: two of them by more than it takes to adopt a dead host's chain.
const SKEW_MICROS: i64 = 1_900_000;
/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    pub seed: u64,
    /// What the checkers found wrong.
    pub faults: Vec<String>,
    pub history: History,
    /// A digest of the history: equal for equal seeds.
    pub digest: u64,
    /// Chains there were at the end, and how many of them had been added.
    pub chains: usize,
    /// Times a chain had changed its owner.
    pub adoptions: u64,
    /// Forwards that arrived.
    pub forwards: usize,
}

/// A host as clients reach it, frozen or not.
type Reached = (Handle, Arc<Gate>);

/// What clients, readers and fate share.
struct Stage {
    stream: StreamId,
    history: Mutex<History>,
    hosts: Mutex<Vec<Option<Reached>>>,
    numbers: Mutex<u64>,
}

/// Runs one seed on a thread of its own runtime.
pub fn run(seed: u64) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime
        .expect("a runtime of one thread can be built")
        .block_on(play(seed))
}

async fn play(seed: u64) -> Report {
    let rates = FaultRates {
        fail_before: 0.01,
        lose_reply: 0.01,
        delay: 0.05,
        delay_max: Duration::from_millis(40),
    };
    let mut world = World::new(seed, rates, config());
    let chance = Entropy::seeded(world.entropy.number());
    for _ in 0..2 + chance.number() % 3 {
        let (offset, drift) = (within(&chance, SKEW_MICROS), within(&chance, 200));
        world.add(offset, drift).await;
    }
    world.set_loss(Loss {
        requests: 0.03,
        answers: 0.05,
    });
    let stage = open(&mut world).await;
    let mut cast = JoinSet::new();
    for client in 0..CLIENTS {
        cast.spawn(append(Arc::clone(&stage), client, Entropy::seeded(chance.number())));
    }
    for reader in 0..READERS {
        cast.spawn(tail(Arc::clone(&stage), reader, Entropy::seeded(chance.number())));
    }
    suffer(&mut world, &stage, &chance).await;
    world.heal();
    recover(&mut world, &stage).await;
    cast.shutdown().await;
    conclude(seed, world, &stage).await
}

fn within(chance: &Entropy, most: i64) -> i64 {
    ((chance.unit() * 2.0 - 1.0) * most as f64) as i64
}

async fn open(world: &mut World) -> Arc<Stage> {
    let stream = StreamId::new("orders", 2).expect("a good name");
    let settings = Settings {
        // With two chains they often belong to one host, whose promises then decide alone.
        chains_max: [2, 3, 6][(world.entropy.number() % 3) as usize],
        ..Settings::default()
    };
    for attempt in 0.. {
        for at in 0..world.places.len() {
            if world.handle(at).is_none() {
                world.start(at).await;
            }
        }
        if let Some(handle) = world.handle(attempt % world.places.len())
            && matches!(
                handle.create(&stream, settings).await,
                Ok(()) | Err(CreateError::Exists { .. })
            )
        {
            break;
        }
        assert!(attempt < 100, "the stream could not be made in a hundred attempts");
    }
    let stage = Stage {
        stream,
        history: Mutex::default(),
        hosts: Mutex::default(),
        numbers: Mutex::default(),
    };
    show(world, &stage);
    Arc::new(stage)
}

/// Lets clients and readers see which hosts there are.
fn show(world: &World, stage: &Stage) {
    let seen = (0..world.places.len()).map(|at| Some((world.handle(at)?, Arc::clone(&world.places[at].gate))));
    *stage.hosts.lock() = seen.collect();
}

impl Stage {
    /// Some host that is running, frozen or not.
    fn some_host(&self, chance: &Entropy) -> Option<Reached> {
        let hosts = self.hosts.lock();
        hosts[(chance.number() % hosts.len() as u64) as usize].clone()
    }
}

/// A client: appends small batches to some host, and repeats those with identifiers if the end is unknown.
async fn append(stage: Arc<Stage>, client: usize, chance: Entropy) {
    loop {
        pause(&chance, 150).await;
        let count = 1 + chance.number() % 3;
        let first = {
            let mut numbers = stage.numbers.lock();
            *numbers += count;
            *numbers - count
        };
        let is_given = client.is_multiple_of(2);
        let records: Vec<Record> = (first..first + count).map(|number| named(number, is_given)).collect();
        let mut is_retry = false;
        while !attempt(&stage, &records, first, is_retry, &chance).await && is_given {
            is_retry = true;
            pause(&chance, 200).await;
        }
    }
}

fn named(number: u64, is_given: bool) -> Record {
    Record {
        id: is_given.then(|| EventId((u128::from(number) << 64 | 0x5eed).to_be_bytes())),
        ..record_of(number)
    }
}

/// Sends an append once; says whether there is nothing more to be done.
async fn attempt(stage: &Stage, records: &[Record], first: u64, is_retry: bool, chance: &Entropy) -> bool {
    let Some((handle, gate)) = stage.some_host(chance) else {
        return false;
    };
    let sent = stage.history.lock().step();
    let answered = tokio::time::timeout(PATIENCE, async {
        gate.pass().await;
        let answer = handle.append(&stage.stream, records.to_vec()).await;
        gate.pass().await;
        answer
    });
    match answered.await {
        Ok(Ok(positions)) => {
            let mut history = stage.history.lock();
            let acked = history.step();
            history.acked.push(Acked {
                events: (first..).zip(positions).collect(),
                host: handle.id(),
                sent,
                acked,
                is_retry,
            });
            true
        }
        Ok(Err(error)) => {
            assert!(!matches!(error, AppendError::Damaged { .. }), "{error}");
            // After an earlier try with an unknown end the event may be there all the same.
            if !is_retry && !matches!(error, AppendError::Unknown { .. }) {
                let numbers = first..first + records.len() as u64;
                stage
                    .history
                    .lock()
                    .refused
                    .extend(numbers.filter(|_| records[0].id.is_none()));
            }
            false
        }
        Err(_) => false,
    }
}

/// A reader: tails the stream from the beginning, or from the end, each page through some host.
async fn tail(stage: Arc<Stage>, reader: usize, chance: Entropy) {
    let mut after = Position::START;
    for _ in 0..reader * 20 {
        pause(&chance, 200).await;
    }
    loop {
        let Some((handle, gate)) = stage.some_host(&chance) else {
            pause(&chance, 100).await;
            continue;
        };
        let limit = ReadLimit {
            events: 1 + (chance.number() % 12) as usize,
            bytes: 1 << 20,
        };
        let read = tokio::time::timeout(PATIENCE, async {
            gate.pass().await;
            let page = handle.read(&stage.stream, after, limit).await;
            gate.pass().await;
            page
        });
        let Ok(Ok(page)) = read.await else {
            pause(&chance, 50).await;
            continue;
        };
        let is_empty = page.events.is_empty();
        stage.history.lock().reads.push(ReadStep {
            reader,
            after,
            events: page.events.iter().map(seen).collect(),
            next: page.next,
        });
        after = page.next;
        if is_empty {
            // A hint only: it may come too early or, if the host dies, never.
            let _ = tokio::time::timeout(Duration::from_millis(100), handle.wait(&stage.stream, after)).await;
            pause(&chance, 30).await;
        }
    }
}

fn seen(event: &Event) -> (u64, Position) {
    let number = event.body[..].try_into().map(u64::from_be_bytes);
    (number.expect("every body is a number"), event.position)
}

async fn pause(chance: &Entropy, millis: u64) {
    tokio::time::sleep(Duration::from_millis(1 + chance.number() % millis)).await;
}

/// Everything goes wrong, one thing after the other.
async fn suffer(world: &mut World, stage: &Stage, chance: &Entropy) {
    let end = tokio::time::Instant::now() + TROUBLE;
    while tokio::time::Instant::now() < end {
        pause(chance, 1500).await;
        let at = (chance.number() % world.places.len() as u64) as usize;
        match chance.number() % 10 {
            0 | 1 => world.crash(at),
            2 => world.freeze(at),
            3 => (0..world.places.len()).for_each(|at| world.thaw(at)),
            4 => world.places[at].clock.step_to(within(chance, SKEW_MICROS)),
            5 => world.set_store_away(true),
            6 | 7 => world.cut_off(at),
            _ => world.set_store_away(false),
        }
        if chance.unit() < 0.4 {
            world.set_store_away(false);
            restart(world).await;
        }
        show(world, stage);
        look(world, stage).await;
    }
}

/// Starts a host where none runs. One that was fenced joins anew by itself.
async fn restart(world: &mut World) {
    for at in 0..world.places.len() {
        if world.handle(at).is_none() {
            world.start(at).await;
        }
    }
}

/// Notes who owns what, as the store says.
async fn look(world: &World, stage: &Stage) {
    let Some((handle, gate)) = (0..world.places.len())
        .find_map(|at| Some((world.handle(at)?, Arc::clone(&world.places[at].gate))))
        .filter(|(_, gate)| gate.is_open())
    else {
        return;
    };
    let looked = tokio::time::timeout(Duration::from_millis(200), handle.stat(&stage.stream)).await;
    if let Ok(Ok(stat)) = looked
        && gate.is_open()
    {
        let owners = stat.chains.iter().map(|chain| (chain.id, chain.epoch, chain.owner));
        stage.history.lock().owners.extend(owners);
    }
}

/// Nothing goes wrong any more: every place runs a host again, and all chains find owners.
async fn recover(world: &mut World, stage: &Stage) {
    for _ in 0..4 {
        for at in 0..world.places.len() {
            if world.handle(at).is_none() {
                world.start(at).await;
            }
        }
        show(world, stage);
        tokio::time::sleep(SETTLING / 4).await;
    }
    look(world, stage).await;
}

/// A new host reads everything.
async fn conclude(seed: u64, mut world: World, stage: &Stage) -> Report {
    let last = world.add(0, 0).await;
    let handle = world.handle(last).expect("nothing goes wrong any more");
    let mut stat = handle.stat(&stage.stream).await.expect("nothing goes wrong any more");
    for _ in 0..50 {
        if !is_stuck(&stat) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        stat = handle.stat(&stage.stream).await.expect("nothing goes wrong any more");
    }
    let mut ended = Ended::default();
    while ended.end < Position::before(stat.safe.next()) {
        let limit = ReadLimit {
            events: 64,
            bytes: 1 << 20,
        };
        let page = handle
            .read(&stage.stream, ended.end, limit)
            .await
            .expect("nothing goes wrong any more");
        ended.events.extend(page.events.iter().map(seen));
        ended.end = page.next;
    }
    let mut history = stage.history.lock().clone();
    history.ended = ended;
    let mut faults = check::all(&history);
    let stuck = stat
        .chains
        .iter()
        .filter(|chain| chain.state == ChainState::Pending)
        .count();
    if stuck > 0 || !stat.lag.is_zero() {
        faults.push(format!("stuck: {stuck} chains pending, readers {:?} behind", stat.lag));
    }
    let mut hasher = DefaultHasher::new();
    history.hash(&mut hasher);
    Report {
        seed,
        faults,
        digest: hasher.finish(),
        chains: stat.chains.len(),
        adoptions: stat.chains.iter().map(|chain| chain.epoch - 1).sum(),
        forwards: world.forwards().len(),
        history,
    }
}

/// Whether readers could not see everything, or soon would not.
fn is_stuck(stat: &Stat) -> bool {
    !stat.lag.is_zero() || stat.chains.iter().any(|chain| chain.state == ChainState::Pending)
}
