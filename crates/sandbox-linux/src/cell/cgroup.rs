//! The limits, meters and brakes of a cell that control groups give.
//!
//! Three layouts exist: version 1 (a hierarchy for each controller), version 2 (one for all), and the
//! hybrid of both, where version 2 is mounted without the controllers but still freezes, kills and
//! counts processor time. What is usable is found by trying. Each capability is taken from wherever it
//! is; what is nowhere is missing: with no writable cgroup at all a cell has resource limits on each
//! process instead of a limit on the whole, is stopped by signals, and its use is not metered.
//!
//! The groups lie beside the node's own, not under one of theirs, so that each competes for the
//! processors by its own share. Their names carry the spawner's state folder, so that what a crashed one
//! left is recognised.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::meter::Meter;
pub use super::wire::{Failure, Limits};
use super::wire::{Gauge, Step};

/// The groups made ahead of need.
const STOCK: usize = 8;
/// How often, and at what intervals, a group is tried whose processes were killed.
const LEAVING_TICKS: usize = 200;
const LEAVING_TICK: Duration = Duration::from_millis(10);
/// Where a node steps aside to, so that groups can lie beside it.
pub(super) const LEAF: &str = "bowline-node";
/// The period of processor quotas, in microseconds.
pub(super) const CPU_PERIOD_US: u64 = 100_000;

/// One hierarchy in which the spawner makes groups.
#[derive(Debug)]
struct Hierarchy {
    parent: PathBuf,
    /// What the names of this spawner's groups begin with.
    prefix: String,
    version: Version,
    /// Which controllers it limits with.
    memory: bool,
    cpu: bool,
    pids: bool,
    cpuacct: bool,
    freezer: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// The hierarchies that this spawner can use.
#[derive(Debug)]
pub struct Cgroups {
    hierarchies: Vec<Hierarchy>,
    stock: VecDeque<Group>,
    next: u64,
}

/// The groups of one cell.
#[derive(Debug)]
pub struct Group {
    /// One folder for each hierarchy, in their order.
    folders: Vec<PathBuf>,
    /// The version 2 folder, for `clone3`.
    unified: Option<OwnedFd>,
    /// `tasks` of the version 1 folders.
    memberships: Vec<OwnedFd>,
    gauges: Vec<(Gauge, OwnedFd)>,
}

impl Cgroups {
    /// Finds what is usable. `mark` names this spawner's groups; what is left of an earlier one with the
    /// same mark is removed. `residents` are the processes that may be moved aside, from a group whose
    /// controllers are to be offered to groups in it.
    pub fn probe(mark: &str, residents: &[u32]) -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let memberships = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let own = own_groups(&memberships);
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for (mount, controllers) in cgroup_mounts(&mounts) {
            hierarchies.extend(Hierarchy::claim(
                &mount,
                controllers.as_deref(),
                &own,
                (mark, residents),
            ));
        }
        // Version 2 freezes and counts in any layout.
        if hierarchies.iter().any(|hierarchy| hierarchy.version == Version::V2) {
            hierarchies.retain(|hierarchy| {
                hierarchy.version == Version::V2 || hierarchy.memory || hierarchy.cpu || hierarchy.pids
            });
        }
        Self {
            hierarchies,
            stock: VecDeque::new(),
            next: 0,
        }
    }

    /// Whether a limit of memory can be set for a whole cell.
    pub fn limits_memory(&self) -> bool {
        self.hierarchies.iter().any(|hierarchy| hierarchy.memory)
    }

    /// Makes a group ahead of need; says whether there is more to make.
    pub fn restock(&mut self) -> bool {
        if self.stock.len() < STOCK
            && let Ok(group) = self.make()
        {
            self.stock.push_back(group);
            return self.stock.len() < STOCK;
        }
        false
    }

    /// A group for a new cell.
    pub fn take(&mut self) -> Result<Group, Failure> {
        match self.stock.pop_front() {
            Some(group) => Ok(group),
            None => self.make().step("make cgroup"),
        }
    }

    fn make(&mut self) -> io::Result<Group> {
        self.next += 1;
        let mut group = Group {
            folders: Vec::new(),
            unified: None,
            memberships: Vec::new(),
            gauges: Vec::new(),
        };
        for hierarchy in &self.hierarchies {
            if let Err(error) = group.join(hierarchy, self.next) {
                let _ = group.remove();
                return Err(error);
            }
        }
        Ok(group)
    }

    /// Sets the limits of a group.
    pub fn limit(&self, group: &Group, limits: &Limits) -> Result<(), Failure> {
        for (hierarchy, folder) in self.hierarchies.iter().zip(&group.folders) {
            match hierarchy.version {
                Version::V1 => hierarchy.limit_v1(folder, limits),
                Version::V2 => hierarchy.limit_v2(folder, limits),
            }
            .step("set cgroup limits")?;
        }
        Ok(())
    }

    /// Removes all groups of this spawner; called when every cell is gone.
    pub fn remove(&mut self) {
        for group in self.stock.drain(..) {
            let _ = group.remove();
        }
        for hierarchy in &self.hierarchies {
            remove_leftovers(&hierarchy.parent, &hierarchy.prefix);
        }
    }
}

impl Group {
    fn join(&mut self, hierarchy: &Hierarchy, number: u64) -> io::Result<()> {
        let folder = hierarchy.parent.join(format!("{}cell-{number}", hierarchy.prefix));
        fs::create_dir(&folder)?;
        self.folders.push(folder.clone());
        match hierarchy.version {
            Version::V2 => {
                self.unified = Some(fs::File::open(&folder)?.into());
                if hierarchy.memory {
                    // Where the kernel can: the guest dies as a whole.
                    let _ = write(&folder, "memory.oom.group", "1");
                }
            }
            Version::V1 => {
                let tasks = fs::OpenOptions::new().write(true).open(folder.join("tasks"))?;
                self.memberships.push(tasks.into());
                if hierarchy.memory {
                    let _ = write(&folder, "memory.swappiness", "0");
                }
            }
        }
        for (gauge, file) in hierarchy.gauges() {
            if self.gauges.iter().any(|(known, _)| *known == gauge) {
                continue;
            }
            let writes = matches!(
                gauge,
                Gauge::Freeze | Gauge::FreezerState | Gauge::CpuShares | Gauge::CpuWeight
            );
            // A kernel may lack one; then its value is unknown.
            if let Ok(open) = fs::OpenOptions::new()
                .read(!writes)
                .write(writes)
                .open(folder.join(file))
            {
                self.gauges.push((gauge, open.into()));
            }
        }
        Ok(())
    }

    /// What tells how much it uses.
    pub fn meter(&self) -> Meter {
        Meter::new(self.folders.clone())
    }

    /// The version 2 folder to clone into.
    pub fn unified(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(AsFd::as_fd)
    }

    /// The files that the cell's init writes `0` to.
    pub fn memberships(&self) -> &[OwnedFd] {
        &self.memberships
    }

    /// Open files to which a process of any parent writes `0` to move itself into the group.
    pub fn entrances(&self) -> io::Result<Vec<OwnedFd>> {
        let mut entrances = Vec::new();
        if let Some(unified) = &self.unified {
            let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
            entrances.push(rustix::fs::openat(
                unified,
                "cgroup.procs",
                flags,
                rustix::fs::Mode::empty(),
            )?);
        }
        for membership in &self.memberships {
            entrances.push(membership.try_clone()?);
        }
        Ok(entrances)
    }

    /// The meters and brakes for the node.
    pub(super) fn gauges(&self) -> &[(Gauge, OwnedFd)] {
        &self.gauges
    }

    /// Closes what only the birth of the cell took and what the node now holds.
    pub fn settle(&mut self) {
        self.unified = None;
        self.memberships = Vec::new();
        self.gauges.retain(|(gauge, _)| *gauge == Gauge::FreezerState);
    }

    /// Lets a group run that was frozen in a version 1 freezer, where frozen processes do not die.
    pub fn thaw(&self) {
        for (gauge, file) in &self.gauges {
            if *gauge == Gauge::FreezerState {
                let _ = rustix::io::write(file, b"THAWED");
            }
        }
    }

    /// Removes the group's folders; fails while a process is in them. One that stays keeps no other.
    pub fn remove(&self) -> io::Result<()> {
        let mut result = Ok(());
        for folder in &self.folders {
            match fs::remove_dir(folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => result = result.and(Err(error)),
                _ => {}
            }
        }
        result
    }
}

impl Hierarchy {
    /// Tries whether groups can be made in the hierarchy at `mount`, and what they offer.
    fn claim(
        mount: &Path,
        controllers: Option<&[String]>,
        own: &HashMap<String, PathBuf>,
        (mark, residents): (&str, &[u32]),
    ) -> Option<Self> {
        let version = if controllers.is_some() {
            Version::V1
        } else {
            Version::V2
        };
        let key = controllers.map_or("", |list| list.first().map_or("", String::as_str));
        let nested = own
            .get(key)
            .map(|path| mount.join(path.strip_prefix("/").unwrap_or(path)));
        // In a container the hierarchy may be mounted so that our own path does not exist in it.
        let parent = nested
            .filter(|path| path.is_dir())
            .unwrap_or_else(|| mount.to_path_buf());
        remove_leftovers(&parent, mark);
        if version == Version::V2 {
            delegate(&parent, residents);
        }
        let prefix = format!("{mark}{}-", std::process::id());
        let offered = offered_to_groups(&parent.join(format!("{prefix}probe")), controllers)?;
        let offers = |name: &str| offered.iter().any(|item| item == name);
        let hierarchy = Self {
            parent,
            prefix,
            version,
            memory: offers("memory"),
            cpu: offers("cpu"),
            pids: offers("pids"),
            cpuacct: offers("cpuacct"),
            freezer: offers("freezer"),
        };
        let useful = [
            hierarchy.memory,
            hierarchy.cpu,
            hierarchy.pids,
            hierarchy.cpuacct,
            hierarchy.freezer,
        ];
        (version == Version::V2 || useful.contains(&true)).then_some(hierarchy)
    }

    fn limit_v1(&self, folder: &Path, limits: &Limits) -> io::Result<()> {
        if self.memory {
            write(folder, "memory.limit_in_bytes", &limits.memory_bytes.to_string())?;
            // Only kernels that account swap have it.
            let _ = write(folder, "memory.memsw.limit_in_bytes", &limits.memory_bytes.to_string());
        }
        if self.cpu {
            write(folder, "cpu.cfs_period_us", &CPU_PERIOD_US.to_string())?;
            write(folder, "cpu.cfs_quota_us", &quota_us(limits).to_string())?;
            write(folder, "cpu.shares", &shares(limits).to_string())?;
        }
        if self.pids {
            write(folder, "pids.max", &processes(limits).to_string())?;
        }
        Ok(())
    }

    fn limit_v2(&self, folder: &Path, limits: &Limits) -> io::Result<()> {
        if self.memory {
            write(folder, "memory.max", &limits.memory_bytes.to_string())?;
            let _ = write(folder, "memory.swap.max", "0");
        }
        if self.cpu {
            write(folder, "cpu.max", &format!("{} {CPU_PERIOD_US}", quota_us(limits)))?;
            write(folder, "cpu.weight", &weight(shares(limits)).to_string())?;
        }
        if self.pids {
            write(folder, "pids.max", &processes(limits).to_string())?;
        }
        Ok(())
    }

    /// The meters and brakes of this hierarchy with their files.
    fn gauges(&self) -> Vec<(Gauge, &'static str)> {
        let mut gauges = Vec::new();
        match self.version {
            Version::V2 => {
                gauges.extend([(Gauge::CpuStat, "cpu.stat"), (Gauge::Freeze, "cgroup.freeze")]);
                if self.cpu {
                    gauges.push((Gauge::CpuWeight, "cpu.weight"));
                }
                if self.memory {
                    gauges.push((Gauge::MemoryMax, "memory.peak"));
                    gauges.push((Gauge::MemoryNow, "memory.current"));
                    gauges.push((Gauge::OutOfMemory, "memory.events"));
                }
            }
            Version::V1 => {
                if self.memory {
                    gauges.push((Gauge::MemoryMax, "memory.max_usage_in_bytes"));
                    gauges.push((Gauge::MemoryNow, "memory.usage_in_bytes"));
                    gauges.push((Gauge::OutOfMemory, "memory.oom_control"));
                }
                if self.cpu {
                    gauges.push((Gauge::CpuShares, "cpu.shares"));
                }
                if self.cpuacct {
                    gauges.push((Gauge::CpuNanoseconds, "cpuacct.usage"));
                }
                if self.freezer {
                    gauges.push((Gauge::FreezerState, "freezer.state"));
                }
            }
        }
        gauges
    }
}

fn quota_us(limits: &Limits) -> u64 {
    (u64::from(limits.cpu_millis) * CPU_PERIOD_US / 1000).max(1000)
}

fn shares(limits: &Limits) -> u64 {
    shares_of(limits.share_millis)
}

/// The share of a cell that may use this much processor time: 1024 for one processor, as a plain process
/// of ordinary priority has.
pub(super) fn shares_of(cpu_millis: u32) -> u64 {
    (u64::from(cpu_millis) * 1024 / 1000).clamp(2, 262_144)
}

/// The share of a cell that takes what others leave: of one that may use a processor that of a process of `nice 15`, as
/// WebAssembly guests that run on are.
pub(super) fn leftover_of(cpu_millis: u32) -> u64 {
    const PROCESSOR_SHARES: u64 = 36;
    (u64::from(cpu_millis.min(1000)) * PROCESSOR_SHARES / 1000).max(2)
}

/// A share of version 1 as the nearest weight of version 2: 1024 is 100.
pub(super) fn weight(shares: u64) -> u64 {
    ((shares * 100 + 512) / 1024).clamp(1, 10_000)
}

/// The guest's processes and the init.
fn processes(limits: &Limits) -> u64 {
    u64::from(limits.pids) + 1
}

pub(super) fn write(folder: &Path, file: &str, value: &str) -> io::Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .open(folder.join(file))
        .and_then(|mut open| io::Write::write_all(&mut open, value.as_bytes()))
}

/// The controllers that a group has, found out on one that is made and removed at once; `None` if no
/// group can be made there, or no process moved into it: the one right does not always bring the other.
fn offered_to_groups(probe: &Path, controllers: Option<&[String]>) -> Option<Vec<String>> {
    fs::create_dir(probe).ok()?;
    let movable = fs::OpenOptions::new().write(true).open(probe.join("cgroup.procs"));
    let offered = match controllers {
        Some(mounted) => mounted.to_vec(),
        None => {
            let text = fs::read_to_string(probe.join("cgroup.controllers")).unwrap_or_default();
            text.split_whitespace().map(str::to_owned).collect()
        }
    };
    let _ = fs::remove_dir(probe);
    movable.is_ok().then_some(offered)
}

/// Offers the controllers to children of `parent`. A group with processes of its own cannot; then the
/// residents step aside into a leaf, which works if nobody else is in it.
fn delegate(parent: &Path, residents: &[u32]) {
    let enable = || {
        for name in ["memory", "cpu", "pids"] {
            write(parent, "cgroup.subtree_control", &format!("+{name}"))?;
        }
        Ok::<(), io::Error>(())
    };
    let offered = fs::read_to_string(parent.join("cgroup.controllers")).unwrap_or_default();
    if !offered.split_whitespace().any(|name| name == "memory") {
        return;
    }
    if let Err(error) = enable()
        && error.raw_os_error() == Some(libc::EBUSY)
    {
        let leaf = parent.join(LEAF);
        let _ = fs::create_dir(&leaf);
        for pid in residents {
            let _ = write(&leaf, "cgroup.procs", &pid.to_string());
        }
        let _ = enable();
    }
}

/// The paths of this process's own groups by controller, with an empty name for version 2.
pub(super) fn own_groups(memberships: &str) -> HashMap<String, PathBuf> {
    let mut own = HashMap::new();
    for line in memberships.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        if let (Some(controllers), Some(path)) = (parts.next(), parts.next()) {
            for controller in controllers.split(',') {
                own.insert(controller.to_owned(), PathBuf::from(path));
            }
        }
    }
    own
}

/// The mounted hierarchies: their folders and, for version 1, their controllers.
pub(super) fn cgroup_mounts(mounts: &str) -> Vec<(PathBuf, Option<Vec<String>>)> {
    const CONTROLLERS: [&str; 5] = ["memory", "cpu", "pids", "cpuacct", "freezer"];
    let mut found = Vec::new();
    for line in mounts.lines() {
        let Some((place, kind)) = line.split_once(" - ") else {
            continue;
        };
        let Some(folder) = place.split(' ').nth(4) else {
            continue;
        };
        let mut kind = kind.split(' ');
        match kind.next() {
            Some("cgroup2") => found.push((PathBuf::from(folder), None)),
            Some("cgroup") => {
                let options = kind.nth(1).unwrap_or_default().split(',');
                let controllers = options.filter(|option| CONTROLLERS.contains(option));
                found.push((PathBuf::from(folder), Some(controllers.map(str::to_owned).collect())));
            }
            _ => {}
        }
    }
    // Version 2 first, so that its meters are preferred.
    found.sort_by_key(|(_, controllers)| controllers.is_some());
    found
}

/// Removes the groups of earlier spawners with this mark, and what still runs in them.
fn remove_leftovers(parent: &Path, mark: &str) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(mark) {
            remove_tree(&entry.path());
        }
    }
}

fn remove_tree(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_tree(&entry.path());
        }
    }
    let is_busy = |result: io::Result<()>| result.is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy);
    // What was killed, also by somebody else, takes a while to be gone.
    for _ in 0..LEAVING_TICKS {
        let pids = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        for pid in pids
            .lines()
            .filter_map(|pid| pid.parse().ok())
            .filter_map(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        if !is_busy(fs::remove_dir(folder)) {
            return;
        }
        rest();
    }
}

#[allow(clippy::disallowed_methods, reason = "a group gives no event to wait for")]
fn rest() {
    std::thread::sleep(LEAVING_TICK);
}
