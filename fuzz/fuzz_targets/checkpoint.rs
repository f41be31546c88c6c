//! Checkpoints: any signed bytes are read or refused, what was read is written alike, and nothing unsigned is
//! read. The host's part is read by itself besides: what is in it comes from whoever signed.
#![no_main]

use bowline_checkpoint::wasi::HostState;
use bowline_checkpoint::{Checkpoint, ReadLimits, SigningKey};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

const LIMITS: ReadLimits = ReadLimits {
    body_bytes_max: 4 << 20,
};

fuzz_target!(|data: &[u8]| {
    let key = SigningKey::new(&[7; 32]);
    assert!(
        Checkpoint::read(&Bytes::copy_from_slice(data), &key, LIMITS).is_err(),
        "these bytes bear no signature"
    );
    let signed = Bytes::from([data, &key.seal(data)].concat());
    if let Ok(checkpoint) = Checkpoint::read(&signed, &key, LIMITS) {
        let written = checkpoint.write(&key);
        assert_eq!(Checkpoint::read(&written, &key, LIMITS), Ok(checkpoint));
    }
    if let Ok(state) = HostState::decode(data) {
        assert_eq!(state.encode(), data, "no two texts for one state");
    }
});
