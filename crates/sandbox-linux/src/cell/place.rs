//! The place of an instance that is a process: control groups with the limits of the whole, and a file system of its
//! own with the instance's volumes.
//!
//! ```text
//!   node: Place::make ─▶ process: enter (before it has threads) ─▶ runs, starts others ─▶ node: Place::end
//! ```
//! Everything that a process in a place starts stays in its groups, however it detaches itself: to end the place is to
//! kill what is in them until nothing is. The groups lie beside the node's own, so that the place competes with it and is
//! not counted against it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, Mode};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use super::cgroup::{CPU_PERIOD_US, LEAF, cgroup_mounts, own_groups, write};
use super::meter::Meter;
use super::root::{attach, become_root, detach};
use super::sys;
use super::wire::Failure;

/// The longest that a killed process may take to be gone.
const END_MAX: Duration = Duration::from_secs(10);
const END_TICK: Duration = Duration::from_millis(5);

/// The limits of a place as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaceLimits {
    pub memory_bytes: u64,
    /// In thousandths of a processor.
    pub cpu_millis: u32,
    pub pids: u32,
}

/// A folder that a place sees somewhere else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceMount {
    pub source: PathBuf,
    /// Absolute. It must be there already, or lie at the top of the file system.
    pub target: PathBuf,
    pub read_only: bool,
}

/// What a process needs to enter a place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceView {
    /// The control groups.
    pub groups: Vec<PathBuf>,
    /// Folders of which nothing is seen but what lies in `shown`.
    pub hidden: Vec<PathBuf>,
    /// Folders inside hidden ones that are seen where they are, read-only unless `writable`.
    pub shown: Vec<PathBuf>,
    pub writable: Vec<PathBuf>,
    pub mounts: Vec<PlaceMount>,
}

/// The control groups of an instance.
#[derive(Clone, Debug)]
pub struct Place {
    groups: Vec<PathBuf>,
}

impl Place {
    /// Makes the groups of a place, or takes those that are there, and sets their limits.
    ///
    /// # Errors
    /// If this machine gives no group that limits memory, or the limits cannot be set.
    pub fn make(name: &str, limits: &PlaceLimits) -> io::Result<Self> {
        let mut place = Self { groups: Vec::new() };
        let mut limited = false;
        for parent in parents() {
            match parent.make(name, limits) {
                Ok((group, limits_memory)) => {
                    place.groups.push(group);
                    limited |= limits_memory;
                }
                Err(error) => {
                    place.remove();
                    return Err(error);
                }
            }
        }
        if !limited {
            place.remove();
            let text = "no control group that limits memory can be made here: process instances need one";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        Ok(place)
    }

    /// The places whose names begin with `prefix`, by name.
    pub fn find(prefix: &str) -> Vec<(String, Self)> {
        let mut found: Vec<(String, Self)> = Vec::new();
        for parent in parents() {
            for entry in fs::read_dir(&parent.folder).into_iter().flatten().flatten() {
                let Ok(name) = entry.file_name().into_string() else {
                    continue;
                };
                if !name.starts_with(prefix) {
                    continue;
                }
                match found.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, place)) => place.groups.push(entry.path()),
                    None => found.push((
                        name,
                        Self {
                            groups: vec![entry.path()],
                        },
                    )),
                }
            }
        }
        found
    }

    pub fn groups(&self) -> &[PathBuf] {
        &self.groups
    }

    /// The processes in the place.
    pub fn processes(&self) -> Vec<u32> {
        let mut pids = Vec::new();
        self.groups.iter().for_each(|group| collect(group, &mut pids));
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// What tells how much it uses.
    pub fn meter(&self) -> Meter {
        Meter::new(self.groups.clone())
    }

    /// Kills whatever is in the place, and removes it; nothing of it runs or writes any more once this returns.
    ///
    /// # Errors
    /// If something does not die.
    pub async fn end(&self) -> io::Result<()> {
        let mut waited = Duration::ZERO;
        loop {
            let pids = self.processes();
            if pids.is_empty() {
                break;
            }
            if waited > END_MAX {
                let text = format!("processes {pids:?} do not die");
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            for pid in pids
                .into_iter()
                .filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?))
            {
                // It may have died by itself.
                let _ = kill_process(pid, Signal::KILL);
            }
            tokio::time::sleep(END_TICK).await;
            waited += END_TICK;
        }
        self.remove();
        Ok(())
    }

    fn remove(&self) {
        self.groups.iter().for_each(|group| remove(group));
    }
}

/// Moves this process, which has no threads yet, into a place.
///
/// # Errors
/// If a step fails; the process should end then.
pub fn enter(view: &PlaceView, scratch: &Path) -> io::Result<()> {
    for group in &view.groups {
        write(group, "cgroup.procs", "0").map_err(|error| named("join control group", group, &error))?;
    }
    sys::unshare(libc::CLONE_NEWNS)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    build_root(view, scratch)?;
    let working_folder = std::env::current_dir();
    become_root(scratch).map_err(step)?;
    if let Ok(folder) = working_folder {
        // The folder may be hidden from here.
        let _ = std::env::set_current_dir(folder);
    }
    Ok(())
}

/// Builds the file system at `scratch`: the host's, without what is hidden, with what is mounted.
fn build_root(view: &PlaceView, scratch: &Path) -> io::Result<()> {
    mount(
        "tmpfs",
        scratch,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        c"size=1m,mode=755",
    )?;
    let volumes = view
        .mounts
        .iter()
        .map(|mount| detach(&mount.source).map_err(|error| named("open volume", &mount.source, &error.into())));
    let volumes: Vec<_> = volumes.collect::<io::Result<_>>()?;
    let shown = view
        .shown
        .iter()
        .chain(&view.writable)
        .map(|folder| detach(folder).map_err(|error| named("open folder", folder, &error.into())));
    let shown: Vec<_> = shown.collect::<io::Result<_>>()?;
    for entry in fs::read_dir("/")? {
        copy_top(&entry?, scratch)?;
    }
    for folder in &view.hidden {
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("tmpfs", inside(scratch, folder), "tmpfs", flags, c"size=1m,mode=755")?;
    }
    for (number, (folder, tree)) in view.shown.iter().chain(&view.writable).zip(shown).enumerate() {
        if number < view.shown.len() {
            sys::restrict_mount(&tree)?;
        }
        let target = inside(scratch, folder);
        fs::create_dir_all(&target)?;
        attach(tree, &target)?;
    }
    for (volume, tree) in view.mounts.iter().zip(volumes) {
        let target = inside(scratch, &volume.target);
        // At the top the folder is the place's own; further down it would be made on the host.
        let is_top = volume.target.parent() == Some(Path::new("/"));
        if is_top && !target.exists() {
            fs::create_dir(&target)?;
        } else if !target.is_dir() {
            let error = io::ErrorKind::NotFound.into();
            return Err(named("find mount point", &volume.target, &error));
        }
        if volume.read_only {
            sys::restrict_mount(&tree)?;
        }
        attach(tree, &target)?;
    }
    Ok(())
}

/// Shows one folder, file or link of the host's top.
fn copy_top(entry: &fs::DirEntry, scratch: &Path) -> io::Result<()> {
    let (source, target) = (entry.path(), scratch.join(entry.file_name()));
    let kind = entry.file_type()?;
    if kind.is_symlink() {
        return std::os::unix::fs::symlink(fs::read_link(&source)?, &target);
    }
    if kind.is_dir() {
        fs::create_dir(&target)?;
    } else {
        rustix::fs::mknodat(CWD, &target, rustix::fs::FileType::RegularFile, Mode::RUSR, 0)?;
    }
    Ok(attach(detach(&source)?, &target)?)
}

fn inside(scratch: &Path, folder: &Path) -> PathBuf {
    scratch.join(folder.strip_prefix("/").unwrap_or(folder))
}

fn named(step: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("`{step}` of `{}` failed: {error}", path.display()),
    )
}

fn step(failure: Failure) -> io::Error {
    let source = io::Error::from_raw_os_error(failure.errno);
    io::Error::new(source.kind(), format!("`{}` failed: {source}", failure.step))
}

/// Where groups of places are made, in one hierarchy.
struct Parent {
    folder: PathBuf,
    /// The controllers of version 1; version 2 has those that it delegates.
    controllers: Option<Vec<String>>,
}

fn parents() -> Vec<Parent> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let own = own_groups(&fs::read_to_string("/proc/self/cgroup").unwrap_or_default());
    let mut parents = Vec::new();
    for (mount, controllers) in cgroup_mounts(&mounts) {
        let useful = |list: &Vec<String>| {
            list.iter()
                .any(|name| ["memory", "cpu", "pids"].contains(&name.as_str()))
        };
        if controllers.as_ref().is_some_and(|list| !useful(list)) {
            continue;
        }
        let key = controllers
            .as_ref()
            .and_then(|list| list.first())
            .map_or("", String::as_str);
        let nested = own
            .get(key)
            .map(|path| mount.join(path.strip_prefix("/").unwrap_or(path)));
        let folder = nested.filter(|path| path.is_dir()).unwrap_or(mount);
        let folder = match folder.parent() {
            Some(above) if folder.ends_with(LEAF) => above.to_owned(),
            _ => folder,
        };
        parents.push(Parent { folder, controllers });
    }
    parents
}

impl Parent {
    /// Makes a group; says whether it limits memory.
    fn make(&self, name: &str, limits: &PlaceLimits) -> io::Result<(PathBuf, bool)> {
        let group = self.folder.join(name);
        match fs::create_dir(&group) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(named("make control group", &group, &error));
            }
            _ => {}
        }
        let quota = (u64::from(limits.cpu_millis) * CPU_PERIOD_US / 1000).max(1000);
        let memory = limits.memory_bytes.to_string();
        let pids = limits.pids.to_string();
        let has = |controller: &str, file: &str| match &self.controllers {
            Some(list) => list.iter().any(|name| name == controller),
            None => group.join(file).exists(),
        };
        let limited = match &self.controllers {
            Some(_) => {
                if has("cpu", "") {
                    write(&group, "cpu.cfs_period_us", &CPU_PERIOD_US.to_string())?;
                    write(&group, "cpu.cfs_quota_us", &quota.to_string())?;
                }
                let limited = has("memory", "");
                if limited {
                    // Groups inside count against this one; some kernels do so anyway.
                    let _ = write(&group, "memory.use_hierarchy", "1");
                    write(&group, "memory.limit_in_bytes", &memory)?;
                    let _ = write(&group, "memory.memsw.limit_in_bytes", &memory);
                }
                limited
            }
            None => {
                if has("cpu", "cpu.max") {
                    write(&group, "cpu.max", &format!("{quota} {CPU_PERIOD_US}"))?;
                }
                let limited = has("memory", "memory.max");
                if limited {
                    write(&group, "memory.max", &memory)?;
                    let _ = write(&group, "memory.swap.max", "0");
                }
                limited
            }
        };
        if has("pids", "pids.max") {
            write(&group, "pids.max", &pids)?;
        }
        Ok((group, limited))
    }
}

fn collect(group: &Path, pids: &mut Vec<u32>) {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    // Zero stands for a process of another pid namespace.
    pids.extend(
        text.lines()
            .filter_map(|line| line.parse().ok())
            .filter(|pid: &u32| *pid != 0),
    );
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), pids);
        }
    }
}

fn remove(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}
