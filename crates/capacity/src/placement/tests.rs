//! The rule of placement: what moves, what is bounded, who is preferred.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn idle_node(node: u64) -> Candidate {
    Candidate {
        node: NodeId(node),
        load: 0,
        idle: 0,
    }
}

fn nodes(ids: &[u64]) -> Vec<Candidate> {
    ids.iter().map(|id| idle_node(*id)).collect()
}

fn homes(ids: &[u64], codes: u64) -> Vec<NodeId> {
    let nodes = nodes(ids);
    let home = |code| place(Code(code), &nodes).expect("there are nodes").node;
    (0..codes).map(home).collect()
}

#[test]
fn nobody_is_chosen_of_none_and_the_only_one_of_one() {
    assert_eq!(place(Code(1), &[]), None);
    let alone = place(Code(1), &nodes(&[7])).expect("there is one");
    assert_eq!((alone.node, alone.reason), (NodeId(7), Reason::Home));
}

#[test]
fn codes_spread_evenly() {
    let mut counts = BTreeMap::new();
    for home in homes(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 10_000) {
        *counts.entry(home).or_insert(0_u32) += 1;
    }
    assert_eq!(counts.len(), 10);
    assert!(counts.values().all(|count| (850..1150).contains(count)), "{counts:?}");
}

#[test]
fn an_idle_sandbox_draws_the_call_unless_home_has_one_too() {
    let mut three = nodes(&[1, 2, 3]);
    let home = place(Code(42), &three).expect("there are nodes").node;
    let other = three.iter_mut().find(|candidate| candidate.node != home);
    let other = other.map(|candidate| {
        candidate.idle = 1;
        candidate.node
    });
    let placed = place(Code(42), &three).expect("there are nodes");
    assert_eq!((Some(placed.node), placed.reason), (other, Reason::Warm));
    let at_home = three.iter_mut().find(|candidate| candidate.node == home);
    at_home.expect("it is one of them").idle = 1;
    assert_eq!(place(Code(42), &three).map(|placed| placed.node), Some(home));
}

#[test]
fn a_full_node_is_passed_over_even_if_it_is_warm() {
    let mut three = nodes(&[1, 2, 3]);
    let home = place(Code(42), &three).expect("there are nodes").node;
    let at_home = three.iter_mut().find(|candidate| candidate.node == home);
    let at_home = at_home.expect("it is one of them");
    at_home.idle = 1;
    at_home.load = 1000;
    let placed = place(Code(42), &three).expect("there are nodes");
    assert_ne!(placed.node, home);
    // Control: with a load as the others have it is chosen.
    for candidate in &mut three {
        candidate.load = 1000;
    }
    assert_eq!(place(Code(42), &three).map(|placed| placed.node), Some(home));
}

proptest! {
    #[test]
    fn what_moves_when_a_node_comes_moves_to_it(
        ids in prop::collection::btree_set(any::<u64>(), 1..12),
        new in any::<u64>(),
    ) {
        prop_assume!(!ids.contains(&new));
        let before: Vec<u64> = ids.iter().copied().collect();
        let after: Vec<u64> = before.iter().copied().chain([new]).collect();
        let (old, moved) = (homes(&before, 300), homes(&after, 300));
        let mut count = 0;
        for (was, is) in old.iter().zip(&moved) {
            prop_assert!(was == is || *is == NodeId(new), "{was:?} became {is:?}");
            count += usize::from(was != is);
        }
        // A share like that of any other node, with room for chance.
        prop_assert!(count <= 3 * 300 / after.len() + 30, "{count} moved");
    }

    #[test]
    fn what_moves_when_a_node_goes_was_its_own(
        ids in prop::collection::btree_set(any::<u64>(), 2..12),
        which in any::<prop::sample::Index>(),
    ) {
        let before: Vec<u64> = ids.iter().copied().collect();
        let gone = before[which.index(before.len())];
        let after: Vec<u64> = before.iter().copied().filter(|id| *id != gone).collect();
        for (was, is) in homes(&before, 300).iter().zip(&homes(&after, 300)) {
            prop_assert!(was == is || *was == NodeId(gone));
        }
    }

    #[test]
    fn nobody_gets_more_than_the_bound(
        loads in prop::collection::vec((0_u32..400, 0_u32..3), 1..12),
        code in any::<u64>(),
    ) {
        let mut candidates: Vec<Candidate> = (1..)
            .zip(loads)
            .map(|(node, (load, idle))| Candidate { node: NodeId(node), load, idle })
            .collect();
        // One popular version, called as often as it may: whatever is over the bound before gets nothing.
        for _ in 0..500 {
            let running = candidates.iter().map(|candidate| u64::from(candidate.load)).sum();
            let most = bound(running, candidates.len());
            let placed = place(Code(code), &candidates).expect("the least loaded has room");
            let chosen = candidates.iter_mut().find(|candidate| candidate.node == placed.node);
            let chosen = chosen.expect("it is one of them");
            chosen.load += 1;
            chosen.idle = chosen.idle.saturating_sub(1);
            prop_assert!(u64::from(chosen.load) <= most);
        }
    }

    #[test]
    fn the_order_of_the_nodes_does_not_matter(code in any::<u64>(), loads in prop::collection::vec(0_u32..40, 1..12)) {
        let mut candidates: Vec<Candidate> = (1..)
            .zip(loads)
            .map(|(node, load)| Candidate { node: NodeId(node), load, idle: 0 })
            .collect();
        let placed = place(Code(code), &candidates);
        candidates.reverse();
        prop_assert_eq!(place(Code(code), &candidates), placed);
    }
}
