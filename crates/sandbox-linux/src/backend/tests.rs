//! What is refused before anything runs.

use bowline_foundation::units::Mebibytes;

use super::*;
use crate::linux_sandbox::cpu_millis;

fn refusal(result: Result<(), PrepareError>) -> String {
    match result {
        Err(PrepareError::InvalidCode(text)) => text,
        other => panic!("should be refused, but: {other:?}"),
    }
}

fn bootstrap(content: &[u8], mode: u32) -> (tempfile::TempDir, Result<(), PrepareError>) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().join("bootstrap");
    fs::write(&path, content).expect("a file can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode can be set");
    let result = check_bootstrap(folder.path());
    (folder, result)
}

fn elf_of(machine: u16) -> Vec<u8> {
    let mut head = vec![0u8; 64];
    head[..4].copy_from_slice(elf::MAGIC);
    head[elf::CLASS] = elf::CLASS_64;
    head[elf::MACHINE..elf::MACHINE + 2].copy_from_slice(&machine.to_le_bytes());
    head
}

#[test]
fn a_bootstrap_must_be_there_and_run_here() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    assert!(refusal(check_bootstrap(folder.path())).contains("no file `bootstrap`"));
    assert!(refusal(bootstrap(b"#!/bin/sh\n", 0o644).1).contains("not executable"));
    assert!(refusal(bootstrap(b"MZ", 0o755).1).contains("neither an ELF"));
    assert!(refusal(bootstrap(&elf_of(243), 0o755).1).contains("built for riscv64"));
    assert!(bootstrap(b"#!/bin/sh\n", 0o755).1.is_ok());
    let here = elf::MACHINES.iter().find(|(_, name)| *name == std::env::consts::ARCH);
    assert!(
        bootstrap(&elf_of(here.expect("tests run on a known machine").0), 0o755)
            .1
            .is_ok()
    );
}

#[test]
fn processor_time_grows_with_memory() {
    assert_eq!(cpu_millis(Mebibytes(128)), 1000);
    assert_eq!(cpu_millis(Mebibytes(1769)), 1000);
    assert_eq!(cpu_millis(Mebibytes(3538)), 2000);
}
