//! Sandboxes whose root is an unpacked image.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use bowline_sandbox::image::{FILES, MOUNT_POINTS};
use bowline_sandbox::{Backend, CreateError, ImageSpec, Runtime, VersionSpec};
use serde_json::{Value, json};

use crate::harness::{Live, World};

const PROBER: &str = env!("CARGO_BIN_EXE_linux-prober");

/// A root file system with one program at `path` and the libraries it needs, where the program looks for them.
pub fn root(world: &World, path: &str, program: &str) -> PathBuf {
    let read = |path: &str| fs::read(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let listed = Command::new("ldd").arg(program).output().expect("there is ldd");
    let listed = String::from_utf8(listed.stdout).expect("paths are text");
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
    let mut files: Vec<(String, Vec<u8>)> = libraries
        .map(|library| (library.trim_start_matches('/').to_owned(), read(library)))
        .collect();
    files.push((path.to_owned(), read(program)));
    files.extend(FILES.map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec())));
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(path, bytes)| (path.as_str(), bytes.as_slice()))
        .collect();
    let root = world.code(&files);
    for folder in MOUNT_POINTS {
        fs::create_dir(root.join(folder)).expect("the folder is ours");
    }
    root
}

pub fn started_by(program: &str) -> ImageSpec {
    ImageSpec {
        words: vec![program.to_owned()],
        working_directory: "/".to_owned(),
        ..ImageSpec::default()
    }
}

fn version(world: &World, root: &Path, image: ImageSpec) -> VersionSpec {
    VersionSpec {
        image: Some(image),
        ..world.version(Runtime::ProvidedAl2023, "", root.to_owned())
    }
}

async fn read(live: &mut Live, path: &str) -> Value {
    live.ask(json!({"do": "read_path", "path": path})).await
}

async fn write(live: &mut Live, path: &str) -> Value {
    let asked = json!({"do": "write_path", "path": path, "text": "changed"});
    live.ask(asked).await["ok"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_is_the_images_and_cannot_be_written_to() {
    let world = World::start(0);
    let root = root(&world, "prober", PROBER);
    fs::write(root.join("own"), "of the image").expect("the folder is ours");
    let mut live = world
        .create(version(&world, &root, started_by("/prober")))
        .await
        .expect("it starts");
    assert_eq!(read(&mut live, "/own").await["text"], "of the image");
    for path in [
        "/intruder",
        "/own",
        "/prober",
        "/etc/hosts",
        "/dev/intruder",
        "/proc/intruder",
    ] {
        assert_eq!(write(&mut live, path).await, false, "{path}");
    }
    assert_eq!(
        write(&mut live, "/tmp/mine").await,
        true,
        "the control: what is its own"
    );
    let hosts = read(&mut live, "/etc/hosts").await;
    assert!(
        hosts["text"]
            .as_str()
            .is_some_and(|text| text.contains("sandbox.localdomain sandbox")),
        "{hosts}"
    );
    // Nothing of the host's system is there.
    for path in ["/etc/passwd", "/usr/bin/env", "/bin/sh", "/dev/kmsg"] {
        assert_eq!(read(&mut live, path).await["ok"], false, "{path}");
        assert!(Path::new(path).exists(), "the control: the host has {path}");
    }
    live.sandbox.destroy().await;
    assert_eq!(
        fs::read_to_string(root.join("own")).expect("it is there"),
        "of the image"
    );
    assert!(fs::read_dir(root.join("tmp")).expect("it is there").next().is_none());
    world.backend.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_images_files_are_not_seen() {
    let world = World::start(0);
    let roots = ["one", "other"].map(|name| {
        let root = root(&world, "prober", PROBER);
        fs::write(root.join(name), "mine").expect("the folder is ours");
        root
    });
    let mut lives = Vec::new();
    for root in &roots {
        lives.push(
            world
                .create(version(&world, root, started_by("/prober")))
                .await
                .expect("it starts"),
        );
    }
    for (live, [own, other]) in lives.iter_mut().zip([["/one", "/other"], ["/other", "/one"]]) {
        assert_eq!(read(live, own).await["text"], "mine", "the control: its own");
        assert_eq!(read(live, other).await["ok"], false);
        for root in &roots {
            let inside = root.join("prober");
            assert_eq!(read(live, &inside.to_string_lossy()).await["ok"], false);
        }
        assert_eq!(write(live, "/tmp/private").await, true);
    }
    for live in lives {
        live.sandbox.destroy().await;
    }
    let mut again = world
        .create(version(&world, &roots[0], started_by("/prober")))
        .await
        .expect("it starts");
    assert_eq!(
        read(&mut again, "/tmp/private").await["ok"],
        false,
        "its own /tmp is new"
    );
    again.sandbox.destroy().await;
    world.backend.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_was_unpacked_again_is_seen_as_it_is() {
    let world = World::start(0);
    let root = root(&world, "prober", PROBER);
    let mut live = world
        .create(version(&world, &root, started_by("/prober")))
        .await
        .expect("it starts");
    assert_eq!(read(&mut live, "/new").await["ok"], false);
    live.sandbox.destroy().await;
    let other = self::root(&world, "prober", PROBER);
    fs::write(other.join("new"), "new").expect("the folder is ours");
    fs::remove_dir_all(&root).expect("no sandbox holds it");
    fs::rename(&other, &root).expect("the name is free");
    let mut live = world
        .create(version(&world, &root, started_by("/prober")))
        .await
        .expect("it starts");
    assert_eq!(read(&mut live, "/new").await["text"], "new");
    live.sandbox.destroy().await;
    world.backend.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_are_found_by_the_images_path() {
    let world = World::start(0);
    let root = root(&world, "own/prober", PROBER);
    fs::create_dir_all(root.join("first/prober")).expect("the folder is ours");
    let started = |words: &[&str], path: &str, folder: &str| ImageSpec {
        words: words.iter().map(|word| (*word).to_owned()).collect(),
        environment: [("PATH".to_owned(), path.to_owned())].into(),
        working_directory: folder.to_owned(),
    };
    for spec in [
        started(&["prober"], "/nowhere:/first:/own", "/"),
        started(&["./prober"], "", "/own"),
        started(&["/own/prober"], "", "/tmp"),
    ] {
        let mut live = world.create(version(&world, &root, spec)).await.expect("it starts");
        assert_eq!(live.ask(json!({"do": "echo", "value": 7})).await["value"], 7);
        live.sandbox.destroy().await;
    }
    for (spec, error_type) in [
        (started(&["prober"], "/nowhere", "/"), "Runtime.InvalidEntrypoint"),
        (started(&["/own/other"], "", "/"), "Runtime.InvalidEntrypoint"),
        (started(&["/own"], "", "/"), "Runtime.InvalidEntrypoint"),
        (started(&["/own/prober"], "", "/nowhere"), "Runtime.InvalidWorkingDir"),
    ] {
        let (found, payload) = world.init_error(version(&world, &root, spec)).await;
        assert_eq!(found, error_type, "{payload}");
    }
    let nothing = version(&world, &root, started(&[], "", "/"));
    let refused = world
        .backend
        .prepare(&nothing)
        .await
        .expect_err("there is nothing to start");
    assert!(
        refused.to_string().contains("neither an entry point nor a command"),
        "{refused}"
    );
    world.backend.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_function_and_the_platform_win_over_the_images_variables() {
    let world = World::start(0);
    let root = root(&world, "prober", PROBER);
    let pairs = [
        ("COLOUR", "red"),
        ("KEPT", "yes"),
        ("AWS_REGION", "mars"),
        ("AWS_LAMBDA_RUNTIME_API", "evil:1"),
    ];
    let spec = ImageSpec {
        environment: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        ..started_by("/prober")
    };
    let version = VersionSpec {
        environment: [("COLOUR".to_owned(), "blue".to_owned())].into(),
        ..version(&world, &root, spec)
    };
    let mut live: Live = match world.create(version).await {
        Ok(live) => live,
        Err(CreateError::Init(error)) => panic!("{error:?}"),
        Err(error) => panic!("{error}"),
    };
    for (name, value) in [
        ("COLOUR", json!("blue")),
        ("KEPT", json!("yes")),
        ("AWS_REGION", json!("eu-central-1")),
        ("HOME", json!("/tmp")),
        ("_HANDLER", Value::Null),
    ] {
        let read = live.ask(json!({"do": "read_env", "name": name})).await;
        assert_eq!(read["value"], value, "{name}");
    }
    live.sandbox.destroy().await;
    world.backend.shut_down().await;
}
