//! Packages for Node.js, installed once into folders that the tests share.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::place;

/// A folder whose `node_modules` holds these packages, each `NAME@VERSION`; `None` where they cannot be had.
pub fn of(name: &str, packages: &[&str]) -> Result<Option<PathBuf>> {
    if !place::is_installed("npm") || !place::is_installed("node") {
        return Ok(None);
    }
    let folder = place::shared(&format!("node-{name}"))?;
    let mark = folder.join("installed");
    let wanted = packages.join("\n");
    place::exclusively(&format!("node-{name}"), || {
        if std::fs::read_to_string(&mark).is_ok_and(|installed| installed == wanted) {
            return Ok(Some(folder.clone()));
        }
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"])
            .arg(&folder)
            .args(packages)
            .stdin(Stdio::null());
        if !npm.status().context("cannot run `npm`")?.success() {
            return Ok(None);
        }
        std::fs::write(&mark, &wanted)?;
        Ok(Some(folder.clone()))
    })
}
