//! What `cargo xtask fuzz-checkpoints` does finds faults: one that is planted in each run shows in the ends of many.

use std::sync::Arc;

use bowline_checkpoint::{Options, Plan};
use wasmtime::Val;

use crate::generate;
use crate::hops::{Fault, Hops, Itinerary, Way, travel};
use crate::run::{Compiled, Subject, engine};
use crate::tampered;

const FUEL: u32 = 200;
const SEEDS: std::ops::Range<u64> = 0..24;

fn subjects() -> Vec<Subject> {
    let compiled = SEEDS.filter_map(|seed| {
        let module = generate::module(seed, FUEL)?;
        Plan::new(module.as_slice(), Options::default()).ok()?;
        Some((seed, Arc::new(Compiled::if_valid(engine(), engine(), module)?)))
    });
    let of_module = |(seed, compiled): (u64, Arc<Compiled>)| {
        let exports = compiled.plain().exports();
        let calls = exports.filter_map(|export| {
            let arguments = generate::arguments(export.ty().func()?, seed)?;
            Some(Subject::of(&compiled, export.name(), &arguments))
        });
        calls.collect::<Vec<_>>()
    };
    let all_matters = [3, 5, 8].map(|rounds| Subject::text(tampered::TEXT, "run", &[Val::I32(rounds)]));
    compiled.flat_map(of_module).chain(all_matters).collect()
}

/// How many runs end otherwise than they should.
fn found(subjects: &[Subject], fault: Option<Fault>) -> (usize, Hops) {
    let mut hops = Hops::default();
    let ways = [Way::InPlace, Way::Moved, Way::InPlace, Way::Written];
    let itinerary = Itinerary {
        polls: |_| 1,
        way: |hop| ways[hop as usize % ways.len()],
        fault: fault.map(|fault| (fault, 1)),
    };
    let differs = subjects.iter().filter(|subject| {
        let plain = subject.plain();
        let overflows = plain.end == Err("wasm trap: call stack exhausted".to_owned());
        !overflows && travel(subject, &itinerary, &mut hops) != plain
    });
    (differs.count(), hops)
}

#[test]
fn faults_that_are_planted_are_found_and_nothing_else() {
    let subjects = subjects();
    let (differ, hops) = found(&subjects, None);
    assert_eq!(differ, 0, "the control: nothing is planted");
    assert!(
        hops.in_place > 500 && hops.moved > 200 && hops.written > 200,
        "{hops:?}"
    );
    for (name, fault) in Fault::ALL {
        let (differ, _) = found(&subjects, Some(fault));
        println!("{name}: found in {differ} of {} runs", subjects.len());
        assert!(differ >= 3, "{name} is found in {differ} of {} runs", subjects.len());
    }
}
