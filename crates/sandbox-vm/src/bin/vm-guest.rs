//! A guest's first process as a program of its own, small enough for tests; the product starts itself instead.
//!
//! `vm-guest node IMAGE GOLDEN` is a small node with one machine: it says which process that is, and then waits
//! to be killed.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_foundation::units::Mebibytes;
use bowline_sandbox_vm::{
    GUEST_ARGUMENT, Golden, Host, Image, KVM_PROBE_ARGUMENT, Machine, Options, guest_main, kvm_probe_main,
};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [GUEST_ARGUMENT, ..] => guest_main(None),
        [KVM_PROBE_ARGUMENT] => kvm_probe_main(),
        ["node", image, golden] => {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime for a small node");
            let result = runtime.block_on(be_a_node([image, golden].map(Path::new)));
            eprintln!("{result:?}");
            ExitCode::FAILURE
        }
        _ => {
            eprintln!("error: this program is started by tests only");
            ExitCode::from(2)
        }
    }
}

async fn be_a_node([image, golden]: [&Path; 2]) -> Result<(), Box<dyn Error>> {
    let host = Host::find(Options {
        clock: Clock::system(),
        entropy: Entropy::system(),
        mark: format!("test-{}", std::process::id()),
        program: std::env::current_exe()?,
    });
    let machine = Machine::micro(Mebibytes(256));
    let golden = Golden::make(Arc::new(host.await?), Arc::new(Image::open(image)?), &machine, golden).await?;
    let vm = golden.start().await?;
    println!("{}", vm.pid());
    std::future::pending().await
}
