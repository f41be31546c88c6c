//! Warm invocations: many connections at once, and one.

use anyhow::{Result, ensure};
use bowline_tests::sign::Key;
use bowline_tests::{Artifact, Node};
use serde_json::json;

use super::client::EVENT;
use super::subject::{Reference, Subjects};
use super::table::{Goal, Row};
use super::wrk::{Load, Measured};
use super::{Effort, median, progress};

const CONNECTIONS: u32 = 32;
/// What checking a signature may leave of the requests a second.
const SIGNED_SHARE_MIN: f64 = 0.85;

/// A function under load.
struct Case {
    function: &'static str,
    row: &'static str,
    share_min: f64,
}

const CASES: &[Case] = &[
    Case {
        function: "reactor",
        row: "warm Invoke, 32 connections, Wasm reactor",
        share_min: 0.35,
    },
    Case {
        function: "command",
        row: "warm Invoke, 32 connections, Wasm command",
        share_min: 0.20,
    },
    Case {
        function: "native",
        row: "warm Invoke, 32 connections, native bootstrap",
        share_min: 0.10,
    },
];

pub fn measure(subjects: &Subjects, effort: Effort) -> Result<Vec<Row>> {
    let reference = subjects.start_reference()?;
    let node = subjects.start_node()?;
    deploy(&node)?;
    let mut rows = under_load(&node, &reference, effort)?;
    rows.push(one_connection(&node, &reference, effort)?);
    rows.push(signed(subjects, &node, effort)?);
    Ok(rows)
}

fn deploy(node: &Node) -> Result<()> {
    let lambda = node.lambda();
    let artifacts = [
        ("reactor", Artifact::reactor()?),
        ("command", Artifact::command()?),
        ("native", Artifact::native()?),
    ];
    for (name, artifact) in artifacts {
        lambda.deploy(name, &artifact, json!({}))?;
        let reply = lambda.invoke(name, &json!({"name": "ada"}))?.expect(200)?;
        ensure!(
            reply.header("x-amz-function-error").is_empty(),
            "`{name}` failed: {}",
            reply.json()
        );
    }
    Ok(())
}

/// A function invoked with and without a signature, on two nodes of the same build.
fn signed(subjects: &Subjects, open: &Node, effort: Effort) -> Result<Row> {
    let node = subjects.start_node()?;
    node.lambda().deploy("reactor", &Artifact::reactor()?, json!({}))?;
    let key = subjects.create_key(&node)?;
    let targets = [
        Target::unsigned(url_of(open, "reactor")),
        Target {
            url: url_of(&node, "reactor"),
            signed: Some((node.address(), key)),
        },
    ];
    let figures = in_turns(&targets, CONNECTIONS, effort, |measured| measured.requests_per_second)?;
    let row = "warm Invoke, signed, beside unsigned";
    let goal = Goal::RatioAtLeast(SIGNED_SHARE_MIN);
    Ok(Row::judged(row, "requests/s", goal, figures[1], Some(figures[0])))
}

/// Who is loaded, and how.
struct Target {
    url: String,
    /// The host that is signed, and the key.
    signed: Option<(String, Key)>,
}

impl Target {
    fn unsigned(url: String) -> Self {
        Self { url, signed: None }
    }

    /// A signature holds five minutes, longer than any load.
    fn headers(&self) -> Vec<String> {
        let signed = self.signed.as_ref();
        let headers = signed.and_then(|(host, key)| {
            let path = self.url.find("/2015-03-31").map(|at| &self.url[at..])?;
            Some(key.headers("POST", (host, path), EVENT))
        });
        headers.into_iter().flatten().collect()
    }
}

fn url_of(node: &Node, function: &str) -> String {
    format!("{}/2015-03-31/functions/{function}/invocations", node.endpoint())
}

fn under_load(node: &Node, reference: &Reference, effort: Effort) -> Result<Vec<Row>> {
    let mut targets = vec![Target::unsigned(reference.endpoint.clone())];
    targets.extend(CASES.iter().map(|case| Target::unsigned(url_of(node, case.function))));
    let figures = in_turns(&targets, CONNECTIONS, effort, |measured| measured.requests_per_second)?;
    let ours = CASES.iter().zip(&figures[1..]);
    Ok(ours
        .map(|(case, figure)| {
            let goal = Goal::RatioAtLeast(case.share_min);
            Row::judged(case.row, "requests/s", goal, *figure, Some(figures[0]))
        })
        .collect())
}

fn one_connection(node: &Node, reference: &Reference, effort: Effort) -> Result<Row> {
    let targets = [reference.endpoint.clone(), url_of(node, "reactor")].map(Target::unsigned);
    let figures = in_turns(&targets, 1, effort, |measured| measured.p50_micros)?;
    let row = "one connection, Wasm reactor, p50";
    Ok(Row::judged(
        row,
        "us",
        Goal::RatioAtMost(2.0),
        figures[1],
        Some(figures[0]),
    ))
}

/// Loads each address in turn, round by round, and gives the median figure of each.
fn in_turns(targets: &[Target], connections: u32, effort: Effort, figure: fn(Measured) -> f64) -> Result<Vec<f64>> {
    let load = |target: &Target, seconds| {
        Load {
            url: &target.url,
            connections,
            seconds,
            headers: &target.headers(),
        }
        .run()
    };
    for target in targets {
        load(target, 1)?;
    }
    let mut figures = vec![Vec::new(); targets.len()];
    for round in 1..=effort.rounds {
        progress(&format!(
            "{connections} connections, round {round} of {}",
            effort.rounds
        ));
        for (target, figures) in targets.iter().zip(&mut figures) {
            figures.push(figure(load(target, effort.seconds)?));
        }
    }
    Ok(figures.into_iter().map(median).collect())
}
