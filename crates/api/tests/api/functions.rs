//! The life of a function.

use serde_json::{Value, json};

use crate::harness::{FUNCTIONS, MODULE, TestNode, creation, request};

#[tokio::test]
async fn creation_answers_with_the_whole_configuration() {
    let node = TestNode::start().await;
    let mut body = creation("hello");
    body["Environment"] = json!({ "Variables": { "GREETING": "hi" } });
    body["Tags"] = json!({ "team": "red" });
    body["Timeout"] = json!(9);
    let answer = node.post(FUNCTIONS, &body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert!(answer.header("x-amzn-requestid").is_some());
    let mut shown = answer.json();
    // Preparing may end before the answer is made.
    assert!(shown["State"] == "Pending" || shown["State"] == "Active");
    node.settled("hello").await;
    shown = node.get(&format!("{FUNCTIONS}/hello/configuration")).await.json();
    insta::assert_json_snapshot!("configuration", without_revision(shown));
    node.stop().await;
}

fn without_revision(mut shown: Value) -> Value {
    let revision = shown.as_object_mut().and_then(|members| members.remove("RevisionId"));
    assert_eq!(revision.and_then(|text| text.as_str().map(str::len)), Some(36));
    shown
}

#[tokio::test]
async fn get_function_shows_code_tags_and_concurrency() {
    let node = TestNode::start().await;
    let mut body = creation("hello");
    body["Tags"] = json!({ "team": "red" });
    node.post(FUNCTIONS, &body).await;
    node.settled("hello").await;
    node.put(
        "/2017-10-31/functions/hello/concurrency",
        &json!({ "ReservedConcurrentExecutions": 5 }),
    )
    .await;
    let shown = node.get(&format!("{FUNCTIONS}/hello")).await.json();
    assert_eq!(shown["Tags"], json!({ "team": "red" }));
    assert_eq!(shown["Concurrency"], json!({ "ReservedConcurrentExecutions": 5 }));
    assert_eq!(shown["Configuration"]["FunctionName"], "hello");
    assert_eq!(shown["Code"]["RepositoryType"], "S3");
    let location = shown["Code"]["Location"].as_str().expect("a link");
    let path = location
        .strip_prefix("http://node.test")
        .expect("the caller's name for the node");
    assert_eq!(node.get(path).await.body, MODULE);
    node.stop().await;
}

#[tokio::test]
async fn a_function_goes_by_all_its_names() {
    let node = TestNode::start().await;
    node.create("hello").await;
    let plain = "arn:aws:lambda:eu-central-1:000000000000:function:hello";
    for (name, arn) in [
        ("hello", plain.to_owned()),
        ("hello:$LATEST", format!("{plain}:$LATEST")),
        ("hello?Qualifier=%24LATEST", format!("{plain}:$LATEST")),
        ("000000000000:function:hello", plain.to_owned()),
        (
            "arn%3Aaws%3Alambda%3Aeu-central-1%3A000000000000%3Afunction%3Ahello",
            plain.to_owned(),
        ),
        (plain, plain.to_owned()),
    ] {
        let shown = node.get(&format!("{FUNCTIONS}/{name}")).await.json();
        assert_eq!(shown["Configuration"]["FunctionArn"], arn.as_str(), "{name}");
    }
    let other = node.get(&format!("{FUNCTIONS}/111111111111:function:hello")).await;
    other.refused(403, "AccessDeniedException");
    node.stop().await;
}

#[tokio::test]
async fn a_function_of_another_region_is_not_reached() {
    let node = TestNode::start().await;
    node.create("hello").await;
    let far = "arn:aws:lambda:eu-west-1:000000000000:function:hello";
    let words = "Functions from 'eu-west-1' are not reachable in this region ('eu-central-1')";
    for (method, path) in [
        ("GET", format!("{FUNCTIONS}/{far}")),
        ("GET", format!("{FUNCTIONS}/eu-west-1:000000000000:function:hello")),
        ("DELETE", format!("{FUNCTIONS}/{far}")),
        ("POST", format!("{FUNCTIONS}/{far}/invocations")),
        (
            "POST",
            format!("/2021-11-15/functions/{far}/response-streaming-invocations"),
        ),
        ("GET", format!("{FUNCTIONS}/{far}/policy")),
        ("GET", format!("/2021-10-31/functions/{far}/url")),
        ("GET", format!("/2017-03-31/tags/{far}")),
        ("GET", format!("/2026-07-09/resource-policy/{far}")),
        ("GET", format!("/2025-12-01/functions/{far}/durable-executions")),
        ("GET", format!("/2015-03-31/event-source-mappings?FunctionName={far}")),
        ("GET", format!("/v1/functions/{far}/code")),
    ] {
        let answer = node.request(method, &path, "{}".into()).await;
        assert_eq!(
            answer.refused(404, "ResourceNotFoundException"),
            words,
            "{method} {path}"
        );
    }
    // The control: it was left as it is, and the ARN of this region leads to it.
    let near = far.replace("eu-west-1", "eu-central-1");
    assert_eq!(node.get(&format!("{FUNCTIONS}/{near}")).await.status, 200);
    let layer = "arn:aws:lambda:eu-west-1:000000000000:layer:knots";
    node.get(&format!("/2018-10-31/layers/{layer}/versions"))
        .await
        .refused(404, "ResourceNotFoundException");
    let near = layer.replace("eu-west-1", "eu-central-1");
    let listed = node.get(&format!("/2018-10-31/layers/{near}/versions")).await;
    assert_eq!(listed.status, 200, "{listed:?}");
    node.stop().await;
}

#[tokio::test]
async fn the_access_key_chooses_the_account() {
    let node = TestNode::start().await;
    let credential = "AWS4-HMAC-SHA256 Credential=123456789012/20261120/eu-central-1/lambda/aws4_request, Signature=0";
    let headers = [("authorization", credential)];
    let body = creation("hello").to_string().into();
    let created = node.send(request("POST", FUNCTIONS, &headers, body)).await.json();
    assert_eq!(
        created["FunctionArn"],
        "arn:aws:lambda:eu-central-1:123456789012:function:hello"
    );
    node.get(&format!("{FUNCTIONS}/hello"))
        .await
        .refused(404, "ResourceNotFoundException");
    node.stop().await;
}

#[tokio::test]
async fn creation_refuses_what_the_service_refuses() {
    let node = TestNode::start().await;
    let missing = node.post(FUNCTIONS, &json!({})).await;
    let message = missing.refused(400, "ValidationException");
    assert!(
        message.starts_with("3 validation errors detected: Value null at 'functionName'"),
        "{message}"
    );

    let check = async |member: &str, value: Value, status: u16, name: &str| {
        let mut body = creation("hello");
        body[member] = value;
        node.post(FUNCTIONS, &body).await.refused(status, name)
    };
    let invalid = "InvalidParameterValueException";
    check("Runtime", Value::Null, 400, invalid).await;
    check("Runtime", json!("cobol85"), 400, invalid).await;
    check("PackageType", json!("Image"), 400, invalid).await;
    check("PackageType", json!("Tar"), 400, "ValidationException").await;
    check("FunctionName", json!("no spaces"), 400, "ValidationException").await;
    check("Timeout", json!("3"), 400, "SerializationException").await;
    check("Code", json!({}), 400, invalid).await;
    check("Code", json!({ "ZipFile": "?" }), 400, "SerializationException").await;
    check("Code", json!({ "ZipFile": "Z2FyYmFnZQ==" }), 400, invalid).await;
    check("Code", json!({ "S3Bucket": "b", "S3Key": "k" }), 400, invalid).await;
    check("Code", json!({ "ImageUri": "i" }), 400, invalid).await;
    check("Architectures", json!(["mips"]), 400, "ValidationException").await;
    for (member, value) in [
        ("FileSystemConfigs", json!([{}])),
        ("SnapStart", json!({ "ApplyOn": "PublishedVersions" })),
    ] {
        let message = check(member, value, 400, invalid).await;
        assert!(message.contains(member), "{message}");
    }
    let message = check("KMSKeyArn", json!("nope"), 400, "ValidationException").await;
    assert!(message.contains("'kMSKeyArn'"), "{message}");
    for bad in [
        "foo",
        "arn:aws:SQS:us-east-1:000000000000:q",
        "arn:other:sqs:us-east-1:000000000000:q",
        "arn:aws:sqs",
    ] {
        let message = check(
            "DeadLetterConfig",
            json!({ "TargetArn": bad }),
            400,
            "ValidationException",
        )
        .await;
        assert!(message.contains("'deadLetterConfig.targetArn'"), "{message}");
    }
    let absent = json!({ "TargetArn": "arn:aws:sqs:eu-central-1:000000000000:absent" });
    let message = check("DeadLetterConfig", absent, 400, invalid).await;
    for part in ["absent", "bowline stream create", "--sqs-endpoint"] {
        assert!(message.contains(part), "{message}");
    }
    let function = json!({ "TargetArn": "arn:aws:lambda:eu-central-1:000000000000:function:q" });
    let message = check("DeadLetterConfig", function, 400, invalid).await;
    assert!(message.contains("dead-letter"), "{message}");
    let listed = node.get(FUNCTIONS).await.json();
    assert_eq!(listed, json!({ "Functions": [] }), "nothing is left behind");
    node.create("hello").await;
    let twice = node.post(FUNCTIONS, &creation("hello")).await;
    twice.refused(409, "ResourceConflictException");
    node.stop().await;
}

#[tokio::test]
async fn code_and_configuration_change_under_a_revision() {
    let node = TestNode::start().await;
    let created = node.create("hello").await;
    let path = format!("{FUNCTIONS}/hello/configuration");
    let stale = json!({ "Description": "x", "RevisionId": "00000000-0000-4000-8000-000000000000" });
    node.put(&path, &stale)
        .await
        .refused(412, "PreconditionFailedException");

    let change = json!({ "Description": "new", "MemorySize": 256, "TracingConfig": { "Mode": "Active" } });
    let changed = node.put(&path, &change).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    let settled = node.settled("hello").await;
    assert_eq!(settled["Description"], "new");
    assert_eq!(settled["MemorySize"], 256);
    assert_eq!(settled["TracingConfig"], json!({ "Mode": "Active" }));
    assert_ne!(settled["RevisionId"], created["RevisionId"]);

    let code = json!({ "ZipFile": "AGFzbQEAAAAA", "Publish": true });
    let updated = node.put(&format!("{FUNCTIONS}/hello/code"), &code).await.json();
    assert_eq!(updated["CodeSize"], 9);
    assert_eq!(updated["Version"], "1");
    node.settled("hello").await;
    node.put(&path, &json!({ "MemorySize": 1 }))
        .await
        .refused(400, "ValidationException");
    node.stop().await;
}

#[tokio::test]
async fn functions_are_listed_in_pages() {
    let node = TestNode::start().await;
    for name in ["a", "b", "c"] {
        node.create(name).await;
    }
    let names = |page: &Value| -> Vec<String> {
        let functions = page["Functions"].as_array().expect("a list");
        functions
            .iter()
            .map(|shown| shown["FunctionName"].to_string())
            .collect()
    };
    let first = node.get(&format!("{FUNCTIONS}?MaxItems=2")).await.json();
    assert_eq!(names(&first), ["\"a\"", "\"b\""]);
    let marker = first["NextMarker"].as_str().expect("more follows");
    let second = node
        .get(&format!("{FUNCTIONS}/?MaxItems=2&Marker={marker}"))
        .await
        .json();
    assert_eq!(names(&second), ["\"c\""]);
    assert!(second.get("NextMarker").is_none());
    let all = node.get(&format!("{FUNCTIONS}?FunctionVersion=ALL")).await.json();
    let arn = all["Functions"][0]["FunctionArn"].as_str().expect("an ARN");
    assert!(arn.ends_with(":function:a:$LATEST"), "{arn}");
    for bad in ["MaxItems=0", "MaxItems=10001", "FunctionVersion=SOME"] {
        node.get(&format!("{FUNCTIONS}?{bad}"))
            .await
            .refused(400, "ValidationException");
    }
    node.stop().await;
}

#[tokio::test]
async fn a_deleted_function_is_gone() {
    let node = TestNode::start().await;
    node.create("hello").await;
    let path = format!("{FUNCTIONS}/hello");
    assert_eq!(node.delete(&path).await.status, 200);
    let message = node.get(&path).await.refused(404, "ResourceNotFoundException");
    assert!(
        message.contains("arn:aws:lambda:eu-central-1:000000000000:function:hello"),
        "{message}"
    );
    node.delete(&path).await.refused(404, "ResourceNotFoundException");
    node.stop().await;
}
