//! Images made by code, read and laid out: what must come out, and what must be refused.

use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use bowline_oci::sample::{LayerSample, Packing, Sample, archive_of, packed};
use bowline_oci::unpack::{Fittings, unpack};
use bowline_oci::{ImageError, Upload};
use serde_json::json;
use tar::EntryType;
use tempfile::TempDir;

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file
}

fn read(archive: File) -> Result<Upload, ImageError> {
    Upload::read(archive, tempfile::tempfile)
}

fn layer() -> LayerSample {
    LayerSample::default()
}

/// An image whose layers are these, unpacked into `root` of a folder of its own.
fn lay_out(layers: Vec<LayerSample>) -> (TempDir, Result<(), String>) {
    let sample = layers
        .into_iter()
        .fold(Sample::default(), |sample, layer| sample.layer(layer, Packing::Gzip));
    lay_out_sample(&sample)
}

fn lay_out_sample(sample: &Sample) -> (TempDir, Result<(), String>) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("outside"), "untouched").unwrap();
    let upload = read(file_of(&sample.archive())).unwrap();
    let fittings = Fittings {
        folders: &["dev", "proc", "tmp"],
        files: &[("etc/hosts", "ours")],
    };
    let target = folder.path().join("root");
    let done = unpack(&target, &upload.image, upload.layers().to_vec(), fittings);
    (folder, done.map(drop).map_err(|error| shown(&error)))
}

fn shown(error: &ImageError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

fn check_text(folder: &TempDir, path: &str, expected: &str) {
    let found = fs::read_to_string(folder.path().join("root").join(path));
    assert_eq!(found.unwrap_or_else(|error| error.to_string()), expected, "{path}");
}

fn is_there(folder: &TempDir, path: &str) -> bool {
    folder.path().join("root").join(path).symlink_metadata().is_ok()
}

/// The layers are refused with this reason, and nothing outside is touched; without the last one they are not.
fn check_refused(mut layers: Vec<LayerSample>, last: LayerSample, reason: &str) {
    let control = layers.len();
    layers.push(last);
    let (folder, done) = lay_out(layers);
    let refused = done.expect_err(reason);
    assert!(refused.contains(reason), "{refused}: expected {reason}");
    assert_eq!(fs::read_to_string(folder.path().join("outside")).unwrap(), "untouched");
    let names = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(names, 2, "only the root and what was there ({control} layers)");
    fs::remove_dir_all(folder.path().join("root")).expect("what was laid out can be removed");
}

#[test]
fn layers_lie_over_one_another() {
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        let low = layer()
            .folder("usr/", 0o755)
            .folder("usr/lib/", 0o755)
            .symbolic_link("lib", "usr/lib")
            .symbolic_link("abs", "/usr")
            .file("usr/lib/both", 0o644, b"low")
            .file("gone", 0o644, b"low")
            .file("dir/gone", 0o644, b"low")
            .file("becomes/a/folder", 0o644, b"low");
        let high = layer()
            .file("usr/lib/both", 0o755, b"high")
            .file("lib/through-a-link", 0o600, b"high")
            .file("abs/absolute", 0o644, b"high")
            .file(".wh.gone", 0, b"")
            .file("dir/.wh.gone", 0, b"")
            .file("dir/new", 0o4755, b"high")
            .file("becomes/a", 0o644, b"a file")
            .hard_link("linked", "usr/lib/both");
        let sample = Sample::default().layer(low, packing).layer(high, packing);
        let (folder, done) = lay_out_sample(&sample);
        assert_eq!(done, Ok(()), "{packing:?}");
        check_text(&folder, "usr/lib/both", "high");
        check_text(&folder, "usr/lib/through-a-link", "high");
        check_text(&folder, "usr/absolute", "high");
        check_text(&folder, "linked", "high");
        check_text(&folder, "becomes/a", "a file");
        assert!(!is_there(&folder, "gone") && !is_there(&folder, "dir/gone"));
        let metadata = |path: &str| fs::metadata(folder.path().join("root").join(path)).unwrap();
        assert_eq!(metadata("usr/lib/both").ino(), metadata("linked").ino());
        assert_eq!(metadata("usr/lib/both").mtime(), 1_700_000_000);
        assert_eq!(
            metadata("dir/new").permissions().mode() & 0o7777,
            0o755,
            "no set-user-id"
        );
        assert_eq!(metadata("usr/lib/through-a-link").permissions().mode() & 0o7777, 0o600);
    }
}

#[test]
fn an_opaque_folder_has_nothing_of_lower_layers() {
    let low = || {
        layer()
            .file("d/low", 0o644, b"low")
            .file("d/sub/low", 0o644, b"low")
            .file("other/low", 0o644, b"low")
    };
    let high = || layer().file("d/sub/high", 0o644, b"high");
    // The mark may come before what the layer puts there, or after.
    for high in [
        layer()
            .file("d/.wh..wh..opq", 0, b"")
            .file("d/sub/high", 0o644, b"high"),
        high().file("d/.wh..wh..opq", 0, b""),
    ] {
        let (folder, done) = lay_out(vec![low(), high]);
        assert_eq!(done, Ok(()));
        check_text(&folder, "d/sub/high", "high");
        check_text(&folder, "other/low", "low");
        assert!(!is_there(&folder, "d/low") && !is_there(&folder, "d/sub/low"));
    }
    let (folder, done) = lay_out(vec![low(), high()]);
    assert_eq!(done, Ok(()));
    assert!(
        is_there(&folder, "d/low") && is_there(&folder, "d/sub/low"),
        "without the mark"
    );
}

#[test]
fn nothing_is_written_outside() {
    let outside = "../outside";
    check_refused(vec![], layer().file(outside, 0o644, b"!"), "would lie outside");
    check_refused(
        vec![],
        layer().file("a/../../outside", 0o644, b"!"),
        "would lie outside",
    );
    check_refused(vec![], layer().hard_link("x", "../outside"), "would lie outside");
    check_refused(vec![], layer().hard_link("x", "/outside"), "not there");
    check_refused(vec![], layer().file("d/.wh...", 0, b""), "no name");
    check_refused(vec![], layer().file(".wh.", 0, b""), "no name");
    // An absolute path is one inside.
    let (folder, done) = lay_out(vec![layer().file("/inside", 0o644, b"in")]);
    assert_eq!(done, Ok(()));
    check_text(&folder, "inside", "in");
}

#[test]
fn planted_links_lead_nowhere_outside() {
    let here = tempfile::tempdir().unwrap();
    let victim = here.path().to_str().unwrap().to_owned();
    for target in ["..", "../..", "/", &victim] {
        // In the same layer, and by an earlier one: what lies behind the link lies in the root.
        for split in [false, true] {
            let plant = layer().symbolic_link("link", target);
            let layers = if split {
                vec![plant, layer().file("link/outside", 0o644, b"inside")]
            } else {
                vec![plant.file("link/outside", 0o644, b"inside")]
            };
            let (folder, done) = lay_out(layers);
            assert_eq!(
                fs::read_to_string(folder.path().join("outside")).unwrap(),
                "untouched",
                "{target}"
            );
            assert_eq!(fs::read_dir(here.path()).unwrap().count(), 0, "{target}");
            if target == victim {
                assert!(done.unwrap_err().contains("leads nowhere"));
            } else {
                assert_eq!(done, Ok(()), "{target}");
                check_text(&folder, "outside", "inside");
            }
        }
        // A file in the place of a link takes its place, and is not written through it.
        let through = layer()
            .symbolic_link("outside", "../outside")
            .file("outside", 0o644, b"inside");
        let (folder, done) = lay_out(vec![through]);
        assert_eq!(done, Ok(()));
        check_text(&folder, "outside", "inside");
        assert_eq!(fs::read_to_string(folder.path().join("outside")).unwrap(), "untouched");
        // So are the fittings.
        let etc = layer()
            .symbolic_link("etc", "..")
            .symbolic_link("proc", "../outside")
            .symbolic_link("tmp", "/");
        let (folder, done) = lay_out(vec![etc]);
        assert_eq!(done, Ok(()));
        check_text(&folder, "hosts", "ours");
        assert!(!folder.path().join("hosts").exists());
        assert!(folder.path().join("root/proc").symlink_metadata().unwrap().is_dir());
    }
}

#[test]
fn a_file_of_two_names_is_changed_under_one() {
    let low = layer().file("a", 0o644, b"low").hard_link("b", "a");
    let (folder, done) = lay_out(vec![low, layer().file("a", 0o644, b"high")]);
    assert_eq!(done, Ok(()));
    check_text(&folder, "a", "high");
    check_text(&folder, "b", "low");
}

#[test]
fn what_guests_must_not_have_is_left_out() {
    let devices = layer()
        .entry(EntryType::Char, ("dev/null", 0o666), "", b"")
        .entry(EntryType::Block, ("disk", 0o666), "", b"")
        .entry(EntryType::Fifo, ("pipe", 0o666), "", b"")
        .file("after", 0o644, b"there");
    let (folder, done) = lay_out(vec![devices]);
    assert_eq!(done, Ok(()));
    check_text(&folder, "after", "there");
    assert!(!is_there(&folder, "disk") && !is_there(&folder, "pipe") && !is_there(&folder, "dev/null"));
    check_refused(
        vec![],
        layer().entry(EntryType::new(b'S'), ("s", 0o644), "", b""),
        "of a kind",
    );
}

#[test]
fn damage_is_found() {
    let sample = || Sample::default().layer(layer().file("a", 0o644, b"a"), Packing::Gzip);
    let (_, done) = lay_out_sample(&sample().wrong_diff_id());
    assert!(done.unwrap_err().contains("unpacks to something else"));
    let mut files = sample().layout();
    let last = files.last_mut().unwrap();
    // Behind the compressed bytes, which still unpack well.
    last.1.push(0);
    let refused = read(file_of(&archive_of(&files))).map(drop).unwrap_err();
    assert!(shown(&refused).contains("bytes, not"), "{}", shown(&refused));
    let mut files = sample().layout();
    let last = files.last_mut().unwrap();
    let middle = last.1.len() / 2;
    last.1[middle] ^= 1;
    let upload = read(file_of(&archive_of(&files))).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let done = unpack(
        &folder.path().join("root"),
        &upload.image,
        upload.layers().to_vec(),
        Fittings::default(),
    );
    assert!(done.unwrap_err().is_of_the_image());
}

#[test]
fn limits_hold() {
    let deep = |depth: usize| layer().file(&format!("{}/x", vec!["d"; depth].join("/")), 0o644, b"");
    let (_, done) = lay_out(vec![deep(200)]);
    assert_eq!(done, Ok(()));
    check_refused(vec![], deep(300), "too deep");
    // By links each path is short.
    let link = format!("/{}", vec!["d"; 200].join("/"));
    let again = layer()
        .symbolic_link("l", &link)
        .file(&format!("l/{}/x", vec!["e"; 100].join("/")), 0o644, b"");
    check_refused(vec![deep(200)], again, "too deep");
    let long = "n".repeat(256);
    check_refused(vec![], layer().file(&long, 0o644, b""), "too long");
    let (folder, done) = lay_out(vec![layer().file(&long[..255], 0o644, b"long")]);
    assert_eq!(done, Ok(()));
    check_text(&folder, &long[..255], "long");
    // A name that would fill the memory.
    let huge = layer().entry(EntryType::GNULongName, ("long", 0), "", &vec![b'n'; 100_000]);
    check_refused(vec![], huge, "too long");
}

#[test]
fn every_form_of_archive_is_read() {
    let sample = Sample::default()
        .layer(layer().file("a", 0o644, b"a"), Packing::Plain)
        .set("Entrypoint", json!(["/run"]))
        .set("WorkingDir", json!("/desk"));
    let layout = read(file_of(&sample.archive())).unwrap().image;
    assert_eq!(layout.digest, sample.digest());
    let saved = read(file_of(&sample.saved("hello:1"))).unwrap();
    assert_eq!(saved.image.layers, layout.layers, "the same parts");
    assert_eq!(saved.image.process, layout.process);
    assert_eq!(saved.image.process.entry_point, ["/run"]);
    let again = read(file_of(&sample.saved("other:2"))).unwrap();
    assert_eq!(again.image.digest, saved.image.digest, "whatever it is called");
    // Newer ones are a layout too, which wins.
    let mut both = sample.layout();
    both.push(("manifest.json".to_owned(), b"[]".to_vec()));
    assert_eq!(read(file_of(&archive_of(&both))).unwrap().image, layout);
}

#[test]
fn compressed_archives_are_read_and_broken_ones_refused() {
    let sample = Sample::default().layer(layer().file("a", 0o644, b"some bytes"), Packing::Gzip);
    let saved = sample.saved("hello:1");
    let plain = read(file_of(&saved)).unwrap().image;
    for compressed in [packed(&saved, Packing::Gzip), packed(&saved, Packing::Zstd)] {
        let upload = read(file_of(&compressed)).unwrap();
        assert_eq!(upload.image, plain);
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        unpack(&root, &upload.image, upload.layers().to_vec(), Fittings::default()).unwrap();
        assert_eq!(fs::read(root.join("a")).unwrap(), b"some bytes");
        let refused = read(file_of(&compressed[..compressed.len() / 2]))
            .map(drop)
            .unwrap_err();
        assert!(refused.is_of_the_image(), "{refused:?}");
        assert!(
            shown(&refused).contains("compression is damaged"),
            "{}",
            shown(&refused)
        );
    }
    for archive in [saved, sample.archive()] {
        let mut reasons = Vec::new();
        for at in (600..archive.len() - 1024).step_by(512) {
            let Err(refused) = read(file_of(&archive[..at])) else {
                panic!("cut off at {at} and read")
            };
            assert!(refused.is_of_the_image(), "cut off at {at}: {refused:?}");
            reasons.push(shown(&refused));
        }
        let cut_off = reasons.iter().any(|reason| reason.contains("breaks off in"));
        assert!(cut_off, "{reasons:?}");
    }
}

#[test]
fn what_is_no_image_for_here_is_refused() {
    let check = |bytes: &[u8], reason: &str| {
        let refused = shown(&read(file_of(bytes)).map(drop).unwrap_err());
        assert!(refused.contains(reason), "{refused}: expected {reason}");
    };
    let sample = || Sample::default().layer(layer().file("a", 0o644, b"a"), Packing::Plain);
    check(b"", "neither");
    check(&[7; 4096], "not a tar archive");
    check(&archive_of(&[("app.py".to_owned(), b"x".to_vec())]), "neither");
    check(&sample().for_architecture("s390x").archive(), "there is linux/s390x");
    check(&sample().for_architecture("s390x").saved("a"), "there is linux/s390x");
    let without = |name: &str| {
        let mut files = sample().layout();
        files.retain(|(path, _)| !path.contains(name));
        archive_of(&files)
    };
    let digest = sample().digest().to_string();
    check(&without(&digest), "is missing");
    let mut files = sample().layout();
    files[2].1.push(b' ');
    check(&archive_of(&files), "not what its digest says");
    let links = layer().symbolic_link("index.json", "index.json");
    let sample_of_links = Sample::default().layer(links, Packing::Plain).layout();
    check(&sample_of_links[4].1, "is missing");
}

#[test]
fn what_stays_of_a_refused_image_can_be_removed() {
    let closed = layer()
        .folder("closed", 0o000)
        .file("closed/file", 0o000, b"x")
        .file("../x", 0o644, b"");
    let (folder, done) = lay_out(vec![closed]);
    assert!(done.is_err());
    let closed = folder.path().join("root/closed");
    assert_eq!(mode(&closed) & 0o700, 0o700, "this user goes on in it");
    fs::remove_dir_all(folder.path().join("root")).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode()
}
