//! Who makes servers of one kind: the seam between the state machine and processes or virtual machines.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bowline_agent::{CodeWay, Dial};
use bowline_foundation::id::AccountId;

use crate::file::{Effective, Kind, Schedule};
use crate::model::MachineFacts;

/// What the files of virtual machines' volumes end with; the volumes of other kinds are folders.
pub const VOLUME_SUFFIX: &str = "ext4";

/// Why a volume of instances of kind `kind` is none for others.
pub fn other_kind(source: &str, kind: Kind) -> String {
    format!("volume `{source}` belongs to instances of kind `{kind}`, which keep it in another form: name another one")
}

/// A server that is to be.
#[derive(Clone, Debug)]
pub struct ServerOrder {
    /// Unique for ever: 16 hexadecimal digits.
    pub server: String,
    pub account: AccountId,
    /// The instance's name.
    pub instance: String,
    /// The server's own address on this machine, if its kind has one.
    pub address: Option<String>,
    pub effective: Effective,
}

/// When servers of a configuration are to wait.
#[derive(Clone, Debug)]
pub struct Declared {
    pub server: Effective,
    pub schedules: Vec<Schedule>,
}

/// Servers of one configuration that belong to nobody yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub ready: u32,
    /// How many a schedule wants now, or will soon.
    pub scheduled: u32,
}

/// The most that one server may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    pub memory_mib: u64,
    pub cpu_millis: u64,
    pub storage_mib: u64,
}

/// How the agent of a server that was started is reached; it may take a while until it answers.
pub struct Reached {
    pub dial: Arc<dyn Dial>,
    pub code: CodeWay,
    /// What a person should know of how it runs, `process 9` say.
    pub detail: Option<String>,
    /// The same of a virtual machine, piece by piece.
    pub machine: Option<MachineFacts>,
    /// Whether it was ready before anybody asked for it.
    pub has_waited: bool,
    /// What its sandboxes may hold of memory in all, if that is less than the server's.
    pub room_mib: Option<u64>,
}

/// Why a provider could not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum ProvideError {
    /// The server can never be made so; the text is for whoever wrote the file.
    #[error("{0}")]
    Infeasible(String),
    /// It failed; it may work another time.
    #[error("{step} failed")]
    Failed {
        step: &'static str,
        #[source]
        source: io::Error,
    },
}

impl ProvideError {
    pub fn failed(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Failed { step, source }
    }
}

/// Makes servers of one kind. Each method may be called again for the same server, after a crash say, and then
/// goes on from whatever is there; given up in the middle, it leaves what [`Self::fence`] and [`Self::destroy`] remove. What it makes carries the server's identifier, so that [`Self::list`] finds it even if
/// nobody remembers it.
#[async_trait]
pub trait Provider: Send + Sync + 'static {
    fn kind(&self) -> Kind;

    /// The most that one server may be.
    fn offer(&self) -> Offer;

    /// Why servers of this configuration cannot be made here, whatever room there is; for whoever wrote the file.
    fn objection(&self, _effective: &Effective) -> Option<String> {
        None
    }

    /// What is being done for a server that does not run yet, if that takes long.
    fn progress(&self, _server: &str) -> Option<String> {
        None
    }

    /// Says of which configurations servers are to wait, and when; what was said before no longer counts.
    fn declare(&self, _declared: Vec<Declared>) {}

    /// How many servers of a configuration wait for whoever needs one, and how many are to by what was declared.
    fn waiting(&self, _effective: &Effective) -> Option<Waiting> {
        None
    }

    /// Sets up a server's resources: limits, volumes, images. Nothing runs yet.
    async fn configure(&self, order: &ServerOrder) -> Result<(), ProvideError>;

    /// Starts it. Its agent answers soon; its services are started through that.
    async fn spin_up(&self, order: &ServerOrder) -> Result<Reached, ProvideError>;

    /// Ends access to a server: when this returns nothing of it runs, nothing connects to it, and its volumes are free.
    /// Done at once for a server that is not there.
    async fn fence(&self, server: &str) -> Result<(), ProvideError>;

    /// Removes all that was made for a fenced server, its volumes excepted: they are not its own.
    async fn destroy(&self, server: &str) -> Result<(), ProvideError>;

    /// The servers of which anything is there.
    async fn list(&self) -> io::Result<Vec<String>>;
}
