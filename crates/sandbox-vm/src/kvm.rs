//! Whether KVM is of use: `/dev/kvm` may open, and every instruction of a guest still be emulated.
//!
//! A process of its own runs a loop of ten million turns in a tiny guest. Where the processor runs it, that takes
//! some milliseconds; where it is emulated, it does not end within the time allowed, and the process is killed.

use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

/// The argument that tells the node's binary to run the loop; see [`kvm_probe_main`].
pub const KVM_PROBE_ARGUMENT: &str = "__kvm-probe";

/// How long the loop may take, the start of its process included.
const ALLOWED: Duration = Duration::from_millis(500);

/// Runs the loop in a process of `program`; why KVM is of no use, if it is not.
pub async fn probe(program: &Path) -> Result<(), String> {
    if !Path::new("/dev/kvm").exists() {
        return Err("there is no `/dev/kvm`".to_owned());
    }
    let mut command = Command::new(program);
    command.arg(KVM_PROBE_ARGUMENT).stdin(Stdio::null()).kill_on_drop(true);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command
        .spawn()
        .map_err(|error| format!("cannot start the probe: {error}"))?;
    match timeout(ALLOWED, child.wait_with_output()).await {
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => Err(String::from_utf8_lossy(&output.stderr)
            .trim()
            .chars()
            .take(200)
            .collect()),
        Ok(Err(error)) => Err(format!("the probe is lost: {error}")),
        Err(_) => Err(format!(
            "a loop of ten million turns did not end within {ALLOWED:?}: it is emulated"
        )),
    }
}

/// The process of the loop.
pub fn kvm_probe_main() -> ExitCode {
    match turn() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "gives the guest its memory")]
fn turn() -> Result<(), String> {
    use kvm_bindings::kvm_userspace_memory_region;
    use kvm_ioctls::{Kvm, VcpuExit};

    const AT: u64 = 0x8000;
    /// mov ecx, 10000000; dec ecx; jnz -4; hlt (real mode, 32-bit operands)
    const CODE: [u8; 11] = [0x66, 0xb9, 0x80, 0x96, 0x98, 0x00, 0x66, 0x49, 0x75, 0xfc, 0xf4];

    let said = |what: &'static str| move |error: kvm_ioctls::Error| format!("KVM cannot {what}: {error}");
    let vm = Kvm::new()
        .and_then(|kvm| kvm.create_vm())
        .map_err(said("make a machine"))?;
    let mut memory = vec![0_u8; 2 * 0x10000];
    let aligned = memory.as_ptr().align_offset(0x1000);
    let start = aligned + usize::try_from(AT).expect("a small number");
    memory[start..start + CODE.len()].copy_from_slice(&CODE);
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: 0x10000,
        userspace_addr: memory[aligned..].as_mut_ptr() as u64,
    };
    // SAFETY: the region lies within `memory`, which outlives the machine and is not touched while it runs.
    unsafe { vm.set_user_memory_region(region) }.map_err(said("give memory"))?;
    let mut vcpu = vm.create_vcpu(0).map_err(said("make a processor"))?;
    let mut segments = vcpu.get_sregs().map_err(said("read registers"))?;
    (segments.cs.base, segments.cs.selector) = (0, 0);
    vcpu.set_sregs(&segments).map_err(said("set segments"))?;
    let mut registers = vcpu.get_regs().map_err(said("read registers"))?;
    (registers.rip, registers.rflags) = (AT, 2);
    vcpu.set_regs(&registers).map_err(said("set registers"))?;
    match vcpu.run() {
        Ok(VcpuExit::Hlt) => Ok(()),
        Ok(other) => Err(format!("the loop ended in {other:?}")),
        Err(error) => Err(format!("KVM cannot run: {error}")),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn turn() -> Result<(), String> {
    Err("virtual machines are made for x86_64 only".to_owned())
}
