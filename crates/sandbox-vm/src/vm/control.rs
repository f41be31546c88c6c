//! The channel to the first process of a guest: one order at a time.

use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::VmError;
use crate::lines::{LINE_BYTES_MAX, Lines};
use crate::protocol::{Answer, Ask, Order, Reply, VERSION, line};

#[derive(Debug)]
pub struct Control {
    turn: Arc<Mutex<Turn>>,
    reader: JoinHandle<()>,
}

#[derive(Debug)]
struct Turn {
    writer: OwnedWriteHalf,
    answers: mpsc::Receiver<Result<Answer, String>>,
    last: u64,
}

/// That no order is on its way to a guest.
#[derive(Debug)]
pub struct Quiet {
    _turn: OwnedMutexGuard<Turn>,
}

impl Control {
    pub fn open(socket: StdUnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let (reader, writer) = UnixStream::from_std(socket)?.into_split();
        let (answers_in, answers) = mpsc::channel(4);
        Ok(Self {
            turn: Arc::new(Mutex::new(Turn {
                writer,
                answers,
                last: 0,
            })),
            reader: tokio::spawn(read(reader, answers_in)),
        })
    }

    /// Waits until the guest says that it is ready.
    pub async fn ready(&self) -> Result<(), VmError> {
        match self.turn.lock().await.answer(0).await? {
            Reply::Ready { version: VERSION } => Ok(()),
            other => Err(VmError::Protocol {
                channel: "control",
                found: format!("{other:?}, expected version {VERSION}"),
            }),
        }
    }

    /// Gives an order and waits for its answer.
    pub async fn order(&self, order: Order, allowed: Duration) -> Result<Reply, VmError> {
        let exchange = async {
            let mut turn = self.turn.lock().await;
            turn.last += 1;
            let id = turn.last;
            let text = line(&Ask { id, order });
            let bytes = text.len() as u64;
            // The guest would read a piece of it, and end.
            if bytes > LINE_BYTES_MAX {
                return Err(VmError::TooLarge {
                    what: "an order to the guest",
                    bytes,
                    bytes_max: LINE_BYTES_MAX,
                });
            }
            let sent = turn.writer.write_all(&text).await;
            sent.map_err(|error| VmError::Ended(error.to_string()))?;
            turn.answer(id).await
        };
        timeout(allowed, exchange).await.map_err(|_| VmError::Deadline {
            what: "an order to the guest",
            allowed,
        })?
    }

    /// Keeps orders out while the guard lives.
    pub async fn quiet(&self) -> Quiet {
        Quiet {
            _turn: Arc::clone(&self.turn).lock_owned().await,
        }
    }
}

impl Turn {
    /// The answer with this number; older ones are to orders that nobody waits for any more.
    async fn answer(&mut self, id: u64) -> Result<Reply, VmError> {
        loop {
            match self.answers.recv().await {
                Some(Ok(answer)) if answer.id == id => return Ok(answer.reply),
                Some(Ok(_)) => {}
                Some(Err(found)) => {
                    return Err(VmError::Protocol {
                        channel: "control",
                        found,
                    });
                }
                None => return Err(VmError::Ended("its control channel has closed".to_owned())),
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn read(source: OwnedReadHalf, answers: mpsc::Sender<Result<Answer, String>>) {
    let mut lines = Lines::new(source);
    loop {
        let answer = match lines.next().await {
            Ok(Some(text)) => Answer::parse(&text).map_err(|error| error.to_string()),
            Ok(None) => return,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(error.to_string()),
            // The guest is gone, perhaps in the middle of a line.
            Err(_) => return,
        };
        let last = answer.is_err();
        if answers.send(answer).await.is_err() || last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_order_that_is_too_long_is_refused_and_the_next_is_carried() {
        let (ours, theirs) = StdUnixStream::pair().unwrap();
        let guest = tokio::task::spawn_blocking(move || {
            use std::io::{BufRead, BufReader, Write};
            let mut out = theirs.try_clone().unwrap();
            let mut lengths = Vec::new();
            for text in BufReader::new(theirs).lines() {
                let text = text.unwrap();
                lengths.push(text.len() as u64 + 1);
                let ask: Ask = serde_json::from_str(&text).unwrap();
                let reply = Reply::Clock { micros: 7 };
                out.write_all(&line(&Answer { id: ask.id, reply })).unwrap();
            }
            lengths
        });
        let control = Control::open(ours).unwrap();
        let run = |bytes: u64| {
            let argv = vec!["x".repeat(bytes as usize)];
            control.order(Order::Run { argv, milliseconds: 1 }, Duration::from_secs(20))
        };
        // What the line has beside the word; the number of the order has one digit here.
        let argv = vec![String::new()];
        let order = Order::Run { argv, milliseconds: 1 };
        let rest = line(&Ask { id: 1, order }).len() as u64;
        let refused = run(LINE_BYTES_MAX - rest + 1).await.unwrap_err();
        assert!(
            matches!(refused, VmError::TooLarge { bytes, .. } if bytes == LINE_BYTES_MAX + 1),
            "{refused}"
        );
        let longest = run(LINE_BYTES_MAX - rest).await.unwrap();
        assert_eq!(longest, Reply::Clock { micros: 7 });
        drop(control);
        assert_eq!(guest.await.unwrap(), [LINE_BYTES_MAX], "only that was sent");
    }
}
