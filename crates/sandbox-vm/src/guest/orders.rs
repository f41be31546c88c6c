//! What a guest does when it is told to.

use std::fs::File;
use std::io::{PipeReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bowline_foundation::clock::Clock;
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::volumes;
use crate::protocol::{OUTPUT_BYTES_MAX, Order, Reply};
use crate::sys;

/// How long the output of a program is waited for that has left others behind.
const OUTPUT: Duration = Duration::from_secs(2);

/// Carries out an order; a text says why not.
pub fn carry_out(order: Order) -> Result<Reply, String> {
    match order {
        Order::Ping => Ok(clock()),
        Order::Renew { micros, entropy } => renew(micros, &entropy),
        Order::Memory => memory(),
        Order::Draw => draw(),
        Order::Limit { processes } => limit(processes),
        Order::Mount { mounts } => volumes::show(&mounts).map(|()| clock()),
        Order::Settle { targets } => volumes::settle(&targets).map(|()| clock()),
        Order::Run { argv, milliseconds } => run(&argv, Duration::from_millis(milliseconds)),
    }
}

fn clock() -> Reply {
    Reply::Clock {
        micros: Clock::system().now().as_micros(),
    }
}

fn renew(micros: u64, entropy: &str) -> Result<Reply, String> {
    let seed = BASE64.decode(entropy).map_err(|error| error.to_string())?;
    let seed = seed
        .try_into()
        .map_err(|_| format!("expected {} random bytes", sys::SEED_BYTES))?;
    sys::set_clock(micros).map_err(|error| format!("cannot set the clock: {error}"))?;
    File::options()
        .write(true)
        .open("/dev/random")
        .and_then(|pool| sys::add_entropy(&pool.into(), &seed))
        .map_err(|error| format!("cannot renew the randomness: {error}"))?;
    Ok(clock())
}

fn limit(processes: u32) -> Result<Reply, String> {
    let path = Path::new(super::GROUP).join("pids.max");
    let written = std::fs::write(&path, processes.to_string());
    written.map_err(|error| format!("cannot write `{}`: {error}", path.display()))?;
    Ok(clock())
}

fn draw() -> Result<Reply, String> {
    let mut bytes = [0; 32];
    let mut pool = File::open("/dev/urandom").map_err(|error| error.to_string())?;
    pool.read_exact(&mut bytes).map_err(|error| error.to_string())?;
    Ok(Reply::Drawn {
        bytes: BASE64.encode(bytes),
    })
}

fn memory() -> Result<Reply, String> {
    let text = std::fs::read_to_string("/proc/meminfo").map_err(|error| error.to_string())?;
    let kib = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    match (kib("MemTotal:"), kib("MemAvailable:")) {
        (Some(total), Some(available)) => Ok(Reply::Memory {
            total: total * 1024,
            available: available * 1024,
        }),
        _ => Err("`/proc/meminfo` does not say".to_owned()),
    }
}

fn run(argv: &[String], allowed: Duration) -> Result<Reply, String> {
    let (program, arguments) = argv.split_first().ok_or("no program is named")?;
    let cannot = |error: std::io::Error| format!("cannot run `{program}`: {error}");
    let (reader, writer) = std::io::pipe().map_err(cannot)?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir("/").stdin(Stdio::null());
    command.stdout(writer.try_clone().map_err(cannot)?).stderr(writer);
    let mut child = command.spawn().map_err(cannot)?;
    drop(command);
    let output = Arc::new(Mutex::new(Vec::new()));
    let closed = collect(reader, &output);
    let timed_out = !ends_within(&child, allowed).map_err(cannot)?;
    if timed_out {
        let _ = child.kill();
    }
    let status = child.wait().map_err(cannot)?;
    // Programs that it left behind may hold the pipe open.
    let _ = closed.recv_timeout(OUTPUT);
    let output = BASE64.encode(output.lock().as_slice());
    Ok(Reply::Ran {
        code: status.code(),
        output,
        timed_out,
    })
}

/// Gathers what comes, as far as there is room; the rest is read and dropped.
fn collect(mut reader: PipeReader, output: &Arc<Mutex<Vec<u8>>>) -> Receiver<()> {
    let (closes, closed) = channel();
    let output = Arc::clone(output);
    std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = reader.read(&mut piece) {
            let mut output = output.lock();
            let room = OUTPUT_BYTES_MAX - output.len();
            output.extend_from_slice(&piece[..count.min(room)]);
        }
        let _ = closes.send(());
    });
    closed
}

/// Whether a child ends in time.
fn ends_within(child: &Child, allowed: Duration) -> std::io::Result<bool> {
    let handle = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let time = Timespec {
        tv_sec: i64::try_from(allowed.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(allowed.subsec_nanos()),
    };
    Ok(poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&time))? > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(argv: &[&str], milliseconds: u64) -> (Option<i32>, Vec<u8>, bool) {
        let argv: Vec<String> = argv.iter().map(|word| (*word).to_owned()).collect();
        match carry_out(Order::Run { argv, milliseconds }) {
            Ok(Reply::Ran {
                code,
                output,
                timed_out,
            }) => (code, BASE64.decode(output).unwrap(), timed_out),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn programs_end_or_are_ended_and_their_output_has_a_limit() {
        assert_eq!(
            ran(&["sh", "-c", "echo out; echo err >&2; exit 3"], 10_000),
            (Some(3), b"out\nerr\n".to_vec(), false)
        );
        assert_eq!(ran(&["sleep", "600"], 50), (None, Vec::new(), true));
        let (code, output, _) = ran(&["head", "-c", "100000", "/dev/zero"], 10_000);
        assert_eq!((code, output.len()), (Some(0), OUTPUT_BYTES_MAX));
        let missing = Order::Run {
            argv: vec!["/no/such/program".to_owned()],
            milliseconds: 1,
        };
        assert!(carry_out(missing).unwrap_err().contains("/no/such/program"));
    }

    #[test]
    fn randomness_of_the_wrong_size_is_refused_before_anything_is_changed() {
        let short = Order::Renew {
            micros: 0,
            entropy: BASE64.encode([1; 3]),
        };
        assert!(carry_out(short).unwrap_err().contains("64 random bytes"));
        assert!(matches!(carry_out(Order::Memory), Ok(Reply::Memory { total, available }) if total > available));
        assert!(matches!(carry_out(Order::Ping), Ok(Reply::Clock { micros }) if micros > 0));
    }
}
