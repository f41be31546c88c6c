//! What is done to the run while it goes on, and what the function itself says of it: how far it is and when, wherever
//! it runs. A pause is the time between its last sign of life on one node and its first one on the next.

use std::time::Duration;

use anyhow::{Context, ensure};
use bowline_foundation::clock::Clock;
use serde_json::{Value, json};

use super::bar::Bar;
use super::digits_of;
use super::stage::{Node, Stage};

const RUN_MAX: Duration = Duration::from_secs(240);
/// More than the function says in a whole run.
const LOG_BYTES: u32 = 1 << 20;

/// What is done to a run.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// It moves to a node by its place in the list.
    Move { to: usize },
    /// The node that has it is killed (SIGKILL); another one takes it over.
    Kill,
    /// It moves to the other node that is left.
    MoveOn,
}

/// A sign of life that the function gave.
#[derive(Clone, Copy)]
struct Sign {
    node: usize,
    /// How far it was, in per mille.
    part: u32,
    /// By its own clock, in milliseconds since 1970.
    at_ms: u64,
}

/// Something that was done to the run.
pub struct Told {
    what: &'static str,
    part: u32,
    at_ms: u64,
    from: usize,
    /// Filled in when the function has given a sign from there.
    to: Option<usize>,
    pause_ms: Option<u64>,
    names: [&'static str; 2],
}

impl Told {
    pub fn document(&self) -> Value {
        json!({
            "what": self.what,
            "percent": self.part / 10,
            "from": self.names[0],
            "to": self.names[1],
            "pauseMs": self.pause_ms,
        })
    }

    pub fn row(&self) -> [String; 5] {
        let pause = self
            .pause_ms
            .map_or_else(|| "-".to_owned(), |pause| format!("{pause} ms"));
        let at = format!("{} %", self.part / 10);
        [
            at,
            self.what.to_owned(),
            self.names[0].to_owned(),
            self.names[1].to_owned(),
            pause,
        ]
    }
}

/// The run, and what is known of it.
pub struct Scene<'a> {
    stage: &'a Stage,
    clock: &'a Clock,
    function: &'static str,
    digits: u32,
    signs: Vec<Sign>,
    /// Lines of each node's log that were read.
    read: Vec<usize>,
    is_dead: Vec<bool>,
    bar: Bar,
    told: Vec<Told>,
}

impl<'a> Scene<'a> {
    pub fn new(stage: &'a Stage, clock: &'a Clock, function: &'static str, digits: u32) -> Self {
        let nodes = stage.nodes().len();
        Self {
            stage,
            clock,
            function,
            digits,
            signs: Vec::new(),
            read: vec![0; nodes],
            is_dead: vec![false; nodes],
            bar: Bar::new(),
            told: Vec::new(),
        }
    }

    /// Invokes the function on the first node and follows the script; gives the answer, and what was done.
    pub fn play(mut self, script: &[(u32, Act)]) -> anyhow::Result<(String, Vec<Told>)> {
        let (client, function, digits) = (self.home().client.clone(), self.function, self.digits);
        let caller = std::thread::spawn(move || digits_of(&client, function, digits));
        let mut script = script.iter().peekable();
        let (stage, clock) = (self.stage, self.clock);
        let ended = stage.until(clock, RUN_MAX, || match self.look(&mut script) {
            Err(error) => Some(Err(error)),
            Ok(()) => caller.is_finished().then_some(Ok(())),
        })?;
        ended.context("the run does not come to its end")??;
        let answer = caller
            .join()
            .map_err(|_| anyhow::anyhow!("the caller's thread has died"))??;
        self.listen();
        self.bar.show(1_000, "the caller has the answer");
        self.bar.say("");
        self.find_pauses();
        Ok((answer, self.told))
    }

    fn home(&self) -> &'a Node {
        &self.stage.nodes()[0]
    }

    fn look(&mut self, script: &mut std::iter::Peekable<std::slice::Iter<'_, (u32, Act)>>) -> anyhow::Result<()> {
        self.listen();
        let Some(part) = self.signs.iter().map(|sign| sign.part).max() else {
            return Ok(());
        };
        let Some((run, holder)) = self.holder() else {
            // Before the answer is there it is not all done.
            self.bar.show(part.min(999), "waits for a node to take it over");
            return Ok(());
        };
        let node = &self.stage.nodes()[holder];
        self.bar.show(part, &format!("on node {}", node.name));
        if let Some((_, act)) = script.next_if(|(at, _)| part >= *at) {
            self.act(*act, (&run, holder), part)?;
        }
        Ok(())
    }

    /// The run and the node where it runs, while it does.
    fn holder(&self) -> Option<(String, usize)> {
        let runs = self.home().client.pages("/v1/checkpoints", "").ok()?;
        let run = runs.into_iter().find(|run| run["function"] == self.function)?;
        if run["phase"] != "running" {
            return None;
        }
        let name = run["run"].as_str()?.to_owned();
        // Before its first checkpoint nobody but its node knows it.
        let id = run["node"].as_str();
        let holder = id.map_or(Some(0), |id| self.stage.nodes().iter().position(|node| node.id == id))?;
        (!self.is_dead[holder]).then_some((name, holder))
    }

    fn act(&mut self, act: Act, (run, holder): (&str, usize), part: u32) -> anyhow::Result<()> {
        let nodes = self.stage.nodes();
        let mut others = (0..nodes.len()).filter(|node| *node != holder && !self.is_dead[*node]);
        let (what, to) = match act {
            Act::Move { to } => ("move", Some(to)),
            Act::MoveOn => ("move", others.next_back()),
            Act::Kill => ("kill -9", None),
        };
        let at_ms = self.clock.now().as_millis();
        if let Some(to) = to {
            let path = format!("/v1/checkpoints/{run}/move");
            let body = json!({ "to": nodes[to].id, "reason": "demo" });
            nodes[holder].client.post(&path, &body)?;
            self.bar.say(&format!(
                "moved from node {} to node {}",
                nodes[holder].name, nodes[to].name
            ));
        } else {
            ensure!(holder != 0, "the caller's node is not to be killed");
            self.stage.kill(nodes[holder].name)?;
            self.is_dead[holder] = true;
            self.bar.say(&format!(
                "killed node {} (process {}, SIGKILL): another one goes on from the last checkpoint when its lease is over",
                nodes[holder].name, nodes[holder].process
            ));
        }
        self.told.push(Told {
            what,
            part,
            at_ms,
            from: holder,
            to,
            pause_ms: None,
            names: ["", ""],
        });
        Ok(())
    }

    /// Reads what the function has said since.
    fn listen(&mut self) {
        for (index, node) in self.stage.nodes().iter().enumerate() {
            if self.is_dead[index] {
                continue;
            }
            let path = format!("/v1/functions/{}/logs?bytes={LOG_BYTES}", self.function);
            let log = node
                .client
                .send(ureq::http::Method::GET, &path, ureq::http::HeaderMap::new(), Vec::new());
            // A node that has never run it has no log.
            let Ok(log) = log else { continue };
            let text = String::from_utf8_lossy(&log.body).into_owned();
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            let signs: Vec<Sign> = whole.lines().filter_map(|line| sign(index, line)).collect();
            self.signs.extend(signs.iter().skip(self.read[index]));
            self.read[index] = signs.len();
        }
    }

    /// How long the function stood still, each time.
    fn find_pauses(&mut self) {
        let nodes = self.stage.nodes();
        for told in &mut self.told {
            let is_next = |sign: &&Sign| sign.node != told.from && sign.at_ms >= told.at_ms;
            let next = self.signs.iter().filter(is_next).min_by_key(|sign| sign.at_ms);
            let Some(next) = next else { continue };
            let before = self
                .signs
                .iter()
                .filter(|sign| sign.at_ms <= next.at_ms && sign.node == told.from);
            let last = before.map(|sign| sign.at_ms).max();
            told.pause_ms = last.map(|last| next.at_ms - last);
            told.to = told.to.or(Some(next.node));
        }
        for told in &mut self.told {
            told.names = [nodes[told.from].name, told.to.map_or("-", |to| nodes[to].name)];
        }
    }
}

/// A line of the function's log, if it says how far it is.
fn sign(node: usize, line: &str) -> Option<Sign> {
    let (part, at) = line.trim().strip_prefix("part ")?.split_once(" at ")?;
    Some(Sign {
        node,
        part: part.parse().ok()?,
        at_ms: at.parse().ok()?,
    })
}
