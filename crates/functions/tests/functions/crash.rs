//! A process that is killed at any moment leaves the old or the new, with code and record together.
//!
//! The test starts itself anew as a child that works through a fixed script and says after each step that
//! it is done. The child kills itself at a named point, or the parent kills it at some moment. Then the
//! parent opens what is left: it must look as the model does after the steps that were done, or after one
//! more.

mod script;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use bowline_foundation::entropy::Entropy;
use bowline_functions::{CrashPoints, Service};
use bowline_sandbox::SandboxKind;
use rustix::process::{Signal, getpid, kill_process};
use tempfile::TempDir;

use crate::fake::{Fake, FakeBackend};
use crate::world::{World, WorldSettings, open, options};
use script::{Model, SCRIPT};

const FOLDER: &str = "BOWLINE_CRASH_FOLDER";
/// `NAME:COUNT`: the child kills itself when it reaches the point for that time.
const POINT: &str = "BOWLINE_CRASH_POINT";

/// Not a test of its own: the child of the tests below, which ends at once if nobody asked for it.
#[test]
fn child() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let point = std::env::var(POINT).unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(work(Path::new(&folder), hook(&point)));
}

fn hook(point: &str) -> CrashPoints {
    let Some((name, count)) = point.split_once(':') else {
        return CrashPoints::default();
    };
    let (name, left) = (name.to_owned(), AtomicUsize::new(count.parse().unwrap()));
    CrashPoints::with(move |reached| {
        if reached == name && left.fetch_sub(1, Ordering::SeqCst) == 1 {
            kill_process(getpid(), Signal::KILL).unwrap();
        }
    })
}

async fn work(folder: &Path, crash: CrashPoints) {
    let (store, blobs) = open(folder);
    let mut options = options(store, blobs, folder, WorldSettings::default());
    options.backends = vec![Arc::new(FakeBackend(Fake::new(SandboxKind::Linux)))];
    let service = Service::start_with(options, crash).await.unwrap();
    for (number, step) in SCRIPT.iter().enumerate() {
        step.perform(&service.handle()).await;
        let mut out = std::io::stdout().lock();
        writeln!(out, "done {number}").unwrap();
        out.flush().unwrap();
    }
    service.shut_down().await;
}

fn start_child(folder: &Path, point: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "crash::child", "--nocapture", "--test-threads=1"]);
    command.env(FOLDER, folder).env(POINT, point).env_remove("NEXTEST");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// Reads how many steps the child has done; `each` sees every number.
fn follow(child: &mut Child, mut each: impl FnMut(&mut Child, usize)) -> usize {
    let out = BufReader::new(child.stdout.take().unwrap());
    let mut done = 0;
    for line in out.lines() {
        // The test harness writes to the same pipe, in front of the first step's line.
        let Ok(line) = line else { break };
        let Some((_, number)) = line.split_once("done ") else {
            continue;
        };
        done = number.parse::<usize>().unwrap() + 1;
        each(child, done);
    }
    child.wait().unwrap();
    done
}

/// Opens what a child left and compares it with the model.
async fn check(folder: TempDir, done: usize, context: &str) {
    let (store, blobs) = open(folder.path());
    let folder = Arc::new(folder);
    let world = World::over(store, blobs, folder, WorldSettings::default()).await;
    let (found, old) = (Model::of(&world).await, Model::after(done));
    let new = Model::after((done + 1).min(SCRIPT.len()));
    assert!(
        found == old || found == new,
        "{context}, {done} done: {found:#?} is neither {old:#?} nor {new:#?}"
    );
    found.check_code(&world).await;
    check_no_orphans(&world).await;
    // What was pending has been finished, and everything goes on working.
    for step in &SCRIPT[if found == new {
        (done + 1).min(SCRIPT.len())
    } else {
        done
    }..]
    {
        step.perform(&world.handle).await;
    }
    assert_eq!(Model::of(&world).await, Model::after(SCRIPT.len()), "{context}");
}

/// Every stored or unpacked package is one that a function names.
async fn check_no_orphans(world: &World) {
    let used = script::digests(world);
    let stored: BTreeSet<_> = world.blobs.list().await.unwrap().into_iter().collect();
    assert_eq!(stored, used);
    for entry in std::fs::read_dir(world.path().join("code")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let known = name == ".boot" || used.iter().any(|digest| digest.to_string() == name);
        assert!(known, "{name} was left");
    }
}

#[tokio::test]
async fn the_script_runs_to_its_end_when_nobody_kills_it() {
    let folder = tempfile::tempdir().unwrap();
    let done = follow(&mut start_child(folder.path(), ""), |_, _| {});
    assert_eq!(done, SCRIPT.len());
    check(folder, done, "not killed").await;
}

#[tokio::test]
async fn a_kill_at_any_named_point_leaves_old_or_new() {
    for name in CrashPoints::NAMES {
        let mut killed = 0;
        for count in 1..=2 {
            let folder = tempfile::tempdir().unwrap();
            let done = follow(&mut start_child(folder.path(), &format!("{name}:{count}")), |_, _| {});
            killed += usize::from(done < SCRIPT.len());
            check(folder, done, &format!("{name}:{count}")).await;
        }
        assert!(killed > 0, "the script never reaches `{name}`");
    }
}

#[tokio::test]
async fn a_kill_at_any_moment_leaves_old_or_new() {
    let seed = Entropy::system().number();
    let entropy = Entropy::seeded(seed);
    for round in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let at = 1 + (entropy.number() as usize) % (SCRIPT.len() - 1);
        let delay = Duration::from_micros(entropy.number() % 6_000);
        let (_never, timer) = mpsc::channel::<()>();
        let done = follow(&mut start_child(folder.path(), ""), |child, done| {
            if done == at {
                // Somewhere within the next steps.
                let _ = timer.recv_timeout(delay);
                child.kill().unwrap();
            }
        });
        check(
            folder,
            done,
            &format!("seed {seed}, round {round}, {delay:?} after step {at}"),
        )
        .await;
    }
}
