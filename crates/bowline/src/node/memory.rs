//! How much memory sandboxes may have together if nobody says.

use bowline_foundation::units::Mebibytes;

/// Functions use a part of the memory that they are allowed, and seldom at the same moment: so many times the
/// machine's memory is promised to them.
const PROMISED: u32 = 16;
/// What is taken for the machine's memory if it cannot be read.
const UNKNOWN: Mebibytes = Mebibytes(4096);

/// The budget that follows from the machine's memory.
pub fn default_budget() -> Mebibytes {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = total(&text).unwrap_or(UNKNOWN);
    Mebibytes(memory.0.saturating_mul(PROMISED))
}

fn total(meminfo: &str) -> Option<Mebibytes> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    u32::try_from(kibibytes / 1024).ok().map(Mebibytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_memory_is_read_as_the_kernel_writes_it() {
        let text = "MemTotal:       24576000 kB\nMemFree:        10 kB\n";
        assert_eq!(total(text), Some(Mebibytes(24_000)));
        for other in ["", "MemTotal: 1 MB\n", "MemTotal: x kB\n"] {
            assert_eq!(total(other), None);
        }
    }
}
