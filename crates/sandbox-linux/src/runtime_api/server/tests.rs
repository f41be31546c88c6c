//! The server against clients on real sockets.

use std::future::poll_fn;
use std::time::Duration;

use bowline_foundation::clock::{Clock, Timestamp};
use bowline_foundation::entropy::Entropy;
use bowline_foundation::id::RequestId;
use bowline_foundation::limits::SYNC_PAYLOAD_BYTES_MAX;
use bowline_sandbox::Deadline;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

mod streaming;

const NEXT: &str = "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n";

struct Guest(TcpStream);

impl Guest {
    async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.expect("the server reads");
    }

    /// One response: its head and its body.
    async fn receive(&mut self) -> (String, Vec<u8>) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.expect("the server answers"));
        }
        let head = String::from_utf8(head).expect("heads are text");
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("Content-Length: "))
            .expect("every response has a length");
        let mut body = vec![0; length.parse().expect("the length is a number")];
        self.0.read_exact(&mut body).await.expect("the body follows");
        (head, body)
    }

    async fn status(&mut self) -> u16 {
        let (head, _) = self.receive().await;
        head[9..12].parse().expect("the status is a number")
    }
}

async fn pair() -> (Server, Guest, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback is there");
    let address = listener.local_addr().expect("it is bound");
    let guest = Guest(TcpStream::connect(address).await.expect("the listener listens"));
    (Server::new(listener), guest, address)
}

fn event(seed: u64, payload: &str) -> Event {
    let clock = Clock::fake(Timestamp::from_micros(1_700_000_000_123_000));
    let budget = Duration::from_secs(3);
    Event {
        request_id: RequestId::random(&Entropy::seeded(seed)),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        deadline: Deadline {
            wall: clock.now().after(budget),
            monotonic: clock.monotonic().after(budget),
            budget,
        },
        invoked_arn: "arn:aws:lambda:eu-central-1:000000000000:function:f".to_owned(),
        client_context: Some("{\"custom\":\n\"\u{e9}\u{1f980}\"}".to_owned()),
        trace_id: Some("Root=1\r\nX-Forged: yes".to_owned()),
        sink: None,
        platform: None,
        suspension: None,
    }
}

fn post(id: RequestId, kind: &str, body: &str) -> String {
    let length = body.len();
    format!("POST /2018-06-01/runtime/invocation/{id}/{kind} HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{body}")
}

async fn ready(server: &mut Server) {
    let ready = poll_fn(|cx| server.poll_ready(cx)).await.expect("the server serves");
    assert!(matches!(ready, Ready::Idle), "{ready:?}");
}

async fn answer(server: &mut Server) -> Answer {
    poll_fn(|cx| server.poll_answer(cx)).await.expect("the server serves")
}

fn body_of(answer: Answer) -> Bytes {
    match answer {
        Answer::Response(body) => body,
        other => panic!("should be an answer: {other:?}"),
    }
}

/// Lets the server run beside a guest until the guest is done.
async fn beside<T>(server: &mut Server, guest: impl Future<Output = T>) -> T {
    let serve = poll_fn(|cx| server.drive(cx).map_or_else(Poll::Ready, |()| Poll::Pending));
    tokio::select! {
        error = serve => panic!("the server failed: {error}"),
        done = guest => done,
    }
}

#[tokio::test]
async fn an_event_goes_out_and_its_answer_comes_back() {
    let (mut server, mut guest, _) = pair().await;
    guest.send(NEXT).await;
    ready(&mut server).await;
    let event = event(1, "{\"knot\":1}");
    let id = event.request_id;
    assert!(server.start(event));
    let play = async {
        let (head, body) = guest.receive().await;
        guest.send(&post(id, "response", "42")).await;
        (head, body)
    };
    let (answer, (head, body)) = tokio::join!(answer(&mut server), play);
    assert_eq!(body_of(answer), "42");
    assert_eq!(body, b"{\"knot\":1}");
    for line in [
        &format!("Lambda-Runtime-Aws-Request-Id: {id}"),
        "Lambda-Runtime-Deadline-Ms: 1700000003123",
        "Lambda-Runtime-Invoked-Function-Arn: arn:aws:lambda:eu-central-1:000000000000:function:f",
        "Lambda-Runtime-Trace-Id: Root=1  X-Forged: yes",
        r#"Lambda-Runtime-Client-Context: {"custom": "\u00e9\ud83e\udd80"}"#,
    ] {
        assert!(head.lines().any(|found| found == line), "`{line}` is not in {head}");
    }
    assert!(server.is_idle());
    let (head, body) = guest.receive().await;
    assert!(head.starts_with("HTTP/1.1 202 "), "{head}");
    assert_eq!(body, b"{\"status\":\"OK\"}\n");
}

#[tokio::test]
async fn refusals_have_their_status() {
    let (mut server, mut guest, _) = pair().await;
    guest.send(NEXT).await;
    ready(&mut server).await;
    let second = || event(2, "2");
    let first = event(1, "1");
    let (first_id, second_id) = (first.request_id, second().request_id);
    assert!(server.start(first));
    assert!(!server.start(second()), "one at a time");
    let play = async {
        guest.receive().await;
        guest.send(&post(second_id, "response", "early")).await;
        assert_eq!(guest.status().await, 400);
        guest.send("GET /elsewhere HTTP/1.1\r\n\r\n").await;
        assert_eq!(guest.status().await, 404);
        guest.send(&post(first_id, "response", "one")).await;
        assert_eq!(guest.status().await, 202);
        guest.send(&post(first_id, "response", "again")).await;
        assert_eq!(guest.status().await, 403);
        guest.send("POST /2018-06-01/runtime/init/error HTTP/1.1\r\n\r\n").await;
        assert_eq!(guest.status().await, 403);
        guest.send("NOT HTTP\r\n\r\n").await;
        assert_eq!(guest.status().await, 400);
        assert_eq!(guest.0.read(&mut [0]).await.expect("it closes in order"), 0);
    };
    beside(&mut server, play).await;
    assert_eq!(body_of(answer(&mut server).await), "one");
    assert!(server.start(second()));
}

#[tokio::test]
async fn a_second_connection_may_answer() {
    let (mut server, mut guest, address) = pair().await;
    guest.send(NEXT).await;
    ready(&mut server).await;
    let event = event(1, "1");
    let id = event.request_id;
    assert!(server.start(event));
    let play = async {
        guest.receive().await;
        let mut other = Guest(TcpStream::connect(address).await.expect("the listener listens"));
        other
            .send(&post(id, "error", r#"{"errorType":"Knot","errorMessage":"slipped"}"#))
            .await;
        other.status().await
    };
    assert_eq!(beside(&mut server, play).await, 202);
    match answer(&mut server).await {
        Answer::Error(error) => assert_eq!(error.error_type, "Knot"),
        other => panic!("should be an error: {other:?}"),
    }
}

#[tokio::test]
async fn an_event_outlives_the_connection_that_asked_for_it() {
    let (mut server, mut guest, address) = pair().await;
    guest.send(NEXT).await;
    ready(&mut server).await;
    drop(guest);
    let event = event(1, "1");
    let id = event.request_id;
    assert!(server.start(event));
    let mut guest = Guest(TcpStream::connect(address).await.expect("the listener listens"));
    let play = async {
        guest.send(NEXT).await;
        guest.receive().await;
        guest.send(&post(id, "response", "still here")).await;
    };
    let (answer, ()) = tokio::join!(answer(&mut server), play);
    assert_eq!(body_of(answer), "still here");
}

#[tokio::test]
async fn a_connection_that_is_to_close_stays_open_for_its_event() {
    let (mut server, mut guest, address) = pair().await;
    let closing = "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    guest.send(closing).await;
    ready(&mut server).await;
    let event = event(1, "\"first\"");
    let id = event.request_id;
    assert!(server.start(event));
    let play = async {
        let (_, body) = guest.receive().await;
        assert_eq!(body, b"\"first\"");
        // Only then it is closed, and the answer comes on another one.
        assert_eq!(guest.0.read(&mut [0]).await.expect("an orderly end"), 0);
        let mut other = Guest(TcpStream::connect(address).await.expect("the listener listens"));
        other.send(&post(id, "response", "1")).await;
        other
    };
    let (answer, _other) = tokio::join!(answer(&mut server), play);
    assert_eq!(body_of(answer), "1");
}

#[tokio::test]
async fn an_answer_and_the_next_question_may_come_in_one_breath() {
    let (mut server, mut guest, _) = pair().await;
    guest.send(NEXT).await;
    ready(&mut server).await;
    for seed in 1..5 {
        let event = event(seed, "event");
        let id = event.request_id;
        assert!(server.start(event));
        let play = async {
            if seed > 1 {
                assert_eq!(guest.status().await, 202);
            }
            assert_eq!(guest.receive().await.1, b"event");
            guest.send(&(post(id, "response", "answer") + NEXT)).await;
        };
        let (answer, ()) = tokio::join!(answer(&mut server), play);
        assert_eq!(body_of(answer), "answer");
    }
}

#[tokio::test]
async fn large_events_and_answers_pass_and_larger_ones_do_not() {
    let (mut server, mut guest, _) = pair().await;
    guest.send(NEXT).await;
    ready(&mut server).await;
    for (seed, bytes) in [(1, SYNC_PAYLOAD_BYTES_MAX), (2, SYNC_PAYLOAD_BYTES_MAX + 1)] {
        let event = event(seed, &"e".repeat(SYNC_PAYLOAD_BYTES_MAX));
        let id = event.request_id;
        assert!(server.start(event));
        let play = async {
            let (_, body) = guest.receive().await;
            guest.send(&post(id, "response", &"a".repeat(bytes))).await;
            body.len()
        };
        let (answer, length) = tokio::join!(answer(&mut server), play);
        assert_eq!(length, SYNC_PAYLOAD_BYTES_MAX);
        match answer {
            Answer::Response(body) => assert_eq!((seed, body.len()), (1, bytes)),
            Answer::TooLarge(length) => assert_eq!((seed, length), (2, bytes as u64)),
            other => panic!("{other:?}"),
        }
        let expected = if seed == 1 { 202 } else { 413 };
        assert_eq!(beside(&mut server, guest.status()).await, expected);
        guest.send(NEXT).await;
    }
}

#[tokio::test]
async fn a_failed_initialisation_is_reported() {
    let (mut server, mut guest, _) = pair().await;
    let body = r#"{"errorMessage":"no module"}"#;
    let length = body.len();
    let field = "Lambda-Runtime-Function-Error-Type: Runtime.ImportModuleError";
    guest
        .send(&format!(
            "POST /2018-06-01/runtime/init/error HTTP/1.1\r\n{field}\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
        .await;
    let ready = poll_fn(|cx| server.poll_ready(cx)).await.expect("the server serves");
    match ready {
        Ready::Failed(error) => {
            assert_eq!(error.error_type, "Runtime.ImportModuleError");
            assert_eq!(error.payload, body);
        }
        Ready::Idle => panic!("it said that it failed"),
    }
    assert_eq!(guest.status().await, 202);
    assert!(!server.is_idle());
}

#[tokio::test]
async fn a_client_may_wait_for_leave_to_send() {
    let (mut server, mut guest, _) = pair().await;
    guest.send(NEXT).await;
    ready(&mut server).await;
    let event = event(1, "1");
    let id = event.request_id;
    assert!(server.start(event));
    let play = async {
        guest.receive().await;
        let head = post(id, "response", "four");
        let head = head.replace("\r\n\r\nfour", "\r\nExpect: 100-continue\r\n\r\n");
        guest.send(&head).await;
        let mut leave = [0; 25];
        guest.0.read_exact(&mut leave).await.expect("leave is given");
        assert_eq!(&leave, b"HTTP/1.1 100 Continue\r\n\r\n");
        guest.send("four").await;
        guest.status().await
    };
    assert_eq!(beside(&mut server, play).await, 202);
    assert_eq!(body_of(answer(&mut server).await), "four");
}

/// Answers with what it was asked.
struct Echo;

#[async_trait::async_trait]
impl bowline_sandbox::Platform for Echo {
    async fn ask(&self, request: bowline_sandbox::PlatformRequest) -> bowline_sandbox::PlatformResponse {
        // An answer that is not there at once.
        tokio::task::yield_now().await;
        let body = format!("{} {} {}", request.method, request.target, request.body.len());
        bowline_sandbox::PlatformResponse {
            status: 200,
            exception: None,
            body: body.into(),
        }
    }
}

#[tokio::test]
async fn the_platform_is_asked_within_an_invocation_that_may() {
    let (mut server, mut guest, address) = pair().await;
    let mut other = Guest(TcpStream::connect(address).await.expect("the listener listens"));
    let checkpoint = "POST /2025-12-01/durable-executions/x/checkpoint HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}";
    let talk = async {
        guest.send(NEXT).await;
        guest.receive().await;
        // Two at once, on a connection of their own.
        other.send(&format!("{checkpoint}{checkpoint}")).await;
        for _ in 0..2 {
            let (head, body) = other.receive().await;
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            assert_eq!(body, b"POST /2025-12-01/durable-executions/x/checkpoint 2");
        }
        let large = vec![b'x'; SYNC_PAYLOAD_BYTES_MAX + 1];
        let head = format!("POST /2025-12-01/y HTTP/1.1\r\nContent-Length: {}\r\n\r\n", large.len());
        other.send(&head).await;
        other.0.write_all(&large).await.expect("the server reads");
        let (_, body) = other.receive().await;
        assert!(
            body.ends_with(large.len().to_string().as_bytes()),
            "larger than an answer may be"
        );
    };
    let mut event = event(1, "{}");
    event.platform = Some(Arc::new(Echo));
    let serve = async {
        poll_fn(|cx| server.poll_ready(cx)).await.expect("the guest asks");
        assert!(server.start(event));
        let _ = poll_fn(|cx| server.poll_answer(cx)).await;
    };
    tokio::select! {
        () = talk => {}
        () = serve => panic!("nobody has answered the event"),
    }
}

#[tokio::test]
async fn the_platform_is_out_of_reach_of_any_other_invocation() {
    let (mut server, mut guest, address) = pair().await;
    let mut other = Guest(TcpStream::connect(address).await.expect("the listener listens"));
    let talk = async {
        guest.send(NEXT).await;
        guest.receive().await;
        other
            .send("GET /2025-12-01/durable-executions/x/state HTTP/1.1\r\n\r\n")
            .await;
        let (head, body) = other.receive().await;
        assert!(head.starts_with("HTTP/1.1 403"), "{head}");
        assert!(head.contains("x-amzn-ErrorType: AccessDeniedException"), "{head}");
        assert!(String::from_utf8_lossy(&body).contains("Message"));
    };
    let serve = async {
        poll_fn(|cx| server.poll_ready(cx)).await.expect("the guest asks");
        assert!(server.start(event(1, "{}")));
        let _ = poll_fn(|cx| server.poll_answer(cx)).await;
    };
    tokio::select! {
        () = talk => {}
        () = serve => panic!("nobody has answered the event"),
    }
}
