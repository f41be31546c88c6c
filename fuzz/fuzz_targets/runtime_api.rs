//! The Runtime API's requests, as a hostile guest would write them to its socket: whole, and a streamed
//! answer in parts. Both ways of reading it give the same bytes and the same error.
#![no_main]

use bowline_sandbox_linux::runtime_api::{Body, Parsed, Part, RequestReader, Route, Streamed, Taken, parse_request};
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = parse_request(bytes);
    let mut reader = RequestReader::default();
    let mut buffer = BytesMut::from(bytes);
    let Ok(Some(Taken::Stream(_))) = reader.take(&mut buffer, Streamed::InParts) else {
        return;
    };
    let mut streamed = Vec::new();
    let error = loop {
        match reader.take_part(&mut buffer) {
            Ok(Some(Part::Piece(piece))) => {
                assert!(!piece.is_empty(), "a piece without a byte");
                streamed.extend_from_slice(&piece);
            }
            Ok(Some(Part::End(error))) => break error,
            Ok(None) | Err(_) => return,
        }
    };
    let Ok(Parsed::Complete(request, taken)) = whole else {
        return;
    };
    assert_eq!(taken, bytes.len() - buffer.len(), "both took the same bytes");
    match (request.body, error) {
        (Body::Whole(body), None) => assert_eq!(body, streamed),
        (Body::Whole(payload), Some(error)) => {
            assert_eq!(payload, error.payload);
            assert!(matches!(request.head.route, Route::Error(_)), "a late error");
        }
        (Body::TooLarge(length), _) => assert_eq!(length, streamed.len() as u64),
    }
});
