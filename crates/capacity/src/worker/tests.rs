//! The acceptance tests of the worker pool (14) that are decided without starting anything.

use proptest::prelude::*;

use super::*;

const A: FunctionType = FunctionType(1);
const B: FunctionType = FunctionType(2);

fn second(seconds: u64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

fn reservation(count_min: u32) -> Reservation {
    Reservation {
        count_min,
        count_max: 10,
        per_request: 0.25,
        memory: Mebibytes(64),
        start_cost: 1.0,
    }
}

fn policy(a: u32, b: u32) -> ReservationPolicy {
    ReservationPolicy {
        types: BTreeMap::from([(A, reservation(a)), (B, reservation(b))]),
        horizon: Duration::from_secs(300),
        idle_max: Duration::from_secs(60),
        budget: Mebibytes(64 * 40),
        after_item: AfterItem::Reuse,
    }
}

/// Adjusts and lets everything that starts be ready at once.
fn adjust(pool: &mut WorkerPool<u32>, expected: &BTreeMap<FunctionType, f64>, now: u64) -> Vec<Step> {
    let steps = pool.adjust(expected, second(now));
    for step in &steps {
        if let Step::Start { worker, .. } = step {
            pool.ready(*worker, second(now));
        }
    }
    steps
}

fn pool(policy: ReservationPolicy) -> WorkerPool<u32> {
    let mut pool = WorkerPool::new(policy);
    adjust(&mut pool, &BTreeMap::new(), 0);
    pool
}

fn hit(pool: &mut WorkerPool<u32>, kind: FunctionType) -> WorkerId {
    let item = pool.item(kind, 0);
    match pool.assign(item) {
        Assigned::Hit { worker, .. } => worker,
        Assigned::Miss(item) => panic!("{item:?} found no worker"),
    }
}

/// 14/T-N1: before any request there are three of one type and one of the other.
#[test]
fn t_n1_workers_are_there_before_any_request() {
    let pool = pool(policy(3, 1));
    assert_eq!((pool.idle(A), pool.idle(B)), (3, 1));
}

/// 14/T-N3: a worker of another type never runs an item; one of the right type is started for it.
#[test]
fn t_n3_only_the_right_type_serves() {
    let mut pool = pool(policy(3, 0));
    let item = pool.item(B, 7);
    let Assigned::Miss(item) = pool.assign(item) else {
        panic!("there is no worker of type B")
    };
    let Some(Step::Start { worker, function_type }) = pool.start_for(&item) else {
        panic!("one is started")
    };
    assert_eq!(function_type, B);
    pool.ready(worker, second(1));
    let number = item.id;
    assert_eq!(pool.assign(item), Assigned::Hit { worker, item: number });
    assert_eq!(pool.idle(A), 3);
}

/// 14/T-N4: a schedule, or the history of a day before, makes the pool grow ahead and shrink after.
#[test]
fn t_n4_the_pool_grows_before_ten_and_shrinks_after() {
    let ten = 10 * 3600;
    let mut scheduled = DemandForecast::default();
    scheduled.announce(A, second(ten), 20);
    let mut learned = DemandForecast::default();
    // Twenty within five minutes are 240 in the hour.
    (0..240).for_each(|step| learned.arrived(A, second(ten + step * 15)));
    learned.arrived(A, second(ten + 7200));
    for (forecast, day) in [(scheduled, 0), (learned, 86_400)] {
        let mut pool = pool(policy(1, 0));
        let mut idle = |at: u64| {
            let expected = forecast.expected(second(day + at), Duration::from_secs(300));
            adjust(&mut pool, &expected, day + at);
            pool.idle(A)
        };
        assert_eq!(idle(ten - 3600), 1);
        assert_eq!(idle(ten - 120), 5, "a quarter of the twenty expected");
        assert_eq!(idle(ten + 2 * 3600), 1, "after the horizon it returns");
    }
}

/// 14/T-N5: a thousand items at once: never two on one worker, never one on two.
#[test]
fn t_n5_one_item_one_worker() {
    let mut pool = pool(ReservationPolicy {
        types: BTreeMap::from([(
            A,
            Reservation {
                count_max: 1000,
                ..reservation(1000)
            },
        )]),
        budget: Mebibytes(64 * 1000),
        ..policy(0, 0)
    });
    let mut log = BTreeMap::new();
    for _ in 0..1000 {
        let worker = hit(&mut pool, A);
        let item = pool.running(worker).expect("it runs one").id;
        assert_eq!(log.insert(worker, item), None, "two items on one worker");
    }
    let items: std::collections::BTreeSet<u64> = log.values().copied().collect();
    assert_eq!(items.len(), 1000);
    let item = pool.item(A, 0);
    assert!(matches!(pool.assign(item), Assigned::Miss(_)), "all are busy");
}

/// 14/T-N6: a low budget is never exceeded, and goes to who gains most.
#[test]
fn t_n6_the_budget_goes_to_the_greatest_benefit() {
    let mut low = policy(0, 0);
    low.budget = Mebibytes(64 * 6);
    let expected = BTreeMap::from([(A, 40.0), (B, 8.0)]);
    let targets = low.targets(&expected);
    assert!(targets[&A] > targets[&B], "{targets:?}");
    assert_eq!(targets[&A] + targets[&B], 6);
    low.types.get_mut(&B).unwrap().start_cost = 50.0;
    let targets = low.targets(&expected);
    assert_eq!(targets[&B], 2, "a slow start is worth more: all that B wants");
    let mut pool = pool(low);
    adjust(&mut pool, &expected, 1);
    assert!(pool.memory() <= 64 * 6);
}

/// 14/T-N7: the item of a crashed worker is done once more and only once more; the pool returns to its target.
#[test]
fn t_n7_a_crash_gives_the_item_back_once() {
    let mut pool = pool(policy(2, 0));
    let first = hit(&mut pool, A);
    let item = pool.crashed(first).expect("its item comes back");
    assert!(item.is_second_try);
    let Assigned::Hit { worker: second, .. } = pool.assign(item) else {
        panic!("another one is free")
    };
    assert_ne!(first, second);
    assert_eq!(pool.crashed(second), None, "not a third time");
    adjust(&mut pool, &BTreeMap::new(), 1);
    assert_eq!(pool.idle(A), 2);
}

/// 14/T-N8: an item's function and parameters are its request's.
#[test]
fn t_n8_an_item_is_its_request() {
    let mut pool = pool(policy(1, 0));
    let items: Vec<WorkItem<u32>> = (0..50).map(|params| pool.item(A, params)).collect();
    assert!(
        (0..)
            .zip(&items)
            .all(|(params, item)| item.params == params && item.function_type == A)
    );
    let ids: std::collections::BTreeSet<u64> = items.iter().map(|item| item.id).collect();
    assert_eq!(ids.len(), 50);
}

/// 14/T-N9: each miss counts once, and the next target reflects it.
#[test]
fn t_n9_misses_raise_the_target() {
    let (policy, mut forecast) = (policy(0, 0), DemandForecast::default());
    let target = |forecast: &DemandForecast| policy.targets(&forecast.expected(second(10), policy.horizon))[&A];
    assert_eq!(target(&forecast), 0);
    for count in 1..=8 {
        forecast.missed(A, second(10));
        assert_eq!(forecast.misses(), count);
    }
    assert_eq!(target(&forecast), 2);
}

/// 14/T-N10: a worker that is reused is wiped first; one that is not is gone.
#[test]
fn t_n10_reuse_wipes_and_destroy_does_not_reuse() {
    let mut reusing = pool(policy(1, 0));
    let first = hit(&mut reusing, A);
    assert_eq!(reusing.done(first, second(1)), Some(Step::Wipe { worker: first }));
    assert_eq!((hit(&mut reusing, A), reusing.runs(first)), (first, Some(1)));
    let mut destroying = pool(ReservationPolicy {
        after_item: AfterItem::Destroy,
        ..policy(1, 0)
    });
    let first = hit(&mut destroying, A);
    assert_eq!(destroying.done(first, second(1)), Some(Step::Retire { worker: first }));
    adjust(&mut destroying, &BTreeMap::new(), 2);
    assert_ne!(hit(&mut destroying, A), first);
}

/// 14/T-N11: a policy changed from three to six and back is followed, and nothing busy is lost.
#[test]
fn t_n11_a_policy_changes_live() {
    let mut pool = pool(policy(3, 0));
    let busy = hit(&mut pool, A);
    pool.set_policy(policy(6, 0));
    adjust(&mut pool, &BTreeMap::new(), 1);
    assert_eq!(pool.idle(A), 6);
    pool.set_policy(policy(3, 0));
    adjust(&mut pool, &BTreeMap::new(), 100);
    assert_eq!(pool.idle(A), 3);
    assert!(pool.running(busy).is_some());
}

proptest! {
    /// Whatever is expected, the budget holds, and so do the bounds of each type.
    #[test]
    fn targets_are_within_their_bounds(a in 0.0f64..200.0, b in 0.0f64..200.0, budget in 0u32..1000, min in 0u32..4) {
        let mut policy = policy(min, 1);
        policy.budget = Mebibytes(budget);
        policy.types.get_mut(&B).unwrap().memory = Mebibytes(200);
        let targets = policy.targets(&BTreeMap::from([(A, a), (B, b)]));
        let used: u32 = targets.iter().map(|(kind, count)| count * policy.types[kind].memory.0).sum();
        prop_assert!(used <= budget);
        prop_assert!(targets.values().all(|count| *count <= 10));
    }
}
