//! Requests whole, in pieces, too large and malformed.

use super::*;

fn parse(text: &str) -> Result<Parsed, Reject> {
    parse_request(text.as_bytes())
}

fn complete(text: &str) -> Request {
    match parse(text) {
        Ok(Parsed::Complete(request, bytes)) => {
            assert_eq!(bytes, text.len());
            *request
        }
        other => panic!("should be a whole request: {other:?}"),
    }
}

fn whole(body: &str) -> Body {
    Body::Whole(Bytes::copy_from_slice(body.as_bytes()))
}

#[test]
fn routes_are_told_apart() {
    let cases = [
        ("GET /2018-06-01/runtime/invocation/next", Route::Next),
        (
            "POST /2018-06-01/runtime/invocation/x-1/response",
            Route::Response("x-1".into()),
        ),
        (
            "POST /2018-06-01/runtime/invocation/x-1/error",
            Route::Error("x-1".into()),
        ),
        ("POST /2018-06-01/runtime/init/error", Route::InitError),
        ("POST /2018-06-01/runtime/invocation/next", Route::Unknown),
        ("GET /2018-06-01/runtime/init/error", Route::Unknown),
        ("POST /2018-06-01/runtime/invocation//response", Route::Unknown),
        ("POST /2018-06-01/runtime/invocation/a/b/response", Route::Unknown),
        ("GET /", Route::Unknown),
    ];
    for (line, route) in cases {
        let request = complete(&format!("{line} HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert_eq!(request.head.route, route, "{line}");
        assert_eq!(request.body, whole(""));
        assert!(request.head.keep_alive);
    }
}

#[test]
fn fields_that_matter_are_read() {
    let request = complete(
        "POST /2018-06-01/runtime/invocation/i/error HTTP/1.1\r\n\
         LAMBDA-Runtime-Function-Error-Type: Knot.Slipped\r\n\
         connection: Close\r\nContent-Length: 2\r\n\r\n{}",
    );
    assert_eq!(request.head.error_type.as_deref(), Some("Knot.Slipped"));
    assert!(!request.head.keep_alive);
    assert_eq!(request.body, whole("{}"));
    let mode = |value| {
        let field = format!("Lambda-Runtime-Function-Response-Mode: {value}");
        complete(&format!(
            "POST /2018-06-01/runtime/invocation/i/response HTTP/1.1\r\n{field}\r\n\r\n"
        ))
        .head
        .invalid_mode
    };
    assert!(!mode("streaming"));
    assert!(mode("dripping"));
}

#[test]
fn bodies_come_by_length_or_in_chunks() {
    let post = "POST /2018-06-01/runtime/invocation/i/response HTTP/1.1\r\n";
    let request = complete(&format!("{post}Content-Length: 5\r\n\r\nhello"));
    assert_eq!(request.body, whole("hello"));
    let chunks = "3\r\nhel\r\n2;name=value\r\nlo\r\n0\r\nIgnored: x\r\n\r\n";
    let chunked = format!("{post}Transfer-Encoding: chunked\r\n\r\n{chunks}");
    assert_eq!(complete(&chunked).body, whole("hello"));
    for end in 0..chunked.len() {
        assert_eq!(parse(&chunked[..end]), Ok(Parsed::Partial), "{end}");
    }
}

#[test]
fn a_stream_that_fails_at_its_end_is_an_error() {
    let request = complete(
        "POST /2018-06-01/runtime/invocation/i/response HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\nhal\r\n0\r\nLambda-Runtime-Function-Error-Type: Knot.Slipped\r\n\r\n",
    );
    assert_eq!(request.head.route, Route::Error("i".into()));
    assert_eq!(request.head.error_type.as_deref(), Some("Knot.Slipped"));
}

#[test]
fn requests_follow_one_another_however_they_are_cut() {
    let one = "POST /2018-06-01/runtime/invocation/i/response HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc";
    let two = "\r\nGET /2018-06-01/runtime/invocation/next HTTP/1.1\r\n\r\n";
    let bytes = format!("{one}{two}").into_bytes();
    for size in 1..bytes.len() {
        let mut reader = RequestReader::default();
        let mut buffer = BytesMut::new();
        let mut routes = Vec::new();
        for piece in bytes.chunks(size) {
            buffer.extend_from_slice(piece);
            let mut next = || reader.take(&mut buffer, Streamed::InParts).expect("both are valid");
            while let Some(Taken::Request(request)) = next() {
                routes.push(request.head.route);
            }
        }
        assert_eq!(routes, [Route::Response("i".into()), Route::Next], "pieces of {size}");
    }
}

#[test]
fn a_streamed_answer_comes_in_parts_however_it_is_cut() {
    let head = "POST /2018-06-01/runtime/invocation/i/response HTTP/1.1\r\nContent-Type: text/plain\r\n\
                Lambda-Runtime-Function-Response-Mode: Streaming\r\n";
    let chunks = "Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;name=value\r\nlo\r\n0\r\nIgnored: x\r\n\r\n";
    for body in [chunks, "Content-Length: 5\r\n\r\nhello"] {
        let bytes = format!("{head}{body}GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\n\r\n").into_bytes();
        for size in 1..bytes.len() {
            let mut reader = RequestReader::default();
            let mut buffer = BytesMut::new();
            let (mut text, mut heads) = (Vec::new(), Vec::new());
            for piece in bytes.chunks(size) {
                buffer.extend_from_slice(piece);
                loop {
                    if reader.is_in_stream() {
                        match reader.take_part(&mut buffer).expect("the stream is valid") {
                            Some(Part::Piece(piece)) => text.extend_from_slice(&piece),
                            Some(Part::End(error)) => assert_eq!(error, None),
                            None => break,
                        }
                        continue;
                    }
                    match reader.take(&mut buffer, Streamed::InParts).expect("both are valid") {
                        Some(Taken::Stream(head)) => heads.push(head),
                        Some(Taken::Request(request)) => heads.push(request.head),
                        None => break,
                    }
                }
            }
            assert_eq!(text, b"hello", "pieces of {size}");
            assert_eq!(heads[0].content_type.as_deref(), Some("text/plain"));
            assert_eq!(heads[1].route, Route::Next);
        }
    }
}

#[test]
fn a_body_over_the_limit_is_counted_and_forgotten() {
    let bytes = SYNC_PAYLOAD_BYTES_MAX + 1;
    let post = "POST /2018-06-01/runtime/invocation/i/response HTTP/1.1\r\n";
    let body = "x".repeat(bytes);
    let request = complete(&format!("{post}Content-Length: {bytes}\r\n\r\n{body}"));
    assert_eq!(request.body, Body::TooLarge(bytes as u64));
    let chunked = format!("{post}Transfer-Encoding: chunked\r\n\r\n{bytes:x}\r\n{body}\r\n0\r\n\r\n");
    assert_eq!(complete(&chunked).body, Body::TooLarge(bytes as u64));
    let inside = &body[1..];
    let request = complete(&format!("{post}Content-Length: {}\r\n\r\n{inside}", inside.len()));
    assert_eq!(request.body, whole(inside));
}

#[test]
fn what_is_no_request_is_rejected() {
    let post = "POST /2018-06-01/runtime/init/error HTTP/1.1\r\n";
    let cases = [
        ("\x01\x02\x03".to_owned(), Reject::Malformed),
        (format!("{post}X: {}", "y".repeat(HEAD_BYTES_MAX)), Reject::HeadTooLarge),
        (
            format!("{post}{}\r\n", "X: y\r\n".repeat(HEADERS_MAX + 1)),
            Reject::HeadTooLarge,
        ),
        (format!("{post}Content-Length: -1\r\n\r\n"), Reject::Framing),
        (
            format!("{post}Content-Length: 1\r\nContent-Length: 2\r\n\r\n"),
            Reject::Framing,
        ),
        (
            format!("{post}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"),
            Reject::Framing,
        ),
        (format!("{post}Transfer-Encoding: gzip\r\n\r\n"), Reject::Framing),
        (
            format!("{post}Transfer-Encoding: chunked\r\n\r\nxyz\r\n"),
            Reject::Framing,
        ),
        (
            format!("{post}Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n"),
            Reject::Framing,
        ),
        (
            format!("{post}Content-Length: 99999999999\r\n\r\n"),
            Reject::BodyTooLarge,
        ),
        (
            format!("{post}Transfer-Encoding: chunked\r\n\r\nfffffffff\r\n"),
            Reject::BodyTooLarge,
        ),
    ];
    for (text, reject) in cases {
        assert_eq!(parse(&text), Err(reject), "{}", &text[..text.len().min(120)]);
    }
}
