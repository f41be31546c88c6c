//! Layers of container images: whatever they hold, it lies in the root, is no device, has no set-user-id bit, and
//! can be removed.
//!
//! An input is lines `KIND PATH LINK`, of which `=` begins another layer; one that begins with a zero byte is a layer
//! as it is, which reaches the archive's format and its compression.
#![no_main]

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use bowline_foundation::digest::Digest;
use bowline_oci::sample::{EntryType, LayerSample, Packing, Sample};
use bowline_oci::unpack::{Fittings, unpack};
use bowline_oci::{Image, Layer, Process};
use libfuzzer_sys::fuzz_target;

const FITTINGS: Fittings<'static> = Fittings {
    folders: &["dev", "proc", "tmp"],
    files: &[("etc/hosts", "ours"), ("etc/resolv.conf", "")],
};

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("the machine has room");
    let outside = folder.path().join("outside");
    fs::write(&outside, "untouched").expect("the machine has room");
    let layers = match bytes {
        [0, raw @ ..] => vec![raw.to_vec()],
        script => layers_of(&String::from_utf8_lossy(script)),
    };
    let image = image_of(&layers);
    let root = folder.path().join("root");
    let done = unpack(&root, &image, layers.iter().map(Vec::as_slice), FITTINGS);
    assert_eq!(fs::read_to_string(&outside).expect("it is there"), "untouched");
    assert_eq!(fs::read_dir(folder.path()).expect("it is there").count(), 2);
    check(&root);
    if done.is_ok() {
        for folder in FITTINGS.folders {
            let found = root.join(folder).symlink_metadata().expect("it was made");
            assert!(found.is_dir());
        }
    }
    fs::remove_dir_all(&root).expect("what was laid out can be removed");
});

fn layers_of(script: &str) -> Vec<Vec<u8>> {
    let mut layers = vec![LayerSample::default()];
    for line in script.lines().take(64) {
        if line == "=" {
            layers.push(LayerSample::default());
            continue;
        }
        let mut words = line.splitn(3, ' ');
        let kind = words.next().and_then(|kind| kind.bytes().next()).unwrap_or(b'0');
        let (path, link) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let layer = layers.pop().expect("there is always one");
        let content: &[u8] = if kind == b'0' { b"content" } else { b"" };
        layers.push(layer.entry(EntryType::new(kind), (path, 0o6777), link, content));
    }
    let sample = layers
        .into_iter()
        .take(8)
        .fold(Sample::default(), |sample, layer| sample.layer(layer, Packing::Plain));
    let files = sample.layout().into_iter().skip(4);
    files.map(|(_, bytes)| bytes).collect()
}

/// The image of layers that are not compressed; of one that is, only the kept digest is right.
fn image_of(layers: &[Vec<u8>]) -> Image {
    let layer = |bytes: &Vec<u8>| Layer {
        digest: Digest::of(bytes),
        bytes: bytes.len() as u64,
        diff_id: Digest::of(bytes),
    };
    Image {
        digest: Digest::of(b"manifest"),
        config_digest: Digest::of(b"config"),
        layers: layers.iter().map(layer).collect(),
        process: Process::default(),
    }
}

fn check(folder: &Path) {
    for entry in fs::read_dir(folder).expect("this user may look into it") {
        let entry = entry.expect("it is there");
        let found = entry.path().symlink_metadata().expect("it is there");
        let kind = found.file_type();
        assert!(kind.is_file() || kind.is_dir() || kind.is_symlink());
        assert!(!kind.is_char_device() && !kind.is_block_device() && !kind.is_fifo());
        if !kind.is_symlink() {
            assert_eq!(found.permissions().mode() & 0o6000, 0);
        }
        if kind.is_dir() {
            check(&entry.path());
        }
    }
}
