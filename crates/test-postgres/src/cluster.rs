//! A folder with a database cluster, and the server that is started and stopped on it.

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use bowline_foundation::entropy::Entropy;

/// The superuser's password. It is a word that occurs nowhere else, so that it is found where it leaks.
pub const PASSWORD: &str = "quagga-walrus";
const USER: &str = "bowline";
/// Where Debian puts the programs of the major version that is tested.
const DEBIAN_BIN: &str = "/usr/lib/postgresql/15/bin";
/// Below the range from which the kernel takes the ports of outgoing connections.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const START_ATTEMPTS: usize = 5;

const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = on
synchronous_commit = on
full_page_writes = on
shared_buffers = 32MB
max_connections = 600
timezone = 'UTC'
";

/// The folder that holds `initdb` and `pg_ctl`.
fn bin() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = std::iter::once(PathBuf::from(DEBIAN_BIN)).chain(std::env::split_paths(&path));
    folders.find(|folder| folder.join("initdb").is_file() && folder.join("pg_ctl").is_file())
}

/// Whether PostgreSQL's server programs are on this machine.
pub fn is_installed() -> bool {
    bin().is_some()
}

/// A database cluster in `folder/data`.
pub(crate) struct Cluster {
    folder: PathBuf,
    bin: PathBuf,
    port: u16,
    /// Whom the server runs as where we are root, which it refuses.
    account: Option<(u32, u32)>,
}

impl Cluster {
    /// Makes a new cluster below `folder`, which exists and is empty.
    pub fn create(folder: &Path) -> Result<Self> {
        let bin = bin().context("PostgreSQL is not installed: `initdb` and `pg_ctl` are not found")?;
        let account = if is_root()? { Some(unprivileged()?) } else { None };
        let cluster = Self {
            folder: folder.to_owned(),
            bin,
            port: free_port()?,
            account,
        };
        cluster.initialise()?;
        Ok(cluster)
    }

    pub fn url(&self) -> String {
        format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{}/postgres", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    fn initialise(&self) -> Result<()> {
        fs::set_permissions(&self.folder, fs::Permissions::from_mode(0o755))?;
        let data = self.data();
        fs::create_dir(&data)?;
        if let Some((user, group)) = self.account {
            chown(&data, Some(user), Some(group))?;
            chown(&self.folder, Some(user), Some(group))?;
        }
        let password = self.folder.join("password");
        fs::write(&password, PASSWORD)?;
        // `--no-sync` leaves only the making of the empty cluster unsynced, not what the server writes.
        let mut initdb = self.command("initdb");
        initdb
            .args([
                "--no-sync",
                "--locale=C",
                "--encoding=UTF8",
                "--auth=scram-sha-256",
                "-U",
                USER,
            ])
            .arg("-D")
            .arg(&data)
            .arg("--pwfile")
            .arg(&password);
        self.run(&mut initdb)?;
        let settings = data.join("postgresql.conf");
        let text = fs::read_to_string(&settings)?;
        fs::write(&settings, format!("{text}{SETTINGS}port = {}\n", self.port))?;
        Ok(())
    }

    /// Starts the server and waits until it takes connections.
    pub fn start(&self) -> Result<()> {
        let mut last = Ok(());
        for _ in 0..START_ATTEMPTS {
            let mut start = self.command("pg_ctl");
            start
                .args(["-w", "-t", "60", "start", "-l"])
                .arg(self.log())
                .arg("-D")
                .arg(self.data());
            last = self.run(&mut start);
            if last.is_ok() {
                break;
            }
        }
        last
    }

    /// Ends the server in one of `pg_ctl`'s modes and waits until it is gone.
    pub fn stop(&self, mode: &str) -> Result<()> {
        let mut stop = self.command("pg_ctl");
        stop.args(["-w", "-t", "60", "stop", "-m", mode, "-D"]).arg(self.data());
        self.run(&mut stop)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(self.bin.join(program.as_ref()));
        command.current_dir(&self.folder).env_clear().env("LC_ALL", "C");
        if let Some((user, group)) = self.account {
            command.uid(user).gid(group);
        }
        command
    }

    /// Runs `command`, with its output in a file: a pipe would stay open as long as the server runs.
    fn run(&self, command: &mut Command) -> Result<()> {
        let said = self.folder.join("said");
        let file = fs::File::create(&said)?;
        let status = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .status()
            .with_context(|| format!("cannot start `{}`", command.get_program().display()))?;
        if status.success() {
            return Ok(());
        }
        let texts = [said, self.log()].map(|path| fs::read_to_string(path).unwrap_or_default());
        bail!("`{}` failed: {}", command.get_program().display(), texts.join("\n"))
    }
}

fn free_port() -> Result<u16> {
    let entropy = Entropy::system();
    let count = u64::from(PORTS.end - PORTS.start);
    let mut candidates = (0..1000).filter_map(|_| u16::try_from(entropy.number() % count).ok());
    candidates
        .find_map(|offset| {
            let port = PORTS.start + offset;
            TcpListener::bind(("127.0.0.1", port)).ok().map(|_| port)
        })
        .context("no port is free on loopback")
}

fn is_root() -> Result<bool> {
    let status = fs::read_to_string("/proc/self/status").context("cannot read `/proc/self/status`")?;
    let line = status.lines().find(|line| line.starts_with("Uid:"));
    Ok(line.and_then(|line| line.split_whitespace().nth(2)) == Some("0"))
}

/// User and group of the account that Debian's package makes, or of nobody.
fn unprivileged() -> Result<(u32, u32)> {
    let text = fs::read_to_string("/etc/passwd").context("cannot read `/etc/passwd`")?;
    let account = |name: &str| {
        let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut numbers = line.split(':').skip(2).map(|field| field.parse().ok());
        Some((numbers.next()??, numbers.next()??))
    };
    account("postgres")
        .or_else(|| account("nobody"))
        .context("neither `postgres` nor `nobody` is an account here, and PostgreSQL refuses to run as root")
}
