//! Which host user a cell runs as, and the user namespaces that make it so.
//!
//! With the right to choose, every cell gets a host user of its own from a range that no account uses,
//! so that two cells could not signal or inspect each other even if a namespace failed. Without it (a
//! node without root), the spawner lives in a user namespace of its own, and all cells are the node's
//! user. In both cases the guest is user [`GUEST_ID`] inside and there is no user 0 to become.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::ops::Range;

use rustix::process::{Pid, getegid, geteuid};

use super::sys;
use super::wire::{Failure, Step};

/// The guest's user and group inside its cell.
pub const GUEST_ID: u32 = 1000;

/// Ranges for cells start here in the host's numbering, far above accounts and container ranges.
const HOST_IDS_START: u32 = 0x7000_0000;
/// How many users a spawner takes for its cells.
const HOST_IDS_COUNT: u32 = 1 << 16;
/// Below this many mapped users there is none to spare.
const HOST_IDS_SPARE: u32 = 20_000;

/// Where the users of cells come from.
#[derive(Debug)]
pub enum Identities {
    /// A user of its own for each cell.
    Distinct {
        range: Range<u32>,
        next: u32,
        used: HashSet<u32>,
    },
    /// The spawner's user for all.
    Same,
}

impl Identities {
    /// Finds out what this process may do and, if need be, moves it into a user namespace in which it
    /// may mount. `salt` keeps the ranges of several nodes on one host apart.
    pub fn establish(salt: u32) -> Result<Self, Failure> {
        if sys::unshare(libc::CLONE_NEWNS).is_err() {
            let (user, group) = (geteuid().as_raw(), getegid().as_raw());
            sys::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS).step("unshare user namespace")?;
            fs::write("/proc/self/setgroups", "deny").step("deny setgroups")?;
            fs::write("/proc/self/uid_map", format!("0 {user} 1")).step("write uid_map")?;
            fs::write("/proc/self/gid_map", format!("0 {group} 1")).step("write gid_map")?;
            return Ok(Self::Same);
        }
        // May fail in a container that forbids it; then the groups stay, and give the guest nothing.
        let _ = rustix::thread::set_thread_groups(&[]);
        let map = fs::read_to_string("/proc/self/uid_map").step("read uid_map")?;
        Ok(match spare_range(&map, salt) {
            Some(range) => Self::Distinct {
                next: range.start,
                range,
                used: HashSet::new(),
            },
            None => Self::Same,
        })
    }

    /// The host user of a new cell.
    pub fn take(&mut self) -> u32 {
        let Self::Distinct { range, next, used } = self else {
            return geteuid().as_raw();
        };
        loop {
            let user = *next;
            *next = if user + 1 < range.end { user + 1 } else { range.start };
            if used.insert(user) || used.len() == range.len() {
                return user;
            }
        }
    }

    /// Gives back the user of a cell that is gone.
    pub fn give_back(&mut self, user: u32) {
        if let Self::Distinct { used, .. } = self {
            used.remove(&user);
        }
    }
}

/// The range to take, in a namespace whose `uid_map` is `map`.
fn spare_range(map: &str, salt: u32) -> Option<Range<u32>> {
    let extent = |line: &str| {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        let inside = numbers.next()?.ok()?;
        let count = numbers.nth(1)?.ok()?;
        Some((inside, count))
    };
    let (start, count) = map.lines().filter_map(extent).max_by_key(|(_, count)| *count)?;
    let blocks = (u32::MAX / 2 - HOST_IDS_START) / HOST_IDS_COUNT;
    let wished = HOST_IDS_START + (salt % blocks) * HOST_IDS_COUNT;
    let end = start.saturating_add(count);
    if (start..end).contains(&wished) && end - wished >= HOST_IDS_COUNT {
        return Some(wished..wished + HOST_IDS_COUNT);
    }
    (count >= HOST_IDS_SPARE).then(|| end - HOST_IDS_SPARE / 4..end - 1)
}

/// Maps the guest's user to `host` (in the spawner's numbering) in the user namespace of `init`.
pub fn map_guest(init: Pid, host: u32) -> io::Result<()> {
    let pid = init.as_raw_nonzero();
    let map = format!("{GUEST_ID} {host} 1");
    fs::write(format!("/proc/{pid}/uid_map"), &map)?;
    fs::write(format!("/proc/{pid}/gid_map"), &map)
}

/// Becomes the guest's user, still with every capability inside the cell; called once it is mapped.
pub fn become_guest_user() -> Result<(), Failure> {
    use rustix::process::{DumpableBehavior, Gid, Signal, Uid};
    let (user, group) = (Uid::from_raw(GUEST_ID), Gid::from_raw(GUEST_ID));
    rustix::thread::set_thread_res_gid(group, group, group).step("setresgid")?;
    rustix::thread::set_thread_res_uid(user, user, user).step("setresuid")?;
    sys::drop_bounding_set().step("drop bounding set")?;
    rustix::thread::set_no_new_privs(true).step("no new privileges")?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).step("set dumpable")?;
    // Changing the user cleared it, so it is set only now.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).step("set death signal")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_host_spares_a_block_by_salt() {
        let map = "         0          0 4294967295\n";
        let first = spare_range(map, 0).unwrap();
        let second = spare_range(map, 1).unwrap();
        assert_eq!(first, HOST_IDS_START..HOST_IDS_START + HOST_IDS_COUNT);
        assert_eq!(second.start, first.end);
    }

    #[test]
    fn a_container_spares_the_end_of_its_range() {
        assert_eq!(spare_range("0 100000 65536\n", 7), Some(60_536..65_535));
    }

    #[test]
    fn a_single_user_spares_nothing() {
        assert_eq!(spare_range("0 1000 1\n", 7), None);
    }

    #[test]
    fn distinct_users_are_not_given_twice_while_in_use() {
        let mut identities = Identities::Distinct {
            range: 10..13,
            next: 10,
            used: HashSet::new(),
        };
        assert_eq!([identities.take(), identities.take(), identities.take()], [10, 11, 12]);
        identities.give_back(11);
        assert_eq!(identities.take(), 11);
    }
}
