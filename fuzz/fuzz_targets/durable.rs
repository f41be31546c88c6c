//! What a durable function sends: the first line is its answer, the second a checkpoint's body.
#![no_main]

use bowline_functions::durable::envelope::{Answer, read_answer};
use bowline_functions::durable::{CallbackId, CheckpointBody, CheckpointRequest, CheckpointToken, ExecutionArn};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let (Some(answer), Some(body)) = (parts.next(), parts.next()) else {
        return;
    };
    if let Ok(Answer::Failed(error)) = read_answer(answer) {
        let text = serde_json::to_string(&error).expect("texts serialise");
        assert_eq!(serde_json::from_str(&text).ok(), Some(error));
    }
    if let Ok(text) = std::str::from_utf8(answer) {
        if let Ok(arn) = text.parse::<ExecutionArn>() {
            assert_eq!(arn.to_string().parse(), Ok(arn));
        }
        if let Ok(token) = text.parse::<CheckpointToken>() {
            assert_eq!(token.to_string(), text);
        }
        if let Ok(id) = text.parse::<CallbackId>() {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
    }
    let Ok(body) = serde_json::from_slice::<CheckpointBody>(body) else {
        return;
    };
    if let Ok(request) = CheckpointRequest::read(body) {
        // What was accepted weighs no more than what was sent, and is within the limits of its members.
        let bytes: usize = request.updates.iter().map(|update| update.id.len()).sum();
        assert!(bytes <= data.len());
        assert!(request.updates.iter().all(|update| (1..=64).contains(&update.id.len())));
    }
});
