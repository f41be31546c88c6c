//! Builds the guests that the tests run.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The repository's root.
pub fn root() -> PathBuf {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_folder
        .ancestors()
        .nth(2)
        .expect("the crate lies two levels below the root")
        .to_owned()
}

/// The folder for what the tests build and may use again.
pub fn scratch() -> PathBuf {
    let folder = root().join("target/probers");
    std::fs::create_dir_all(&folder).expect("the target folder is writable");
    folder
}

/// The module that the Cargo project in `folder` builds for `target`, `file` in Cargo's own words.
pub fn wasm(folder: &str, target: &str, file: &str) -> Vec<u8> {
    let built = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--release",
            "--locked",
            "--target",
            target,
            "--target-dir",
        ])
        .arg(scratch())
        .current_dir(root().join(folder))
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .status()
        .expect("cargo runs");
    assert!(built.success(), "`{folder}` does not build for {target}");
    let path = scratch().join(target).join("release").join(file);
    std::fs::read(&path).expect("cargo built the module")
}

/// The prober.
pub fn prober() -> Vec<u8> {
    wasm("crates/sandbox-wasm/tests/prober", "wasm32-wasip1", "prober.wasm")
}
