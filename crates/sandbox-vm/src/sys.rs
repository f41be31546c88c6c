//! The system calls that have no safe form in the crates at hand.
#![allow(unsafe_code, reason = "system calls, each with its SAFETY")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What a child does between fork and exec.
pub struct Birth {
    /// Becomes the files 3, 4, ... of the program.
    pub files: Vec<OwnedFd>,
    /// Open membership files of control groups.
    pub groups: Vec<OwnedFd>,
    /// The user and group to become, with a network of its own that leads nowhere.
    pub user: Option<u32>,
}

/// Where the files of a [`Birth`] begin.
pub const FIRST_FILE: RawFd = 3;

/// Lets the program that `command` starts be born so. It dies with the thread that starts it.
pub fn prepare(command: &mut Command, birth: Birth) {
    let parent = std::process::id();
    // SAFETY: the closure makes plain system calls on memory that was made before the fork; it allocates nothing
    // and takes no lock. The safe `Command` has no way to hand over files, nor to set a death signal.
    unsafe {
        command.pre_exec(move || {
            for group in &birth.groups {
                check(libc::write(group.as_raw_fd(), b"0".as_ptr().cast(), 1))?;
            }
            for (file, target) in birth.files.iter().zip(FIRST_FILE..) {
                check(libc::dup2(file.as_raw_fd(), target) as isize)?;
            }
            if let Some(user) = birth.user {
                check(libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWIPC) as isize)?;
                // The raw calls: those of the C library would want to tell other threads.
                check(libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) as isize)?;
                check(libc::syscall(libc::SYS_setresgid, user, user, user) as isize)?;
                check(libc::syscall(libc::SYS_setresuid, user, user, user) as isize)?;
            }
            check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) as isize)?;
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) as isize)?;
            // The parent may have died before the line above.
            if libc::getppid() as u32 != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        });
    }
}

fn check(result: isize) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// How much was written to a socket that its other end has not read.
pub fn unread(socket: &impl AsRawFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the call writes one number to `bytes`, which lives through it.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) } as isize)?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Reads the processor's time-stamp counter.
#[cfg(target_arch = "x86_64")]
pub fn time_stamp() -> Option<u64> {
    // SAFETY: the instruction reads a counter and touches no memory.
    Some(unsafe { std::arch::x86_64::_rdtsc() })
}

/// Other processors have no such counter.
#[cfg(not(target_arch = "x86_64"))]
pub fn time_stamp() -> Option<u64> {
    None
}

/// Sets the clock of the machine that this process is the first of.
pub fn set_clock(micros: u64) -> io::Result<()> {
    let time = libc::timespec {
        tv_sec: i64::try_from(micros / 1_000_000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(micros % 1_000_000).unwrap_or(0) * 1000,
    };
    // SAFETY: `time` lives through the call.
    check(unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const time) } as isize)
}

/// Switches the machine off that this process is the first of.
pub fn power_off() -> io::Error {
    // SAFETY: the call takes a number, and returns only if it was refused.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
    io::Error::last_os_error()
}

/// How many random bytes are stirred in at once.
pub const SEED_BYTES: usize = 64;
/// `RNDADDENTROPY` of `linux/random.h`.
const ADD_ENTROPY: libc::Ioctl = 0x4008_5203;
/// `RNDRESEEDCRNG` of `linux/random.h`.
const RESEED: libc::Ioctl = 0x5207;

/// Credits the kernel's pool with random bytes, and has its generator begin anew with them.
pub fn add_entropy(pool: &OwnedFd, seed: &[u8; SEED_BYTES]) -> io::Result<()> {
    #[repr(C)]
    struct RandPoolInfo {
        entropy_bits: libc::c_int,
        bytes: libc::c_int,
        seed: [u8; SEED_BYTES],
    }
    let info = RandPoolInfo {
        entropy_bits: 8 * SEED_BYTES as libc::c_int,
        bytes: SEED_BYTES as libc::c_int,
        seed: *seed,
    };
    // SAFETY: `info` has the layout of `struct rand_pool_info` and lives through the call; the second call takes
    // no argument.
    unsafe {
        check(libc::ioctl(pool.as_raw_fd(), ADD_ENTROPY, &raw const info) as isize)?;
        check(libc::ioctl(pool.as_raw_fd(), RESEED) as isize)
    }
}

/// `FIFREEZE` of `linux/fs.h`.
const FREEZE: libc::Ioctl = 0xc004_5877;

/// Writes all that a file system holds back, and lets nobody write to it any more.
pub fn freeze(folder: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: the kernel does not look at this call's argument.
    check(unsafe { libc::ioctl(folder.as_raw_fd(), FREEZE, 0) } as isize)
}
