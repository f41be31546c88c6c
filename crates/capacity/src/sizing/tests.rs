//! The acceptance tests of sizing (02) that are decided without running anything.

use proptest::prelude::*;

use super::*;

const ROOM: Mebibytes = Mebibytes(16_384);

fn key(requested: u32) -> ProfileKey {
    ProfileKey {
        code: Code(1),
        owner: Owner(1),
        requested: Mebibytes(requested),
    }
}

fn new_sizer(mode: Mode) -> Sizer {
    Sizer::new(AdjustmentCondition::default(), mode)
}

/// Runs the function once, as large as it gets, and returns what came of it.
fn run(sizer: &mut Sizer, key: ProfileKey, run: u64, need: u32) -> Option<Event> {
    run_with_room(sizer, key, run, need, ROOM)
}

fn run_with_room(sizer: &mut Sizer, key: ProfileKey, run: u64, need: u32, room: Mebibytes) -> Option<Event> {
    let limit = sizer.effective(&key);
    let sample = Sample {
        run: RunId(run),
        limit,
        peak: limit.min(Mebibytes(need)),
        duration_ms: 100,
        outcome: if need > limit.0 {
            Outcome::OutOfMemory
        } else {
            Outcome::Ok
        },
    };
    sizer.record(key, sample, room)
}

/// 02/T-B2: after ten runs that need 60 of 512 MiB, later ones get less, though 512 are still asked for;
/// with the mode off they do not.
#[test]
fn t_b2_runs_that_need_little_get_less() {
    let mut sizer = new_sizer(Mode::Auto);
    for number in 1..=10 {
        assert_eq!(sizer.effective(&key(512)), Mebibytes(512));
        run(&mut sizer, key(512), number, 60);
    }
    let effective = sizer.effective(&key(512));
    assert!((60..512).contains(&effective.0), "{effective:?}");
    assert!(
        (11..100).all(|number| run(&mut sizer, key(512), number, 60).is_none()),
        "and all goes well"
    );
    let mut off = new_sizer(Mode::Off);
    (1..=100).for_each(|number| assert_eq!(run(&mut off, key(512), number, 60), None));
    assert_eq!(off.effective(&key(512)), Mebibytes(512));
}

/// 02/T-B3: nine runs that agree and one that does not change nothing; ten do.
#[test]
fn t_b3_one_run_less_than_the_threshold_changes_nothing() {
    let mut nine = new_sizer(Mode::Auto);
    (1..=9).for_each(|number| assert_eq!(run(&mut nine, key(512), number, 60), None));
    assert_eq!(run(&mut nine, key(512), 10, 400), None);
    assert_eq!(nine.effective(&key(512)), Mebibytes(512));
    let mut ten = new_sizer(Mode::Auto);
    (1..=9).for_each(|number| assert_eq!(run(&mut ten, key(512), number, 60), None));
    assert!(matches!(run(&mut ten, key(512), 10, 60), Some(Event::Changed(_))));
}

/// 02/T-B4: the second amount is the same share of its maximum, to the unit.
#[test]
fn t_b4_amounts_are_derived_by_share() {
    // Of 16 GiB and 8 cores, in microseconds of quota for a period of 100 ms.
    let quota = |mebibytes| derived(mebibytes, 16_384, 800_000).unwrap();
    assert_eq!(
        [4096, 16_384, 1024, 1000].map(quota),
        [200_000, 800_000, 50_000, 48_828]
    );
    assert_eq!(derived(1, 0, 8), None);
}

/// 02/T-B5: twelve of a hundred runs that fail lead to advice at which none fails; five do not.
#[test]
fn t_b5_failures_lead_to_advice() {
    let advice = |failing: u64| {
        let mut sizer = new_sizer(Mode::Suggest);
        let events = (0..100).filter_map(|number| {
            let need = if number % (100 / failing) == 0 && number / (100 / failing) < failing {
                300
            } else {
                150
            };
            run(&mut sizer, key(200), number, need)
        });
        let suggested = events.filter_map(|event| match event {
            Event::Suggested(change) => Some(change),
            _ => None,
        });
        let last = suggested.last();
        (last, sizer)
    };
    let (change, mut sizer) = advice(12);
    let change = change.expect("a suggestion");
    assert!(change.to > Mebibytes(200) && change.reason == Reason::FailsForWantOfMemory);
    assert_eq!(sizer.effective(&key(200)), Mebibytes(200), "it is advice");
    sizer.accept(&key(200)).unwrap();
    let failures = (100..200).filter(|number| sizer.effective(&key(200)).0 < if number % 8 == 0 { 300 } else { 150 });
    assert_eq!(failures.count(), 0);
    assert_eq!(advice(5).0, None);
}

/// 02/T-B6: on an instance that has nothing left no suggestion is made, and the reason is told.
#[test]
fn t_b6_a_full_instance_gives_no_advice() {
    let mut sizer = new_sizer(Mode::Suggest);
    let events: Vec<Event> = (0..30)
        .filter_map(|number| run_with_room(&mut sizer, key(200), number, 300, Mebibytes(0)))
        .collect();
    assert!(
        !events.is_empty() && events.iter().all(|event| matches!(event, Event::Withheld { .. })),
        "{events:?}"
    );
    assert_eq!(sizer.profile(&key(200)).unwrap().suggestion(), None);
}

/// 02/T-B7: a thousand runs of steady load change the size twice at most.
#[test]
fn t_b7_steady_load_does_not_oscillate() {
    for base in [20, 60, 300, 480, 500, 511] {
        let mut sizer = new_sizer(Mode::Auto);
        for number in 0..1000u32 {
            run(&mut sizer, key(512), u64::from(number), base + number * 7 % 13);
        }
        let history = sizer.profile(&key(512)).unwrap().history();
        assert!(history.len() <= 2, "{base}: {history:?}");
    }
}

/// 02/T-B8 and 02/T-B10: owners and amounts have profiles of their own.
#[test]
fn t_b8_t_b10_profiles_are_kept_apart() {
    let mut sizer = new_sizer(Mode::Auto);
    let other = ProfileKey {
        owner: Owner(2),
        ..key(512)
    };
    for number in 0..20 {
        run(&mut sizer, key(512), number, 60);
        run(&mut sizer, other, 100 + number, 400);
        run(&mut sizer, key(256), 200 + number, 200);
    }
    assert!(sizer.effective(&key(512)) < Mebibytes(512));
    assert_eq!(sizer.effective(&other), Mebibytes(512));
    assert_eq!(sizer.effective(&key(256)), Mebibytes(256));
}

/// 02/T-B11: in one run of the system one function grows and another shrinks.
#[test]
fn t_b11_one_grows_and_one_shrinks() {
    let mut sizer = new_sizer(Mode::Auto);
    for number in 0..12 {
        run(&mut sizer, key(512), number, 60);
        run(&mut sizer, key(256), 100 + number, 250);
    }
    assert!(sizer.effective(&key(512)) < Mebibytes(512));
    assert!(sizer.effective(&key(256)) > Mebibytes(256));
}

/// 02/T-B12: the modes change, advise, and do neither; accepted advice changes the next.
#[test]
fn t_b12_modes() {
    let after = |mode| {
        let mut sizer = new_sizer(mode);
        let events = (0..12)
            .filter_map(|number| run(&mut sizer, key(512), number, 60))
            .count();
        (sizer.effective(&key(512)) < Mebibytes(512), events, sizer)
    };
    assert_eq!((after(Mode::Auto).0, after(Mode::Auto).1), (true, 1));
    assert_eq!((after(Mode::Off).0, after(Mode::Off).1), (false, 0));
    let (changed, events, mut sizer) = after(Mode::Suggest);
    assert_eq!((changed, events), (false, 1), "advised, and advised once");
    let accepted = sizer.accept(&key(512)).unwrap();
    assert_eq!(sizer.effective(&key(512)), accepted.to);
    assert_eq!(sizer.accept(&key(512)), None);
}

/// 02/T-B13, the cap: growth stops at the most that is allowed and says so.
#[test]
fn t_b13_growth_stops_at_the_cap() {
    let condition = AdjustmentCondition {
        amount_max: Mebibytes(600),
        ..AdjustmentCondition::default()
    };
    let mut sizer = Sizer::new(condition, Mode::Auto);
    let events: Vec<Event> = (0..60)
        .filter_map(|number| run(&mut sizer, key(512), number, 4000))
        .collect();
    assert_eq!(sizer.effective(&key(512)), Mebibytes(600));
    let [Event::Changed(change), Event::Suggested(again)] = &events[..] else {
        panic!("{events:?}")
    };
    assert!(change.is_capped && again.is_capped && again.to == Mebibytes(600));
}

/// 02/T-B14: a change can be computed again from the samples that it cites, and taken back.
#[test]
fn t_b14_changes_have_evidence_and_can_be_taken_back() {
    let mut sizer = new_sizer(Mode::Auto);
    let mut log: BTreeMap<RunId, Sample> = BTreeMap::new();
    let mut changes = Vec::new();
    for number in 0..40 {
        let (limit, need) = (sizer.effective(&key(512)), 60 + u32::try_from(number).unwrap() % 5);
        let sample = Sample {
            run: RunId(number),
            limit,
            peak: Mebibytes(need),
            duration_ms: 5,
            outcome: Outcome::Ok,
        };
        log.insert(sample.run, sample);
        if let Some(Event::Changed(change)) = sizer.record(key(512), sample, ROOM) {
            changes.push(change);
        }
    }
    let change = changes.first().expect("one change");
    let cited: Vec<Sample> = change.evidence.iter().map(|sample| log[&sample.run]).collect();
    let again = judge(&AdjustmentCondition::default(), change.from, cited.iter()).unwrap();
    assert_eq!(again, *change);
    let back = sizer.roll_back(&key(512)).unwrap();
    assert_eq!((back.to, sizer.effective(&key(512))), (Mebibytes(512), Mebibytes(512)));
    (100..130).for_each(|number| {
        run(&mut sizer, key(512), number, 60);
    });
    assert_eq!(
        sizer.effective(&key(512)),
        Mebibytes(512),
        "what was taken back is not done again unasked"
    );
}

/// Advice that differs by a tenth at most is not given again; by more it is.
#[test]
fn advice_is_not_given_again_for_a_small_difference() {
    let mut profile = Profile::new(Mebibytes(1000), Mode::Suggest);
    let mut advice = |peak: u32, runs: u64| {
        let sample = |run| Sample {
            run: RunId(run),
            limit: Mebibytes(1000),
            peak: Mebibytes(peak),
            duration_ms: 5,
            outcome: Outcome::Ok,
        };
        let condition = AdjustmentCondition::default();
        let events = (0..runs).filter_map(|run| profile.record(&condition, sample(run), ROOM));
        let suggested = events.map(|event| match event {
            Event::Suggested(change) => change.to.0,
            other => panic!("{other:?}"),
        });
        suggested.collect::<Vec<_>>()
    };
    assert_eq!(advice(100, 10), [120]);
    assert!(advice(110, 100).is_empty(), "132 is a tenth more");
    assert_eq!(advice(111, 100), [134], "this is more than a tenth");
    assert!(advice(101, 100).is_empty(), "122 is less than a tenth below that");
}

/// What was committed is followed; samples of the same size stay, those of another go.
#[test]
fn samples_stay_with_the_size_that_they_speak_for() {
    let mut sizer = new_sizer(Mode::Suggest);
    (0..10).for_each(|number| {
        run(&mut sizer, key(512), number, 60);
    });
    let mut profile = sizer.profile(&key(512)).unwrap().clone();
    assert!(profile.suggestion().is_some());
    let unadvised = Profile::new(Mebibytes(512), Mode::Suggest);
    profile.follow(&unadvised);
    assert_eq!((profile.samples().count(), profile.suggestion()), (10, None));
    profile.follow(&Profile::new(Mebibytes(512), Mode::Auto));
    assert_eq!((profile.samples().count(), profile.mode()), (0, Mode::Auto));
}

#[test]
fn a_new_version_inherits_sizes_and_not_counts() {
    let mut sizer = new_sizer(Mode::Auto);
    (0..10).for_each(|number| {
        run(&mut sizer, key(512), number, 60);
    });
    sizer.succeed(Code(1), Code(2));
    let heir = ProfileKey {
        code: Code(2),
        ..key(512)
    };
    assert_eq!(sizer.effective(&heir), sizer.effective(&key(512)));
    assert_eq!(sizer.profile(&heir).unwrap().samples().count(), 0);
}

#[test]
fn sizes_survive_being_stored() {
    let mut sizer = new_sizer(Mode::Auto);
    (0..15).for_each(|number| {
        run(&mut sizer, key(512), number, 60);
    });
    let stored = serde_json::to_string(&sizer).unwrap();
    let again: Sizer = serde_json::from_str(&stored).unwrap();
    assert_eq!(again.profile(&key(512)), sizer.profile(&key(512)));
}

proptest! {
    /// Whatever runs need, an amount stays within its bounds, and each change is rooted in its evidence.
    #[test]
    fn amounts_stay_within_bounds(needs in proptest::collection::vec(1u32..20_000, 1..400)) {
        let mut sizer = new_sizer(Mode::Auto);
        let bounds = AdjustmentCondition::default();
        for (number, need) in (0..).zip(needs) {
            if let Some(Event::Changed(change)) = run(&mut sizer, key(512), number, need) {
                prop_assert!(change.evidence.len() >= bounds.runs_min);
                prop_assert_eq!(change.to, sizer.effective(&key(512)));
            }
            let effective = sizer.effective(&key(512));
            prop_assert!(bounds.amount_min <= effective && effective <= bounds.amount_max);
        }
    }

    #[test]
    fn a_derived_share_is_within_one_unit(amount in 1u64..1 << 40, maximum in 1u64..1 << 40, other in 0u64..1 << 20) {
        let amount = amount.min(maximum);
        let share = derived(amount, maximum, other).unwrap();
        prop_assert!(share <= other);
        let exact = u128::from(amount) * u128::from(other);
        prop_assert!(u128::from(share) * u128::from(maximum) <= exact);
        prop_assert!((u128::from(share) + 1) * u128::from(maximum) > exact);
    }
}
