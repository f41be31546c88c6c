//! Putting a blob that comes in pieces, while they come.

use std::io::{self, Read};

use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::frame::Piece;
use crate::blob::{BlobError, Blobs};

/// Pieces that wait to be written.
const WAITING_MAX: usize = 2;

/// The blob that is on its way, if one is.
#[derive(Default)]
pub(super) struct Pieces(Option<Putting>);

struct Putting {
    pieces: mpsc::Sender<Bytes>,
    done: JoinHandle<Result<(), BlobError>>,
}

impl Pieces {
    /// Takes the next piece; with the last the blob is stored.
    pub async fn put(&mut self, folder: &Blobs, piece: Piece, content: Bytes) -> Result<(), BlobError> {
        let putting = match self.0.take() {
            Some(begun) => begun,
            None => {
                let (pieces, receiver) = mpsc::channel(WAITING_MAX);
                let (folder, reader) = (folder.clone(), PieceReader::new(receiver));
                let done = tokio::spawn(async move { folder.put_large(piece.digest, reader).await });
                Putting { pieces, done }
            }
        };
        // Nobody takes the pieces of a blob that is there.
        let _ = putting.pieces.send(content).await;
        if !piece.is_last {
            self.0 = Some(putting);
            return Ok(());
        }
        drop(putting.pieces);
        putting.done.await.expect("putting a blob does not panic")
    }
}

/// The pieces one after the other, on a thread that may wait.
struct PieceReader {
    receiver: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl PieceReader {
    fn new(receiver: mpsc::Receiver<Bytes>) -> Self {
        Self {
            receiver,
            piece: Bytes::new(),
        }
    }
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let length = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use bowline_foundation::digest::Digest;

    use super::super::export::export_cut;
    use super::super::frame::{ArchiveError, PIECE_BYTES_MAX, parse};
    use super::super::{Existing, Target, check, import};
    use super::*;
    use crate::MemoryStore;

    /// Archives blobs of these sizes, the large ones in pieces.
    async fn archive_of(blobs: &Blobs, whole_max: u64) -> Vec<u8> {
        let (store, mut out) = (MemoryStore::default(), Vec::new());
        let exported = export_cut(&store, (Some(blobs), None), &mut out, &mut |_| {}, whole_max).await;
        exported.unwrap();
        out
    }

    #[tokio::test]
    async fn large_blobs_are_moved_in_pieces() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let blobs = Blobs::open_dir(folders[0].path()).unwrap();
        let large = vec![7; 2 * PIECE_BYTES_MAX + 5];
        let digests = [Digest::of(&large), Digest::of(b"small")];
        blobs.put_large(digests[0], Cursor::new(large.clone())).await.unwrap();
        blobs.put(Bytes::from_static(b"small")).await.unwrap();
        let archive = archive_of(&blobs, 100).await;
        let plain = archive_of(&blobs, u64::MAX).await;
        assert_eq!((archive[19], plain[19]), (3, 1), "older builds read what has no pieces");
        assert_eq!(parse(&archive).unwrap().blobs, 2);
        for target in [Blobs::open_dir(folders[1].path()).unwrap(), Blobs::in_memory()] {
            // The second time they are there.
            for existing in [Existing::Refuse, Existing::Merge] {
                let store = MemoryStore::default();
                let target = Target {
                    store: &store,
                    blobs: Some(&target),
                    cold: None,
                    existing,
                };
                let mut file = Cursor::new(archive.clone());
                import(&mut file, target, &mut |_| {}).await.unwrap();
            }
            assert_eq!(target.get(&digests[0]).await.unwrap(), large);
            let report = check(&MemoryStore::default(), (Some(&target), None), &mut |_| {}).await;
            let report = report.unwrap();
            assert!(report.is_sound() && report.blobs == 2, "{report:?}");
        }
    }

    #[tokio::test]
    async fn the_golden_archive_in_pieces_is_read() {
        let golden = include_bytes!("../../tests/store/archive-3.bin");
        let (store, blobs) = (MemoryStore::default(), Blobs::in_memory());
        let target = Target {
            store: &store,
            blobs: Some(&blobs),
            cold: None,
            existing: Existing::Refuse,
        };
        let read = import(&mut Cursor::new(golden.to_vec()), target, &mut |_| {})
            .await
            .unwrap();
        assert_eq!((read.blobs, read.records), (1, 1));
        let content = b"hello, pieces";
        assert_eq!(blobs.get(&Digest::of(content)).await.unwrap(), &content[..]);
    }

    #[tokio::test]
    async fn pieces_that_are_missing_or_damaged_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open_dir(folder.path()).unwrap();
        let large = vec![7; PIECE_BYTES_MAX + 5];
        let digest = Digest::of(&large);
        blobs.put_large(digest, Cursor::new(large)).await.unwrap();
        let archive = archive_of(&blobs, 100).await;
        let first = 20 + 38 + PIECE_BYTES_MAX;
        let without = |range: std::ops::Range<usize>| [&archive[..range.start], &archive[range.end..]].concat();
        let found = parse(&without(20..first)).unwrap_err();
        assert!(matches!(found, ArchiveError::DamagedBlob { .. }), "{found}");
        let found = parse(&without(first..first + 38 + 5)).unwrap_err();
        assert!(matches!(found, ArchiveError::OutOfOrder { .. }), "{found}");
        let mut damaged = archive.clone();
        damaged[100] ^= 1;
        let found = parse(&damaged).unwrap_err();
        assert!(matches!(found, ArchiveError::DamagedBlob { .. }), "{found}");
        std::fs::write(folder.path().join(digest.to_string()), vec![7; 200]).unwrap();
        let (store, mut out) = (MemoryStore::default(), Vec::new());
        let refused = export_cut(&store, (Some(&blobs), None), &mut out, &mut |_| {}, 100).await;
        assert!(refused.is_err(), "a damaged blob is exported");
    }
}
