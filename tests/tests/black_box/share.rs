//! Many functions on a node that has memory for a tenth of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_tests::artifact::zip_of;
use bowline_tests::node::Settings;
use bowline_tests::{Artifact, Node, patience};
use serde_json::json;

use crate::traces::{self, Traces};

/// So many functions for so long, unless the environment says otherwise.
const FUNCTIONS: (&str, usize) = ("BOWLINE_SHARE_FUNCTIONS", 100);
const SECONDS: (&str, usize) = ("BOWLINE_SHARE_SECONDS", 15);
const CLIENTS: usize = 8;
const MEMORY_MIB: usize = 128;
/// How long it may take until what was used is given back: cells that wait are one too many once nobody has taken any for a
/// minute, and end when they have waited for one.
const SETTLED_MAX: Duration = Duration::from_secs(180);

fn setting((name, default): (&str, usize)) -> Result<usize> {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("`{name}` is `{text}`, which is no number")),
        Err(_) => Ok(default),
    }
}

/// A node with memory for so many sandboxes.
fn node(sandboxes: usize) -> Result<Node> {
    let budget = format!("{}MiB", sandboxes * MEMORY_MIB);
    Node::start_with(Settings {
        environment: vec![("BOWLINE_MEMORY_BUDGET".into(), budget.into())],
        ..Settings::default()
    })
}

/// The value of a metric line that begins so.
fn metric(node: &Node, begin: &str) -> Result<u64> {
    let text = String::from_utf8(node.lambda().get("/metrics")?.expect(200)?.body)?;
    let lines = text.lines().filter(|line| line.starts_with(begin));
    let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count of bytes"
    )]
    Ok(values.sum::<f64>() as u64)
}

/// Asks functions of mixed rates until it is over; how many answers came. Every request must have one.
fn ask(node: &Node, functions: usize, seed: u64, is_over: &AtomicBool) -> Result<usize> {
    let (lambda, dice) = (node.lambda(), Entropy::seeded(seed));
    let mut answered = 0;
    while !is_over.load(Ordering::Acquire) {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index below the number of functions"
        )]
        // Some are called a thousand times as often as others.
        let number = (functions as f64).powf(dice.unit()) as usize - 1;
        let token = format!("client-{seed}-{answered}.");
        let reply = lambda
            .invoke(&format!("shared-{number}"), &json!({"name": token}))?
            .expect(200)?;
        let body = String::from_utf8_lossy(&reply.body);
        ensure!(body.contains(&token), "{token} was answered by {body}");
        answered += 1;
    }
    Ok(answered)
}

#[test]
fn many_functions_share_a_tenth_of_their_memory() -> Result<()> {
    let (functions, seconds) = (setting(FUNCTIONS)?, setting(SECONDS)?);
    let room = functions / 10;
    let budget = (room * MEMORY_MIB * 1024 * 1024) as u64;
    let mut node = node(room)?;
    let lambda = node.lambda();
    let artifact = Artifact::native()?;
    // Whatever is made once and kept is made before the first look.
    lambda.deploy("first", &artifact, json!({"MemorySize": MEMORY_MIB}))?;
    lambda.invoke("first", &json!({"name": "first"}))?.expect(200)?;
    lambda.delete("/2015-03-31/functions/first")?.expect(200)?;
    let at_rest = || (metric(&node, "bowline_memory_claimed_bytes").ok()? == 0).then_some(());
    patience::until(SETTLED_MAX, at_rest).context("the first sandbox does not go")?;
    // So is the folder of an account's logs, though it may go with the last of them.
    std::fs::create_dir_all(node.data().join("logs/000000000000"))?;
    let before = at_rest_for_a_while(&node)?;
    for number in 0..functions {
        let name = format!("shared-{number}");
        lambda.deploy(&name, &artifact, json!({"MemorySize": MEMORY_MIB}))?;
    }
    let is_over = AtomicBool::new(false);
    let (answered, most) = thread::scope(|scope| -> Result<(usize, u64)> {
        let (node, over) = (&node, &is_over);
        let clients: Vec<_> = (1..=CLIENTS as u64)
            .map(|seed| scope.spawn(move || ask(node, functions, seed, over)))
            .collect();
        let watched = watch(node, Duration::from_secs(seconds as u64), budget);
        is_over.store(true, Ordering::Release);
        let mut answered = 0;
        for client in clients {
            answered += client.join().expect("a client does not panic")?;
        }
        Ok((answered, watched?))
    })?;
    let evicted = metric(&node, "bowline_keeper_evicted_total")?;
    let figures = json!({
        "functions": functions, "answered": answered, "lost": 0, "evicted": evicted,
        "claimed_bytes_max": most, "budget_bytes": budget,
    });
    println!("{figures}");
    ensure!(
        answered > functions && evicted > 0,
        "control: memory was short: {figures}"
    );
    ensure!(most > budget / 2, "control: the budget was used: {figures}");
    for number in 0..functions {
        lambda
            .delete(&format!("/2015-03-31/functions/shared-{number}"))?
            .expect(200)?;
    }
    let mut more = None;
    let settled = patience::until(SETTLED_MAX, || {
        more = Traces::of(&node).ok()?.beyond(&before);
        more.is_none().then_some(())
    });
    settled.with_context(|| format!("after {SETTLED_MAX:?} there are still {more:?}"))?;
    ensure!(
        metric(&node, "bowline_memory_claimed_bytes")? == 0,
        "memory is still claimed"
    );
    let (data, spawner) = (node.data(), traces::spawner_of(&node)?);
    node.terminate()?;
    ensure!(node.wait_for_end()?.success(), "a clean stop failed:\n{}", node.log());
    traces::check_nothing_is_left(&data, spawner)
}

/// What a node has once that does not change any more: its pools fill in the background.
fn at_rest_for_a_while(node: &Node) -> Result<Traces> {
    let mut last = Traces::of(node)?;
    let settled = patience::until(SETTLED_MAX, || {
        patience::rest(Duration::from_secs(3));
        let now = Traces::of(node).ok()?;
        let same = now.beyond(&last).is_none() && last.beyond(&now).is_none();
        last = now;
        same.then_some(())
    });
    settled.context("the node does not come to rest")?;
    Ok(last)
}

/// Looks at the memory in use for a while; returns the most, which must be within the budget.
fn watch(node: &Node, time: Duration, budget: u64) -> Result<u64> {
    let clock = Clock::system();
    let (begin, mut most) = (clock.monotonic(), 0);
    while clock.monotonic().since(begin) < time {
        let claimed = metric(node, "bowline_memory_claimed_bytes")?;
        ensure!(claimed <= budget, "{claimed} bytes of {budget} are claimed");
        most = most.max(claimed);
        patience::rest(Duration::from_millis(50));
    }
    Ok(most)
}

/// 05/T-E12: a sandbox that was killed while it was idle is not offered again.
#[test]
fn e_t12_a_killed_sandbox_is_not_offered_again() -> Result<()> {
    let node = node(10)?;
    let lambda = node.lambda();
    lambda.deploy("f", &Artifact::native()?, json!({"MemorySize": MEMORY_MIB}))?;
    let rung = || -> Result<String> {
        let reply = lambda.invoke("f", &json!({"name": "x"}))?.expect(200)?;
        ensure!(reply.header("x-amz-function-error").is_empty(), "{:?}", reply.json());
        Ok(reply.header("x-bowline-provisioned").to_owned())
    };
    ensure!(
        (rung()?, rung()?) == ("created".to_owned(), "warm".to_owned()),
        "the control"
    );
    let processes = traces::sandbox_processes(&node)?;
    ensure!(!processes.is_empty(), "there is nothing to kill");
    for process in &processes {
        traces::kill(*process);
    }
    let are_gone = || {
        let lives = |process: &traces::Process| traces::read_process(process.id).as_ref() == Some(process);
        (!processes.iter().any(lives)).then_some(())
    };
    patience::until(Duration::from_secs(10), are_gone).context("the killed processes are still there")?;
    let next = rung()?;
    ensure!(next == "created", "the dead one was offered: {next}");
    Ok(())
}

/// 02/T-B1, 05/T-E14: the function's own view of its limit is that of its request.
#[test]
fn e_t14_a_sandbox_has_the_memory_that_was_asked_for() -> Result<()> {
    const PYTHON: &[u8] =
        b"import os\ndef handler(event, context):\n    return os.environ['AWS_LAMBDA_FUNCTION_MEMORY_SIZE']\n";
    let node = node(10)?;
    let lambda = node.lambda();
    let artifact = Artifact {
        code: zip_of(&[("app.py", PYTHON)])?,
        ..Artifact::python_source(PYTHON)?
    };
    lambda.deploy("f", &artifact, json!({"MemorySize": 256}))?;
    let answer = lambda.invoke("f", &json!({}))?.expect(200)?;
    ensure!(answer.json() == "256", "{:?}", answer.json());
    ensure!(
        metric(&node, "bowline_memory_claimed_bytes")? == 256 * 1024 * 1024,
        "what it is allowed is claimed"
    );
    Ok(())
}

/// 05/T-E5, 05/T-E20: each object that is uploaded over HTTP runs the function that is registered for its place, once.
#[test]
fn e_t5_each_uploaded_object_has_one_run() -> Result<()> {
    const UPLOADS: usize = 100;
    let node = node(10)?;
    let lambda = node.lambda();
    let settings = json!({"MemorySize": MEMORY_MIB, "Tags": {"bowline:on-upload": "name:incoming/"}});
    lambda.deploy("f", &Artifact::native()?, settings)?;
    let upload = |key: &str| -> Result<()> {
        let object = json!({"body": "pixels", "indexes": [{"index": "name", "key": key}]});
        node.lambda().post("/v1/objects", &object)?.expect(201).map(drop)
    };
    upload("elsewhere/a.png")?;
    thread::scope(|scope| -> Result<()> {
        let upload = &upload;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let mut mine = (client..UPLOADS).step_by(CLIENTS);
                scope.spawn(move || mine.try_for_each(|number| upload(&format!("incoming/{number}.png"))))
            })
            .collect();
        for client in clients {
            client.join().expect("a client does not panic")?;
        }
        Ok(())
    })?;
    let runs = || metric(&node, "bowline_invocations_total{function=\"f\"").ok();
    let all = patience::until(SETTLED_MAX, || runs().filter(|runs| *runs >= UPLOADS as u64));
    ensure!(all == Some(UPLOADS as u64), "{all:?} runs of {UPLOADS} uploads");
    patience::rest(Duration::from_secs(1));
    ensure!(runs() == Some(UPLOADS as u64), "no upload has two runs");
    Ok(())
}

/// The same for files of a watched folder, over kills of the node.
#[test]
fn e_t5_each_file_of_a_watched_folder_has_one_run() -> Result<()> {
    const FILES: u64 = 60;
    let folder = tempfile::tempdir()?;
    let watch = format!("shop={}", folder.path().display());
    let mut node = Node::start_with(Settings {
        environment: vec![("BOWLINE_WATCH".into(), watch.into())],
        ..Settings::default()
    })?;
    let settings = json!({"MemorySize": MEMORY_MIB, "Tags": {"bowline:on-upload": "folder:shop/in-"}});
    node.lambda().deploy("f", &Artifact::native()?, settings)?;
    std::fs::write(folder.path().join("out"), "pixels")?;
    let runs = |node: &Node| metric(node, "bowline_invocations_total{function=\"f\"").unwrap_or_default();
    let mut all = 0;
    for round in 0..3 {
        for number in 0..FILES / 3 {
            let hidden = folder.path().join(".hidden");
            std::fs::write(&hidden, "pixels")?;
            std::fs::rename(hidden, folder.path().join(format!("in-{round}-{number}")))?;
        }
        let told = patience::until(SETTLED_MAX, || (runs(&node) >= FILES / 3).then_some(()));
        told.with_context(|| format!("{} runs in round {round}", runs(&node)))?;
        // An event that is not acknowledged yet would rightly run again after the kill.
        patience::rest(Duration::from_secs(1));
        all += runs(&node);
        node.kill()?;
        node.start_again()?;
    }
    // What is written last is told of last.
    std::fs::write(folder.path().join("in-last"), "pixels")?;
    let last = patience::until(SETTLED_MAX, || (runs(&node) > 0).then_some(()));
    last.context("the last file has no run")?;
    patience::rest(Duration::from_secs(1));
    ensure!(
        all + runs(&node) == FILES + 1,
        "{all} and {} runs of {} files",
        runs(&node),
        FILES + 1
    );
    Ok(())
}
