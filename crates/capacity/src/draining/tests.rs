//! The acceptance tests of the active side (04).

use proptest::prelude::*;

use super::*;

const A: InstanceId = InstanceId(1);
const B: InstanceId = InstanceId(2);

fn second(seconds: u64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

fn rules() -> DrainRules {
    DrainRules {
        low_water: 0.6,
        high_water: 1.0,
        ..DrainRules::default()
    }
}

/// A set with instances of eight slots, of which `busy` are busy.
fn set(rules: DrainRules, busy: &[(InstanceId, u64)]) -> ActiveSet {
    let mut set = ActiveSet::new(rules);
    for (id, count) in busy {
        set.add(*id, 8);
        set.instances.get_mut(id).unwrap().allocated = *count;
    }
    set
}

/// Observes from nought to `until`, every second, and returns the events with their times.
fn observe(set: &mut ActiveSet, until: u64) -> Vec<(u64, Event)> {
    let events = (0..=until).flat_map(|at| set.observe(second(at)).into_iter().map(move |event| (at, event)));
    events.collect()
}

fn marked(set: &mut ActiveSet) -> Option<InstanceId> {
    observe(set, 60).into_iter().find_map(|(_, event)| match event {
        Event::Marked { instance, .. } => Some(instance),
        _ => None,
    })
}

/// 04/T-D3: the marked instance gets nothing, although it has more room; without the mark it does.
#[test]
fn t_d3_a_request_passes_the_marked_instance_by() {
    let mut control = set(rules(), &[(A, 2), (B, 6)]);
    assert_eq!(
        control.place(1).unwrap().0,
        A,
        "control: without a mark the one with more room"
    );
    let mut set = set(rules(), &[(A, 2), (B, 6)]);
    assert_eq!(marked(&mut set), Some(A));
    assert_eq!([set.place(1).unwrap(), set.place(1).unwrap()], [(B, None), (B, None)]);
    assert!(set.is_draining(A));
}

/// 04/T-D4: it goes when its last run ends and not before, and the rest is used better.
#[test]
fn t_d4_it_is_terminated_when_its_run_ends() {
    let mut set = set(rules(), &[(A, 2), (B, 6)]);
    assert_eq!(marked(&mut set), Some(A));
    let before = set.utilisation();
    assert_eq!(set.ended(A, 1), None, "one more runs");
    assert!(observe(&mut set, 80).is_empty(), "time alone ends nothing");
    assert_eq!(set.ended(A, 1), Some(Event::Terminate { instance: A }));
    assert!(!set.contains(A) && set.utilisation() > before);
}

/// 04/T-D10: the line must be crossed for long enough; above it nothing is marked.
#[test]
fn t_d10_only_a_use_that_stays_low_marks() {
    let mut above = set(rules(), &[(A, 5), (B, 6)]);
    assert!(observe(&mut above, 600).is_empty());
    let mut below = set(rules(), &[(A, 2), (B, 6)]);
    let events = observe(&mut below, 100);
    assert_eq!(
        events,
        [(
            60,
            Event::Marked {
                instance: A,
                utilisation: 0.5
            }
        )]
    );
    let mut swinging = set(rules(), &[(A, 2), (B, 6)]);
    for at in 0..600 {
        // Every fifty seconds it is above the line for a moment.
        swinging.instances.get_mut(&A).unwrap().allocated = if at % 50 == 0 { 8 } else { 2 };
        assert!(swinging.observe(second(at)).is_empty());
    }
}

/// Two instances of which little was given out; A uses this much of a hundred of its memory and its processors.
fn measured(memory: u64, processors: u64) -> ActiveSet {
    let mut set = set(rules(), &[(A, 0), (B, 1)]);
    let of_hundred = |used| Level { used, most: 100 };
    let both = |memory, processors| Measured {
        memory: of_hundred(memory),
        processors: of_hundred(processors),
    };
    set.set_measured(A, both(memory, processors));
    set.set_measured(B, both(10, 20));
    set
}

/// 04/T-D10: what is really used counts, whatever was given out; one that is used itself is not marked, however little the
/// others are.
#[test]
fn t_d10_what_is_measured_counts_beside_what_was_given_out() {
    let figures = [((10, 20), 0.2), ((90, 20), 0.5), ((10, 75), 0.475)];
    for ((memory, processors), of_all) in figures {
        let utilisation = measured(memory, processors).utilisation();
        assert!((utilisation - of_all).abs() < 1e-9, "{utilisation}, and not {of_all}");
    }
    assert_eq!(marked(&mut measured(10, 20)), Some(A), "the control");
    for used in [(90, 20), (10, 75)] {
        let mut set = measured(used.0, used.1);
        assert_eq!(
            marked(&mut set),
            Some(B),
            "all together are below the line: the other one"
        );
        set = measured(used.0, used.1);
        set.set_holds_state(B, true);
        assert_eq!(marked(&mut set), None, "{used:?}");
    }
}

/// 04/T-D10: an instance's own use must have been low for as long.
#[test]
fn t_d10_one_that_was_used_a_moment_ago_is_not_marked() {
    let mut set = measured(10, 92);
    set.set_holds_state(B, true);
    assert_eq!(observe(&mut set, 100), []);
    set.set_measured(A, Measured::default());
    let marked_at = (101..300).find(|at| !set.observe(second(*at)).is_empty());
    assert_eq!(marked_at, Some(161), "not before its own minute is over");
}

/// The others would have too little room for what is used, of whatever it is.
#[test]
fn one_whose_processors_the_others_lack_stays() {
    let mut set = ActiveSet::new(DrainRules {
        high_water: 0.5,
        ..rules()
    });
    for (id, used) in [(A, 25), (B, 30)] {
        set.add(id, 8);
        let processors = Level { used, most: 100 };
        set.set_measured(
            id,
            Measured {
                processors,
                ..Measured::default()
            },
        );
    }
    assert_eq!(marked(&mut set), None, "55 of 100");
    set.set_measured(A, Measured::default());
    assert_eq!(marked(&mut set), Some(A), "the control");
}

/// 04/T-D12: a run past its time-out is ended by force at the deadline, never before, and only once.
#[test]
fn t_d12_the_deadline_ends_a_run_by_force() {
    let mut set = set(rules(), &[(A, 1), (B, 6)]);
    // Longer than a run may take that begins after an initialisation which may take as long.
    assert!(DEADLINE > Duration::from_secs(2 * 900));
    let events = observe(&mut set, 60 + DEADLINE.as_secs() + 100);
    let forced: Vec<u64> = events
        .iter()
        .filter(|(_, event)| *event == Event::Force { instance: A })
        .map(|(at, _)| *at)
        .collect();
    assert_eq!(forced, [60 + DEADLINE.as_secs()]);
    assert_eq!(set.ended(A, 1), Some(Event::Terminate { instance: A }));
}

/// 04/T-D13: demand that finds no other room clears the mark, and nothing boots.
#[test]
fn t_d13_returning_demand_clears_the_mark() {
    let mut set = set(rules(), &[(A, 2), (B, 6)]);
    assert_eq!(marked(&mut set), Some(A));
    let placed: Vec<_> = (0..3).map(|_| set.place(1).unwrap()).collect();
    assert_eq!(
        placed,
        [(B, None), (B, None), (A, Some(Event::Unmarked { instance: A }))]
    );
    assert!(!set.is_draining(A));
    assert_eq!(set.place(1).unwrap(), (A, None), "it takes work again");
    assert_eq!(set.ended(A, 4), None, "and does not go when it is empty");
}

/// The same where the use is counted elsewhere.
#[test]
fn what_is_counted_elsewhere_ends_and_takes_back_the_same_way() {
    let mut set = set(rules(), &[(A, 2), (B, 6)]);
    assert_eq!(set.take_back(1), None, "the control: none is marked");
    assert_eq!(marked(&mut set), Some(A));
    assert_eq!(set.take_back(7), None, "it has room for less");
    assert_eq!(set.take_back(6), Some(A));
    assert_eq!(set.set_allocated(A, 0), None, "it is not marked any more");
    set.set_allocated(A, 2);
    assert_eq!(marked(&mut set), Some(A));
    assert_eq!(set.set_allocated(A, 1), None);
    assert_eq!(set.set_allocated(A, 0), Some(Event::Terminate { instance: A }));
    assert!(!set.contains(A));
    set.remove(B);
    assert!(!set.contains(B));
}

/// 04/T-D14: an instance that holds shared state is passed over, until the state is detached.
#[test]
fn t_d14_shared_state_is_never_drained() {
    let mut holding = set(rules(), &[(A, 1), (B, 4)]);
    holding.set_holds_state(A, true);
    assert_eq!(marked(&mut holding), Some(B));
    let mut detached = set(rules(), &[(A, 1), (B, 4)]);
    assert_eq!(marked(&mut detached), Some(A));
}

#[test]
fn least_work_left_goes_before_least_used() {
    let mut set = set(rules(), &[(A, 1), (B, 3)]);
    set.set_remaining(A, Duration::from_secs(300));
    set.set_remaining(B, Duration::from_secs(2));
    assert_eq!(marked(&mut set), Some(B));
}

#[test]
fn the_last_instance_is_kept() {
    let mut set = set(rules(), &[(A, 0)]);
    assert_eq!(marked(&mut set), None);
}

#[test]
fn packing_leaves_the_emptier_one_empty() {
    let pack = DrainRules {
        placement: Placement::Pack,
        ..rules()
    };
    assert_eq!(set(pack, &[(A, 2), (B, 6)]).place(1).unwrap().0, B);
}

proptest! {
    /// 04/T-D7, the active part: under any load no instance goes while something runs on it.
    #[test]
    fn t_d7_no_run_is_lost_to_scaling_down(steps in proptest::collection::vec((0u8..4, 1u64..4, 0u64..40), 1..400)) {
        let mut set = ActiveSet::new(DrainRules { below_for: Duration::from_secs(20), ..rules() });
        let (mut next, mut now) = (4, 0);
        (0..next).for_each(|id| set.add(InstanceId(id), 8));
        let mut runs: Vec<(InstanceId, u64)> = Vec::new();
        for (step, amount, by) in steps {
            now += by;
            let mut events = Vec::new();
            match step {
                0 | 1 => match set.place(amount) {
                    Some((id, event)) => {
                        prop_assert!(set.contains(id));
                        runs.push((id, amount));
                        events.extend(event);
                    }
                    None => {
                        set.add(InstanceId(next), 8);
                        next += 1;
                    }
                },
                2 if !runs.is_empty() => {
                    let (id, amount) = runs.swap_remove(usize::try_from(by).unwrap() % runs.len());
                    events.extend(set.ended(id, amount));
                }
                _ => events.extend(set.observe(second(now))),
            }
            for event in events {
                if let Event::Terminate { instance } = event {
                    prop_assert!(runs.iter().all(|(id, _)| *id != instance), "a run was lost");
                }
            }
            prop_assert!(runs.iter().all(|(id, _)| set.contains(*id)));
        }
    }
}
