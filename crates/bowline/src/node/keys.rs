//! The node's access keys: read from the store, followed there, and changed by whoever may open the data folder.
//!
//! ```text
//!   bowline keys ─▶ DATA/keys.sock ─▶ AccessKeys ─▶ store ─▶ Auth
//!   other nodes of the cluster ───────────────────▶ store ─▶ Auth (looked at every second)
//! ```
//! The socket is for the user that the node runs as, who could read the secrets from the data folder anyway. Over
//! the network no key can be made: one of any account would be as good as one of all.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bowline_api::auth::Auth;
use bowline_api::auth::keys::{AccessKey, Keys};
use bowline_foundation::id::AccountId;
use bowline_functions::access::{self, AccessKeys};
use bowline_store::Sharing;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

/// How often a node of a cluster looks whether another has changed the keys.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const ORDER_BYTES_MAX: u64 = 4096;
const ORDER_WAIT_MAX: Duration = Duration::from_secs(10);
const SOCKET: &str = "keys.sock";

/// What `bowline keys` asks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    Create { account: AccountId },
    List,
    Remove { id: String },
}

/// A key as it is shown; only a new one with its secret.
#[derive(Debug, Serialize, Deserialize)]
pub struct Shown {
    pub access_key_id: String,
    pub account: AccountId,
    pub created: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_access_key: Option<String>,
}

/// The keys an order was about, or why it was not carried out.
pub type Outcome = Result<Vec<Shown>, String>;

/// Where a node takes orders about its keys.
pub fn socket(data: &Path) -> PathBuf {
    data.join(SOCKET)
}

/// Carries an order out.
pub async fn perform(keys: &AccessKeys, order: Order) -> Outcome {
    let done = match order {
        Order::Create { account } => {
            let made = keys.create(account).await;
            made.map(|key| vec![shown(&key, Some(key.secret.reveal()))])
        }
        Order::List => keys
            .list()
            .await
            .map(|keys| keys.iter().map(|key| shown(key, None)).collect()),
        Order::Remove { id } => keys.remove(&id).await.map(|key| vec![shown(&key, None)]),
    };
    done.map_err(|error| format!("{:#}", anyhow::Error::from(error)))
}

fn shown(key: &access::AccessKey, secret: Option<&str>) -> Shown {
    Shown {
        access_key_id: key.id.clone(),
        account: key.account.clone(),
        created: key.created.to_lambda_string(),
        secret_access_key: secret.map(str::to_owned),
    }
}

/// Has the running node on a data folder carry an order out; `None` if there is no such node.
pub async fn ask(data: &Path, order: &Order) -> anyhow::Result<Option<Outcome>> {
    let path = socket(data);
    let mut stream = match UnixStream::connect(&path).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot speak to the node at `{}`", path.display())),
    };
    let mut line = serde_json::to_vec(order)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let outcome = serde_json::from_slice(&answer).context("the node's answer is cut off; look at `bowline keys ls`")?;
    Ok(Some(outcome))
}

/// Keeps [`Auth`] at what the store holds.
pub struct KeyService {
    followed: Arc<Followed>,
    tasks: Vec<JoinHandle<()>>,
    socket: PathBuf,
}

struct Followed {
    keys: AccessKeys,
    auth: Arc<Auth>,
    known: Mutex<Vec<access::AccessKey>>,
}

impl KeyService {
    /// Reads the keys.
    pub async fn start(keys: AccessKeys, auth: Arc<Auth>, data: &Path) -> anyhow::Result<Self> {
        let followed = Arc::new(Followed {
            keys,
            auth,
            known: Mutex::default(),
        });
        followed.look().await?;
        Ok(Self {
            followed,
            tasks: Vec::new(),
            socket: socket(data),
        })
    }

    /// Whether there is any key.
    pub fn has_keys(&self) -> bool {
        !self.followed.known.lock().is_empty()
    }

    /// Begins to take orders, which it carries out by `keys`, and to look at what other nodes change.
    pub fn serve(&mut self, keys: AccessKeys, sharing: Sharing) {
        match listen(&self.socket) {
            Ok(listener) => self
                .tasks
                .push(tokio::spawn(self.followed.clone().serve(listener, keys))),
            Err(error) => tracing::warn!(%error, path = %self.socket.display(),
                "`bowline keys` works only while this node is stopped"),
        }
        if sharing == Sharing::Shared {
            self.tasks.push(tokio::spawn(self.followed.clone().follow()));
        }
    }

    /// Takes no more orders.
    pub fn stop(self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Listens for this user alone. What a node that was killed has left is taken away: the data are ours.
fn listen(path: &Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

impl Followed {
    /// Takes over what the store holds.
    async fn look(&self) -> Result<(), access::AccessKeyError> {
        let found = self.keys.list().await?;
        let mut known = self.known.lock();
        if *known != found {
            let keys = found.iter().cloned();
            let keys: Keys = keys
                .map(|key| AccessKey::new(key.id, key.account, key.secret))
                .collect();
            self.auth.set_keys(keys);
            tracing::info!(count = found.len(), "access keys have changed");
            *known = found;
        }
        Ok(())
    }

    async fn follow(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if let Err(error) = self.look().await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "access keys that other nodes have changed cannot be read yet");
            }
        }
    }

    async fn serve(self: Arc<Self>, listener: UnixListener, keys: AccessKeys) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (followed, keys) = (self.clone(), keys.clone());
                    tokio::spawn(async move {
                        match tokio::time::timeout(ORDER_WAIT_MAX, followed.answer(stream, &keys)).await {
                            Ok(Ok(())) => {}
                            Ok(Err(error)) => tracing::warn!("an order about access keys was not answered: {error:#}"),
                            Err(_) => tracing::warn!("an order about access keys took too long"),
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot take an order about access keys");
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
        }
    }

    /// Carries one order out; it holds on this node before it is answered.
    async fn answer(&self, stream: UnixStream, keys: &AccessKeys) -> anyhow::Result<()> {
        let peer = stream.peer_cred()?.uid();
        if peer != 0 && peer != rustix::process::geteuid().as_raw() {
            bail!("user {peer} may not change access keys");
        }
        let (read, mut write) = stream.into_split();
        let mut line = String::new();
        BufReader::new(read.take(ORDER_BYTES_MAX)).read_line(&mut line).await?;
        let order: Order = serde_json::from_str(&line)?;
        let outcome = perform(keys, order).await;
        self.look().await?;
        write.write_all(&serde_json::to_vec(&outcome)?).await?;
        Ok(())
    }
}
