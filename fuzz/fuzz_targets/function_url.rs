//! Function URLs: any request becomes an event that holds its body, and any answer of a function becomes a response
//! or is refused.
#![no_main]

use std::net::Ipv4Addr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bowline_api::url::answer;
use bowline_api::url::event::EventParts;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    request(data);
    if let Ok(response) = answer::read(&Bytes::copy_from_slice(data)) {
        assert!((200..=599).contains(&response.status().as_u16()));
        assert!(response.headers().get("content-type").is_some());
        assert!(!response.headers().contains_key("transfer-encoding"));
    }
});

/// The first line is the target, those up to an empty one are headers, the rest is the body.
fn request(data: &[u8]) {
    let cut = data.windows(2).position(|pair| pair == b"\n\n").unwrap_or(data.len());
    let Ok(head) = std::str::from_utf8(&data[..cut]) else {
        return;
    };
    let body = data.get(cut + 2..).unwrap_or_default();
    let mut lines = head.lines();
    let (path, query) = lines.next().and_then(|line| line.split_once('?')).unwrap_or(("/", ""));
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    }
    let parts = EventParts {
        id: "id",
        domain: "id.lambda-url.us-east-1.localhost",
        method: "POST",
        path,
        query,
        protocol: "HTTP/1.1",
        headers: &headers,
        source_ip: Ipv4Addr::LOCALHOST.into(),
        scheme: "http",
        port: 9000,
        trace_id: "Root=1-0-0",
        request_id: "request",
        now: Default::default(),
        identity: None,
    };
    let event: serde_json::Value = serde_json::from_slice(&parts.event(body)).expect("an event is JSON");
    assert_eq!(event["rawPath"], path);
    let sent = event["body"].as_str().unwrap_or_default();
    match event["isBase64Encoded"].as_bool() {
        Some(true) => assert_eq!(STANDARD.decode(sent).expect("base64"), body),
        _ => assert_eq!(sent.as_bytes(), body),
    }
}
