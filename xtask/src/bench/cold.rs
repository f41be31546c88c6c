//! First invocations, in each kind of sandbox.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use bowline_tests::node::Settings;
use bowline_tests::python::Python;
use bowline_tests::{Artifact, Node, patience, place};
use serde_json::{Value, json};

use super::client::Connection;
use super::runtime_api::{FirstInvocation, first_invocation};
use super::subject::{Subjects, distinct};
use super::table::{Goal, Row};
use super::{Effort, median, percentile, progress};
use crate::shell;

const WASM_FUNCTIONS: usize = 200;
/// First invocations of each Linux runtime, as many of the reference.
const LINUX_FUNCTIONS: usize = 25;
/// First invocations with and without cells that wait.
const POOL_FUNCTIONS: usize = 100;
/// Between first invocations, so that a pool of ready sandboxes may fill again. Both sides wait.
const APART: Duration = Duration::from_millis(400);

pub fn measure(subjects: &Subjects, effort: Effort) -> Result<Vec<Row>> {
    let mut rows = instantiate(subjects, effort)?;
    rows.push(wasm(subjects, effort)?);
    rows.push(native(subjects)?);
    match Python::find()? {
        Some(python) => rows.extend([python_hello(subjects, &python)?, pool(subjects)?]),
        None => progress("SKIPPED: there is no python3"),
    }
    if place::is_installed("node") {
        rows.push(node_hello(subjects)?);
    } else {
        progress("SKIPPED: there is no node");
    }
    Ok(rows)
}

/// Instantiate, call and drop, without anything around it: the sandbox crate's own measurement.
fn instantiate(subjects: &Subjects, effort: Effort) -> Result<Vec<Row>> {
    let (mut p50, mut one, mut two) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=effort.rounds {
        progress(&format!("instantiate, round {round} of {}", effort.rounds));
        let text = shell::output(&mut Command::new(&subjects.instantiate))?;
        let figures: Value = serde_json::from_str(text.trim()).context("`instantiate_bench` printed no JSON")?;
        let figure = |name: &str| {
            figures[name]
                .as_f64()
                .with_context(|| format!("no `{name}` in {figures}"))
        };
        p50.push(figure("one_thread_p50_us")?);
        one.push(figure("one_thread_per_s")?);
        two.push(figure("two_threads_per_s")?);
    }
    let (goal, cores) = (Goal::AtMost(10.0), Goal::RatioAtLeast(1.5));
    Ok(vec![
        Row::judged("Wasm: instantiate, call, drop, p50", "us", goal, median(p50), None),
        Row::judged(
            "Wasm: instantiate, call, drop, two cores beside one",
            "1/s",
            cores,
            median(two),
            Some(median(one)),
        ),
    ])
}

/// The first invocation of each of 200 distinct published functions, in a node that was started after all
/// of them were published. Time at the client, on one kept connection.
fn wasm(subjects: &Subjects, effort: Effort) -> Result<Row> {
    let mut node = subjects.start_node()?;
    let lambda = node.lambda();
    let artifact = Artifact::reactor()?;
    progress(&format!("deploying {WASM_FUNCTIONS} functions"));
    for number in 0..WASM_FUNCTIONS {
        let reply = lambda.create(
            &format!("f{number}"),
            &distinct(&artifact, number)?,
            json!({"Publish": true}),
        )?;
        reply.expect(201)?;
    }
    wait_for_all(&node, WASM_FUNCTIONS)?;
    let mut p99 = Vec::new();
    for round in 1..=effort.rounds {
        progress(&format!(
            "first invocations of Wasm functions, round {round} of {}",
            effort.rounds
        ));
        node.terminate()?;
        node.wait_for_end()?;
        node.start_again()?;
        wait_for_all(&node, WASM_FUNCTIONS)?;
        let mut connection = Connection::open(&node.address())?;
        let mut times = Vec::with_capacity(WASM_FUNCTIONS);
        for number in 0..WASM_FUNCTIONS {
            times.push(millis(connection.invoke(&format!("f{number}"), "?Qualifier=1")?));
        }
        p99.push(percentile(times, 0.99));
    }
    let row = "Wasm cold: first invocation, p99 of 200 functions";
    Ok(Row::judged(row, "ms", Goal::Below(1.0), median(p99), None))
}

fn wait_for_all(node: &Node, count: usize) -> Result<()> {
    let lambda = node.lambda();
    (0..count).try_for_each(|number| lambda.wait_until_active(&format!("f{number}")))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// First invocations of many functions made of one package, each beside one of the reference.
struct Pairs {
    ours: Vec<f64>,
    warm: Vec<f64>,
    reference: Vec<FirstInvocation>,
}

/// Measures in turns: a first invocation of ours, a second (warm) one, then one of the reference.
fn pairs(subjects: &Subjects, artifact: &Artifact, reference: &mut Command) -> Result<Pairs> {
    let node = subjects.start_node()?;
    let lambda = node.lambda();
    for number in 0..LINUX_FUNCTIONS {
        lambda.create(&format!("f{number}"), artifact, json!({}))?.expect(201)?;
    }
    wait_for_all(&node, LINUX_FUNCTIONS)?;
    let mut connection = Connection::open(&node.address())?;
    let mut pairs = Pairs {
        ours: Vec::new(),
        warm: Vec::new(),
        reference: Vec::new(),
    };
    for number in 0..LINUX_FUNCTIONS {
        let name = format!("f{number}");
        patience::rest(APART);
        pairs.ours.push(millis(connection.invoke(&name, "")?));
        pairs.warm.push(millis(connection.invoke(&name, "")?));
        patience::rest(APART);
        pairs.reference.push(first_invocation(reference)?);
    }
    Ok(pairs)
}

/// Creating a sandbox until the program in it takes its first request, beside starting the same program
/// plainly until its first request arrives.
///
/// Ours is seen from outside: a first invocation less a warm one of the same function, for what a warm
/// one does (routing, admission, the exchange with the program, the answer) comes after the taking.
fn native(subjects: &Subjects) -> Result<Row> {
    progress("first invocations of a static binary");
    let artifact = Artifact::native()?;
    let folder = tempfile::tempdir()?;
    let program = unpack(&artifact, "bootstrap", folder.path())?;
    let pairs = pairs(
        subjects,
        &artifact,
        &mut public(&program.to_string_lossy(), folder.path()),
    )?;
    let creations = pairs.ours.iter().zip(&pairs.warm).map(|(first, warm)| first - warm);
    let plain = pairs.reference.iter().map(|reference| millis(reference.taken));
    Ok(Row::judged(
        "Linux sandbox, static binary: creation to first request, p50",
        "ms",
        Goal::RatioAtMost(4.0),
        median(creations.collect()),
        Some(median(plain.collect())),
    ))
}

fn python_hello(subjects: &Subjects, python: &Python) -> Result<Row> {
    progress("first invocations of a Python function");
    let artifact = Artifact::python()?;
    let folder = tempfile::tempdir()?;
    unpack(&artifact, "app.py", folder.path())?;
    let mut reference = public(&python.system_interpreter(), folder.path());
    reference
        .env("PYTHONPATH", python.libraries()?)
        .args(["-m", "awslambdaric", "app.handler"]);
    row_of(
        "Python hello: first invocation, p50",
        0.15,
        &pairs(subjects, &artifact, &mut reference)?,
    )
}

/// What a first invocation takes beyond a warm one, beside a node in which no cell waits (14/T-N2). Each function goes
/// once it was measured: a hundred Python programs would be another load.
fn pool(subjects: &Subjects) -> Result<Row> {
    progress("first invocations of a Python function, beside those that nothing waits for");
    let without = Settings {
        environment: vec![("BOWLINE_PREWARMED".into(), "0".into())],
        ..Settings::default()
    };
    let nodes = [subjects.start_node()?, Node::start_build(&subjects.node, without)?];
    let mut connections = Vec::new();
    for node in &nodes {
        connections.push(Connection::open(&node.address())?);
    }
    let (artifact, mut delays) = (Artifact::python()?, [Vec::new(), Vec::new()]);
    for number in 0..POOL_FUNCTIONS {
        let name = format!("f{number}");
        for node in &nodes {
            node.lambda().create(&name, &artifact, json!({}))?.expect(201)?;
            node.lambda().wait_until_active(&name)?;
        }
        patience::rest(APART);
        for ((node, connection), delays) in nodes.iter().zip(&mut connections).zip(&mut delays) {
            let first = millis(connection.invoke(&name, "")?);
            delays.push(first - millis(connection.invoke(&name, "")?));
            let path = format!("/2015-03-31/functions/{name}");
            node.lambda().delete(&path)?.expect(200)?;
        }
    }
    let [ours, control] = delays.map(median);
    let row = "Python: start delay where a cell waits, beside a node where none does, p50 of 100";
    Ok(Row::judged(row, "ms", Goal::RatioAtMost(0.2), ours, Some(control)))
}

fn node_hello(subjects: &Subjects) -> Result<Row> {
    progress("first invocations of a Node.js function");
    let artifact = Artifact::node()?;
    let folder = tempfile::tempdir()?;
    unpack(&artifact, "index.js", folder.path())?;
    let mut reference = public("node", folder.path());
    reference
        .arg(shell::root().join("xtask/assets/client.js"))
        .arg("index.handler");
    row_of(
        "Node.js hello: first invocation, p50",
        0.25,
        &pairs(subjects, &artifact, &mut reference)?,
    )
}

fn row_of(row: &str, ratio_max: f64, pairs: &Pairs) -> Result<Row> {
    let reference = pairs.reference.iter().map(|reference| millis(reference.answered));
    let reference = median(reference.collect());
    Ok(Row::judged(
        row,
        "ms",
        Goal::RatioAtMost(ratio_max),
        median(pairs.ours.clone()),
        Some(reference),
    ))
}

/// A program in `folder` with the variables that public runtime clients ask for.
fn public(program: &str, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(folder)
        .env("LAMBDA_TASK_ROOT", folder)
        .env("_HANDLER", "app.handler")
        .env("AWS_LAMBDA_FUNCTION_NAME", "reference")
        .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
        .env("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/reference")
        .env("AWS_LAMBDA_LOG_STREAM_NAME", "reference")
        .env("AWS_REGION", "us-east-1")
        .stderr(Stdio::inherit());
    command
}

/// Writes one file of a package into `folder`, executable.
fn unpack(artifact: &Artifact, name: &str, folder: &Path) -> Result<std::path::PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(&artifact.code))?;
    let path = folder.join(name);
    let mut file = std::fs::File::create(&path)?;
    std::io::copy(&mut archive.by_name(name)?, &mut file)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o755))?;
    Ok(path)
}
