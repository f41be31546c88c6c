//! Outcomes and dead letters of asynchronous events, in queues and buckets at a server beside the node.

use anyhow::{Context, Result};
use bowline_tests::python::Python;
use bowline_tests::{Node, node, skip};

use crate::sources::{Services, node_beside};

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
