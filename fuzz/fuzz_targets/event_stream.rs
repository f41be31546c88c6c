//! Messages of event streams: what is read and written again is the same, and what is written can be read.
#![no_main]

use bowline_api::event_stream::{Decoder, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut decoder = Decoder::default();
    decoder.push(bytes);
    while let Ok(Some(message)) = decoder.next_message() {
        let headers: Vec<(&str, &str)> = message
            .headers
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        let again = encode(&headers, &message.payload);
        let mut check = Decoder::default();
        check.push(&again);
        assert_eq!(check.next_message(), Ok(Some(message)));
        assert!(!check.is_within_message(), "bytes were left over");
    }
    // Any bytes are a payload, and come back however they are cut.
    let message = encode(&[("name", "value")], bytes);
    let mut cut = Decoder::default();
    let at = bytes.first().map_or(0, |byte| usize::from(*byte)).min(message.len());
    cut.push(&message[..at]);
    assert!(
        at == message.len() || cut.next_message() == Ok(None),
        "a part is no message"
    );
    cut.push(&message[at..]);
    match cut.next_message() {
        Ok(Some(read)) => assert_eq!(read.payload, bytes),
        other => panic!("what was written should be read: {other:?}"),
    }
});
