//! What a node has on its machine beside itself: processes, control groups, mounts, networks, descriptors, files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use bowline_tests::Node;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Argument by which the process that makes sandboxes is known.
const SPAWNER: &str = "__spawner";
/// Descriptors that may be opened once and kept: of the store's readers, say.
const DESCRIPTORS_SPARE: usize = 16;

/// A process and the one that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pub id: i32,
    pub parent: i32,
}

/// What there is at one moment.
#[derive(Clone, Debug, Default)]
pub struct Traces {
    pub processes: usize,
    networks: usize,
    cgroups: usize,
    mounts: usize,
    descriptors: usize,
    files: BTreeSet<PathBuf>,
}

impl Traces {
    /// What a running node has.
    pub fn of(node: &Node) -> Result<Self> {
        let node_id = id_of(node)?;
        let spawner = spawner(node_id)?;
        let descendants = descendants(node_id)?;
        let networks: BTreeSet<PathBuf> = descendants
            .iter()
            .filter_map(|process| fs::read_link(format!("/proc/{}/ns/net", process.id)).ok())
            .collect();
        let open = |id: i32| Ok::<_, anyhow::Error>(fs::read_dir(format!("/proc/{id}/fd"))?.count());
        Ok(Self {
            processes: descendants.len(),
            networks: networks.len(),
            cgroups: cgroups_of(spawner).len(),
            mounts: fs::read_to_string(format!("/proc/{spawner}/mountinfo"))?
                .lines()
                .count(),
            descriptors: open(node_id)? + open(spawner)?,
            files: files_of(&node.data())?,
        })
    }

    /// What is here and was not `before`, in words; nothing if that is nothing.
    pub fn beyond(&self, before: &Self) -> Option<String> {
        let counts = [
            ("processes", self.processes, before.processes),
            ("networks", self.networks, before.networks),
            ("control groups", self.cgroups, before.cgroups),
            ("mounts", self.mounts, before.mounts),
            ("descriptors", self.descriptors, before.descriptors + DESCRIPTORS_SPARE),
        ];
        let mut more: Vec<String> = counts
            .iter()
            .filter(|(_, now, then)| now > then)
            .map(|(what, now, then)| format!("{now} {what} instead of {then}"))
            .collect();
        more.extend(
            self.files
                .difference(&before.files)
                .map(|path| path.display().to_string()),
        );
        (!more.is_empty()).then(|| more.join(", "))
    }
}

/// Fails if anything is left of a node that has ended; `spawner` made its sandboxes.
pub fn check_nothing_is_left(data: &Path, spawner: i32) -> Result<()> {
    ensure!(!Path::new(&format!("/proc/{spawner}")).exists(), "the spawner runs on");
    let groups = cgroups_of(spawner);
    ensure!(groups.is_empty(), "control groups are left: {groups:?}");
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let place = data.to_str().context("a path of text")?;
    ensure!(!mounts.contains(place), "mounts are left in `{place}`:\n{mounts}");
    Ok(())
}

/// The process that makes a node's sandboxes.
pub fn spawner_of(node: &Node) -> Result<i32> {
    spawner(id_of(node)?)
}

/// The processes of all sandboxes of a node.
pub fn sandbox_processes(node: &Node) -> Result<Vec<Process>> {
    descendants(spawner_of(node)?)
}

/// Kills a process, if it is still the one that was seen.
pub fn kill(process: Process) -> bool {
    let Some(id) = Pid::from_raw(process.id) else {
        return false;
    };
    let Ok(handle) = pidfd_open(id, PidfdFlags::empty()) else {
        return false;
    };
    // A number is given anew once its process is gone; the handle is not.
    let is_same = read_process(process.id) == Some(process);
    is_same && pidfd_send_signal(&handle, Signal::KILL).is_ok()
}

fn id_of(node: &Node) -> Result<i32> {
    i32::try_from(node.pid()).context("a process's number")
}

fn spawner(node: i32) -> Result<i32> {
    let is_spawner = |process: &Process| {
        fs::read(format!("/proc/{}/cmdline", process.id))
            .is_ok_and(|line| line.split(|byte| *byte == 0).any(|word| word == SPAWNER.as_bytes()))
    };
    let mut children = processes()?.into_iter().filter(|process| process.parent == node);
    let found = children.find(is_spawner).context("the node has no spawner")?;
    Ok(found.id)
}

/// All that live below a process.
fn descendants(ancestor: i32) -> Result<Vec<Process>> {
    let mut children: BTreeMap<i32, Vec<Process>> = BTreeMap::new();
    for process in processes()? {
        children.entry(process.parent).or_default().push(process);
    }
    let (mut found, mut open) = (Vec::new(), vec![ancestor]);
    while let Some(parent) = open.pop() {
        let below = children.remove(&parent).unwrap_or_default();
        open.extend(below.iter().map(|process| process.id));
        found.extend(below);
    }
    Ok(found)
}

fn processes() -> Result<Vec<Process>> {
    let entries = fs::read_dir("/proc")?.filter_map(Result::ok);
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(ids.filter_map(read_process).collect())
}

/// A process that has not ended.
pub fn read_process(id: i32) -> Option<Process> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The program's name stands in parentheses and may hold anything.
    let mut rest = text.rsplit_once(')')?.1.split_whitespace();
    let state = rest.next()?;
    let parent = rest.next()?.parse().ok()?;
    (state != "Z" && state != "X").then_some(Process { id, parent })
}

/// The control groups that a spawner has made; they carry its number in their names.
fn cgroups_of(spawner: i32) -> Vec<PathBuf> {
    let mark = format!("-{spawner}-cell-");
    let (mut found, mut open) = (Vec::new(), vec![PathBuf::from("/sys/fs/cgroup")]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().filter_map(Result::ok) {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if entry.file_name().to_string_lossy().contains(&mark) {
                found.push(entry.path());
            } else {
                open.push(entry.path());
            }
        }
    }
    found
}

/// All files and folders of a data folder but for those of its databases.
fn files_of(data: &Path) -> Result<BTreeSet<PathBuf>> {
    let (mut found, mut open) = (BTreeSet::new(), vec![data.to_owned()]);
    while let Some(folder) = open.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.filter_map(Result::ok) {
            let (path, name) = (entry.path(), entry.file_name());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(path.clone());
            }
            if !name.to_string_lossy().contains(".db") {
                found.insert(path);
            }
        }
    }
    Ok(found)
}
