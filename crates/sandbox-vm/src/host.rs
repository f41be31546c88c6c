//! What this machine offers to virtual machines: which QEMU, which accelerator, which limits.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bowline_foundation::clock::Clock;
use bowline_foundation::digest::Digest;
use bowline_foundation::entropy::Entropy;
use bowline_sandbox_linux::cell::cgroup::{Cgroups, Group, Limits};
use parking_lot::Mutex;

use crate::machine::{Accelerator, Machine};
use crate::{Context, VmError, kvm, sys};

/// The program of QEMU, and the package that brings it.
pub const QEMU: (&str, &str) = ("qemu-system-x86_64", "qemu-system-x86");
/// What QEMU itself needs beside the guest's memory.
const OVERHEAD_BYTES: u64 = 320 * 1024 * 1024;
/// Threads of one QEMU beside its processors: 64 that work for its disks, and its own.
const THREADS: u32 = 96;
/// How long the processor's counter is watched to know its frequency.
const WATCH: Duration = Duration::from_millis(100);
/// Users of virtual machines start here in the host's numbering, below those of cells.
const USERS_START: u32 = 0x6fff_0000;
const USERS_COUNT: u32 = 1 << 15;
/// What it takes to start a process as another user in a network of its own: `CAP_SETGID`, `CAP_SETUID` and
/// `CAP_SYS_ADMIN`, as bits of the kernel's sets.
const CAPABILITIES: u64 = 1 << 6 | 1 << 7 | 1 << 21;

/// How to look.
pub struct Options {
    pub clock: Clock,
    pub entropy: Entropy,
    /// What the control groups of its machines have in their names. What an earlier host with the same mark has left
    /// behind is removed, so two that live must not share one.
    pub mark: String,
    /// The program that calls [`crate::kvm_probe_main`] when its first argument is
    /// [`crate::KVM_PROBE_ARGUMENT`].
    pub program: PathBuf,
}

/// What was found.
#[derive(Debug)]
pub struct Host {
    pub(crate) clock: Clock,
    pub(crate) entropy: Entropy,
    pub(crate) qemu: PathBuf,
    version: String,
    engine: Mutex<Engine>,
    mark: String,
    groups: Mutex<Cgroups>,
    may_choose_user: bool,
    next_user: AtomicU32,
}

/// What runs guests; changes at most once, from KVM to the translator.
#[derive(Clone, Debug)]
struct Engine {
    accelerator: Accelerator,
    why_not_kvm: Option<String>,
    tsc_khz: Option<u64>,
}

impl Engine {
    async fn translator(clock: &Clock, why_not_kvm: String) -> Self {
        tracing::info!(reason = %why_not_kvm, "virtual machines are translated, for KVM is of no use");
        Self {
            accelerator: Accelerator::Tcg,
            why_not_kvm: Some(why_not_kvm),
            tsc_khz: counter_khz(clock).await,
        }
    }
}

impl Host {
    /// Looks for QEMU, tries KVM, and measures what the translator must be told.
    pub async fn find(options: Options) -> Result<Self, VmError> {
        let qemu = qemu()?;
        let version = version_of(&qemu).await?;
        let engine = match kvm::probe(&options.program).await {
            Ok(()) => Engine {
                accelerator: Accelerator::Kvm,
                why_not_kvm: None,
                tsc_khz: None,
            },
            Err(reason) => Engine::translator(&options.clock, reason).await,
        };
        Ok(Self {
            clock: options.clock,
            entropy: options.entropy,
            qemu,
            version,
            engine: Mutex::new(engine),
            groups: Mutex::new(Cgroups::probe(
                &format!("bowline-vm-{}-", options.mark),
                &[std::process::id()],
            )),
            mark: options.mark,
            may_choose_user: may_choose_user(),
            next_user: AtomicU32::new(std::process::id() % USERS_COUNT),
        })
    }

    /// QEMU's version, with which a state of a machine can be read again.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What the control groups of its machines have in their names.
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// What runs the guests' instructions.
    pub fn accelerator(&self) -> Accelerator {
        self.engine.lock().accelerator
    }

    /// Why KVM is not used, if it is not.
    pub fn why_not_kvm(&self) -> Option<String> {
        self.engine.lock().why_not_kvm.clone()
    }

    /// Gives KVM up: the probe passed, and yet a guest did not come up with it.
    pub(crate) async fn give_up_kvm(&self, reason: String) {
        let translator = Engine::translator(&self.clock, reason).await;
        *self.engine.lock() = translator;
    }

    /// The frequency of the counter that a translated guest counts its time by.
    pub fn tsc_khz(&self) -> Option<u64> {
        self.engine.lock().tsc_khz
    }

    /// The processor that guests see: the translator's, or this machine's by name and features.
    pub(crate) fn processor(&self) -> String {
        if self.accelerator() == Accelerator::Tcg {
            return "max".to_owned();
        }
        let features = Digest::of(cpuinfo("flags").as_bytes()).to_string();
        format!("{} ({})", cpuinfo("model name"), &features[..16])
    }

    /// What guests' processors can do here that others perhaps cannot; the translator's can always do the same.
    pub(crate) fn features(&self) -> Vec<String> {
        if self.accelerator() == Accelerator::Tcg {
            return Vec::new();
        }
        let mut features: Vec<_> = cpuinfo("flags").split_whitespace().map(str::to_owned).collect();
        features.sort_unstable();
        features
    }

    /// A control group that holds a machine of this size, which may use this much of the processors if it is said.
    pub(crate) fn group(&self, machine: &Machine, cpu_millis: Option<u32>) -> Result<Option<Group>, VmError> {
        let mut groups = self.groups.lock();
        let refused = |failure| VmError::Io {
            what: "make a control group".to_owned(),
            source: std::io::Error::other(format!("{failure:?}")),
        };
        let group = groups.take().map_err(refused)?;
        // Devices need some processor time beside the guest's.
        let cpu_millis = cpu_millis.unwrap_or(machine.processors * 1000 + 250);
        let limits = Limits {
            tmp_bytes: 0,
            memory_bytes: machine.memory_max.bytes() + OVERHEAD_BYTES,
            cpu_millis,
            share_millis: cpu_millis,
            pids: THREADS + machine.processors,
        };
        if let Err(failure) = groups.limit(&group, &limits) {
            let _ = group.remove();
            return Err(refused(failure));
        }
        Ok(Some(group))
    }

    /// A user that no other machine of this host is.
    pub(crate) fn user(&self) -> Option<u32> {
        let next = || USERS_START + self.next_user.fetch_add(1, Ordering::Relaxed) % USERS_COUNT;
        self.may_choose_user.then(next)
    }

    /// Kills all of its machines, also those that are on their way out, and returns when nothing is left of them; blocks.
    pub fn end_all(&self) {
        self.groups.lock().remove();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.end_all();
    }
}

/// What the kernel says of the first processor by this name.
fn cpuinfo(name: &str) -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_once(':').map_or("", |(_, value)| value.trim()).to_owned()
}

/// Where QEMU is.
pub fn qemu() -> Result<PathBuf, VmError> {
    on_path(QEMU.0).ok_or(VmError::Missing {
        program: QEMU.0,
        package: QEMU.1,
    })
}

/// Where a program is, as a shell would find it.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin:/usr/sbin:/sbin".into());
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

async fn version_of(qemu: &Path) -> Result<String, VmError> {
    let output = tokio::process::Command::new(qemu).arg("--version").output().await;
    let output = output.cannot("ask QEMU for its version")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_whitespace().skip_while(|word| *word != "version").nth(1);
    version.map(str::to_owned).ok_or_else(|| VmError::Protocol {
        channel: "version",
        found: text.chars().take(80).collect(),
    })
}

/// The frequency of the processor's counter, from two readings of it beside the clock. Each reading is the best of
/// a few, for the process may be put aside in the middle of one.
async fn counter_khz(clock: &Clock) -> Option<u64> {
    let origin = clock.monotonic();
    let reading = || {
        let tries = (0..16).map(|_| {
            let before = clock.monotonic();
            let counter = sys::time_stamp();
            let width = clock.monotonic().since(before);
            (width, before.since(origin) + width / 2, counter)
        });
        tries.min_by_key(|(width, ..)| *width)
    };
    let (_, from, first) = reading()?;
    tokio::time::sleep(WATCH).await;
    let (_, to, last) = reading()?;
    let micros = u64::try_from((to - from).as_nanos()).ok()?;
    Some((last? - first?) * 1_000_000 / micros.max(1))
}

/// Whether processes may be started as users of the range.
fn may_choose_user() -> bool {
    let root = rustix::process::geteuid().is_root();
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let holds = |line: &str| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        matches!(numbers[..], [first, _, count] if first <= u64::from(USERS_START)
            && first + count >= u64::from(USERS_START + USERS_COUNT))
    };
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    root && map.lines().any(holds) && is_capable(&status)
}

/// Whether a process with this `/proc/PID/status` may become another user; in a container root often may not.
fn is_capable(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    effective.is_some_and(|set| set & CAPABILITIES == CAPABILITIES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_without_its_capabilities_does_not_choose_users() {
        assert!(is_capable("CapPrm:\t0\nCapEff:\t000001ffffffffff\n"));
        assert!(is_capable("CapEff:\t00000000002000c0\n"));
        // What a container has by default: users may be chosen, networks may not be made.
        assert!(!is_capable("CapPrm:\t000001ffffffffff\nCapEff:\t00000000a80425fb\n"));
        assert!(!is_capable("CapEff:\t0000000000200080\n"));
        assert!(!is_capable("CapEff:\tmany\n"));
        assert!(!is_capable(""));
    }
}
