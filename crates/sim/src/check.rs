//! Checkers of histories. Each returns what it found wrong; a good history passes all of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bowline_stream::{ChainId, HostId, Position};

use crate::history::History;

/// A checker: what it finds wrong in a history.
pub type Checker = fn(&History) -> Vec<String>;

/// All checkers, by name.
pub const CHECKERS: &[(&str, Checker)] = &[
    ("lost", lost),
    ("refused", refused),
    ("twice", twice),
    ("order", order),
    ("behind", behind),
    ("chains", chains),
    ("causal", causal),
    ("owners", owners),
];

/// What any checker finds wrong.
pub fn all(history: &History) -> Vec<String> {
    let found = CHECKERS
        .iter()
        .map(|(name, check)| check(history).into_iter().map(move |fault| format!("{name}: {fault}")));
    found.flatten().collect()
}

/// Every acknowledged event is there, where it was said to be.
///
/// An event with a copy may be there at the position of the other copy, if that is earlier.
pub fn lost(history: &History) -> Vec<String> {
    let places: HashMap<u64, Position> = history.ended.events.iter().copied().collect();
    let mut faults = Vec::new();
    for (number, position) in history.acked.iter().flat_map(|acked| &acked.events) {
        match places.get(number) {
            None => faults.push(format!(
                "event {number} was acknowledged at {position} and is not there"
            )),
            Some(place) if place > position => {
                faults.push(format!(
                    "event {number} was acknowledged at {position} and is at {place}"
                ));
            }
            Some(_) => {}
        }
    }
    faults
}

/// No event is there whose producer was told that it is not.
pub fn refused(history: &History) -> Vec<String> {
    let there: BTreeSet<u64> = history.ended.events.iter().map(|(number, _)| *number).collect();
    let wrongly = history.refused.iter().filter(|number| there.contains(number));
    wrongly
        .map(|number| format!("event {number} was refused and is there"))
        .collect()
}

/// No event is there twice.
pub fn twice(history: &History) -> Vec<String> {
    let mut seen = BTreeMap::new();
    let mut faults = Vec::new();
    for &(number, position) in &history.ended.events {
        if let Some(first) = seen.insert(number, position) {
            faults.push(format!("event {number} is at {first} and at {position}"));
        }
    }
    faults
}

/// The final read is in the order of positions.
pub fn order(history: &History) -> Vec<String> {
    let pairs = history.ended.events.windows(2);
    pairs
        .filter(|pair| pair[0].1 >= pair[1].1)
        .map(|pair| {
            format!(
                "event {} at {} comes before {} at {}",
                pair[0].0, pair[0].1, pair[1].0, pair[1].1
            )
        })
        .collect()
}

/// Every reader saw exactly the final sequence of the part that it has passed: nothing was inserted behind
/// it, nothing was shown that is not there, and all saw the same order.
pub fn behind(history: &History) -> Vec<String> {
    let mut faults = Vec::new();
    for read in &history.reads {
        if read.next < read.after {
            faults.push(format!(
                "reader {} was sent back from {} to {}",
                read.reader, read.after, read.next
            ));
        }
        let from = history
            .ended
            .events
            .partition_point(|(_, position)| *position <= read.after);
        let until = history
            .ended
            .events
            .partition_point(|(_, position)| *position <= read.next);
        let expected = &history.ended.events[from..until.max(from)];
        if read.events != expected {
            faults.push(format!(
                "reader {} saw {:?} between {} and {}, and there is {:?}",
                read.reader, read.events, read.after, read.next, expected
            ));
        }
    }
    faults
}

/// Within each chain indices and stamps grow, and hosts never come back once another has followed.
pub fn chains(history: &History) -> Vec<String> {
    let mut by_chain: BTreeMap<ChainId, Vec<Position>> = BTreeMap::new();
    for (_, position) in &history.ended.events {
        by_chain.entry(position.chain).or_default().push(*position);
    }
    let mut faults = Vec::new();
    for (chain, mut positions) in by_chain {
        positions.sort_unstable_by_key(|position| position.index);
        for pair in positions.windows(2) {
            if pair[0].stamp >= pair[1].stamp || pair[0].index >= pair[1].index {
                faults.push(format!(
                    "chain {}: {} does not come before {}",
                    chain.0, pair[0], pair[1]
                ));
            }
        }
        let mut hosts: Vec<HostId> = positions.iter().map(|position| position.host).collect();
        hosts.dedup();
        let different: BTreeSet<HostId> = hosts.iter().copied().collect();
        if different.len() < hosts.len() {
            faults.push(format!(
                "chain {}: a host wrote again after another: {hosts:?}",
                chain.0
            ));
        }
    }
    faults
}

/// An append that was acknowledged before another was sent to the same host comes before it.
pub fn causal(history: &History) -> Vec<String> {
    let mut faults = Vec::new();
    let places: HashMap<u64, Position> = history.ended.events.iter().copied().collect();
    let mut by_host: BTreeMap<HostId, Vec<&crate::history::Acked>> = BTreeMap::new();
    for acked in &history.acked {
        by_host.entry(acked.host).or_default().push(acked);
    }
    for appends in by_host.values_mut() {
        appends.sort_by_key(|acked| acked.acked);
        // The greatest position acknowledged up to each step.
        let mut greatest: Vec<(u64, Position)> = Vec::new();
        for acked in appends.iter() {
            let last = acked.events.iter().filter_map(|(number, _)| places.get(number)).max();
            let before = greatest.last().map_or(Position::START, |(_, position)| *position);
            greatest.push((acked.acked, before.max(last.copied().unwrap_or_default())));
        }
        for acked in appends.iter().filter(|acked| !acked.is_retry) {
            let earlier = greatest.partition_point(|(step, _)| *step < acked.sent);
            let Some((_, bound)) = earlier.checked_sub(1).map(|at| greatest[at]) else {
                continue;
            };
            for (number, _) in &acked.events {
                if places.get(number).is_some_and(|position| *position <= bound) {
                    faults.push(format!(
                        "event {number} was sent after {bound} was acknowledged by the same host"
                    ));
                }
            }
        }
    }
    faults
}

/// A chain has one owner in each epoch.
pub fn owners(history: &History) -> Vec<String> {
    let mut known: BTreeMap<(ChainId, u64), HostId> = BTreeMap::new();
    let mut faults = Vec::new();
    for &(chain, epoch, owner) in &history.owners {
        let first = *known.entry((chain, epoch)).or_insert(owner);
        if first != owner {
            faults.push(format!(
                "chain {} has owners {} and {} in epoch {epoch}",
                chain.0, first.0, owner.0
            ));
        }
    }
    faults
}
