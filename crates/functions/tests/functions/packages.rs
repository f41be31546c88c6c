//! Packages that must never be unpacked, and how the good ones lie on disk.

use std::io::{Cursor, Write as _};
use std::os::unix::fs::PermissionsExt as _;

use bowline_functions::error::Error;
use bowline_functions::model::CreateFunction;
use bowline_functions::package::{PackageError, PackageForm, check};
use bowline_sandbox::{Runtime, SandboxKind};
use bytes::Bytes;
use proptest::prelude::*;
use zip::write::SimpleFileOptions;

use crate::world::{World, caller, creation, package, target, zip_of};

const MODULE: &[u8] = b"\0asm\x01\0\0\0";

/// Makes an archive by hand, in which anything may stand.
fn zip_with(build: impl FnOnce(&mut zip::ZipWriter<Cursor<Vec<u8>>>)) -> Bytes {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    build(&mut zip);
    zip.finish().unwrap().into_inner().into()
}

/// An archive with one entry whose name is replaced by another of the same length.
fn renamed(name: &str) -> Vec<u8> {
    let placeholder = "n".repeat(name.len());
    let mut bytes = zip_of(&[(&placeholder, b"content")]).to_vec();
    while let Some(at) = bytes
        .windows(name.len())
        .position(|window| window == placeholder.as_bytes())
    {
        bytes[at..at + name.len()].copy_from_slice(name.as_bytes());
    }
    bytes
}

fn bomb() -> Bytes {
    let zeros = vec![0u8; 1024 * 1024];
    zip_with(|zip| {
        zip.start_file("zeros", SimpleFileOptions::default()).unwrap();
        for _ in 0..251 {
            zip.write_all(&zeros).unwrap();
        }
    })
}

#[test]
fn good_packages_are_told_apart() {
    let shape = check(&zip_of(&[("app.py", b"x"), ("lib/a.py", b"yy")])).unwrap();
    assert_eq!(
        (shape.form, shape.has_wasm, shape.unzipped_bytes),
        (PackageForm::Zip, false, 3)
    );
    assert!(check(&zip_of(&[("bootstrap.wasm", MODULE)])).unwrap().has_wasm);
    assert_eq!(check(MODULE).unwrap().form, PackageForm::BareWasm);
    assert!(check(b"\0asm\x0d\0\x01\0").unwrap().has_wasm);
}

#[test]
fn bad_packages_are_refused() {
    assert!(matches!(check(b""), Err(PackageError::Empty)));
    assert!(matches!(check(b"hello"), Err(PackageError::NotAZip(_))));
    assert!(matches!(check(b"\0asm\x02\0\0\0"), Err(PackageError::NotWasm)));
    assert!(matches!(
        check(&zip_of(&[("bootstrap.wasm", b"text")])),
        Err(PackageError::NotWasm)
    ));
    assert!(matches!(check(&bomb()), Err(PackageError::UnzippedTooLarge { .. })));
    for name in ["../x", "/etc/x", "a/../../x", "a\\..\\x"] {
        assert!(matches!(check(&renamed(name)), Err(PackageError::Escapes(_))), "{name}");
    }
    let good = package("some content that is long enough");
    assert!(check(&good[..good.len() - 30]).is_err());
    let mut flipped = good.to_vec();
    let at = 40;
    flipped[at] ^= 0x55;
    assert!(check(&flipped).is_err(), "a checksum does not hold");
}

#[test]
fn links_stay_inside() {
    let link = |path: &str, target: &str| {
        check(&zip_with(|zip| {
            zip.add_symlink(path, target, SimpleFileOptions::default()).unwrap()
        }))
    };
    assert!(link("a/current", "../b").is_ok());
    for (path, target) in [
        ("a", "/etc/passwd"),
        ("a", "../x"),
        ("a/b", "../../x"),
        ("bootstrap.wasm", "other"),
    ] {
        assert!(
            matches!(link(path, target), Err(PackageError::Escapes(_))),
            "{path} -> {target}"
        );
    }
    let through = zip_with(|zip| {
        zip.add_symlink("d", "e", SimpleFileOptions::default()).unwrap();
        zip.start_file("d/x", SimpleFileOptions::default()).unwrap();
    });
    assert!(matches!(check(&through), Err(PackageError::Clash(_))));
}

#[test]
fn entries_do_not_share_bytes() {
    // Both directory entries name the one local file.
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file("first", SimpleFileOptions::default()).unwrap();
    zip.write_all(&[7; 1000]).unwrap();
    zip.shallow_copy_file("first", "second").unwrap();
    let bytes = zip.finish().unwrap().into_inner();
    assert!(matches!(check(&bytes), Err(PackageError::Overlap)));
}

#[tokio::test]
async fn bad_packages_leave_nothing() {
    let world = World::durable().await;
    for code in [
        Bytes::from("hello"),
        renamed("../x").into(),
        bomb(),
        zip_of(&[("bootstrap.wasm", b"text")]),
    ] {
        let create = CreateFunction {
            code: code.into(),
            ..creation("f", "")
        };
        let refused = world.handle.create_function(&caller(), create).await;
        assert!(matches!(refused, Err(Error::InvalidParameter(_))), "{refused:?}");
    }
    assert!(matches!(
        world.handle.get_function(&target("f")),
        Err(Error::NotFound(_))
    ));
    assert_eq!(world.blobs.list().await.unwrap(), []);
    let left = std::fs::read_dir(world.path().join("code")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [".boot"]);
}

#[tokio::test]
async fn the_package_decides_on_the_kind_of_sandbox() {
    let world = World::new().await;
    let kind = async |name: &str, runtime, code: Bytes| {
        let create = CreateFunction {
            runtime,
            code: code.into(),
            ..creation(name, "")
        };
        world
            .handle
            .create_function(&caller(), create)
            .await
            .map(|created| created.kind)
    };
    let (provided, python) = (Runtime::ProvidedAl2023, Runtime::Python { minor: 11 });
    let bare = Bytes::from_static(MODULE);
    let zipped = zip_of(&[("bootstrap.wasm", MODULE)]);
    assert_eq!(kind("a", provided, bare.clone()).await.unwrap(), SandboxKind::Wasm);
    assert_eq!(kind("b", provided, zipped.clone()).await.unwrap(), SandboxKind::Wasm);
    assert_eq!(
        kind("c", provided, zip_of(&[("bootstrap", b"#!")])).await.unwrap(),
        SandboxKind::Linux
    );
    assert_eq!(kind("d", python, zipped).await.unwrap(), SandboxKind::Linux);
    assert!(matches!(kind("e", python, bare).await, Err(Error::InvalidParameter(_))));
}

#[tokio::test]
async fn unpacked_files_are_read_only_and_keep_their_bits() {
    let world = World::new().await;
    let code = zip_with(|zip| {
        zip.start_file("bin/run", SimpleFileOptions::default().unix_permissions(0o755))
            .unwrap();
        zip.start_file("data", SimpleFileOptions::default().unix_permissions(0o600))
            .unwrap();
        zip.add_symlink("link", "bin/run", SimpleFileOptions::default())
            .unwrap();
    });
    let create = CreateFunction {
        code: code.into(),
        ..creation("f", "")
    };
    let created = world.handle.create_function(&caller(), create).await.unwrap();
    let folder = world.path().join("code").join(created.code.digest.to_string());
    let mode = |path: &str| folder.join(path).symlink_metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("bin/run"), mode("data"), mode("bin")), (0o555, 0o444, 0o755));
    assert_eq!(
        std::fs::read_link(folder.join("link")).unwrap().to_str(),
        Some("bin/run")
    );
}

proptest! {
    #[test]
    fn no_bytes_make_the_check_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0usize..200) {
        let _ = check(&bytes);
        let mut damaged = package("something").to_vec();
        let at = at % damaged.len();
        damaged.splice(at..(at + bytes.len()).min(damaged.len()), bytes.iter().copied());
        let _ = check(&damaged);
    }
}
