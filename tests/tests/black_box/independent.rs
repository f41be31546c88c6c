//! Objects over two PostgreSQL servers, one of which is killed and comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_foundation::clock::Clock;
use bowline_test_postgres::Server;
use bowline_tests::node::Settings;
use bowline_tests::{Lambda, Node, patience};
use serde_json::{Value, json};

use crate::crowd::has_postgres;

const CREATES: usize = 10_000;
const CLIENTS: usize = 16;
/// After so many creates the server is killed, and after so many it starts again.
const KILLED_AFTER: usize = 2_000;
const BACK_AFTER: usize = 7_000;
/// The deadline of one operation, and what a busy machine may add.
const DEADLINE: Duration = Duration::from_secs(5);
const SLACK: Duration = Duration::from_secs(3);
/// How long a second object of one request may be visible: a sweep's interval and the sweep.
const SWEPT_MAX: Duration = Duration::from_secs(90);

/// A node whose objects lie in two servers, `a` and `b`.
fn node_on(servers: &[Server; 2]) -> Result<Node> {
    let stores = format!("a={},b={}", servers[0].url(), servers[1].url());
    Node::start_with(Settings {
        environment: vec![("BOWLINE_OBJECT_STORES".into(), stores.into())],
        ..Settings::default()
    })
}

/// What clients were told.
#[derive(Default)]
struct Told {
    /// The identifier of each object that was made.
    made: BTreeMap<usize, String>,
    /// The code of each create that failed.
    failed: BTreeMap<usize, String>,
    slowest: Duration,
}

/// Makes an object; either it is made or an error says why not, in time.
fn create(lambda: &Lambda, number: usize, told: &mut Told) -> Result<()> {
    let clock = Clock::system();
    let begun = clock.monotonic();
    let object = json!({ "body": number.to_string(), "indexes": [{ "index": "number", "key": number.to_string() }] });
    let reply = lambda.post("/v1/objects", &object)?;
    told.slowest = told.slowest.max(clock.monotonic().since(begun));
    let answer = reply.json();
    match (reply.status, answer["object"].as_str(), answer["code"].as_str()) {
        (201, Some(id), _) => told.made.insert(number, id.to_owned()),
        (_, _, Some(code)) if answer["retry"] == true => told.failed.insert(number, code.to_owned()),
        _ => anyhow::bail!("create {number} is answered {} {answer}", reply.status),
    };
    Ok(())
}

/// Makes objects until there are enough.
fn work(lambda: &Lambda, next: &AtomicUsize) -> Result<Told> {
    let mut told = Told::default();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= CREATES {
            return Ok(told);
        }
        create(lambda, number, &mut told)?;
    }
}

/// Sixteen clients make the objects, while `trouble` sees how far they are.
fn create_all(node: &Node, trouble: impl FnOnce(&AtomicUsize) -> Result<()>) -> Result<Told> {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let next = &next;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| node.lambda())
            .map(|lambda| scope.spawn(move || work(&lambda, next)))
            .collect();
        let ended = trouble(next);
        let mut all = Told::default();
        for client in clients {
            let told = client.join().expect("no panic")?;
            all.made.extend(told.made);
            all.failed.extend(told.failed);
            all.slowest = all.slowest.max(told.slowest);
        }
        ended.map(|()| all)
    })
}

/// Waits until so many creates have begun.
fn reach(next: &AtomicUsize, count: usize) -> Result<()> {
    let reached = patience::until(Duration::from_secs(120), || {
        (next.load(Ordering::Relaxed) >= count).then_some(())
    });
    reached.with_context(|| format!("{count} creates take too long"))
}

fn store_of(id: &str) -> &str {
    id.split('.').nth(1).unwrap_or_default()
}

/// All objects that the index shows, by their number; none twice.
fn found(lambda: &Lambda) -> Result<BTreeMap<usize, Vec<String>>> {
    let (mut found, mut next) = (BTreeMap::<usize, Vec<String>>::new(), String::new());
    loop {
        let page = lambda
            .get(&format!("/v1/objects?index=number&limit=1000{next}"))?
            .expect(200)?
            .json();
        ensure!(page["partial"] == json!([]), "a store is missing: {}", page["partial"]);
        for hit in page["items"].as_array().context("no items")? {
            let number = hit["key"].as_str().context("no key")?.parse()?;
            let id = hit["object"].as_str().context("no object")?.to_owned();
            found.entry(number).or_default().push(id);
        }
        let Some(token) = page["next"].as_str() else {
            return Ok(found);
        };
        next = format!("&next={token}");
    }
}

/// The stores, as `bowline stores status` shows them.
fn stores(lambda: &Lambda) -> Result<Vec<Value>> {
    let page = lambda.get("/v1/stores")?.expect(200)?.json();
    Ok(page["items"].as_array().context("no items")?.clone())
}

/// i-T1, i-T3, i-T4, i-T10
#[test]
fn creates_go_on_while_one_of_two_servers_is_dead_and_none_is_lost_or_doubled() -> Result<()> {
    if !has_postgres() {
        return Ok(());
    }
    let servers = [Server::start()?, Server::start()?];
    let node = node_on(&servers)?;
    let lambda = node.lambda();
    let mut early = Told::default();
    (CREATES..CREATES + 20).try_for_each(|number| create(&lambda, number, &mut early))?;
    let in_store = |store: &str| early.made.values().find(|id| store_of(id) == store).cloned();
    let (in_a, in_b) = (in_store("a").context("none in a")?, in_store("b").context("none in b")?);
    let get = |id: &str| lambda.get(&format!("/v1/objects/{id}"));

    let told = create_all(&node, |next| {
        reach(next, KILLED_AFTER)?;
        servers[0].kill()?;
        reach(next, KILLED_AFTER + 2_000)?;
        let refused = get(&in_a)?.expect(503)?.json();
        ensure!(
            refused["retry"] == true && refused["detail"].as_str().is_some_and(|detail| detail.contains("`a`")),
            "the store that is away is not named: {refused}"
        );
        get(&in_b)?.expect(200)?;
        ensure!(
            stores(&lambda)?[0]["weight"] == 0.0,
            "control: the store is judged down"
        );
        reach(next, BACK_AFTER)?;
        servers[0].start_again()
    })?;
    ensure!(
        told.made.len() + told.failed.len() == CREATES,
        "every create has one answer"
    );
    ensure!(told.slowest < DEADLINE + SLACK, "a create took {:?}", told.slowest);
    ensure!(
        told.failed.len() < CREATES / 100,
        "more than the error budget failed: {:?}",
        told.failed.values().collect::<BTreeSet<_>>()
    );
    let by_b = told.made.values().filter(|id| store_of(id) == "b").count();
    ensure!(by_b > CREATES / 2, "control: the other store took the load: {by_b}");

    all_is_there(&lambda, &told, &early, &in_a)?;
    drop(node);
    a_node_starts_without_one(&servers, &in_a, &in_b)
}

/// A node that starts while a store is away serves with the others, and with that one once it is back.
fn a_node_starts_without_one(servers: &[Server; 2], in_a: &str, in_b: &str) -> Result<()> {
    servers[0].kill()?;
    let node = node_on(servers)?;
    let lambda = node.lambda();
    let get = |id: &str| lambda.get(&format!("/v1/objects/{id}"));
    get(in_a)?.expect(503)?;
    get(in_b)?.expect(200)?;
    let mut told = Told::default();
    (0..10).try_for_each(|number| create(&lambda, 2 * CREATES + number, &mut told))?;
    ensure!(
        told.failed.is_empty() && told.made.values().all(|id| store_of(id) == "b"),
        "the other store takes them: {:?}",
        told.failed
    );
    servers[0].start_again()?;
    let back = patience::until(Duration::from_secs(30), || {
        get(in_a).ok().filter(|reply| reply.status == 200)
    });
    back.context("an object of the server that came back cannot be read")
        .map(|_| ())
}

/// Waits until the server that came back serves its objects and second objects have been swept; then what was
/// told to be made is there, once, and nothing else.
fn all_is_there(lambda: &Lambda, told: &Told, early: &Told, in_a: &str) -> Result<()> {
    let get = |id: &str| lambda.get(&format!("/v1/objects/{id}"));
    let back = patience::until(Duration::from_secs(30), || {
        get(in_a).ok().filter(|reply| reply.status == 200)
    });
    back.context("an object of the server that came back cannot be read")?;
    let settled = patience::until(SWEPT_MAX, || {
        let stores = stores(lambda).ok()?;
        stores.iter().all(|store| store["unresolved"] == 0).then_some(())
    });
    settled.with_context(|| format!("second objects are not swept: {:?}", stores(lambda)))?;
    let found = found(lambda)?;
    for (number, id) in told.made.iter().chain(&early.made) {
        let there = found.get(number).map_or(&[][..], Vec::as_slice);
        ensure!(there == [id.clone()], "object {number}: told {id}, there {there:?}");
        if number % 10 == 0 {
            let object = get(id)?.expect(200)?.json();
            ensure!(
                object["body"].as_str() == Some(&number.to_string()),
                "{id} has another body: {object}"
            );
        }
    }
    for (number, ids) in found
        .iter()
        .filter(|(number, _)| !told.made.contains_key(number) && **number < CREATES)
    {
        let code = &told.failed[number];
        ensure!(
            code == "outcome_unknown" && ids.len() == 1,
            "create {number} failed with {code} and is there: {ids:?}"
        );
    }
    let weight = stores(lambda)?[0]["weight"].as_f64().context("no weight")?;
    ensure!(weight > 0.0, "the store takes a share again: {weight}");
    Ok(())
}
