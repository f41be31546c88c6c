//! What hosts say to each other: any bytes are read or refused, and what was read is written alike.
#![no_main]

use bowline_stream::peers::wire::{Answer, Question};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let data = Bytes::copy_from_slice(data);
    if let Ok(question) = Question::decode(&data) {
        assert_eq!(Question::decode(&question.encode()), Ok(question));
    }
    if let Ok(answer) = Answer::decode(&data) {
        assert_eq!(Answer::decode(&answer.encode()), Ok(answer));
    }
});
