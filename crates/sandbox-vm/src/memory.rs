//! A guest's memory as a file that has no name, and how it comes from and goes to disk.
//!
//! Only pieces that are not all zero are kept. The digest of a memory is over these pieces with their places, so it
//! does not depend on where a file system happens to have holes.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use bowline_foundation::digest::{Digest, Hasher};
use rustix::fs::{MemfdFlags, SealFlags, SeekFrom, fcntl_add_seals, memfd_create, seek};

/// The piece in which memory is kept.
const PIECE: usize = 64 * 1024;

/// An empty memory.
pub fn empty(bytes: u64) -> io::Result<File> {
    let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.set_len(bytes)?;
    Ok(file)
}

/// Closes a memory against every change, whoever has it open: many guests begin from it, and none may change it for
/// the others. What they write to their own mappings stays theirs.
pub fn seal(memory: &File) -> io::Result<()> {
    fcntl_add_seals(
        memory,
        SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )?;
    Ok(())
}

/// Copies what is in `from` to the empty file `to`; gives the digest.
pub fn copy(from: &File, to: &File) -> io::Result<Digest> {
    to.set_len(from.metadata()?.len())?;
    pieces(from, |at, piece| to.write_all_at(piece, at))
}

/// The digest of a memory.
#[cfg(test)]
fn digest(memory: &File) -> io::Result<Digest> {
    pieces(memory, |_, _| Ok(()))
}

fn pieces(from: &File, mut take: impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<Digest> {
    let length = from.metadata()?.len();
    let mut hasher = Hasher::default();
    hasher.update(&length.to_le_bytes());
    let mut buffer = vec![0; PIECE];
    let mut at = 0;
    while at < length {
        match seek(from, SeekFrom::Data(at)) {
            Ok(data) => at = data - data % PIECE as u64,
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        }
        let hole = seek(from, SeekFrom::Hole(at.max(seek(from, SeekFrom::Data(at))?)))?;
        while at < hole {
            let rest = usize::try_from(length - at).unwrap_or(PIECE).min(PIECE);
            let piece = &mut buffer[..rest];
            from.read_exact_at(piece, at)?;
            if piece.iter().any(|byte| *byte != 0) {
                hasher.update(&at.to_le_bytes());
                hasher.update(piece);
                take(at, piece)?;
            }
            at += rest as u64;
        }
    }
    Ok(hasher.finish())
}

/// The file as what is handed to a process.
pub fn owned(file: &File) -> io::Result<OwnedFd> {
    Ok(file.try_clone()?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_keeps_what_is_there_and_no_more() {
        let memory = empty(100 * PIECE as u64 + 512).unwrap();
        memory.write_all_at(b"first", 3).unwrap();
        memory.write_all_at(&[0; PIECE], 50 * PIECE as u64).unwrap();
        memory.write_all_at(b"last", 100 * PIECE as u64 + 508).unwrap();
        let kept = tempfile::tempfile().unwrap();
        let digest_there = copy(&memory, &kept).unwrap();
        let back = empty(100 * PIECE as u64 + 512).unwrap();
        assert_eq!(copy(&kept, &back).unwrap(), digest_there);
        assert_eq!(digest(&back).unwrap(), digest_there);
        let mut last = [0; 4];
        back.read_exact_at(&mut last, 100 * PIECE as u64 + 508).unwrap();
        assert_eq!(&last, b"last");
        use std::os::unix::fs::MetadataExt;
        assert!(back.metadata().unwrap().blocks() * 512 <= 3 * PIECE as u64);

        back.write_all_at(b"x", PIECE as u64).unwrap();
        assert_ne!(
            digest(&back).unwrap(),
            digest_there,
            "a changed memory has another digest"
        );
    }

    #[test]
    fn a_sealed_memory_cannot_be_changed() {
        let memory = empty(PIECE as u64).unwrap();
        memory.write_all_at(b"a", 0).unwrap();
        seal(&memory).unwrap();
        let again = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&memory)))
            .unwrap();
        assert!(again.write_all_at(b"b", 0).is_err());
        assert!(again.set_len(1).is_err());
        let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        assert!(rustix::fs::fallocate(&again, punch, 0, PIECE as u64).is_err());
    }
}
