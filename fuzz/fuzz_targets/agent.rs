//! What a node and an agent say to each other: any bytes are frames or refused, whole or cut anywhere, and the bodies of
//! those that happen for each invocation are read or refused.
#![no_main]

use bowline_agent::message::{self, invoke, report};
use bowline_agent::{carry, mux, wire};
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    frames(data);
    pieces(data);
    carried(data);
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

/// What a connection carries is all of its pieces, and whole if the last one came.
fn carried(data: &[u8]) {
    let (mut rest, mut expected, mut is_whole) = (data, Vec::new(), false);
    while let Some((head, more)) = rest.split_first_chunk() {
        let length = u32::from_le_bytes(*head) as usize;
        is_whole = length == 0;
        let (piece, after) = more.split_at(length.min(more.len()));
        expected.extend_from_slice(piece);
        rest = after;
        if is_whole {
            break;
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let mut unpacked = Vec::new();
    let ended = runtime.block_on(carry::unpack(data, &mut unpacked));
    assert_eq!(unpacked, expected);
    assert_eq!(ended.is_ok(), is_whole);
    let mut packed = Vec::new();
    runtime
        .block_on(carry::pack(data, &mut packed))
        .expect("it is all in memory");
    unpacked.clear();
    runtime
        .block_on(carry::unpack(&packed[..], &mut unpacked))
        .expect("it has its last piece");
    assert_eq!(unpacked, data);
}
