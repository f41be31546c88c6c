//! One server that is a virtual machine, with the way to its agent; it can be taken away from its instance, as a whole.

use std::any::Any;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bowline_agent::mux::{self, MuxDial};
use bowline_agent::{Channel, Dial, FolderWay, Lent, Link, Parted, Reading};
use bowline_sandbox_vm::{Vm, VmError};
use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::folders::Folders;

/// How long it may take until all that was written to a machine's agent is read.
const QUIET_MAX: Duration = Duration::from_secs(10);
/// How often it is looked whether it is.
const TICK: Duration = Duration::from_millis(2);

/// A virtual machine with an agent.
pub struct Whole {
    folders: Folders,
    pub(super) vm: Vm,
    mux: Mutex<MuxDial>,
    pub(super) cpu_millis: Option<u32>,
    /// It belongs to an invocation, no longer to an instance.
    taken: AtomicBool,
}

impl Whole {
    /// The agent has seen all channels before `channel`, if it has seen any.
    pub(super) fn new(vm: Vm, cpu_millis: Option<u32>, channel: Option<u32>, program: &Path) -> io::Result<Arc<Self>> {
        let stream = vm.take_agent().ok_or(io::ErrorKind::NotConnected)?;
        let mux = match channel {
            None => mux::dialer(stream_of(stream)?),
            Some(channel) => mux::dialer_from(stream_of(stream)?, channel),
        };
        Ok(Arc::new(Self {
            folders: Folders::new(program.to_owned()),
            vm,
            mux: Mutex::new(mux),
            cpu_millis,
            taken: AtomicBool::new(false),
        }))
    }

    /// Says that its instance does without it from now on.
    pub fn take(&self) {
        self.taken.store(true, Ordering::Release);
    }

    /// Whether it is no instance's any more.
    pub fn is_taken(&self) -> bool {
        self.taken.load(Ordering::Acquire)
    }

    /// Has its only invocation leave its channel, so that the machine can be saved. Or says why not: volumes stay where they
    /// are, and the next machine of its instance gets them.
    pub async fn part(&self, link: &Link, run: &str) -> Result<Parted, String> {
        if self.vm.machine().volumes > 0 {
            return Err("its instance has volumes, which cannot be taken along".to_owned());
        }
        link.part(run).await
    }

    /// Has what its volumes hold back written; it is of no use afterwards.
    pub async fn settle(&self) -> Result<(), VmError> {
        self.vm.settle().await
    }

    pub fn is_alive(&self) -> bool {
        self.vm.is_alive()
    }

    /// Ends it; returns when its process is gone, and nothing that it asked for is done any more.
    pub async fn end(&self) -> String {
        let words = self.vm.end().await;
        self.folders.end().await;
        words
    }

    /// Ends all channels to the agent, those of folders too; when this returns nothing is on its way there. Gives the channel that comes next.
    pub(super) async fn hush(&self) -> io::Result<u32> {
        let mux = self.mux.lock().clone();
        let hushed = async {
            let channel = mux.halt().await;
            self.folders.end().await;
            while !self.vm.port_is_read()? {
                sleep(TICK).await;
            }
            Ok(channel)
        };
        let late = |_| {
            io::Error::new(
                io::ErrorKind::TimedOut,
                format!("its port was not read within {QUIET_MAX:?}"),
            )
        };
        timeout(QUIET_MAX, hushed).await.map_err(late)?
    }

    /// Opens the way to the agent again, in the same machine.
    pub(super) fn speak(&self, channel: u32) -> io::Result<()> {
        *self.mux.lock() = mux::dialer_from(stream_of(self.vm.port_again()?)?, channel);
        Ok(())
    }
}

fn stream_of(stream: std::os::unix::net::UnixStream) -> io::Result<UnixStream> {
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// The way to the agent of a machine.
pub(super) struct WholeDial(pub Arc<Whole>);

#[async_trait]
impl Dial for WholeDial {
    async fn dial(&self) -> io::Result<Channel> {
        let mux = self.0.mux.lock().clone();
        mux.dial().await
    }

    fn folder_way(&self) -> FolderWay {
        FolderWay::Served
    }

    async fn serve(&self, share: &str, lent: Lent, channel: (Channel, BytesMut)) -> io::Result<()> {
        self.0.folders.serve(share, lent, channel)
    }

    fn keeps(&self, share: &str) -> bool {
        self.0.folders.serves(share)
    }

    async fn take_back(&self, share: &str) -> io::Result<()> {
        self.0.folders.take_back(share).await
    }

    fn machine(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(self.0.clone())
    }

    /// What its QEMU has of memory only grows, so it says nothing of what is used.
    fn read_meters(&self) -> Reading {
        Reading {
            memory_bytes: None,
            cpu: self.0.vm.cpu(),
        }
    }
}
