//! A foreign suite of tests: moto's own for its Lambda, which its source archive holds. It is fetched, not kept here.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::place;
use crate::python::Python;

/// The last release whose source archive has the tests.
const ARCHIVE: &str = "moto==5.0.28";
const FOLDER: &str = "moto-5.0.28";

/// Unpacks the archive's tests, and them alone: what they test is installed in another version.
const UNPACK: &str = "
import glob, sys, tarfile
archive, = glob.glob(f'{sys.argv[1]}/*.tar.gz')
with tarfile.open(archive) as file:
    file.extractall(sys.argv[1], members=[one for one in file if one.name.split('/')[1:2] == ['tests']])
";

/// The folder that holds the folder `tests`.
pub fn find(python: &Python) -> Result<PathBuf> {
    let folder = place::target().join("suite");
    let whole = folder.join(FOLDER);
    place::exclusively("suite", || {
        if whole.join("tests/test_awslambda").is_dir() {
            return Ok(whole);
        }
        let staging = place::target().join("suite.part");
        let _ = std::fs::remove_dir_all(&staging);
        fetch(python, &staging)?;
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::rename(&staging, &folder)?;
        Ok(whole)
    })
}

fn fetch(python: &Python, folder: &Path) -> Result<()> {
    let shown = folder.to_string_lossy();
    let words = [
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
    ];
    let mut pip = python.command("python", "");
    pip.args(words)
        .args(["--no-binary", ":all:", "--dest", &*shown, ARCHIVE]);
    let mut unpack = python.command("python", "");
    unpack.args(["-c", UNPACK, &*shown]);
    for command in [&mut pip, &mut unpack] {
        let status = command.status()?;
        if !status.success() {
            bail!("`{ARCHIVE}` cannot be fetched: ended with {status}");
        }
    }
    Ok(())
}
