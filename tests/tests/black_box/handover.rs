//! A hand-over that is disturbed at each of its named moments: the link between two nodes is cut, a node is killed, the
//! database is, a byte of the checkpoint is flipped, and two destinations claim the run. In each case the function
//! ends once, with the right answer.
//!
//! A node stops itself (SIGSTOP) at the moment that a file names, so that the test does what it does exactly there. That
//! it came to stand there is each case's control.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, bail, ensure};
use bowline_tests::node::Settings;
use bowline_tests::{Node, Reply, patience, skip};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::checkpoints::{EVERY, PATIENCE, answer, reply};
use crate::crowd::{LEASE_SECONDS, has_postgres};
use crate::moves::Stage;
use crate::outages::ip;
use crate::placement::Cluster;

const SOURCE: usize = 0;
const TARGET: usize = 1;
const THIRD: usize = 2;
/// Often enough that a run has a checkpoint soon.
const MODE: &str = "100ms";
const LINES: usize = 200;
/// Longer than a database takes to come back: nobody takes over what its node could not renew meanwhile.
const BEYOND_RECOVERY_SECONDS: u64 = 15;

/// A cluster whose nodes stop where they are told to.
struct Scene {
    stage: Stage,
    halts: TempDir,
}

impl Scene {
    fn set(address: impl Fn(usize) -> Option<Ipv4Addr>) -> Result<Self> {
        Self::leased(address, LEASE_SECONDS)
    }

    /// The same, with leases that last so long.
    fn leased(address: impl Fn(usize) -> Option<Ipv4Addr>, seconds: u64) -> Result<Self> {
        let halts = tempfile::tempdir()?;
        let cluster = Cluster::start_with("node", |node| {
            let folder = halts.path().join(node.to_string());
            fs::create_dir_all(&folder).expect("the folder is the test's");
            Settings {
                address: address(node),
                environment: vec![
                    ("BOWLINE_TEST_HALT".into(), folder.into()),
                    ("BOWLINE_LEASE_SECONDS".into(), seconds.to_string().into()),
                ],
                ..Settings::default()
            }
        })?;
        let stage = Stage::set_on(cluster, MODE)?;
        Ok(Self { stage, halts })
    }

    /// Invokes the function at the source and waits until the run has a checkpoint.
    fn begin(&self) -> Result<(JoinHandle<Result<Reply>>, String)> {
        let running = self.stage.invoke();
        let begun = |run: &Value| run["here"] == true && run["checkpoint"]["number"].as_u64() >= Some(1);
        match self.stage.run(SOURCE, |run| running.is_finished() || begun(run)) {
            Ok(run) if begun(&run) => Ok((running, run["run"].as_str().context("a run has a name")?.to_owned())),
            Err(error) if !running.is_finished() => Err(error),
            _ => {
                let told = reply(running)?;
                bail!(
                    "it was over before it had a checkpoint: {} {}",
                    told.status,
                    told.json()
                )
            }
        }
    }

    /// Orders the move, which may take long and fail.
    fn order(&self, run: &str, to: usize) -> Result<JoinHandle<Result<Reply>>> {
        let (path, to) = (format!("/v1/checkpoints/{run}/move"), self.stage.id(to)?);
        let lambda = self.stage.cluster.nodes[SOURCE].lambda();
        Ok(thread::spawn(move || lambda.post(&path, &json!({ "to": to }))))
    }

    fn file(&self, (node, moment): (usize, &str)) -> PathBuf {
        self.halts.path().join(node.to_string()).join(moment)
    }

    /// Lets a node stop when it comes to the moment.
    fn stop_at(&self, at: (usize, &str)) -> Result<()> {
        Ok(fs::write(self.file(at), "")?)
    }

    fn has_stopped(&self, at: (usize, &str)) -> bool {
        !self.file(at).exists() && self.stage.cluster.nodes[at.0].is_frozen()
    }

    /// Waits until it has.
    fn await_stop(&self, at: (usize, &str)) -> Result<()> {
        let stopped = patience::until(PATIENCE, || self.has_stopped(at).then_some(()));
        stopped.with_context(|| format!("nobody comes to {at:?}:\n{}", self.stage.cluster.nodes[at.0].log()))
    }

    /// A run whose move is about to go wrong at a moment: its caller, its name, and the order.
    fn stand_at(&self, at: (usize, &str)) -> Result<Standing> {
        let (caller, run) = self.begin()?;
        self.stop_at(at)?;
        let mut order = self.order(&run, TARGET)?;
        let mut refused = String::new();
        let stopped = patience::until(PATIENCE, || {
            if self.has_stopped(at) {
                return Some(Ok(()));
            }
            // A node that has just begun anew may be known by what it was.
            if order.is_finished() {
                let again = match self.order(&run, TARGET) {
                    Ok(again) => again,
                    Err(error) => return Some(Err(error)),
                };
                refused = format!(
                    "{:?}",
                    reply(std::mem::replace(&mut order, again)).map(|told| told.json())
                );
            }
            None
        });
        stopped.with_context(|| format!("nobody comes to {at:?}; the last order was told: {refused}"))??;
        Ok(Standing { caller, run, order })
    }

    /// How often each step was said to be done, on all nodes.
    fn counts(&self) -> Result<BTreeMap<u64, usize>> {
        let mut counts = BTreeMap::new();
        for node in 0..self.stage.cluster.nodes.len() {
            // A node that has never run the function has no log.
            for step in self.stage.steps(node).unwrap_or_default() {
                *counts.entry(step).or_default() += 1;
            }
        }
        Ok(counts)
    }

    /// Each of a run's steps was made so often.
    fn made_each(&self, times: usize) -> Result<()> {
        let counts = self.counts()?;
        ensure!(counts.len() == LINES, "{} steps of {LINES}", counts.len());
        let other = counts.iter().find(|(_, count)| **count != times);
        ensure!(other.is_none(), "(step, times) {other:?} instead of {times}");
        ensure!(
            counts
                .keys()
                .eq((1..=LINES as u64).map(|line| line * EVERY).collect::<Vec<_>>().iter())
        );
        Ok(())
    }

    /// A run's end is written later than its caller has it, where the store is away.
    fn nothing_is_left(&self, node: usize) -> Result<()> {
        let lambda = self.stage.cluster.nodes[node].lambda();
        let mut left = json!(null);
        let none = patience::until(PATIENCE, || {
            left = lambda.get("/v1/checkpoints").ok()?.json();
            (left["items"] == json!([])).then_some(())
        });
        none.with_context(|| format!("it has one end: {left}"))
    }

    /// The answer of a run whose caller died with the source, which is started again afterwards.
    fn answered_elsewhere(&mut self, run: &str) -> Result<()> {
        let ended = self.stage.run(TARGET, |run| run["phase"] == "finished")?;
        ensure!(ended["run"] == run, "{ended}");
        let lambda = self.stage.cluster.nodes[TARGET].lambda();
        let path = format!("/v1/checkpoints/{run}");
        let outcome = lambda.get(&format!("{path}/outcome"))?;
        ensure!(answer(&outcome)? == self.stage.expected, "a wrong answer");
        lambda.delete(&path)?.expect(204)?;
        self.nothing_is_left(TARGET)?;
        self.stage.cluster.nodes[SOURCE].start_again()?;
        self.stage.cluster.know_each_other()
    }
}

/// A run whose move stands still at a moment.
struct Standing {
    caller: JoinHandle<Result<Reply>>,
    run: String,
    order: JoinHandle<Result<Reply>>,
}

/// A network of the test's own, in which the way to one address can be cut for others on the same machine.
struct Link {
    namespace: String,
    far: Ipv4Addr,
}

impl Link {
    /// Moves this thread, and all that it starts from now on, into the network; none where we may not.
    fn lay(far: Ipv4Addr) -> Option<Self> {
        let link = Self {
            namespace: format!("bwm{}", std::process::id() % 1_000_000),
            far,
        };
        ip(&["netns", "add", &link.namespace]).ok()?;
        let file = fs::File::open(format!("/run/netns/{}", link.namespace)).ok()?;
        let network = rustix::thread::LinkNameSpaceType::Network;
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(network)).ok()?;
        let made = ip(&["link", "set", "lo", "up"]).is_ok()
            // What is cut is looked at before what is local.
            && ip(&["rule", "add", "pref", "100", "lookup", "local"]).is_ok()
            && ip(&["rule", "del", "pref", "0"]).is_ok();
        made.then_some(link)
    }

    /// Cuts the way to the address and back, or mends it. What is on it is lost; connections stay open, as they would.
    fn cut(&self, is_cut: bool) -> Result<()> {
        let what = if is_cut { "add" } else { "del" };
        for way in ["to", "from"] {
            ip(&["rule", what, "pref", "10", way, &self.far.to_string(), "blackhole"])?;
        }
        Ok(())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let _ = ip(&["netns", "del", &self.namespace]);
    }
}

/// Before the offer, after the test, during the copy, after the copy and before the commit, after the commit and before
/// the report. Each time nobody dies, so that no step is made twice.
#[test]
fn a_link_that_is_cut_at_five_points_leaves_one_end_as_root() -> Result<()> {
    if !has_postgres() {
        return Ok(());
    }
    let far = Ipv4Addr::new(127, 0, 0, 3);
    let Some(link) = Link::lay(far) else {
        skip("a network namespace cannot be made, which needs root and `ip`");
        return Ok(());
    };
    let scene = Scene::set(|node| (node == TARGET).then_some(far))?;
    let moments = [
        (SOURCE, "move.asked"),
        (SOURCE, "move.fitted"),
        (SOURCE, "move.copied"),
        (TARGET, "take.read"),
        (TARGET, "take.committed"),
    ];
    for (case, at) in moments.into_iter().enumerate() {
        let Standing { caller, order, .. } = scene.stand_at(at)?;
        link.cut(true)?;
        scene.stage.cluster.nodes[at.0].thaw()?;
        let told = reply(order)?;
        ensure!(told.status == 409, "{at:?}: nobody says that it moved: {}", told.json());
        let ended = reply(caller)?;
        link.cut(false)?;
        ensure!(answer(&ended)? == scene.stage.expected, "{at:?}");
        scene.stage.cluster.know_each_other()?;
        scene.made_each(case + 1).with_context(|| format!("{at:?}"))?;
        scene.nothing_is_left(SOURCE).with_context(|| format!("{at:?}"))?;
    }
    let moved = scene.stage.steps(TARGET)?.len();
    ensure!(moved > 0, "the control: after the commit the target has it");
    Ok(())
}

#[test]
fn a_target_that_is_killed_at_any_point_of_a_hand_over_costs_no_answer() -> Result<()> {
    if !has_postgres() {
        return Ok(());
    }
    let mut scene = Scene::set(|_| None)?;
    for moment in [
        "take.announced",
        "take.offered",
        "take.fitted",
        "take.read",
        "take.committed",
    ] {
        let Standing { caller, order, .. } = scene.stand_at((TARGET, moment))?;
        scene.stage.cluster.nodes[TARGET].kill()?;
        let told = reply(order)?;
        ensure!(told.status == 409, "{moment}: {}", told.json());
        ensure!(answer(&reply(caller)?)? == scene.stage.expected, "{moment}");
        scene.nothing_is_left(SOURCE).with_context(|| moment.to_owned())?;
        scene.stage.cluster.nodes[TARGET].start_again()?;
        scene.stage.cluster.know_each_other()?;
    }
    Ok(())
}

#[test]
fn a_source_that_is_killed_at_any_point_of_a_hand_over_costs_its_caller_alone() -> Result<()> {
    if !has_postgres() {
        return Ok(());
    }
    let mut scene = Scene::set(|_| None)?;
    for moment in ["move.asked", "move.fitted", "move.copied", "move.left", "move.told"] {
        let Standing { caller, run, order } = scene.stand_at((SOURCE, moment))?;
        scene.stage.cluster.nodes[SOURCE].kill()?;
        ensure!(
            reply(order).is_err() && reply(caller).is_err(),
            "{moment}: both are gone"
        );
        scene.answered_elsewhere(&run).with_context(|| moment.to_owned())?;
    }
    // The target has the checkpoint in hand, or the run, and nobody to tell it to.
    for moment in ["take.read", "take.committed"] {
        let Standing { caller, run, order } = scene.stand_at((TARGET, moment))?;
        scene.stage.cluster.nodes[SOURCE].kill()?;
        scene.stage.cluster.nodes[TARGET].thaw()?;
        ensure!(
            reply(order).is_err() && reply(caller).is_err(),
            "{moment}: both are gone"
        );
        scene.answered_elsewhere(&run).with_context(|| moment.to_owned())?;
    }
    Ok(())
}

/// The target finds the damage and takes nothing; the source puts its copy in place of it.
#[test]
fn a_byte_that_is_flipped_on_the_way_costs_no_answer() -> Result<()> {
    if !has_postgres() {
        return Ok(());
    }
    let scene = Scene::set(|_| None)?;
    // Later it may have read the checkpoint already.
    let at = (TARGET, "take.announced");
    let Standing { caller, run, order } = scene.stand_at(at)?;
    let nodes = &scene.stage.cluster.nodes;
    let shown = patience::until(PATIENCE, || {
        let found = nodes[SOURCE].lambda().get(&format!("/v1/checkpoints/{run}")).ok()?;
        let shown = found.json();
        let decisions = shown["decisions"].as_array()?;
        let has_left = decisions.iter().any(|decision| decision["what"] == "suspend");
        has_left.then_some(shown)
    });
    let shown = shown.context("the source has not kept what it announced")?;
    let digest = shown["checkpoint"]["digest"].as_str().context("a digest")?;
    let blob = scene.stage.cluster.shared.path().join("checkpoints").join(digest);
    let mut bytes = fs::read(&blob)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&blob, bytes)?;
    nodes[TARGET].thaw()?;
    let told = reply(order)?.expect(409)?.json();
    ensure!(
        told["detail"].to_string().contains("damaged"),
        "the control: the target says so: {told}"
    );
    ensure!(answer(&reply(caller)?)? == scene.stage.expected, "a wrong answer");
    scene.made_each(1)?;
    ensure!(
        nodes[SOURCE].log().contains("a checkpoint is put again"),
        "{}",
        nodes[SOURCE].log()
    );
    scene.nothing_is_left(SOURCE)
}

/// What keeps checkpoints goes away when the bytes are there and the record is not, and comes back.
#[test]
fn a_service_that_is_killed_in_a_hand_over_costs_no_answer() -> Result<()> {
    if !has_postgres() {
        return Ok(());
    }
    let scene = Scene::leased(|_| None, BEYOND_RECOVERY_SECONDS)?;
    for (case, at) in [(SOURCE, "move.copied"), (TARGET, "take.read")].into_iter().enumerate() {
        let Standing { caller, order, .. } = scene.stand_at(at)?;
        scene.stage.cluster.server.kill()?;
        scene.stage.cluster.nodes[at.0].thaw()?;
        let told = reply(order)?;
        ensure!(
            told.status >= 400,
            "{at:?}: the control: it cannot be written: {}",
            told.json()
        );
        scene.stage.cluster.server.start_again()?;
        ensure!(answer(&reply(caller)?)? == scene.stage.expected, "{at:?}");
        scene.stage.cluster.know_each_other()?;
        scene.made_each(case + 1).with_context(|| format!("{at:?}"))?;
        scene.nothing_is_left(SOURCE).with_context(|| format!("{at:?}"))?;
    }
    Ok(())
}

/// One was offered the run, the other takes it over because the source stands still and nobody has renewed its lease: both
/// have the checkpoint in hand when they go on at the same moment. One commits, the other is refused and runs nothing.
#[test]
fn two_destinations_that_both_claim_a_run_leave_one_end() -> Result<()> {
    if !has_postgres() {
        return Ok(());
    }
    let scene = Scene::set(|_| None)?;
    scene.stop_at((THIRD, "take.read"))?;
    let Standing { caller, order, .. } = scene.stand_at((TARGET, "take.read"))?;
    let nodes = &scene.stage.cluster.nodes;
    nodes[SOURCE].freeze()?;
    scene.await_stop((THIRD, "take.read"))?;
    ensure!(nodes.iter().all(Node::is_frozen), "the control: nobody has it");
    nodes[THIRD].thaw()?;
    nodes[TARGET].thaw()?;
    let taken = scene.stage.run(THIRD, |run| run["epoch"].as_u64() >= Some(2));
    nodes[SOURCE].thaw()?;
    ensure!(taken?["epoch"] == 2, "one of them has it");
    let told = reply(caller).with_context(|| {
        let logs = nodes.iter().map(|node| format!("--- a node says:\n{}", node.log()));
        logs.collect::<String>()
    })?;
    ensure!(answer(&told)? == scene.stage.expected, "a wrong answer");
    // Whoever has it may be the one that it was offered to.
    let _ = reply(order);
    scene.stage.cluster.know_each_other()?;
    scene.made_each(1)?;
    let steps = |node| scene.stage.steps(node).unwrap_or_default().len();
    let (one, other) = (steps(TARGET), steps(THIRD));
    ensure!((one > 0) != (other > 0), "{one} steps on one, {other} on the other");
    for node in [SOURCE, TARGET, THIRD] {
        scene.nothing_is_left(node)?;
    }
    Ok(())
}
