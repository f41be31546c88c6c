//! The program in the tests' container images: tells where it finds itself, as a runtime or as an extension.

#[path = "../../../../examples/native-hello/src/runtime.rs"]
mod runtime;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;

use serde_json::{Value, json};

fn main() -> io::Result<()> {
    let words: Vec<String> = std::env::args().collect();
    if words[0].starts_with("/opt/extensions/") {
        return accompany();
    }
    runtime::serve(|event| serde_json::from_slice(event).map(|event| answer(&words, &event).to_string().into_bytes()))
}

fn answer(words: &[String], event: &Value) -> Value {
    let read: BTreeMap<&str, Option<String>> = texts(&event["read"])
        .map(|path| (path, fs::read_to_string(path).ok()))
        .collect();
    let written: BTreeMap<&str, Option<String>> = texts(&event["write"])
        .map(|path| (path, fs::write(path, "written").err().map(|error| error.kind().to_string())))
        .collect();
    let names = |folder: &str| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    };
    json!({
        "words": words,
        "folder": std::env::current_dir().ok(),
        "environment": std::env::vars().collect::<BTreeMap<_, _>>(),
        "user": fs::metadata("/proc/self").map(|own| own.uid()).ok(),
        "top": names("/"),
        "dev": names("/dev"),
        "read": read,
        "written": written,
    })
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// Registers, tells so by a file, and asks for events for ever.
fn accompany() -> io::Result<()> {
    let address = std::env::var("AWS_LAMBDA_RUNTIME_API").map_err(io::Error::other)?;
    let mut stream = TcpStream::connect(&address)?;
    let body = r#"{"events":["INVOKE"]}"#;
    let register = format!(
        "POST /2020-01-01/extension/register HTTP/1.1\r\nHost: {address}\r\nLambda-Extension-Name: witness\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(register.as_bytes())?;
    let head = head(&mut stream)?;
    let field = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("lambda-extension-identifier").then(|| value.trim().to_owned())
    });
    fs::write("/tmp/witness", "registered")?;
    let identifier = field.unwrap_or_default();
    loop {
        let next = format!(
            "GET /2020-01-01/extension/event/next HTTP/1.1\r\nHost: {address}\r\n\
             Lambda-Extension-Identifier: {identifier}\r\n\r\n"
        );
        stream.write_all(next.as_bytes())?;
        self::head(&mut stream)?;
    }
}

/// The head of a response, whose body is taken too.
fn head(stream: &mut TcpStream) -> io::Result<String> {
    let mut received = Vec::new();
    let mut byte = [0];
    while !received.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        received.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&received).into_owned();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    stream.read_exact(&mut vec![0; length.unwrap_or(0)])?;
    Ok(head)
}
