//! What the kernel of a virtual machine asks of a folder: any bytes are carried out or refused, nothing outside the folder is
//! touched, nothing in it runs with its owner's rights, and answers are as long as they say.
#![no_main]

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use bowline_agent::fuse::{ANSWER_BYTES_MAX, Access, Folder, Limits};
use libfuzzer_sys::fuzz_target;

/// Requests of one guest.
const REQUESTS_MAX: usize = 64;
/// What one may hold.
const LIMITS: Limits = Limits {
    handles_max: 4,
    nodes_max: 16,
};

fuzz_target!(|data: &[u8]| {
    let outside = tempfile::tempdir().expect("there is room for a folder");
    let inside = outside.path().join("data");
    let made = std::fs::create_dir_all(inside.join("folder"))
        .and_then(|()| std::fs::write(outside.path().join("secret"), "secret"))
        .and_then(|()| std::fs::write(inside.join("file"), "file"))
        .and_then(|()| std::os::unix::fs::symlink("../secret", inside.join("link")));
    made.expect("there is room for files");
    let (access, rest) = match data.split_first() {
        Some((0, rest)) => (Access::Read, rest),
        Some((_, rest)) => (Access::Write, rest),
        None => return,
    };
    let folder = File::open(&inside).expect("it was just made");
    let folder = Folder::new(folder.into(), access, LIMITS);
    carry_out(&folder, rest);
    let secret = std::fs::read(outside.path().join("secret")).expect("it was not removed");
    let count = std::fs::read_dir(outside.path()).expect("it was not removed").count();
    assert_eq!((count, &secret[..]), (2, &b"secret"[..]), "the guest was outside");
    look(&inside, access == Access::Read);
});

/// Requests one after the other, each as long as it says.
fn carry_out(folder: &Folder, mut rest: &[u8]) {
    for _ in 0..REQUESTS_MAX {
        let Some(first) = rest.first_chunk() else { return };
        let length = u32::from_le_bytes(*first) as usize;
        let (request, next) = rest.split_at(length.clamp(first.len(), rest.len()));
        rest = next;
        if let Ok(Some(answer)) = folder.perform(request) {
            let said = answer.first_chunk().map(|first| u32::from_le_bytes(*first) as usize);
            assert_eq!(said, Some(answer.len()));
            assert!(answer.len() <= ANSWER_BYTES_MAX);
        }
    }
}

fn look(folder: &Path, is_unchanged: bool) {
    let mut count = 0;
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        count += 1;
        let Ok(metadata) = entry.metadata() else { continue };
        assert_eq!(metadata.permissions().mode() & 0o6000, 0, "{:?}", entry.path());
        assert!(
            metadata.is_file() || metadata.is_dir() || metadata.is_symlink(),
            "{:?}",
            entry.path()
        );
    }
    assert!(!is_unchanged || count == 3, "what may only be read was changed");
}
