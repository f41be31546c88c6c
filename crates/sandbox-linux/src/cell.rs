//! A cell: a place with its own namespaces, root, limits and network, in which one process tree runs.
//!
//! The node never forks. A small single-threaded process, the *spawner*, makes cells on its behalf:
//!
//! ```text
//! node ── requests ──▶ spawner ── clone3 ──▶ cell init (pid 1) ── vfork ──▶ guest
//!   ▲                     │                        │
//!   └────── one channel per cell (replies) ◀───────┘
//! ```
//!
//! A cell's life: [`Spawner::create`] → [`Cell::furnish`] (code, `/tmp`, limits) → [`Cell::exec`] (only
//! if it was not started with a command) → [`Cell::try_exit`] → [`Cell::destroy`]. Other programs may be
//! started beside the guest ([`Cell::accompany`]); the cell then ends with the last of them. Dropping a [`Cell`],
//! or a future that makes one, destroys it too, without waiting.

pub mod cgroup;
mod channel;
pub mod desk;
mod identity;
mod init;
mod lender;
mod link;
pub mod meter;
pub mod place;
mod root;
mod seccomp;
mod share;
mod spawner;
mod sys;
mod wire;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bowline_foundation::units::Mebibytes;
use bowline_sandbox::{Mount, ProcessorShare, Share};
use rustix::pipe::PipeFlags;

use channel::{Channel, Gauges};
pub use lender::Lender;
use link::Link;
use wire::{Limits, Order, Reply, Request};

/// The argument that tells the node's binary to become the spawner; see [`spawner_main`].
pub const SPAWNER_ARGUMENT: &str = "__spawner";

/// What a spawner needs to know before it starts.
#[derive(Clone, Debug)]
pub struct SpawnerOptions {
    /// A private folder of the node; made if missing. Two spawners must not share one.
    pub state_dir: PathBuf,
    /// The program that calls [`spawner_main`] when its first argument is [`SPAWNER_ARGUMENT`]; `None`:
    /// this very program.
    pub program: Option<PathBuf>,
}

/// A handle on the spawner process; cheap to clone. When the last handle is gone, or the node dies, the
/// spawner kills every cell, cleans up and ends.
#[derive(Clone, Debug)]
pub struct Spawner {
    link: Arc<Link>,
}

/// A host path that a cell sees read-only, without set-uid programs and without devices.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReadOnlyBind {
    /// The folder or file on the host.
    pub host: PathBuf,
    /// Where the cell sees it: absolute; missing parents are made.
    pub inside: PathBuf,
}

/// A program to execute.
#[derive(Clone, Debug)]
pub struct Command {
    /// The program's path inside the cell, then its arguments.
    pub argv: Vec<OsString>,
    /// The whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// The working folder inside the cell.
    pub cwd: PathBuf,
}

/// When the guest's program is executed.
#[derive(Clone, Debug)]
pub enum Start {
    /// At once, before any function is known (a pre-warmed interpreter).
    Now(Command),
    /// When [`Cell::exec`] is called.
    Later,
}

/// What is known of a cell when it is made.
#[derive(Clone, Debug)]
pub struct CellPlan {
    /// Host paths to show besides the system (`/usr` and what belongs to it). Plans with equal binds
    /// share a prepared root, so keep the number of different ones small.
    pub binds: Vec<ReadOnlyBind>,
    /// A folder that is the root, read-only, in place of the system: an unpacked image. It has the folders of
    /// [`MOUNT_POINTS`](bowline_sandbox::image::MOUNT_POINTS), and its files must be readable by everybody.
    pub image: Option<PathBuf>,
    /// When the program is executed.
    pub start: Start,
}

/// What a function brings to a cell.
#[derive(Clone, Debug)]
pub struct Furnishing {
    /// A folder that becomes `/var/task`, read-only. Its files must be readable by everybody. A cell with an image
    /// for its root has neither this nor layers.
    pub code: Option<PathBuf>,
    /// A folder that becomes `/opt`, likewise; nothing lies there without one.
    pub layers: Option<PathBuf>,
    /// What it shares with other cells, in folders of `/mnt`; each is kept by [`Spawner::share`].
    pub mounts: Vec<Mount>,
    /// The size of `/tmp`.
    pub tmp: Mebibytes,
    /// The memory limit. Files in `/tmp` count towards it.
    pub memory: Mebibytes,
    /// What it has of the processors.
    pub processors: ProcessorShare,
    /// How many processes and threads the guest may have at once.
    pub pids: u32,
}

/// How a guest's main process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Its status.
    pub status: ExitStatus,
    /// Whether the kernel killed something in the cell because of the memory limit.
    pub out_of_memory: bool,
}

/// The status of a process that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this code.
    Code(i32),
    /// A signal with this number killed it.
    Signal(i32),
}

/// `exit status 1` or `signal: killed`.
impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => match signal_name(signal) {
                Some(name) => write!(f, "signal: {name}"),
                None => write!(f, "signal: {signal}"),
            },
        }
    }
}

fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        libc::SIGHUP => "hangup",
        libc::SIGINT => "interrupt",
        libc::SIGQUIT => "quit",
        libc::SIGILL => "illegal instruction",
        libc::SIGTRAP => "trace/breakpoint trap",
        libc::SIGABRT => "aborted",
        libc::SIGBUS => "bus error",
        libc::SIGFPE => "floating point exception",
        libc::SIGKILL => "killed",
        libc::SIGSEGV => "segmentation fault",
        libc::SIGPIPE => "broken pipe",
        libc::SIGALRM => "alarm clock",
        libc::SIGTERM => "terminated",
        libc::SIGSYS => "bad system call",
        libc::SIGXCPU => "cpu time limit exceeded",
        _ => return None,
    })
}

/// What a cell used so far; zeros where the host gives no cgroup to tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CellUsage {
    /// Processor time.
    pub cpu: Duration,
    /// The highest memory use since the cell was made.
    pub memory_bytes_max: u64,
    /// The memory in use.
    pub memory_bytes_now: u64,
}

/// Why something could not be done with a cell.
#[derive(Debug, thiserror::Error)]
pub enum CellError {
    /// A step of making, furnishing or executing failed; the cell must be destroyed.
    #[error("`{step}` failed")]
    Step {
        /// What was tried.
        step: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The guest or the cell's init ended meanwhile.
    #[error("the cell ended: {0}")]
    Ended(ExitStatus),
    /// The spawner process is gone, and every cell with it.
    #[error("the spawner is gone")]
    SpawnerGone,
    /// A request that does not fit in a message, or a text with a zero byte in it.
    #[error("request refused: {0}")]
    Refused(&'static str),
}

/// A cell that lives.
#[derive(Debug)]
pub struct Cell {
    place: Place,
    pidfd: OwnedFd,
    gauges: Gauges,
    listener: Option<OwnedFd>,
    output: Option<OwnedFd>,
    control: Option<OwnedFd>,
    ended: Option<ExitStatus>,
    companions: Vec<OsString>,
    /// Ends of companions that nobody has asked for yet.
    companions_ended: Vec<(usize, ExitStatus)>,
}

/// The folder of programs that [`Cell::accompany`] may start: an absolute path inside the cell.
pub const COMPANIONS_DIR: &str = wire::COMPANIONS_DIR;

/// How a cell competes for the processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// By its limit: what it has after furnishing.
    Full {
        /// The processor time of the limit.
        cpu_millis: u32,
    },
    /// Behind every process of ordinary priority, and beside others of the kind by its limit.
    Leftover {
        /// The processor time of the limit.
        cpu_millis: u32,
    },
}

/// A cell in the spawner's keeping; dropping it tells the spawner to destroy it.
#[derive(Debug)]
struct Place {
    link: Arc<Link>,
    id: u64,
    channel: Channel,
}

impl Drop for Place {
    fn drop(&mut self) {
        // Fails only if the spawner is gone, and then so is the cell.
        let _ = self.link.send(&Request::Destroy { cell: self.id }, Vec::new());
    }
}

/// Becomes the spawner: the composition root calls this first thing in `main` when the first argument is
/// [`SPAWNER_ARGUMENT`], before any thread exists. The socket to the node is standard input.
pub fn spawner_main() -> ! {
    spawner::main()
}

impl Spawner {
    /// Starts the spawner process and removes what a crashed node with the same state folder left.
    pub fn start(options: SpawnerOptions) -> io::Result<Spawner> {
        let link = Arc::new(Link::start(&options)?);
        Ok(Self { link })
    }

    /// Makes a cell. Needs a tokio runtime.
    pub async fn create(&self, plan: CellPlan) -> Result<Cell, CellError> {
        let starts = matches!(plan.start, Start::Now(_));
        let (place, ends) = self.request(plan).map_err(failed("request cell"))?;
        let (mut spawned, mut listener, mut running, mut ended) = (None, None, !starts, None);
        loop {
            if running && let (Some(_), Some(_)) = (&spawned, &listener) {
                break;
            }
            let (reply, mut descriptors) = place.channel.next().await?;
            match reply {
                Reply::Spawned { gauges } if !descriptors.is_empty() => {
                    let pidfd = descriptors.remove(0);
                    spawned = Some((pidfd, Gauges::new(gauges, descriptors)));
                }
                Reply::Ready => listener = descriptors.pop(),
                Reply::Running => running = true,
                // The init and the spawner report on their own: a short guest may end before `Spawned` comes.
                Reply::Ended { code, signal } if starts && running => ended = Some(exit_status(code, signal)),
                other => return Err(refusal(other)),
            }
        }
        let (pidfd, gauges) = spawned.ok_or(CellError::SpawnerGone)?;
        Ok(Cell {
            place,
            pidfd,
            gauges,
            listener,
            output: Some(ends.output),
            control: Some(ends.control),
            ended,
            companions: Vec::new(),
            companions_ended: Vec::new(),
        })
    }

    fn request(&self, plan: CellPlan) -> io::Result<(Place, NodeEnds)> {
        let (node_end, init_end) = wire::pair()?;
        let (output, guest_output) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (control, guest_control) = UnixStream::pair()?;
        rustix::io::ioctl_fionbio(&output, true)?;
        control.set_nonblocking(true)?;
        let copy = node_end.try_clone()?;
        let id = self.link.next_cell();
        let theirs = vec![copy, init_end, guest_output, guest_control.into()];
        self.link.send(&Request::create(id, plan), theirs)?;
        let place = Place {
            link: self.link.clone(),
            id,
            channel: Channel::new(node_end)?,
        };
        let control = control.into();
        Ok((place, NodeEnds { output, control }))
    }

    /// Begins to keep a folder that cells share; once more while it is kept does nothing.
    pub async fn share(&self, share: &Share) -> Result<(), CellError> {
        self.about_share(&Request::Share(share.into()), Vec::new()).await
    }

    /// Ends it; cells that have it keep it until they are gone. Returns once what was written in a volume that no cell
    /// has lies in its file.
    pub async fn unshare(&self, name: &str) -> Result<(), CellError> {
        let name = wire::Text(name.into());
        self.about_share(&Request::Unshare { name }, Vec::new()).await
    }

    /// A folder that is kept, as a mount that is attached nowhere yet, for the spawner of another program on this machine.
    pub async fn lend(&self, name: &str) -> Result<OwnedFd, CellError> {
        let name = wire::Text(name.into());
        match self.ask(&Request::Lend { name }, Vec::new()).await? {
            (Reply::Lent, mut descriptors) => descriptors.pop().ok_or(CellError::SpawnerGone),
            (other, _) => Err(refusal(other)),
        }
    }

    /// Begins to keep a folder that is mounted nowhere yet, as if it had been made here.
    pub async fn borrow(&self, name: &str, tree: OwnedFd) -> Result<(), CellError> {
        let name = wire::Text(name.into());
        self.about_share(&Request::Borrow { name }, vec![tree]).await
    }

    async fn about_share(&self, request: &Request, descriptors: Vec<OwnedFd>) -> Result<(), CellError> {
        match self.ask(request, descriptors).await? {
            (Reply::Done, _) => Ok(()),
            (other, _) => Err(refusal(other)),
        }
    }

    /// Asks the spawner about a share, and waits for its answer.
    async fn ask(&self, request: &Request, descriptors: Vec<OwnedFd>) -> Result<(Reply, Vec<OwnedFd>), CellError> {
        let asked = || {
            let (ours, theirs) = wire::pair()?;
            self.link
                .send(request, std::iter::once(theirs).chain(descriptors).collect())?;
            Channel::new(ours)
        };
        asked().map_err(failed("request share"))?.next().await
    }

    /// Kills every cell, waits for the spawner's end.
    pub async fn shut_down(&self) {
        let link = self.link.clone();
        let _ = tokio::task::spawn_blocking(move || link.shut_down()).await;
    }
}

/// The node's ends of what is connected to a guest.
struct NodeEnds {
    output: OwnedFd,
    control: OwnedFd,
}

fn failed(step: &'static str) -> impl FnOnce(io::Error) -> CellError {
    move |source| match source.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => CellError::SpawnerGone,
        io::ErrorKind::FileTooLarge => CellError::Refused("it does not fit in a message"),
        _ => CellError::Step {
            step: step.to_owned(),
            source,
        },
    }
}

/// Why the reply that was waited for will not come.
fn refusal(reply: Reply) -> CellError {
    match reply {
        Reply::Failed(failure) => CellError::Step {
            step: failure.step,
            source: io::Error::from_raw_os_error(failure.errno),
        },
        Reply::Ended { code, signal } => CellError::Ended(exit_status(code, signal)),
        _ => CellError::Refused("it came out of turn"),
    }
}

fn exit_status(code: Option<i32>, signal: Option<i32>) -> ExitStatus {
    match (code, signal) {
        (Some(code), _) => ExitStatus::Code(code),
        (None, signal) => ExitStatus::Signal(signal.unwrap_or(libc::SIGKILL)),
    }
}

impl Cell {
    /// Mounts the code and the layers, sizes `/tmp`, sets the limits. At most once; a frozen cell must be thawed first.
    pub async fn furnish(&mut self, furnishing: Furnishing) -> Result<(), CellError> {
        let request = Request::Furnish {
            cell: self.place.id,
            limits: Limits::from(&furnishing),
            code: furnishing.code.map(Into::into),
            layers: furnishing.layers.map(Into::into),
            mounts: furnishing.mounts.into_iter().map(Into::into).collect(),
        };
        self.place
            .link
            .send(&request, Vec::new())
            .map_err(failed("request furnishing"))?;
        match self.expect(|reply| matches!(reply, Reply::Furnished { .. })).await? {
            Reply::Furnished { companions } => {
                self.companions = companions.into_iter().map(|name| name.0).collect();
            }
            other => return Err(refusal(other)),
        }
        Ok(())
    }

    /// The names of the programs in [`COMPANIONS_DIR`], in order; known once the cell is furnished.
    pub fn companions(&self) -> &[OsString] {
        &self.companions
    }

    /// Executes the program, for a cell with [`Start::Later`]; returns once `execve` succeeded or failed.
    pub async fn exec(&mut self, command: Command) -> Result<(), CellError> {
        let order = Order::Exec(command.into());
        self.place.channel.order(&order).map_err(failed("request execution"))?;
        self.expect(|reply| matches!(reply, Reply::Running)).await.map(|_| ())
    }

    /// Executes a program beside the guest, which prints to `output` (a pipe's write end); returns once
    /// `execve` succeeded or failed. The cell then lives until the guest and all its companions ended.
    pub async fn accompany(&mut self, command: Command, output: OwnedFd) -> Result<(), CellError> {
        let order = Order::Accompany(command.into());
        let sent = self.place.channel.order_with(&order, &[output.as_fd()]);
        sent.map_err(failed("request execution"))?;
        self.expect(|reply| matches!(reply, Reply::Running)).await.map(|_| ())
    }

    /// Sends a signal to the guest's process group, or to that of a companion, counted from zero in the
    /// order of starting. Nothing happens if it has ended.
    pub fn signal(&self, companion: Option<usize>, signal: i32) -> io::Result<()> {
        self.place.channel.order(&Order::Signal { companion, signal })
    }

    /// Where sockets of the cell's network can be had. At most once.
    pub fn lender(&self) -> io::Result<Lender> {
        let (ours, theirs) = wire::pair()?;
        self.place.channel.order_with(&Order::Lend, &[theirs.as_fd()])?;
        Ok(Lender::new(Channel::new(ours)?))
    }

    /// Waits for the end of the guest or of a companion that was not told of yet.
    pub fn poll_news(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let known = self.ended.is_some();
            match self.place.channel.poll_next(cx) {
                Poll::Ready(Some(reply)) => self.note(&reply),
                // The end of the cell itself shows at its pidfd.
                Poll::Ready(_) | Poll::Pending if self.companions_ended.is_empty() => return Poll::Pending,
                Poll::Ready(_) | Poll::Pending => return Poll::Ready(()),
            }
            if self.ended.is_some() != known {
                return Poll::Ready(());
            }
        }
    }

    /// Whether the guest is known to have ended; asks nobody.
    pub fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// The ends of companions since this was asked last.
    pub fn take_companions_ended(&mut self) -> Vec<(usize, ExitStatus)> {
        std::mem::take(&mut self.companions_ended)
    }

    fn note(&mut self, reply: &Reply) {
        match *reply {
            Reply::Ended { code, signal } if self.ended.is_none() => self.ended = Some(exit_status(code, signal)),
            Reply::CompanionEnded { number, code, signal } => {
                self.companions_ended.push((number, exit_status(code, signal)));
            }
            _ => {}
        }
    }

    async fn expect(&mut self, wanted: impl Fn(&Reply) -> bool) -> Result<Reply, CellError> {
        if let Some(status) = self.ended {
            return Err(CellError::Ended(status));
        }
        let mut reply = self.place.channel.next().await?.0;
        while matches!(reply, Reply::CompanionEnded { .. }) {
            self.note(&reply);
            reply = self.place.channel.next().await?.0;
        }
        if wanted(&reply) {
            return Ok(reply);
        }
        let refusal = refusal(reply);
        if let CellError::Ended(status) = refusal {
            self.ended = Some(status);
        }
        Err(refusal)
    }

    /// A TCP listener on 127.0.0.1:9001 inside the cell's network, non-blocking.
    ///
    /// # Panics
    /// If taken twice.
    pub fn take_listener(&mut self) -> OwnedFd {
        self.listener.take().expect("the listener is taken once")
    }

    /// The read end of the guest's standard output and error, a pipe, non-blocking.
    ///
    /// # Panics
    /// If taken twice.
    pub fn take_output(&mut self) -> OwnedFd {
        self.output.take().expect("the output is taken once")
    }

    /// Our end of the guest's file descriptor 3, a Unix stream socket, non-blocking.
    ///
    /// # Panics
    /// If taken twice.
    pub fn take_control(&mut self) -> OwnedFd {
        self.control.take().expect("the control socket is taken once")
    }

    /// A descriptor that becomes readable when the guest's main process and all it started are gone.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// How the guest ended, if it did. Cheap.
    pub fn try_exit(&mut self) -> Option<Exit> {
        while self.ended.is_none() {
            let (reply, _) = self.place.channel.try_next()?;
            self.note(&reply);
        }
        self.ended.map(|status| Exit {
            status,
            out_of_memory: self.gauges.ran_out_of_memory(),
        })
    }

    /// Stops every process in the cell; returns before the last one stands still.
    pub fn freeze(&self) -> io::Result<()> {
        let brake = self.gauges.brake(true);
        brake.unwrap_or_else(|| self.place.channel.order(&Order::Stop))
    }

    /// Lets a frozen cell run again.
    pub fn thaw(&self) -> io::Result<()> {
        let brake = self.gauges.brake(false);
        brake.unwrap_or_else(|| self.place.channel.order(&Order::Continue))
    }

    /// Lets the cell compete for the processors as a plain process of ordinary priority does, as far as
    /// its limit goes, or only for what others leave. Cheap: one write to an open file.
    pub fn set_claim(&self, claim: Claim) {
        self.gauges.share(match claim {
            Claim::Full { cpu_millis } => cgroup::shares_of(cpu_millis),
            Claim::Leftover { cpu_millis } => cgroup::leftover_of(cpu_millis),
        });
    }

    /// What the cell used so far. Cheap: a few reads of open files.
    pub fn usage(&self) -> CellUsage {
        self.gauges.usage()
    }

    /// Kills everything in the cell, waits until it is gone, removes its cgroups.
    pub async fn destroy(self) {
        let request = Request::Destroy { cell: self.place.id };
        if self.place.link.send(&request, Vec::new()).is_err() {
            return;
        }
        // The channel ends with the spawner.
        while let Ok((reply, _)) = self.place.channel.next().await {
            if matches!(reply, Reply::Gone) {
                return;
            }
        }
    }
}
