//! QEMU's monitor: commands, their replies, and events, as JSON lines over one socket.
//!
//! A task reads what QEMU says and sorts it; commands go out one at a time. QEMU is trusted no more than its
//! guest: lines and queues are bounded, and what is not understood ends the connection.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, broadcast, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::VmError;
use crate::lines::Lines;

/// How long QEMU may take for a command that only changes its own state.
const COMMAND: Duration = Duration::from_secs(20);
/// Events that nobody has looked at yet.
const EVENTS_MAX: usize = 64;

/// What QEMU says.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// The first line.
    Greeting,
    /// What became of the command with this number: its value, or why it was refused.
    Reply { id: u64, result: Result<Value, String> },
    /// Something that happened.
    Event { name: String, data: Map<String, Value> },
}

/// A line that is no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message of QEMU's monitor: {0}")]
pub struct NotAMessage(String);

#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    #[serde(rename = "return")]
    value: Option<Value>,
    error: Option<RawError>,
    id: Option<u64>,
    event: Option<String>,
    #[serde(default)]
    data: Map<String, Value>,
}

#[derive(Deserialize)]
struct RawError {
    desc: String,
}

impl Message {
    /// Reads one line.
    pub fn parse(line: &[u8]) -> Result<Self, NotAMessage> {
        let raw: Raw = serde_json::from_slice(line).map_err(|error| NotAMessage(error.to_string()))?;
        match raw {
            Raw {
                event: Some(name),
                data,
                ..
            } => Ok(Self::Event { name, data }),
            Raw {
                value: Some(value),
                id: Some(id),
                ..
            } => Ok(Self::Reply { id, result: Ok(value) }),
            Raw {
                error: Some(error),
                id: Some(id),
                ..
            } => Ok(Self::Reply {
                id,
                result: Err(error.desc),
            }),
            Raw { greeting: Some(_), .. } => Ok(Self::Greeting),
            // An error without a number answers nothing of ours: the line before was unreadable.
            Raw { error: Some(error), .. } => Err(NotAMessage(error.desc)),
            _ => Err(NotAMessage("neither a reply nor an event".to_owned())),
        }
    }
}

/// A connection to the monitor of one QEMU.
#[derive(Debug)]
pub struct Qmp {
    turn: Mutex<Turn>,
    events: broadcast::Sender<Event>,
    reader: JoinHandle<()>,
}

/// Something that happened in QEMU.
pub type Event = (String, Map<String, Value>);

#[derive(Debug)]
struct Turn {
    writer: OwnedWriteHalf,
    replies: mpsc::Receiver<(u64, Result<Value, String>)>,
    last: u64,
}

impl Qmp {
    /// Greets QEMU at the other end of `socket`.
    pub async fn connect(socket: StdUnixStream) -> Result<Self, VmError> {
        let io = |source| VmError::Io {
            what: "open the monitor's socket".to_owned(),
            source,
        };
        socket.set_nonblocking(true).map_err(io)?;
        let (reader, writer) = UnixStream::from_std(socket).map_err(io)?.into_split();
        let (replies_in, replies) = mpsc::channel(4);
        let events = broadcast::channel(EVENTS_MAX).0;
        let qmp = Self {
            turn: Mutex::new(Turn {
                writer,
                replies,
                last: 0,
            }),
            events: events.clone(),
            reader: tokio::spawn(read(reader, replies_in, events)),
        };
        qmp.execute("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    /// Runs a command and waits for its value.
    pub async fn execute(&self, command: &str, arguments: Value) -> Result<Value, VmError> {
        self.exchange(command, arguments, None).await
    }

    /// Hands QEMU a file under a name, for a command that follows.
    pub async fn hand_over(&self, name: &str, file: BorrowedFd<'_>) -> Result<(), VmError> {
        self.exchange("getfd", json!({ "fdname": name }), Some(file)).await?;
        Ok(())
    }

    /// Events from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    async fn exchange(&self, command: &str, arguments: Value, file: Option<BorrowedFd<'_>>) -> Result<Value, VmError> {
        let mut turn = self.turn.lock().await;
        turn.last += 1;
        let id = turn.last;
        let line = json!({ "execute": command, "arguments": arguments, "id": id });
        let line = format!("{line}\n");
        let run = async {
            send(&turn.writer, line.as_bytes(), file).await.ok()?;
            while let Some((answered, result)) = turn.replies.recv().await {
                // A reply to a command whose caller went away is of no use.
                if answered == id {
                    return Some(result);
                }
            }
            None
        };
        match timeout(COMMAND, run).await {
            Ok(Some(Ok(value))) => Ok(value),
            Ok(Some(Err(reason))) => Err(VmError::Refused {
                command: command.to_owned(),
                reason,
            }),
            Ok(None) => Err(VmError::Ended("its monitor has closed".to_owned())),
            Err(_) => Err(VmError::Deadline {
                what: "a command of QEMU's monitor",
                allowed: COMMAND,
            }),
        }
    }
}

impl Drop for Qmp {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Sends a whole line; the file goes with its first byte.
async fn send(writer: &OwnedWriteHalf, line: &[u8], mut file: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let stream: &UnixStream = writer.as_ref();
    let mut rest = line;
    while !rest.is_empty() {
        let sent = stream
            .async_io(Interest::WRITABLE, || {
                let files = file.map(|file| [file]);
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut ancillary = SendAncillaryBuffer::new(&mut space);
                if let Some(files) = &files {
                    ancillary.push(SendAncillaryMessage::ScmRights(files));
                }
                let pieces = [io::IoSlice::new(rest)];
                Ok(sendmsg(stream.as_fd(), &pieces, &mut ancillary, SendFlags::NOSIGNAL)?)
            })
            .await?;
        file = None;
        rest = &rest[sent..];
    }
    Ok(())
}

async fn read(
    source: OwnedReadHalf,
    replies: mpsc::Sender<(u64, Result<Value, String>)>,
    events: broadcast::Sender<Event>,
) {
    let mut lines = Lines::new(source);
    while let Ok(Some(line)) = lines.next().await {
        match Message::parse(&line) {
            Ok(Message::Greeting) => {}
            Ok(Message::Event { name, data }) => {
                let _ = events.send((name, data));
            }
            Ok(Message::Reply { id, result }) => {
                if replies.send((id, result)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the monitor of a virtual machine is given up");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart() {
        let parse = |text: &str| Message::parse(text.as_bytes());
        assert_eq!(
            parse(r#"{"QMP":{"version":{},"capabilities":[]}}"#),
            Ok(Message::Greeting)
        );
        assert_eq!(
            parse(r#"{"return":{"status":"running"},"id":7}"#),
            Ok(Message::Reply {
                id: 7,
                result: Ok(json!({"status":"running"}))
            })
        );
        assert_eq!(
            parse(r#"{"id":8,"error":{"class":"GenericError","desc":"no such device"}}"#),
            Ok(Message::Reply {
                id: 8,
                result: Err("no such device".to_owned())
            })
        );
        let event = r#"{"timestamp":{"seconds":1,"microseconds":2},"event":"STOP"}"#;
        assert_eq!(
            parse(event),
            Ok(Message::Event {
                name: "STOP".to_owned(),
                data: Map::new()
            })
        );
        for bad in [
            "",
            "{}",
            "[1]",
            "nonsense",
            r#"{"return":{}}"#,
            r#"{"error":{"desc":"bad JSON"}}"#,
        ] {
            assert!(parse(bad).is_err(), "`{bad}` was read");
        }
    }

    #[tokio::test]
    async fn replies_find_their_commands_and_refusals_say_why() {
        let (ours, theirs) = StdUnixStream::pair().unwrap();
        let qemu = tokio::task::spawn_blocking(move || {
            use std::io::{BufRead, BufReader, Write};
            let mut out = theirs.try_clone().unwrap();
            writeln!(out, r#"{{"QMP":{{}}}}"#).unwrap();
            for line in BufReader::new(theirs).lines() {
                let command: Value = serde_json::from_str(&line.unwrap()).unwrap();
                writeln!(out, r#"{{"event":"RESUME","data":{{}}}}"#).unwrap();
                writeln!(out, r#"{{"return":"stale","id":0}}"#).unwrap();
                let reply = match command["execute"].as_str().unwrap() {
                    "quit" => return,
                    "bad" => json!({ "id": command["id"], "error": { "desc": "not today" } }),
                    name => json!({ "id": command["id"], "return": name }),
                };
                writeln!(out, "{reply}").unwrap();
            }
        });
        let qmp = Qmp::connect(ours).await.unwrap();
        let mut events = qmp.events();
        assert_eq!(qmp.execute("stop", json!({})).await.unwrap(), "stop");
        assert_eq!(events.recv().await.unwrap().0, "RESUME");
        let refused = qmp.execute("bad", json!({})).await.unwrap_err();
        assert_eq!(refused.to_string(), "QEMU refused `bad`: not today");
        let ended = qmp.execute("quit", json!({})).await.unwrap_err();
        assert!(matches!(ended, VmError::Ended(_)), "{ended}");
        qemu.await.unwrap();
    }
}
