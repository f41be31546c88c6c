//! A folder with a database cluster, and the server that is started and stopped on it.

use std::ffi::OsStr;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
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

/// Ends a server by its file of process ids, and waits until its processes have gone. One that nobody has
/// reaped yet would still look alive to the next start.
const KILL: &str = r#"
pid=$(head -n 1 "$1")
children=$(cat "/proc/$pid/task/$pid/children")
kill -KILL "$pid" $children
for gone in $pid $children; do
    while [ -e "/proc/$gone" ] && ! grep -q '^State:.Z' "/proc/$gone/status"; do sleep 0.05; done
done
rm "$1"
"#;

/// For a small file system.
const SMALL: &str = "
min_wal_size = 2MB
max_wal_size = 8MB
wal_recycle = off
wal_init_zero = on
";

const SETTINGS: &str = "
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

/// Where a server lives, if not in a temporary folder and on loopback.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// The folder that holds the server's own, on a small file system say; the log of the write-ahead kind is
    /// kept short there.
    pub parent: Option<PathBuf>,
    /// A network namespace by its name, and the server's address in it.
    pub network: Option<(String, Ipv4Addr)>,
}

impl Place {
    fn address(&self) -> Ipv4Addr {
        self.network
            .as_ref()
            .map_or(Ipv4Addr::LOCALHOST, |(_, address)| *address)
    }
}

/// A database cluster in `folder/data`.
pub(crate) struct Cluster {
    folder: PathBuf,
    place: Place,
    bin: PathBuf,
    port: u16,
    /// Whom the server runs as where we are root, which it refuses.
    account: Option<(u32, u32)>,
}

impl Cluster {
    /// Makes a new cluster below `folder`, which exists and is empty.
    pub fn create(folder: &Path, place: Place) -> Result<Self> {
        let bin = bin().context("PostgreSQL is not installed: `initdb` and `pg_ctl` are not found")?;
        let account = if is_root()? { Some(unprivileged()?) } else { None };
        let cluster = Self {
            folder: folder.to_owned(),
            place,
            bin,
            port: free_port()?,
            account,
        };
        cluster.initialise()?;
        Ok(cluster)
    }

    pub fn url(&self) -> String {
        format!(
            "postgres://{USER}:{PASSWORD}@{}:{}/postgres",
            self.place.address(),
            self.port
        )
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
        if self.place.parent.is_some() {
            initdb.arg("--wal-segsize=1");
        }
        self.run(&mut initdb)?;
        let (port, address) = (self.port, self.place.address());
        append(
            &data.join("postgresql.conf"),
            &format!("{SETTINGS}port = {port}\nlisten_addresses = '{address}'\n"),
        )?;
        if self.place.parent.is_some() {
            append(&data.join("postgresql.conf"), SMALL)?;
        }
        append(&data.join("pg_hba.conf"), "host all all samenet scram-sha-256\n")
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

    /// Ends the server and all its processes at once, as the machine's power would.
    pub fn kill(&self) -> Result<()> {
        let mut kill = Command::new("sh");
        kill.args(["-c", KILL, "kill"]).arg(self.data().join("postmaster.pid"));
        self.run(&mut kill)
    }

    /// Whether the server runs.
    pub fn is_running(&self) -> bool {
        let mut status = self.command("pg_ctl");
        status.arg("status").arg("-D").arg(self.data());
        self.run(&mut status).is_ok()
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let program = self.bin.join(program.as_ref());
        let mut command = match (&self.place.network, self.account) {
            (Some((namespace, _)), Some((user, group))) => {
                let mut enter = Command::new("/usr/bin/nsenter");
                enter.arg(format!("--net=/run/netns/{namespace}"));
                enter.args(["--setuid", &user.to_string(), "--setgid", &group.to_string()]);
                enter.arg(program);
                enter
            }
            (_, Some((user, group))) => {
                let mut command = Command::new(program);
                command.uid(user).gid(group);
                command
            }
            (_, None) => Command::new(program),
        };
        command.current_dir(&self.folder).env_clear().env("LC_ALL", "C");
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

fn append(file: &Path, text: &str) -> Result<()> {
    let before = fs::read_to_string(file)?;
    fs::write(file, before + text).with_context(|| format!("cannot write `{}`", file.display()))
}

/// A port that was free a moment ago, and that no client has in passing.
pub fn free_port() -> Result<u16> {
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
