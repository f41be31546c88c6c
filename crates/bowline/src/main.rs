//! The `bowline` binary: a node, and the command line that speaks to one.

mod cli;
mod client;
mod command;
mod config;
mod credentials;
mod node;
mod output;
mod package;
mod progress;

use std::process::ExitCode;

use bowline_agent::{FOLDER_ARGUMENT, folder_main};
use bowline_sandbox_linux::cell::{SPAWNER_ARGUMENT, spawner_main};
use bowline_sandbox_vm::{GUEST_ARGUMENT, KVM_PROBE_ARGUMENT, guest_main, kvm_probe_main};
use bowline_sandbox_wasm::{COMPILER_ARGUMENT, compiler_main};
use clap::Parser;

/// Gives memory back to the system soon, and is fast with many small requests on several cores.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match std::env::args_os().nth(1) {
        Some(argument) if argument == SPAWNER_ARGUMENT => {
            // Functions decide for themselves.
            set_huge_pages(HugePages::AsAsked);
            spawner_main()
        }
        Some(argument) if argument == COMPILER_ARGUMENT => compiler_main(),
        Some(argument) if argument == FOLDER_ARGUMENT => return folder_main(),
        Some(argument) if argument == GUEST_ARGUMENT => return guest_main(Some(&command::agent::IN_GUEST)),
        Some(argument) if argument == KVM_PROBE_ARGUMENT => return kvm_probe_main(),
        _ => {}
    }
    set_huge_pages(HugePages::Never);
    cli::Cli::parse().run()
}

/// Whether the kernel may back this process with huge pages; its children inherit it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum HugePages {
    AsAsked,
    /// The allocator asks for them: an idle node then holds 18 MB of memory of which it uses a third.
    Never,
}

fn set_huge_pages(huge: HugePages) {
    // A kernel without them needs no telling.
    let _ = rustix::thread::disable_transparent_huge_pages(huge == HugePages::Never);
}
