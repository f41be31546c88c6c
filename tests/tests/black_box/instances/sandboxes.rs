//! Sandboxes on instances: what they may use, and what becomes of it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_foundation::clock::{Clock, Monotonic};
use bowline_tests::{Artifact, patience, skip};
use serde_json::{Value, json};

use super::{Fleet, PATIENCE, file, node, processes_of};

/// A function that ends when it is told, or never.
const SLEEPER: &[u8] = b"import time
def handler(event, context):
    time.sleep(event['seconds'])
    return 'slept'
";

/// A function that has some memory, and keeps one processor or two busy with two processes, until its time is over.
const SPINNER: &[u8] = b"import os, time
def handler(event, context):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:event.get('processors', 2)])
    held = b'x' * (event['mib'] << 20)
    end = time.monotonic() + event['seconds']
    child = os.fork()
    while time.monotonic() < end: pass
    if child == 0: os._exit(0)
    os.waitpid(child, 0)
    return len(held)
";

/// The text of a file of a process's control group for a controller, by either version's name of it.
fn file_of(process: u32, controller: &str, names: [&str; 2]) -> Result<String> {
    let groups = fs::read_to_string(format!("/proc/{process}/cgroup"))?;
    let of = |line: &str, wanted: &str| {
        line.split(':')
            .nth(1)
            .is_some_and(|names| names.split(',').any(|name| name == wanted))
    };
    let path = |line: &str| {
        line.splitn(3, ':')
            .nth(2)
            .unwrap_or_default()
            .trim_start_matches('/')
            .to_owned()
    };
    let mut candidates: Vec<PathBuf> = Vec::new();
    for line in groups.lines() {
        let root = PathBuf::from("/sys/fs/cgroup");
        if of(line, controller) {
            candidates.push(root.join(controller).join(path(line)).join(names[0]));
        } else if line.starts_with("0::") {
            // Beside version 1 it has a place of its own, and no controllers.
            candidates.push(root.join(path(line)).join(names[1]));
            candidates.push(root.join("unified").join(path(line)).join(names[1]));
        }
    }
    let text = candidates.iter().find_map(|file| fs::read_to_string(file).ok());
    text.with_context(|| format!("nothing in {candidates:?}"))
}

/// The numbers in such a file.
fn limit(process: u32, controller: &str, names: [&str; 2]) -> Result<Vec<u64>> {
    let text = file_of(process, controller, names)?;
    Ok(text.split_whitespace().filter_map(|word| word.parse().ok()).collect())
}

/// The number behind a label at the start of a line.
fn labelled(text: &str, label: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(label)?.trim().parse().ok())
}

fn memory_max(process: u32) -> Result<u64> {
    let found = limit(process, "memory", ["memory.limit_in_bytes", "memory.max"])?;
    found.first().copied().context("memory without a limit")
}

fn cpu_max(process: u32) -> Result<u64> {
    let found = limit(process, "cpu", ["cpu.cfs_quota_us", "cpu.max"])?;
    found.first().copied().context("processors without a limit")
}

/// The processes of sandboxes on an instance: those whose memory has a limit below the instance's.
fn guests(shown: &Value) -> Result<Vec<u32>> {
    let agent = super::agent_pid(shown)?;
    let own = memory_max(agent)?;
    let processes = processes_of(shown["server"].as_str().context("no server")?);
    Ok(processes
        .into_iter()
        .filter(|process| memory_max(*process).is_ok_and(|limit| limit < own))
        .collect())
}

/// 02/T-B1, 02/T-B9: only memory is said. The sandbox's control group has that limit of memory, and one of processor time;
/// the instance that was picked offers at least both. What it has allocated rises by the request, and falls again.
#[test]
fn b_t1_b_t9_a_sandbox_has_its_limits_and_its_instance_accounts_for_it() -> Result<()> {
    const MIB: u64 = 1024 * 1024;
    let node = node()?;
    let fleet = Fleet::of(&node);
    fleet.make("tiny", &file("tiny", 200, ""))?;
    fleet.make("shop", &file("shop", 1024, "cpu_millis = 1500\n"))?;
    let shown = fleet.running("shop")?;
    fleet.running("tiny")?;
    let allocated = |name: &str| -> Result<Value> { Ok(fleet.show(name)?["held_mib"].clone()) };
    ensure!(
        allocated("shop")? == 0 && guests(&shown)?.is_empty(),
        "the control: nothing runs there"
    );
    let artifact = Artifact::python_source(SLEEPER)?;
    for (name, memory) in [("f", 256), ("g", 384)] {
        fleet.lambda.deploy(name, &artifact, json!({ "MemorySize": memory }))?;
    }
    fleet.lambda.invoke("f", &json!({"seconds": 0}))?.expect(200)?;
    ensure!(
        allocated("shop")? == 256 && allocated("tiny")? == 0,
        "one that offers as much was picked"
    );
    let first = guests(&shown)?;
    ensure!(
        !first.is_empty(),
        "the sandbox's processes are in the instance's groups"
    );
    let agent = super::agent_pid(&shown)?;
    for guest in &first {
        ensure!(memory_max(*guest)? == 268_435_456, "{}", memory_max(*guest)?);
        ensure!(memory_max(*guest)? <= memory_max(agent)? && memory_max(agent)? == 1024 * MIB);
        ensure!(
            cpu_max(*guest)? > 0 && cpu_max(*guest)? <= cpu_max(agent)?,
            "processors: {}",
            cpu_max(*guest)?
        );
    }
    fleet.lambda.invoke("g", &json!({"seconds": 0}))?.expect(200)?;
    ensure!(allocated("shop")? == 640);
    ensure!(
        guests(&shown)?
            .iter()
            .any(|guest| memory_max(*guest).ok() == Some(384 * MIB)),
        "the other's own"
    );
    fleet.lambda.delete("/2015-03-31/functions/f")?.expect(200)?;
    let fell = patience::until(PATIENCE, || (allocated("shop").ok()? == 384).then_some(()));
    fell.with_context(|| format!("what was allocated does not fall: {:?}", allocated("shop")))?;
    ensure!(
        guests(&shown)?.iter().all(|guest| !first.contains(guest)),
        "its processes are gone"
    );
    let request = fleet
        .lambda
        .get("/2015-03-31/functions/g/configuration")?
        .expect(200)?
        .json();
    ensure!(request["MemorySize"] == 384, "{request}");
    let said = request.to_string().to_lowercase();
    ensure!(
        !said.contains("cpu"),
        "the request has no figure for processors: {said}"
    );
    Ok(())
}

/// What a process's control group competes by, where 1024, or 100 by version 2, is one processor.
fn cpu_share(process: u32) -> Result<u64> {
    let found = limit(process, "cpu", ["cpu.shares", "cpu.weight"])?;
    found.first().copied().context("processors without a share")
}

/// 02/T-B4 on an instance: the share of its processors is that of its memory, and not what the memory would stand for elsewhere:
/// exactly so as a quota from one processor on, and as a weight beside the others below that. The same amounts on an instance
/// with the same memory and half as many processors are the control.
#[test]
fn b_t4_a_sandbox_has_the_same_share_of_processors_as_of_memory() -> Result<()> {
    if std::thread::available_parallelism()?.get() < 2 {
        skip("an instance of two processors needs a machine that has them");
        return Ok(());
    }
    let node = node()?;
    let fleet = Fleet::of(&node);
    let artifact = Artifact::python_source(SLEEPER)?;
    let amounts = [768_u64, 600, 512, 256];
    for cpu_millis in [2000_u64, 1000] {
        let name = format!("of-{cpu_millis}");
        fleet.make(&name, &file(&name, 2048, &format!("cpu_millis = {cpu_millis}\n")))?;
        let shown = fleet.running(&name)?;
        let mut seen = Vec::new();
        for memory in amounts.map(|amount| 2 * amount) {
            let function = format!("f-{cpu_millis}-{memory}");
            fleet
                .lambda
                .deploy(&function, &artifact, json!({ "MemorySize": memory }))?;
            fleet.lambda.invoke(&function, &json!({"seconds": 0}))?.expect(200)?;
            let guest = guest_with(&shown, memory)?;
            seen.push((cpu_max(guest)?, cpu_share(guest)?));
            fleet.forget(&function, &name)?;
        }
        let quotas: Vec<u64> = seen.iter().map(|(quota, _)| *quota).collect();
        let derived = amounts.map(|amount| amount * cpu_millis / 1024);
        let wanted: Vec<u64> = derived.iter().map(|millis| 100 * (*millis).max(1000)).collect();
        ensure!(quotas == wanted, "of {cpu_millis}: {quotas:?}, and not {wanted:?}");
        let is_heavier = |pair: &[(u64, u64)]| pair[0].1 > pair[1].1;
        ensure!(
            seen.windows(2).all(is_heavier),
            "each has less than the one before: {seen:?}"
        );
        // A quarter of the processors against three.
        let (most, least) = (seen[0].1, seen[3].1);
        ensure!(
            (least * 3).abs_diff(most) <= 6,
            "{most} and {least} are not as three to one"
        );
        fleet.lambda.delete(&format!("/v1/instances/{name}"))?.expect(204)?;
    }
    Ok(())
}

/// The first process of the sandbox on an instance that has this much memory.
fn guest_with(shown: &Value, mib: u64) -> Result<u32> {
    let own = guests(shown)?
        .into_iter()
        .filter(|guest| memory_max(*guest).ok() == Some(mib * 1024 * 1024));
    own.min().with_context(|| format!("no sandbox of {mib} MiB is there"))
}

impl Fleet {
    /// Deletes the only function with a sandbox on an instance.
    fn forget(&self, function: &str, instance: &str) -> Result<()> {
        self.lambda
            .delete(&format!("/2015-03-31/functions/{function}"))?
            .expect(200)?;
        let is_empty = || (self.show(instance).ok()?["held_mib"] == 0).then_some(());
        patience::until(PATIENCE, is_empty).context("a deleted function keeps its room")
    }
}

/// What a sandbox has had of the processors, and how often it had to wait because its quota was used up.
#[derive(Clone, Copy)]
struct Turn {
    at: Monotonic,
    micros: u64,
    throttled: u64,
}

impl Turn {
    fn of(clock: &Clock, guest: u32) -> Result<Self> {
        let quotas = file_of(guest, "cpu", ["cpu.stat", "cpu.stat"])?;
        let used = file_of(guest, "none", ["", "cpu.stat"])?;
        Ok(Self {
            at: clock.monotonic(),
            micros: labelled(&used, "usage_usec ").context("no processor time")?,
            throttled: labelled(&quotas, "nr_throttled ").context("no quota")?,
        })
    }
}

/// What sandboxes have in the same few seconds in which they all spin on so many processors: of these, and periods in which all of the quota was used up.
fn spun(fleet: &Fleet, shown: &Value, (functions, processors): (&[(&str, u64)], u32)) -> Result<Vec<(f64, f64)>> {
    const SECONDS: u64 = 3;
    let (clock, event) = (
        Clock::system(),
        json!({ "mib": 1, "seconds": SECONDS + 3, "processors": processors }),
    );
    std::thread::scope(|scope| {
        let event = &event;
        let runs: Vec<_> = functions
            .iter()
            .map(|(name, _)| scope.spawn(move || fleet.lambda.invoke(name, event)?.expect(200)))
            .collect();
        let look = || -> Result<Vec<Turn>> {
            let guests = functions.iter().map(|(_, mib)| guest_with(shown, *mib));
            guests.map(|guest| Turn::of(&clock, guest?)).collect()
        };
        let spin = |begun: &[Turn]| {
            let now = look().ok()?;
            let mut both = begun.iter().zip(&now);
            both.all(|(begun, now)| now.micros > begun.micros + 200_000)
                .then_some(now)
        };
        let begun = patience::until(PATIENCE, || look().ok()).context("they do not begin")?;
        let from = patience::until(PATIENCE, || spin(&begun)).context("they do not spin")?;
        patience::rest(Duration::from_secs(SECONDS));
        let to = look()?;
        for run in runs {
            run.join().expect("it does not panic")?;
        }
        let seconds = |from: &Turn, to: &Turn| to.at.since(from.at).as_secs_f64();
        let share = |(from, to): (&Turn, &Turn)| {
            let (used, periods) = (to.micros - from.micros, to.throttled - from.throttled);
            let used = Duration::from_micros(used).as_secs_f64();
            let spent = Duration::from_millis(100 * periods).as_secs_f64();
            (used / seconds(from, to), spent / seconds(from, to))
        };
        Ok(from.iter().zip(&to).map(share).collect())
    })
}

/// 02/T-B4: a function that spins has its share of the instance's processors, within a twentieth: exactly so where that is a quota,
/// as long as the machine has so much; two that compete for a processor where it is a weight. In a period in which it is stopped it has had its quota.
#[test]
fn b_t4_a_function_that_spins_has_its_share_of_processor_time() -> Result<()> {
    if std::thread::available_parallelism()?.get() < 2 {
        skip("an instance of two processors needs a machine that has them");
        return Ok(());
    }
    let node = node()?;
    let fleet = Fleet::of(&node);
    fleet.make("shop", &file("shop", 2048, "cpu_millis = 2000\n"))?;
    let shown = fleet.running("shop")?;
    let artifact = Artifact::python_source(SPINNER)?;
    let deploy = |name: &str, mib: u64| {
        fleet
            .lambda
            .deploy(name, &artifact, json!({"MemorySize": mib, "Timeout": 60}))
    };
    for (mib, share) in [(1024, 1.0), (1280, 1.25), (1536, 1.5), (1792, 1.75)] {
        deploy("f", mib)?;
        fleet
            .lambda
            .invoke("f", &json!({"mib": 1, "seconds": 0}))?
            .expect(200)?;
        let [(processors, stopped)] = spun(&fleet, &shown, (&[("f", mib)], 2))?[..] else {
            anyhow::bail!("one was asked for");
        };
        ensure!(processors <= share * 1.05, "{processors} processors, and not {share}");
        ensure!(
            processors >= share * 0.95 * stopped,
            "{processors} processors, and not {share}, though it was stopped in {stopped} of the time"
        );
        fleet.forget("f", "shop")?;
    }
    let both = [("three", 768), ("one", 256)];
    for (name, mib) in both {
        deploy(name, mib)?;
        fleet
            .lambda
            .invoke(name, &json!({"mib": 1, "seconds": 0}))?
            .expect(200)?;
    }
    let [(three, _), (one, _)] = spun(&fleet, &shown, (&both, 1))?[..] else {
        anyhow::bail!("two were asked for");
    };
    let share = three / (three + one);
    ensure!(
        (share - 0.75).abs() <= 0.05,
        "{three} and {one} processors are not as three to one"
    );
    Ok(())
}

/// 04/T-D10: what the node says that an instance uses is what its control groups say.
#[test]
fn d_t10_what_an_instance_uses_is_what_its_control_groups_say() -> Result<()> {
    const MIB: u64 = 1024 * 1024;
    let node = node()?;
    let fleet = Fleet::of(&node);
    fleet.make("shop", &file("shop", 1024, "cpu_millis = 500\n"))?;
    let shown = fleet.running("shop")?;
    let groups = super::groups_of(&fleet.data, shown["server"].as_str().context("no server")?);
    let number = |file: &str, label: &str| {
        let mut texts = groups
            .iter()
            .filter_map(|group| fs::read_to_string(group.join(file)).ok());
        texts.find_map(|text| labelled(&text, label))
    };
    let memory = || number("memory.usage_in_bytes", "").or_else(|| number("memory.current", ""));
    let spare = || number("memory.stat", "total_inactive_file ").or_else(|| number("memory.stat", "inactive_file "));
    let cpu_ms = || Some(number("cpu.stat", "usage_usec ")? / 1000);
    let used = |member: &str| -> Result<u64> { fleet.show("shop")?[member].as_u64().context("it is not metered") };
    ensure!(used("used_bytes")? < 200 * MIB, "the control: nothing runs there");
    let artifact = Artifact::python_source(SPINNER)?;
    fleet
        .lambda
        .deploy("f", &artifact, json!({"MemorySize": 512, "Timeout": 60}))?;
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            fleet
                .lambda
                .invoke("f", &json!({"mib": 300, "seconds": 6}))?
                .expect(200)
        });
        let has_it = || (used("used_bytes").ok()? > 300 * MIB).then_some(());
        patience::until(PATIENCE, has_it).context("the function's memory is not seen")?;
        let clock = Clock::system();
        let mut figures = Vec::new();
        for seconds in [0, 2] {
            patience::rest(Duration::from_secs(seconds));
            let before = cpu_ms().context("no processor time")?;
            let said = used("used_cpu_ms")?;
            let after = cpu_ms().context("no processor time")?;
            ensure!(
                (before..=after).contains(&said),
                "{said} ms, and not {before} to {after}"
            );
            figures.push((clock.monotonic(), said));
            let own = memory().context("no memory")? - spare().context("no cache")?;
            let said = used("used_bytes")?;
            ensure!(own.abs_diff(said) <= 1024 * MIB / 50, "{said} bytes, and not {own}");
        }
        let (from, to) = (figures[0], figures[1]);
        let processors = Duration::from_millis(to.1 - from.1).as_secs_f64() / to.0.since(from.0).as_secs_f64();
        ensure!(
            (0.05..0.55).contains(&processors),
            "it spins within its quota: {processors}"
        );
        run.join().expect("it does not panic").map(drop)
    })
}

/// 05/T-E10: what takes too long is ended at its time, its caller told so, and its capacity given back.
fn ends_at_its_time(fleet: &Fleet, allocated: &dyn Fn() -> Option<u64>) -> Result<()> {
    let artifact = Artifact::python_source(SLEEPER)?;
    fleet
        .lambda
        .deploy("f", &artifact, json!({"MemorySize": 256, "Timeout": 2}))?;
    let well = fleet.lambda.invoke("f", &json!({"seconds": 1}))?.expect(200)?;
    ensure!(
        well.json() == "slept",
        "the control: within its time it ends by itself: {}",
        well.json()
    );
    let before = allocated();
    ensure!(before == Some(256), "{before:?}");
    let clock = Clock::system();
    let begin = clock.monotonic();
    let reply = fleet.lambda.invoke("f", &json!({"seconds": 10}))?.expect(200)?;
    let took = clock.monotonic().since(begin).as_secs_f64();
    ensure!(
        (1.7..2.3).contains(&took),
        "it was ended after {took} s: {}",
        reply.json()
    );
    ensure!(!reply.header("x-amz-function-error").is_empty(), "{}", reply.json());
    let told = reply.json().to_string();
    ensure!(told.contains("timed out after 2.00 seconds"), "{told}");
    let back = patience::until(PATIENCE, || (allocated()? == 0).then_some(()));
    back.with_context(|| format!("its capacity does not come back: {:?}", allocated()))
}

#[test]
fn e_t10_a_run_on_an_instance_is_ended_at_its_time_and_its_capacity_returns() -> Result<()> {
    let node = node()?;
    let fleet = Fleet::of(&node);
    fleet.make("shop", &file("shop", 512, ""))?;
    let shown = fleet.running("shop")?;
    ends_at_its_time(&fleet, &|| fleet.show("shop").ok()?["held_mib"].as_u64())?;
    ensure!(guests(&shown)?.is_empty(), "nothing of it runs on");
    Ok(())
}

#[test]
fn e_t10_a_run_in_the_node_is_ended_at_its_time_and_its_capacity_returns() -> Result<()> {
    let node = node()?;
    let fleet = Fleet::of(&node);
    let claimed = || {
        let metrics = fleet.lambda.get("/metrics").ok()?;
        let text = String::from_utf8(metrics.body).ok()?;
        let line = text
            .lines()
            .find(|line| line.starts_with("bowline_memory_claimed_bytes"))?;
        let bytes: f64 = line.rsplit(' ').next()?.parse().ok()?;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count of mebibytes"
        )]
        Some((bytes / 1024.0 / 1024.0) as u64)
    };
    ends_at_its_time(&fleet, &claimed)
}

/// Lines of the node's metrics that begin so.
fn metrics(fleet: &Fleet, begin: &str) -> Result<Vec<String>> {
    let text = String::from_utf8(fleet.lambda.get("/metrics")?.expect(200)?.body)?;
    Ok(text
        .lines()
        .filter(|line| line.starts_with(begin))
        .map(str::to_owned)
        .collect())
}

/// What the agent of an instance had ready is counted by the node, beside what it has ready itself.
#[test]
fn the_node_counts_the_cells_that_waited_in_an_instance() -> Result<()> {
    let counted = |environment: &[(&str, &str)]| -> Result<[Vec<String>; 2]> {
        let node = super::node_with(environment)?;
        let fleet = Fleet::of(&node);
        fleet.make("shop", &file("shop", 1024, ""))?;
        fleet.running("shop")?;
        let artifact = Artifact::python_source(SLEEPER)?;
        for name in ["f", "g"] {
            fleet.lambda.deploy(name, &artifact, json!({"MemorySize": 128}))?;
        }
        ensure!(
            metrics(&fleet, "bowline_prewarmed_")?.is_empty(),
            "nobody has wanted one"
        );
        fleet.lambda.invoke("f", &json!({"seconds": 0}))?.expect(200)?;
        fleet.lambda.invoke("g", &json!({"seconds": 0}))?.expect(200)?;
        ensure!(fleet.show("shop")?["sandboxes"] == 2, "they run on the instance");
        let both = |lines: &[String]| {
            let counts = lines
                .iter()
                .filter_map(|line| line.rsplit(' ').next()?.parse::<u32>().ok());
            counts.sum::<u32>() == 2
        };
        let told = || metrics(&fleet, "bowline_prewarmed_").ok().filter(|lines| both(lines));
        patience::until(PATIENCE, told).context("two sandboxes were made, and the node counts others")?;
        Ok([
            metrics(&fleet, "bowline_prewarmed_hits_total")?,
            metrics(&fleet, "bowline_prewarmed_misses_total")?,
        ])
    };
    let [hits, _] = counted(&[])?;
    ensure!(
        hits.iter().any(|line| line.contains("runtime=\"python3.")),
        "no cell waited: {hits:?}"
    );
    let [hits, misses] = counted(&[("BOWLINE_PREWARMED", "0")])?;
    ensure!(
        hits.is_empty() && misses.len() == 1,
        "the control: none is kept: {hits:?} {misses:?}"
    );
    Ok(())
}
