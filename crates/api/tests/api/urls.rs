//! Function URLs: their configurations, and requests to them.

use bowline_api::auth::keys::AccessKey;
use bowline_api::auth::sigv4::{Credentials, authorization};
use bowline_foundation::clock::Timestamp;
use bowline_foundation::id::AccountId;
use bowline_functions::access::Secret;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::harness::{Answer, FUNCTIONS, TestNode, request};

const SITE: &str = "https://shop.example";
const FORBIDDEN: &str = "Forbidden. For troubleshooting Function URL authorization issues, see: \
                         https://docs.aws.amazon.com/lambda/latest/dg/urls-auth.html";

fn config(name: &str) -> String {
    format!("/2021-10-31/functions/{name}/url")
}

/// Lets everybody call the URL, as long as it asks for no signature, and the function only by its URL.
async fn open_to_all(node: &TestNode) {
    let url = json!({
        "StatementId": "all", "Action": "lambda:InvokeFunctionUrl", "Principal": "*", "FunctionUrlAuthType": "NONE",
    });
    grant(node, &url).await;
    let function = json!({
        "StatementId": "via", "Action": "lambda:InvokeFunction", "Principal": "*", "InvokedViaFunctionUrl": true,
    });
    grant(node, &function).await;
}

async fn grant(node: &TestNode, permission: &Value) {
    let added = node.post(&format!("{FUNCTIONS}/web/policy"), permission).await;
    assert_eq!(added.status, 201, "{added:?}");
}

/// A function with a URL that anybody may call; returns the URL's identifier.
pub async fn deploy(node: &TestNode, settings: Value) -> String {
    node.create("web").await;
    open_to_all(node).await;
    let made = node.post(&config("web"), &settings).await;
    assert_eq!(made.status, 201, "{made:?}");
    let url = made.json()["FunctionUrl"].as_str().expect("a URL").to_owned();
    let host = url.strip_prefix("http://").expect("a scheme");
    let (id, rest) = host.split_once('.').expect("a host");
    assert_eq!(rest, format!("lambda-url.eu-central-1.localhost:{}/", node.addr.port()));
    assert!(
        id.len() == 32
            && id
                .bytes()
                .all(|byte| b"abcdefghijklmnopqrstuvwxyz234567".contains(&byte))
    );
    id.to_owned()
}

/// A request in the form by host.
async fn call(node: &TestNode, id: &str, (method, path): (&str, &str), headers: &[(&str, &str)], body: &str) -> Answer {
    node.send(to_host(
        node,
        id,
        request(method, path, headers, Bytes::copy_from_slice(body.as_bytes())),
    ))
    .await
}

/// Names a URL as the host of a request.
pub fn to_host(node: &TestNode, id: &str, mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    let host = format!("{id}.lambda-url.eu-central-1.localhost:{}", node.addr.port());
    let host = HeaderValue::from_str(&host).expect("a host");
    request.headers_mut().insert(HeaderName::from_static("host"), host);
    request
}

/// Has the function answer with `answer`.
async fn answer(node: &TestNode, id: &str, answer: &Value) -> Answer {
    let headers = [("content-type", "text/plain")];
    call(node, id, ("POST", "/answer"), &headers, &answer.to_string()).await
}

fn refused(answer: &Answer, status: u16) -> Value {
    assert_eq!(answer.status, status, "{answer:?}");
    answer.json()["Message"].clone()
}

#[tokio::test]
async fn a_configuration_lives_from_creation_to_deletion() {
    let node = TestNode::start().await;
    node.create("web").await;
    let path = config("web");
    node.get(&path).await.refused(404, "ResourceNotFoundException");
    let cors = json!({ "AllowOrigins": [SITE], "AllowMethods": ["GET", "*"], "MaxAge": 60 });
    let made = node.post(&path, &json!({ "AuthType": "NONE", "Cors": cors })).await;
    assert_eq!(made.status, 201, "{made:?}");
    let made = made.json();
    assert_eq!(
        (&made["AuthType"], &made["InvokeMode"]),
        (&json!("NONE"), &json!("BUFFERED"))
    );
    assert_eq!(made["Cors"], cors);
    assert_eq!(
        made["FunctionArn"],
        "arn:aws:lambda:eu-central-1:000000000000:function:web"
    );
    assert_eq!(made.get("LastModifiedTime"), None, "a creation does not show it");
    let twice = node.post(&path, &json!({ "AuthType": "NONE" })).await;
    let message = twice.refused(409, "ResourceConflictException");
    assert!(
        message.contains("FunctionUrlConfig exists for this Lambda function"),
        "{message}"
    );

    let changed = node
        .put(
            &path,
            &json!({ "AuthType": "AWS_IAM", "InvokeMode": "RESPONSE_STREAM" }),
        )
        .await
        .json();
    assert_eq!(changed["FunctionUrl"], made["FunctionUrl"], "the address stays");
    assert_eq!((&changed["AuthType"], &changed["Cors"]), (&json!("AWS_IAM"), &cors));
    assert_eq!(node.get(&path).await.json(), changed);
    let without = node.put(&path, &json!({ "Cors": {} })).await.json();
    assert_eq!(without.get("Cors"), None);

    assert_eq!(node.delete(&path).await.status, 204);
    node.get(&path).await.refused(404, "ResourceNotFoundException");
    node.put(&path, &json!({}))
        .await
        .refused(404, "ResourceNotFoundException");
    node.delete(&path).await.refused(404, "ResourceNotFoundException");
    node.stop().await;
}

#[tokio::test]
async fn aliases_have_urls_and_versions_have_none() {
    let node = TestNode::start().await;
    node.create("web").await;
    node.post(&format!("{FUNCTIONS}/web/versions"), &json!({})).await;
    let none = json!({ "AuthType": "NONE" });
    for alias in ["blue", "green", "red"] {
        let path = format!("{}?Qualifier={alias}", config("web"));
        node.post(&path, &none).await.refused(404, "ResourceNotFoundException");
        let alias = json!({ "Name": alias, "FunctionVersion": "1" });
        node.post(&format!("{FUNCTIONS}/web/aliases"), &alias).await;
        assert_eq!(node.post(&path, &none).await.status, 201);
    }
    node.post(&config("web"), &none).await;
    for version in ["1", "%24LATEST"] {
        let path = format!("{}?Qualifier={version}", config("web"));
        node.post(&path, &none).await.refused(400, "ValidationException");
    }
    let mut marker = String::new();
    let mut arns = Vec::new();
    loop {
        let list = node
            .get(&format!("/2021-10-31/functions/web/urls?MaxItems=3{marker}"))
            .await
            .json();
        for found in list["FunctionUrlConfigs"].as_array().expect("a list") {
            arns.push(found["FunctionArn"].as_str().expect("an ARN").to_owned());
        }
        match list["NextMarker"].as_str() {
            Some(next) => marker = format!("&Marker={next}"),
            None => break,
        }
    }
    let arn = |suffix: &str| format!("arn:aws:lambda:eu-central-1:000000000000:function:web{suffix}");
    assert_eq!(arns, [arn(""), arn(":blue"), arn(":green"), arn(":red")]);
    node.delete(&format!("{FUNCTIONS}/web/aliases/blue")).await;
    let path = format!("{}?Qualifier=blue", config("web"));
    node.get(&path).await.refused(404, "ResourceNotFoundException");
    node.stop().await;
}

#[tokio::test]
async fn limits_of_a_configuration_are_kept() {
    let node = TestNode::start().await;
    node.create("web").await;
    let many = |count: usize| Value::from(vec!["x"; count]);
    let long = |chars: usize| json!(["x".repeat(chars)]);
    let check = async |cors: Value, status: u16| {
        let made = node
            .post(&config("web"), &json!({ "AuthType": "NONE", "Cors": cors }))
            .await;
        assert_eq!(made.status, status, "{cors} {made:?}");
        node.delete(&config("web")).await;
    };
    for (member, items, chars) in [
        ("AllowHeaders", 100, 1024),
        ("ExposeHeaders", 100, 1024),
        ("AllowOrigins", 100, 253),
    ] {
        check(json!({ member: many(items) }), 201).await;
        check(json!({ member: many(items + 1) }), 400).await;
        check(json!({ member: long(chars) }), 201).await;
        check(json!({ member: long(chars + 1) }), 400).await;
    }
    check(
        json!({ "AllowMethods": ["GET", "PUT", "HEAD", "POST", "PATCH", "DELETE"] }),
        201,
    )
    .await;
    for bad in [json!(vec!["GET"; 7]), json!(["OPTIONS"]), json!(["get"])] {
        check(json!({ "AllowMethods": bad }), 400).await;
    }
    check(json!({ "MaxAge": 86_400 }), 201).await;
    check(json!({ "MaxAge": 86_401 }), 400).await;
    check(json!({ "MaxAge": -1 }), 400).await;
    check(json!({ "AllowOrigins": [""] }), 400).await;
    check(json!({ "AllowHeaders": ["a\r\nb"] }), 400).await;
    for bad in [
        json!({}),
        json!({ "AuthType": "ANY" }),
        json!({ "AuthType": "NONE", "InvokeMode": "FAST" }),
    ] {
        node.post(&config("web"), &bad)
            .await
            .refused(400, "ValidationException");
    }
    let absent = node.post(&config("nobody"), &json!({ "AuthType": "NONE" })).await;
    assert_eq!(
        absent.refused(404, "ResourceNotFoundException"),
        "Function does not exist"
    );
    node.stop().await;
}

#[tokio::test]
async fn a_request_becomes_an_event_by_host_and_by_path() {
    let node = TestNode::start().await;
    let id = deploy(&node, json!({ "AuthType": "NONE" })).await;
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE"] {
        let headers = [("x-one", "1"), ("x-one", "2"), ("cookie", "a=b")];
        let event = call(&node, &id, (method, "/v1/streams/x%20y?a=1&a=2"), &headers, "")
            .await
            .json();
        assert_eq!(event["requestContext"]["http"]["method"], method);
        assert_eq!(event["rawPath"], "/v1/streams/x%20y");
        assert_eq!(event["rawQueryString"], "a=1&a=2");
        assert_eq!(event["queryStringParameters"], json!({ "a": "1,2" }));
        assert_eq!(
            (&event["headers"]["x-one"], &event["cookies"]),
            (&json!("1,2"), &json!(["a=b"]))
        );
        assert_eq!(event["requestContext"]["apiId"], *id);
        assert_eq!(event["requestContext"]["http"]["sourceIp"], "127.0.0.1");
        let domain = format!("{id}.lambda-url.eu-central-1.localhost");
        assert_eq!(event["requestContext"]["domainName"], domain);
    }
    let answered = node.get(&format!("/lambda-url/{id}/a/b/c/d/e/f/g/h?q")).await;
    assert_eq!(answered.json()["rawPath"], "/a/b/c/d/e/f/g/h");
    let policy = answered.header("content-security-policy").unwrap_or_default();
    assert!(
        policy.starts_with("sandbox ") && !policy.contains("allow-same-origin"),
        "{policy}"
    );
    assert_eq!(node.get(&format!("/lambda-url/{id}")).await.json()["rawPath"], "/");
    let head = call(&node, &id, ("HEAD", "/"), &[], "").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    node.stop().await;
}

#[tokio::test]
async fn an_answer_is_read_as_the_service_does() {
    let node = TestNode::start().await;
    let id = deploy(&node, json!({ "AuthType": "NONE" })).await;
    let plain = answer(&node, &id, &json!({ "message": "hello" })).await;
    assert_eq!((plain.status, plain.json()), (200, json!({ "message": "hello" })));
    let full = json!({
        "statusCode": 418,
        "headers": { "Content-Type": "image/gif", "X-Custom": "yes" },
        "cookies": ["a=1", "b=2"],
        "body": "R0lGODlh",
        "isBase64Encoded": true,
    });
    let full = answer(&node, &id, &full).await;
    assert_eq!((full.status, &full.body[..]), (418, &b"GIF89a"[..]));
    assert_eq!(
        (full.header("content-type"), full.header("x-custom")),
        (Some("image/gif"), Some("yes"))
    );
    let cookies: Vec<_> = full.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1", "b=2"]);
    for header in ["x-amzn-requestid", "x-amzn-trace-id"] {
        assert!(full.header(header).is_some(), "{header}");
    }
    node.stop().await;
}

#[tokio::test]
async fn failures_are_told_as_the_service_tells_them() {
    let node = TestNode::start().await;
    let id = deploy(&node, json!({ "AuthType": "NONE" })).await;
    for failed in [
        call(&node, &id, ("GET", "/fail"), &[], "").await,
        call(
            &node,
            &id,
            ("POST", "/answer"),
            &[("content-type", "text/plain")],
            "no JSON",
        )
        .await,
        answer(&node, &id, &json!({ "statusCode": 42 })).await,
    ] {
        assert_eq!(
            (failed.status, failed.text()),
            (502, "Internal Server Error"),
            "{failed:?}"
        );
    }
    let nobody = call(&node, &"a".repeat(32), ("GET", "/"), &[], "").await;
    assert_eq!(refused(&nobody, 404), "No function has this URL.");
    node.get("/lambda-url/short/").await;
    let text = [("content-type", "text/plain")];
    let mebibytes = |bytes: usize| "x".repeat(bytes);
    let large = call(&node, &id, ("POST", "/"), &text, &mebibytes(6 << 20)).await;
    assert_eq!(
        refused(&large, 413),
        "Request Entity Too Large",
        "the event around the body counts too"
    );
    assert_eq!(
        call(&node, &id, ("POST", "/"), &text, &mebibytes((6 << 20) - 4096))
            .await
            .status,
        200,
        "control: a little less goes through"
    );
    let zero = json!({ "ReservedConcurrentExecutions": 0 });
    node.put("/2017-10-31/functions/web/concurrency", &zero).await;
    let throttled = call(&node, &id, ("GET", "/"), &[], "").await;
    assert_eq!(refused(&throttled, 429), "Rate Exceeded.");
    assert_eq!(throttled.header("retry-after"), Some("1"));
    node.delete(&format!("{FUNCTIONS}/web")).await;
    assert_eq!(call(&node, &id, ("GET", "/"), &[], "").await.status, 404);
    node.stop().await;
}

#[tokio::test]
async fn browsers_may_call_a_url_as_its_cors_configuration_says() {
    let node = TestNode::start().await;
    let cors = json!({ "AllowOrigins": [SITE], "AllowMethods": ["PUT"], "AllowHeaders": ["x-one"], "MaxAge": 5 });
    let id = deploy(&node, json!({ "AuthType": "AWS_IAM", "Cors": cors })).await;
    let asks = [("origin", SITE), ("access-control-request-method", "PUT")];
    let preflight = call(&node, &id, ("OPTIONS", "/"), &asks, "").await;
    assert_eq!(
        (preflight.status, preflight.body.len()),
        (200, 0),
        "answered though nobody has signed"
    );
    assert_eq!(preflight.header("access-control-allow-origin"), Some(SITE));
    assert_eq!(preflight.header("access-control-allow-methods"), Some("PUT"));
    assert_eq!(preflight.header("access-control-allow-headers"), Some("x-one"));
    assert_eq!(preflight.header("access-control-max-age"), Some("5"));
    let asks = [
        ("origin", "https://evil.example"),
        ("access-control-request-method", "PUT"),
    ];
    let foreign = call(&node, &id, ("OPTIONS", "/"), &asks, "").await;
    assert_eq!(foreign.header("access-control-allow-origin"), None);

    node.put(&config("web"), &json!({ "AuthType": "NONE" })).await;
    let answered = call(&node, &id, ("GET", "/"), &[("origin", SITE)], "").await;
    assert_eq!(answered.header("access-control-allow-origin"), Some(SITE));
    let failed = call(&node, &id, ("GET", "/fail"), &[("origin", SITE)], "").await;
    assert_eq!(
        failed.header("access-control-allow-origin"),
        Some(SITE),
        "a page may read why it failed"
    );

    // Without a configuration the function itself is asked, and says what it likes.
    node.put(&config("web"), &json!({ "Cors": {} })).await;
    let asked = call(
        &node,
        &id,
        ("OPTIONS", "/"),
        &[("origin", SITE), ("access-control-request-method", "PUT")],
        "",
    )
    .await;
    assert_eq!(asked.json()["requestContext"]["http"]["method"], "OPTIONS");
    // Control: the node's own API stays closed to other sites.
    let api = node
        .send(request("GET", FUNCTIONS, &[("origin", SITE)], Bytes::new()))
        .await;
    api.refused(403, "AccessDeniedException");
    node.stop().await;
}

#[tokio::test]
async fn an_iam_url_wants_a_signature() {
    let node = TestNode::start().await;
    let id = deploy(&node, json!({ "AuthType": "AWS_IAM" })).await;
    let unsigned = call(&node, &id, ("GET", "/"), &[], "").await;
    assert_eq!(refused(&unsigned, 403), FORBIDDEN);
    assert_eq!(unsigned.header("x-amzn-errortype"), Some("AccessDeniedException"));
    let signature = "AWS4-HMAC-SHA256 Credential=000000000000/20261120/eu-central-1/lambda/aws4_request, \
                     SignedHeaders=host, Signature=00";
    let signed = call(&node, &id, ("GET", "/"), &[("authorization", signature)], "")
        .await
        .json();
    assert_eq!(
        signed["requestContext"]["authorizer"]["iam"]["accountId"],
        "000000000000"
    );
    // Another account needs a policy that lets it in, to the URL and to the function.
    node.delete(&format!("{FUNCTIONS}/web/policy/via")).await;
    let foreign = signature.replace("000000000000", "111122223333");
    let foreign = [("authorization", foreign.as_str())];
    assert_eq!(call(&node, &id, ("GET", "/"), &foreign, "").await.status, 403);
    let permission = json!({
        "StatementId": "partner", "Action": "lambda:InvokeFunctionUrl", "Principal": "111122223333",
        "FunctionUrlAuthType": "AWS_IAM",
    });
    grant(&node, &permission).await;
    assert_eq!(
        call(&node, &id, ("GET", "/"), &foreign, "").await.status,
        403,
        "it may call the URL, but not yet the function behind it"
    );
    let permission = json!({
        "StatementId": "partner-via", "Action": "lambda:InvokeFunction", "Principal": "111122223333",
        "InvokedViaFunctionUrl": true,
    });
    grant(&node, &permission).await;
    let event = call(&node, &id, ("GET", "/"), &foreign, "").await.json();
    assert_eq!(event["requestContext"]["accountId"], "111122223333");
    node.stop().await;
}

#[tokio::test]
async fn an_iam_url_says_what_is_wrong_with_a_signature() {
    let node = TestNode::start().await;
    let id = deploy(&node, json!({ "AuthType": "AWS_IAM" })).await;
    let key = AccessKey::new("KEY".to_owned(), AccountId::default_account(), Secret::new("secret"));
    node.auth.set_keys([key].into_iter().collect());
    let now = Timestamp::from_micros(1_795_217_079_123_456);
    let ask = async |access_key: &str, secret: &str, at: Timestamp| {
        let credentials = Credentials {
            access_key: access_key.to_owned(),
            secret: secret.to_owned(),
            region: "eu-central-1".to_owned(),
        };
        let mut request = to_host(&node, &id, request("GET", "/", &[], Bytes::new()));
        let (date, value) = authorization(&credentials, ("GET", "/"), request.headers(), b"", at);
        let headers = request.headers_mut();
        headers.insert("x-amz-date", date.parse().expect("a value"));
        headers.insert("authorization", value.parse().expect("a value"));
        node.send(request).await
    };
    assert_eq!(ask("KEY", "secret", now).await.status, 200, "the control");
    let early = Timestamp::from_micros(now.as_micros() - 400_000_000);
    for (access_key, secret, at, name, says) in [
        ("KEY", "wrong", now, "InvalidSignatureException", "does not match"),
        ("KEY", "secret", early, "InvalidSignatureException", "Signature expired"),
        ("YEK", "secret", now, "UnrecognizedClientException", "security token"),
    ] {
        let answer = ask(access_key, secret, at).await;
        assert_eq!((answer.status, answer.header("x-amzn-errortype")), (403, Some(name)));
        let message = answer.json()["message"].to_string();
        assert!(message.contains(says), "{message}");
    }
    assert_eq!(refused(&call(&node, &id, ("GET", "/"), &[], "").await, 403), FORBIDDEN);
    node.stop().await;
}

#[tokio::test]
async fn a_url_without_signatures_is_open_once_its_policy_says_so() {
    let node = TestNode::start().await;
    let id = deploy(&node, json!({ "AuthType": "NONE" })).await;
    assert_eq!(call(&node, &id, ("GET", "/"), &[], "").await.status, 200);
    // Either statement alone is not enough.
    for sid in ["all", "via"] {
        let removed = node.delete(&format!("{FUNCTIONS}/web/policy/{sid}")).await;
        assert_eq!(removed.status, 204, "{removed:?}");
        let closed = call(&node, &id, ("GET", "/"), &[], "").await;
        assert_eq!(refused(&closed, 403), FORBIDDEN);
        node.delete(&format!(
            "{FUNCTIONS}/web/policy/{}",
            if sid == "all" { "via" } else { "all" }
        ))
        .await;
        open_to_all(&node).await;
        assert_eq!(call(&node, &id, ("GET", "/"), &[], "").await.status, 200);
    }
    node.stop().await;
}

#[tokio::test]
async fn who_may_call_only_by_url_may_not_invoke() {
    let node = TestNode::start().await;
    let id = deploy(&node, json!({ "AuthType": "NONE" })).await;
    assert_eq!(call(&node, &id, ("GET", "/"), &[], "").await.status, 200);
    let credential = "AWS4-HMAC-SHA256 Credential=111122223333/20261120/eu-central-1/lambda/aws4_request, Signature=0";
    let path = format!("{FUNCTIONS}/000000000000:function:web/invocations");
    let invoke = async || {
        let request = request("POST", &path, &[("authorization", credential)], "{}".into());
        node.send(request).await
    };
    invoke().await.refused(403, "AccessDeniedException");
    grant(
        &node,
        &json!({ "StatementId": "plain", "Action": "lambda:InvokeFunction", "Principal": "111122223333" }),
    )
    .await;
    assert_eq!(invoke().await.status, 200);
    node.stop().await;
}
