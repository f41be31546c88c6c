//! The prober as a native bootstrap: does what the event tells it, as the conformance suite asks, over a
//! plain socket to the Runtime API.
#![allow(unsafe_code)]

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process;
use std::time::Duration;

use bowline_foundation::clock::Clock;
use serde_json::{Value, json};

/// What a handler is told beside its event.
#[derive(Default)]
struct Context {
    request_id: String,
    deadline_ms: u64,
    invoked_arn: String,
    client_context: Value,
    count: u64,
}

struct Api {
    stream: BufReader<TcpStream>,
}

impl Api {
    fn connect() -> Self {
        let address = std::env::var("AWS_LAMBDA_RUNTIME_API").expect("the platform names its API");
        let stream = TcpStream::connect(address).expect("the API listens");
        stream.set_nodelay(true).expect("the socket is fresh");
        Self {
            stream: BufReader::new(stream),
        }
    }

    fn request(&mut self, line: &str, body: &[u8]) -> (Vec<(String, String)>, Vec<u8>) {
        let mut message = format!("{line} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
        message.extend_from_slice(body);
        self.send(&message);
        self.receive()
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).expect("the API reads");
    }

    fn receive(&mut self) -> (Vec<(String, String)>, Vec<u8>) {
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).expect("the API answers");
            match line.trim_end().split_once(':') {
                Some((name, value)) => headers.push((name.to_lowercase(), value.trim().to_owned())),
                None if line == "\r\n" => break,
                None if line.is_empty() => process::exit(0),
                None => {}
            }
        }
        let length = field(&headers, "content-length")
            .parse()
            .expect("responses have a length");
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).expect("the body follows");
        (headers, body)
    }

    fn next(&mut self, count: u64) -> (Context, Value) {
        let (headers, body) = self.request("GET /2018-06-01/runtime/invocation/next", b"");
        let context = Context {
            request_id: field(&headers, "lambda-runtime-aws-request-id").to_owned(),
            deadline_ms: field(&headers, "lambda-runtime-deadline-ms").parse().expect("a number"),
            invoked_arn: field(&headers, "lambda-runtime-invoked-function-arn").to_owned(),
            client_context: serde_json::from_str(field(&headers, "lambda-runtime-client-context")).unwrap_or_default(),
            count,
        };
        (context, serde_json::from_slice(&body).expect("events are JSON"))
    }

    /// Streams an answer: pieces of a size, with pauses between them, and an end of any kind.
    fn stream(&mut self, context: &Context, event: &Value) {
        let (id, content_type) = (&context.request_id, text(event, "type"));
        let head = format!(
            "POST /2018-06-01/runtime/invocation/{id}/response HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\n\
             Lambda-Runtime-Function-Response-Mode: streaming\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        self.send(head.as_bytes());
        let bytes = number(event, "bytes") as usize;
        let chunk = format!("{bytes:x}\r\n{}\r\n", "x".repeat(bytes));
        for piece in 0..number(event, "pieces") {
            if piece > 0 {
                sleep(number(event, "pause_ms"));
            }
            self.send(chunk.as_bytes());
        }
        match text(event, "then") {
            "crash" => process::abort(),
            "hang" => sleep(3_600_000),
            "fail" => {
                let payload = json!({"errorType": "KnotError", "errorMessage": "it slipped", "stackTrace": ["main"]});
                self.send(
                    format!(
                        "0\r\nLambda-Runtime-Function-Error-Type: KnotError\r\n\
                         Lambda-Runtime-Function-Error-Body: {}\r\n\r\n",
                        base64(payload.to_string().as_bytes())
                    )
                    .as_bytes(),
                );
            }
            _ => self.send(b"0\r\n\r\n"),
        }
        self.receive();
    }

    fn post(&mut self, context: &Context, kind: &str, body: &[u8]) {
        let id = &context.request_id;
        self.request(&format!("POST /2018-06-01/runtime/invocation/{id}/{kind}"), body);
    }
}

fn field<'a>(headers: &'a [(String, String)], name: &str) -> &'a str {
    let found = headers.iter().find(|(found, _)| found == name);
    found.map_or("", |(_, value)| value)
}

fn main() {
    if let Some(event) = std::env::args().nth(1) {
        // Outside of any sandbox, as a control: the event is the argument.
        let event = serde_json::from_str(&event).expect("the event is JSON");
        println!("{}", perform(&event, &Context::default()));
        return;
    }
    initialise();
    let mut api = Api::connect();
    for count in 1.. {
        let (context, event) = api.next(count);
        serve(&mut api, &context, &event);
    }
}

fn initialise() {
    match std::env::var("PROBER_INIT").unwrap_or_default().as_str() {
        "exit" => process::exit(7),
        "crash" => process::abort(),
        how => {
            if let Some(ms) = how.strip_prefix("sleep:") {
                sleep(ms.parse().expect("a number"));
            }
        }
    }
}

fn serve(api: &mut Api, context: &Context, event: &Value) {
    match text(event, "do") {
        "output_bytes" => {
            let letters = "x".repeat(number(event, "bytes") as usize - 2);
            api.post(context, "response", format!("\"{letters}\"").as_bytes());
        }
        "stream" => api.stream(context, event),
        "answer_twice" => {
            api.post(context, "response", br#"{"ok": true, "answer": 1}"#);
            api.post(context, "response", br#"{"ok": true, "answer": 2}"#);
        }
        "fail" => {
            let (error_type, message) = (text(event, "type"), text(event, "message"));
            let error = json!({"errorType": error_type, "errorMessage": message, "stackTrace": ["main"]});
            api.post(context, "error", error.to_string().as_bytes());
        }
        _ => api.post(context, "response", perform(event, context).to_string().as_bytes()),
    }
}

fn perform(event: &Value, context: &Context) -> Value {
    match verb(event, context) {
        Some(Ok(mut answer)) => {
            if answer.get("ok").is_none() {
                answer["ok"] = true.into();
            }
            answer
        }
        Some(Err(error)) => json!({"ok": false, "error": error.to_string()}),
        None => json!({"ok": false, "error": "unsupported"}),
    }
}

fn verb(event: &Value, context: &Context) -> Option<io::Result<Value>> {
    Some(match text(event, "do") {
        "echo" => Ok(json!({"value": event["value"]})),
        "context" => Ok(json!({
            "request_id": context.request_id,
            "deadline_ms": context.deadline_ms,
            "invoked_arn": context.invoked_arn,
            "function_name": std::env::var("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_default(),
            "client_context": context.client_context,
        })),
        "count" => Ok(json!({"count": context.count})),
        "read_env" => Ok(json!({"value": std::env::var(text(event, "name")).ok()})),
        "log" => log(event),
        "allocate" => allocate(number(event, "mib")),
        "spin" => spin(event["ms"].as_u64()),
        "sleep" => {
            sleep(number(event, "ms"));
            Ok(json!({}))
        }
        "answer_never" => loop {
            // SAFETY: takes no argument and touches no memory.
            unsafe { libc::pause() };
        },
        "exit" => process::exit(number(event, "code") as i32),
        "crash" => process::abort(),
        "read_path" => fs::read(text(event, "path")).map(|bytes| json!({"text": String::from_utf8_lossy(&bytes)})),
        "write_path" => fs::write(text(event, "path"), text(event, "text")).map(|()| json!({})),
        "fill_tmp" => fill_tmp(number(event, "mib")),
        "find_in_proc" => find_in_proc(text(event, "needle").as_bytes()),
        "open_socket" => open_socket(text(event, "address")),
        "ptrace" => ptrace(),
        "mount" => mount(),
        "fork_bomb" => Ok(fork_bomb(number(event, "processes"))),
        _ => return None,
    })
}

fn base64(bytes: &[u8]) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes)
}

fn text<'a>(event: &'a Value, name: &str) -> &'a str {
    event[name].as_str().unwrap_or_default()
}

fn number(event: &Value, name: &str) -> u64 {
    event[name].as_u64().unwrap_or_default()
}

#[allow(clippy::disallowed_methods, reason = "sleeping is what was asked for")]
fn sleep(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

fn log(event: &Value) -> io::Result<Value> {
    let line = format!("{}\n", text(event, "text"));
    for _ in 0..event["repeat"].as_u64().unwrap_or(1) {
        io::stderr().write_all(line.as_bytes())?;
    }
    Ok(json!({}))
}

fn allocate(mib: u64) -> io::Result<Value> {
    let mut block = vec![0u8; (mib as usize) << 20];
    for page in block.chunks_mut(4096) {
        page[0] = 1;
    }
    std::hint::black_box(&block);
    Ok(json!({}))
}

fn spin(ms: Option<u64>) -> io::Result<Value> {
    let Some(ms) = ms else {
        loop {
            std::hint::spin_loop();
        }
    };
    let clock = Clock::system();
    let started = clock.monotonic();
    while clock.monotonic().since(started) < Duration::from_millis(ms) {}
    Ok(json!({}))
}

fn fill_tmp(mib: u64) -> io::Result<Value> {
    let block = vec![0u8; 1 << 20];
    let fill = || {
        let mut file = fs::File::create("/tmp/fill")?;
        (0..mib).try_for_each(|_| file.write_all(&block))
    };
    let filled = fill();
    fs::remove_file("/tmp/fill")?;
    filled.map(|()| json!({}))
}

fn find_in_proc(needle: &[u8]) -> io::Result<Value> {
    let mut found = false;
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        for name in ["environ", "cmdline"] {
            let content = fs::read(path.join(name)).unwrap_or_default();
            found |= content.windows(needle.len()).any(|window| window == needle);
        }
    }
    Ok(json!({"found": found}))
}

fn open_socket(address: &str) -> io::Result<Value> {
    let address: SocketAddr = address.parse().map_err(io::Error::other)?;
    TcpStream::connect_timeout(&address, Duration::from_secs(5)).map(|_| json!({}))
}

fn check(result: impl Into<i64>) -> io::Result<()> {
    if result.into() < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A child that sleeps until it is killed.
fn fork() -> io::Result<libc::pid_t> {
    // SAFETY: this program has one thread, and the child calls nothing but `pause`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        loop {
            // SAFETY: takes no argument and touches no memory.
            unsafe { libc::pause() };
        }
    }
    check(child).map(|()| child)
}

fn kill(child: libc::pid_t) {
    // SAFETY: the process is a child of ours that was not waited for yet.
    unsafe { libc::kill(child, libc::SIGKILL) };
}

fn wait(child: libc::pid_t) {
    // SAFETY: a null pointer means that the status is not wanted.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
}

fn ptrace() -> io::Result<Value> {
    let child = fork()?;
    let null = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: attaching takes no pointers.
    let attached = check(unsafe { libc::ptrace(libc::PTRACE_ATTACH, child, null, null) });
    if attached.is_ok() {
        wait(child);
        // SAFETY: detaching takes no pointers.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, child, null, null) };
    }
    kill(child);
    wait(child);
    attached.map(|()| json!({}))
}

fn mount() -> io::Result<Value> {
    let target = c"/tmp/mounted";
    fs::create_dir("/tmp/mounted")?;
    // SAFETY: the texts end with a zero byte; a tmpfs needs no data.
    let mounted = check(unsafe {
        libc::mount(
            c"tmpfs".as_ptr(),
            target.as_ptr(),
            c"tmpfs".as_ptr(),
            0,
            std::ptr::null(),
        )
    });
    if mounted.is_ok() {
        // SAFETY: the text ends with a zero byte.
        unsafe { libc::umount(target.as_ptr()) };
    }
    fs::remove_dir("/tmp/mounted")?;
    mounted.map(|()| json!({}))
}

fn fork_bomb(processes: u64) -> Value {
    let mut children = Vec::new();
    let mut error = None;
    for _ in 0..processes {
        match fork() {
            Ok(child) => children.push(child),
            Err(failed) => {
                error = Some(failed.to_string());
                break;
            }
        }
    }
    children.iter().for_each(|child| kill(*child));
    children.iter().for_each(|child| wait(*child));
    json!({"ok": error.is_none(), "error": error, "started": children.len()})
}
