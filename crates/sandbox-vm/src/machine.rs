//! What a virtual machine is made of, and how QEMU is told.

use std::fmt;
use std::iter::repeat;

use bowline_foundation::units::Mebibytes;
use serde::{Deserialize, Serialize};

use crate::protocol::{ROOT_DISK, volume_disk};
use crate::sys::FIRST_FILE;

/// Which of QEMU's machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MachineKind {
    /// No buses, no firmware to speak of: the soonest up. Its memory can shrink and grow back, not more.
    Microvm,
    /// A whole PC, to which memory can be added while it runs.
    Q35,
}

impl fmt::Display for MachineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Microvm => "microvm",
            Self::Q35 => "q35",
        })
    }
}

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accelerator {
    /// The processor.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// A machine that does not exist yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    pub kind: MachineKind,
    pub memory: Mebibytes,
    /// How far memory may grow while it runs; only a q35 may have more than it begins with.
    pub memory_max: Mebibytes,
    pub processors: u32,
    /// How many volumes it has room for.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub volumes: u32,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// Least memory that the kernel and its first processes run in.
pub const MEMORY_MIN: Mebibytes = Mebibytes(128);
/// Most processors of one machine.
pub const PROCESSORS_MAX: u32 = 64;
/// Most volumes of one machine; a microvm has 24 places for devices.
pub const VOLUMES_MAX: u32 = 8;
/// What a place for a volume has in it until there is one, in bytes.
const NOTHING_BYTES: u64 = 1024 * 1024;
/// Sticks of memory that can be added to a q35.
const SLOTS: u32 = 8;

/// How a machine begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// It boots.
    Boot,
    /// It waits to be told where its state comes from.
    Incoming,
}

/// How a machine is started.
#[derive(Clone, Copy, Debug)]
pub struct How<'a> {
    pub beginning: Beginning,
    pub backing: Backing,
    /// What may be done to its volumes. Places without one have nothing in them.
    pub volumes: &'a [Access],
}

/// What may be done to a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    Read,
    Write,
}

/// Where its memory lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// In a file that is its own.
    Own,
    /// In a file that others read too: what it writes stays with it.
    CopyOnWrite,
}

/// The files that QEMU is started with, in the order of their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    Monitor,
    Control,
    Agent,
    Kernel,
    Initrd,
    Root,
    Memory,
    /// The first of the volumes.
    Volumes,
}

impl File {
    fn number(self) -> i32 {
        FIRST_FILE + self as i32
    }

    fn path(self) -> String {
        format!("/proc/self/fd/{}", self.number())
    }
}

impl Machine {
    /// A microvm with one processor.
    pub fn micro(memory: Mebibytes) -> Self {
        Self {
            kind: MachineKind::Microvm,
            memory,
            memory_max: memory,
            processors: 1,
            volumes: 0,
        }
    }

    /// A PC with one processor whose memory may grow.
    pub fn growing(memory: Mebibytes, memory_max: Mebibytes) -> Self {
        Self {
            kind: MachineKind::Q35,
            memory,
            memory_max,
            processors: 1,
            volumes: 0,
        }
    }

    /// What is wrong with it, if anything.
    pub fn fault(&self) -> Option<String> {
        let (memory, most) = (self.memory.0, self.memory_max.0);
        if memory < MEMORY_MIN.0 {
            return Some(format!("`{memory}` MiB of memory are less than `{}`", MEMORY_MIN.0));
        }
        if most < memory || (self.kind == MachineKind::Microvm && most != memory) {
            return Some(format!(
                "memory cannot grow from `{memory}` to `{most}` MiB; a `q35` can grow"
            ));
        }
        if self.volumes > VOLUMES_MAX {
            let volumes = self.volumes;
            return Some(format!(
                "`{volumes}` volumes; a virtual machine has `{VOLUMES_MAX}` at most"
            ));
        }
        (self.processors == 0 || self.processors > PROCESSORS_MAX)
            .then(|| format!("`{}` processors; expected 1 to {PROCESSORS_MAX}", self.processors))
    }

    /// The arguments of QEMU.
    pub fn arguments(&self, accelerator: Accelerator, tsc_khz: Option<u64>, how: How<'_>) -> Vec<String> {
        let How {
            beginning,
            backing,
            volumes,
        } = how;
        let bytes = self.memory.bytes();
        let share = if backing == Backing::Own { "on" } else { "off" };
        let (machine, bus) = match self.kind {
            MachineKind::Microvm => (
                "microvm,acpi=on,pcie=off,rtc=on,pit=on,pic=on,x-option-roms=off,isa-serial=on",
                "device",
            ),
            MachineKind::Q35 => ("q35,smbus=off,vmport=off,hpet=off", "pci"),
        };
        let memory = if self.memory_max == self.memory {
            format!("{bytes}B")
        } else {
            format!("{bytes}B,slots={SLOTS},maxmem={}B", self.memory_max.bytes())
        };
        let (accelerator, processor) = match accelerator {
            Accelerator::Kvm => ("kvm", "host"),
            Accelerator::Tcg => ("tcg,thread=multi,tb-size=64", "max"),
        };
        let mut arguments = Arguments::default();
        arguments.all("-nodefaults -no-user-config -no-reboot -display none");
        arguments.all("-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
        arguments.pair("-machine", format!("{machine},memory-backend=ram0"));
        arguments.pair("-accel", accelerator.to_owned());
        arguments.pair("-cpu", processor.to_owned());
        arguments.pair("-smp", self.processors.to_string());
        arguments.pair("-m", memory);
        let path = File::Memory.path();
        arguments.pair(
            "-object",
            format!("memory-backend-file,id=ram0,size={bytes},mem-path={path},share={share}"),
        );
        arguments.pair("-kernel", File::Kernel.path());
        arguments.pair("-initrd", File::Initrd.path());
        arguments.pair("-append", kernel_arguments(tsc_khz));
        arguments.all("-chardev stdio,id=console,signal=off -serial chardev:console");
        let sockets = [
            ("monitor", File::Monitor),
            ("control", File::Control),
            ("agent", File::Agent),
        ];
        for (id, file) in sockets {
            arguments.pair("-chardev", format!("socket,id={id},fd={}", file.number()));
        }
        arguments.all("-mon chardev=monitor,mode=control");
        arguments.devices(bus);
        for (slot, access) in (0..self.volumes).zip(volumes.iter().map(Some).chain(repeat(None))) {
            arguments.volume(bus, slot, access);
        }
        if beginning == Beginning::Incoming {
            arguments.all("-S -incoming defer");
        }
        arguments.0
    }
}

#[derive(Default)]
struct Arguments(Vec<String>);

impl Arguments {
    fn all(&mut self, words: &str) {
        self.0.extend(words.split(' ').map(str::to_owned));
    }

    fn pair(&mut self, name: &str, value: String) {
        self.0.extend([name.to_owned(), value]);
    }

    fn devices(&mut self, bus: &str) {
        let root = File::Root.path();
        self.pair(
            "-blockdev",
            format!(
                "driver=raw,node-name=root,read-only=on,file.driver=file,file.filename={root},file.read-only=on,\
                 file.locking=off"
            ),
        );
        self.pair("-device", format!("virtio-blk-{bus},drive=root,serial={ROOT_DISK}"));
        self.pair("-device", format!("virtio-serial-{bus},max_ports=4"));
        self.pair(
            "-device",
            format!("virtserialport,chardev=control,name={}", crate::protocol::CONTROL_PORT),
        );
        self.pair(
            "-device",
            format!("virtserialport,chardev=agent,name={}", crate::protocol::AGENT_PORT),
        );
        self.pair("-object", "rng-random,id=rng0,filename=/dev/urandom".to_owned());
        self.pair("-device", format!("virtio-rng-{bus},rng=rng0"));
        self.pair("-device", format!("virtio-balloon-{bus},id=balloon0,deflate-on-oom=on"));
    }

    /// A disk that the guest finds by its serial number. The file is taken as it was handed over: its user could not open it.
    fn volume(&mut self, bus: &str, slot: u32, access: Option<&Access>) {
        let disk = volume_disk(slot);
        let content = match access {
            None => format!("driver=null-co,size={NOTHING_BYTES},read-zeroes=on"),
            Some(access) => {
                self.pair(
                    "-add-fd",
                    format!("fd={},set={slot}", File::Volumes.number() + slot as i32),
                );
                let read_only = if *access == Access::Read { "on" } else { "off" };
                format!(
                    "driver=raw,read-only={read_only},file.driver=file,file.filename=/dev/fdset/{slot},\
                     file.read-only={read_only},file.locking=off"
                )
            }
        };
        self.pair("-blockdev", format!("node-name={disk},{content}"));
        self.pair(
            "-device",
            format!("virtio-blk-{bus},drive={disk},serial={disk},rerror=report,werror=report"),
        );
    }
}

/// What the kernel is told. The translator's processor has no clock to measure its counter against, so it is told
/// the frequency.
fn kernel_arguments(tsc_khz: Option<u64>) -> String {
    let mut text = "console=ttyS0 quiet panic=-1 reboot=t mitigations=off random.trust_cpu=on \
                    memhp_default_state=online_movable rdinit=/init"
        .to_owned();
    if let Some(khz) = tsc_khz {
        text.push_str(&format!(" no_timer_check tsc=reliable tsc_early_khz={khz}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(machine: &Machine, (beginning, backing): (Beginning, Backing)) -> String {
        let volumes = &[Access::Write, Access::Read];
        let how = How {
            beginning,
            backing,
            volumes: &volumes[..(machine.volumes as usize).min(2)],
        };
        machine.arguments(Accelerator::Tcg, Some(2_600_000), how).join(" ")
    }

    #[test]
    fn machines_are_told_as_they_begin() {
        let micro = Machine::micro(Mebibytes(256));
        let boots = told(&micro, (Beginning::Boot, Backing::Own));
        assert!(boots.contains("-m 268435456B "), "{boots}");
        assert!(boots.contains("mem-path=/proc/self/fd/9,share=on"), "{boots}");
        assert!(boots.contains("tsc_early_khz=2600000"), "{boots}");
        assert!(!boots.contains("-incoming"), "{boots}");
        let clone = told(&micro, (Beginning::Incoming, Backing::CopyOnWrite));
        assert!(
            clone.contains("share=off") && clone.ends_with("-S -incoming defer"),
            "{clone}"
        );
        let growing = Machine::growing(Mebibytes(256), Mebibytes(512));
        let grows = told(&growing, (Beginning::Boot, Backing::Own));
        assert!(grows.contains("-m 268435456B,slots=8,maxmem=536870912B"), "{grows}");
        assert!(grows.contains("virtio-blk-pci"), "{grows}");
        assert!(!grows.contains("volume"), "{grows}");
        let with = Machine { volumes: 3, ..micro };
        let with = told(&with, (Beginning::Incoming, Backing::CopyOnWrite));
        for words in [
            "-add-fd fd=10,set=0 -blockdev node-name=volume0,driver=raw,read-only=off,",
            "-add-fd fd=11,set=1 -blockdev node-name=volume1,driver=raw,read-only=on,",
            "file.filename=/dev/fdset/1,file.read-only=on",
            "-blockdev node-name=volume2,driver=null-co,",
        ] {
            assert!(with.contains(words), "`{words}` is not in {with}");
        }
    }

    #[test]
    fn machines_that_cannot_be_are_refused() {
        assert_eq!(Machine::micro(MEMORY_MIN).fault(), None);
        assert_eq!(Machine::growing(Mebibytes(256), Mebibytes(512)).fault(), None);
        assert!(Machine::micro(Mebibytes(MEMORY_MIN.0 - 1)).fault().is_some());
        let mut grown = Machine::micro(Mebibytes(256));
        grown.memory_max = Mebibytes(512);
        assert!(grown.fault().unwrap().contains("q35"));
        assert!(Machine::growing(Mebibytes(256), Mebibytes(255)).fault().is_some());
        let mut full = Machine::micro(Mebibytes(256));
        full.volumes = VOLUMES_MAX;
        assert_eq!(full.fault(), None);
        full.volumes += 1;
        assert!(full.fault().unwrap().contains("`9` volumes"));
        for processors in [0, PROCESSORS_MAX + 1] {
            let machine = Machine {
                processors,
                ..Machine::micro(Mebibytes(256))
            };
            assert!(machine.fault().is_some());
        }
    }
}
