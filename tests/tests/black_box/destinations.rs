//! Outcomes and dead letters of asynchronous events, in queues and buckets at a server beside the node.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_tests::node::Settings;
use bowline_tests::python::Python;
use bowline_tests::{Node, node, patience, skip};

use crate::sources::{Services, node_beside, node_with};

const WAIT_MAX: Duration = Duration::from_secs(90);

fn run(python: &Python, node: &Node, services: &str, parts: &[&str]) -> Result<()> {
    let endpoint = node.endpoint();
    let words = [&[endpoint.as_str(), services], parts].concat();
    python
        .run_script("destinations.py", &endpoint, &words)
        .with_context(|| node.log())
}

#[test]
fn outcomes_and_dead_letters_reach_queues_and_buckets() -> Result<()> {
    let Some(python) = Python::find()? else {
        skip("there is no python3, so boto3 cannot drive the node");
        return Ok(());
    };
    let services = Services::start(&python, None)?;
    let node = node_beside(&services, None)?;
    run(&python, &node, &services.endpoint, &[])
}

#[test]
fn a_dead_letter_waits_for_a_queue_that_is_away() -> Result<()> {
    let Some(python) = Python::find()? else {
        skip("there is no python3, so boto3 cannot drive the node");
        return Ok(());
    };
    let port = node::free_port()?;
    let services = Services::start_at(&python, None, port)?;
    let node = node_beside(&services, None)?;
    let endpoint = services.endpoint.clone();
    run(&python, &node, &endpoint, &["a_queue_for_later"])?;
    drop(services);
    run(&python, &node, &endpoint, &["something_fails_while_the_queue_is_away"])?;
    // It comes back without the queue, which is made a little later.
    let _services = Services::start_at(&python, None, port)?;
    run(&python, &node, &endpoint, &["it_arrives_when_the_queue_is_back"])
}

#[test]
fn a_dead_letter_follows_its_functions_configuration() -> Result<()> {
    let Some(python) = Python::find()? else {
        skip("there is no python3, so boto3 cannot drive the node");
        return Ok(());
    };
    let services = Services::start(&python, None)?;
    let node = node_beside(&services, None)?;
    let endpoint = services.endpoint.clone();
    run(&python, &node, &endpoint, &["a_queue_for_later"])?;
    drop(services);
    let parts = ["something_fails_while_the_queue_is_away", "a_stream_is_named_instead"];
    run(&python, &node, &endpoint, &parts)
}

#[test]
fn a_dead_letter_outlives_the_node() -> Result<()> {
    let Some(python) = Python::find()? else {
        skip("there is no python3, so boto3 cannot drive the node");
        return Ok(());
    };
    let port = node::free_port()?;
    let services = Services::start_at(&python, None, port)?;
    let mut node = node_beside(&services, None)?;
    let endpoint = services.endpoint.clone();
    run(&python, &node, &endpoint, &["a_queue_for_later"])?;
    drop(services);
    run(&python, &node, &endpoint, &["something_fails_while_the_queue_is_away"])?;
    node.terminate()?;
    node.wait_for_end()?;
    node.start_again()?;
    let _services = Services::start_at(&python, None, port)?;
    run(&python, &node, &endpoint, &["it_arrives_when_the_queue_is_back"])
}

#[test]
fn what_a_node_cannot_reach_waits_for_one_that_can() -> Result<()> {
    let Some(python) = Python::find()? else {
        skip("there is no python3, so boto3 cannot drive the node");
        return Ok(());
    };
    let services = Services::start(&python, None)?;
    let data = tempfile::tempdir()?;
    let at_data = || Settings {
        data: Some(data.path().to_owned()),
        ..Settings::default()
    };
    let end = |mut node: Node| {
        node.terminate()?;
        node.wait_for_end()
    };
    let endpoint = &services.endpoint;
    let node = node_with(&services, at_data())?;
    run(&python, &node, endpoint, &["destinations_for_later"])?;
    end(node)?;
    let deaf = Node::start_with(at_data())?;
    run(&python, &deaf, endpoint, &["failures_where_nobody_knows_the_services"])?;
    // Each is said once, however many records it is about and however often they are tried.
    for service in ["told of no buckets", "told of no queues"] {
        let said = patience::until(WAIT_MAX, || (deaf.log().matches(service).count() > 0).then_some(()));
        ensure!(
            said.is_some() && deaf.log().matches(service).count() == 1,
            "{service}: {}",
            deaf.log()
        );
    }
    end(deaf)?;
    let node = node_with(&services, at_data())?;
    run(&python, &node, endpoint, &["they_arrive_where_somebody_does"])
}

#[test]
fn a_node_stops_while_a_destination_does_not_answer() -> Result<()> {
    let Some(python) = Python::find()? else {
        skip("there is no python3, so boto3 cannot drive the node");
        return Ok(());
    };
    let port = node::free_port()?;
    let services = Services::start_at(&python, None, port)?;
    let mut node = node_with(&services, Settings::default())?;
    let endpoint = services.endpoint.clone();
    run(&python, &node, &endpoint, &["a_bucket_for_later"])?;
    drop(services);
    let silent = Silent::listen(port)?;
    run(&python, &node, &endpoint, &["something_fails"])?;
    // The first try is given up soon; the second one, of what lies on disk, would take a minute.
    let asked = patience::until(WAIT_MAX, || (silent.asked() >= 2).then_some(()));
    ensure!(asked.is_some(), "{}", node.log());
    node.terminate()?;
    node.wait_for_end()?;
    silent.end();
    node.start_again()?;
    let _services = Services::start_at(&python, None, port)?;
    run(&python, &node, &endpoint, &["it_is_in_the_bucket_and_has_run_once"])
}

/// A place that takes connections and answers nothing.
struct Silent {
    ends: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
    port: u16,
}

impl Silent {
    fn listen(port: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        let (ends, asked) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let thread = std::thread::spawn({
            let (ends, asked) = (ends.clone(), asked.clone());
            move || {
                let mut held = Vec::new();
                for connection in listener.incoming() {
                    if ends.load(Ordering::SeqCst) {
                        return;
                    }
                    held.push(connection);
                    asked.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        Ok(Self {
            ends,
            asked,
            thread,
            port,
        })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Leaves the port.
    fn end(self) {
        self.ends.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        let _ = self.thread.join();
    }
}

#[test]
fn without_endpoints_queues_are_streams_and_buckets_refused() -> Result<()> {
    let Some(python) = Python::find()? else {
        skip("there is no python3, so boto3 cannot drive the node");
        return Ok(());
    };
    let node = Node::start()?;
    run(
        &python,
        &node,
        "http://127.0.0.1:1",
        &["without_endpoints_names_are_streams"],
    )
}
