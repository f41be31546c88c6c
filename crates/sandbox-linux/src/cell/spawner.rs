//! The spawner process: one thread, one loop, never waiting for a cell.
//!
//! It answers to the node's requests, reaps the inits of cells, and removes what a cell held on the host
//! once its init is gone. When the node's end of the socket closes, it kills every cell, cleans up and
//! ends. Should it be killed itself, every cell dies by its parent-death signal; only empty cgroups
//! stay, which the next spawner with the same state folder removes.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::RecvFlags;
use rustix::process::{Pid, Resource, Signal, WaitOptions, WaitStatus, pidfd_send_signal, wait};

use super::cgroup::{Cgroups, Group};
use super::identity::{self, Identities};
use super::init::{self, Birth};
use super::root::{self, Base, HostMounts, Root};
use super::share::Shares;
use super::sys::{self, Instruction};
use super::wire::{self, Failure, Hello, Limits, MountMessage, Order, Program, Reply, Request, Step, Text, Welcome};

/// How many prepared roots are kept.
const ROOTS_MAX: usize = 64;

/// Becomes the spawner; its socket is standard input.
pub fn main() -> ! {
    let status = match begin() {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("spawner: {error}");
            1
        }
    };
    std::process::exit(status)
}

fn begin() -> io::Result<()> {
    sys::reserve_descriptors()?;
    let socket = rustix::io::fcntl_dupfd_cloexec(io::stdin(), sys::RESERVED)?;
    let mut buffer = vec![0; wire::MESSAGE_BYTES_MAX];
    let Some((hello, _)) = wire::receive::<Hello>(&socket, &mut buffer, RecvFlags::empty())? else {
        return Ok(());
    };
    match Service::establish(&hello) {
        Ok(mut service) => {
            wire::send(&socket, &Welcome::Ready, &[])?;
            let served = service.serve(&socket, &mut buffer);
            service.end();
            served
        }
        Err(failure) => wire::send(&socket, &Welcome::Failed(failure), &[]),
    }
}

struct Service {
    host: HostMounts,
    scratch: PathBuf,
    roots: HashMap<Vec<(Text, Text)>, Root>,
    identities: Identities,
    cgroups: Cgroups,
    filter: Vec<Instruction>,
    signals: OwnedFd,
    cells: HashMap<u64, Cell>,
    inits: HashMap<Pid, u64>,
    shares: Shares,
    /// Groups of cells that are gone but could not be removed yet.
    stale: Vec<Group>,
    /// Held for the process's life: one spawner a state folder.
    _lock: fs::File,
}

struct Cell {
    pid: Pid,
    pidfd: OwnedFd,
    user: u32,
    group: Group,
    node_end: OwnedFd,
    init_end: OwnedFd,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Alive,
    /// Killed; its end is awaited.
    Dying,
    /// Its init was reaped.
    Dead,
}

impl Service {
    fn establish(hello: &Hello) -> Result<Self, Failure> {
        let state_dir = hello.state_dir.path();
        let lock = lock(&state_dir).step("lock state folder")?;
        let salt = fnv1a(hello.state_dir.bytes());
        let scratch = state_dir.join("root");
        fs::create_dir_all(&scratch).step("make root folder")?;
        raise_descriptor_limit();
        let identities = Identities::establish(salt)?;
        let host = HostMounts::detach()?;
        let filter = super::seccomp::program().map_err(|_| Failure {
            step: "build seccomp filter".to_owned(),
            errno: libc::EINVAL,
        })?;
        let shares = Shares::new(&state_dir, matches!(identities, Identities::Distinct { .. }));
        Ok(Self {
            host,
            shares,
            scratch,
            roots: HashMap::new(),
            identities,
            cgroups: Cgroups::probe(&format!("bowline-{salt:08x}-"), &node_and_spawner()),
            filter,
            signals: sys::child_signals().step("signalfd")?,
            cells: HashMap::new(),
            inits: HashMap::new(),
            stale: Vec::new(),
            _lock: lock,
        })
    }

    fn serve(&mut self, socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<()> {
        let mut idle_work = true;
        loop {
            let mut ready = [
                PollFd::new(socket, PollFlags::IN),
                PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
            ];
            let patience = Timespec {
                tv_sec: 0,
                tv_nsec: if idle_work { 0 } else { 5_000_000 },
            };
            let patience = (idle_work || !self.stale.is_empty()).then_some(patience);
            let some = rustix::io::retry_on_intr(|| poll(&mut ready, patience.as_ref()))?;
            let [requests, children] = ready.map(|descriptor| !descriptor.revents().is_empty());
            if some == 0 {
                self.stale.retain(|group| group.remove().is_err());
                idle_work = self.cgroups.restock();
                continue;
            }
            if children {
                let _ = rustix::io::read(&self.signals, &mut [0; 1024]);
                self.reap();
            }
            if requests {
                match wire::receive(socket, buffer, RecvFlags::DONTWAIT) {
                    Ok(Some((request, descriptors))) => self.handle(request, descriptors),
                    Ok(None) => return Ok(()),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
            idle_work = true;
        }
    }

    fn handle(&mut self, request: Request, descriptors: Vec<OwnedFd>) {
        match request {
            Request::Create {
                cell,
                binds,
                image,
                program,
            } => {
                let Ok([node_end, init_end, output, control]) = <[OwnedFd; 4]>::try_from(descriptors) else {
                    return;
                };
                let parts = Parts {
                    node_end,
                    init_end,
                    output,
                    control,
                };
                self.create(cell, (binds, image), program, parts);
            }
            Request::Furnish {
                cell,
                code,
                layers,
                mounts,
                limits,
            } => self.furnish(cell, (code.into_iter().chain(layers), mounts), &limits),
            Request::Destroy { cell } => self.destroy(cell),
            Request::Share(share) => {
                if let [reply] = &descriptors[..] {
                    self.shares.share(&share, reply);
                }
            }
            Request::Unshare { name } => {
                if let [reply] = &descriptors[..] {
                    self.shares.unshare(&name.path(), reply);
                }
            }
            Request::Lend { name } => {
                if let [reply] = &descriptors[..] {
                    self.shares.lend(&name.path(), reply);
                }
            }
            Request::Borrow { name } => {
                if let [reply, tree] = &descriptors[..] {
                    self.shares.borrow(&name.path(), tree, reply);
                }
            }
        }
    }

    fn create(&mut self, id: u64, ground: Ground, program: Option<Program>, parts: Parts) {
        let user = self.identities.take();
        match self.make(user, ground, program, &parts) {
            Ok((pid, pidfd, group)) => {
                let mut cell = Cell {
                    pid,
                    pidfd,
                    user,
                    group,
                    node_end: parts.node_end,
                    init_end: parts.init_end,
                    state: State::Alive,
                };
                cell.announce();
                cell.group.settle();
                self.inits.insert(pid, id);
                self.cells.insert(id, cell);
            }
            Err(failure) => {
                self.identities.give_back(user);
                let _ = wire::send(&parts.init_end, &Reply::Failed(failure), &[]);
            }
        }
    }

    fn make(
        &mut self,
        user: u32,
        (binds, image): Ground,
        program: Option<Program>,
        parts: &Parts,
    ) -> Result<(Pid, OwnedFd, Group), Failure> {
        let of_image = image.map(|image| self.image_root(&image)).transpose()?;
        if of_image.is_none() {
            self.prepare_root(&binds)?;
        }
        let mapped = eventfd(0, EventfdFlags::CLOEXEC).step("eventfd")?;
        let group = self.cgroups.take()?;
        let birth = Birth {
            channel: parts.init_end.as_fd(),
            output: parts.output.as_fd(),
            control: parts.control.as_fd(),
            mapped: mapped.as_fd(),
            memberships: group.memberships(),
            program,
            filter: &self.filter,
        };
        let root = of_image.as_ref().or_else(|| self.roots.get(&binds));
        let born = bear(root.expect("prepared just before"), group.unified(), birth);
        let entered = self.host.enter();
        let outcome = born.and_then(|(pid, pidfd)| {
            let finished = entered.and_then(|()| {
                identity::map_guest(pid, user).step("map users")?;
                rustix::io::write(&mapped, &1_u64.to_ne_bytes()).step("eventfd")
            });
            if finished.is_err() {
                let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            }
            finished.map(|_| (pid, pidfd))
        });
        match outcome {
            Ok((pid, pidfd)) => Ok((pid, pidfd, group)),
            Err(failure) => {
                self.stale.push(group);
                Err(failure)
            }
        }
    }

    /// The root of an image, made for one cell: it goes with the cell, so that nothing holds an image that is
    /// removed, or shows one that was unpacked again.
    fn image_root(&self, image: &Text) -> Result<Root, Failure> {
        self.host.prepare(&self.scratch, &Base::Image(&image.path()))
    }

    fn prepare_root(&mut self, binds: &[(Text, Text)]) -> Result<(), Failure> {
        if self.roots.contains_key(binds) {
            return Ok(());
        }
        if self.roots.len() >= ROOTS_MAX {
            // Cells that live keep theirs; a plan that comes again prepares it again.
            self.roots.clear();
        }
        let paths: Vec<_> = binds
            .iter()
            .map(|(host, inside)| (host.path(), inside.path()))
            .collect();
        let root = self.host.prepare(&self.scratch, &Base::System(&paths))?;
        self.roots.insert(binds.to_vec(), root);
        Ok(())
    }

    fn furnish(
        &mut self,
        id: u64,
        (folders, mounts): (impl Iterator<Item = Text>, Vec<MountMessage>),
        limits: &Limits,
    ) {
        let Some(cell) = self.cells.get(&id) else { return };
        let furnished = || {
            self.cgroups.limit(&cell.group, limits)?;
            let folders = folders.map(|folder| root::detached_code(&folder.path()));
            let mut folders = folders.collect::<Result<Vec<_>, _>>()?;
            for mount in &mounts {
                folders.push(self.shares.tree(&mount.share.path(), mount.is_read_only, cell.pid)?);
            }
            let trees: Vec<_> = folders.iter().map(AsFd::as_fd).collect();
            let order = Order::Furnish {
                limits: *limits,
                enforce: !self.cgroups.limits_memory(),
                mounts: mounts.into_iter().map(|mount| mount.folder).collect(),
            };
            wire::send(&cell.node_end, &order, &trees).step("reach init")
        };
        if let Err(failure) = furnished() {
            cell.reply(&Reply::Failed(failure));
        }
    }

    fn destroy(&mut self, id: u64) {
        let Some(cell) = self.cells.get_mut(&id) else { return };
        match cell.state {
            State::Alive => {
                cell.state = State::Dying;
                cell.kill();
            }
            State::Dying => {}
            State::Dead => self.bury(id),
        }
    }

    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if let Some(id) = self.inits.remove(&pid) {
                self.ended(id, status);
            }
        }
    }

    fn ended(&mut self, id: u64, status: WaitStatus) {
        let Some(cell) = self.cells.get_mut(&id) else { return };
        if cell.state == State::Dying {
            self.bury(id);
        } else {
            cell.state = State::Dead;
            cell.reply(&init::ended(status));
        }
    }

    /// Removes what is left of a cell whose init was reaped.
    fn bury(&mut self, id: u64) {
        let Some(cell) = self.cells.remove(&id) else { return };
        self.identities.give_back(cell.user);
        if cell.group.remove().is_err() {
            self.stale.push(cell.group);
            let _ = wire::send(&cell.init_end, &Reply::Gone, &[]);
            return;
        }
        cell.reply(&Reply::Gone);
    }

    /// Kills every cell, waits for them, and removes the cgroups.
    fn end(&mut self) {
        for cell in self.cells.values_mut().filter(|cell| cell.state == State::Alive) {
            cell.state = State::Dying;
            cell.kill();
        }
        while !self.inits.is_empty() {
            match wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) => {
                    if let Some(id) = self.inits.remove(&pid) {
                        self.ended(id, status);
                    }
                }
                Ok(None) => {}
                Err(_) => break,
            }
        }
        for id in self.cells.keys().copied().collect::<Vec<_>>() {
            self.bury(id);
        }
        self.shares.end();
        for group in self.stale.drain(..) {
            let _ = group.remove();
        }
        self.cgroups.remove();
    }
}

/// What a cell stands on: what it sees beside the system, or the image it sees in place of that.
type Ground = (Vec<(Text, Text)>, Option<Text>);

/// Clones the init out of a prepared root, and leaves this process there.
fn bear(root: &Root, unified: Option<BorrowedFd<'_>>, birth: Birth<'_>) -> Result<(Pid, OwnedFd), Failure> {
    let flags = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    root.enter()?;
    sys::clone_process(flags, unified, || init::run(birth)).step("clone3")
}

/// The descriptors that come with a request to make a cell.
struct Parts {
    node_end: OwnedFd,
    init_end: OwnedFd,
    output: OwnedFd,
    control: OwnedFd,
}

impl Cell {
    fn announce(&self) {
        let gauges = self.group.gauges();
        let reply = Reply::Spawned {
            gauges: gauges.iter().map(|(gauge, _)| *gauge).collect(),
        };
        let mut descriptors = vec![self.pidfd.as_fd()];
        descriptors.extend(gauges.iter().map(|(_, file)| file.as_fd()));
        let _ = wire::send(&self.init_end, &reply, &descriptors);
    }

    fn reply(&self, reply: &Reply) {
        // A node that does not listen any more needs no answer.
        let _ = wire::send(&self.init_end, reply, &[]);
    }

    fn kill(&self) {
        self.group.thaw();
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        debug_assert!(self.pid.as_raw_nonzero().get() > 1, "an init of a cell, not ours");
    }
}

/// The node, which started this spawner, and the spawner itself.
fn node_and_spawner() -> Vec<u32> {
    let node = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    node.into_iter().chain([std::process::id()]).collect()
}

/// Takes the state folder for this process; waits for an earlier spawner that still cleans up.
fn lock(state_dir: &std::path::Path) -> io::Result<fs::File> {
    fs::create_dir_all(state_dir)?;
    let file = fs::File::create(state_dir.join("spawner.lock"))?;
    file.lock()?;
    Ok(file)
}

fn raise_descriptor_limit() {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Without it there is room for fewer cells, and making one too many fails cleanly.
    let _ = rustix::process::setrlimit(Resource::Nofile, limit);
}

/// FNV-1a: a short stable name for a folder, not a digest.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}
