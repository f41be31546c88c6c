//! The forecasts together: each kind of habit is foreseen, and the same calls give the same chances.

use proptest::prelude::*;

use super::*;

const MONDAY: Slot = Slot(4 * SLOTS_PER_DAY);

/// Feeds `calls`, which says whether function `index` is called in the slot `after` the start.
fn watch(functions: &[Trigger], slots: u32, calls: impl Fn(u32, u32) -> bool) -> Forecaster {
    let mut forecaster = Forecaster::new(MONDAY);
    functions.iter().for_each(|trigger| {
        forecaster.add(*trigger);
    });
    for after in 0..slots {
        forecaster.advance(MONDAY.plus(after));
        for index in 0..u32::try_from(functions.len()).unwrap() {
            if calls(index, after) {
                forecaster.called(FunctionIndex(index));
            }
        }
    }
    forecaster.advance(MONDAY.plus(slots));
    forecaster
}

#[test]
fn an_exact_timer_is_foreseen_to_the_minute() {
    let periods = [15, 60, 240];
    let calls = |index: u32, after: u32| after % periods[index as usize] == 3;
    let mut forecaster = watch(&[Trigger::Timer; 3], 3 * SLOTS_PER_DAY, calls);
    let mut wrong = 0;
    for after in 3 * SLOTS_PER_DAY..4 * SLOTS_PER_DAY {
        forecaster.advance(MONDAY.plus(after));
        for index in 0..3 {
            let is_due = calls(index, after);
            wrong += u32::from((forecaster.chance(FunctionIndex(index)) > 0.5) != is_due);
            if is_due {
                forecaster.called(FunctionIndex(index));
            }
        }
    }
    assert!(
        wrong <= 2,
        "{wrong} of {} minutes were foreseen wrongly",
        3 * SLOTS_PER_DAY
    );
}

#[test]
fn a_follower_is_foreseen_from_its_leaders_call() {
    // The leader comes irregularly; the follower two minutes after it.
    let leads = |after: u32| (after.wrapping_mul(2_654_435_761) >> 16).is_multiple_of(97);
    let calls = |index: u32, after: u32| {
        if index == 0 {
            leads(after)
        } else {
            after >= 2 && leads(after - 2)
        }
    };
    let forecaster = watch(&[Trigger::Other; 2], 6 * SLOTS_PER_DAY, calls);
    let (leader, sure) = forecaster.leaders(FunctionIndex(1)).next().expect("a leader was found");
    assert_eq!(leader, FunctionIndex(0));
    assert!(sure > 0.9, "{sure}");
    let next = (6 * SLOTS_PER_DAY..).find(|after| leads(*after)).unwrap();
    let mut forecaster = watch(&[Trigger::Other; 2], next + 1, calls);
    let before = forecaster.chance(FunctionIndex(1));
    forecaster.advance(MONDAY.plus(next + 2));
    let due = forecaster.chance(FunctionIndex(1));
    assert!(due > 0.5 && before < 0.1, "{before} before, {due} when due");
}

#[test]
fn a_busy_hour_is_foreseen_from_the_days_before() {
    // Each function has an hour of its own, so that they learn from each other what a habit is.
    let calls = |index: u32, after: u32| after % SLOTS_PER_DAY / 60 == 9 + index && after.is_multiple_of(3);
    let forecaster = watch(&[Trigger::Other; 8], 12 * SLOTS_PER_DAY + 8 * 60, calls);
    let outlook = forecaster.outlook(FunctionIndex(0), 0.1);
    assert_eq!(outlook.keep, 0, "an hour before it nothing is kept");
    let start = outlook.start_in.expect("it is expected again today");
    assert!((40..=70).contains(&start), "expected in {start} minutes");
}

#[test]
fn a_declared_schedule_is_believed_at_once() {
    let mut forecaster = watch(&[Trigger::Other], 1, |_, _| false);
    assert_eq!(forecaster.outlook(FunctionIndex(0), 0.5).start_in, None);
    forecaster.declare(FunctionIndex(0), Schedule::every(MONDAY.plus(30), 60).unwrap());
    assert_eq!(forecaster.outlook(FunctionIndex(0), 0.5).start_in, Some(29));
    forecaster.advance(MONDAY.plus(30));
    assert!(forecaster.chance(FunctionIndex(0)) > 0.9);
}

#[test]
fn a_function_that_was_never_called_is_not_expected() {
    let forecaster = watch(&[Trigger::Other; 2], SLOTS_PER_DAY, |index, after| {
        index == 0 && after % 5 == 0
    });
    assert_eq!(forecaster.chance(FunctionIndex(1)).to_bits(), 0);
}

#[test]
fn a_long_time_unwatched_is_skipped() {
    let mut forecaster = watch(&[Trigger::Other], 100, |_, after| after % 10 == 0);
    forecaster.advance(MONDAY.plus(50 * SLOTS_PER_DAY));
    assert_eq!(forecaster.slot(), MONDAY.plus(50 * SLOTS_PER_DAY));
    assert!(forecaster.chance(FunctionIndex(0)) < 0.1);
}

#[test]
fn a_reset_function_starts_anew() {
    let mut forecaster = watch(&[Trigger::Other], 600, |_, _| true);
    assert!(forecaster.chance(FunctionIndex(0)) > 0.9);
    forecaster.reset(FunctionIndex(0), Trigger::Other);
    assert_eq!(forecaster.chance(FunctionIndex(0)).to_bits(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_same_calls_give_the_same_chances(seed in any::<u32>()) {
        let calls = |index: u32, after: u32| {
            (after ^ seed).wrapping_mul(2_654_435_761 + 2 * index).rotate_left(7).is_multiple_of(11 + index)
        };
        let run = || {
            let forecaster = watch(&[Trigger::Other, Trigger::Timer, Trigger::Other], 700, calls);
            [0, 1, 2].map(|index| forecaster.chance(FunctionIndex(index)).to_bits())
        };
        prop_assert_eq!(run(), run());
    }

    #[test]
    fn a_chance_is_a_chance(slots in proptest::collection::vec(0u32..5, 1..400)) {
        let calls = |_: u32, after: u32| slots.get(after as usize).is_some_and(|count| *count == 0);
        let forecaster = watch(&[Trigger::Other], u32::try_from(slots.len()).unwrap(), calls);
        let chance = forecaster.chance(FunctionIndex(0));
        prop_assert!((0.0..=1.0).contains(&chance), "{}", chance);
    }
}

/// A forecaster that knows what another one knew, and begins to watch at `slot`.
fn recalled(from: &Forecaster, functions: &[Trigger], slot: Slot) -> Forecaster {
    let mut forecaster = Forecaster::new(slot);
    let places: Vec<FunctionIndex> = functions.iter().map(|trigger| forecaster.add(*trigger)).collect();
    for place in places {
        assert!(forecaster.recall(place, &from.habits(place)));
    }
    assert!(forecaster.learn_from(&from.teaching()));
    forecaster.look_again();
    forecaster
}

#[test]
fn what_was_kept_gives_the_same_chances_again() {
    let functions = [Trigger::Timer, Trigger::Other, Trigger::Other];
    let calls = |index: u32, after: u32| match index {
        0 => after % 15 == 3,
        1 => after % 15 == 5,
        _ => after % SLOTS_PER_DAY / 60 == 9 && after.is_multiple_of(3),
    };
    let slots = 5 * SLOTS_PER_DAY + 9 * 60 + 5;
    let before = watch(&functions, slots, calls);
    let after = recalled(&before, &functions, before.slot());
    let fresh = watch(&functions, 0, calls);
    for index in [0, 1, 2].map(FunctionIndex) {
        assert_eq!(after.chance(index).to_bits(), before.chance(index).to_bits());
        assert_eq!(after.outlook(index, 0.1), before.outlook(index, 0.1));
        assert_eq!(after.leaders(index).count(), before.leaders(index).count());
        assert_eq!(
            fresh.chance(index).to_bits(),
            0,
            "the control: without it nothing is known"
        );
    }
    assert!(after.chance(FunctionIndex(1)) > 0.5 && after.leaders(FunctionIndex(1)).count() > 0);
}

#[test]
fn what_nobody_watched_is_no_silence() {
    let rarely = |after: u32| after < 2 * SLOTS_PER_DAY && after.is_multiple_of(30);
    let before = watch(&[Trigger::Other], 2 * SLOTS_PER_DAY, |_, after| rarely(after));
    let away = 9 * 30;
    // Away for four hours and a half, and back when a call is due.
    let mut after = recalled(&before, &[Trigger::Other], before.slot().plus(away));
    let silent = watch(&[Trigger::Other], 2 * SLOTS_PER_DAY + away, |_, after| rarely(after));
    assert_eq!(after.slot(), silent.slot());
    let [known, kept, watched] = [&before, &after, &silent].map(|from| from.habits(FunctionIndex(0)));
    assert_eq!((kept.rates, kept.watched), (known.rates, known.watched));
    assert!(
        watched.rates[0] < kept.rates[0] && watched.watched > kept.watched,
        "the control: silence that was watched tells"
    );
    assert_eq!(kept.last, known.last, "but the gap goes on");
    assert_eq!(kept.week, watched.week, "and its slots have no calls");
    after.called(FunctionIndex(0));
    after.advance(before.slot().plus(away + 1));
    let all = |habits: &Habits| habits.gaps[2].iter().map(|count| u32::from(*count)).sum::<u32>();
    assert_eq!(all(&after.habits(FunctionIndex(0))), all(&known) + 1);
}

#[test]
fn habits_that_no_forecaster_has_are_refused_as_a_whole() {
    let before = watch(&[Trigger::Other; 2], 700, |index, after| after % 10 == 2 * index);
    let sound = before.habits(FunctionIndex(1));
    assert!(!sound.leaders.is_empty(), "the second follows the first");
    let spoilt: [fn(&mut Habits); 9] = [
        |habits| habits.gaps[0].truncate(3),
        |habits| habits.gaps[2] = vec![u16::MAX; habits.gaps[2].len()],
        |habits| habits.rhythm[2] = 6,
        |habits| habits.hours[7] = [2.0, 1.0],
        |habits| habits.hours.truncate(48),
        |habits| habits.week.push(1),
        |habits| habits.rates[0] = f32::NAN,
        |habits| habits.leaders[0].trials = 65_535,
        |habits| habits.leaders[0].leader = FunctionIndex(2),
    ];
    let mut forecaster = Forecaster::new(before.slot());
    for trigger in [Trigger::Other; 2] {
        forecaster.add(trigger);
    }
    for spoil in spoilt {
        let mut habits = sound.clone();
        spoil(&mut habits);
        assert!(!forecaster.recall(FunctionIndex(1), &habits), "{habits:?}");
        forecaster.look_again();
        assert_eq!(forecaster.chance(FunctionIndex(1)).to_bits(), 0);
    }
    let mut teaching = before.teaching();
    teaching.odds[1].pop();
    assert!(!forecaster.learn_from(&teaching));
    teaching = before.teaching();
    teaching.weights[0][0].pop();
    assert!(!forecaster.learn_from(&teaching));
    assert!(forecaster.recall(FunctionIndex(1), &sound) && forecaster.learn_from(&before.teaching()));
}
