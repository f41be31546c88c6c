//! The acceptance tests of the look-up (05) that are decided without running anything.

use std::collections::BTreeMap;

use bowline_foundation::clock::Clock;
use proptest::prelude::*;

use super::*;

const SIZE: Mebibytes = Mebibytes(1024);
const U1: Owner = Owner(1);
const U2: Owner = Owner(2);
const F: Code = Code(10);
const G: Code = Code(11);

fn second(seconds: u64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

fn request(owner: Owner, code: Code, memory: u32) -> Request {
    Request {
        code,
        owner,
        memory: Mebibytes(memory),
    }
}

/// An inventory with so many warm instances.
fn inventory(warm: usize) -> Inventory {
    let mut inventory = Inventory::default();
    (0..warm).for_each(|_| {
        inventory.add_warm(SIZE);
    });
    inventory
}

/// Acquires, runs and releases.
fn call(inventory: &mut Inventory, request: &Request) -> Acquired {
    let acquired = inventory.acquire(request, SIZE, second(0));
    inventory.release(acquired.sandbox, true, second(0));
    acquired
}

/// 05/T-E1: the second call runs in the same sandbox, and nothing is created or fetched for it.
#[test]
fn t_e1_the_second_call_finds_the_loaded_sandbox() {
    let mut inventory = inventory(2);
    let first = call(&mut inventory, &request(U1, F, 256));
    let second = call(&mut inventory, &request(U1, F, 256));
    assert_eq!((first.rung, first.source), (Rung::Warming, Source::Store));
    assert_eq!(
        (second.rung, second.source, second.sandbox),
        (Rung::Loaded, Source::Loaded, first.sandbox)
    );
}

/// 05/T-E2: another function of the same owner gets a sandbox of its own on the same instance.
#[test]
fn t_e2_another_function_runs_on_the_owners_instance() {
    let mut inventory = inventory(2);
    let first = call(&mut inventory, &request(U1, F, 256));
    let other = call(&mut inventory, &request(U1, G, 300));
    assert_eq!((other.rung, other.instance), (Rung::Owned, first.instance));
    assert_ne!(other.sandbox, first.sandbox);
    assert_eq!(inventory.allocated(first.instance), Some(Mebibytes(556)));
}

/// 05/T-E3: an instance without enough room is passed over for the warming pool.
#[test]
fn t_e3_a_full_instance_is_passed_over() {
    let mut inventory = inventory(2);
    let first = inventory.acquire(&request(U1, F, 900), SIZE, second(0));
    let other = inventory.acquire(&request(U1, G, 200), SIZE, second(0));
    assert_eq!(other.rung, Rung::Warming);
    assert_ne!(other.instance, first.instance);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// 05/T-E4: of a thousand random calls none runs on another owner's instance or sandbox.
    #[test]
    fn t_e4_no_two_owners_share_anything(calls in proptest::collection::vec((0u64..4, 0u64..6, 64u32..700, 0u8..4), 1000)) {
        let mut inventory = inventory(3);
        let mut owners: BTreeMap<InstanceId, Owner> = BTreeMap::new();
        let mut sandboxes: BTreeMap<SandboxId, (Owner, Code)> = BTreeMap::new();
        let mut running: Vec<SandboxId> = Vec::new();
        for (at, (owner, code, memory, end)) in (0..).zip(calls) {
            let request = request(Owner(owner), Code(code), memory);
            let acquired = inventory.acquire(&request, SIZE, second(at));
            prop_assert_eq!(*owners.entry(acquired.instance).or_insert(request.owner), request.owner);
            let of = (request.owner, request.code);
            prop_assert_eq!(*sandboxes.entry(acquired.sandbox).or_insert(of), of);
            prop_assert!(inventory.allocated(acquired.instance).unwrap() <= SIZE.max(request.memory));
            running.push(acquired.sandbox);
            for _ in 0..end {
                if let Some(sandbox) = running.pop() {
                    inventory.release(sandbox, end < 3, second(at));
                }
            }
            if at % 50 == 0 {
                inventory.expire(second(at), Duration::from_secs(20));
            }
        }
    }
}

/// 05/T-E6: with empty pools an instance is made.
#[test]
fn t_e6_empty_pools_make_an_instance() {
    let mut inventory = inventory(0);
    let acquired = call(&mut inventory, &request(U1, F, 256));
    assert_eq!(
        (acquired.rung, inventory.owner(acquired.instance)),
        (Rung::New, Some(U1))
    );
}

/// 05/T-E7: registration puts code nowhere; a request puts it on the assigned instance alone, which is the
/// owner's before anything is fetched.
#[test]
fn t_e7_code_comes_to_the_assigned_instance_alone() {
    let mut inventory = inventory(3);
    let ids: Vec<InstanceId> = inventory.instances.keys().copied().collect();
    assert!(
        ids.iter()
            .all(|id| !inventory.has_code(*id, F) && inventory.owner(*id).is_none())
    );
    let acquired = inventory.acquire(&request(U1, F, 256), SIZE, second(0));
    // The decision to fetch comes with the assignment already made.
    assert_eq!(
        (acquired.source, inventory.owner(acquired.instance)),
        (Source::Store, Some(U1))
    );
    let holders: Vec<InstanceId> = ids.into_iter().filter(|id| inventory.has_code(*id, F)).collect();
    assert_eq!(holders, [acquired.instance]);
}

/// 05/T-E9: with the sandbox gone and the instance kept, code comes from the cache.
#[test]
fn t_e9_a_destroyed_sandbox_leaves_its_code_in_the_cache() {
    let mut inventory = inventory(1);
    let first = call(&mut inventory, &request(U1, F, 256));
    inventory.destroy(first.sandbox);
    let again = call(&mut inventory, &request(U1, F, 256));
    assert_eq!(
        (again.rung, again.source, again.instance),
        (Rung::Owned, Source::Cache, first.instance)
    );
}

/// 05/T-E12: a dead sandbox is not offered again; the next rung serves.
#[test]
fn t_e12_a_stale_sandbox_is_skipped() {
    let mut inventory = inventory(1);
    let first = call(&mut inventory, &request(U1, F, 256));
    inventory.mark_stale(first.sandbox);
    let next = inventory.acquire(&request(U1, F, 256), SIZE, second(0));
    assert_ne!(next.sandbox, first.sandbox);
    assert_eq!(next.rung, Rung::Owned);
    // One that goes stale while it runs is not kept after its run.
    inventory.mark_stale(next.sandbox);
    inventory.release(next.sandbox, true, second(1));
    assert_ne!(call(&mut inventory, &request(U1, F, 256)).sandbox, next.sandbox);
}

/// 05/T-E13: a request without code, owner or amount is refused before any look-up.
#[test]
fn t_e13_incomplete_requests_are_refused() {
    let registration = Registration {
        memory: None,
        language: "python3.13".to_owned(),
    };
    let full = Asked {
        code: Some(F),
        owner: Some(U1),
        memory: Some(Mebibytes(128)),
        language: None,
    };
    let without = |change: fn(&mut Asked)| {
        let mut asked = full.clone();
        change(&mut asked);
        asked.complete(&registration)
    };
    assert_eq!(without(|_| {}), Ok(request(U1, F, 128)));
    assert_eq!(without(|asked| asked.code = None), Err(Refusal::NoCode));
    assert_eq!(without(|asked| asked.owner = None), Err(Refusal::NoOwner));
    assert_eq!(without(|asked| asked.memory = None), Err(Refusal::NoAmount));
    assert_eq!(
        without(|asked| asked.memory = Some(Mebibytes(0))),
        Err(Refusal::NoAmount)
    );
}

/// 05/T-E15: code in a sandbox, on an instance, or nowhere: the rung differs as expected, thirty times.
#[test]
fn t_e15_the_rung_follows_where_the_code_is() {
    for _ in 0..30 {
        let mut inventory = inventory(2);
        let nowhere = call(&mut inventory, &request(U1, F, 256));
        let in_sandbox = call(&mut inventory, &request(U1, F, 256));
        inventory.destroy(in_sandbox.sandbox);
        let on_instance = call(&mut inventory, &request(U1, F, 256));
        let rungs = [nowhere, in_sandbox, on_instance].map(|acquired| (acquired.rung, acquired.source));
        assert_eq!(
            rungs,
            [
                (Rung::Warming, Source::Store),
                (Rung::Loaded, Source::Loaded),
                (Rung::Owned, Source::Cache)
            ]
        );
    }
}

/// 05/T-E16: among 200 instances and 5,000 codes the holder is found every time, in less than 5 ms.
#[test]
fn t_e16_the_holder_is_found_among_thousands() {
    let mut inventory = Inventory::default();
    (0..200).for_each(|_| {
        inventory.add_warm(Mebibytes(16_384));
    });
    let mut holders = BTreeMap::new();
    for code in 0..5000 {
        let request = request(Owner(code % 200), Code(code), 128);
        holders.insert(code, call(&mut inventory, &request).sandbox);
    }
    let clock = Clock::system();
    let mut times: Vec<Duration> = (0..5000)
        .map(|code| {
            let begin = clock.monotonic();
            let acquired = call(&mut inventory, &request(Owner(code % 200), Code(code), 128));
            let took = clock.monotonic().since(begin);
            assert_eq!((acquired.rung, acquired.sandbox), (Rung::Loaded, holders[&code]));
            took
        })
        .collect();
    times.sort();
    assert!(times[4950] < Duration::from_millis(5), "{:?}", times[4950]);
}

/// 05/T-E18: the registered amount and language count where the request is silent; another language is
/// refused.
#[test]
fn t_e18_the_registration_fills_in_what_is_not_said() {
    let registration = Registration {
        memory: Some(Mebibytes(512)),
        language: "nodejs22.x".to_owned(),
    };
    let asked = |language: Option<&str>| Asked {
        code: Some(F),
        owner: Some(U2),
        memory: None,
        language: language.map(str::to_owned),
    };
    let complete = |language| asked(language).complete(&registration);
    assert_eq!(complete(None), Ok(request(U2, F, 512)));
    assert_eq!(complete(Some("nodejs22.x")), Ok(request(U2, F, 512)));
    let refused = complete(Some("python3.13")).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the code is registered for `nodejs22.x`, the request names `python3.13`"
    );
}

/// 02/T-B1, the accounts: an instance's allocation rises with a sandbox and falls with it.
#[test]
fn b_t1_allocation_rises_and_falls() {
    let mut inventory = inventory(1);
    let acquired = inventory.acquire(&request(U1, F, 256), SIZE, second(0));
    assert_eq!(inventory.allocated(acquired.instance), Some(Mebibytes(256)));
    inventory.release(acquired.sandbox, false, second(0));
    assert_eq!(inventory.allocated(acquired.instance), Some(Mebibytes(0)));
}

/// 02/T-B13, the room: a size that has grown beyond the instance's room is placed on another.
#[test]
fn b_t13_a_grown_size_is_placed_elsewhere() {
    let mut inventory = inventory(2);
    let first = call(&mut inventory, &request(U1, F, 600));
    let grown = inventory.acquire(&request(U1, F, 750), SIZE, second(0));
    assert_eq!(grown.rung, Rung::Warming);
    assert_ne!(grown.instance, first.instance);
}

/// 04/T-D8: warming instances have no owner and no code; active ones have exactly one owner.
#[test]
fn d_t8_warming_instances_belong_to_nobody() {
    let mut inventory = inventory(2);
    call(&mut inventory, &request(U1, F, 256));
    assert_eq!(inventory.warm(), 1);
    for instance in inventory.instances.values() {
        assert_eq!(
            instance.owner.is_none(),
            instance.cached.is_empty() && instance.sandboxes == 0
        );
    }
}

#[test]
fn idle_sandboxes_expire_and_their_instances_go() {
    let mut inventory = inventory(1);
    let used = call(&mut inventory, &request(U1, F, 256));
    assert_eq!(inventory.expire(second(60), Duration::from_secs(60)), (vec![], vec![]));
    let expired = inventory.expire(second(61), Duration::from_secs(60));
    assert_eq!(expired, (vec![used.sandbox], vec![used.instance]));
    assert_eq!(inventory.allocated(used.instance), None);
}
