//! What breaks under a cluster: a node stands still, the database restarts, its network is cut, its disk is
//! full. What was acknowledged is there, once and in one order, and everybody goes on by himself.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_test_postgres::{Place, Server};
use bowline_tests::{Node, patience, skip};

use crate::crowd::{LEASE_SECONDS, append_during, append_one, create_stream, has_postgres, member};
use crate::proxy::{Proxy, Way};

const LEASE: Duration = Duration::from_secs(LEASE_SECONDS);
/// How long things may take to come right again.
const RIGHT_MAX: Duration = Duration::from_secs(30);
/// Enough to be taken for dead, whatever the others were doing.
const SILENCE: Duration = Duration::from_secs(3 * LEASE_SECONDS);
const JOINED_ANEW: &str = "joined the cluster anew";

/// Lets the trouble last.
fn last(time: Duration) {
    patience::rest(time);
}

/// Waits until the node says so in its log.
fn says(node: &Node, text: &str) -> Result<()> {
    let said = patience::until(RIGHT_MAX, || node.log().contains(text).then_some(()));
    said.with_context(|| format!("the node does not say `{text}`:\n{}", node.log()))
}

#[test]
fn a_node_that_stood_still_is_taken_over_and_joins_anew() -> Result<()> {
    if !has_postgres() {
        return Ok(());
    }
    let (server, shared) = (Server::start()?, tempfile::tempdir()?);
    let nodes: Vec<Node> = (0..3)
        .map(|_| member(&server.url(), shared.path()))
        .collect::<Result<_>>()?;
    create_stream(&nodes[0])?;
    let told = append_during(&nodes.iter().collect::<Vec<_>>(), || {
        nodes[0].freeze()?;
        last(LEASE / 8);
        nodes[0].thaw()?;
        append_one(&nodes[0], 1)?;
        ensure!(
            !nodes[0].log().contains(JOINED_ANEW),
            "control: a short pause changes nothing"
        );
        nodes[0].freeze()?;
        last(SILENCE);
        // Its chains have other owners now: what only they can store is stored.
        append_one(&nodes[1], 2)?;
        nodes[0].thaw()?;
        says(&nodes[0], JOINED_ANEW)?;
        append_one(&nodes[0], 3).map(drop)
    })?;
    ensure!(
        told.iter().all(|told| !told.acked.is_empty()),
        "control: everybody appended: {told:?}"
    );
    ensure!(
        !nodes[1].log().contains(JOINED_ANEW),
        "control: the others are who they were"
    );
    Ok(())
}

#[test]
fn a_database_that_restarts_in_the_middle_loses_and_doubles_nothing() -> Result<()> {
    if !has_postgres() {
        return Ok(());
    }
    let (server, shared) = (Server::start()?, tempfile::tempdir()?);
    let nodes: Vec<Node> = (0..3)
        .map(|_| member(&server.url(), shared.path()))
        .collect::<Result<_>>()?;
    create_stream(&nodes[0])?;
    let told = append_during(&nodes.iter().collect::<Vec<_>>(), || {
        for (number, end) in [Server::crash, Server::stop, Server::kill].into_iter().enumerate() {
            last(LEASE / 4);
            end(&server)?;
            server.start_again()?;
            append_one(&nodes[1], number as u128)?;
        }
        server.stop()?;
        last(SILENCE);
        server.start_again()?;
        append_one(&nodes[2], 4)?;
        last(LEASE);
        Ok(())
    })?;
    let refused: usize = told.iter().map(crate::crowd::Told::refused).sum();
    ensure!(refused > 0, "control: the database was away: {told:?}");
    let fenced = nodes
        .iter()
        .filter(|node| node.log().contains("has been fenced"))
        .count();
    ensure!(fenced == 0, "nobody is taken for dead because the database was away");
    Ok(())
}

#[test]
fn a_node_cut_off_from_the_database_is_taken_over_and_joins_anew() -> Result<()> {
    if !has_postgres() {
        return Ok(());
    }
    let (server, shared) = (Server::start()?, tempfile::tempdir()?);
    let proxy = Proxy::start(server.port())?;
    let through = server
        .url()
        .replace(&server.port().to_string(), &proxy.port().to_string());
    let far = member(&through, shared.path())?;
    let near = member(&server.url(), shared.path())?;
    create_stream(&far)?;
    append_during(&[&far, &near], || {
        for (number, way) in [(10, Way::Stalled), (20, Way::Cut)] {
            append_one(&far, number)?;
            proxy.set(way);
            last(SILENCE);
            append_one(&near, number + 1)?;
            proxy.set(Way::Open);
            append_one(&far, number + 2)?;
        }
        says(&far, JOINED_ANEW)
    })?;
    // That it joined anew is the control: it was cut off. What it was sent meanwhile it may have forwarded.
    ensure!(!near.log().contains(JOINED_ANEW), "control: the other is who it was");
    Ok(())
}

/// A network namespace with a cable to it; both go when dropped.
struct Cable {
    name: String,
}

impl Cable {
    const HERE: &'static str = "10.213.7.1/30";
    const THERE: Ipv4Addr = Ipv4Addr::new(10, 213, 7, 2);

    /// None where we may not make one.
    fn lay() -> Option<Self> {
        let cable = Self {
            name: format!("bwl{}", std::process::id() % 1_000_000),
        };
        let name = &cable.name;
        let far = format!("{}/30", Self::THERE);
        let made = ip(&["netns", "add", name]).is_ok()
            && ip(&[
                "link", "add", name, "type", "veth", "peer", "name", "far", "netns", name,
            ])
            .is_ok()
            && ip(&["addr", "add", Self::HERE, "dev", name]).is_ok()
            && ip(&["link", "set", name, "up"]).is_ok()
            && ip(&["-n", name, "addr", "add", &far, "dev", "far"]).is_ok()
            && ip(&["-n", name, "link", "set", "far", "up"]).is_ok()
            && ip(&["-n", name, "link", "set", "lo", "up"]).is_ok();
        made.then_some(cable)
    }

    /// Pulls the cable out, or puts it in again.
    fn plug(&self, is_in: bool) -> Result<()> {
        ip(&[
            "-n",
            &self.name,
            "link",
            "set",
            "far",
            if is_in { "up" } else { "down" },
        ])
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        let _ = ip(&["link", "del", &self.name]);
        let _ = ip(&["netns", "del", &self.name]);
    }
}

/// Lays and takes away cables between namespaces of the test's own.
pub fn ip(words: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(words).output().context("cannot start `ip`")?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`ip {}`: {told}", words.join(" "));
    Ok(())
}

#[test]
fn a_database_whose_cable_is_pulled_loses_and_doubles_nothing_as_root() -> Result<()> {
    if !has_postgres() {
        return Ok(());
    }
    let Some(cable) = Cable::lay() else {
        skip("a network namespace cannot be made, which needs root and `ip`");
        return Ok(());
    };
    let shared = tempfile::tempdir()?;
    let server = Server::start_at(Place {
        network: Some((cable.name.clone(), Cable::THERE)),
        ..Place::default()
    })?;
    let nodes: Vec<Node> = (0..2)
        .map(|_| member(&server.url(), shared.path()))
        .collect::<Result<_>>()?;
    create_stream(&nodes[0])?;
    let told = append_during(&nodes.iter().collect::<Vec<_>>(), || {
        last(LEASE / 2);
        cable.plug(false)?;
        last(SILENCE);
        cable.plug(true)?;
        append_one(&nodes[0], 1)?;
        append_one(&nodes[1], 2).map(drop)
    })?;
    let refused: usize = told.iter().map(crate::crowd::Told::refused).sum();
    ensure!(refused > 0, "control: the database was out of reach: {told:?}");
    drop(server);
    Ok(())
}

/// A small file system in memory; gone when dropped.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// None where we may not mount.
    fn mount(mebibytes: usize) -> Result<Option<Self>> {
        let disk = Self {
            folder: tempfile::tempdir()?,
        };
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m,mode=755"), "tmpfs"]);
        let mounted = mount.arg(disk.path()).output()?.status.success();
        Ok(mounted.then_some(disk))
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Takes all the space that is left.
    fn fill(&self) -> Result<()> {
        let mut fill = Command::new("sh");
        fill.args(["-c", "cat /dev/zero > \"$1/ballast\" 2>/dev/null || true", "fill"]);
        fill.arg(self.path()).status()?;
        Ok(())
    }

    /// Gives the space back.
    fn clear(&self) -> Result<()> {
        Ok(fs::remove_file(self.path().join("ballast"))?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

#[test]
fn a_database_with_a_full_disk_refuses_and_recovers_as_root() -> Result<()> {
    if !has_postgres() {
        return Ok(());
    }
    let Some(disk) = SmallDisk::mount(160)? else {
        skip("a file system cannot be mounted, which needs root");
        return Ok(());
    };
    let shared = tempfile::tempdir()?;
    let server = Server::start_at(Place {
        parent: Some(disk.path().to_owned()),
        ..Place::default()
    })?;
    let nodes: Vec<Node> = (0..2)
        .map(|_| member(&server.url(), shared.path()))
        .collect::<Result<_>>()?;
    create_stream(&nodes[0])?;
    let told = append_during(&nodes.iter().collect::<Vec<_>>(), || {
        append_one(&nodes[0], 1)?;
        disk.fill()?;
        last(SILENCE);
        disk.clear()?;
        // Where the write-ahead log could not be written, the server has given itself up: its operator's turn.
        if !server.is_running() {
            server.start_again()?;
        }
        append_one(&nodes[0], 2)?;
        append_one(&nodes[1], 3).map(drop)
    })?;
    let refused: usize = told.iter().map(crate::crowd::Told::refused).sum();
    ensure!(refused > 0, "control: the disk was full: {told:?}");
    drop(server);
    Ok(())
}
