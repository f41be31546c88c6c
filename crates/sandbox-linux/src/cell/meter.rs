//! How much the processes in control groups use together, read from the groups' files by either version's names.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// The groups of the same processes, one in each hierarchy.
#[derive(Clone, Debug)]
pub struct Meter {
    groups: Vec<PathBuf>,
}

impl Meter {
    pub(super) fn new(groups: Vec<PathBuf>) -> Self {
        Self { groups }
    }

    /// The memory that they have now, in bytes, if that is counted. Pages of files that nobody has read for a while are not
    /// counted: the kernel takes them back as soon as anybody needs memory.
    pub fn memory_bytes(&self) -> Option<u64> {
        let all = ["memory.current", "memory.usage_in_bytes"];
        let all = all.iter().find_map(|file| self.number(file, ""))?;
        // Version 1 has one of the group alone beside that of the groups inside it too.
        let spare = ["total_inactive_file ", "inactive_file "];
        let spare = spare.iter().find_map(|label| self.number("memory.stat", label));
        Some(all.saturating_sub(spare.unwrap_or(0)))
    }

    /// The processor time that they have had, if that is counted.
    pub fn cpu(&self) -> Option<Duration> {
        let micros = self.number("cpu.stat", "usage_usec ").map(Duration::from_micros);
        micros.or_else(|| self.number("cpuacct.usage", "").map(Duration::from_nanos))
    }

    /// The number after `label` at the start of a line of such a file.
    fn number(&self, file: &str, label: &str) -> Option<u64> {
        let number = |line: &str| line.strip_prefix(label)?.trim().parse().ok();
        self.groups
            .iter()
            .filter_map(|group| fs::read_to_string(group.join(file)).ok())
            .find_map(|text| text.lines().find_map(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The meter of groups with these files, each a group's number, a name and a text.
    fn check(files: &[(&str, &str, &str)], expected: (Option<u64>, Option<Duration>)) {
        let folder = tempfile::tempdir().unwrap();
        let groups = ["a", "b"].map(|group| folder.path().join(group));
        groups.iter().for_each(|group| fs::create_dir(group).unwrap());
        for (group, name, text) in files {
            fs::write(folder.path().join(group).join(name), text).unwrap();
        }
        let meter = Meter::new(groups.to_vec());
        assert_eq!((meter.memory_bytes(), meter.cpu()), expected, "{files:?}");
    }

    #[test]
    fn every_layout_of_groups_is_read() {
        let (memory, cpu) = (Some(3000), Some(Duration::from_micros(70)));
        let current = ("a", "memory.current", "4000\n");
        let stat = ("a", "memory.stat", "anon 1\ninactive_file 1000\nactive_file 5\n");
        let time = ("a", "cpu.stat", "usage_usec 70\nuser_usec 60\n");
        check(&[current, stat, time], (memory, cpu));
        let usage = ("a", "memory.usage_in_bytes", "4000\n");
        let nested = ("a", "memory.stat", "inactive_file 7\ntotal_inactive_file 1000\n");
        let throttled = ("a", "cpu.stat", "nr_periods 9\n");
        check(&[usage, nested, throttled, ("b", time.1, time.2)], (memory, cpu));
        check(
            &[usage, nested, throttled, ("b", "cpuacct.usage", "70000\n")],
            (memory, cpu),
        );
        check(&[current, throttled], (Some(4000), None));
        check(&[], (None, None));
    }
}
