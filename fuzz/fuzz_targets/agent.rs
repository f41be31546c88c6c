//! What a node and an agent say to each other: any bytes are frames or refused, whole or cut anywhere, and the bodies of
//! those that happen for each invocation are read or refused.
#![no_main]

use bowline_agent::message::{self, invoke, report};
use bowline_agent::{mux, wire};
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    frames(data);
    pieces(data);
});

fn frames(data: &[u8]) {
    let mut read = BytesMut::from(data);
    while let Ok(Some(frame)) = wire::take(&mut read) {
        let mut out = BytesMut::new();
        wire::put(&mut out, frame.kind, |out| out.extend_from_slice(&frame.body));
        assert_eq!(wire::take(&mut out), Ok(Some(frame.clone())));
        let _ = invoke::take(frame.body.clone());
        let _ = message::take_ask(frame.body.clone());
        if let Ok(read) = report::take(frame.body.clone()) {
            let mut body = BytesMut::new();
            report::put(&mut body, &read);
            let again = report::take(body.freeze()).expect("what was written can be read");
            assert_eq!(again.report.outcome, read.report.outcome);
            assert_eq!(again.resident_bytes, read.resident_bytes);
        }
    }
}

fn pieces(data: &[u8]) {
    let mut read = BytesMut::from(data);
    while let Ok(Some((channel, piece))) = mux::take(&mut read) {
        let mut out = BytesMut::new();
        mux::put(&mut out, channel, &piece);
        assert_eq!(mux::take(&mut out), Ok(Some((channel, piece))));
    }
}
