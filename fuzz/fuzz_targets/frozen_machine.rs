//! Virtual machines as bytes: any signed bytes are read or refused, and nothing unsigned is read.
#![no_main]

use std::io;

use bowline_checkpoint::SigningKey;
use bowline_sandbox_vm::frozen::{Frozen, pack};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

/// Takes so much of a state, and no more.
struct Sink {
    left: usize,
    taken: u64,
}

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
        self.taken += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fuzz_target!(|data: &[u8]| {
    let key = SigningKey::new(&[7; 32]);
    let bare = Bytes::copy_from_slice(data);
    assert!(Frozen::open(&bare, &key).is_err(), "these bytes bear no signature");
    let mut signed = data.to_vec();
    signed.extend_from_slice(&key.sign(data));
    let Ok(frozen) = Frozen::open(&signed.into(), &key) else {
        return;
    };
    let mut sink = Sink {
        left: 4 << 20,
        taken: 0,
    };
    if frozen.unpack(&mut sink).is_ok() {
        assert_eq!(sink.taken, frozen.label.state_bytes);
    }
    let mut label = frozen.label.clone();
    let packed = pack(&b"state"[..], 5).expect("a short state is packed");
    label.state_bytes = packed.state_bytes();
    let again = Frozen::open(&packed.seal(&label, &key), &key).expect("what was sealed is read");
    assert_eq!(again.label, label, "a label survives its bytes");
});
