//! The example functions: where they lie, what they are asked, and what a right answer holds.

use serde_json::Value;

use crate::package::Target;

/// How a Cargo example is built; other examples are taken as they are.
#[derive(Clone, Copy, Debug)]
pub enum Build {
    AsIs,
    Wasm(&'static str),
    Native,
}

/// The kind of sandbox an example shows.
#[derive(Clone, Copy, Debug)]
pub enum Sandbox {
    WasmReactor,
    WasmCommand,
    WasmHttp,
    Linux,
}

/// One example.
#[derive(Clone, Copy, Debug)]
pub struct Example {
    pub name: &'static str,
    /// The path below `examples`.
    pub path: &'static str,
    pub sandbox: Sandbox,
    build: Build,
    pub event: &'static str,
    /// A text that every right answer holds.
    expected: &'static str,
}

const EVENT: &str = r#"{"name": "Bowline"}"#;
/// A request as API Gateway's HTTP APIs hand it to a function.
const HTTP_EVENT: &str = r#"{
    "version": "2.0", "routeKey": "$default", "rawPath": "/hello", "rawQueryString": "name=Bowline",
    "queryStringParameters": {"name": "Bowline"}, "headers": {"host": "localhost"},
    "requestContext": {"http": {"method": "GET", "path": "/hello", "protocol": "HTTP/1.1"}},
    "isBase64Encoded": false
}"#;

pub const EXAMPLES: [Example; 6] = [
    Example {
        name: "rust-hello",
        path: "rust-hello",
        sandbox: Sandbox::WasmReactor,
        build: Build::Wasm("wasm32-wasip1"),
        event: EVENT,
        expected: "hello, Bowline",
    },
    Example {
        name: "rust-command",
        path: "rust-command",
        sandbox: Sandbox::WasmCommand,
        build: Build::Wasm("wasm32-wasip1"),
        event: EVENT,
        expected: "hello, Bowline",
    },
    Example {
        name: "rust-http",
        path: "rust-http",
        sandbox: Sandbox::WasmHttp,
        build: Build::Wasm("wasm32-wasip2"),
        event: HTTP_EVENT,
        expected: "GET /hello?name=Bowline",
    },
    Example {
        name: "python-hello",
        path: "python-hello",
        sandbox: Sandbox::Linux,
        build: Build::AsIs,
        event: EVENT,
        expected: "hello, Bowline",
    },
    Example {
        name: "node-hello",
        path: "node-hello",
        sandbox: Sandbox::Linux,
        build: Build::AsIs,
        event: EVENT,
        expected: "hello, Bowline",
    },
    Example {
        name: "native-hello",
        path: "native-hello",
        sandbox: Sandbox::Linux,
        build: Build::Native,
        event: EVENT,
        expected: "hello, Bowline",
    },
];

impl Sandbox {
    pub const fn name(self) -> &'static str {
        match self {
            Self::WasmReactor => "wasm, reactor",
            Self::WasmCommand => "wasm, command",
            Self::WasmHttp => "wasm, wasi:http",
            Self::Linux => "linux",
        }
    }
}

impl Example {
    /// What to build for; nothing if there is nothing to build.
    pub fn target(&self) -> Option<Target> {
        match self.build {
            Build::AsIs => None,
            Build::Wasm(triple) => Some(Target::named(triple)),
            Build::Native => Some(Target::native()),
        }
    }

    /// Whether the answer is the right one.
    pub fn is_right(&self, answer: &[u8]) -> bool {
        let is_json = serde_json::from_slice::<Value>(answer).is_ok();
        is_json && String::from_utf8_lossy(answer).contains(self.expected)
    }
}
