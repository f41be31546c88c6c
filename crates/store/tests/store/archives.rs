//! Archives: round trips between stores, the golden file, damage of every byte, imports that are cut off.

use std::io::Cursor;
use std::sync::Arc;

use bowline_foundation::entropy::Entropy;
use bowline_store::archive::{
    ArchiveError, Existing, ExportError, ImportError, Progress, Summary, Target, check, export, import, parse,
    unfinished, verify,
};
use bowline_store::blob::Blobs;
use bowline_store::conformance::Fixture;
use bowline_store::{Fault, FaultRates, FaultyStore, Key, MemoryStore, Store, Write};
use bytes::Bytes;
use proptest::prelude::*;

use crate::fixtures::{Postgres, Sqlite};

type Records = Vec<(Key, Bytes)>;

async fn records_of(store: &dyn Store) -> Records {
    let all = store.scan(&Key::new(), None, usize::MAX).await.unwrap();
    all.into_iter().map(|(key, entry)| (key, entry.value)).collect()
}

async fn fill(store: &dyn Store, records: impl IntoIterator<Item = (Key, Bytes)>) {
    let writes: Vec<_> = records.into_iter().map(|(key, value)| Write::Put(key, value)).collect();
    for part in writes.chunks(500) {
        store.commit(vec![], part.to_vec()).await.unwrap();
    }
}

/// Keys and values of all sizes and bytes, more than fit one page.
fn many() -> impl Iterator<Item = (Key, Bytes)> {
    let entropy = Entropy::seeded(9);
    (0..1300u32).map(move |index| {
        let length = usize::try_from(entropy.number() % 200).unwrap();
        let mut value = vec![0; if index == 700 { 1024 * 1024 } else { length }];
        entropy.fill(&mut value);
        let key = [&index.to_be_bytes()[..], &value[..length.min(30)]].concat();
        (key.into(), value.into())
    })
}

async fn exported(store: &dyn Store, blobs: Option<&Blobs>) -> (Vec<u8>, Summary) {
    let mut file = Vec::new();
    let summary = export(store, (blobs, None), &mut file, &mut |_| {}).await.unwrap();
    (file, summary)
}

fn into(store: &dyn Store) -> Target<'_> {
    Target {
        store,
        blobs: None,
        cold: None,
        existing: Existing::Refuse,
    }
}

async fn imported(file: &[u8], target: Target<'_>) -> Result<Summary, ImportError> {
    import(&mut Cursor::new(file), target, &mut |_| {}).await
}

#[tokio::test]
async fn everything_moves_from_sqlite_to_postgres_and_back() {
    let Some(postgres) = Postgres::new().await else { return };
    let (first, last) = (Sqlite::new(), Sqlite::new());
    fill(&*first.store(), many()).await;
    let (file, summary) = exported(&*first.store(), None).await;
    assert_eq!(summary.records, 1300);
    imported(&file, into(&*postgres.store())).await.unwrap();
    let (same, _) = exported(&*postgres.store(), None).await;
    assert!(same == file, "the same records make the same file");
    imported(&same, into(&*last.store())).await.unwrap();
    assert!(records_of(&*last.store()).await == records_of(&*first.store()).await);
    assert!(
        check(&*last.store(), (None, None), &mut |_| {})
            .await
            .unwrap()
            .is_sound()
    );
}

#[tokio::test]
async fn a_whole_node_moves_with_its_blobs() {
    let folder = tempfile::tempdir().unwrap();
    let (here, there) = (Blobs::open_dir(folder.path()).unwrap(), Blobs::in_memory());
    let store = MemoryStore::default();
    fill(&store, [("a".into(), "1".into())]).await;
    let mut digests = Vec::new();
    for content in ["code", "", "more code"] {
        digests.push(here.put(content.into()).await.unwrap());
    }
    let (file, summary) = exported(&store, Some(&here)).await;
    assert_eq!((summary.blobs, summary.records, summary.bytes), (3, 1, 15));
    let target = MemoryStore::default();
    let refused = imported(&file, into(&target)).await;
    assert!(matches!(refused, Err(ImportError::NoPlaceForBlobs(3))), "{refused:?}");
    assert_eq!(records_of(&target).await, [], "nothing was written");
    let whole = Target {
        blobs: Some(&there),
        ..into(&target)
    };
    imported(&file, whole).await.unwrap();
    for digest in &digests {
        assert_eq!(there.get(digest).await.unwrap(), here.get(digest).await.unwrap());
    }
    std::fs::write(folder.path().join(digests[0].to_string()), "cod").unwrap();
    let report = check(&store, (Some(&here), None), &mut |_| {}).await.unwrap();
    assert_eq!((report.records, report.blobs), (1, 3));
    assert_eq!(report.damaged_blobs, [digests[0]]);
    assert!(!report.is_sound());
    assert!(
        check(&target, (Some(&there), None), &mut |_| {})
            .await
            .unwrap()
            .is_sound(),
        "control"
    );
}

/// The golden file's content.
async fn small() -> (Arc<MemoryStore>, Blobs) {
    let (store, blobs) = (Arc::new(MemoryStore::default()), Blobs::in_memory());
    fill(
        &*store,
        [
            (Key::new(), "empty key".into()),
            (Bytes::from_static(b"\xff\0"), Bytes::new()),
        ],
    )
    .await;
    fill(&*store, [("key".into(), "value".into())]).await;
    blobs.put("a blob".into()).await.unwrap();
    (store, blobs)
}

#[tokio::test]
async fn an_archive_of_format_1_is_read_and_written() {
    let golden = include_bytes!("archive-1.bin");
    let (store, blobs) = small().await;
    let (file, summary) = exported(&*store, Some(&blobs)).await;
    assert!(file == golden, "the bytes of format 1 never change");
    assert_eq!(parse(golden).unwrap(), summary);
    let (target, place) = (MemoryStore::default(), Blobs::in_memory());
    let whole = Target {
        blobs: Some(&place),
        ..into(&target)
    };
    imported(golden, whole).await.unwrap();
    assert_eq!(records_of(&target).await, records_of(&*store).await);
}

#[tokio::test]
async fn cold_parts_of_streams_go_back_to_their_own_folder_in_format_2() {
    let golden = include_bytes!("archive-2.bin");
    let (store, blobs) = small().await;
    let cold = Blobs::in_memory();
    let both = (Some(&blobs), Some(&cold));
    let mut plain = Vec::new();
    export(&*store, both, &mut plain, &mut |_| {}).await.unwrap();
    assert!(
        plain == include_bytes!("archive-1.bin"),
        "control: without cold parts it is format 1"
    );
    cold.put("a cold part".into()).await.unwrap();
    let mut file = Vec::new();
    let summary = export(&*store, both, &mut file, &mut |_| {}).await.unwrap();
    assert!(file == golden, "the bytes of format 2 never change");
    assert_eq!((parse(golden).unwrap(), summary.blobs), (summary, 2));
    let (target, place, cold_place) = (MemoryStore::default(), Blobs::in_memory(), Blobs::in_memory());
    let without = Target {
        blobs: Some(&place),
        ..into(&target)
    };
    let refused = imported(golden, without).await;
    assert!(matches!(refused, Err(ImportError::NoPlaceForBlobs(2))), "{refused:?}");
    let whole = Target {
        cold: Some(&cold_place),
        ..without
    };
    imported(golden, whole).await.unwrap();
    assert_eq!(records_of(&target).await, records_of(&*store).await);
    assert_eq!(place.list().await.unwrap(), blobs.list().await.unwrap());
    assert_eq!(cold_place.list().await.unwrap(), cold.list().await.unwrap());
    let mut old = golden.to_vec();
    old[19] = 1;
    let error = parse(&old).unwrap_err();
    assert!(
        matches!(error, ArchiveError::UnknownFrame { kind: b'C', .. }),
        "{error}"
    );
}

#[tokio::test]
async fn every_damage_is_found_and_named() {
    let (store, blobs) = small().await;
    let mut file = Vec::new();
    let both = (Some(&blobs), Some(&blobs));
    let summary = export(&*store, both, &mut file, &mut |_| {}).await.unwrap();
    assert_eq!(parse(&file).unwrap(), summary, "control: whole");
    for length in 0..file.len() {
        let cut = &file[..length];
        let error = parse(cut).unwrap_err();
        let read = verify(&mut &cut[..], &mut |_| {}).await.unwrap_err();
        assert_eq!(error.to_string(), read.to_string(), "both readers agree");
        match length {
            0 => assert!(matches!(error, ArchiveError::NotAnArchive), "{error}"),
            _ => assert!(matches!(error, ArchiveError::Truncated { .. }), "{length}: {error}"),
        }
    }
    for at in 0..file.len() {
        let mut damaged = file.clone();
        damaged[at] ^= 0x40;
        parse(&damaged).expect_err("one bit is wrong");
    }
    let longer = [&file[..], b"x"].concat();
    assert!(matches!(parse(&longer), Err(ArchiveError::TrailingBytes { .. })));
    let read = verify(&mut &longer[..], &mut |_| {}).await;
    assert!(matches!(read, Err(ArchiveError::TrailingBytes { .. })));
    let mut newer = file.clone();
    newer[19] = 4;
    let error = parse(&newer).unwrap_err();
    assert!(matches!(error, ArchiveError::NewerFormat { found: 4 }));
    assert!(error.to_string().contains("use a newer build"));
    assert!(matches!(parse(b"something else"), Err(ArchiveError::NotAnArchive)));
    let target = MemoryStore::default();
    let refused = imported(&file[..file.len() - 1], into(&target)).await;
    assert!(matches!(refused, Err(ImportError::Archive(_))));
    assert_eq!(records_of(&target).await, [], "a bad file writes nothing");
    let (empty, _) = exported(&target, None).await;
    assert_eq!(
        parse(&empty).unwrap().records,
        0,
        "control: an empty store's file is whole"
    );
}

#[tokio::test]
async fn records_that_are_there_are_kept_unless_a_merge_is_asked_for() {
    let (store, target) = (MemoryStore::default(), MemoryStore::default());
    fill(&store, [("a".into(), "new".into()), ("b".into(), "new".into())]).await;
    fill(&target, [("a".into(), "old".into()), ("c".into(), "old".into())]).await;
    let (file, _) = exported(&store, None).await;
    let refused = imported(&file, into(&target)).await;
    assert!(matches!(refused, Err(ImportError::NotEmpty)), "{refused:?}");
    assert_eq!(
        records_of(&target).await,
        [("a".into(), "old".into()), ("c".into(), "old".into())] as [(Key, Bytes); 2]
    );
    let merge = Target {
        existing: Existing::Merge,
        ..into(&target)
    };
    imported(&file, merge).await.unwrap();
    let merged: Records = [("a", "new"), ("b", "new"), ("c", "old")]
        .map(|(key, value)| (key.into(), value.into()))
        .into();
    assert_eq!(records_of(&target).await, merged);
}

#[tokio::test]
async fn an_import_that_was_cut_off_goes_on_and_is_seen_until_then() {
    let (store, inner) = (MemoryStore::default(), Arc::new(MemoryStore::default()));
    fill(&store, many()).await;
    let (file, summary) = exported(&store, None).await;
    let faults = FaultyStore::new(inner.clone(), FaultRates::default(), Entropy::seeded(1));
    // Two reads and the mark, then some commits of records, then one whose answer is lost.
    faults.script([
        Fault::None,
        Fault::None,
        Fault::None,
        Fault::None,
        Fault::None,
        Fault::LoseReply,
    ]);
    let cut = imported(&file, into(&faults)).await;
    assert!(matches!(cut, Err(ImportError::Commit(_))), "{cut:?}");
    let some = records_of(&*inner).await.len();
    assert!(
        (100..1300).contains(&some),
        "control: it was cut off in the middle, after {some}"
    );
    assert_eq!(unfinished(&*inner).await.unwrap(), Some(summary.digest.to_string()));
    assert!(!check(&*inner, (None, None), &mut |_| {}).await.unwrap().is_sound());
    let refused = export(&*inner, (None, None), &mut Vec::new(), &mut |_| {}).await;
    assert!(matches!(refused, Err(ExportError::Unfinished { .. })), "{refused:?}");
    let (other, _) = exported(&MemoryStore::default(), None).await;
    assert!(
        matches!(imported(&other, into(&*inner)).await, Err(ImportError::NotEmpty)),
        "another archive"
    );
    imported(&file, into(&*inner)).await.unwrap();
    assert!(records_of(&*inner).await == records_of(&store).await);
    assert_eq!(unfinished(&*inner).await.unwrap(), None);
}

#[tokio::test]
async fn progress_rises_to_the_total() {
    let (store, target) = (MemoryStore::default(), MemoryStore::default());
    fill(&store, many()).await;
    let mut told: Vec<Progress> = Vec::new();
    let mut file = Vec::new();
    export(&store, (None, None), &mut file, &mut |now| told.push(now))
        .await
        .unwrap();
    assert!(told.len() > 3 && told.is_sorted_by_key(|now| now.records));
    assert_eq!(told.last().unwrap().records, 1300);
    told.clear();
    let summary = import(&mut Cursor::new(&file), into(&target), &mut |now| told.push(now))
        .await
        .unwrap();
    assert!(told.len() > 3 && told.is_sorted_by_key(|now| now.bytes));
    let last = told.last().unwrap();
    assert_eq!(
        (last.records, last.bytes, last.total),
        (summary.records, summary.bytes, Some(summary))
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_bytes_upset_the_parser(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..60) {
        let _ = parse(&bytes);
        let header = &include_bytes!("archive-1.bin")[..cut];
        prop_assert!(parse(&[header, &bytes[..]].concat()).is_err());
    }
}
