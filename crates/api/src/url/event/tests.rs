//! Events against the format's description.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::*;

fn event(path: &str, query: &str, headers: &[(&str, &str)], body: &[u8], identity: Option<&Identity>) -> Value {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(
            HeaderName::from_bytes(name.as_bytes()).expect("a name"),
            HeaderValue::from_str(value).expect("a value"),
        );
    }
    let parts = EventParts {
        id: "abc",
        domain: "abc.lambda-url.us-east-1.localhost",
        method: "POST",
        path,
        query,
        protocol: "HTTP/1.1",
        headers: &map,
        source_ip: Ipv4Addr::LOCALHOST.into(),
        scheme: "http",
        port: 9000,
        trace_id: "Root=1-0-0",
        request_id: "id",
        now: Timestamp::from_micros(1_583_348_638_390_000),
        identity,
    };
    serde_json::from_slice(&parts.event(body)).expect("JSON")
}

#[test]
fn an_event_has_exactly_the_formats_members() {
    let headers = [
        ("Header1", "value1"),
        ("header2", "value1"),
        ("Header2", "value2"),
        ("Cookie", "cookie1=a; cookie2=b"),
        ("cookie", "cookie3=c"),
        ("User-Agent", "agent"),
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Transfer-Encoding", "chunked"),
        ("X-Forwarded-For", "8.8.8.8"),
    ];
    let query = "parameter1=value1&parameter1=value2&parameter2=value&space=a%20b+c&none";
    let found = event("/my/p%C3%A4th", query, &headers, b"Hello from client!", None);
    let expected = json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/my/p%C3%A4th",
        "rawQueryString": query,
        "cookies": ["cookie1=a", "cookie2=b", "cookie3=c"],
        "headers": {
            "header1": "value1",
            "header2": "value1,value2",
            "cookie": "cookie1=a; cookie2=b; cookie3=c",
            "user-agent": "agent",
            "content-type": "text/plain; charset=utf-8",
            "x-amzn-trace-id": "Root=1-0-0",
            "x-forwarded-for": "127.0.0.1",
            "x-forwarded-port": "9000",
            "x-forwarded-proto": "http",
        },
        "queryStringParameters": {
            "parameter1": "value1,value2", "parameter2": "value", "space": "a b c", "none": "",
        },
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "abc",
            "domainName": "abc.lambda-url.us-east-1.localhost",
            "domainPrefix": "abc",
            "http": {
                "method": "POST",
                "path": "/my/päth",
                "protocol": "HTTP/1.1",
                "sourceIp": "127.0.0.1",
                "userAgent": "agent",
            },
            "requestId": "id",
            "routeKey": "$default",
            "stage": "$default",
            "time": "04/Mar/2020:19:03:58 +0000",
            "timeEpoch": 1_583_348_638_390_u64,
        },
        "body": "Hello from client!",
        "isBase64Encoded": false,
    });
    assert_eq!(found, expected);
}

#[test]
fn what_is_absent_has_no_member() {
    let found = event("/", "", &[], b"", None);
    for member in ["cookies", "queryStringParameters", "body"] {
        assert_eq!(found.get(member), None, "{member}");
    }
    assert_eq!(found["isBase64Encoded"], false);
    assert_eq!(found["requestContext"].get("authorizer"), None);
}

#[test]
fn only_texts_go_unencoded() {
    let check = |headers: &[(&str, &str)], body: &[u8], is_encoded: bool| {
        let found = event("/", "", headers, body, None);
        assert_eq!(found["isBase64Encoded"], is_encoded, "{headers:?}");
        let sent = found["body"].as_str().expect("a body");
        let bytes = match is_encoded {
            true => STANDARD.decode(sent).expect("base64"),
            false => sent.as_bytes().to_vec(),
        };
        assert_eq!(bytes, body, "{headers:?}");
    };
    for kind in [
        "text/html",
        "application/json",
        "APPLICATION/JSON; charset=utf-8",
        "application/xml",
    ] {
        check(&[("content-type", kind)], b"{}", false);
    }
    check(&[("content-type", "application/vnd.api+json")], b"{}", false);
    for kind in [
        "application/x-www-form-urlencoded",
        "application/octet-stream",
        "image/png",
    ] {
        check(&[("content-type", kind)], b"a=b", true);
    }
    check(&[], b"a=b", true);
    check(&[("content-type", "text/plain")], b"\xff\xfe", true);
    check(
        &[("content-type", "text/plain"), ("content-encoding", "gzip")],
        b"zip",
        true,
    );
}

#[test]
fn a_signed_request_names_its_caller() {
    let identity = Identity {
        access_key: "AKIDEXAMPLE".to_owned(),
        account: "123456789012".parse().expect("an account"),
    };
    let context = event("/", "", &[], b"", Some(&identity))["requestContext"].clone();
    assert_eq!(context["accountId"], "123456789012");
    assert_eq!(
        context["authorizer"]["iam"],
        json!({
            "accessKey": "AKIDEXAMPLE",
            "accountId": "123456789012",
            "callerId": "AKIDEXAMPLE",
            "cognitoIdentity": null,
            "principalOrgId": null,
            "userArn": "arn:aws:iam::123456789012:root",
            "userId": "AKIDEXAMPLE",
        })
    );
}
