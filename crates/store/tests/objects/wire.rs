//! A store in a process of its own: its server, and a client that is a store.
//!
//! Frames are a length of four bytes and as many bytes. A connection carries one call at a time; a call
//! that is given up takes its connection with it, as the answer would otherwise be read by the next one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bowline_store::{CommitError, Condition, Entry, Key, ReadError, SqliteStore, Store, Version, Write};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::process::{self, Worker};

const SERVER: &str = "wire::server_of_one_store";

/// No test of its own: what a store process runs.
#[test]
fn server_of_one_store() {
    if let Some((folder, _)) = process::task() {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
            .block_on(serve(folder));
    }
}

async fn serve(folder: PathBuf) {
    let store = Arc::new(SqliteStore::open(&folder.join("store.db")).unwrap());
    let socket = folder.join("socket");
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).unwrap();
    process::say("ready");
    loop {
        let (connection, _) = listener.accept().await.unwrap();
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let mut connection = connection;
            while let Ok(request) = read_frame(&mut connection).await {
                let answer = answer(&store, request).await;
                if write_frame(&mut connection, &answer).await.is_err() {
                    return;
                }
            }
        });
    }
}

async fn answer(store: &SqliteStore, mut request: Bytes) -> Bytes {
    let mut to = BytesMut::new();
    match request.get_u8() {
        b'g' => put_read(&mut to, store.get(&take(&mut request)).await, |to, entry| {
            to.put_u8(u8::from(entry.is_some()));
            if let Some(entry) = entry {
                put_entry(to, &entry);
            }
        }),
        b's' => {
            let prefix = take(&mut request);
            let after = (request.get_u8() == 1).then(|| take(&mut request));
            let limit = request.get_u64() as usize;
            put_read(&mut to, store.scan(&prefix, after.as_ref(), limit).await, |to, page| {
                to.put_u32(page.len() as u32);
                for (key, entry) in page {
                    put(to, &key);
                    put_entry(to, &entry);
                }
            });
        }
        _ => {
            let (conditions, writes) = take_commit(&mut request);
            put_commit_answer(&mut to, store.commit(conditions, writes).await);
        }
    }
    to.freeze()
}

fn put_read<T>(to: &mut BytesMut, read: Result<T, ReadError>, put_value: impl FnOnce(&mut BytesMut, T)) {
    match read {
        Ok(value) => {
            to.put_u8(0);
            put_value(to, value);
        }
        Err(error) => {
            to.put_u8(1);
            put(to, error.to_string().as_bytes());
        }
    }
}

fn put_commit_answer(to: &mut BytesMut, answer: Result<Version, CommitError>) {
    match answer {
        Ok(version) => {
            to.put_u8(0);
            to.put_u64(version.0);
        }
        Err(error) => {
            to.put_u8(match error {
                CommitError::Conflict(_) => 1,
                CommitError::Unavailable(_) => 2,
                CommitError::Unknown(_) => 3,
                CommitError::TooLarge(_) => 4,
            });
            match error {
                CommitError::Conflict(key) => put(to, &key),
                CommitError::Unavailable(why) | CommitError::Unknown(why) | CommitError::TooLarge(why) => {
                    put(to, why.as_bytes());
                }
            }
        }
    }
}

fn take_commit(from: &mut Bytes) -> (Vec<Condition>, Vec<Write>) {
    let conditions = (0..from.get_u32()).map(|_| match from.get_u8() {
        0 => Condition::Absent(take(from)),
        _ => Condition::AtVersion(take(from), Version(from.get_u64())),
    });
    let conditions = conditions.collect();
    let writes = (0..from.get_u32()).map(|_| match from.get_u8() {
        0 => Write::Put(take(from), take(from)),
        _ => Write::Delete(take(from)),
    });
    (conditions, writes.collect())
}

fn put(to: &mut BytesMut, bytes: &[u8]) {
    to.put_u32(bytes.len() as u32);
    to.put_slice(bytes);
}

fn take(from: &mut Bytes) -> Bytes {
    let length = from.get_u32() as usize;
    from.split_to(length)
}

fn put_entry(to: &mut BytesMut, entry: &Entry) {
    put(to, &entry.value);
    to.put_u64(entry.version.0);
}

fn take_entry(from: &mut Bytes) -> Entry {
    let value = take(from);
    let version = Version(from.get_u64());
    Entry { value, version }
}

async fn read_frame(connection: &mut UnixStream) -> std::io::Result<Bytes> {
    let length = connection.read_u32().await?;
    let mut bytes = vec![0; length as usize];
    connection.read_exact(&mut bytes).await?;
    Ok(bytes.into())
}

async fn write_frame(connection: &mut UnixStream, bytes: &[u8]) -> std::io::Result<()> {
    connection.write_u32(bytes.len() as u32).await?;
    connection.write_all(bytes).await
}

/// A store whose data lie in another process. Who calls it sets the time limit.
pub struct Client {
    socket: PathBuf,
    idle: Mutex<Vec<UnixStream>>,
}

/// Whether the server may have got the request.
enum Broken {
    BeforeSending(String),
    After(String),
}

impl Client {
    pub fn new(folder: &Path) -> Self {
        Self {
            socket: folder.join("socket"),
            idle: Mutex::default(),
        }
    }

    async fn call(&self, request: BytesMut) -> Result<Bytes, Broken> {
        let idle = self.idle.lock().pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => UnixStream::connect(&self.socket)
                .await
                .map_err(|error| Broken::BeforeSending(error.to_string()))?,
        };
        let after = |error: std::io::Error| Broken::After(error.to_string());
        write_frame(&mut connection, &request).await.map_err(after)?;
        let answer = read_frame(&mut connection).await.map_err(after)?;
        self.idle.lock().push(connection);
        Ok(answer)
    }

    async fn read(&self, request: BytesMut) -> Result<Bytes, ReadError> {
        let answer = self.call(request).await;
        let mut answer =
            answer.map_err(|(Broken::BeforeSending(why) | Broken::After(why))| ReadError::Unavailable(why))?;
        match answer.get_u8() {
            0 => Ok(answer),
            _ => Err(ReadError::Unavailable(
                String::from_utf8_lossy(&take(&mut answer)).into_owned(),
            )),
        }
    }
}

#[async_trait]
impl Store for Client {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, ReadError> {
        let mut request = BytesMut::new();
        request.put_u8(b'g');
        put(&mut request, key);
        let mut answer = self.read(request).await?;
        Ok((answer.get_u8() == 1).then(|| take_entry(&mut answer)))
    }

    async fn scan(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, Entry)>, ReadError> {
        let mut request = BytesMut::new();
        request.put_u8(b's');
        put(&mut request, prefix);
        request.put_u8(u8::from(after.is_some()));
        if let Some(after) = after {
            put(&mut request, after);
        }
        request.put_u64(limit as u64);
        let mut answer = self.read(request).await?;
        let page = (0..answer.get_u32()).map(|_| (take(&mut answer), take_entry(&mut answer)));
        Ok(page.collect())
    }

    async fn commit(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> Result<Version, CommitError> {
        let mut request = BytesMut::new();
        request.put_u8(b'c');
        request.put_u32(conditions.len() as u32);
        for condition in &conditions {
            match condition {
                Condition::Absent(key) => {
                    request.put_u8(0);
                    put(&mut request, key);
                }
                Condition::AtVersion(key, version) => {
                    request.put_u8(1);
                    put(&mut request, key);
                    request.put_u64(version.0);
                }
            }
        }
        request.put_u32(writes.len() as u32);
        for write in &writes {
            match write {
                Write::Put(key, value) => {
                    request.put_u8(0);
                    put(&mut request, key);
                    put(&mut request, value);
                }
                Write::Delete(key) => {
                    request.put_u8(1);
                    put(&mut request, key);
                }
            }
        }
        let mut answer = self.call(request).await.map_err(|broken| match broken {
            Broken::BeforeSending(why) => CommitError::Unavailable(why),
            Broken::After(why) => CommitError::Unknown(why),
        })?;
        let kind = answer.get_u8();
        if kind == 0 {
            return Ok(Version(answer.get_u64()));
        }
        let said = take(&mut answer);
        let why = String::from_utf8_lossy(&said).into_owned();
        Err(match kind {
            1 => CommitError::Conflict(said),
            2 => CommitError::Unavailable(why),
            3 => CommitError::Unknown(why),
            _ => CommitError::TooLarge(why),
        })
    }
}

/// A store process that can be killed, frozen and started again.
pub struct StoreProcess {
    pub folder: tempfile::TempDir,
    worker: Option<Worker>,
}

impl StoreProcess {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut process = Self { folder, worker: None };
        process.restart();
        process
    }

    pub fn client(&self) -> Arc<Client> {
        Arc::new(Client::new(self.folder.path()))
    }

    pub fn kill(&mut self) {
        self.worker = None;
    }

    pub fn restart(&mut self) {
        let mut worker = Worker::start(SERVER, self.folder.path(), "");
        assert_eq!(worker.next_line().as_deref(), Some("ready"));
        self.worker = Some(worker);
    }

    pub fn signal(&self, name: &str) {
        self.worker.as_ref().unwrap().signal(name);
    }

    /// Kills the process and opens what it left on disk.
    pub fn open_files(&mut self) -> SqliteStore {
        self.kill();
        SqliteStore::open(&self.folder.path().join("store.db")).unwrap()
    }
}
