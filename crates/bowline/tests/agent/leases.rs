//! Leases and epochs: who may still do something, and who may not.

use std::time::Duration;

use bowline_agent::link::{LinkNews, Lost};
use bowline_agent::service::{Serve, ServiceNews, ServiceSpec};
use bowline_agent::{Link, LinkError};
use tokio::sync::mpsc;

use crate::harness::{Agent, processes_of};

const LEASE: Duration = Duration::from_millis(800);
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

async fn next(news: &mut mpsc::Receiver<LinkNews>) -> LinkNews {
    let told = tokio::time::timeout(PATIENCE, news.recv()).await;
    told.expect("the agent tells something")
        .expect("the link tells how it ends")
}

/// A service that counts in a file, many times a second.
fn counter(link: &Link, file: &std::path::Path) {
    let script = format!(
        "n=0; while :; do n=$((n+1)); echo $n > {}; sleep 0.02; done",
        file.display()
    );
    link.serve(Serve {
        instance: "i".to_owned(),
        address: None,
        hosts: Vec::new(),
        services: vec![ServiceSpec {
            name: "counter".to_owned(),
            command: vec!["/bin/sh".to_owned(), "-c".to_owned(), script],
            environment: Default::default(),
            ports: Vec::new(),
            health: None,
        }],
    });
}

fn count(file: &std::path::Path) -> u64 {
    std::fs::read_to_string(file)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_keeps_its_lease_while_it_is_heard_and_loses_it_when_it_stands_still() {
    let mut agent = Agent::start();
    let (link, mut news) = agent.connect(1, LEASE).await.unwrap();
    let file = agent.folder.path().join("count");
    counter(&link, &file);
    assert!(matches!(
        next(&mut news).await,
        LinkNews::Service(ServiceNews::Ready { .. })
    ));
    assert_eq!(next(&mut news).await, LinkNews::Service(ServiceNews::AllReady));
    until("the control: it counts", || count(&file) > 3).await;
    tokio::time::sleep(2 * LEASE).await;
    assert_eq!(link.lost(), None, "the control: an agent that is heard keeps its lease");

    agent.signal("-STOP");
    assert_eq!(next(&mut news).await, LinkNews::Lost(Lost::Silent));
    assert!(link.lost().is_some());
    agent.signal("-CONT");
    // It looks at its lease before anything else, ends what it runs and itself.
    let ended = tokio::task::spawn_blocking(move || agent.child.wait().map(|status| (agent, status)));
    let (agent, status) = tokio::time::timeout(PATIENCE, ended).await.unwrap().unwrap().unwrap();
    assert!(status.success(), "{status}");
    let at = count(&file);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(count(&file), at, "its services ended with it");
    drop(agent);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_epoch_is_refused_and_a_newer_one_takes_over() {
    let agent = Agent::start();
    let (first, mut news) = agent.connect(5, LEASE).await.unwrap();
    for epoch in [4, 5] {
        let refused = agent.connect(epoch, LEASE).await;
        assert!(matches!(refused, Err(LinkError::Refused(_))), "epoch {epoch}");
    }
    assert_eq!(first.lost(), None, "the control: a refused one changes nothing");
    let (second, _) = agent.connect(6, LEASE).await.expect("a newer one is taken");
    assert!(
        matches!(next(&mut news).await, LinkNews::Lost(_)),
        "the older one loses its hold"
    );
    assert_eq!(second.epoch(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_ends_when_its_node_is_gone() {
    let mut agent = Agent::start();
    let (link, news) = agent.connect(1, PATIENCE).await.unwrap();
    assert!(agent.child.try_wait().unwrap().is_none(), "the control: it runs");
    drop((link, news));
    let ended = tokio::task::spawn_blocking(move || agent.child.wait().map(|status| (agent, status)));
    let (_agent, status) = tokio::time::timeout(PATIENCE, ended).await.unwrap().unwrap().unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_dies_is_told_and_started_again() {
    let agent = Agent::start();
    let (link, mut news) = agent.connect(1, PATIENCE).await.unwrap();
    counter(&link, &agent.folder.path().join("count"));
    let LinkNews::Service(ServiceNews::Ready { pid, .. }) = next(&mut news).await else {
        panic!("it should be ready")
    };
    assert_eq!(next(&mut news).await, LinkNews::Service(ServiceNews::AllReady));
    let killed = std::process::Command::new("kill")
        .args(["-KILL", &pid.to_string()])
        .status();
    assert!(killed.unwrap().success());
    let LinkNews::Service(ServiceNews::Failed { service, reason }) = next(&mut news).await else {
        panic!("its end should be told")
    };
    assert_eq!(
        (service.as_str(), reason.contains("signal 9")),
        ("counter", true),
        "{reason}"
    );
    link.restart("counter");
    let LinkNews::Service(ServiceNews::Ready { pid: again, .. }) = next(&mut news).await else {
        panic!("it should be ready again")
    };
    assert_ne!(again, pid);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_told_to_end_leaves_no_process() {
    let agent = Agent::start();
    let (link, mut news) = agent.connect(1, PATIENCE).await.unwrap();
    let folder = agent.folder.path().to_owned();
    counter(&link, &folder.join("count"));
    while next(&mut news).await != LinkNews::Service(ServiceNews::AllReady) {}
    let pid = agent.child.id();
    // A program that has just begun has no words yet.
    until("the control: its service runs", || {
        !processes_of(&folder, pid).is_empty()
    })
    .await;
    // Looks by itself whether anything is left; once more, for whoever changes it.
    drop(agent);
    assert_eq!(processes_of(&folder, pid), Vec::<String>::new());
}
