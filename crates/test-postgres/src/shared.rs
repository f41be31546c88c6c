//! The server that all tests of all processes share, each in a schema or database of its own.
//!
//! Whoever uses it holds a shared lock on `users`. A keeper process looks from time to time; when it gets
//! that lock for itself alone, nobody is left, and it ends the server.

use std::fs::{self, File};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result};

use crate::cluster::{Cluster, Place, is_installed};

/// Names a server that is there already; the tests then start none to share.
pub const URL_VARIABLE: &str = "BOWLINE_TEST_POSTGRES";

const KEEP: &str = r#"
cd "$1" || exit 1
exec 9>turn
while sleep 15; do
    flock 9
    if flock --exclusive --nonblock users true; then
        rm -f url
        pid=$(head -n 1 server/data/postmaster.pid 2>/dev/null)
        [ -n "$pid" ] && kill -QUIT "$pid" && while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
        rm -rf server
        exit 0
    fi
    flock --unlock 9
done
"#;

/// The shared server's address; none, said loudly, where PostgreSQL is not installed.
///
/// # Panics
/// If PostgreSQL is installed and cannot be started.
pub fn shared_url() -> Option<String> {
    static USE: OnceLock<(String, File)> = OnceLock::new();
    if let Ok(url) = std::env::var(URL_VARIABLE) {
        return Some(url);
    }
    if !is_installed() {
        eprintln!("SKIPPED: PostgreSQL is not installed (`apt-get install postgresql-15` on Debian)");
        return None;
    }
    let (url, _) = USE.get_or_init(|| join().expect("PostgreSQL is installed and starts"));
    Some(url.clone())
}

/// Joins the users of the server, which is started if it does not run.
fn join() -> Result<(String, File)> {
    let folder = folder()?;
    let turn = File::create(folder.join("turn"))?;
    turn.lock()?;
    let users = File::create(folder.join("users"))?;
    users.lock_shared()?;
    if let Some(url) = running(&folder) {
        return Ok((url, users));
    }
    let place = folder.join("server");
    if place.exists() {
        fs::remove_dir_all(&place)?;
    }
    fs::create_dir(&place)?;
    let cluster = Cluster::create(&place, Place::default())?;
    start_keeper(&folder)?;
    cluster.start()?;
    fs::write(folder.join("url"), cluster.url())?;
    Ok((cluster.url(), users))
}

/// A folder of this user's own, the same for all processes.
fn folder() -> Result<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let user = fs::metadata("/proc/self")?.uid();
    let folder = std::env::temp_dir().join(format!("bowline-test-postgres-{user}"));
    fs::create_dir_all(&folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
    Ok(folder)
}

fn running(folder: &Path) -> Option<String> {
    let url = fs::read_to_string(folder.join("url")).ok()?;
    let (_, address) = url.rsplit_once('@')?;
    TcpStream::connect(address.split('/').next()?).ok()?;
    Some(url)
}

fn start_keeper(folder: &Path) -> Result<()> {
    Command::new("sh")
        .args(["-c", KEEP, "keeper"])
        .arg(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .context("cannot start `sh`")?;
    Ok(())
}
