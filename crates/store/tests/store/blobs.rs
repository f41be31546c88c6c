//! Blobs are whole or absent, whatever happens to the process or to the files.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use bowline_foundation::clock::{Clock, Timestamp};
use bowline_foundation::digest::Digest;
use bowline_foundation::entropy::Entropy;
use bowline_store::blob::{BlobError, Blobs, Naming};
use bowline_store::limits::BLOB_BYTES_MAX;
use bytes::Bytes;
use futures_util::future::join_all;
use tempfile::TempDir;

use crate::process::{self, Worker};

fn in_folder() -> (TempDir, Blobs) {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open_dir(&folder.path().join("data/blobs")).unwrap();
    (folder, blobs)
}

fn file_of(folder: &TempDir, digest: &Digest) -> std::path::PathBuf {
    folder.path().join("data/blobs").join(digest.to_string())
}

#[tokio::test]
async fn a_blob_goes_through_its_life() {
    let (_folder, on_disk) = in_folder();
    for blobs in [on_disk, Blobs::in_memory()] {
        for bytes in [
            Bytes::new(),
            Bytes::from_static(b"code"),
            Bytes::from(vec![7; 3_000_000]),
        ] {
            let digest = blobs.put(bytes.clone()).await.unwrap();
            assert_eq!(digest, Digest::of(&bytes));
            assert!(blobs.get(&digest).await.unwrap() == bytes);
            assert_eq!(blobs.list().await.unwrap(), [digest]);
            assert_eq!(blobs.infos().await.unwrap()[0].size_bytes, bytes.len() as u64);
            blobs.delete(&digest).await.unwrap();
            blobs.delete(&digest).await.expect("deleting twice is no error");
            assert!(matches!(blobs.get(&digest).await, Err(BlobError::NotFound(missing)) if missing == digest));
        }
    }
}

#[tokio::test]
async fn a_damaged_blob_is_named_and_repaired_by_putting_it_again() {
    let (folder, blobs) = in_folder();
    let digest = blobs.put("right".into()).await.unwrap();
    fs::write(file_of(&folder, &digest), "wrong").unwrap();
    let error = blobs.get(&digest).await.unwrap_err();
    assert!(
        matches!(error, BlobError::Damaged { expected, actual } if expected == digest && actual == Digest::of(b"wrong"))
    );
    blobs.put("right".into()).await.unwrap();
    assert_eq!(blobs.get(&digest).await.unwrap(), "right");
}

#[tokio::test]
async fn too_large_a_blob_is_refused() {
    let blobs = Blobs::in_memory();
    let refused = blobs.put(Bytes::from(vec![0; BLOB_BYTES_MAX + 1])).await;
    assert!(matches!(refused, Err(BlobError::TooLarge { .. })));
    assert_eq!(blobs.list().await.unwrap(), []);
}

#[tokio::test]
async fn an_existing_blob_is_not_written_again() {
    let (folder, blobs) = in_folder();
    let digest = blobs.put("code".into()).await.unwrap();
    let identity = |digest| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(file_of(&folder, digest)).unwrap().ino()
    };
    // The link keeps the first file's number from being given to a second one.
    fs::hard_link(file_of(&folder, &digest), folder.path().join("kept")).unwrap();
    let before = identity(&digest);
    blobs.put("code".into()).await.unwrap();
    assert_eq!(identity(&digest), before);
    blobs.delete(&digest).await.unwrap();
    blobs.put("code".into()).await.unwrap();
    assert_ne!(identity(&digest), before, "control: a new blob is a new file");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_puts_of_one_blob_make_one() {
    let (_folder, blobs) = in_folder();
    let bytes = Bytes::from(vec![1; 300_000]);
    let puts = (0..32).map(|_| {
        let (blobs, bytes) = (blobs.clone(), bytes.clone());
        tokio::spawn(async move { blobs.put(bytes).await.unwrap() })
    });
    let digests: BTreeSet<Digest> = join_all(puts).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(digests.len(), 1);
    assert_eq!(blobs.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn only_old_blobs_are_collected_and_a_put_makes_young() {
    let (folder, blobs) = in_folder();
    let digest = blobs.put("code".into()).await.unwrap();
    let age = |at: Timestamp| {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_micros(at.as_micros());
        fs::File::open(file_of(&folder, &digest))
            .unwrap()
            .set_modified(time)
            .unwrap();
    };
    let (old, cutoff) = (Timestamp::from_micros(1_000_000), Timestamp::from_micros(2_000_000));
    assert!(
        !blobs.delete_if_older(&digest, cutoff).await.unwrap(),
        "it was put just now"
    );
    age(old);
    assert_eq!(blobs.infos().await.unwrap()[0].last_put, old);
    blobs.put("code".into()).await.unwrap();
    assert!(
        !blobs.delete_if_older(&digest, cutoff).await.unwrap(),
        "it was put again"
    );
    assert!(blobs.infos().await.unwrap()[0].last_put <= Clock::system().now());
    age(old);
    assert!(blobs.delete_if_older(&digest, cutoff).await.unwrap());
    assert!(!blobs.delete_if_older(&digest, cutoff).await.unwrap(), "it is gone");
}

#[tokio::test]
async fn leftovers_of_interrupted_puts_are_cleared_away_and_foreign_files_are_not() {
    let (folder, blobs) = in_folder();
    let digest = blobs.put("code".into()).await.unwrap();
    let at = |name: String| folder.path().join("data/blobs").join(name);
    let (staged, foreign) = (at(format!("{}#1", Digest::of(b"other"))), at("notes#1".to_owned()));
    fs::write(&staged, "half").unwrap();
    fs::write(&foreign, "mine").unwrap();
    assert_eq!(blobs.list().await.unwrap(), [digest]);
    let again = Blobs::open_dir(&folder.path().join("data/blobs")).unwrap();
    assert!(!staged.exists() && foreign.exists());
    assert_eq!(again.list().await.unwrap(), [digest]);
}

const ROUNDS: u64 = 20;
const BLOB_BYTES: usize = 400_000;

#[test]
fn a_killed_process_leaves_whole_blobs() {
    let name = "blobs::a_killed_process_leaves_whole_blobs";
    if let Some((folder, _)) = process::task() {
        return put_forever(&folder, Manner::Sound);
    }
    let (lost, damaged) = kill_again_and_again(name, Naming::Sha256, 1);
    assert_eq!((lost, damaged), (0, 0));
}

#[test]
fn a_process_that_is_killed_in_a_quick_put_leaves_whole_blobs() {
    let name = "blobs::a_process_that_is_killed_in_a_quick_put_leaves_whole_blobs";
    if let Some((folder, _)) = process::task() {
        return put_forever(&folder, Manner::Quick);
    }
    let (lost, damaged) = kill_again_and_again(name, Naming::Blake3, 1);
    assert_eq!((lost, damaged), (0, 0));
}

#[test]
fn control_writing_in_place_is_found_out() {
    let name = "blobs::control_writing_in_place_is_found_out";
    if let Some((folder, _)) = process::task() {
        return put_forever(&folder, Manner::InPlace);
    }
    // Where the machine has other things to do, all kills may fall between two writings.
    assert!((2..7).any(|seed| kill_again_and_again(name, Naming::Sha256, seed).1 > 0));
}

#[derive(PartialEq)]
enum Manner {
    Sound,
    Quick,
    InPlace,
}

fn put_forever(folder: &Path, manner: Manner) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let blobs = Blobs::open_dir(folder).unwrap();
    let entropy = Entropy::system();
    process::say("open");
    loop {
        let mut bytes = vec![0; BLOB_BYTES];
        entropy.fill(&mut bytes);
        let naming = match manner {
            Manner::Quick => Naming::Blake3,
            Manner::Sound | Manner::InPlace => Naming::Sha256,
        };
        let digest = naming.name(&bytes);
        // Every second kill falls into the writing, the others between two writings.
        process::say("writing");
        match manner {
            Manner::Sound => drop(runtime.block_on(blobs.put(bytes.into())).unwrap()),
            Manner::Quick => drop(runtime.block_on(blobs.put_quickly(bytes.into(), |_| {})).unwrap()),
            Manner::InPlace => write_in_place(&folder.join(digest.to_string()), &bytes),
        }
        process::say(&digest.to_string());
    }
}

/// What a careless implementation does, in steps so small that a kill falls between two of them.
fn write_in_place(path: &Path, bytes: &[u8]) {
    use std::io::Write;
    let mut file = fs::File::create(path).unwrap();
    bytes.chunks(1).for_each(|chunk| file.write_all(chunk).unwrap());
}

/// Returns how many acknowledged blobs were missing, and how many blobs were damaged.
fn kill_again_and_again(name: &str, naming: Naming, seed: u64) -> (usize, usize) {
    let entropy = Entropy::seeded(seed);
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (mut lost, mut damaged, mut acknowledged) = (0, 0, 0);
    for _ in 0..ROUNDS {
        let mut worker = Worker::start(name, folder.path(), "");
        let awaited = entropy.number() % 8;
        let mut said: Vec<String> = (0..=awaited).map_while(|_| worker.next_line()).collect();
        said.extend(worker.kill());
        let promised: BTreeSet<Digest> = said.iter().filter_map(|line| line.parse().ok()).collect();
        let blobs = Blobs::open_dir(folder.path()).unwrap();
        let there: BTreeSet<Digest> = runtime.block_on(blobs.list()).unwrap().into_iter().collect();
        lost += promised.difference(&there).count();
        damaged += there
            .iter()
            .filter(|digest| runtime.block_on(blobs.get_named(naming, digest)).is_err())
            .count();
        let files = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(files, there.len(), "nothing but blobs is left");
        there
            .iter()
            .for_each(|digest| runtime.block_on(blobs.delete(digest)).unwrap());
        acknowledged += promised.len();
    }
    assert!(acknowledged > 0, "the children got on");
    (lost, damaged)
}
