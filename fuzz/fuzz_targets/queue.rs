//! What services beside the node answer: any bytes are read or refused.
#![no_main]

use bowline_aws::{s3, sqs};
use http::StatusCode;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(messages) = sqs::read_messages(data) {
        assert!(messages.iter().all(|message| message.body.len() <= data.len()));
    }
    for refusal in [
        s3::refusal(StatusCode::BAD_REQUEST, data),
        sqs::refusal(StatusCode::BAD_REQUEST, data),
    ] {
        assert_eq!(refusal.status, StatusCode::BAD_REQUEST);
    }
});
