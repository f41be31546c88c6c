//! Where calls run in a cluster: how fast it is decided, and what it saves, with stub sandboxes on ten nodes.

use anyhow::{Context, Result};
use serde::Deserialize;

use super::table::{Goal, Row};
use super::{median, progress, release_output};

const PER_SECOND_MIN: f64 = 5_000.0;

/// What the program says of one seed.
#[derive(Deserialize)]
struct Line {
    placements_per_second: f64,
    cold: f64,
    cold_apart: f64,
    sandboxes: f64,
    sandboxes_apart: f64,
}

pub fn measure() -> Result<Vec<Row>> {
    progress("placing calls on ten nodes");
    let text = release_output(&["--package", "bowline-replay", "--", "--placement"])?;
    let lines: Vec<Line> = (text.lines())
        .map(|line| serde_json::from_str(line).with_context(|| format!("`{line}` is no figure")))
        .collect::<Result<_>>()?;
    let of = |figure: &dyn Fn(&Line) -> f64| median(lines.iter().map(figure).collect());
    let rate = of(&|line| line.placements_per_second);
    Ok(vec![
        Row::judged(
            "placements, ten nodes, stub sandboxes",
            "/s",
            Goal::AtLeast(PER_SECOND_MIN),
            rate,
            None,
        ),
        Row::judged(
            "cold starts, ten nodes, beside nodes that do not place",
            "cold starts",
            Goal::RatioAtMost(1.0),
            of(&|line| line.cold),
            Some(of(&|line| line.cold_apart)),
        ),
        Row::judged(
            "most sandboxes, ten nodes, beside nodes that do not place",
            "sandboxes",
            Goal::RatioAtMost(1.0),
            of(&|line| line.sandboxes),
            Some(of(&|line| line.sandboxes_apart)),
        ),
    ])
}
