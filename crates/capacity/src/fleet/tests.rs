//! The acceptance tests of routing by frequency (03).

use super::*;

const HOT: Code = Code(1);
const COLD: Code = Code(2);
const START: u64 = 1_000_000;

fn milli(milliseconds: u64) -> Timestamp {
    Timestamp::from_micros(START * 1_000_000 + milliseconds * 1000)
}

/// Sends `code` requests at `rate` a second from `from` to `until`, in seconds; returns their classes.
fn send(router: &mut Router, code: Code, rate: f64, range: std::ops::Range<u64>) -> Vec<Class> {
    let (mut due, mut classes) = (0.0, Vec::new());
    for at in (range.start * 1000..range.end * 1000).step_by(10) {
        due += rate / 100.0;
        while due >= 1.0 {
            due -= 1.0;
            classes.push(router.arrived(code, milli(at)));
        }
    }
    classes
}

/// 03/T-C1: fifty calls a second go to the high fleet, one a minute to the low one.
#[test]
fn t_c1_busy_code_goes_high_and_rare_code_low() {
    let mut router = Router::default();
    let mut cold = Vec::new();
    for minute in 0..6 {
        cold.push(router.arrived(COLD, milli(minute * 60_000)));
        send(&mut router, HOT, 50.0, minute * 60..minute * 60 + 60);
    }
    let hot = send(&mut router, HOT, 50.0, 360..420);
    assert!(hot.iter().filter(|class| **class == Class::High).count() * 100 >= 99 * hot.len());
    assert!(cold.iter().all(|class| *class == Class::Low));
}

/// 03/T-C2: what was stored classifies the first request after a restart as before.
#[test]
fn t_c2_a_restart_forgets_nothing() {
    let mut router = Router::default();
    send(&mut router, HOT, 50.0, 0..200);
    let stored = serde_json::to_string(&router).unwrap();
    let mut restarted: Router = serde_json::from_str(&stored).unwrap();
    assert_eq!(restarted.arrived(HOT, milli(200_100)), Class::High);
    assert_eq!(
        Router::default().arrived(HOT, milli(200_100)),
        Class::Low,
        "control: without the store"
    );
}

fn from(count: u32) -> Class {
    Class::From(count.try_into().unwrap())
}

/// 03/T-C3: three managers by count; each next request is acquired by the right one.
#[test]
fn t_c3_managers_by_the_count_of_requests() {
    let mut router = Router::default();
    router.set_fleets([from(100), from(10)]);
    let classes = [5, 9, 10, 50, 99, 100, 500].map(|count| {
        let code = Code(count);
        router.counted(code, count, milli(0));
        router.class(code, milli(100))
    });
    let (some, many) = (from(10), from(100));
    assert_eq!(classes, [Class::Low, Class::Low, some, some, some, many, many]);
    assert_eq!(router.bands(), [(Class::Low, 0), (some, 10), (many, 100)]);
    let mut two = Router::default();
    two.counted(Code(50), 50, milli(0));
    assert_eq!(two.class(Code(50), milli(100)), Class::Low, "the control: two fleets");
    assert_eq!(two.bands(), [(Class::Low, 0), (Class::High, 300)]);
}

/// 03/C9, of several bands: down goes what is well below its fleet's line, as far as it belongs.
#[test]
fn a_band_is_left_well_below_its_line() {
    let fleets = [Class::Low, from(10), from(100), Class::High];
    let criteria = Criteria::default();
    let judge = |before, count: u32| criteria.judge(before, &fleets, f64::from(count) / 300.0);
    assert_eq!(judge(from(100), 50), from(100));
    assert_eq!(judge(from(100), 49), from(10));
    assert_eq!(judge(from(100), 4), Class::Low);
    assert_eq!(judge(from(10), 300), Class::High);
    assert_eq!(judge(Class::High, 149), from(100));
    assert_eq!(judge(from(70), 80), from(10), "a fleet that is no more is left at once");
}

#[test]
fn names_of_fleets_are_read_as_they_are_written() {
    for name in ["low", "high", "1+", "10+", "4294967295+"] {
        assert_eq!(name.parse::<Class>().unwrap().to_string(), name);
        let text = format!("\"{name}\"");
        assert_eq!(
            serde_json::to_string(&serde_json::from_str::<Class>(&text).unwrap()).unwrap(),
            text
        );
    }
    for name in ["", "Low", "0+", "10", "+10+", "010+", "10++", "-1+", "4294967296+"] {
        assert_eq!(name.parse::<Class>(), Err(NoClass(name.to_owned())));
    }
}

/// 03/T-C4: a load that swings by a tenth about the line changes its class twice at most.
#[test]
fn t_c4_a_swinging_load_stays_where_it_is() {
    let mut router = Router::default();
    for minute in 0..30 {
        let rate = if minute % 2 == 0 { 1.1 } else { 0.9 };
        send(&mut router, HOT, rate, minute * 60..minute * 60 + 60);
    }
    assert!((1..=2).contains(&router.changes(HOT)), "{}", router.changes(HOT));
}

/// 03/T-C6: routing follows the identifier's history; swapped identifiers swap fleets.
#[test]
fn t_c6_the_identifiers_history_decides() {
    let mut router = Router::default();
    send(&mut router, HOT, 20.0, 0..200);
    send(&mut router, COLD, 0.02, 0..200);
    let request = |router: &mut Router, code| router.arrived(code, milli(200_000));
    let (hot, cold) = (HOT, COLD);
    assert_eq!(
        [request(&mut router, hot), request(&mut router, cold)],
        [Class::High, Class::Low]
    );
    let (hot, cold) = (cold, hot);
    assert_eq!(
        [request(&mut router, hot), request(&mut router, cold)],
        [Class::Low, Class::High]
    );
}

/// 03/T-C7: a criterion changed live moves code after its dwell time.
#[test]
fn t_c7_criteria_change_live() {
    let mut router = Router::default();
    send(&mut router, HOT, 3.0, 0..300);
    assert_eq!(router.class(HOT, milli(300_000)), Class::High);
    router.set_criteria(Criteria {
        promote_at: 5.0,
        demote_at: 4.0,
        dwell_min: Duration::from_secs(600),
        ..Criteria::default()
    });
    let classes = send(&mut router, HOT, 3.0, 300..1000);
    assert_eq!((classes[0], classes[classes.len() - 1]), (Class::High, Class::Low));
}

/// 03/T-C8: the stored counts are those of an access log, bucket by bucket.
#[test]
fn t_c8_counts_equal_the_access_log() {
    let mut router = Router::default();
    let mut log: BTreeMap<(Code, u64), u64> = BTreeMap::new();
    for step in 0..20_000u64 {
        let (code, now) = (Code(step * step % 100), milli(step * 14));
        router.arrived(code, now);
        *log.entry((code, now.as_millis() / 10_000)).or_default() += 1;
    }
    let now = milli(20_000 * 14 - 1);
    for code in (0..100).map(Code) {
        let expected: Vec<(u64, u64)> = log
            .iter()
            .filter(|((of, _), _)| *of == code)
            .map(|((_, bucket), count)| (*bucket, *count))
            .collect();
        assert_eq!(router.counts(code, now), expected, "{code:?}");
    }
}

/// 03/T-C9: the first call of code goes low.
#[test]
fn t_c9_unknown_code_goes_low() {
    assert_eq!(Router::default().arrived(Code(77), milli(0)), Class::Low);
    assert_eq!(Router::default().class(Code(78), milli(0)), Class::Low);
}

/// 03/T-C12: what finds its fleet full runs on another, the next for less load first.
#[test]
fn t_c12_a_full_fleet_spills_to_the_other() {
    let places = |class: Class, fleets: &[Class]| class.places(fleets.iter().copied());
    let two = [Class::Low, Class::High];
    assert_eq!(places(Class::High, &two), [Class::High, Class::Low]);
    assert_eq!(places(Class::Low, &two), [Class::Low, Class::High]);
    let many = [from(100), Class::Low, from(1000), from(10)];
    assert_eq!(places(from(100), &many), [from(100), from(10), Class::Low, from(1000)]);
    assert_eq!(places(from(50), &many), [from(10), Class::Low, from(100), from(1000)]);
}

/// 03/T-C10, what is decided here: the high fleet keeps code, the low one does not and packs.
#[test]
fn t_c10_fleets_are_run_differently() {
    assert!(Class::High.practice().keeps_code && !Class::Low.practice().keeps_code);
    assert_eq!(Class::Low.practice().placement, Placement::Pack);
    assert_eq!(from(10).practice(), Class::High.practice());
}

/// Counts that are told in batches decide as requests that come one by one.
#[test]
fn batches_count_as_requests_do() {
    let (mut one, mut many) = (Router::default(), Router::default());
    for second in 0..300 {
        (0..3).for_each(|_| {
            one.arrived(HOT, milli(second * 1000));
        });
        many.counted(HOT, 3, milli(second * 1000));
    }
    let now = milli(300_000);
    assert_eq!(one.counts(HOT, now), many.counts(HOT, now));
    assert_eq!([one.class(HOT, now), many.class(HOT, now)], [Class::High; 2]);
    assert_eq!(many.class(COLD, now), Class::Low, "the control");
}

/// 03/T-C2, code by code.
#[test]
fn what_is_stored_of_a_code_is_gone_on_from() {
    let mut router = Router::default();
    router.counted(HOT, 10_000, milli(0));
    assert_eq!(router.class(HOT, milli(100)), Class::High);
    let stored = serde_json::to_string(router.usage(HOT).unwrap()).unwrap();
    let mut again = Router::default();
    assert!(again.recall(HOT, serde_json::from_str(&stored).unwrap()));
    assert_eq!(again.usage(HOT), router.usage(HOT));
    assert_eq!(again.class(HOT, milli(200)), Class::High);
    let disorderly = stored.replace("[[100000,10000]]", "[[100000,10000],[7,1]]");
    assert_ne!(stored, disorderly);
    assert!(!again.recall(COLD, serde_json::from_str(&disorderly).unwrap()));
    assert_eq!(again.usage(COLD), None);
}

#[test]
fn only_code_that_is_as_good_as_unknown_is_forgotten() {
    let mut router = Router::default();
    router.counted(HOT, 10_000, milli(0));
    router.counted(COLD, 1, milli(0));
    router.class(HOT, milli(0));
    assert!(!router.forget_idle(COLD, milli(0)), "it was called within the window");
    let later = milli(310_000);
    assert!(router.forget_idle(COLD, later));
    // The busy one is demoted first, and known until it has dwelt there.
    assert!(!router.forget_idle(HOT, later));
    assert_eq!(router.class(HOT, later), Class::Low);
    assert!(router.forget_idle(HOT, milli(310_000 + 120_000)));
    assert_eq!(router.codes().count(), 0);
}

#[test]
fn criteria_that_make_no_sense_are_refused() {
    let good = Criteria::default();
    assert_eq!(good.objection(), None);
    let with = |change: fn(&mut Criteria)| {
        let mut criteria = good.clone();
        change(&mut criteria);
        criteria.objection()
    };
    let bad: [fn(&mut Criteria); 5] = [
        |criteria| criteria.demote_at = 1.5,
        |criteria| criteria.promote_at = f64::NAN,
        |criteria| criteria.demote_at = 0.0,
        |criteria| criteria.window.buckets = 0,
        |criteria| criteria.dwell_min = Duration::from_secs(86_401),
    ];
    for (at, change) in bad.into_iter().enumerate() {
        assert!(with(change).is_some(), "{at}");
    }
    assert_eq!(with(|criteria| criteria.demote_at = 1.0), None, "the control");
}
