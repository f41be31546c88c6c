//! The system calls a guest may make: an allow-list.
//!
//! What is not listed answers `EPERM`. Two things answer `ENOSYS` instead, because C libraries then take
//! an older way: `clone3`, whose flags a filter cannot see, and calls newer than this list.

mod calls;

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use super::sys::Instruction;
use calls::{OLD, PLAIN};

/// The first system call number that did not exist when the list was made.
const FUTURE: u32 = 470;
/// Numbers from here up are of the x32 calling convention, which is refused like any unlisted call.
const X32: u32 = 0x4000_0000;

const NAMESPACE_FLAGS: i32 = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

/// The filter as a program for the kernel.
///
/// Calls allowed with any arguments are decided first, by a search over ranges of numbers: the kernel
/// tries a new filter with every number there is, so that a chain of comparisons takes it a millisecond.
pub fn program() -> Result<Vec<Instruction>, seccompiler::BackendError> {
    let rules: BTreeMap<i64, Vec<SeccompRule>> = conditional()?.into_iter().collect();
    let denied = SeccompAction::Errno(libc::EPERM as u32);
    let rest: BpfProgram = SeccompFilter::new(rules, denied, SeccompAction::Allow, architecture())?.try_into()?;
    let mut program = unconditional();
    program.extend(rest);
    Ok(program)
}

const fn architecture() -> TargetArch {
    if cfg!(target_arch = "aarch64") {
        TargetArch::aarch64
    } else {
        TargetArch::x86_64
    }
}

/// The few instructions that this filter spells out; the kernel's names in `bpf_common.h`.
mod instruction {
    use super::Instruction;

    const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
    const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const JUMP_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K

    const fn make(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
        Instruction { code, jt, jf, k }
    }

    /// Loads the word at `offset` of `seccomp_data`.
    pub const fn load(offset: u32) -> Instruction {
        make(LOAD, 0, 0, offset)
    }

    /// Skips so many instructions.
    pub const fn skip(count: u32) -> Instruction {
        make(JUMP, 0, 0, count)
    }

    /// Skips `then` instructions if the loaded word is `value`, `otherwise` if not.
    pub const fn if_equal(value: u32, then: u8, otherwise: u8) -> Instruction {
        make(JUMP_EQUAL, then, otherwise, value)
    }

    /// Skips `then` instructions if the loaded word is at least `value`, `otherwise` if not.
    pub const fn if_at_least(value: u32, then: u8, otherwise: u8) -> Instruction {
        make(JUMP_AT_LEAST, then, otherwise, value)
    }

    /// Ends with an action.
    pub const fn answer(action: u32) -> Instruction {
        make(RETURN, 0, 0, action)
    }
}

/// Stands for a jump to the end until the end is known.
const TO_END: u32 = u32::MAX;
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const NOT_IMPLEMENTED: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// Decides all that the number alone decides; falls out at the end for the rest.
fn unconditional() -> Vec<Instruction> {
    use instruction::{answer, if_at_least, if_equal, load, skip};
    let audit_architecture = match architecture() {
        TargetArch::aarch64 => 0xc000_00b7,
        _ => 0xc000_003e,
    };
    let mut program = vec![
        load(4),
        if_equal(audit_architecture, 1, 0),
        answer(libc::SECCOMP_RET_KILL_PROCESS),
        load(0),
        if_equal(libc::SYS_clone3 as u32, 2, 0),
        if_at_least(FUTURE, 0, 2),
        if_at_least(X32, 1, 0),
        answer(NOT_IMPLEMENTED),
    ];
    program.extend(search(&boundaries(), false));
    let end = program.len() as u32;
    for (position, instruction) in program.iter_mut().enumerate() {
        if *instruction == skip(TO_END) {
            *instruction = skip(end - position as u32 - 1);
        }
    }
    program
}

/// The numbers at which being listed begins or ends, in ascending order.
fn boundaries() -> Vec<u32> {
    let mut listed: Vec<u32> = PLAIN.iter().chain(OLD).map(|call| *call as u32).collect();
    listed.sort_unstable();
    listed.dedup();
    let mut boundaries = Vec::new();
    for number in listed {
        if boundaries.last() == Some(&number) {
            boundaries.pop();
        } else {
            boundaries.push(number);
        }
        boundaries.push(number + 1);
    }
    boundaries
}

/// A search for the loaded number among `boundaries`; below the first one, it is listed if `inside`.
fn search(boundaries: &[u32], inside: bool) -> Vec<Instruction> {
    use instruction::{answer, if_at_least, skip};
    let middle = boundaries.len() / 2;
    let Some(boundary) = boundaries.get(middle) else {
        return vec![if inside { answer(ALLOW) } else { skip(TO_END) }];
    };
    let below = search(&boundaries[..middle], inside);
    let above = search(&boundaries[middle + 1..], inside ^ middle.is_multiple_of(2));
    let mut program = vec![if_at_least(*boundary, 0, 1), skip(below.len() as u32)];
    program.extend(below);
    program.extend(above);
    program
}

/// Calls that are allowed with certain arguments only.
fn conditional() -> Result<Vec<(i64, Vec<SeccompRule>)>, seccompiler::BackendError> {
    use SeccompCmpArgLen::{Dword, Qword};
    use SeccompCmpOp::{Eq, MaskedEq, Ne};
    let when = SeccompCondition::new;
    let socket_kind = |kind: i32| when(1, Dword, MaskedEq(0xf), kind as u64);
    let family = |family: i32| when(0, Dword, Eq, family as u64);
    let mut sockets = Vec::new();
    for internet in [libc::AF_INET, libc::AF_INET6] {
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
            sockets.push(SeccompRule::new(vec![family(internet)?, socket_kind(kind)?])?);
        }
    }
    sockets.push(SeccompRule::new(vec![family(libc::AF_UNIX)?])?);
    // Names of interfaces and addresses, as `getifaddrs` reads them.
    let route = when(2, Dword, Eq, libc::NETLINK_ROUTE as u64)?;
    sockets.push(SeccompRule::new(vec![family(libc::AF_NETLINK)?, route])?);

    let no_namespace = when(0, Qword, MaskedEq(NAMESPACE_FLAGS as u64), 0)?;
    // The requests' type differs between C libraries.
    #[allow(clippy::unnecessary_cast)]
    let no_terminal_input = [libc::TIOCSTI, libc::TIOCLINUX]
        .into_iter()
        .map(|request| when(1, Dword, Ne, request as u64))
        .collect::<Result<Vec<_>, _>>()?;
    let personality = |persona: u64| SeccompRule::new(vec![when(0, Dword, Eq, persona)?]);
    Ok(vec![
        (libc::SYS_socket, sockets),
        (
            libc::SYS_socketpair,
            vec![SeccompRule::new(vec![family(libc::AF_UNIX)?])?],
        ),
        (libc::SYS_clone, vec![SeccompRule::new(vec![no_namespace])?]),
        (libc::SYS_ioctl, vec![SeccompRule::new(no_terminal_input)?]),
        (libc::SYS_personality, vec![personality(0)?, personality(0xffff_ffff)?]),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the unconditional part does with a call: its answer, or `None` if it falls out at the end.
    fn answer_to(program: &[Instruction], number: u32, architecture: u32) -> Option<u32> {
        let mut position = 0;
        let mut word = 0;
        while let Some(step) = program.get(position) {
            position += 1;
            let jump = |taken: bool| usize::from(if taken { step.jt } else { step.jf });
            match step.code {
                0x20 => word = if step.k == 0 { number } else { architecture },
                0x05 => position += step.k as usize,
                0x15 => position += jump(word == step.k),
                0x35 => position += jump(word >= step.k),
                0x06 => return Some(step.k),
                code => panic!("unknown instruction {code:#x}"),
            }
        }
        None
    }

    #[test]
    fn exactly_the_listed_calls_are_allowed() {
        let program = unconditional();
        let native = if cfg!(target_arch = "aarch64") {
            0xc000_00b7
        } else {
            0xc000_003e
        };
        for number in 0..600 {
            let listed = PLAIN.iter().chain(OLD).any(|call| *call as u32 == number);
            let expected = match number {
                _ if number == libc::SYS_clone3 as u32 || number >= FUTURE => Some(NOT_IMPLEMENTED),
                _ if listed => Some(ALLOW),
                _ => None,
            };
            assert_eq!(answer_to(&program, number, native), expected, "call {number}");
        }
        assert_eq!(answer_to(&program, X32 + 1, native), None);
        assert_eq!(
            answer_to(&program, 1, 0x4000_0003),
            Some(libc::SECCOMP_RET_KILL_PROCESS)
        );
    }
}
