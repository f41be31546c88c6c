//! Streams: appends and reads beside a bare file on the same disk, and beside peers where they are installed.

mod load;
mod redis;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use bowline_test_postgres::Server;
use bowline_tests::Node;
use bowline_tests::node::Settings;

use super::subject::Subjects;
use super::table::{Goal, Row};
use super::{Effort, percentile, progress};
use crate::shell;
use load::{Figures, Load};
use redis::Redis;

const RATE: &str = "events/s";
/// What appends through HTTP must reach of those in process.
const HTTP_SHARE_MIN: f64 = 0.6;
const READ_TIMES_MIN: f64 = 20.0;
const ONE_ROW_TIMES_MIN: f64 = 2.0;
const CLUSTER_SHARE_MIN: f64 = 0.9;
const VISIBLE_MS_MAX: f64 = 50.0;
const NODES: usize = 4;

/// A shape of appends, by the name that the load program gives it.
struct Shape {
    name: &'static str,
    /// What appends in process must reach of a bare file.
    share_min: f64,
    /// Whether the peers must be slower.
    leads: bool,
}

const SHAPES: &[Shape] = &[
    Shape {
        name: "1 client x 1",
        share_min: 0.8,
        leads: false,
    },
    Shape {
        name: "32 clients x 1",
        share_min: 0.4,
        leads: true,
    },
    Shape {
        name: "1 client x 100 x 100 B",
        share_min: 0.6,
        leads: true,
    },
    Shape {
        name: "1 client x 100 x 1 KiB",
        share_min: 0.5,
        leads: true,
    },
];

/// The peers, by their names in the load program and in the table.
const PEERS: [(&str, &str); 2] = [
    ("redis", "peer redis-server, appendfsync always"),
    ("postgres", "peer PostgreSQL, synchronous_commit on"),
];

pub fn measure(subjects: &Subjects, effort: Effort) -> Result<Vec<Row>> {
    check_disk()?;
    let load = Load::new(subjects, effort);
    let postgres = start_postgres()?;
    let mut rows = appends(subjects, &load, postgres.as_ref())?;
    rows.extend(reads(&load)?);
    rows.push(visible_on_one(subjects, &load)?);
    if let Some(server) = &postgres {
        rows.extend(writers(&load, server)?);
        rows.extend(cluster(subjects, &load, server)?);
    }
    Ok(rows)
}

/// On a disk that is memory, a sync costs nothing, and every ratio would be of something else.
fn check_disk() -> Result<()> {
    let folder = std::env::temp_dir();
    let kind = shell::output(std::process::Command::new("stat").args(["-f", "-c", "%T"]).arg(&folder))?;
    let kind = kind.trim();
    ensure!(
        kind != "tmpfs",
        "`{}` is `{kind}`, which syncs nothing: set `TMPDIR` to a folder on a disk",
        folder.display()
    );
    Ok(())
}

fn start_postgres() -> Result<Option<Server>> {
    if !bowline_test_postgres::is_installed() {
        progress("SKIPPED: there is no PostgreSQL, neither as a peer nor as a store");
        return Ok(None);
    }
    Server::start().map(Some)
}

fn start_redis() -> Result<Option<Redis>> {
    if !shell::is_installed("redis-server") {
        progress("SKIPPED: there is no redis-server to compare with");
        return Ok(None);
    }
    Redis::start().map(Some)
}

fn appends(subjects: &Subjects, load: &Load, postgres: Option<&Server>) -> Result<Vec<Row>> {
    let node = subjects.start_node()?;
    let redis = start_redis()?;
    let folder = tempfile::tempdir()?;
    let (address, url) = (node.address(), postgres.map(Server::url));
    let mut words = vec!["appends", "--folder", text(folder.path())?, "--node", &address];
    if let Some(redis) = &redis {
        words.extend(["--redis", &redis.address]);
    }
    if let Some(url) = &url {
        words.extend(["--postgres", url]);
    }
    let figures = load.run(&words)?;
    let rows: Result<Vec<Vec<Row>>> = SHAPES.iter().map(|shape| rows_of(shape, &figures)).collect();
    Ok(rows?.into_iter().flatten().collect())
}

fn rows_of(shape: &Shape, figures: &Figures) -> Result<Vec<Row>> {
    let name = shape.name;
    let plain = figures.expect(name, "plain")?;
    let embedded = figures.expect(name, "embedded")?;
    let http = figures.expect(name, "http")?;
    let row = |what: &str, goal, ours, reference| {
        Row::judged(
            &format!("stream append, {name}: {what}"),
            RATE,
            goal,
            ours,
            Some(reference),
        )
    };
    let mut rows = vec![
        row(
            "in process, beside write and fdatasync",
            Goal::RatioAtLeast(shape.share_min),
            embedded,
            plain,
        ),
        row(
            "by HTTP, beside in process",
            Goal::RatioAtLeast(HTTP_SHARE_MIN),
            http,
            embedded,
        ),
    ];
    for (peer, title) in PEERS {
        let goal = if shape.leads {
            Goal::SlowerThan(embedded)
        } else {
            Goal::None
        };
        let figure = figures.median(name, peer);
        rows.extend(figure.map(|figure| row(title, goal, figure, plain)));
    }
    Ok(rows)
}

fn reads(load: &Load) -> Result<Vec<Row>> {
    let folder = tempfile::tempdir()?;
    let figures = load.run(&["reads", "--folder", text(folder.path())?])?;
    let appended = figures.expect("long stream", "append")?;
    let readers = [
        (
            "read",
            "stream read from its beginning, beside its append in batches of 100",
        ),
        (
            "session",
            "stream read by one session, 64 workers, beside the same append",
        ),
    ];
    let row = |(who, title): (&str, &str)| {
        let figure = figures.expect("long stream", who)?;
        Ok(Row::judged(
            title,
            RATE,
            Goal::RatioAtLeast(READ_TIMES_MIN),
            figure,
            Some(appended),
        ))
    };
    readers.into_iter().map(row).collect()
}

fn visible_on_one(subjects: &Subjects, load: &Load) -> Result<Row> {
    let node = subjects.start_node()?;
    visible(load, "stream, acknowledged to seen by a follower, p99", [&node, &node])
}

fn visible(load: &Load, title: &str, [append_at, follow_at]: [&Node; 2]) -> Result<Row> {
    progress(title);
    let (append_at, follow_at) = (append_at.address(), follow_at.address());
    let figures = load.run(&["tail", "--append-at", &append_at, "--follow-at", &follow_at])?;
    let delays = figures.all("tail", "delay").context("no event was seen")?;
    let goal = Goal::Below(VISIBLE_MS_MAX);
    Ok(Row::judged(title, "ms", goal, percentile(delays, 0.99), None))
}

fn writers(load: &Load, server: &Server) -> Result<Vec<Row>> {
    let figures = load.run(&["writers", "--postgres", &server.url()])?;
    let one_row = figures.expect("16 writers", "one row")?;
    let subjects = [
        (
            "store",
            "store on PostgreSQL, 16 writers, beside one row that all update",
        ),
        (
            "embedded",
            "stream on PostgreSQL, 16 writers, beside one row that all update",
        ),
    ];
    let row = |(who, title): (&str, &str)| {
        let figure = figures.expect("16 writers", who)?;
        let goal = Goal::RatioAtLeast(ONE_ROW_TIMES_MIN);
        Ok(Row::judged(title, RATE, goal, figure, Some(one_row)))
    };
    subjects.into_iter().map(row).collect()
}

/// Four nodes on one database beside one node on another of the same server.
fn cluster(subjects: &Subjects, load: &Load, server: &Server) -> Result<Vec<Row>> {
    let blobs = tempfile::tempdir()?;
    let start = |schema: &str| member(subjects, &server.url(), schema, &blobs.path().join(schema));
    let single = start("single")?;
    let nodes: Vec<Node> = (0..NODES).map(|_| start("four")).collect::<Result<_>>()?;
    let addresses: Vec<String> = nodes.iter().map(Node::address).collect();
    let alone = single.address();
    let mut words = vec!["cluster", "--single", &alone];
    addresses.iter().for_each(|address| words.extend(["--node", address]));
    let figures = load.run(&words)?;
    let [one, four] = ["one node", "four nodes"].map(|who| figures.expect("32 clients x 1", who));
    let title = "stream append, 32 clients x 1: four nodes on one PostgreSQL, beside one node";
    Ok(vec![
        Row::judged(title, RATE, Goal::RatioAtLeast(CLUSTER_SHARE_MIN), four?, Some(one?)),
        visible(
            load,
            "stream, acknowledged by one node to seen by a follower at another of four, p99",
            [&nodes[0], &nodes[1]],
        )?,
    ])
}

fn member(subjects: &Subjects, url: &str, schema: &str, blobs: &Path) -> Result<Node> {
    let settings = Settings {
        environment: vec![
            ("BOWLINE_STORE".into(), format!("{url}?schema={schema}").into()),
            ("BOWLINE_BLOBS".into(), blobs.into()),
        ],
        ..Settings::default()
    };
    Node::start_build(&subjects.node, settings)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("the path of the temporary folder is not text")
}
