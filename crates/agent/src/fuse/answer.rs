//! Answers to a guest's kernel.

use bytes::BufMut;
use rustix::fs::{StatVfs, Statx};
use rustix::io::Errno;

use super::request::{HandleId, Head, NodeId};
use super::{ANSWER_HEAD_BYTES, DATA_BYTES_MAX};

/// The protocol that is spoken; a newer kernel speaks it too.
const MAJOR: u32 = 7;
const MINOR: u32 = 31;
/// What a kernel may have on its way that no program waits for.
const BACKGROUND_MAX: u16 = 8;
/// How many pages a read or write may have.
const PAGES_MAX: u16 = (DATA_BYTES_MAX / 4096) as u16;
/// Several lock files of a program with the node's word: it gets none ([`Errno::NOLCK`]), where it would think that it
/// alone had it otherwise.
const ASKS_FOR_LOCKS: u32 = 1 << 1 | 1 << 10;
const TRUNCATES_AS_IT_OPENS: u32 = 1 << 3;
const WRITES_MORE_THAN_A_PAGE: u32 = 1 << 5;
const COUNTS_PAGES: u32 = 1 << 22;
/// An open file of which the kernel keeps nothing.
const DIRECT: u32 = 1;

/// An answer while it is made.
pub(super) struct Answer(Vec<u8>);

impl Answer {
    pub fn new() -> Self {
        Self(vec![0; ANSWER_HEAD_BYTES])
    }

    /// The bytes of it, or of an error in its place.
    pub fn seal(mut self, head: Head, done: Result<(), Errno>) -> Vec<u8> {
        let error = done.err().map_or(0, Errno::raw_os_error);
        if error != 0 {
            self.0.truncate(ANSWER_HEAD_BYTES);
        }
        let length = u32::try_from(self.0.len()).expect("an answer is small");
        let mut first = &mut self.0[..ANSWER_HEAD_BYTES];
        first.put_u32_le(length);
        first.put_i32_le(-error);
        first.put_u64_le(head.unique);
        self.0
    }

    pub fn put_init(&mut self, readahead_bytes: u32) {
        self.0.put_u32_le(MAJOR);
        self.0.put_u32_le(MINOR);
        self.0.put_u32_le(readahead_bytes);
        let flags = ASKS_FOR_LOCKS | TRUNCATES_AS_IT_OPENS | WRITES_MORE_THAN_A_PAGE | COUNTS_PAGES;
        self.0.put_u32_le(flags);
        self.0.put_u16_le(BACKGROUND_MAX);
        self.0.put_u16_le(BACKGROUND_MAX);
        self.0.put_u32_le(DATA_BYTES_MAX as u32);
        // Times are exact to the nanosecond.
        self.0.put_u32_le(1);
        self.0.put_u16_le(PAGES_MAX);
        self.0.put_bytes(0, 34);
    }

    /// A file, under a name that the kernel is to look up anew each time.
    pub fn put_entry(&mut self, node: NodeId, file: &Statx, head: Head) {
        self.0.put_u64_le(node.0);
        self.0.put_bytes(0, 32);
        self.put_file(file, head);
    }

    /// Attributes, which the kernel is to ask for each time.
    pub fn put_attributes(&mut self, file: &Statx, head: Head) {
        self.0.put_bytes(0, 16);
        self.put_file(file, head);
    }

    /// All files belong to whoever asks: the sandboxes of a folder have other users each, and all of them are its owner.
    fn put_file(&mut self, file: &Statx, head: Head) {
        let out = &mut self.0;
        for number in [file.stx_ino, file.stx_size, file.stx_blocks] {
            out.put_u64_le(number);
        }
        let times = [&file.stx_atime, &file.stx_mtime, &file.stx_ctime];
        for time in times {
            out.put_i64_le(time.tv_sec);
        }
        for time in times {
            out.put_u32_le(time.tv_nsec);
        }
        out.put_u32_le(file.stx_mode.into());
        out.put_u32_le(file.stx_nlink);
        out.put_u32_le(head.user);
        out.put_u32_le(head.group);
        out.put_u32_le(0);
        out.put_u32_le(file.stx_blksize);
        out.put_u32_le(0);
    }

    pub fn put_open(&mut self, handle: HandleId) {
        self.0.put_u64_le(handle.0);
        self.0.put_u32_le(DIRECT);
        self.0.put_u32_le(0);
    }

    pub fn put_written(&mut self, bytes: usize) {
        self.0
            .put_u32_le(u32::try_from(bytes).expect("no more than a request has"));
        self.0.put_u32_le(0);
    }

    pub fn put_space(&mut self, disk: &StatVfs) {
        for count in [disk.f_blocks, disk.f_bfree, disk.f_bavail, disk.f_files, disk.f_ffree] {
            self.0.put_u64_le(count);
        }
        for size in [disk.f_bsize, disk.f_namemax, disk.f_frsize] {
            self.0.put_u32_le(u32::try_from(size).unwrap_or(u32::MAX));
        }
        self.0.put_bytes(0, 28);
    }

    pub fn put_bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Has data read into it: what `read` says was.
    pub fn put_read(
        &mut self,
        bytes: usize,
        read: impl FnOnce(&mut [u8]) -> Result<usize, Errno>,
    ) -> Result<(), Errno> {
        self.0.resize(ANSWER_HEAD_BYTES + bytes, 0);
        let count = read(&mut self.0[ANSWER_HEAD_BYTES..])?;
        self.0.truncate(ANSWER_HEAD_BYTES + count);
        Ok(())
    }

    /// One file of a folder; says no if the answer would have more than `bytes_max` of them.
    pub fn put_listed(&mut self, listed: &Listed<'_>, bytes_max: usize) -> bool {
        let bytes = (24 + listed.name.len()).next_multiple_of(8);
        let end = self.0.len() + bytes;
        if end > ANSWER_HEAD_BYTES + bytes_max {
            return false;
        }
        self.0.put_u64_le(listed.inode);
        self.0.put_i64_le(listed.next);
        self.0
            .put_u32_le(u32::try_from(listed.name.len()).expect("a name is short"));
        self.0.put_u32_le(listed.kind);
        self.0.extend_from_slice(listed.name);
        self.0.resize(end, 0);
        true
    }
}

/// One file of a folder.
pub(super) struct Listed<'a> {
    pub inode: u64,
    /// Where the next one is found.
    pub next: i64,
    /// The type bits of its mode, as directories have them.
    pub kind: u32,
    pub name: &'a [u8],
}
