//! What must be refused is refused with Lambda's own error, and leaves nothing behind.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_tests::artifact::zip_of;
use bowline_tests::{Artifact, Lambda, Node, Reply, patience};
use serde_json::{Value, json};

/// Refused code may be written and then collected; it must be gone after this.
const LEFT_BEHIND_MAX: Duration = Duration::from_secs(10);

/// A module that a Wasm sandbox takes: it ends at once.
const COMMAND: &[u8] = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x05\x03\x01\0\x01\
\x07\x13\x02\x06_start\0\0\x06memory\x02\0\x0a\x04\x01\x02\0\x0b";

/// A request that must be refused.
struct Case {
    name: &'static str,
    status: u16,
    error: &'static str,
    /// Stands in the message.
    message: &'static str,
    request: fn(&Lambda) -> Result<Reply>,
}

const CASES: &[Case] = &[
    Case {
        name: "bytes that are no zip",
        status: 400,
        error: "InvalidParameterValueException",
        message: "unzip",
        request: |lambda| create(lambda, Artifact::provided(b"this is no archive".to_vec()), json!({})),
    },
    Case {
        name: "a zip whose end is cut off",
        status: 400,
        error: "InvalidParameterValueException",
        message: "unzip",
        request: |lambda| {
            let whole = zip_of(&[("bootstrap.wasm", COMMAND)])?;
            create(
                lambda,
                Artifact::provided(whole[..whole.len() - 30].to_vec()),
                json!({}),
            )
        },
    },
    Case {
        name: "a zip with damaged content",
        status: 400,
        error: "InvalidParameterValueException",
        message: "unzip",
        request: |lambda| {
            let mut damaged = zip_of(&[("bootstrap", &[b'x'; 4096]), ("more", &[b'y'; 4096])])?;
            let name_end = damaged
                .windows(9)
                .position(|window| window == b"bootstrap")
                .context("a name")?
                + 9;
            damaged[name_end] ^= 0xff;
            create(lambda, Artifact::provided(damaged), json!({}))
        },
    },
    Case {
        name: "a zip bomb",
        status: 400,
        error: "InvalidParameterValueException",
        message: "262144000",
        request: |lambda| {
            let zeros = vec![0; 64 << 20];
            let files = ["bootstrap", "a", "b", "c", "d"].map(|name| (name, zeros.as_slice()));
            create(lambda, Artifact::provided(zip_of(&files)?), json!({}))
        },
    },
    Case {
        name: "a zip that climbs out of its folder",
        status: 400,
        error: "InvalidParameterValueException",
        message: "",
        request: |lambda| {
            let climbing = zip_of(&[("bootstrap", b"#!/bin/sh\n"), ("../../climbed", b"out")])?;
            create(lambda, Artifact::provided(climbing), json!({}))
        },
    },
    Case {
        name: "a module that is none",
        status: 400,
        error: "InvalidParameterValueException",
        message: "",
        request: |lambda| {
            let code = zip_of(&[("bootstrap.wasm", b"this is no module")])?;
            create(lambda, Artifact::provided(code), json!({}))
        },
    },
    Case {
        name: "a damaged module behind a good beginning",
        status: 400,
        error: "InvalidParameterValueException",
        message: "not valid",
        request: |lambda| {
            let code = zip_of(&[("bootstrap.wasm", b"\0asm\x01\0\0\0but then no sections")])?;
            create(lambda, Artifact::provided(code), json!({}))
        },
    },
    Case {
        name: "an unknown runtime",
        status: 400,
        error: "InvalidParameterValueException",
        message: "cobol85",
        request: |lambda| create(lambda, good()?, json!({"Runtime": "cobol85"})),
    },
    Case {
        name: "an environment of 5 KB",
        status: 400,
        error: "InvalidParameterValueException",
        message: "4KB",
        request: |lambda| {
            create(
                lambda,
                good()?,
                json!({"Environment": {"Variables": {"BIG": "x".repeat(5 << 10)}}}),
            )
        },
    },
    Case {
        name: "a timeout of an hour",
        status: 400,
        error: "ValidationException",
        message: "900",
        request: |lambda| create(lambda, good()?, json!({"Timeout": 3600})),
    },
    Case {
        name: "a handler with a space",
        status: 400,
        error: "ValidationException",
        message: "handler",
        request: |lambda| create(lambda, good()?, json!({"Handler": "two words"})),
    },
    Case {
        name: "a body that is no JSON",
        status: 400,
        error: "InvalidRequestContentException",
        message: "",
        request: |lambda| lambda.send("POST", "/2015-03-31/functions", &[], b"{\"FunctionName\": "),
    },
    Case {
        name: "a duplicate name",
        status: 409,
        error: "ResourceConflictException",
        message: "already exist",
        request: |lambda| lambda.create("there", &good()?, json!({})),
    },
    Case {
        name: "a stale revision with new code",
        status: 412,
        error: "PreconditionFailedException",
        message: "",
        request: |lambda| {
            let body = json!({"ZipFile": encoded(&other()?), "RevisionId": "00000000-0000-4000-8000-000000000000"});
            lambda.put("/2015-03-31/functions/there/code", &body)
        },
    },
    Case {
        name: "corrupt code for a function that is there",
        status: 400,
        error: "InvalidParameterValueException",
        message: "unzip",
        request: |lambda| {
            lambda.put(
                "/2015-03-31/functions/there/code",
                &json!({"ZipFile": encoded(b"no archive")}),
            )
        },
    },
    Case {
        name: "an event of 7 MB",
        status: 413,
        error: "RequestTooLargeException",
        message: "",
        request: |lambda| lambda.invoke("there", &Value::String("x".repeat(7 << 20))),
    },
    Case {
        name: "a function that is not there",
        status: 404,
        error: "ResourceNotFoundException",
        message: "",
        request: |lambda| lambda.invoke("nowhere", &json!({})),
    },
];

fn good() -> Result<Artifact> {
    Ok(Artifact::provided(zip_of(&[("bootstrap.wasm", COMMAND)])?))
}

fn other() -> Result<Vec<u8>> {
    zip_of(&[("bootstrap.wasm", COMMAND), ("NOTE", b"another digest")])
}

fn encoded(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::prelude::BASE64_STANDARD.encode(bytes)
}

fn create(lambda: &Lambda, artifact: Artifact, settings: Value) -> Result<Reply> {
    lambda.create("refused", &artifact, settings)
}

/// Every file below `folder` but the database's own and the logs, whose names come and go by themselves.
fn files(folder: &Path) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                open.push(path);
                continue;
            }
            let text = path.to_string_lossy().into_owned();
            if !["sqlite", ".db", "-wal", "-shm", ".log", "/logs/"]
                .iter()
                .any(|mark| text.contains(mark))
            {
                found.insert(text);
            }
        }
    }
    Ok(found)
}

#[test]
fn bad_input_is_refused_and_leaves_nothing_behind() -> Result<()> {
    let node = Node::start()?;
    let lambda = node.lambda();
    // The control: the same request with good code and settings succeeds, and does leave files.
    let empty = files(&node.data())?;
    lambda.deploy("there", &good()?, json!({}))?;
    let before = files(&node.data())?;
    ensure!(
        before.len() > empty.len(),
        "a created function must have left files in {}",
        node.data().display()
    );
    for case in CASES {
        let reply = (case.request)(&lambda).with_context(|| case.name)?;
        let body = String::from_utf8_lossy(&reply.body).into_owned();
        let got = (reply.status, reply.error());
        ensure!(got == (case.status, case.error), "{}: got {got:?}: {body}", case.name);
        ensure!(
            body.contains(case.message),
            "{}: `{}` is not in {body}",
            case.name,
            case.message
        );
        ensure!(
            lambda.functions()? == ["there"],
            "{}: it left a function behind",
            case.name
        );
        let clean = patience::until(LEFT_BEHIND_MAX, || {
            files(&node.data()).ok().filter(|now| *now == before)
        });
        ensure!(
            clean.is_some(),
            "{}: it left files behind: {:?}",
            case.name,
            files(&node.data())?.difference(&before).collect::<Vec<_>>()
        );
    }
    let climbed = node.data().join("../climbed").exists() || Path::new("/climbed").exists();
    ensure!(!climbed, "a zip wrote outside its folder");
    Ok(())
}

#[test]
fn a_module_that_cannot_be_linked_fails_and_can_be_removed() -> Result<()> {
    let node = Node::start()?;
    let lambda = node.lambda();
    let empty = files(&node.data())?;
    // It is valid, but only linking, which follows after the answer, tells that `fd_write` is no `func()`.
    let module = wat::parse_str(
        r#"(module (import "wasi_snapshot_preview1" "fd_write" (func)) (memory (export "memory") 1)
            (func (export "_start")))"#,
    )?;
    let code = zip_of(&[("bootstrap.wasm", &module)])?;
    lambda
        .create("broken", &Artifact::provided(code), json!({}))?
        .expect(201)?;
    ensure!(
        lambda.wait_until_active("broken").is_err(),
        "a broken module became active"
    );
    let path = "/2015-03-31/functions/broken";
    let configuration = lambda.get(path)?.expect(200)?.json()["Configuration"].clone();
    ensure!(configuration["State"] == "Failed", "{configuration}");
    ensure!(
        configuration["StateReason"]
            .as_str()
            .is_some_and(|reason| !reason.is_empty()),
        "{configuration}"
    );
    ensure!(
        lambda.invoke("broken", &json!({}))?.status >= 400,
        "a failed function was invoked"
    );
    ensure!(
        (200..300).contains(&lambda.delete(path)?.status),
        "a failed function cannot be removed"
    );
    let clean = patience::until(LEFT_BEHIND_MAX, || files(&node.data()).ok().filter(|now| *now == empty));
    ensure!(
        clean.is_some(),
        "it left behind {:?}",
        files(&node.data())?.difference(&empty).collect::<Vec<_>>()
    );
    Ok(())
}

#[test]
fn a_wrong_handler_is_the_functions_error() -> Result<()> {
    let node = Node::start()?;
    let lambda = node.lambda();
    for (name, handler, error) in [
        ("no-module", "absent.handler", "Runtime.ImportModuleError"),
        ("no-function", "app.absent", "Runtime.HandlerNotFound"),
    ] {
        lambda.deploy(name, &Artifact::python()?, json!({"Handler": handler}))?;
        let reply = lambda.invoke(name, &json!({}))?.expect(200)?;
        ensure!(
            reply.header("x-amz-function-error") == "Unhandled",
            "{name}: {:?}",
            reply.headers
        );
        ensure!(reply.json()["errorType"] == error, "{name}: {}", reply.json());
    }
    // The control: the right handler of the same code answers.
    lambda.deploy("right", &Artifact::python()?, json!({}))?;
    let reply = lambda.invoke("right", &json!({}))?.expect(200)?;
    ensure!(reply.header("x-amz-function-error").is_empty(), "{}", reply.json());
    Ok(())
}

#[test]
fn unknown_operations_are_answered_as_the_service_does() -> Result<()> {
    let node = Node::start()?;
    let lambda = node.lambda();
    for path in ["/2015-03-31/nonsense", "/1999-01-01/functions"] {
        let reply = lambda.get(path)?;
        ensure!(
            !reply.error().is_empty(),
            "`{path}`: no exception in {:?}",
            reply.headers
        );
        ensure!(reply.json().is_object(), "`{path}`: the body is no JSON object");
        ensure!((400..500).contains(&reply.status), "`{path}`: {}", reply.status);
    }
    Ok(())
}
