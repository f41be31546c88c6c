//! The acceptance tests of the warming side (04).

use bowline_foundation::clock::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::trend::{Planned, Sources, Trend};

fn second(seconds: u64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

/// A pool with `ready` instances ready.
fn pool(rules: WarmingRules, ready: u32) -> WarmingPool {
    let mut pool = WarmingPool::new(rules);
    pool.follow(ready);
    (0..ready).for_each(|_| assert!(pool.booted()));
    pool
}

fn rise_rule() -> WarmingRules {
    WarmingRules {
        thresholds: vec![ThresholdRule { above: 10.0, refill: 3 }],
        ..WarmingRules::default()
    }
}

/// 04/T-D1: at a low rate each removal boots one.
#[test]
fn t_d1_five_removals_boot_five() {
    let mut pool = pool(rise_rule(), 5);
    let boots: u32 = (0..5).map(|_| pool.take(1.0).boot).sum();
    assert_eq!((boots, pool.ready(), pool.booting()), (5, 0, 5));
}

/// 04/T-D2: over the threshold the next removal boots three and cites the rate; below it one again. With
/// the rule off the pool runs dry.
#[test]
fn t_d2_the_rate_changes_what_a_removal_boots() {
    let mut pool = pool(rise_rule(), 8);
    let risen = pool.take(20.0);
    assert_eq!(
        (risen.boot, risen.refill_per_removal, risen.rate.to_bits()),
        (3, 3, 20.0_f64.to_bits())
    );
    assert_eq!(pool.take(2.0).boot, 1);
    // A load that rises each second, with boots that take two.
    let misses = |rules| {
        let mut pool = self::pool(
            WarmingRules {
                count_max: 1000,
                ..rules
            },
            3,
        );
        let (mut pipeline, mut misses) = (std::collections::VecDeque::from([0, 0]), 0);
        for load in [20, 26, 34, 44, 57, 74, 97] {
            (0..pipeline.pop_front().unwrap()).for_each(|_| assert!(pool.booted()));
            let removals: Vec<Removal> = (0..load).map(|_| pool.take(f64::from(load))).collect();
            misses += removals.iter().filter(|removal| !removal.was_ready).count();
            pipeline.push_back(removals.iter().map(|removal| removal.boot).sum::<u32>());
        }
        misses
    };
    let (with, without) = (misses(rise_rule()), misses(WarmingRules::default()));
    assert!(2 * with < without, "{with} misses with the rule, {without} without");
}

/// 04/T-D5: after two weeks with a spike at nine, the pool is enlarged before nine on the next day by at
/// least the boot time; a reactive pool misses.
#[test]
fn t_d5_a_recurring_spike_finds_the_pool_enlarged() {
    let rules = WarmingRules {
        boot: Duration::from_secs(120),
        count_max: 2000,
        ..WarmingRules::default()
    };
    let (nine, day) = (9 * 3600, 86_400);
    let mut trend = Trend::new(second(0));
    for morning in (0..14).map(|count| count * day + nine) {
        // Five a second for two minutes.
        (0..600).for_each(|step| trend.arrived(second(morning + step / 5)));
    }
    let spike = 14 * day + nine;
    let run = |sources: Sources| {
        let (mut trend, mut pool) = (trend.clone(), pool(rules.clone(), 1));
        let (mut misses, mut ready_before) = (0, 0);
        let mut boots: std::collections::VecDeque<(u64, u32)> = std::collections::VecDeque::new();
        for at in spike - 600..spike + 120 {
            trend.pass(second(at));
            while boots.front().is_some_and(|(due, _)| *due <= at) {
                let (_, count) = boots.pop_front().unwrap();
                (0..count).for_each(|_| assert!(pool.booted()));
            }
            let expected = trend.expected(second(at), rules.boot + Duration::from_secs(60), sources);
            let target = pool.target(expected);
            if let Adjustment::Boot(count) = pool.follow(target) {
                boots.push_back((at + 120, count));
            }
            if at == spike - 1 {
                ready_before = pool.ready();
            }
            for _ in 0..if at >= spike { 5 } else { 0 } {
                trend.arrived(second(at));
                let removal = pool.take(trend.current(second(at)));
                misses += u32::from(!removal.was_ready);
                if removal.boot > 0 {
                    boots.push_back((at + 120, removal.boot));
                }
            }
        }
        (misses, ready_before)
    };
    let ((foreseen, ready), (reactive, ready_reactive)) = (run(Sources::ALL), run(Sources::REACTIVE));
    assert!(
        ready >= 500 && ready_reactive <= 1,
        "ready before nine: {ready}, reactive {ready_reactive}"
    );
    assert!(
        foreseen * 10 <= reactive,
        "{foreseen} misses foreseen, {reactive} reactive"
    );
}

/// 04/T-D6: the target follows a declared schedule and returns.
#[test]
fn t_d6_a_declared_schedule_moves_the_target_and_lets_it_return() {
    let pool = pool(WarmingRules::default(), 1);
    let mut trend = Trend::new(second(0));
    let (from, until) = (second(36_000), second(36_600));
    trend.plan(Planned { from, until, rate: 4.0 }, second(0));
    let target = |at: u64| pool.target(trend.expected(second(at), Duration::from_secs(5), Sources::ALL));
    assert_eq!(
        [target(35_000), target(35_996), target(36_300), target(36_600)],
        [1, 20, 20, 1]
    );
    let without = |at: u64| pool.target(trend.expected(second(at), Duration::from_secs(5), Sources::REACTIVE));
    assert_eq!(without(36_300), 1, "control: without the plan nothing moves");
}

/// 04/T-D11: removals are replaced in batches; a size that no pool offers gets one of its own.
#[test]
fn t_d11_batches_and_new_sub_pools() {
    let rules = WarmingRules {
        batch: 5,
        ..WarmingRules::default()
    };
    let mut five = pool(rules, 5);
    let boots: Vec<u32> = (0..5).map(|_| five.take(1.0).boot).collect();
    assert_eq!(boots, [0, 0, 0, 0, 5]);
    let mut pools = WarmingPools::new(&[Mebibytes(512), Mebibytes(2048)], &WarmingRules::default());
    assert_eq!(pools.pool_for(Mebibytes(600)).0, Mebibytes(2048));
    assert_eq!(pools.pool_for(Mebibytes(8192)).0, Mebibytes(8192));
    assert_eq!(pools.sizes().collect::<Vec<_>>(), [512, 2048, 8192].map(Mebibytes));
}

#[test]
fn a_fall_lets_the_pool_shrink() {
    let rules = WarmingRules {
        refill: 1,
        thresholds: vec![
            ThresholdRule { above: -1.0, refill: 0 },
            ThresholdRule { above: 1.0, refill: 2 },
        ],
        ..WarmingRules::default()
    };
    let mut pool = pool(rules, 4);
    assert_eq!([pool.take(0.5).boot, pool.take(5.0).boot], [0, 2]);
}

proptest! {
    /// 04/T-D7, the pool's part: whatever comes, it never falls below nought nor grows beyond its bounds.
    #[test]
    fn t_d7_the_pool_stays_within_its_bounds(
        steps in proptest::collection::vec((0u8..5, 0.0f64..40.0), 1..300),
        count_max in 1u32..20,
        batch in 0u32..4,
    ) {
        let rules = WarmingRules { count_max, batch, ..rise_rule() };
        let mut pool = WarmingPool::new(rules);
        for (step, rate) in steps {
            match step {
                0 => {
                    let before = pool.ready();
                    prop_assert_eq!(pool.take(rate).was_ready, before > 0);
                }
                1 => {
                    let before = pool.booting();
                    prop_assert_eq!(pool.booted(), before > 0);
                }
                2 => pool.failed(),
                _ => {
                    let target = pool.target(rate);
                    prop_assert!((1..=count_max).contains(&target));
                    pool.follow(target);
                }
            }
            prop_assert!(pool.ready() + pool.booting() <= count_max);
        }
    }
}
