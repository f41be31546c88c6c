//! Why the operations on sessions fail: one enum each, made of the same few parts.

use crate::session::id::{BatchToken, SessionId};
use crate::session::settings::InvalidSettings;
use crate::{Position, StreamId};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("session `{0}` does not exist")]
pub struct NoSuchSession(pub SessionId);

/// The session expired; it never begins anew by itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("session `{0}` is gone: nobody read it for too long")]
pub struct Gone(pub SessionId);

/// Nothing is wrong with the request; the same request may succeed later.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("retry later: {reason}")]
pub struct RetryLater {
    pub reason: String,
}

/// What is stored is damaged or of a format this build does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stored state of sessions cannot be read: {reason}")]
pub struct Damaged {
    pub reason: String,
}

/// The set was settled, given out again, parked, or its session has sought another place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("batch token `{0}` is stale")]
pub struct StaleToken(pub BatchToken);

#[derive(Clone, Debug, thiserror::Error)]
pub enum CreateError {
    #[error(transparent)]
    Invalid(#[from] InvalidSettings),
    #[error("stream `{0}` does not exist")]
    NoSuchStream(StreamId),
    #[error("the client token has created another session, `{0}`")]
    TokenReused(SessionId),
    #[error(transparent)]
    RetryLater(#[from] RetryLater),
    #[error(transparent)]
    Damaged(#[from] Damaged),
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    #[error("a read asks for at least one event and one byte, with names of bounded size: {0}")]
    Invalid(&'static str),
    #[error(transparent)]
    NoSuchSession(#[from] NoSuchSession),
    #[error(transparent)]
    Gone(#[from] Gone),
    #[error("stream `{0}` does not exist any more")]
    NoSuchStream(StreamId),
    /// Said once; the next read goes on with what is left.
    #[error("events up to `{next_available}` have been trimmed before they were delivered")]
    Trimmed { next_available: Position },
    /// Of the set that the request says is processed.
    #[error(transparent)]
    StaleToken(#[from] StaleToken),
    #[error(transparent)]
    RetryLater(#[from] RetryLater),
    #[error(transparent)]
    Damaged(#[from] Damaged),
}

/// For acknowledging, failing and extending alike.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SettleError {
    #[error(transparent)]
    NoSuchSession(#[from] NoSuchSession),
    #[error(transparent)]
    StaleToken(#[from] StaleToken),
    #[error("event `{0}` is not in the set")]
    NotInSet(Position),
    #[error("a lease or delay is `{actual_ms}` ms, at most `{max_ms}`")]
    TooLong { actual_ms: u128, max_ms: u128 },
    #[error("the parking list is full: `{0}` sets")]
    ParkingFull(usize),
    #[error(transparent)]
    RetryLater(#[from] RetryLater),
    #[error(transparent)]
    Damaged(#[from] Damaged),
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum SeekError {
    #[error(transparent)]
    NoSuchSession(#[from] NoSuchSession),
    #[error(transparent)]
    Gone(#[from] Gone),
    #[error("stream `{0}` does not exist any more")]
    NoSuchStream(StreamId),
    #[error(transparent)]
    RetryLater(#[from] RetryLater),
    #[error(transparent)]
    Damaged(#[from] Damaged),
}

/// For showing and listing alike.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ShowError {
    #[error(transparent)]
    NoSuchSession(#[from] NoSuchSession),
    #[error(transparent)]
    RetryLater(#[from] RetryLater),
    #[error(transparent)]
    Damaged(#[from] Damaged),
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum DeleteError {
    #[error(transparent)]
    NoSuchSession(#[from] NoSuchSession),
    #[error(transparent)]
    RetryLater(#[from] RetryLater),
    #[error(transparent)]
    Damaged(#[from] Damaged),
}

/// For all operations on a parking list.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ParkingError {
    #[error(transparent)]
    NoSuchSession(#[from] NoSuchSession),
    #[error(transparent)]
    Gone(#[from] Gone),
    #[error("set `{0}` is not parked")]
    NotParked(u64),
    #[error("`{asked}` sets cannot be given out again at once: there is room for `{room}`")]
    NoRoom { asked: usize, room: usize },
    #[error(transparent)]
    RetryLater(#[from] RetryLater),
    #[error(transparent)]
    Damaged(#[from] Damaged),
}

/// What any step may end in.
#[derive(Debug)]
pub(super) enum Fault {
    NoSuchSession(NoSuchSession),
    RetryLater(RetryLater),
    Damaged(Damaged),
}

impl Fault {
    pub fn retry(reason: impl ToString) -> Self {
        let reason = reason.to_string();
        Self::RetryLater(RetryLater { reason })
    }

    pub fn damaged(reason: impl ToString) -> Self {
        let reason = reason.to_string();
        Self::Damaged(Damaged { reason })
    }
}

impl From<bowline_store::ReadError> for Fault {
    fn from(error: bowline_store::ReadError) -> Self {
        match error {
            bowline_store::ReadError::Unavailable(reason) => Self::retry(reason),
            bowline_store::ReadError::Damaged(reason) => Self::damaged(reason),
        }
    }
}

macro_rules! from_fault {
    ($($error:ident),*) => {$(
        impl From<Fault> for $error {
            fn from(fault: Fault) -> Self {
                match fault {
                    Fault::NoSuchSession(fault) => Self::NoSuchSession(fault),
                    Fault::RetryLater(fault) => Self::RetryLater(fault),
                    Fault::Damaged(fault) => Self::Damaged(fault),
                }
            }
        }
    )*};
}

from_fault!(ReadError, SettleError, SeekError, ShowError, DeleteError, ParkingError);

/// Why a stream could not be read, as far as an operation on a session cares.
#[derive(Debug)]
pub(super) enum LogFault {
    NoSuchStream(StreamId),
    Trimmed(Position),
    RetryLater(RetryLater),
    Damaged(Damaged),
}

impl From<crate::ReadError> for LogFault {
    fn from(error: crate::ReadError) -> Self {
        let reason = error.to_string();
        match error {
            crate::ReadError::NoSuchStream(stream) => Self::NoSuchStream(stream),
            crate::ReadError::Trimmed { available, .. } => Self::Trimmed(available),
            crate::ReadError::Unavailable { .. } => Self::RetryLater(RetryLater { reason }),
            crate::ReadError::Damaged { .. } => Self::Damaged(Damaged { reason }),
        }
    }
}

macro_rules! from_log_fault {
    ($($error:ident),*) => {$(
        impl From<LogFault> for $error {
            fn from(fault: LogFault) -> Self {
                match fault {
                    LogFault::NoSuchStream(stream) => Self::NoSuchStream(stream),
                    LogFault::Trimmed(available) => Self::RetryLater(RetryLater {
                        reason: format!("the stream is being trimmed to `{available}`"),
                    }),
                    LogFault::RetryLater(fault) => Self::RetryLater(fault),
                    LogFault::Damaged(fault) => Self::Damaged(fault),
                }
            }
        }
    )*};
}

from_log_fault!(CreateError, ReadError, SeekError);
