//! The states of extensions by themselves, and over a real socket.

use std::future::poll_fn;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bowline_foundation::clock::{Clock, Timestamp};
use bowline_foundation::digest::Digest;
use bowline_foundation::id::AccountId;
use bowline_foundation::units::Mebibytes;
use bowline_sandbox::{CodeDir, Deadline, Runtime, SandboxKind, VersionSpec};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::super::server::{About, Server};
use super::*;

const BOTH: &[u8] = br#"{"events":["INVOKE","SHUTDOWN"]}"#;
const INVOKE: &[u8] = br#"{"events":["INVOKE"]}"#;

fn extensions() -> Extensions {
    Extensions::new(Entropy::seeded(7))
}

fn error_type<T: std::fmt::Debug>(result: Result<T, Refused>) -> &'static str {
    result.expect_err("it is refused").error_type
}

fn invocation() -> Invocation {
    let clock = Clock::fake(Timestamp::from_micros(1_700_000_000_123_000));
    let budget = Duration::from_secs(3);
    Invocation {
        request_id: RequestId::random(&Entropy::seeded(1)),
        payload: Bytes::from_static(b"{}"),
        deadline: Deadline {
            wall: clock.now().after(budget),
            monotonic: clock.monotonic().after(budget),
            budget,
        },
        invoked_arn: "arn:aws:lambda:eu-central-1:000000000000:function:f".to_owned(),
        client_context: None,
        trace_id: Some("Root=1".to_owned()),
        sink: None,
        platform: None,
        suspension: None,
    }
}

#[test]
fn an_external_extension_lives_its_life() {
    let mut all = extensions();
    let number = all.launch("knots.sh").expect("there is room");
    assert!(!all.all_registered());
    assert_eq!(all.register(Some("knots.sh"), BOTH), Ok(number));
    assert!(all.all_registered());
    assert!(!all.runtime_ready(), "it has not asked for an event");
    all.next(number, false).expect("it may ask");
    assert!(all.runtime_ready() && all.settled());
    assert_eq!(all.take_order(number), None);
    all.invoke(&invocation());
    assert!(!all.settled());
    let event: Value = serde_json::from_slice(&all.take_order(number).expect("an event")).expect("JSON");
    assert_eq!(event["eventType"], "INVOKE");
    assert_eq!(event["deadlineMs"], 1_700_000_003_123_u64);
    assert_eq!(event["tracing"], json!({"type": "X-Amzn-Trace-Id", "value": "Root=1"}));
    assert!(!all.settled(), "it works");
    all.next(number, false).expect("it is done");
    assert!(all.settled());
    all.end();
    all.shut_down(&shutdown_event("spindown", 5));
    let event = all.take_order(number).expect("the last event");
    assert_eq!(
        event,
        r#"{"deadlineMs":5,"eventType":"SHUTDOWN","shutdownReason":"spindown"}"#
    );
    all.ended(number, "exit status 0");
    assert_eq!(all.failure(None), None, "it was asked to end");
}

#[test]
fn ten_extensions_and_no_more() {
    let mut all = extensions();
    for number in 0..EXTENSIONS_MAX - 1 {
        all.launch(&format!("external-{number}")).expect("there is room");
    }
    all.register(Some("internal"), INVOKE).expect("there is room for one");
    assert_eq!(
        error_type(all.register(Some("late"), INVOKE)),
        "Extension.TooManyExtensions"
    );
    assert_eq!(all.launch("late"), Err(TooMany));
    // Those that were counted in already still register.
    all.register(Some("external-3"), BOTH).expect("it is known");
}

#[test]
fn registrations_are_refused_by_name() {
    let mut all = extensions();
    let external = all.launch("external").expect("there is room");
    let cases: [(Option<&str>, &[u8], &str); 8] = [
        (None, INVOKE, "Extension.InvalidExtensionName"),
        (Some(""), INVOKE, "Extension.InvalidExtensionName"),
        (Some("internal"), b"{", "InvalidRequestFormat"),
        (Some("internal"), b"", "InvalidRequestFormat"),
        (Some("internal"), br#"{"events":"INVOKE"}"#, "InvalidRequestFormat"),
        (
            Some("internal"),
            br#"{"events":[],"configurationKeys":["a"]}"#,
            "InvalidRequestFormat",
        ),
        (Some("internal"), BOTH, "Extension.InvalidEventType"),
        (
            Some("external"),
            br#"{"events":["KNOT"]}"#,
            "Extension.InvalidEventType",
        ),
    ];
    for (name, body, expected) in cases {
        assert_eq!(error_type(all.register(name, body)), expected, "{name:?}");
    }
    let long = "x".repeat(NAME_BYTES_MAX + 1);
    assert_eq!(
        error_type(all.register(Some(&long), INVOKE)),
        "Extension.InvalidExtensionName"
    );
    all.register(Some("internal"), b"{}").expect("no event is fine");
    for name in ["internal", "external"] {
        let again = all
            .register(Some(name), INVOKE)
            .and_then(|_| all.register(Some(name), INVOKE));
        assert_eq!(error_type(again), "Extension.InvalidExtensionState", "{name}");
    }
    all.next(external, false).expect("it may ask");
    all.runtime_ready();
    assert_eq!(
        error_type(all.register(Some("late"), INVOKE)),
        "Extension.RegistrationClosed"
    );
}

#[test]
fn identifiers_are_looked_up() {
    let mut all = extensions();
    all.launch("silent").expect("there is room");
    let number = all.register(Some("internal"), INVOKE).expect("it registers");
    let id = all.all[number].id.as_str().to_owned();
    assert_eq!(all.identify(Some(&id)), Ok(number));
    assert_eq!(all.identify(Some(&id.to_uppercase())), Ok(number));
    let unregistered = all.all[0].id.as_str().to_owned();
    let stranger = RequestId::random(&Entropy::seeded(99));
    let cases = [
        (None, "Extension.MissingExtensionIdentifier"),
        (Some("internal"), "Extension.InvalidExtensionIdentifier"),
        (Some(stranger.as_str()), "Extension.UnknownExtensionIdentifier"),
        (Some(unregistered.as_str()), "Extension.UnknownExtensionIdentifier"),
    ];
    for (id, expected) in cases {
        assert_eq!(error_type(all.identify(id)), expected, "{id:?}");
    }
}

#[test]
fn failures_are_told_apart() {
    let mut control = extensions();
    let number = control.launch("knots").expect("there is room");
    control.register(Some("knots"), BOTH).expect("it registers");
    control.next(number, false).expect("it may ask");
    assert!(control.all_registered() && control.runtime_ready());

    type Fail = fn(&mut Extensions, usize);
    let cases: [(Fail, &str, &str); 4] = [
        (
            |all, number| all.ended(number, "exit status 3"),
            "Extension.Crash",
            "exit status 3",
        ),
        (
            |all, number| {
                all.init_error(number, Some("Knot.Slipped".into()))
                    .expect("it may say so");
                all.init_error(number, Some("Again".into())).expect("twice is fine");
                all.ended(number, "exit status 1");
            },
            "Extension.InitError",
            "Knot.Slipped",
        ),
        (
            |all, number| {
                all.exit_error(number, Some("Knot.Broke".into()))
                    .expect("it may say so")
            },
            "Extension.ExitError",
            "Knot.Broke",
        ),
        (
            |all, number| all.launch_failed(number, "no such file"),
            "Extension.LaunchError",
            "no such file",
        ),
    ];
    for (fail, expected, detail) in cases {
        let mut all = extensions();
        let number = all.launch("knots").expect("there is room");
        all.register(Some("knots"), BOTH).expect("it registers");
        assert_eq!(all.failure(None), None);
        fail(&mut all, number);
        assert!(!all.all_registered() && !all.runtime_ready(), "{expected}");
        let error = all.failure(None).expect("it failed");
        assert_eq!(error.error_type, expected);
        let payload = String::from_utf8_lossy(&error.payload).into_owned();
        assert!(payload.contains("`knots`") && payload.contains(detail), "{payload}");
    }
}

#[test]
fn errors_are_said_in_their_time_and_with_a_type() {
    let mut all = extensions();
    let number = all.register(Some("knots"), INVOKE).expect("it registers");
    assert_eq!(error_type(all.exit_error(number, None)), "Extension.MissingHeader");
    all.next(number, false).expect("it may ask");
    let late = all.init_error(number, Some("Late".into()));
    assert_eq!(error_type(late), "Extension.InvalidExtensionState");
    assert_eq!(error_type(all.next(number, true)), "Extension.InvalidExtensionState");
    all.next(number, false).expect("its connection broke");
    all.exit_error(number, Some("X".into())).expect("it may say so");
    assert_eq!(error_type(all.next(number, false)), "Extension.InvalidExtensionState");
}

#[test]
fn an_event_that_did_not_arrive_is_given_again() {
    let mut all = extensions();
    let number = all.register(Some("knots"), INVOKE).expect("it registers");
    all.next(number, false).expect("it may ask");
    all.invoke(&invocation());
    let event = all.take_order(number).expect("an event");
    all.not_given(number);
    assert_eq!(all.take_order(number), Some(event));
    all.next(number, false).expect("it is done");
    all.not_given(number);
    assert_eq!(all.take_order(number), None, "it was heard of since");
}

#[test]
fn subscriptions_close_with_the_initialisation() {
    let good = br#"{"schemaVersion":"2022-07-01","types":["platform"],"destination":{"protocol":"TCP","port":1}}"#;
    let parse = || Subscription::parse(Api::Telemetry, good).map_err(|bad| Refused::new("x", bad.to_string()));
    let mut all = extensions();
    let number = all.register(Some("knots"), INVOKE).expect("it registers");
    all.subscribe(number, parse, Api::Telemetry).expect("it may subscribe");
    all.subscribe(number, parse, Api::Telemetry)
        .expect("it may change its mind");
    let other = all.subscribe(number, parse, Api::Logs);
    assert_eq!(error_type(other), "ValidationError");
    assert_eq!(all.take_subscriptions().len(), 2);
    all.next(number, false).expect("it may ask");
    assert!(all.runtime_ready());
    let late = all.subscribe(number, parse, Api::Telemetry);
    assert_eq!(error_type(late), "Telemetry.SubscriptionClosed");
}

// Over a socket.

struct Guest(TcpStream);

impl Guest {
    async fn call(&mut self, method: &str, path: &str, fields: &str, body: &str) {
        let length = body.len();
        let text = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{fields}Content-Length: {length}\r\n\r\n{body}");
        self.0.write_all(text.as_bytes()).await.expect("the server reads");
    }

    async fn receive(&mut self) -> (u16, String, String) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.expect("the server answers"));
        }
        let head = String::from_utf8(head).expect("heads are text");
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let length = length
            .and_then(|text| text.parse().ok())
            .expect("every response has a length");
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.expect("the body follows");
        let status = head[9..12].parse().expect("the status is a number");
        (status, head, String::from_utf8(body).expect("bodies are text"))
    }
}

fn version() -> VersionSpec {
    VersionSpec {
        account: AccountId::default_account(),
        region: "eu-central-1".to_owned(),
        function: "f".to_owned(),
        version: "7".to_owned(),
        runtime: Runtime::ProvidedAl2023,
        handler: "app.handler".to_owned(),
        code: CodeDir {
            digest: Digest::of(b""),
            path: PathBuf::from("/nowhere"),
        },
        layers: None,
        image: None,
        kind: SandboxKind::Linux,
        memory: Mebibytes(128),
        ephemeral_storage: Mebibytes(512),
        timeout: Duration::from_secs(3),
        environment: std::collections::BTreeMap::new(),
        logging: bowline_sandbox::Logging::default(),
        mounts: Vec::new(),
        processors: None,
    }
}

async fn server() -> (Server, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback is there");
    let address = listener.local_addr().expect("it is bound");
    let about = About {
        spec: Arc::new(version()),
        entropy: Entropy::seeded(5),
    };
    (Server::new(listener).with_extensions(about), address)
}

/// Lets the server run beside `guest` until that is done.
async fn beside<T>(server: &mut Server, guest: impl Future<Output = T>) -> T {
    tokio::select! {
        served = poll_fn(|cx| server.poll_serve(cx)) => panic!("the server ended: {served:?}"),
        done = guest => done,
    }
}

async fn connect(address: std::net::SocketAddr) -> Guest {
    Guest(TcpStream::connect(address).await.expect("the listener listens"))
}

fn id_in(head: &str) -> String {
    let id = head
        .lines()
        .find_map(|line| line.strip_prefix("Lambda-Extension-Identifier: "));
    id.expect("the answer names the extension").to_owned()
}

#[tokio::test]
async fn an_extension_registers_and_gets_events() {
    let (mut server, address) = server().await;
    let mut extension = connect(address).await;
    let mut runtime = connect(address).await;
    let fields = "Lambda-Extension-Name: knots\r\nlambda-extension-accept-feature: x, accountId\r\n";
    let (status, head, body) = beside(&mut server, async {
        let register = "/2020-01-01/extension/register";
        extension
            .call("POST", register, fields, r#"{"events":["INVOKE"]}"#)
            .await;
        extension.receive().await
    })
    .await;
    assert_eq!(status, 200, "{body}");
    let body: Value = serde_json::from_str(&body).expect("JSON");
    let expected = json!({
        "functionName": "f", "functionVersion": "7", "handler": "app.handler", "accountId": "000000000000",
    });
    assert_eq!(body, expected);
    let id = format!("Lambda-Extension-Identifier: {}\r\n", id_in(&head));

    runtime.call("GET", "/2018-06-01/runtime/invocation/next", "", "").await;
    extension.call("GET", "/2020-01-01/extension/event/next", &id, "").await;
    poll_fn(|cx| server.poll_ready(cx)).await.expect("both have asked");
    assert!(server.start(invocation()));
    assert!(!server.is_settled());
    let (extension_event, runtime_event) = beside(&mut server, async {
        (extension.receive().await, runtime.receive().await)
    })
    .await;
    let (status, head, body) = extension_event;
    assert_eq!(status, 200);
    assert!(head.contains("Lambda-Extension-Event-Identifier: "), "{head}");
    assert!(body.contains(r#""eventType":"INVOKE""#), "{body}");
    assert_eq!(runtime_event.2, "{}");

    let response = format!("/2018-06-01/runtime/invocation/{}/response", invocation().request_id);
    runtime.call("POST", &response, "", "1").await;
    poll_fn(|cx| server.poll_answer(cx))
        .await
        .expect("the runtime has answered");
    runtime.call("GET", "/2018-06-01/runtime/invocation/next", "", "").await;
    let unsettled = poll_fn(|cx| Poll::Ready(server.poll_settled(cx).is_pending())).await;
    assert!(unsettled, "the extension still works");
    extension.call("GET", "/2020-01-01/extension/event/next", &id, "").await;
    poll_fn(|cx| server.poll_settled(cx))
        .await
        .expect("now everybody is done");
}

#[tokio::test]
async fn errors_have_status_and_type() {
    let (mut server, address) = server().await;
    let mut guest = connect(address).await;
    let large = "x".repeat(request::BODY_BYTES_MAX + 1);
    let name = "Lambda-Extension-Name: knots\r\n";
    let stranger = "Lambda-Extension-Identifier: 12345678-1234-4234-8234-123456789abc\r\n";
    let cases = [
        (
            "POST",
            "/2020-01-01/extension/register",
            name,
            "{",
            403,
            "InvalidRequestFormat",
        ),
        (
            "POST",
            "/2020-01-01/extension/register",
            name,
            &large,
            413,
            "RequestEntityTooLarge",
        ),
        (
            "GET",
            "/2020-01-01/extension/event/next",
            "",
            "",
            403,
            "Extension.MissingExtensionIdentifier",
        ),
        (
            "PUT",
            "/2022-07-01/telemetry",
            stranger,
            "{}",
            403,
            "Extension.UnknownExtensionIdentifier",
        ),
        (
            "POST",
            "/2020-01-01/extension/exit/error",
            stranger,
            "",
            403,
            "Extension.UnknownExtensionIdentifier",
        ),
        ("GET", "/2020-01-01/extension/register", "", "", 404, "NotFound"),
        ("GET", "/2021-04-23/credentials", "", "", 404, "NotFound"),
        ("GET", "/2018-06-01/runtime/restore/next", "", "", 404, "NotFound"),
        ("POST", "/2018-06-01/runtime/restore/error", "", "", 404, "NotFound"),
    ];
    for (method, path, fields, body, expected, error_type) in cases {
        let (status, _, body) = beside(&mut server, async {
            guest.call(method, path, fields, body).await;
            guest.receive().await
        })
        .await;
        assert_eq!(status, expected, "{method} {path}: {body}");
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(body["errorType"], error_type, "{method} {path}");
        assert!(body["errorMessage"].is_string());
    }
    let (status, _, body) = beside(&mut server, async {
        guest.call("GET", "/2018-06-01/ping", "", "").await;
        guest.receive().await
    })
    .await;
    assert_eq!((status, body.as_str()), (200, "pong"));
}

#[tokio::test]
async fn subscriptions_are_answered() {
    let (mut server, address) = server().await;
    let mut guest = connect(address).await;
    let fields = "Lambda-Extension-Name: knots\r\n";
    let (_, head, _) = beside(&mut server, async {
        guest.call("POST", "/2020-01-01/extension/register", fields, "{}").await;
        guest.receive().await
    })
    .await;
    let id = format!("Lambda-Extension-Identifier: {}\r\n", id_in(&head));
    let subscription =
        |port: u16| format!(r#"{{"types":["function"],"destination":{{"protocol":"TCP","port":{port}}}}}"#);
    for (port, expected, text) in [(0, 400, "ValidationError"), (4000, 200, "\"OK\"")] {
        let (status, _, body) = beside(&mut server, async {
            guest.call("PUT", "/2020-08-15/logs", &id, &subscription(port)).await;
            guest.receive().await
        })
        .await;
        assert_eq!(status, expected, "{body}");
        assert!(body.contains(text), "{body}");
    }
    let new = server.extensions_mut().expect("there is one").take_subscriptions();
    assert_eq!(new.len(), 1);
    assert_eq!(&*new[0].name, "knots");
}
