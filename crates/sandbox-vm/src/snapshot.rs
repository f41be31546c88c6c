//! The whole state of a machine on disk: saved, and begun again in another QEMU.
//!
//! A snapshot is a folder of `state` (devices and processors, in QEMU's own format), `memory` (if it is apart from
//! the state) and `snapshot.json`, which says what it needs and is written last: a folder without it is nothing.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::Timestamp;
use bowline_foundation::digest::{Digest, Hasher};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use crate::image::Image;
use crate::machine::{Backing, Beginning, Machine};
use crate::qmp::Qmp;
use crate::vm::{Origin, Quiet, Start, private_file};
use crate::{Accelerator, After, Context, Host, Vm, VmError, Volume, memory};

/// The version of [`Record`].
const FORMAT: u32 = 1;
const RECORD: &str = "snapshot.json";
const STATE: &str = "state";
const MEMORY: &str = "memory";
/// How long QEMU may take to write or read a state.
const MIGRATION: Duration = Duration::from_secs(60);
/// How much of a state QEMU may write in a second: as good as all. Left alone, it spares a network that is not there.
const BANDWIDTH_BYTES: u64 = 1 << 40;
/// How long QEMU may take to give up writing a state.
const CANCELLATION: Duration = Duration::from_secs(10);
/// How often it is asked whether it has.
const POLL: Duration = Duration::from_millis(5);
/// How far the frequency of the counter may be from the recorded one, in parts of it: measuring is not exact.
const TSC_TOLERANCE: u64 = 1000;
/// Largest record that is read.
const RECORD_BYTES_MAX: u64 = 64 * 1024;

/// Where a snapshot has the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryIn {
    /// In a file of its own.
    File,
    /// In the state: the machine shared its memory with others.
    State,
}

/// What a snapshot is and needs. Durable: `format` tells versions apart, and fields are only added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub format: u32,
    /// The image that the guest booted from, and still reads its files from.
    pub image: Digest,
    pub machine: Machine,
    pub accelerator: Accelerator,
    /// What the guest believes to run on.
    pub processor: String,
    /// The QEMU that wrote the state.
    pub qemu: String,
    /// The frequency that the guest counts its time by, if nobody tells it.
    pub tsc_khz: Option<u64>,
    pub memory_in: MemoryIn,
    /// The digest of the state.
    pub state: Digest,
    /// The digest of the memory, if it is a file.
    pub memory: Option<Digest>,
    pub saved: Timestamp,
}

/// A snapshot on disk.
#[derive(Clone, Debug)]
pub struct Snapshot {
    folder: PathBuf,
    record: Record,
    digest: Digest,
}

impl Snapshot {
    /// Reads the record of the snapshot in `folder`.
    pub fn open(folder: &Path) -> Result<Self, VmError> {
        let path = folder.join(RECORD);
        let mut text = Vec::new();
        let file = File::open(&path).cannot(format!("open the snapshot `{}`", folder.display()))?;
        file.take(RECORD_BYTES_MAX)
            .read_to_end(&mut text)
            .cannot("read a snapshot's record")?;
        let damaged = |reason: String| VmError::Damaged {
            path: path.clone(),
            reason,
        };
        let record: Record = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if record.format != FORMAT {
            return Err(damaged(format!("format `{}`, expected `{FORMAT}`", record.format)));
        }
        if let Some(fault) = record.machine.fault() {
            return Err(damaged(fault));
        }
        Ok(Self {
            folder: folder.to_path_buf(),
            digest: Digest::of(&text),
            record,
        })
    }

    /// Where it lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it is and needs.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// What names it: the digest of its record, and so of all of it.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Whether a machine can begin from it here.
    pub fn fits(&self, host: &Host, image: &Image) -> Result<(), VmError> {
        let record = &self.record;
        let same = |what: &str, needs: String, here: String| {
            if needs == here {
                return Ok(());
            }
            Err(VmError::Unfit {
                needs: format!("{what} `{needs}`"),
                here: format!("`{here}`"),
            })
        };
        same("the image", record.image.to_string(), image.digest().to_string())?;
        same(
            "the accelerator",
            record.accelerator.to_string(),
            host.accelerator().to_string(),
        )?;
        same("QEMU", record.qemu.clone(), host.version().to_owned())?;
        same("the processor", record.processor.clone(), host.processor())?;
        if let (Some(needs), Some(here)) = (record.tsc_khz, host.tsc_khz())
            && needs.abs_diff(here) > needs / TSC_TOLERANCE
        {
            return same("a counter of kHz", needs.to_string(), here.to_string());
        }
        Ok(())
    }

    /// The guest's memory, brought into a file of its own and compared with its digest.
    pub(crate) async fn memory(&self) -> Result<File, VmError> {
        let bytes = self.record.machine.memory.bytes();
        let Some(expected) = self.record.memory else {
            return memory::empty(bytes).cannot("make the guest's memory");
        };
        let path = self.folder.join(MEMORY);
        let from = path.clone();
        let load = move || {
            let kept = File::open(from)?;
            let memory = memory::empty(bytes)?;
            let digest = memory::copy(&kept, &memory)?;
            Ok::<_, std::io::Error>((memory, digest))
        };
        let (memory, digest) = blocking(load).await.cannot(format!("read `{}`", path.display()))?;
        if digest != expected {
            return Err(VmError::Damaged {
                path,
                reason: format!("its digest is `{digest}`, expected `{expected}`"),
            });
        }
        Ok(memory)
    }

    /// The state, compared with its digest.
    async fn state(&self) -> Result<File, VmError> {
        let path = self.folder.join(STATE);
        let opened = path.clone();
        let read = move || {
            let digest = digest_of(&File::open(&opened)?)?;
            Ok::<_, std::io::Error>((File::open(&opened)?, digest))
        };
        let (file, digest) = blocking(read).await.cannot(format!("read `{}`", path.display()))?;
        if digest != self.record.state {
            return Err(VmError::Damaged {
                path,
                reason: format!("its digest is `{digest}`, expected `{}`", self.record.state),
            });
        }
        Ok(file)
    }

    /// Lets a machine go on from it with this memory; what it must be told anew is up to the caller.
    pub(crate) async fn begin(
        &self,
        (host, image): (Arc<Host>, Arc<Image>),
        (memory, backing): (File, Backing),
        (origin, cpu_millis, volumes): (Origin, Option<u32>, Vec<Volume>),
    ) -> Result<Vm, VmError> {
        let state = self.state().await?;
        let start = Start {
            machine: self.record.machine.clone(),
            memory,
            beginning: Beginning::Incoming,
            backing,
            origin,
            cpu_millis,
            volumes,
        };
        let vm = Vm::start(host, image, start).await?;
        vm.capabilities(self.record.memory_in == MemoryIn::File).await?;
        vm.migrate("migrate-incoming", &state).await?;
        vm.qmp.execute("cont", json!({})).await?;
        Ok(vm)
    }
}

impl Vm {
    /// Stops the machine, writes all of it to the new folder `path`, and lets it go on or not. A crash on the way
    /// leaves no folder, or one without a record.
    pub async fn save(&self, path: &Path, after: After) -> Result<Snapshot, VmError> {
        self.has_all_its_memory().await?;
        let parent = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(parent).cannot("make a snapshot's folder")?;
        let place = tempfile::Builder::new().prefix(".saving-").tempdir_in(parent);
        let place = place.cannot("make a snapshot's folder")?;
        let stopped = Stopped::new(Arc::clone(&self.qmp), self.quiet().await);
        self.qmp.execute("stop", json!({})).await?;
        let written = self.write(place.path()).await;
        if after == After::GoOn || written.is_err() {
            let goes_on = stopped.go_on().await;
            written.and(goes_on)?;
        } else {
            stopped.stand();
        }
        let from = place.keep();
        let named = std::fs::rename(&from, path).and_then(|()| File::open(parent)?.sync_all());
        if named.is_err() {
            let _ = std::fs::remove_dir_all(&from);
        }
        named.cannot(format!("put a snapshot at `{}`", path.display()))?;
        Snapshot::open(path)
    }

    pub(crate) async fn has_all_its_memory(&self) -> Result<(), VmError> {
        if self.sticks().await == 0 {
            return Ok(());
        }
        Err(VmError::Unfit {
            needs: "a machine with the memory it began with".to_owned(),
            here: "one to which memory was added".to_owned(),
        })
    }

    /// Begins a saved machine in a QEMU of its own. It goes on where it was, with the time of day and randomness of
    /// its own.
    pub async fn restore(host: Arc<Host>, image: Arc<Image>, path: &Path) -> Result<Self, VmError> {
        let snapshot = Snapshot::open(path)?;
        snapshot.fits(&host, &image)?;
        let began = host.clock.monotonic();
        let memory = snapshot.memory().await?;
        let origin = Origin::Restored(snapshot.digest());
        let mut vm = snapshot
            .begin((host, image), (memory, Backing::Own), (origin, None, Vec::new()))
            .await?;
        vm.renew(began).await?;
        Ok(vm)
    }

    async fn write(&self, folder: &Path) -> Result<(), VmError> {
        let memory_in = match self.backing {
            Backing::Own => MemoryIn::File,
            Backing::CopyOnWrite => MemoryIn::State,
        };
        self.capabilities(memory_in == MemoryIn::File).await?;
        self.hurry().await?;
        let state = private_file(&folder.join(STATE)).cannot("make a snapshot's state")?;
        self.migrate("migrate", &state).await?;
        let memory = match memory_in {
            MemoryIn::File => Some((
                self.memory.try_clone().cannot("read the guest's memory")?,
                folder.join(MEMORY),
            )),
            MemoryIn::State => None,
        };
        let state_path = folder.join(STATE);
        let keep = move || {
            let digest = memory.map(|(memory, path)| keep_memory(&memory, &path)).transpose()?;
            let state = File::open(state_path)?;
            state.sync_all()?;
            Ok::<_, std::io::Error>((digest_of(&state)?, digest))
        };
        let (state, memory) = blocking(keep).await.cannot("write a snapshot")?;
        let record = Record {
            format: FORMAT,
            image: self.image.digest(),
            machine: self.machine.clone(),
            accelerator: self.accelerator,
            processor: self.host.processor(),
            qemu: self.host.version().to_owned(),
            tsc_khz: self.host.tsc_khz(),
            memory_in,
            state,
            memory,
            saved: self.host.clock.now(),
        };
        write_record(&record, folder).cannot("write a snapshot's record")
    }

    /// Has QEMU write as fast as it can.
    pub(crate) async fn hurry(&self) -> Result<(), VmError> {
        let parameters = json!({ "max-bandwidth": BANDWIDTH_BYTES });
        self.qmp.execute("migrate-set-parameters", parameters).await?;
        Ok(())
    }

    pub(crate) async fn capabilities(&self, memory_is_apart: bool) -> Result<(), VmError> {
        let switch = |name: &str, on: bool| json!({ "capability": name, "state": on });
        let switches = [switch("events", true), switch("x-ignore-shared", memory_is_apart)];
        let arguments = json!({ "capabilities": switches });
        self.qmp.execute("migrate-set-capabilities", arguments).await?;
        Ok(())
    }

    /// Lets QEMU write its state to a file, or read it from there.
    pub(crate) async fn migrate(&self, command: &str, state: &File) -> Result<(), VmError> {
        use std::os::fd::AsFd;
        let mut events = self.qmp.events();
        self.qmp.hand_over("state", state.as_fd()).await?;
        self.qmp.execute(command, json!({ "uri": "fd:state" })).await?;
        let end = async {
            while let Ok((name, data)) = events.recv().await {
                match data.get("status").and_then(serde_json::Value::as_str) {
                    Some("completed") if name == "MIGRATION" => return Ok(()),
                    Some("failed") if name == "MIGRATION" => break,
                    _ => {}
                }
            }
            Err(VmError::Refused {
                command: command.to_owned(),
                reason: "the state was not carried over".to_owned(),
            })
        };
        tokio::select! {
            end = timeout(MIGRATION, end) => end.map_err(|_| VmError::Deadline {
                what: "the state of a virtual machine",
                allowed: MIGRATION,
            })?,
            words = self.ended() => Err(VmError::Ended(words)),
        }
    }
}

/// A machine that was stopped to be saved. It goes on when this is dropped, also in the middle of the work: whoever
/// wanted the snapshot may have gone away. Until then it gets no orders, and nobody else saves it.
pub(crate) struct Stopped(Option<(Arc<Qmp>, Quiet)>);

impl Stopped {
    pub fn new(qmp: Arc<Qmp>, quiet: Quiet) -> Self {
        Self(Some((qmp, quiet)))
    }

    /// Lets it go on.
    pub async fn go_on(mut self) -> Result<(), VmError> {
        let result = match &self.0 {
            Some((qmp, _)) => resume(qmp).await,
            None => Ok(()),
        };
        self.0 = None;
        result
    }

    /// Leaves it as it was saved.
    pub fn stand(mut self) {
        self.0 = None;
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if let Some((qmp, quiet)) = self.0.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async move {
                if let Err(error) = resume(&qmp).await {
                    tracing::warn!(%error, "a virtual machine that was being saved does not go on");
                }
                drop(quiet);
            });
        }
    }
}

/// Lets a machine go on; what is still being written of its state is given up before, for meanwhile it may not.
async fn resume(qmp: &Qmp) -> Result<(), VmError> {
    let give_up = async {
        qmp.execute("migrate_cancel", json!({})).await?;
        loop {
            let migration = qmp.execute("query-migrate", json!({})).await?;
            match migration["status"].as_str() {
                Some("setup" | "active" | "pre-switchover" | "device" | "cancelling") => sleep(POLL).await,
                _ => return Ok::<_, VmError>(()),
            }
        }
    };
    // If it cannot, `cont` says why.
    let _ = timeout(CANCELLATION, give_up).await;
    qmp.execute("cont", json!({})).await?;
    Ok(())
}

fn keep_memory(memory: &File, path: &Path) -> std::io::Result<Digest> {
    let file = private_file(path)?;
    let digest = memory::copy(memory, &file)?;
    file.sync_all()?;
    Ok(digest)
}

fn write_record(record: &Record, folder: &Path) -> std::io::Result<()> {
    let file = private_file(&folder.join(RECORD))?;
    std::io::Write::write_all(&mut &file, &serde_json::to_vec_pretty(record)?)?;
    file.sync_all()?;
    File::open(folder)?.sync_all()
}

fn digest_of(mut file: &File) -> std::io::Result<Digest> {
    let mut hasher = Hasher::default();
    let mut piece = vec![0; 64 * 1024];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hasher.finish()),
            count => hasher.update(&piece[..count]),
        }
    }
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use bowline_foundation::units::Mebibytes;

    fn record() -> Record {
        Record {
            format: FORMAT,
            image: Digest::of(b"image"),
            machine: Machine::micro(Mebibytes(256)),
            accelerator: Accelerator::Tcg,
            processor: "max".to_owned(),
            qemu: "7.2.22".to_owned(),
            tsc_khz: Some(2_600_000),
            memory_in: MemoryIn::File,
            state: Digest::of(b"state"),
            memory: Some(Digest::of(b"memory")),
            saved: Timestamp::from_micros(1_795_217_079_123_456),
        }
    }

    #[test]
    fn records_are_read_as_they_were_written_once() {
        let golden = include_str!("snapshot/golden-1.json");
        assert_eq!(serde_json::to_string_pretty(&record()).unwrap(), golden.trim_end());
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(RECORD), golden).unwrap();
        assert_eq!(*Snapshot::open(folder.path()).unwrap().record(), record());
    }

    #[test]
    fn records_that_say_too_much_or_nothing_are_refused() {
        let refused = |change: fn(&mut Record)| {
            let mut bad = record();
            change(&mut bad);
            let folder = tempfile::tempdir().unwrap();
            write_record(&bad, folder.path()).unwrap();
            Snapshot::open(folder.path()).map(|_| ()).unwrap_err().to_string()
        };
        assert!(refused(|bad| bad.format = 2).contains("format `2`"));
        assert!(refused(|bad| bad.machine.processors = 0).contains("processors"));
        let folder = tempfile::tempdir().unwrap();
        assert!(
            Snapshot::open(folder.path()).is_err(),
            "a folder without a record is no snapshot"
        );
        std::fs::write(folder.path().join(RECORD), "{}").unwrap();
        assert!(matches!(Snapshot::open(folder.path()), Err(VmError::Damaged { .. })));
    }
}
