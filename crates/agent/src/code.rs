//! Code on its way to an agent that does not see the node's folders.
//!
//! ```text
//!   laid:    node: links beside the agent, in a folder that it reads ([`laid`])
//!   carried: node: OfferCode(digest) ─▶ agent: HaveCode
//!                                   └─▶ agent: WantCode ─▶ node: CodePiece … CodePiece(empty), CodeEnd(hash of all) ─▶ HaveCode
//! ```
//! What is sent is the folder as an archive. The agent compares its hash before the folder gets its name, which is the
//! digest of the package: a folder with that name is whole.

mod laid;

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bowline_foundation::digest::{Digest, Hasher};
use bowline_sandbox::{CodeDir, VersionSpec};
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::link::{CodeWay, Inner};
use crate::message::{CodeEnd, OfferCode, SpecMessage};
use crate::wire::{self, Framed, Kind, WireError};

/// The largest piece that is sent at once.
const PIECE_BYTES: usize = 256 * 1024;
/// Pieces that are read ahead.
const PIECES_AHEAD: usize = 4;
/// The largest archive that an agent takes: an image's, as Lambda allows it, and what the archive adds.
const ARCHIVE_BYTES_MAX: u64 = 11 * 1024 * 1024 * 1024;

/// Sees to it that the agent has all code of a version.
pub(crate) async fn ensure(link: &Inner, version: &VersionSpec) -> io::Result<()> {
    for code in std::iter::once(&version.code).chain(&version.layers) {
        let Some(delivery) = link.contents.deliver(&code.digest) else {
            continue;
        };
        match &link.code {
            CodeWay::Shared => {}
            CodeWay::Laid { folder, made } => {
                let alone = link.laying.clone().lock_owned().await;
                laid::lay(alone, code, (folder.clone(), made.clone())).await?;
            }
            CodeWay::Carried => send(link, code).await?,
        }
        delivery.done();
    }
    Ok(())
}

/// Forgets what is not in use, of what was laid beside the agent.
pub(crate) async fn clear(link: &Inner, folder: &Path, in_use: Vec<Digest>) -> io::Result<()> {
    let alone = link.laying.clone().lock_owned().await;
    let in_use = link.contents.keep(in_use);
    laid::clear(alone, folder.to_owned(), in_use).await
}

/// A version's specification as the agent is to read it.
pub(crate) fn told(link: &Inner, version: &VersionSpec) -> SpecMessage {
    let mut spec = SpecMessage::from(version);
    if let CodeWay::Laid { folder, .. } = &link.code {
        localise(&mut spec, folder);
    }
    spec
}

/// Has a specification name the folders of code that lie in this one.
fn localise(spec: &mut SpecMessage, folder: &Path) {
    for code in std::iter::once(&mut spec.code).chain(&mut spec.layers) {
        code.path = folder.join(code.digest.to_string());
    }
}

async fn send(link: &Inner, code: &CodeDir) -> io::Result<()> {
    let mut framed = link.open().await?;
    let offer = OfferCode {
        epoch: link.epoch,
        digest: code.digest,
    };
    framed.put_json(Kind::OfferCode, &offer);
    framed.flush().await?;
    if framed.must_next("an answer to code").await?.kind == Kind::WantCode {
        let (pieces, mut receiver) = mpsc::channel(PIECES_AHEAD);
        let folder = code.path.clone();
        let packing = tokio::task::spawn_blocking(move || pack(&folder, &pieces));
        let mut hasher = Hasher::default();
        while let Some(piece) = receiver.recv().await {
            hasher.update(&piece);
            framed.put(Kind::CodePiece, &piece);
            framed.flush().await?;
        }
        packing.await.map_err(io::Error::other)??;
        framed.put(Kind::CodePiece, b"");
        let archive = hasher.finish();
        framed.put_json(Kind::CodePiece, &CodeEnd { archive });
        framed.flush().await?;
        framed
            .must_next("word of the code")
            .await?
            .expect(Kind::HaveCode, "word of the code")?;
    }
    Ok(())
}

/// Packs a folder, piece by piece.
fn pack(folder: &Path, pieces: &mpsc::Sender<Bytes>) -> io::Result<()> {
    let mut archive = tar::Builder::new(io::BufWriter::with_capacity(PIECE_BYTES, Sender(pieces)));
    archive.follow_symlinks(false);
    archive.append_dir_all(".", folder)?;
    io::Write::flush(&mut archive.into_inner()?)
}

struct Sender<'a>(&'a mpsc::Sender<Bytes>);

impl io::Write for Sender<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(&bytes[..bytes.len().min(PIECE_BYTES)]);
        let length = piece.len();
        self.0.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The code that an agent was sent.
#[derive(Debug)]
pub struct CodeStore {
    folder: PathBuf,
}

impl CodeStore {
    /// Opens the folder, making it if it is missing; what was not whole when the agent ended is removed.
    pub fn open(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        let store = Self { folder };
        for entry in fs::read_dir(&store.folder)? {
            let entry = entry?;
            if entry
                .file_name()
                .to_str()
                .is_none_or(|name| name.parse::<Digest>().is_err())
            {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(store)
    }

    fn place(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.to_string())
    }

    /// Has a specification name the folders of this machine.
    pub(crate) fn localise(&self, spec: &mut SpecMessage) {
        localise(spec, &self.folder);
    }

    /// Takes code that is offered, unless it is there.
    pub(crate) async fn receive(&self, mut framed: Framed, offer: &OfferCode) -> io::Result<()> {
        if !self.place(&offer.digest).exists() {
            framed.put(Kind::WantCode, b"");
            framed.flush().await?;
            self.unpack(&mut framed, &offer.digest).await?;
        }
        framed.put(Kind::HaveCode, b"");
        framed.flush().await
    }

    async fn unpack(&self, framed: &mut Framed, digest: &Digest) -> io::Result<()> {
        let partial = tempfile::Builder::new().prefix("partial-").tempdir_in(&self.folder)?;
        let (pieces, receiver) = mpsc::channel(PIECES_AHEAD);
        let target = partial.path().join("code");
        let unpacked = target.clone();
        let unpacking = tokio::task::spawn_blocking(move || unpack(receiver, &unpacked));
        let mut hasher = Hasher::default();
        let mut left = ARCHIVE_BYTES_MAX;
        loop {
            let piece = framed.must_next("code").await?.expect(Kind::CodePiece, "code")?;
            if piece.is_empty() {
                break;
            }
            left = left
                .checked_sub(piece.len() as u64)
                .ok_or(WireError::Body("an archive over its limit"))?;
            hasher.update(&piece);
            if pieces.send(piece).await.is_err() {
                break;
            }
        }
        drop(pieces);
        unpacking.await.map_err(io::Error::other)??;
        let end = framed
            .must_next("code's hash")
            .await?
            .expect(Kind::CodePiece, "code's hash")?;
        let end: CodeEnd = wire::json(&end, "code's hash")?;
        if end.archive != hasher.finish() {
            return Err(WireError::Body("code whose hash is another").into());
        }
        let place = self.place(digest);
        match fs::rename(&target, &place) {
            // Another channel was faster.
            Err(_) if place.exists() => Ok(()),
            done => done,
        }
    }

    /// Forgets what is not in use.
    pub(crate) fn keep(&self, in_use: &[Digest]) -> io::Result<()> {
        keep(&self.folder, in_use)
    }
}

/// Removes the folders of code that is not in use, and the files that were made of it.
fn keep(folder: &Path, in_use: &[Digest]) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let digest = name
            .to_str()
            .and_then(|name| name.split('-').next()?.parse::<Digest>().ok());
        if digest.is_some_and(|digest| !in_use.contains(&digest)) {
            match entry.file_type()?.is_dir() {
                true => fs::remove_dir_all(entry.path())?,
                false => fs::remove_file(entry.path())?,
            }
        }
    }
    Ok(())
}

fn unpack(pieces: mpsc::Receiver<Bytes>, target: &Path) -> io::Result<()> {
    let mut archive = tar::Archive::new(Pieces {
        pieces,
        piece: Bytes::new(),
    });
    archive.set_preserve_permissions(true);
    archive.unpack(target)?;
    // What the archive has behind its end.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    Ok(())
}

struct Pieces {
    pieces: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                None => return Ok(0),
                Some(piece) => self.piece = piece,
            }
        }
        let length = buffer.len().min(self.piece.len());
        buffer[..length].copy_from_slice(&self.piece.split_to(length));
        Ok(length)
    }
}
