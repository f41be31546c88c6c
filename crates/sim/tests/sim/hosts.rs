//! Several hosts on one store, one behaviour at a time, without chance: growth, clocks, death.

use std::time::Duration;

use bowline_foundation::entropy::Entropy;
use bowline_sim::{Loss, World, config, record_of};
use bowline_store::FaultRates;
use bowline_stream::{
    AppendError, ChainId, ChainState, CommitWait, Config, Event, Forward, ForwardedEvent, Handle, HostId, Log,
    Position, ReadLimit, Settings, Stamp, StreamId,
};
use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

/// A world of hosts with these clock offsets, in which nothing goes wrong by itself.
async fn world(offsets_millis: &[i64], config: Config) -> World {
    let mut world = World::new(7, FaultRates::default(), config);
    for offset in offsets_millis {
        world.add(offset * 1000, 0).await;
    }
    world
}

pub fn host(world: &World, at: usize) -> Handle {
    world.handle(at).unwrap()
}

pub async fn create(host: &Handle) -> StreamId {
    let stream = StreamId::new("orders", 2).unwrap();
    host.create(&stream, Settings::default()).await.unwrap();
    stream
}

pub async fn append(host: &Handle, stream: &StreamId, number: u64) -> Position {
    host.append(stream, vec![record_of(number)]).await.unwrap()[0]
}

pub async fn read_all(host: &Handle, stream: &StreamId) -> Vec<Event> {
    read_from(host, stream, Position::START).await.0
}

/// What there is after a position once nothing is hidden, and where it ends.
async fn read_from(host: &Handle, stream: &StreamId, mut after: Position) -> (Vec<Event>, Position) {
    let mut events = Vec::new();
    loop {
        let limit = ReadLimit {
            events: 100,
            bytes: 1 << 20,
        };
        let page = host.read(stream, after, limit).await.unwrap();
        let is_empty = page.events.is_empty();
        events.extend(page.events);
        after = page.next;
        if is_empty && host.stat(stream).await.unwrap().lag.is_zero() {
            let last = host.read(stream, after, limit).await.unwrap();
            events.extend(last.events);
            return (events, last.next);
        }
        sleep(MILLISECOND * 20).await;
    }
}

pub fn numbers(events: &[Event]) -> Vec<u64> {
    let number = |event: &Event| u64::from_be_bytes(event.body[..].try_into().unwrap());
    events.iter().map(number).collect()
}

/// Appends `count` events through one host, one every `pause`; all are acknowledged.
async fn load(host: &Handle, stream: &StreamId, (first, count): (u64, u64), pause: Duration) {
    for number in first..first + count {
        append(host, stream, number).await;
        sleep(pause).await;
    }
}

async fn has_head(world: &World, chain: u32) -> bool {
    let mut key = b"stream/head/orders/".to_vec();
    key.extend(chain.to_be_bytes());
    world.store().get(&Bytes::from(key)).await.unwrap().is_some()
}

/// j-T5
#[tokio::test(start_paused = true)]
async fn a_loaded_host_adds_a_chain_and_forwards_to_it() {
    let world = world(&[0, 0], config()).await;
    let (first, second) = (host(&world, 0), host(&world, 1));
    let stream = create(&first).await;
    load(&first, &stream, (0, 700), MILLISECOND * 5).await;
    assert!(has_head(&world, 3).await, "the new chain is in the store");
    let forwards = world.forwards();
    let (to, forward) = forwards.first().expect("the request went on to the second host");
    assert_eq!(*to, second.id());
    assert_eq!(
        forward.hosts.iter().map(|host| host.id).collect::<Vec<_>>(),
        [first.id(), second.id()]
    );
    let new = forward
        .chains
        .iter()
        .find(|chain| chain.id == ChainId(3))
        .expect("the new chain is among them");
    assert_eq!((new.owner, forward.chains.len()), (second.id(), 3));
    let events = read_all(&first, &stream).await;
    assert_eq!(numbers(&events), (0..700).collect::<Vec<_>>(), "one client, one order");
    let stored = events
        .iter()
        .find(|event| event.position.chain == ChainId(3))
        .expect("an event lies there");
    assert_eq!(stored.position.host, second.id());
    assert!(stored.position.stamp > forward.stamp);
}

/// j-T6
#[tokio::test(start_paused = true)]
async fn a_host_below_its_limits_adds_none() {
    let world = world(&[0, 0], config()).await;
    let first = host(&world, 0);
    let stream = create(&first).await;
    load(&first, &stream, (0, 200), MILLISECOND * 50).await;
    assert!(!has_head(&world, 3).await);
    assert_eq!(first.stat(&stream).await.unwrap().chains.len(), 2);
}

/// j-T7
#[tokio::test(start_paused = true)]
async fn a_forwarded_event_comes_after_what_its_sender_stored_whatever_the_clocks() {
    let config = Config {
        seal_after: SECOND * 600,
        ..config()
    };
    let world = world(&[0, -3000], config).await;
    let (first, second) = (host(&world, 0), host(&world, 1));
    let stream = create(&first).await;
    append_alone(&world, 1, &stream, 0).await;
    sleep(SECOND * 6).await;
    let owns = second.stat(&stream).await.unwrap().chains;
    assert!(
        owns.iter()
            .any(|chain| chain.owner == second.id() && chain.state == ChainState::Active)
    );
    sleep(SECOND * 6).await;
    let forward = |number: u64, stamp: Stamp| Forward {
        stream: stream.clone(),
        events: vec![ForwardedEvent {
            id: bowline_stream::EventId(u128::from(number).to_be_bytes()),
            is_given: false,
            key: None,
            body: record_of(number).body,
        }],
        hosts: Vec::new(),
        chains: Vec::new(),
        chain: None,
        stamp,
        origin: None,
    };
    let e0 = append(&first, &stream, 1).await;
    let control = second.accept(forward(2, Stamp(0))).await;
    assert!(
        control.map_or(true, |stored| stored[0] < e0),
        "control: without the stamp it comes before"
    );
    let e1 = append(&first, &stream, 3).await;
    let e2 = second.accept(forward(4, first.now())).await.unwrap()[0];
    let e3 = second.accept(forward(5, first.now())).await.unwrap()[0];
    assert!(e1 < e2 && e2 < e3);
    assert_eq!(e2.host, second.id());
}

/// j-T8
#[tokio::test(start_paused = true)]
async fn readers_of_eight_hosts_see_one_sequence_while_chains_are_added() {
    let mut config = config();
    config.growth.events_per_second_max = 3.0;
    let world = world(&[0, 200, -200, 400, -400, 100, 0, 300], config).await;
    let stream = create(&host(&world, 0)).await;
    let mut cast = tokio::task::JoinSet::new();
    for at in 0..8 {
        let (handle, stream, chance) = (host(&world, at), stream.clone(), Entropy::seeded(at as u64));
        cast.spawn(async move {
            for number in 0..60 {
                append(&handle, &stream, at as u64 * 1000 + number).await;
                sleep(MILLISECOND * (chance.number() % 200) as u32).await;
            }
            Vec::new()
        });
    }
    for reader in 0..2_u32 {
        let (handle, stream) = (host(&world, 3 + reader as usize), stream.clone());
        cast.spawn(async move {
            sleep(SECOND * reader * 3).await;
            let (mut after, mut seen) = (Position::START, Vec::new());
            while seen.len() < 480 {
                let (events, next) = read_from(&handle, &stream, after).await;
                assert!(next >= after);
                seen.extend(events);
                after = next;
            }
            seen
        });
    }
    let mut readers: Vec<Vec<Event>> = cast.join_all().await;
    readers.retain(|seen| !seen.is_empty());
    let all = read_all(&host(&world, 7), &stream).await;
    assert_eq!(readers, [all.clone(), all.clone()]);
    let chains: std::collections::BTreeSet<ChainId> = all.iter().map(|event| event.position.chain).collect();
    assert!(chains.len() > 4, "control: chains were added: {chains:?}");
}

/// Appends one after the other through hosts by turns; the order of reading as submitted numbers.
async fn by_turns(commit_wait: CommitWait, count: u64) -> Vec<(u64, Position)> {
    let config = Config {
        commit_wait,
        skew_max: MILLISECOND * 100,
        promise_window: MILLISECOND * 20,
        ..config()
    };
    let world = world(&[0, 45, -45], config).await;
    let stream = create(&host(&world, 0)).await;
    for at in 0..3 {
        append(&host(&world, at), &stream, 1_000_000).await;
    }
    sleep(SECOND * 2).await;
    let chance = Entropy::seeded(3);
    for number in 0..count {
        append(&host(&world, (chance.number() % 3) as usize), &stream, number).await;
    }
    let mut events = read_all(&host(&world, 0), &stream).await;
    events.drain(..3);
    numbers(&events)
        .into_iter()
        .zip(events.iter().map(|event| event.position))
        .collect()
}

/// j-T9
#[tokio::test(start_paused = true)]
async fn with_commit_wait_the_order_is_that_of_real_time() {
    let events = by_turns(CommitWait::On, 10_000).await;
    assert!(events.iter().map(|(number, _)| *number).eq(0..10_000));
    let events = by_turns(CommitWait::Off, 1000).await;
    let mut inversions = 0;
    let mut by_number = events.clone();
    by_number.sort_unstable();
    for pair in by_number.windows(2) {
        if pair[0].1 > pair[1].1 {
            inversions += 1;
            let by = pair[0].1.stamp.moment().since(pair[1].1.stamp.moment());
            assert!(by < MILLISECOND * 100, "an inversion by {by:?}");
        }
    }
    assert!(inversions > 0, "control: the clocks do differ");
}

/// Appends through a host without a chain that reaches no other one: it adds a chain of its own.
async fn append_alone(world: &World, at: usize, stream: &StreamId, number: u64) -> Position {
    world.set_loss(Loss {
        requests: 1.0,
        answers: 0.0,
    });
    let stored = append(&host(world, at), stream, number).await;
    world.set_loss(Loss::default());
    stored
}

/// j-D12, and what it costs to be many: a host that reaches an owner sends it what it is asked to store, together.
#[tokio::test(start_paused = true)]
async fn a_host_without_a_chain_sends_appends_along_and_adds_one_when_nobody_takes_them() {
    let world = world(&[0, 0], config()).await;
    let (first, second) = (host(&world, 0), host(&world, 1));
    let stream = create(&first).await;
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..8_u64 {
        let (second, stream) = (second.clone(), stream.clone());
        callers.spawn(async move {
            for number in 0..5 {
                let stored = append(&second, &stream, caller * 5 + number).await;
                assert_eq!(stored.host, HostId(1), "the one that has chains");
            }
        });
    }
    callers.join_all().await;
    let mut stored = numbers(&read_all(&first, &stream).await);
    stored.sort_unstable();
    assert_eq!(stored, (0..40).collect::<Vec<_>>());
    let forwards = world.forwards().len();
    assert!(forwards < 20, "40 appends went in {forwards} messages");
    let stored = append_alone(&world, 1, &stream, 40).await;
    assert_eq!((stored.host, stored.chain), (second.id(), ChainId(3)));
    let copies = numbers(&read_all(&first, &stream).await);
    assert_eq!(copies.iter().filter(|number| **number == 40).count(), 1);
    let forwards = world.forwards().len();
    append(&second, &stream, 41).await;
    assert_eq!(
        world.forwards().len(),
        forwards,
        "control: with a chain of its own it stores itself"
    );
}

/// How many events a second hosts acknowledge together, each for 16 callers, on a store that takes its time; with so
/// many chains.
async fn rate(hosts: usize, chains: usize) -> f64 {
    let mut config = Config {
        batch_events_max: 4,
        seal_after: SECOND * 600,
        ..config()
    };
    config.growth.events_per_second_max = if chains > 2 { 1.0 } else { f64::INFINITY };
    config.growth.latency_max = SECOND * 600;
    config.growth.conflicts_max = f64::INFINITY;
    config.growth.over = MILLISECOND * 300;
    let world = world(&vec![0; hosts], config).await;
    let stream = create(&host(&world, 0)).await;
    let mut callers = tokio::task::JoinSet::new();
    let acknowledged = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    for caller in 0..hosts as u64 * 16 {
        let (handle, stream) = (host(&world, caller as usize % hosts), stream.clone());
        let acknowledged = std::sync::Arc::clone(&acknowledged);
        callers.spawn(async move {
            loop {
                append(&handle, &stream, caller).await;
                acknowledged.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        });
    }
    let grown = async {
        while host(&world, 0).stat(&stream).await.unwrap().chains.len() < chains {
            sleep(MILLISECOND * 100).await;
        }
    };
    timeout(SECOND * 60, grown).await.expect("the chains are added");
    sleep(SECOND).await;
    let before = acknowledged.load(std::sync::atomic::Ordering::Relaxed);
    sleep(SECOND * 4).await;
    let after = acknowledged.load(std::sync::atomic::Ordering::Relaxed);
    callers.shutdown().await;
    (after - before) as f64 / 4.0
}

/// j-T13
#[tokio::test(start_paused = true)]
async fn four_hosts_with_four_chains_each_take_three_times_what_one_chain_takes() {
    let (one, four) = (rate(1, 2).await, rate(4, 16).await);
    assert!(four >= 3.0 * one, "{four} events a second beside {one}");
    let control = rate(4, 2).await;
    assert!(
        control < 3.0 * one,
        "control: without more chains, {control} beside {one}"
    );
}

/// A world whose second host owns an added chain.
async fn grown() -> (World, StreamId) {
    let world = world(&[0, 0], config()).await;
    let stream = create(&host(&world, 0)).await;
    append_alone(&world, 1, &stream, 1).await;
    sleep(SECOND).await;
    let stored = append(&host(&world, 1), &stream, 2).await;
    assert_eq!((stored.host, stored.chain), (host(&world, 1).id(), ChainId(3)));
    (world, stream)
}

/// Whether an event appended by the first host is readable there soon.
async fn is_soon_visible(world: &World, stream: &StreamId, number: u64) -> bool {
    let first = host(world, 0);
    let stored = append(&first, stream, number).await;
    let began = Instant::now();
    while began.elapsed() < MILLISECOND * 500 {
        let end = timeout(MILLISECOND * 500, first.end(stream)).await;
        if end.is_ok_and(|end| end.is_ok_and(|end| end > stored)) {
            return true;
        }
        sleep(MILLISECOND * 10).await;
    }
    false
}

/// j-T10
#[tokio::test(start_paused = true)]
async fn an_idle_added_chain_is_sealed_and_holds_nobody_back() {
    let (world, stream) = grown().await;
    sleep(SECOND * 8).await;
    let stat = host(&world, 0).stat(&stream).await.unwrap();
    let states: Vec<ChainState> = stat.chains.iter().map(|chain| chain.state).collect();
    assert_eq!(states, [ChainState::Active, ChainState::Active, ChainState::Sealed]);
    assert_eq!(
        numbers(&read_all(&host(&world, 0), &stream).await),
        [1, 2],
        "it is still readable"
    );
    world.freeze(1);
    assert!(is_soon_visible(&world, &stream, 3).await);
    let (world, stream) = grown().await;
    world.freeze(1);
    assert!(
        !is_soon_visible(&world, &stream, 3).await,
        "control: the same with a chain that is not sealed"
    );
}

/// j-T11
#[tokio::test(start_paused = true)]
async fn readers_move_on_from_a_frozen_owner_which_joins_anew_when_it_comes_back() {
    let (world, stream) = grown().await;
    let (first, second) = (host(&world, 0), host(&world, 1));
    let (gate, frozen) = (std::sync::Arc::clone(&world.places[1].gate), second.clone());
    let was = second.id();
    world.freeze(1);
    let id = stream.clone();
    let stuck = tokio::spawn(async move { frozen.append(&id, vec![record_of(7)]).await });
    assert!(!is_soon_visible(&world, &stream, 3).await, "control: not at once");
    sleep(SECOND * 4).await;
    assert!(is_soon_visible(&world, &stream, 4).await);
    let chains = first.stat(&stream).await.unwrap().chains;
    assert!(chains.iter().all(|chain| chain.owner == first.id()));
    gate.set_open(true);
    match stuck.await.unwrap() {
        Ok(stored) => assert_eq!(stored[0].host, first.id(), "it went elsewhere"),
        Err(AppendError::Fenced | AppendError::Unavailable { .. } | AppendError::Unknown { .. }) => {
            append(&first, &stream, 7).await;
        }
        Err(error) => panic!("{error}"),
    }
    sleep(SECOND * 2).await;
    assert!(second.id() > was, "it goes on under another number");
    assert_eq!(numbers(&read_all(&second, &stream).await), [1, 2, 3, 4, 7]);
    let later = append(&second, &stream, 8).await;
    assert!(later.host != was);
    world.freeze(0);
    sleep(SECOND * 4).await;
    let adopted = append(&second, &stream, 9).await;
    assert_eq!(adopted.host, second.id(), "and owns chains again");
    assert_eq!(numbers(&read_all(&second, &stream).await), [1, 2, 3, 4, 7, 8, 9]);
}

/// j-T12
#[tokio::test(start_paused = true)]
async fn an_append_whose_forward_is_unanswered_is_there_once() {
    let mut world = world(&[0, 0], config()).await;
    let first = host(&world, 0);
    let stream = create(&first).await;
    world.set_loss(Loss {
        requests: 0.0,
        answers: 1.0,
    });
    let mut number = 0;
    while world.forwards().is_empty() {
        append(&first, &stream, number).await;
        number += 1;
        sleep(MILLISECOND * 5).await;
    }
    assert!(
        has_head(&world, 3).await,
        "control: the forward was stored in the second host's chain"
    );
    world.crash(1);
    world.heal();
    sleep(SECOND * 4).await;
    append(&first, &stream, number).await;
    let events = read_all(&first, &stream).await;
    assert_eq!(numbers(&events), (0..=number).collect::<Vec<_>>());
    let stat = first.stat(&stream).await.unwrap();
    assert_eq!(stat.events, number + 2, "control: one of them is stored twice");
}

/// j-D4
#[tokio::test(start_paused = true)]
async fn a_new_chain_begins_above_all_that_readers_may_have_passed() {
    let config = Config {
        seal_after: SECOND * 600,
        ..config()
    };
    let world = world(&[0, -3000], config).await;
    let (first, second) = (host(&world, 0), host(&world, 1));
    let stream = create(&first).await;
    // The second host hears nothing of the first one's stamps: it finds its chain in the directory.
    world.set_loss(Loss {
        requests: 1.0,
        answers: 0.0,
    });
    let mut passed = Position::START;
    for number in 0..2000 {
        append(&first, &stream, number).await;
        passed = first.end(&stream).await.unwrap();
        if has_head(&world, 3).await {
            break;
        }
        sleep(MILLISECOND * 5).await;
    }
    let is_open = |chains: &[bowline_stream::ChainStat]| chains.iter().any(|chain| chain.owner == second.id());
    while !is_open(&first.stat(&stream).await.unwrap().chains) {
        sleep(MILLISECOND * 20).await;
    }
    sleep(SECOND).await;
    let stored = append(&second, &stream, 9999).await;
    assert_eq!(
        stored.chain,
        ChainId(3),
        "control: it lies in the new chain, of a host whose clock is behind"
    );
    assert!(stored > passed);
}
