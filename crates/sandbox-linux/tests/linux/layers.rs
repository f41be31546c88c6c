//! What layers bring lies in `/opt` and on the search paths, in cells made for the function and in those
//! that waited for it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bowline_foundation::digest::Digest;
use bowline_sandbox::{Backend, CodeDir, Runtime, VersionSpec};
use serde_json::{Value, json};

use crate::harness::{World, node, python};

const PYTHON: &str = r#"
import ctypes, os, subprocess
def handler(event, context):
    import knots, deep
    try:
        open("/opt/new", "w")
        written = True
    except OSError:
        written = False
    return {
        "knots": knots.NAME, "deep": deep.NAME, "tool": subprocess.check_output(["layer-tool"], text=True).strip(),
        "library": ctypes.CDLL("libfromlayer.so") is not None, "file": open("/opt/data").read(), "written": written,
    }
def bare(event, context):
    found = []
    for attempt in (lambda: __import__("knots"), lambda: ctypes.CDLL("libfromlayer.so"), lambda: open("/opt/data")):
        try:
            attempt()
            found.append(True)
        except (ImportError, OSError):
            found.append(False)
    return found
"#;
const NODE: &str = "const knots = require('knots'); const modern = require('modern'); exports.handler = async () => [knots.name, modern.name];";

/// A small shared library of this machine: what it is called in a layer is the test's.
fn library() -> Vec<u8> {
    let folders = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/lib64",
    ];
    let paths = folders.iter().map(|folder| Path::new(folder).join("libz.so.1"));
    let found = paths.filter_map(|path| fs::read(path).ok()).next();
    found.expect("this machine's interpreters use zlib")
}

fn layer(world: &World, files: &[(&str, &[u8])]) -> PathBuf {
    world.code(files)
}

fn with_layers(mut version: VersionSpec, path: PathBuf) -> VersionSpec {
    version.layers = Some(CodeDir {
        digest: Digest::of(path.as_os_str().as_encoded_bytes()),
        path,
    });
    version
}

async fn python_finds(warm_cells: usize) {
    let world = World::start(warm_cells);
    let Some(runtime) = python() else { return };
    let Runtime::Python { minor } = runtime else { return };
    let path = layer(
        &world,
        &[
            ("python/knots.py", b"NAME = 'bowline'"),
            (
                &format!("python/lib/python3.{minor}/site-packages/deep.py"),
                b"NAME = 'sheet bend'",
            ),
            ("bin/layer-tool", b"#!/bin/sh\necho from-the-layer\n"),
            ("lib/libfromlayer.so", &library()),
            ("data", b"kept"),
        ],
    );
    // Writable by mode, so that a refusal is the mount's.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("the folder is ours");
    let code = world.code(&[("app.py", PYTHON.as_bytes())]);
    let version = with_layers(world.version(runtime, "app.handler", code.clone()), path);
    let mut live = world.create(version).await.expect("it starts");
    let expected = json!({
        "knots": "bowline", "deep": "sheet bend", "tool": "from-the-layer", "library": true, "file": "kept",
        "written": false,
    });
    assert_eq!(live.ask(json!({})).await, expected);
    live.sandbox.destroy().await;

    let bare = world.version(runtime, "app.bare", code);
    let mut live = world.create(bare).await.expect("it starts");
    assert_eq!(
        live.ask(json!({})).await,
        json!([false, false, false]),
        "without the layer"
    );
    live.sandbox.destroy().await;
    world.backend.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_finds_what_layers_bring() {
    python_finds(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_of_the_pool_finds_what_layers_bring() {
    python_finds(2).await;
}

async fn node_finds(warm_cells: usize) {
    let world = World::start(warm_cells);
    let Some(runtime) = node() else { return };
    let Runtime::NodeJs { major } = runtime else { return };
    let path = layer(
        &world,
        &[
            ("nodejs/node_modules/knots/index.js", b"exports.name = 'bowline';"),
            (
                &format!("nodejs/node{major}/node_modules/modern/index.js"),
                b"exports.name = 'sheet bend';",
            ),
        ],
    );
    let code = world.code(&[("app.js", NODE.as_bytes())]);
    let bare = world.version(runtime, "app.handler", code);
    let mut live = world.create(with_layers(bare.clone(), path)).await.expect("it starts");
    assert_eq!(live.ask(json!({})).await, json!(["bowline", "sheet bend"]));
    live.sandbox.destroy().await;
    let (_, payload): (String, Value) = world.init_error(bare).await;
    assert!(payload.to_string().contains("Cannot find module 'knots'"), "{payload}");
    world.backend.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_finds_what_layers_bring() {
    node_finds(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_of_the_pool_finds_what_layers_bring() {
    node_finds(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_native_program_finds_what_layers_bring() {
    let world = World::start(0);
    if python().is_none() {
        return;
    }
    let path = layer(
        &world,
        &[("bin/speak", b"#!/bin/sh\necho said by the layer >&2\nexit 3\n")],
    );
    let code = world.code(&[("bootstrap", b"#!/bin/sh\nexec speak\n")]);
    let version = with_layers(world.version(Runtime::ProvidedAl2023, "", code.clone()), path);
    let (_, payload) = world.init_error(version).await;
    assert!(payload.to_string().contains("exit status 3"), "{payload}");
    let bare = world.version(Runtime::ProvidedAl2023, "", code);
    let (_, payload) = world.init_error(bare).await;
    assert!(payload.to_string().contains("exit status 127"), "{payload}");
    world.backend.shut_down().await;
}
