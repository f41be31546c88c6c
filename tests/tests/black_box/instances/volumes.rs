//! Volumes of instances that are virtual machines: file systems in files, which machines come and go with.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bowline_foundation::digest::Digest;
use bowline_tests::{Artifact, patience};
use serde_json::json;

use super::machines::{data, node_on, qemu, well};
use super::{ACCOUNT, Fleet, PATIENCE, leftovers, place, runs, shell, signal};

/// A file of a virtual machine with this volume at `/data`, and `rest` behind it.
fn file(mode: &str, rest: &str) -> String {
    format!(
        "id = \"shop\"\nkind = \"vm\"\n[resources]\nmemory_mib = 512\nstorage_mib = 16\n\
         [[volumes]]\nsource = \"orders\"\nmount = \"/data\"\nmode = \"{mode}\"\n{rest}"
    )
}

/// A service that is well once `/tmp/well` is there.
fn service(script: &str) -> String {
    format!(
        "[[services]]\nname = \"clerk\"\ncommand = {}\n\
         health = {{ check = {{ command = [\"/bin/test\", \"-e\", \"/tmp/well\"] }}, interval_ms = 200 }}\n",
        shell(script)
    )
}

/// The same, of a machine that reads the volume, and shows in another one what it saw and that it could not write.
fn reader() -> String {
    let script = "cat /data/order > /proof/order; { touch /data/mark; grep ' /data ' /proc/mounts; } > /proof/tried 2>&1; \
                  touch /tmp/well; exec sleep 100000";
    let proof = "[[volumes]]\nsource = \"proof\"\nmount = \"/proof\"\n";
    file("ro", &format!("{proof}{}", service(script)))
}

fn volume(fleet: &Fleet, source: &str) -> PathBuf {
    fleet.data.join("volumes").join(ACCOUNT).join(format!("{source}.ext4"))
}

/// A file in a volume that no machine has.
fn look(volume: &Path, file: &str) -> Result<String> {
    let output = Command::new("debugfs")
        .args(["-R", &format!("cat /{file}")])
        .arg(volume)
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Whether nobody may write to the volume but the machine that has it.
fn is_taken(volume: &Path) -> Result<bool> {
    match File::open(volume)?.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => bail!(error),
    }
}

fn remove(fleet: &Fleet) -> Result<()> {
    fleet.lambda.delete("/v1/instances/shop")?.expect(204)?;
    Ok(())
}

/// Makes an instance that reads, and compares what it saw.
fn is_read(fleet: &Fleet, expected: impl Fn(&str) -> bool) -> Result<()> {
    fleet.make("shop", &reader())?;
    fleet.running("shop")?;
    remove(fleet)?;
    let (order, tried) = (
        look(&volume(fleet, "proof"), "order")?,
        look(&volume(fleet, "proof"), "tried")?,
    );
    ensure!(expected(&order), "{order}");
    ensure!(tried.contains("Read-only") && tried.contains(" ext4 ro,"), "{tried}");
    Ok(())
}

#[test]
fn a_t2_a_machines_volume_is_where_its_file_says_and_outlives_it() -> Result<()> {
    let data = data()?;
    let node = node_on(&data)?;
    let fleet = Fleet::of(&node);
    // What is not synced is written when the instance is removed.
    let script = "grep -q ' /data ext4 rw,' /proc/mounts || exit 3; echo life >> /data/order; sync; \
                  echo late >> /data/order; touch /tmp/well; exec sleep 100000";
    fleet.make("shop", &file("rw", &service(script)))?;
    let old = fleet.running("shop")?;
    let orders = volume(&fleet, "orders");
    ensure!(
        std::fs::metadata(&orders)?.len() == 16 << 20,
        "it is as large as the file says"
    );
    ensure!(is_taken(&orders)?, "no other machine gets it");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    ensure!(!mounts.contains("orders"), "the control: it is not mounted outside");
    fleet
        .lambda
        .deploy("native", &Artifact::native()?, json!({"MemorySize": 128}))?;
    let ask = || well(fleet.lambda.invoke("native", &json!({"name": "ada"}))?);
    ask()?;
    ensure!(fleet.show("shop")?["sandboxes"] == 1, "functions run there");

    signal(qemu(&old)?, "-KILL")?;
    let new = fleet.replaced("shop", &old)?;
    ensure!(
        new["machine"]["golden_was_kept"] == true,
        "it began from the snapshot: {new}"
    );
    ask()?;
    remove(&fleet)?;
    ensure!(!is_taken(&orders)? && !runs(qemu(&new)?));
    let order = look(&orders, "order")?;
    ensure!(
        order.matches("life\n").count() == 2,
        "the second one found what the first wrote: {order}"
    );
    ensure!(order.ends_with("life\nlate\n"), "{order}");

    is_read(&fleet, |read| read == order)?;
    ensure!(
        look(&orders, "order")? == order,
        "nothing was written by who only reads"
    );

    // Another kind keeps volumes in another form.
    let folder = file("rw", "[policy]\nreplacements_max = 0\n").replace("\"vm\"", "\"process\"");
    fleet.make("shop", &folder)?;
    let held = fleet.until("shop", "held", |shown| shown["state"] == "HELD")?;
    ensure!(
        held["error"].to_string().contains("belongs to instances of kind `vm`"),
        "{held}"
    );
    remove(&fleet)?;
    ensure!(leftovers(&node.data()).is_empty(), "{:?}", leftovers(&node.data()));
    Ok(())
}

#[test]
fn a_t10_a_fenced_machine_writes_no_more_and_its_volume_is_read_after_it() -> Result<()> {
    let data = data()?;
    let node = node_on(&data)?;
    let fleet = Fleet::of(&node);
    let script = "n=0; while :; do n=$((n+1)); echo $n >> /data/order; sync; touch /tmp/well; sleep 0.05; done";
    fleet.make("shop", &file("rw", &service(script)))?;
    let old = fleet.running("shop")?;
    let orders = volume(&fleet, "orders");
    let content = || std::fs::read(&orders).map(|bytes| Digest::of(&bytes));
    let first = content()?;
    let writes = patience::until(PATIENCE, || (content().ok()? != first).then_some(()));
    writes.context("the control: it writes")?;
    ensure!(is_taken(&orders)?);
    // Another instance that wants to write to it waits for a person.
    fleet.create(json!({ "file": "shop", "name": "other" }))?;
    let held = fleet.until("other", "held", |shown| shown["held"].is_string())?;
    let server = old["server"].as_str().context("no server")?.to_owned();
    ensure!(held["held"].to_string().contains(&server), "{held}");
    fleet.lambda.delete("/v1/instances/other")?.expect(204)?;

    fleet.lambda.delete("/v1/instance-files/shop?force=true")?.expect(204)?;
    signal(qemu(&old)?, "-STOP")?;
    let fenced = patience::until(PATIENCE, || place(&fleet.events("shop").ok()?, "fence", &server).ok());
    fenced.context("a machine that stands still is never fenced")?;
    let at = content()?;
    ensure!(
        !is_taken(&orders)? && !runs(qemu(&old)?),
        "it is free, and the machine is gone"
    );
    patience::rest(Duration::from_millis(500));
    ensure!(content()? == at, "it wrote after the fence");
    remove(&fleet)?;

    // It was killed in the middle of its writing, and yet is read by one that may not write to it.
    let lines = |read: &str| read.lines().zip(1..).all(|(line, number)| line == number.to_string()) && !read.is_empty();
    is_read(&fleet, lines)
}
