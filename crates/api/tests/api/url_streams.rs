//! Function URLs whose answers are streamed, beside such as are not.

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::Response;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::harness::{TestNode, request};
use crate::urls::{deploy, to_host};

const HTTP: &str = "application/vnd.awslambda.http-integration-response";
const SEPARATOR: &str = "\0\0\0\0\0\0\0\0";

/// A node with a URL of this invoke mode.
async fn node_with(mode: &str) -> (TestNode, String) {
    let node = TestNode::start().await;
    let id = deploy(&node, json!({ "AuthType": "NONE", "InvokeMode": mode })).await;
    (node, id)
}

type Sender = http1::SendRequest<Full<Bytes>>;

async fn connect(node: &TestNode) -> Sender {
    let stream = TcpStream::connect(node.addr).await.expect("the node listens");
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
    tokio::spawn(connection);
    sender
}

/// Has the function do something; the answer's body is not read yet.
async fn ask(node: &TestNode, id: &str, sender: &mut Sender, script: &Value) -> Response<Incoming> {
    let headers = [("content-type", "application/json")];
    let request = request("POST", "/do", &headers, script.to_string().into());
    let answer = sender.send_request(to_host(node, id, request)).await;
    answer.expect("an answer")
}

/// The next piece of a body; `None` at its end.
async fn next(answer: &mut Response<Incoming>) -> Option<Result<String, hyper::Error>> {
    let frame = answer.frame().await?;
    Some(frame.map(|frame| {
        let data = frame.into_data().expect("data");
        String::from_utf8(data.to_vec()).expect("text")
    }))
}

async fn whole(answer: Response<Incoming>) -> Bytes {
    answer.into_body().collect().await.expect("a whole body").to_bytes()
}

#[tokio::test]
async fn the_first_piece_is_there_while_the_function_runs() {
    let (node, id) = node_with("RESPONSE_STREAM").await;
    let mut sender = connect(&node).await;
    let script = json!({ "type": "text/event-stream", "pieces": ["one", "two"] });
    let mut answer = ask(&node, &id, &mut sender, &script).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["content-type"]),
        (200, &"text/event-stream".parse().expect("a type"))
    );
    assert_eq!(next(&mut answer).await.expect("a piece").expect("whole"), "one");
    // Only now may the function go on.
    node.gate.add_permits(1);
    assert_eq!(next(&mut answer).await.expect("a piece").expect("whole"), "two");
    assert!(next(&mut answer).await.is_none(), "nothing follows");
    node.stop().await;
}

#[tokio::test]
async fn control_a_buffered_answer_waits_for_its_end() {
    let (node, id) = node_with("BUFFERED").await;
    let mut sender = connect(&node).await;
    let script = json!({ "pieces": [r#"{"statusCode": 201, "#, r#""body": "all"}"#] });
    let mut answer = Box::pin(ask(&node, &id, &mut sender, &script));
    let waiting = node.waiting.acquire();
    tokio::select! {
        _ = &mut answer => panic!("the answer came before its end"),
        waits = waiting => waits.expect("the function waits").forget(),
    }
    assert!(answer.as_mut().now_or_never().is_none(), "the function still runs");
    node.gate.add_permits(1);
    let answer = answer.await;
    assert_eq!(
        (answer.status(), &whole(answer).await[..]),
        (http::StatusCode::CREATED, &b"all"[..])
    );
    node.stop().await;
}

#[tokio::test]
async fn a_head_says_status_headers_and_cookies() {
    let (node, id) = node_with("RESPONSE_STREAM").await;
    let mut sender = connect(&node).await;
    let head = json!({
        "statusCode": 418,
        "headers": { "Content-Type": "text/plain", "X-Custom": "yes", "Transfer-Encoding": "none" },
        "cookies": ["a=1", "b=2"],
    });
    // In one piece, and with the separator over two.
    let (first, second) = SEPARATOR.split_at(3);
    for pieces in [
        vec![format!("{head}{SEPARATOR}body")],
        vec![format!("{head}{first}"), format!("{second}body")],
    ] {
        node.gate.add_permits(pieces.len() - 1);
        let answer = ask(&node, &id, &mut sender, &json!({ "type": HTTP, "pieces": pieces })).await;
        let headers = answer.headers();
        assert_eq!(answer.status().as_u16(), 418, "{headers:?}");
        assert_eq!(headers["content-type"], "text/plain");
        assert_eq!(headers["x-custom"], "yes");
        assert_eq!(headers.get_all("set-cookie").iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
        assert_eq!(
            headers["transfer-encoding"], "chunked",
            "the connection is the platform's"
        );
        assert_eq!(&whole(answer).await[..], b"body");
    }
    // Control: of any other type the same bytes are the body.
    let script = json!({ "type": "text/plain", "pieces": [format!("{head}{SEPARATOR}body")] });
    let answer = ask(&node, &id, &mut sender, &script).await;
    assert_eq!(answer.status().as_u16(), 200);
    assert!(whole(answer).await.starts_with(b"{"));
    node.stop().await;
}

#[tokio::test]
async fn what_breaks_within_an_answer_is_seen_by_the_client() {
    let (node, id) = node_with("RESPONSE_STREAM").await;
    for ending in ["fail", "break"] {
        let mut sender = connect(&node).await;
        let script = json!({ "pieces": ["half", " "], ending: true });
        let mut answer = ask(&node, &id, &mut sender, &script).await;
        assert_eq!(answer.status().as_u16(), 200);
        assert_eq!(next(&mut answer).await.expect("a piece").expect("whole"), "half");
        node.gate.add_permits(1);
        loop {
            match next(&mut answer).await {
                Some(Ok(_)) => {}
                Some(Err(_)) => break,
                None => panic!("`{ending}`: the body ended as if it were whole"),
            }
        }
    }
    node.stop().await;
}

#[tokio::test]
async fn what_fails_before_an_answer_is_a_bad_gateway() {
    let (node, id) = node_with("RESPONSE_STREAM").await;
    for script in [
        json!({ "fail": true }),
        json!({ "break": true }),
        json!({ "type": HTTP, "pieces": ["{}"] }),
        json!({ "type": HTTP, "pieces": [format!("no JSON{SEPARATOR}body")] }),
        json!({ "type": HTTP, "pieces": [format!(r#"{{"statusCode": 42}}{SEPARATOR}body"#)] }),
        json!({ "type": HTTP, "pieces": ["x".repeat(129 * 1024)] }),
    ] {
        let mut sender = connect(&node).await;
        let answer = ask(&node, &id, &mut sender, &script).await;
        let status = answer.status().as_u16();
        let body = whole(answer).await;
        assert_eq!((status, &body[..]), (502, &b"Internal Server Error"[..]), "{script}");
    }
    node.stop().await;
}
