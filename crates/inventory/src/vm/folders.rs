//! The folders that one machine is served, each by a process of its own.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;

use bowline_agent::{Channel, Lent, Served};
use bytes::BytesMut;
use parking_lot::Mutex;

pub(super) struct Folders {
    program: PathBuf,
    /// None once the machine has ended.
    served: Mutex<Option<HashMap<String, Served>>>,
}

impl Folders {
    pub fn new(program: PathBuf) -> Self {
        Self {
            program,
            served: Mutex::new(Some(HashMap::new())),
        }
    }

    /// Serves a folder to whoever is at the other end of the channel.
    pub fn serve(&self, share: &str, lent: Lent, channel: (Channel, BytesMut)) -> io::Result<()> {
        let mut served = self.served.lock();
        let served = served.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let one = Served::start(&self.program, (lent.tree, lent.access), channel)?;
        served.insert(share.to_owned(), one);
        Ok(())
    }

    /// Whether one is served.
    pub fn serves(&self, share: &str) -> bool {
        let mut served = self.served.lock();
        let one = served.as_mut().and_then(|served| served.get_mut(share));
        one.is_some_and(Served::is_alive)
    }

    /// Serves one no longer; returns once the machine has unmounted it.
    pub async fn take_back(&self, share: &str) -> io::Result<()> {
        let one = self.served.lock().as_mut().and_then(|served| served.remove(share));
        if let Some(mut one) = one {
            one.kill().await?;
            one.ended().await;
        }
        Ok(())
    }

    /// Serves none any more, for good; when this returns nothing is done in any of them.
    pub async fn end(&self) {
        let served = self.served.lock().take().unwrap_or_default();
        for (share, mut one) in served {
            if let Err(error) = one.kill().await {
                tracing::warn!(share, %error, "a folder may still be served to a machine that has ended");
            }
        }
    }
}
