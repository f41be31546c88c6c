//! Measures how soon virtual machines answer, booted and begun from a golden snapshot in turns; prints one JSON object.
//!
//! `vm_bench FOLDER ROUNDS`, where `FOLDER` holds an image that `bowline vm image build` made.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_foundation::units::Mebibytes;
use bowline_sandbox_vm::{Golden, Host, Image, KVM_PROBE_ARGUMENT, Machine, Options, Vm, kvm_probe_main};
use serde_json::json;

/// Machines that begin from the snapshot, for each that boots.
const CLONES: u32 = 5;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [KVM_PROBE_ARGUMENT] => Ok(kvm_probe_main()),
        [folder, rounds] => {
            let runtime = tokio::runtime::Runtime::new()?;
            runtime.block_on(measure(Path::new(folder), rounds.parse()?))?;
            Ok(ExitCode::SUCCESS)
        }
        _ => Err("expected `vm_bench FOLDER ROUNDS`".into()),
    }
}

async fn measure(folder: &Path, rounds: u32) -> Result<(), Box<dyn Error>> {
    let host = Host::find(Options {
        clock: Clock::system(),
        entropy: Entropy::system(),
        mark: format!("bench-{}", std::process::id()),
        program: std::env::current_exe()?,
    });
    let host = Arc::new(host.await?);
    let image = Arc::new(Image::current(folder)?);
    let machine = Machine::micro(Mebibytes(256));
    let golden = Golden::make(Arc::clone(&host), Arc::clone(&image), &machine, &folder.join("golden")).await?;
    let (mut boots, mut clones, mut resident) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let vm = Vm::boot(Arc::clone(&host), Arc::clone(&image), machine.clone()).await?;
        boots.push(vm.ready_after().as_secs_f64() * 1e3);
        vm.kill().await;
        for _ in 0..CLONES {
            let vm = golden.start().await?;
            clones.push(vm.ready_after().as_secs_f64() * 1e3);
            #[allow(clippy::cast_precision_loss, reason = "a figure to look at")]
            resident.push(vm.resident_bytes() as f64 / 1e6);
            vm.kill().await;
        }
    }
    let report = json!({
        "accelerator": host.accelerator(),
        "boot_ms": boots,
        "clone_ms": clones,
        "clone_resident_mb": resident,
    });
    println!("{report}");
    Ok(())
}
