//! Layers on the wire.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::harness::{Answer, FUNCTIONS, TestNode, creation, request};

const LAYERS: &str = "/2018-10-31/layers";
/// A zip archive with one empty file, `a`.
const ARCHIVE: &str = "UEsDBBQAAAAAAAAAIQAAAAAAAAAAAAAAAAABAAAAYVBLAQIUAxQAAAAAAAAAIQAAAAAAAAAAAAAAAAABAAAAAAAAAAAAAACAAQAAAABhUEsFBgAAAAABAAEALwAAAB8AAAAAAA==";

fn publication() -> Value {
    json!({
        "Description": "knots",
        "LicenseInfo": "MIT",
        "CompatibleRuntimes": ["python3.12", "java21"],
        "CompatibleArchitectures": ["x86_64", "arm64"],
        "Content": { "ZipFile": ARCHIVE },
    })
}

async fn publish(node: &TestNode, name: &str) -> Value {
    let answer = node.post(&format!("{LAYERS}/{name}/versions"), &publication()).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()
}

/// The same request as another account sends it.
async fn as_other(node: &TestNode, method: &str, path: &str) -> Answer {
    let credential = "AWS4-HMAC-SHA256 Credential=123456789012/20261120/us-east-1/lambda/aws4_request, Signature=0";
    node.send(request(method, path, &[("authorization", credential)], Bytes::new()))
        .await
}

#[tokio::test]
async fn a_layer_lives_from_publication_to_deletion() {
    let node = TestNode::start().await;
    let published = publish(&node, "knots").await;
    let arn = "arn:aws:lambda:eu-central-1:000000000000:layer:knots";
    assert_eq!(published["LayerArn"], arn);
    assert_eq!(published["LayerVersionArn"], format!("{arn}:1"));
    assert_eq!(published["Version"], 1);
    assert_eq!(published["CreatedDate"], "2026-11-20T23:24:39.123+0000");
    assert_eq!(published["CompatibleRuntimes"], json!(["python3.12", "java21"]));
    let archive = STANDARD.decode(ARCHIVE).expect("the fixture is base64");
    assert_eq!(published["Content"]["CodeSize"], archive.len());

    let versions = format!("{LAYERS}/knots/versions");
    let shown = node.get(&format!("{versions}/1")).await.json();
    assert_eq!(shown, published);
    let by_arn = format!(
        "{LAYERS}?find=LayerVersion&Arn={}",
        format_args!("{arn}:1").to_string().replace(':', "%3A")
    );
    assert_eq!(node.get(&by_arn).await.json(), published);
    let by_layer_arn = format!("{LAYERS}/{}/versions/1", arn.replace(':', "%3A"));
    assert_eq!(node.get(&by_layer_arn).await.json(), published);
    let location = published["Content"]["Location"].as_str().expect("a link");
    let path = location.strip_prefix("http://node.test").expect("a link to the node");
    assert_eq!(node.get(path).await.body, archive);

    publish(&node, "knots").await;
    let listed = node.get(&format!("{versions}?MaxItems=1")).await.json();
    assert_eq!(listed["LayerVersions"][0]["Version"], 2);
    let next = listed["NextMarker"].as_str().expect("there is more");
    let rest = node.get(&format!("{versions}?Marker={next}")).await.json();
    assert_eq!(rest["LayerVersions"][0]["Version"], 1);
    let newest = node.get(&format!("{LAYERS}?CompatibleRuntime=java21")).await.json();
    assert_eq!(newest["Layers"][0]["LayerName"], "knots");
    assert_eq!(newest["Layers"][0]["LatestMatchingVersion"]["Version"], 2);
    let none = node.get(&format!("{LAYERS}?CompatibleRuntime=ruby3.3")).await.json();
    assert_eq!(none, json!({ "Layers": [] }));

    for _ in 0..2 {
        assert_eq!(node.delete(&format!("{versions}/2")).await.status, 204);
    }
    let gone = node.get(&format!("{versions}/2")).await;
    gone.refused(404, "ResourceNotFoundException");
    assert_eq!(publish(&node, "knots").await["Version"], 3);
    node.stop().await;
}

#[tokio::test]
async fn permissions_are_added_shown_and_removed() {
    let node = TestNode::start().await;
    publish(&node, "knots").await;
    let arn = "arn%3Aaws%3Alambda%3Aeu-central-1%3A000000000000%3Alayer%3Aknots";
    let theirs = format!("{LAYERS}/{arn}/versions/1");
    let policy = format!("{LAYERS}/knots/versions/1/policy");
    as_other(&node, "GET", &theirs)
        .await
        .refused(403, "AccessDeniedException");
    node.get(&policy).await.refused(404, "ResourceNotFoundException");

    let one = json!({ "StatementId": "one", "Action": "lambda:GetLayerVersion", "Principal": "123456789012" });
    let added = node.post(&policy, &one).await;
    assert_eq!(added.status, 201, "{added:?}");
    let added = added.json();
    let statement: Value = serde_json::from_str(added["Statement"].as_str().expect("a text")).expect("JSON");
    assert_eq!(statement["Sid"], "one");
    assert_eq!(as_other(&node, "GET", &theirs).await.status, 200);
    node.post(&policy, &one).await.refused(409, "ResourceConflictException");
    let shown = node.get(&policy).await.json();
    assert_eq!(shown["RevisionId"], added["RevisionId"]);
    let document: Value = serde_json::from_str(shown["Policy"].as_str().expect("a text")).expect("JSON");
    assert_eq!(document["Statement"], json!([statement]));

    let mut two = one.clone();
    two["StatementId"] = json!("two");
    let stale = node.post(&format!("{policy}?RevisionId=stale"), &two).await;
    stale.refused(412, "PreconditionFailedException");
    as_other(&node, "DELETE", &format!("{theirs}/policy/one"))
        .await
        .refused(403, "AccessDeniedException");
    let unknown = node.delete(&format!("{policy}/two")).await;
    unknown.refused(404, "ResourceNotFoundException");
    assert_eq!(node.delete(&format!("{policy}/one")).await.status, 204);
    as_other(&node, "GET", &theirs)
        .await
        .refused(403, "AccessDeniedException");
    node.stop().await;
}

#[tokio::test]
async fn layers_are_refused_as_the_service_does() {
    let node = TestNode::start().await;
    publish(&node, "knots").await;
    let invalid = "InvalidParameterValueException";
    let check = async |member: &str, value: Value, status, name| {
        let mut body = publication();
        body[member] = value;
        let answer = node.post(&format!("{LAYERS}/knots/versions"), &body).await;
        answer.refused(status, name);
    };
    check("Content", Value::Null, 400, "ValidationException").await;
    check("Content", json!({}), 400, invalid).await;
    check("Content", json!({ "ZipFile": "?" }), 400, "SerializationException").await;
    check("Content", json!({ "ZipFile": "Z2FyYmFnZQ==" }), 400, invalid).await;
    check("CompatibleRuntimes", json!(["cobol85"]), 400, "ValidationException").await;
    check(
        "CompatibleRuntimes",
        json!(vec!["java21"; 16]),
        400,
        "ValidationException",
    )
    .await;
    check("CompatibleArchitectures", json!(["mips"]), 400, "ValidationException").await;
    check("Description", json!("d".repeat(257)), 400, "ValidationException").await;
    check("LicenseInfo", json!("l".repeat(513)), 400, "ValidationException").await;
    let name = node
        .post(&format!("{LAYERS}/no%20spaces/versions"), &publication())
        .await;
    name.refused(400, "ValidationException");
    node.get(&format!("{LAYERS}/knots/versions/0"))
        .await
        .refused(400, invalid);
    let number = node.get(&format!("{LAYERS}/knots/versions/x")).await;
    number.refused(400, "SerializationException");
    let arn = node.get(&format!("{LAYERS}?find=LayerVersion&Arn=knots")).await;
    arn.refused(400, "ValidationException");

    let policy = format!("{LAYERS}/knots/versions/1/policy");
    let good = json!({ "StatementId": "s", "Action": "lambda:GetLayerVersion", "Principal": "*" });
    for (member, value) in [
        ("StatementId", json!("a b")),
        ("StatementId", Value::Null),
        ("Action", json!("lambda:*")),
        ("Principal", json!("nobody")),
        ("OrganizationId", json!("o-x")),
    ] {
        let mut body = good.clone();
        body[member] = value;
        node.post(&policy, &body).await.refused(400, "ValidationException");
    }
    let absent = node.post(&format!("{LAYERS}/knots/versions/9/policy"), &good).await;
    absent.refused(404, "ResourceNotFoundException");

    // The node's functions are WebAssembly, which has no `/opt`.
    let arn = "arn:aws:lambda:eu-central-1:000000000000:layer:knots:1";
    let mut create = creation("hello");
    create["Layers"] = json!([arn]);
    let message = node.post(FUNCTIONS, &create).await.refused(400, invalid);
    assert!(message.contains("WebAssembly"), "{message}");
    create["Layers"] = json!([arn.replace("knots:1", "knots:9")]);
    let message = node.post(FUNCTIONS, &create).await.refused(400, invalid);
    assert!(message.ends_with("knots:9 does not exist."), "{message}");
    node.stop().await;
}
