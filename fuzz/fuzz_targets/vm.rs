//! What a virtual machine, its QEMU and a kernel's package say: any bytes are read or refused.
#![no_main]

use bowline_sandbox_vm::image::kernel;
use bowline_sandbox_vm::protocol::{Answer, Ask, line};
use bowline_sandbox_vm::qmp::Message;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = Message::parse(data);
    if let Ok(answer) = Answer::parse(data) {
        assert_eq!(
            Answer::parse(&line(&answer)).ok(),
            Some(answer),
            "an answer survives its line"
        );
    }
    if let Ok(ask) = serde_json::from_slice::<Ask>(data) {
        let again = serde_json::from_slice::<Ask>(&line(&ask));
        assert_eq!(again.ok(), Some(ask), "an order survives its line");
    }
    if let Ok(elf) = kernel::unpack(data) {
        assert!(elf.starts_with(b"\x7fELF") && elf.len() <= kernel::UNPACKED_BYTES_MAX);
    }
});
