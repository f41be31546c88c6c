//! A cell's first process: it finishes the cell from the inside, starts the guest and reaps.
//!
//! ```text
//! cloned → namespaces finished ─ Ready ─▶ waiting ⇄ Order::Furnish ─ Furnished ─▶
//!                                            └─── Order::Exec ─ Running ─▶ … guest ends ─ Ended ─▶ exit
//! ```
//!
//! It keeps the rights over its own namespaces that furnishing takes until both the code is mounted and
//! the guest runs. The guest has none of them, cannot trace it, and as its pid 1 it is immune to the
//! guest's signals. It ends with the guest's main process and its companions, and the kernel then kills
//! the rest of the cell. The end of its channel, or of the spawner, ends it too.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, mount, mount_remount};
use rustix::net::{AddressFamily, RecvFlags, SocketAddrV4, SocketFlags, SocketType};
use rustix::process::{Pid, Resource, Rlimit, WaitOptions, WaitStatus, wait};

use super::sys::{self, Image, Instruction, Stage};
use super::wire::{self, Failure, Limits, Order, Program, Reply, Step};
use super::{identity, root};

/// The port of the listener that the node accepts on.
pub const LISTENER_PORT: u16 = 9001;

/// What the spawner gives a new init.
pub struct Birth<'a> {
    /// The init end of the cell's channel.
    pub channel: BorrowedFd<'a>,
    /// The guest's output.
    pub output: BorrowedFd<'a>,
    /// The guest's end of its control socket.
    pub control: BorrowedFd<'a>,
    /// Readable once the user is mapped.
    pub mapped: BorrowedFd<'a>,
    /// Files of version 1 cgroups to enter by writing `0`.
    pub memberships: &'a [OwnedFd],
    /// What to execute at once.
    pub program: Option<Program>,
    /// The guest's seccomp filter.
    pub filter: &'a [Instruction],
}

struct Init<'a> {
    channel: BorrowedFd<'a>,
    null: BorrowedFd<'a>,
    output: BorrowedFd<'a>,
    control: BorrowedFd<'a>,
    signals: BorrowedFd<'a>,
    filter: &'a [Instruction],
    guest: Option<Pid>,
    guest_ended: bool,
    /// In the order of starting; `None`: it ended.
    companions: Vec<Option<Pid>>,
    /// Where sockets are asked for.
    lending: Option<OwnedFd>,
    furnished: bool,
    memory_bytes_max: Option<u64>,
}

/// Lives as a cell's init.
pub fn run(birth: Birth<'_>) {
    let channel = birth.channel;
    if let Err(failure) = live(birth) {
        let _ = wire::send(channel, &Reply::Failed(failure), &[]);
        sys::exit(1);
    }
}

fn live(birth: Birth<'_>) -> Result<(), Failure> {
    let listener = finish(&birth)?;
    wire::send(birth.channel, &Reply::Ready, &[listener.as_fd()]).step("send listener")?;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let null = rustix::fs::open("/dev/null", flags, Mode::empty()).step("open /dev/null")?;
    let signals = sys::child_signals().step("signalfd")?;
    let kept = [
        null.as_fd(),
        birth.output,
        birth.output,
        birth.control,
        birth.channel,
        signals.as_fd(),
    ];
    let [null, output, _, control, channel, signals] = sys::keep_only(kept).step("keep descriptors")?;
    let mut init = Init {
        channel,
        null,
        output,
        control,
        signals,
        filter: birth.filter,
        guest: None,
        guest_ended: false,
        companions: Vec::new(),
        lending: None,
        furnished: false,
        memory_bytes_max: None,
    };
    limit(None, Resource::Nofile, 1024)?;
    limit(None, Resource::Core, 0)?;
    // What this block's descriptors were is closed; the copies of their owners must not close again.
    std::mem::forget(listener);
    if let Some(program) = birth.program {
        init.execute(&program);
    }
    init.serve()
}

/// Finishes the namespaces; returns the listener.
fn finish(birth: &Birth<'_>) -> Result<OwnedFd, Failure> {
    for membership in birth.memberships {
        rustix::io::write(membership, b"0").step("enter cgroup")?;
    }
    if !birth.memberships.is_empty() {
        sys::unshare(libc::CLONE_NEWCGROUP).step("unshare cgroup")?;
    }
    rustix::process::setsid().step("setsid")?;
    sys::set_host_name(c"sandbox").step("set host name")?;
    let listener = listen().step("listen")?;
    let mut mapped = [0; 8];
    rustix::io::retry_on_intr(|| rustix::io::read(birth.mapped, &mut mapped)).step("wait for users")?;
    identity::become_guest_user()?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    let proc = flags | MountFlags::NOEXEC | MountFlags::RDONLY;
    mount("proc", "/proc", "proc", proc, c"").step("mount /proc")?;
    mount("tmpfs", root::TMP_DIR, "tmpfs", flags, c"size=512m,mode=1777").step("mount /tmp")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    Ok(listener)
}

/// The programs in the folder of companions, by name.
fn companions() -> Vec<wire::Text> {
    let entries = fs::read_dir(wire::COMPANIONS_DIR).into_iter().flatten().flatten();
    let programs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_dir()));
    let mut names: Vec<_> = programs.map(|entry| entry.file_name()).collect();
    names.sort_unstable();
    names.truncate(wire::COMPANIONS_MAX);
    names.into_iter().map(wire::Text).collect()
}

fn tcp_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        flags,
        None,
    )?)
}

fn listen() -> io::Result<OwnedFd> {
    let socket = tcp_socket()?;
    sys::raise_loopback(&socket)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, LISTENER_PORT))?;
    rustix::net::listen(&socket, 64)?;
    Ok(socket)
}

impl Init<'_> {
    fn serve(&mut self) -> Result<(), Failure> {
        let mut buffer = vec![0; wire::MESSAGE_BYTES_MAX];
        loop {
            // Without a lending channel the third is the first once more.
            let lending = self.lending.as_ref().map_or(self.channel, AsFd::as_fd);
            let mut ready = [
                PollFd::new(&self.channel, PollFlags::IN),
                PollFd::new(&self.signals, PollFlags::IN),
                PollFd::from_borrowed_fd(lending, PollFlags::IN),
            ];
            rustix::io::retry_on_intr(|| poll(&mut ready, None)).step("poll")?;
            let [orders, children, loans] = ready.map(|descriptor| !descriptor.revents().is_empty());
            if children {
                let _ = rustix::io::read(self.signals, &mut [0; 128]);
                self.reap();
            }
            if loans && self.lending.is_some() {
                self.lend(&mut buffer);
            }
            if orders {
                match wire::receive(self.channel, &mut buffer, RecvFlags::DONTWAIT) {
                    Ok(Some((order, descriptors))) => self.obey(order, descriptors),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Ok(None) | Err(_) => sys::exit(1),
                }
            }
        }
    }

    fn obey(&mut self, order: Order, mut descriptors: Vec<OwnedFd>) {
        match order {
            Order::Furnish {
                limits,
                enforce,
                mounts,
            } => {
                let folders = Self::mount(&descriptors, &mounts);
                let reply = match folders.and_then(|()| self.furnish(&limits, enforce)) {
                    Ok(()) => Reply::Furnished {
                        companions: companions(),
                    },
                    Err(failure) => Reply::Failed(failure),
                };
                self.reply(&reply);
                self.settle();
            }
            Order::Exec(program) => self.execute(&program),
            Order::Accompany(program) => {
                let output = descriptors.pop();
                self.accompany(&program, output.as_ref().map_or(self.output, AsFd::as_fd));
            }
            Order::Signal { companion, signal } => {
                let process = match companion {
                    None => self.guest.filter(|_| !self.guest_ended),
                    Some(number) => self.companions.get(number).copied().flatten(),
                };
                if let Some(process) = process {
                    sys::signal_group(process, signal);
                }
            }
            Order::Lend => self.lending = descriptors.pop(),
            Order::Socket => {}
            Order::Stop => sys::signal_all(libc::SIGSTOP),
            Order::Continue => sys::signal_all(libc::SIGCONT),
        }
    }

    /// Mounts the code, and what is shared: the last descriptors.
    fn mount(descriptors: &[OwnedFd], mounts: &[wire::Text]) -> Result<(), Failure> {
        let (code, shares) = descriptors.split_at(descriptors.len().saturating_sub(mounts.len()));
        for (folder, target) in code.iter().zip([root::CODE_DIR, root::LAYERS_DIR]) {
            root::attach(folder, Path::new(target)).step("mount code")?;
        }
        if mounts.is_empty() {
            return Ok(());
        }
        let folders = mounts.iter().map(|folder| Path::new(&folder.0));
        root::attach_shares(shares.iter().zip(folders))
    }

    fn furnish(&mut self, limits: &Limits, enforce: bool) -> Result<(), Failure> {
        let size = std::ffi::CString::new(format!("size={}", limits.tmp_bytes)).step("size /tmp")?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount_remount(root::TMP_DIR, flags, size.as_c_str()).step("size /tmp")?;
        if enforce {
            self.memory_bytes_max = Some(limits.memory_bytes);
            limit(None, Resource::Nproc, u64::from(limits.pids) + 1)?;
            if self.guest.is_some() {
                limit(self.guest, Resource::Data, limits.memory_bytes)?;
                limit(self.guest, Resource::Nproc, u64::from(limits.pids) + 1)?;
            }
        }
        self.furnished = true;
        Ok(())
    }

    fn execute(&mut self, program: &Program) {
        let reply = match self.start(program, self.output, self.control) {
            Ok(guest) => {
                self.guest = Some(guest);
                Reply::Running
            }
            Err(failure) => Reply::Failed(failure),
        };
        self.reply(&reply);
        self.settle();
    }

    fn accompany(&mut self, program: &Program, output: BorrowedFd<'_>) {
        let reply = match self.start(program, output, self.null) {
            Ok(companion) => {
                self.companions.push(Some(companion));
                Reply::Running
            }
            Err(failure) => Reply::Failed(failure),
        };
        self.reply(&reply);
    }

    /// Makes the socket that was asked for.
    fn lend(&mut self, buffer: &mut [u8]) {
        let Some(lending) = &self.lending else { return };
        match wire::receive::<Order>(lending, buffer, RecvFlags::DONTWAIT) {
            Ok(Some((Order::Socket, _))) => {
                if let Ok(socket) = tcp_socket() {
                    let _ = wire::send(lending, &Reply::Socket, &[socket.as_fd()]);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => self.lending = None,
        }
    }

    fn start(&self, program: &Program, output: BorrowedFd<'_>, control: BorrowedFd<'_>) -> Result<Pid, Failure> {
        if let Some(bytes) = self.memory_bytes_max {
            limit(None, Resource::Data, bytes)?;
        }
        let argv: Vec<&[u8]> = program.argv.iter().map(wire::Text::bytes).collect();
        let env: Vec<&[u8]> = program.env.iter().map(wire::Text::bytes).collect();
        let image = Image::new(&argv, &env, program.cwd.bytes()).step("read program")?;
        let stage = Stage {
            image: &image,
            standard: [self.null, output, control],
            filter: self.filter,
        };
        sys::execute(&stage).map_err(|(step, errno)| Failure {
            step: step.to_owned(),
            errno,
        })
    }

    /// Gives up every right once none is needed any more.
    fn settle(&self) {
        if self.furnished && self.guest.is_some() {
            let _ = sys::drop_capabilities();
        }
    }

    /// Reaps every child that ended; ends with the last of the guest and its companions.
    fn reap(&mut self) {
        while let Ok(Some((child, status))) = wait(WaitOptions::NOHANG) {
            if Some(child) == self.guest {
                self.guest_ended = true;
                self.reply(&ended(status));
            } else if let Some(number) = self.companions.iter().position(|other| *other == Some(child)) {
                self.companions[number] = None;
                self.reply(&Reply::CompanionEnded {
                    number,
                    code: status.exit_status(),
                    signal: status.terminating_signal(),
                });
            }
            if self.guest_ended && self.companions.iter().all(Option::is_none) {
                sys::exit(0);
            }
        }
    }

    fn reply(&self, reply: &Reply) {
        let _ = wire::send(self.channel, reply, &[]);
    }
}

/// Limits a process, `None` for this one.
fn limit(process: Option<Pid>, resource: Resource, value: u64) -> Result<(), Failure> {
    let limit = Rlimit {
        current: Some(value),
        maximum: Some(value),
    };
    rustix::process::prlimit(process, resource, limit).step("set limits")?;
    Ok(())
}

/// The message that tells how a process ended.
pub fn ended(status: WaitStatus) -> Reply {
    Reply::Ended {
        code: status.exit_status(),
        signal: status.terminating_signal(),
    }
}
