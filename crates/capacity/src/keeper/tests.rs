//! What is kept: by volume, by worth under a budget, and never beyond it.

use bowline_foundation::entropy::Entropy;
use proptest::prelude::*;

use super::*;

fn minute(after: u32) -> Timestamp {
    Slot(4 * 1440 + after).start()
}

fn keeper(terms: Terms, functions: impl IntoIterator<Item = Kept>) -> Keeper {
    let mut keeper = Keeper::new(terms, minute(0));
    functions.into_iter().for_each(|kept| {
        keeper.add(kept);
    });
    keeper
}

/// Lives through some minutes, in each of which function `index` is called with a chance of one in
/// `rarity(index)`.
fn live(keeper: &mut Keeper, slots: std::ops::Range<u32>, rarity: impl Fn(u32) -> u32) {
    let dice = Entropy::seeded(u64::from(slots.end));
    for after in slots {
        keeper.turn(minute(after));
        for index in keeper.indices() {
            if dice.number().is_multiple_of(u64::from(rarity(index.0))) {
                keeper.called(index, &mut Vec::new());
                keeper.ended(index);
            }
        }
    }
}

/// 05/T-E8: the volume of calls decides whether a sandbox is kept; flipped volumes flip it.
#[test]
fn t_e8_the_busy_one_is_kept_and_the_rare_one_dropped() {
    let mut keeper = keeper(Terms::default(), [Kept::default(), Kept::default()]);
    let [first, second] = [FunctionIndex(0), FunctionIndex(1)];
    let day = 1440;
    live(&mut keeper, 1..2 * day, |index| [3, 400][index as usize]);
    keeper.called(second, &mut Vec::new());
    keeper.ended(second);
    assert!(keeper.is_warm(second), "it is warm right after its call");
    live(&mut keeper, 2 * day..2 * day + 5, |index| {
        [3, 1_000_000][index as usize]
    });
    assert!(keeper.is_warm(first) && !keeper.is_warm(second));
    live(&mut keeper, 2 * day + 5..6 * day, |index| [400, 3][index as usize]);
    live(&mut keeper, 6 * day..6 * day + 15, |index| {
        [1_000_000, 3][index as usize]
    });
    assert!(
        keeper.is_warm(second) && !keeper.is_warm(first),
        "the volumes were flipped"
    );
}

#[test]
fn under_a_budget_the_worthiest_stay() {
    let budget = Mebibytes(2 * MEMORY_UNIT.0);
    let small = Kept::default();
    let big = Kept {
        memory: budget,
        ..Kept::default()
    };
    let terms = Terms {
        budget,
        ..Terms::default()
    };
    let mut keeper = keeper(terms, [big, small.clone(), small]);
    live(&mut keeper, 1..600, |_| 2);
    keeper.turn(minute(600));
    let warm: Vec<bool> = keeper.indices().map(|index| keeper.is_warm(index)).collect();
    assert_eq!(
        warm,
        [false, true, true],
        "two small ones are worth more than a big one"
    );
}

#[test]
fn a_slow_start_is_worth_more_memory() {
    let slow = Kept {
        start_cost: 10.0,
        ..Kept::default()
    };
    let terms = Terms {
        budget: MEMORY_UNIT,
        ..Terms::default()
    };
    let mut keeper = keeper(terms, [Kept::default(), slow]);
    live(&mut keeper, 1..600, |_| 3);
    keeper.turn(minute(600));
    assert!(keeper.is_warm(FunctionIndex(1)) && !keeper.is_warm(FunctionIndex(0)));
}

#[test]
fn a_call_makes_room_at_the_expense_of_the_least_worthy() {
    let terms = Terms {
        budget: Mebibytes(2 * MEMORY_UNIT.0),
        price: 0.0,
        ..Terms::default()
    };
    let mut keeper = keeper(terms, vec![Kept::default(); 3]);
    live(&mut keeper, 1..600, |index| [2, 30, 100_000][index as usize]);
    let mut victims = Vec::new();
    let was_warm = keeper.called(FunctionIndex(2), &mut victims);
    assert!(!was_warm);
    assert_eq!(
        victims,
        [FunctionIndex(1)],
        "the rarely called one goes, not the busy one"
    );
}

#[test]
fn where_only_some_would_help_the_least_worthy_of_them_goes_and_the_others_keep_their_turn() {
    let terms = Terms {
        price: 0.0,
        ..Terms::default()
    };
    let mut keeper = keeper(terms, vec![Kept::default(); 3]);
    live(&mut keeper, 1..600, |index| [2, 30, 90][index as usize]);
    keeper.turn(minute(600));
    let all = |_| Standing::Idle;
    let first = keeper.victim_there(all).unwrap();
    let without_first = |function| {
        if function == first {
            Standing::Busy
        } else {
            Standing::Idle
        }
    };
    let second = keeper.victim_there(without_first).unwrap();
    assert_ne!(first, second);
    assert_eq!(keeper.victim_there(|_| Standing::Busy), None);
    let called = |function| {
        if function == first {
            Standing::Called
        } else {
            Standing::Busy
        }
    };
    assert_eq!(keeper.victim_there(called), Some(first), "rather than none");
    assert_eq!([keeper.victim(all), keeper.victim(all)], [Some(first), Some(second)]);
}

#[test]
fn what_runs_is_never_dropped() {
    let terms = Terms {
        budget: Mebibytes(1),
        ..Terms::default()
    };
    let mut keeper = keeper(terms, vec![Kept::default(); 2]);
    let mut victims = Vec::new();
    keeper.called(FunctionIndex(0), &mut victims);
    keeper.called(FunctionIndex(1), &mut victims);
    for after in 1..100 {
        assert!(keeper.turn(minute(after)).is_empty());
    }
    assert!(victims.is_empty() && keeper.is_warm(FunctionIndex(0)));
    assert!(
        keeper.ended(FunctionIndex(0)),
        "it goes with its run, since it has no room"
    );
    assert!(!keeper.is_warm(FunctionIndex(0)) && keeper.is_warm(FunctionIndex(1)));
}

#[derive(Clone, Debug)]
enum Step {
    Call(u32),
    End(u32),
    Turn(u32),
    Lose(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0u32..6).prop_map(Step::Call),
        4 => (0u32..6).prop_map(Step::End),
        2 => (1u32..30).prop_map(Step::Turn),
        1 => (0u32..6).prop_map(Step::Lose),
    ];
    proptest::collection::vec(step, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever comes, idle sandboxes never hold more than the budget beside what runs, the sum of the
    /// memory is that of the warm ones, and a change says what it does.
    #[test]
    fn the_budget_is_never_exceeded_by_idle_sandboxes(steps in steps(), budget in 1u32..6) {
        let terms = Terms { budget: Mebibytes(budget * MEMORY_UNIT.0), price: 0.001, ..Terms::default() };
        let mut keeper = keeper(terms, vec![Kept::default(); 6]);
        let (mut running, mut now) = ([0u32; 6], 0);
        for step in steps {
            match step {
                Step::Call(index) => {
                    running[index as usize] += 1;
                    keeper.called(FunctionIndex(index), &mut Vec::new());
                }
                Step::End(index) if running[index as usize] > 0 => {
                    running[index as usize] -= 1;
                    keeper.ended(FunctionIndex(index));
                }
                Step::End(_) => {}
                Step::Turn(by) => {
                    now += by;
                    let before: Vec<bool> = keeper.indices().map(|index| keeper.is_warm(index)).collect();
                    for change in keeper.turn(minute(now)) {
                        let (Change::Drop(index) | Change::Start(index)) = change;
                        prop_assert_eq!(matches!(change, Change::Drop(_)), before[index.0 as usize]);
                        prop_assert_eq!(running[index.0 as usize], 0);
                    }
                }
                Step::Lose(index) if running[index as usize] == 0 => keeper.lost(FunctionIndex(index)),
                Step::Lose(_) => {}
            }
            let warm = keeper.indices().filter(|index| keeper.is_warm(*index)).count() as u64;
            prop_assert_eq!(keeper.used(), warm * u64::from(MEMORY_UNIT.0));
            let busy = running.iter().filter(|count| **count > 0).count() as u64;
            prop_assert!(warm <= busy.max(u64::from(budget)), "{} warm, {} busy, budget {}", warm, busy, budget);
        }
    }
}
