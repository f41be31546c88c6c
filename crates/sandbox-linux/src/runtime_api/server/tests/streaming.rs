//! Streamed answers over real sockets.

use bowline_sandbox::answer::{self, AnswerStream, HTTP_CONTENT_TYPE, STREAM_BUFFER_BYTES, STREAM_CONTENT_TYPE};

use super::*;

const STREAMING: &str = "Lambda-Runtime-Function-Response-Mode: streaming\r\n";

/// The head of a streamed answer, with these further fields.
fn head(id: RequestId, fields: &str) -> String {
    format!(
        "POST /2018-06-01/runtime/invocation/{id}/response HTTP/1.1\r\n{STREAMING}\
         Transfer-Encoding: chunked\r\n{fields}\r\n"
    )
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// A server whose guest has an event whose answer may be streamed.
async fn begun(bytes_max: u64) -> (Server, Guest, RequestId, AnswerStream) {
    let (mut server, mut guest, _) = pair().await;
    guest.send(NEXT).await;
    ready(&mut server).await;
    let mut event = event(1, "event");
    let (sink, stream) = answer::channel(bytes_max);
    event.sink = Some(sink);
    let id = event.request_id;
    assert!(server.start(event));
    beside(&mut server, guest.receive()).await;
    (server, guest, id, stream)
}

async fn text(stream: &mut AnswerStream) -> String {
    let piece = stream.next().await.expect("a piece comes");
    String::from_utf8(piece.to_vec()).expect("pieces are text")
}

#[tokio::test]
async fn pieces_are_passed_on_while_the_answer_goes_on() {
    let (mut server, mut guest, id, mut stream) = begun(100).await;
    let content_type = format!("Content-Type: {HTTP_CONTENT_TYPE}\r\n");
    let play = async {
        guest.send(&(head(id, &content_type) + &chunk("first"))).await;
        assert_eq!(text(&mut stream).await, "first");
        guest.send(&chunk("second")).await;
        assert_eq!(text(&mut stream).await, "second");
        // The end and the next question in one breath.
        guest.send(&format!("0\r\n\r\n{NEXT}")).await;
    };
    beside(&mut server, play).await;
    assert_eq!(stream.content_type().as_deref(), Some(HTTP_CONTENT_TYPE));
    assert!(matches!(answer(&mut server).await, Answer::Streamed));
    assert_eq!(stream.next().await, None);
    assert!(server.is_idle());
    assert!(server.start(event(2, "another")));
    assert_eq!(beside(&mut server, guest.status()).await, 202);
    assert_eq!(beside(&mut server, guest.receive()).await.1, b"another");
}

#[tokio::test]
async fn a_streamed_answer_that_is_wanted_whole_comes_whole() {
    let (mut server, mut guest, _) = pair().await;
    guest.send(NEXT).await;
    ready(&mut server).await;
    let event = event(1, "event");
    let id = event.request_id;
    assert!(server.start(event));
    let play = async {
        guest.receive().await;
        guest
            .send(&(head(id, "") + &chunk("first") + &chunk("second") + "0\r\n\r\n"))
            .await;
    };
    let (answer, ()) = tokio::join!(answer(&mut server), play);
    assert_eq!(body_of(answer), "firstsecond");
}

#[tokio::test]
async fn an_answer_with_a_length_can_be_streamed_too() {
    let (mut server, mut guest, id, mut stream) = begun(100).await;
    let play = async {
        let head = head(id, "").replace("Transfer-Encoding: chunked", "Content-Length: 11");
        guest.send(&(head + "first")).await;
        assert_eq!(text(&mut stream).await, "first");
        guest.send("second").await;
        assert_eq!(text(&mut stream).await, "second");
        assert_eq!(guest.status().await, 202);
    };
    beside(&mut server, play).await;
    assert_eq!(stream.content_type().as_deref(), Some(STREAM_CONTENT_TYPE));
    assert!(matches!(answer(&mut server).await, Answer::Streamed));
}

#[tokio::test]
async fn trailers_tell_of_late_errors() {
    let payload = r#"{"errorType":"Knot","errorMessage":"slipped","stackTrace":[]}"#;
    let encode = |text: &str| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
    let typed = "Lambda-Runtime-Function-Error-Type: Knot\r\n";
    let body = |text| format!("Lambda-Runtime-Function-Error-Body: {}\r\n", encode(text));
    let cases = [
        (format!("{typed}{}", body(payload)), "Knot", payload.to_owned()),
        (
            format!("{typed}{}", body("slipped")),
            "Knot",
            r#"{"errorType":"Knot","errorMessage":"slipped"}"#.to_owned(),
        ),
        (
            typed.to_owned(),
            "Knot",
            r#"{"errorType":"Knot","errorMessage":"the function failed while it streamed its answer"}"#.to_owned(),
        ),
        (body(payload), "Runtime.Unknown", payload.to_owned()),
    ];
    for (trailers, error_type, expected) in cases {
        let (mut server, mut guest, id, mut stream) = begun(100).await;
        let play = async {
            guest
                .send(&(head(id, "") + &chunk("half") + "0\r\n" + &trailers + "\r\n"))
                .await;
            assert_eq!(guest.status().await, 202);
        };
        beside(&mut server, play).await;
        assert_eq!(text(&mut stream).await, "half");
        match answer(&mut server).await {
            Answer::Error(error) => {
                assert_eq!(error.error_type, error_type);
                assert_eq!(error.payload, expected);
            }
            other => panic!("should be an error: {other:?}"),
        }
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_error() {
    let (mut server, mut guest, id, mut stream) = begun(100).await;
    let play = async {
        guest.send(&(head(id, "") + &chunk("half"))).await;
        assert_eq!(text(&mut stream).await, "half");
    };
    beside(&mut server, play).await;
    drop(guest);
    assert!(matches!(answer(&mut server).await, Answer::Truncated));

    let (mut server, mut guest, id, _stream) = begun(100).await;
    let play = async {
        guest.send(&(head(id, "") + "no number\r\n")).await;
        assert_eq!(guest.status().await, 400);
    };
    beside(&mut server, play).await;
    assert!(matches!(answer(&mut server).await, Answer::Truncated));
}

#[tokio::test]
async fn an_answer_ends_at_the_limit_of_its_sink() {
    for (limit, inside) in [(10, true), (9, false)] {
        let (mut server, mut guest, id, _stream) = begun(limit).await;
        let text = head(id, "") + &chunk("01234") + &chunk("56789") + "0\r\n\r\n";
        beside(&mut server, guest.send(&text)).await;
        match answer(&mut server).await {
            Answer::Streamed => assert!(inside),
            Answer::BrokeOff(error) => {
                assert!(!inside);
                assert_eq!(error.error_type, "Function.ResponseSizeTooLarge");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_guest_is_held_back_by_a_slow_reader() {
    let (mut server, mut guest, id, mut stream) = begun(u64::MAX).await;
    let piece = "x".repeat(64 * 1024);
    let total = 40 * 1024 * 1024;
    let write = async move {
        guest.send(&head(id, "")).await;
        for _ in 0..total / piece.len() {
            guest.send(&chunk(&piece)).await;
        }
        guest.send("0\r\n\r\n").await;
        guest.status().await
    };
    let written = tokio::spawn(write);
    // Nobody reads: as far as the server takes it, until nothing moves any more.
    let mut rounds = 0;
    let idle = poll_fn(|cx| {
        server.drive(cx).expect("the server serves");
        rounds += 1;
        if rounds < 2000 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    });
    idle.await;
    assert!(!written.is_finished(), "forty megabytes went nowhere");
    let unread = server.connections.iter().map(Connection::unread_bytes).sum::<usize>();
    assert!(unread <= 2 * STREAM_BUFFER_BYTES, "{unread} bytes wait in the server");
    let read = async {
        let mut bytes = 0;
        while let Some(piece) = stream.next().await {
            bytes += piece.len();
        }
        bytes
    };
    let (answer, bytes) = tokio::join!(answer(&mut server), read);
    assert!(matches!(answer, Answer::Streamed));
    assert_eq!(bytes, total);
    assert_eq!(beside(&mut server, written).await.expect("the guest is done"), 202);
}

#[tokio::test]
async fn a_streamed_answer_to_another_invocation_is_refused_and_read_to_its_end() {
    let (mut server, mut guest, id, mut stream) = begun(100).await;
    let other = RequestId::random(&Entropy::seeded(9));
    let play = async {
        guest.send(&(head(other, "") + &chunk("lost") + "0\r\n\r\n")).await;
        assert_eq!(guest.status().await, 400);
        guest.send(&head(id, "")).await;
        guest.send(&(chunk("kept") + "0\r\n\r\n")).await;
        assert_eq!(guest.status().await, 202);
    };
    beside(&mut server, play).await;
    assert!(matches!(answer(&mut server).await, Answer::Streamed));
    assert_eq!(text(&mut stream).await, "kept");
    assert_eq!(stream.next().await, None);
}

#[tokio::test]
async fn another_mode_is_refused() {
    let (mut server, mut guest, id, _stream) = begun(100).await;
    let play = async {
        let dripping = head(id, "").replace("streaming", "dripping");
        guest.send(&(dripping + &chunk("x") + "0\r\n\r\n")).await;
        let (head, body) = guest.receive().await;
        assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
        let body = String::from_utf8(body).expect("errors are text");
        assert!(body.contains("InvalidFunctionResponseMode"), "{body}");
        // The control: in a mode that exists the same answer passes.
        guest.send(&(head_of_control(id) + &chunk("x") + "0\r\n\r\n")).await;
        assert_eq!(guest.status().await, 202);
    };
    beside(&mut server, play).await;
}

fn head_of_control(id: RequestId) -> String {
    head(id, "")
}
