//! Cells that wait, their runtime started, for a function that is called.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use bowline_tests::node::Settings;
use bowline_tests::{Artifact, Node};
use serde_json::json;

/// Says when its process began, in the kernel's ticks since the machine did.
const BORN: &str = r#"
def handler(event, context):
    with open("/proc/self/stat") as stat:
        return int(stat.read().rpartition(") ")[2].split()[19])
"#;

/// The processes below `root` that there are now, by when each began.
fn processes(root: u32) -> Result<BTreeMap<u64, u64>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let field = |at: usize| {
            stat.rsplit_once(") ")
                .and_then(|(_, rest)| rest.split(' ').nth(at)?.parse().ok())
        };
        let pid: Option<u64> = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let (Some(pid), Some(parent), Some(began)) = (pid, field(1), field(19)) {
            all.insert(pid, (parent, began));
        }
    }
    let is_below = |pid: &u64| {
        let parents = std::iter::successors(Some(*pid), |pid| all.get(pid).map(|(parent, _)| *parent));
        parents.skip(1).any(|parent: u64| parent == u64::from(root))
    };
    let below = all.iter().filter(|(pid, _)| is_below(pid));
    Ok(below.map(|(pid, (_, began))| (*began, *pid)).collect())
}

struct Served {
    /// The process that served, if it was there before the request.
    pid: Option<u64>,
    /// Lines of the metrics that tell of it.
    metrics: String,
}

/// Has a fresh node serve the first request for a function.
fn first_request(environment: &[(&str, &str)]) -> Result<Served> {
    let node = Node::start_with(Settings {
        environment: environment
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
        ..Settings::default()
    })?;
    let lambda = node.lambda();
    lambda.deploy("born", &Artifact::python_source(BORN.as_bytes())?, json!({}))?;
    let before = processes(node.pid())?;
    let born = lambda.invoke("born", &json!({}))?.expect(200)?.json();
    let born = born.as_u64().with_context(|| format!("it answered {born}"))?;
    let metrics = String::from_utf8(lambda.get("/metrics")?.expect(200)?.body)?;
    let lines = metrics.lines().filter(|line| line.starts_with("bowline_prewarmed_"));
    Ok(Served {
        pid: before.get(&born).copied(),
        metrics: lines.collect::<Vec<_>>().join("\n"),
    })
}

fn tells(served: &Served, what: &str) -> Result<()> {
    let is_told = served.metrics.lines().any(|line| {
        line.starts_with(&format!("bowline_prewarmed_{what}_total{{runtime=\"python3.")) && line.ends_with(" 1")
    });
    ensure!(is_told, "no `{what}` among {}", served.metrics);
    Ok(())
}

/// 14/T-N2.
#[test]
fn t_n2_a_process_that_was_there_before_the_request_serves_it() -> Result<()> {
    let served = first_request(&[])?;
    ensure!(served.pid.is_some(), "its process was made for the request");
    tells(&served, "hits")?;
    for without in [("BOWLINE_PREWARMED", "0"), ("BOWLINE_PREWARMED_MEMORY", "1MiB")] {
        let served = first_request(&[without])?;
        ensure!(served.pid.is_none(), "the control, {without:?}: nothing waits");
        tells(&served, "misses")?;
    }
    Ok(())
}
