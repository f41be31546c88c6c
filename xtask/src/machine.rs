//! What the checks need of the machine, and how it gets there.
//!
//! A missing rustup target is always installed. Debian packages are installed where we are root and
//! there is `apt-get`; elsewhere the missing ones are named, and what needs them is skipped loudly.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use bowline_test_postgres::Server;

use crate::{fuzz, shell};

/// A program some check needs, the Debian packages that bring it, and what is lost without it.
struct Need {
    program: &'static str,
    packages: &'static [&'static str],
    without: &'static str,
}

/// What builds programs for another processor and runs them.
const FOR_AARCH64: &[Need] = &[
    Need {
        program: "aarch64-linux-gnu-gcc",
        packages: &["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"],
        without: "nothing can be built for the other processor",
    },
    Need {
        program: "qemu-aarch64",
        packages: &["qemu-user"],
        without: "nothing runs on the other processor",
    },
];

const FOR_TESTS: &[Need] = &[
    Need {
        program: "c++",
        packages: &["g++"],
        without: "fuzz targets are not built",
    },
    Need {
        program: "python3",
        packages: &["python3", "python3-venv"],
        without: "tests of Python functions, boto3 and the AWS CLI are skipped",
    },
    PIP,
    Need {
        program: "node",
        packages: &["nodejs"],
        without: "tests of Node.js functions are skipped",
    },
    Need {
        program: "npm",
        packages: &["npm"],
        without: "durable executions are not tested with the SDK for Node.js",
    },
    FOR_C_GUESTS,
    ASYNCIFY,
    Need {
        program: "skopeo",
        packages: &["skopeo"],
        without: "container images are read only as the tests themselves make them",
    },
    Need {
        program: "docker-registry",
        packages: &["docker-registry"],
        without: "images are fetched only from a registry of the tests' own",
    },
    Need {
        program: "mkfs.ext4",
        packages: &["e2fsprogs"],
        without: "volumes of functions are not tested",
    },
    QEMU,
];

/// The C compiler for WebAssembly guests, with its linker and library.
const FOR_C_GUESTS: Need = Need {
    program: "wasm-ld",
    packages: &["clang", "lld", "wasi-libc", "libclang-rt-dev-wasm32"],
    without: "guests in C and the interpreter among the guests are not stopped and resumed",
};

/// What suspends modules in another way.
const ASYNCIFY: Need = Need {
    program: "wasm-opt",
    packages: &["binaryen"],
    without: "checkpoints are not compared with Asyncify",
};

/// The JavaScript engine that guests of the checkpoint crate are compiled from, as the Python package of that name
/// ships its sources in C.
const INTERPRETER: &str = "quickjs==1.19.4";

/// What fetches those sources.
const PIP: Need = Need {
    program: "pip3",
    packages: &["python3-pip"],
    without: "no interpreter is stopped and resumed",
};

const QEMU: Need = Need {
    program: "qemu-system-x86_64",
    packages: &["qemu-system-x86"],
    without: "the tests of virtual machines fail",
};

const WITHOUT_POSTGRES: &str = "tests of the PostgreSQL store are skipped";

const FOR_BENCHMARKS: &[Need] = &[
    Need {
        program: "wrk",
        packages: &["wrk"],
        without: "nothing can be measured under load",
    },
    Need {
        program: "redis-server",
        packages: &["redis-server"],
        without: "streams are not compared with it",
    },
    FOR_C_GUESTS,
    PIP,
    ASYNCIFY,
    QEMU,
];

/// Installs what `cargo xtask test` needs.
pub fn prepare_for_tests() -> Result<()> {
    install_targets()?;
    install_packages(FOR_TESTS);
    lay_interpreter();
    renew_package_lists();
    if shell::is_installed("python3") && !can_make_venvs() {
        install_missing(&["python3-venv"], "tests of boto3 and the AWS CLI are skipped");
    }
    if !bowline_test_postgres::is_installed() {
        install_missing(&["postgresql-15"], WITHOUT_POSTGRES);
    }
    Ok(())
}

/// Installs what `cargo xtask fuzz-checkpoints` needs.
pub fn prepare_for_checkpoints() -> Result<()> {
    install_targets()?;
    install_packages(&[FOR_C_GUESTS, PIP]);
    lay_interpreter();
    Ok(())
}

/// Installs what builds programs for the processor of `target` and runs them.
pub fn prepare_for_aarch64(target: &str) -> Result<()> {
    if shell::is_installed("rustup") {
        shell::run(rustup().args(["target", "add", target])).context("a rustup target is missing")?;
    }
    install_packages(FOR_AARCH64);
    Ok(())
}

/// Lays the sources of the interpreter where the checkpoint crate's tests and measurements look for them.
fn lay_interpreter() {
    let folder = fuzz::target_dir().join("interpreter");
    if folder.join("quickjs.c").exists() {
        return;
    }
    println!("fetching the sources of `{INTERPRETER}`");
    if let Err(error) = fetch_interpreter(&folder) {
        println!("MISSING: `{INTERPRETER}` ({error:#}); without it no interpreter is stopped and resumed");
    }
}

fn fetch_interpreter(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let fetch = ["-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"];
    shell::run(
        Command::new("python3")
            .args(fetch)
            .arg(INTERPRETER)
            .arg("--dest")
            .arg(folder),
    )?;
    let archive = folder.join(format!("{}.tar.gz", INTERPRETER.replace("==", "-")));
    shell::run(
        Command::new("tar")
            .args(["--extract", "--gzip", "--strip-components=2", "--directory"])
            .arg(folder)
            .arg("--file")
            .arg(archive)
            .args(["--wildcards", "*/upstream-quickjs/*"]),
    )
}

/// Starts a PostgreSQL for the tests to share, on a port of its own; it ends when dropped. None where it
/// is not installed.
pub fn start_postgres() -> Result<Option<Server>> {
    if !bowline_test_postgres::is_installed() {
        println!("SKIPPED: {WITHOUT_POSTGRES}: there is no PostgreSQL");
        return Ok(None);
    }
    let server = Server::start().context("PostgreSQL is installed and does not start")?;
    println!("PostgreSQL for the tests listens on port {}", server.port());
    Ok(Some(server))
}

/// Installs what `cargo xtask bench` needs.
pub fn prepare_for_benchmarks() -> Result<()> {
    install_targets()?;
    install_packages(FOR_BENCHMARKS);
    lay_interpreter();
    renew_package_lists();
    if !bowline_test_postgres::is_installed() {
        install_missing(&["postgresql-15"], "streams are measured on the embedded store only");
    }
    Ok(())
}

/// Adds the targets that `rust-toolchain.toml` lists. Older rustup versions do so by themselves, newer
/// ones only when asked.
fn install_targets() -> Result<()> {
    if !shell::is_installed("rustup") {
        println!("rustup is not installed: the toolchain's targets are taken as they are");
        return Ok(());
    }
    let path = shell::root().join("rust-toolchain.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let file: toml::Table = text
        .parse()
        .with_context(|| format!("cannot parse `{}`", path.display()))?;
    let wanted = file["toolchain"]["targets"].as_array().into_iter().flatten();
    let installed = shell::output(rustup().args(["target", "list", "--installed"]))?;
    for target in wanted.filter_map(|target| target.as_str()) {
        if !installed.lines().any(|line| line == target) {
            println!("adding the target `{target}`");
            shell::run(rustup().args(["target", "add", target])).context("a rustup target is missing")?;
        }
    }
    Ok(())
}

fn rustup() -> Command {
    let mut command = Command::new("rustup");
    command.current_dir(shell::root());
    command
}

fn install_packages(needs: &[Need]) {
    for need in needs.iter().filter(|need| !shell::is_installed(need.program)) {
        install_missing(need.packages, need.without);
    }
}

fn install_missing(packages: &[&str], without: &str) {
    let names = packages.join(" ");
    if !is_root() || !shell::is_installed("apt-get") {
        println!("MISSING: `{names}` (install it, `apt-get install {names}` on Debian); without it {without}");
        return;
    }
    println!("installing `{names}`");
    // A machine without package lists needs the update, one with stale lists too; without a network
    // the install may still succeed from a local mirror.
    let _ = shell::run(apt_get().args(["update", "-qq"]));
    let install = shell::run(
        apt_get()
            .args(["install", "-y", "-qq", "--no-install-recommends"])
            .args(packages),
    );
    if let Err(error) = install {
        println!("MISSING: `{names}` could not be installed ({error:#}); without it {without}");
    }
}

/// Images of virtual machines are made of packages that are fetched, and what old lists name is no longer there.
fn renew_package_lists() {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    if !is_root() || !shell::is_installed("apt-get") {
        return;
    }
    let changed = std::fs::metadata("/var/lib/apt/lists/partial").and_then(|lists| lists.modified());
    let age = changed.ok().and_then(|changed| changed.elapsed().ok());
    if age.is_none_or(|age| age > DAY) {
        println!("renewing the lists of packages");
        let _ = shell::run(apt_get().args(["update", "-qq"]));
    }
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null());
    command
}

/// Whether `python3 -m venv` would work: Debian ships `ensurepip` apart from the interpreter.
fn can_make_venvs() -> bool {
    let status = Command::new("python3")
        .args(["-c", "import venv, ensurepip"])
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

/// Whether we run as root.
pub fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("Uid:"));
    line.and_then(|line| line.split_whitespace().nth(2)) == Some("0")
}
