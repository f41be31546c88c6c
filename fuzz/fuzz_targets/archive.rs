//! Archives: no bytes upset the reader, and what it takes is whole: neither shorter nor longer bytes pass.
#![no_main]

use bowline_store::archive::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(summary) = parse(bytes) else { return };
    let size = u64::try_from(bytes.len()).expect("a length has at most 64 bits");
    assert!(summary.bytes < size, "the content is part of the file");
    parse(&bytes[..bytes.len() - 1]).expect_err("its last byte is missing");
    parse(&[bytes, b"x"].concat()).expect_err("it has one byte too many");
});
