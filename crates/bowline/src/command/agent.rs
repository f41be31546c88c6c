//! `bowline agent`: what runs inside an instance; the node starts it, not a person.

use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, ensure};
use async_trait::async_trait;
use bowline_agent::code::CodeStore;
use bowline_agent::{Accept, Channel, Host, HostOptions, Shows, UnixAccept, mux};
use bowline_foundation::clock::Clock;
use bowline_foundation::units::Mebibytes;
use bowline_sandbox::Backend;
use bowline_sandbox_linux::LinuxBackend;
use bowline_sandbox_linux::cell::place::{self, PlaceView};
use bowline_sandbox_linux::cell::{Spawner, SpawnerOptions, desk};
use bowline_sandbox_vm::AGENT_READY;
use bowline_sandbox_vm::guest::folders;
use bowline_sandbox_vm::guest::port::{self, Port};
use bowline_sandbox_wasm::{Compiler, WasmBackend};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};

use super::up;

/// Instances that a WebAssembly engine of an agent has room for, for each processor.
const WASM_SLOTS: u32 = 500;
/// The arguments of the agent of a virtual machine. What it keeps lies in the guest's memory and goes with it; runtimes that
/// were started ahead would take processor time from the one that is waited for.
pub const IN_GUEST: [&str; 7] = [
    "agent",
    "--port",
    bowline_sandbox_vm::protocol::AGENT_PORT,
    "--state",
    "/var/lib/bowline",
    "--prewarmed",
    "0",
];

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the node finds the agent.
    #[arg(long, value_name = "SOCKET", required_unless_present = "port")]
    socket: Option<PathBuf>,
    /// The port of a virtual machine by which the node finds it; code comes that way too.
    #[arg(long, value_name = "NAME", conflicts_with = "socket")]
    port: Option<String>,
    /// Where the node hands over folders that sandboxes share.
    #[arg(long, value_name = "SOCKET")]
    desk: Option<PathBuf>,
    /// A folder of the agent's own.
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// Where compiled modules are [default: in the agent's folder].
    #[arg(long, value_name = "DIR")]
    modules: Option<PathBuf>,
    /// Sandboxes kept ready for each runtime in use that starts slowly.
    #[arg(long, value_name = "N", default_value_t = 1)]
    prewarmed: usize,
    /// What all of these together may use.
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    prewarmed_memory: u32,
    /// The place to enter first: its control groups and mounts, as a file.
    #[arg(long, value_name = "FILE")]
    place: Option<PathBuf>,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(false)
        .init();
    std::fs::create_dir_all(&args.state)?;
    // From inside the place the program's path may be another.
    let program = std::env::current_exe()?;
    // The socket comes from outside the place, so that the node finds it whatever the agent sees.
    let listener = args.socket.as_deref().map(listen).transpose()?;
    let desk = args.desk.as_deref().map(desk::open).transpose();
    let desk = desk.context("cannot open the desk")?;
    if let Some(file) = &args.place {
        enter(file, &args)?;
    }
    up::runtime()?.block_on(serve(&args, (listener, desk), program))
}

fn listen(socket: &Path) -> anyhow::Result<UnixListener> {
    // One that an agent before this one left.
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket).with_context(|| format!("cannot listen on `{}`", socket.display()))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Enters the place before there are threads.
fn enter(file: &PathBuf, args: &Args) -> anyhow::Result<()> {
    let view: PlaceView = serde_json::from_slice(&std::fs::read(file)?)?;
    let scratch = args.state.join("root");
    std::fs::create_dir_all(&scratch)?;
    place::enter(&view, &scratch).context("cannot enter the instance's place")
}

/// The node's way to the agent, and where code is kept that comes by it.
fn way(args: &Args, listener: Option<UnixListener>) -> anyhow::Result<(Box<dyn Accept>, Option<CodeStore>)> {
    if let Some(listener) = listener {
        let listener = tokio::net::UnixListener::from_std(listener)?;
        return Ok((Box::new(UnixAccept::new(listener)), None));
    }
    let name = args.port.as_deref().unwrap_or_default();
    let port = port::device(name).and_then(|device| Port::open(&device));
    let port = port.with_context(|| format!("cannot open the port `{name}`"))?;
    let code = CodeStore::open(args.state.join("code")).context("cannot make the folder of code")?;
    Ok((Box::new(mux::acceptor(port)), Some(code)))
}

async fn serve(
    args: &Args,
    (listener, desk): (Option<UnixListener>, Option<OwnedFd>),
    program: PathBuf,
) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let spawner = match spawner(args, desk) {
        Ok(spawner) => Some(spawner),
        Err(error) => {
            tracing::warn!("this instance offers no Linux sandboxes: {error:#}");
            None
        }
    };
    let backends = backends(args, spawner.clone(), program)?;
    let log_dir = args.state.join("services");
    std::fs::create_dir_all(&log_dir)?;
    let (mut accept, code) = way(args, listener)?;
    let mut host = Host::new(HostOptions {
        clock: Clock::system(),
        backends,
        code,
        log_dir,
    });
    if args.port.is_some() {
        if let Some(spawner) = spawner {
            host = host.showing(Arc::new(InGuest(spawner)));
        }
        // Whoever started it in the guest waits for this word.
        writeln!(io::stdout(), "{AGENT_READY}")?;
    }
    tokio::select! {
        stopped = host.run(&mut *accept) => tracing::info!(%stopped, "the agent ends"),
        _ = terminate.recv() => tracing::info!("the agent was told to end"),
        () = node_gone() => tracing::info!("the node is gone"),
    }
    host.close().await;
    Ok(ExitCode::SUCCESS)
}

/// Shows the sandboxes in a guest folders for whose files the node is asked.
struct InGuest(Spawner);

#[async_trait]
impl Shows for InGuest {
    async fn show(&self, share: &str) -> io::Result<Channel> {
        let (port, tree) = folders::mount()?;
        self.0.borrow(share, tree).await.map_err(io::Error::other)?;
        Ok(Box::new(port))
    }

    async fn hide(&self, share: &str) -> io::Result<()> {
        self.0.unshare(share).await.map_err(io::Error::other)
    }
}

/// Returns when the other end of standard input is gone; never if that is no pipe.
async fn node_gone() {
    let pipe = io::stdin().as_fd().try_clone_to_owned();
    let Ok(mut pipe) = pipe.and_then(pipe::Receiver::from_owned_fd) else {
        return std::future::pending().await;
    };
    let mut word = [0];
    // Nobody writes there.
    while let Ok(1..) = pipe.read(&mut word).await {}
}

/// One backend for each kind of sandbox that can be made here.
fn backends(args: &Args, spawner: Option<Spawner>, program: PathBuf) -> anyhow::Result<Vec<Arc<dyn Backend>>> {
    let clock = Clock::system();
    let mut backends: Vec<Arc<dyn Backend>> = Vec::new();
    match spawner.map(|spawner| linux(&clock, args, spawner)).transpose() {
        Ok(linux) => backends.extend(linux.map(|linux| Arc::new(linux) as Arc<dyn Backend>)),
        Err(error) => tracing::warn!("this instance offers no Linux sandboxes: {error:#}"),
    }
    let modules = args.modules.clone().unwrap_or_else(|| args.state.join("wasm"));
    let mut wasm = bowline_sandbox_wasm::Options::new(clock, modules);
    wasm.slots = WASM_SLOTS;
    wasm.compiler = Compiler::Process(program);
    match WasmBackend::new(wasm) {
        Ok(wasm) => backends.push(Arc::new(wasm)),
        Err(error) => tracing::warn!("this instance offers no WebAssembly sandboxes: {error:#}"),
    }
    ensure!(!backends.is_empty(), "no kind of sandbox works here");
    Ok(backends)
}

/// What makes Linux sandboxes, with the desk where it is handed folders.
fn spawner(args: &Args, desk: Option<OwnedFd>) -> anyhow::Result<Spawner> {
    let spawner = Spawner::start(SpawnerOptions {
        state_dir: args.state.join("cells"),
        program: None,
    })?;
    if let Some(desk) = desk {
        desk::attend(desk, spawner.clone())?;
    }
    Ok(spawner)
}

fn linux(clock: &Clock, args: &Args, spawner: Spawner) -> anyhow::Result<LinuxBackend> {
    let mut options = bowline_sandbox_linux::Options::new(clock.clone(), args.state.join("linux"), spawner);
    options.warm_cells = args.prewarmed;
    options.warm_memory = Mebibytes(args.prewarmed_memory);
    Ok(LinuxBackend::new(options)?)
}
