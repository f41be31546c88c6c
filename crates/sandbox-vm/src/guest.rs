//! The first process of a guest.
//!
//! It mounts what programs expect, starts its own program again as the *service*, and buries orphans from then on;
//! when the service ends, so does the machine. The service starts the *agent*, if there is to be one, in a control group
//! of its own, and says that it is ready once the agent is; it carries out the orders of the control channel, and ends
//! when the agent does.

pub mod folders;
mod orders;
pub mod port;
mod volumes;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitCode, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{MountFlags, mount};
use rustix::process::{WaitOptions, wait};

use crate::protocol::{Answer, Ask, CONTROL_PORT, Reply, VERSION, line};
use crate::{lines, sys};

/// The argument that tells the node's binary to be the first process of a guest; see [`guest_main`].
pub const GUEST_ARGUMENT: &str = "__vm-guest";
/// The same, for the service.
const SERVICE: &str = "service";

/// Where the program lies that is all of these.
const PROGRAM: &str = "/usr/bin/bowline";
/// The control group of the agent and of all that it starts.
const GROUP: &str = "/sys/fs/cgroup/instance";
/// What the agent writes to its standard output once it can be spoken to.
pub const AGENT_READY: &str = "ready";

/// Runs as the first process of a guest, or as its service; the machine is switched off when it ends. `agent` are the
/// arguments that make this program the agent of an instance.
pub fn guest_main(agent: Option<&[&str]>) -> ExitCode {
    if std::env::args().nth(2).as_deref() == Some(SERVICE) {
        return match serve(agent) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("the guest's service has failed: {error}");
                ExitCode::FAILURE
            }
        };
    }
    if std::process::id() != 1 {
        eprintln!("error: this is what virtual machines begin with; nothing else starts it");
        return ExitCode::from(2);
    }
    if let Err(error) = watch() {
        eprintln!("the guest cannot begin: {error}");
    }
    eprintln!("the guest cannot be switched off: {}", sys::power_off());
    ExitCode::FAILURE
}

/// Starts the service and waits for it and for every orphan.
fn watch() -> std::io::Result<()> {
    furnish();
    let service = Command::new("/proc/self/exe")
        .args([GUEST_ARGUMENT, SERVICE])
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .spawn()?;
    loop {
        if let Some((pid, _)) = wait(WaitOptions::empty())?
            && pid.as_raw_nonzero().get().unsigned_abs() == service.id()
        {
            return Ok(());
        }
    }
}

/// Mounts what programs expect. What is missing is said on the console, and missed by whoever needs it.
fn furnish() {
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let devices = MountFlags::NOSUID | MountFlags::NOEXEC;
    let space = MountFlags::NOSUID | MountFlags::NODEV;
    let mounts = [
        ("proc", "/proc", plain, ""),
        ("sysfs", "/sys", plain, ""),
        ("devtmpfs", "/dev", devices, "mode=0755"),
        ("tmpfs", "/dev/shm", plain, "mode=1777"),
        ("devpts", "/dev/pts", devices, "mode=0620,ptmxmode=0666"),
        ("cgroup2", "/sys/fs/cgroup", plain, ""),
        ("tmpfs", "/run", space, "mode=0755"),
        ("tmpfs", "/tmp", space, "mode=1777"),
        ("tmpfs", "/var", space, "mode=0755"),
    ];
    for (kind, folder, flags, options) in mounts {
        let _ = std::fs::create_dir(folder);
        let options = std::ffi::CString::new(options).expect("no zero in it");
        if let Err(error) = mount(kind, folder, kind, flags, Some(options.as_c_str())) {
            eprintln!("cannot mount {folder}: {error}");
        }
    }
    for folder in ["/var/tmp", "/var/lib", "/var/task", "/run/lock"] {
        let _ = std::fs::create_dir(folder);
    }
    let loopback = Command::new("/bin/busybox")
        .args(["ip", "link", "set", "lo", "up"])
        .status();
    if !loopback.is_ok_and(|status| status.success()) {
        eprintln!("the loopback interface is not up");
    }
}

/// Starts the agent in its group, and waits until it is ready.
fn start_agent(arguments: &[&str]) -> std::io::Result<()> {
    std::fs::create_dir_all(GROUP)?;
    for controller in ["memory", "cpu", "pids"] {
        std::fs::write("/sys/fs/cgroup/cgroup.subtree_control", format!("+{controller}"))?;
    }
    // The shell enters the group, so that the program never was outside of it.
    let script = format!("echo 0 > {GROUP}/cgroup.procs && exec {PROGRAM} \"$@\"");
    let mut agent = Command::new("/bin/busybox")
        .args(["sh", "-c", &script, "agent"])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut word = String::new();
    if let Some(output) = agent.stdout.take() {
        BufReader::new(output).read_line(&mut word)?;
    }
    if word.trim() != AGENT_READY {
        let _ = agent.kill();
        let text = format!("the agent is not ready: {}", agent.wait()?);
        return Err(std::io::Error::other(text));
    }
    std::thread::Builder::new().spawn(move || end_with(agent))?;
    Ok(())
}

/// Ends the service, and so the machine, when the agent ends.
fn end_with(mut agent: Child) {
    match agent.wait() {
        Ok(status) => eprintln!("the agent has ended: {status}"),
        Err(error) => eprintln!("the agent cannot be waited for: {error}"),
    }
    std::process::exit(1)
}

/// Starts the agent, and carries out orders until the channel fails.
fn serve(agent: Option<&[&str]>) -> std::io::Result<()> {
    if let Some(arguments) = agent {
        start_agent(arguments)?;
    }
    let path = port::device(CONTROL_PORT)?;
    let mut writer = std::fs::OpenOptions::new().read(true).write(true).open(path)?;
    let mut reader = BufReader::new(writer.try_clone()?);
    let ready = Answer {
        id: 0,
        reply: Reply::Ready { version: VERSION },
    };
    writer.write_all(&line(&ready))?;
    loop {
        let mut text = Vec::new();
        (&mut reader).take(lines::LINE_BYTES_MAX).read_until(b'\n', &mut text)?;
        if text.is_empty() {
            await_host(&writer)?;
            continue;
        }
        let ask: Ask = serde_json::from_slice(&text)?;
        let reply = orders::carry_out(ask.order).unwrap_or_else(|reason| Reply::Failed { reason });
        writer.write_all(&line(&Answer { id: ask.id, reply }))?;
    }
}

/// Waits a little while nobody is at the other end.
fn await_host(port: &File) -> std::io::Result<()> {
    let mut wait = [PollFd::new(port, PollFlags::IN)];
    let short = Timespec {
        tv_sec: 0,
        tv_nsec: 10_000_000,
    };
    poll(&mut wait, Some(&short))?;
    poll(&mut [], Some(&short))?;
    Ok(())
}
