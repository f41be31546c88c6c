//! Serving a folder over a socket: what waits is bounded, and what no kernel says ends it.

use std::time::Duration;

use super::super::request::NodeId;
use super::super::request::tests::raw;
use super::*;
use crate::fuse::DATA_BYTES_MAX;

/// A folder that is served until the socket is dropped.
fn served() -> (tempfile::TempDir, UnixStream, thread::JoinHandle<io::Result<()>>) {
    let place = tempfile::tempdir().unwrap();
    let folder = rustix::fs::open(place.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let serving = thread::spawn(move || serve(theirs, &Folder::new(folder, Access::Write, Limits::default())));
    (place, ours, serving)
}

fn answer(socket: &mut UnixStream) -> Vec<u8> {
    let mut first = [0; 4];
    socket.read_exact(&mut first).unwrap();
    let mut rest = vec![0; u32::from_le_bytes(first) as usize - 4];
    socket.read_exact(&mut rest).unwrap();
    rest
}

#[test]
fn who_reads_no_answers_is_not_read_on_and_loses_none() {
    let (place, mut socket, serving) = served();
    std::fs::write(place.path().join("file"), vec![7; DATA_BYTES_MAX]).unwrap();
    socket.write_all(&raw(1, NodeId(2), b"file\0")).unwrap();
    answer(&mut socket);
    socket.write_all(&raw(14, NodeId(3), &[0; 8])).unwrap();
    let handle = answer(&mut socket)[12..20].to_vec();
    let size = u32::try_from(DATA_BYTES_MAX).unwrap().to_le_bytes();
    let read = raw(15, NodeId(3), &[&handle[..], &[0; 8], &size, &[0; 20]].concat());
    socket.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut asked = 0;
    let mut half = 0;
    // What the socket takes is the kernel's, and little beside the answers that nobody reads.
    while asked < 1_000_000 {
        match socket.write(&read) {
            Ok(bytes) if bytes == read.len() => asked += 1,
            Ok(bytes) => {
                half = bytes;
                break;
            }
            Err(_) => break,
        }
    }
    assert!(asked < 1_000_000, "it reads on without end");
    let mut writing = socket.try_clone().unwrap();
    let rest = read[half..].to_vec();
    writing.set_write_timeout(None).unwrap();
    let finishing = thread::spawn(move || writing.write_all(if half > 0 { &rest } else { &[] }));
    for _ in 0..asked + usize::from(half > 0) {
        assert_eq!(answer(&mut socket).len(), 12 + DATA_BYTES_MAX);
    }
    finishing.join().unwrap().unwrap();
    drop(socket);
    assert!(serving.join().unwrap().is_ok(), "its end is an ordinary one");
}

#[test]
fn what_no_kernel_says_ends_it() {
    for bad in [0_u32, 39, u32::MAX, u32::try_from(REQUEST_BYTES_MAX + 1).unwrap()] {
        let (_place, mut socket, serving) = served();
        socket.write_all(&raw(17, NodeId(1), &[])).unwrap();
        assert_eq!(answer(&mut socket).len(), 12 + 80, "the control");
        socket.write_all(&bad.to_le_bytes()).unwrap();
        assert_eq!(socket.read(&mut [0]).unwrap(), 0, "{bad}");
        assert!(serving.join().unwrap().is_err());
    }
}
