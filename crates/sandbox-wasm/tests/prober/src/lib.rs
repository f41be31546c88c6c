//! The prober of the Wasm sandboxes: does what the event tells it.

use std::cell::Cell;
use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use bowline_guest::{Error, Event, handler};
use serde_json::{Value, json};

handler!(serve, init = prepare);

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

fn prepare() {
    match std::env::var("PROBER_INIT").unwrap_or_default().as_str() {
        "" => {}
        "exit" => std::process::exit(7),
        "crash" => std::process::abort(),
        other => {
            let ms = other.strip_prefix("sleep:").and_then(|ms| ms.parse().ok());
            sleep(Duration::from_millis(ms.expect("a known way to begin")));
        }
    }
}

fn serve(event: Event<'_>) -> Result<Value, Error> {
    COUNT.set(COUNT.get() + 1);
    let asked: Value = event.json()?;
    let text = |name: &str| asked[name].as_str().unwrap_or_default().to_owned();
    let number = |name: &str| asked[name].as_u64();
    let done = match text("do").as_str() {
        "echo" => json!({"ok": true, "value": asked["value"]}),
        "context" => context(event),
        "count" => json!({"ok": true, "count": COUNT.get()}),
        "read_env" => json!({"ok": true, "value": std::env::var(text("name")).ok()}),
        "log" => {
            (0..number("repeat").unwrap_or(1)).for_each(|_| eprintln!("{}", text("text")));
            json!({"ok": true})
        }
        "allocate" => allocate(number("mib").unwrap_or(0) as usize),
        "spin" => spin(number("ms")),
        "sleep" => {
            sleep(Duration::from_millis(number("ms").unwrap_or(0)));
            json!({"ok": true})
        }
        "answer_never" => loop {
            sleep(Duration::from_secs(3600));
        },
        "stream" => return stream(event, &asked),
        "output_bytes" => Value::from("a".repeat(number("bytes").unwrap_or(2) as usize - 2)),
        "fail" => return Err(Error::new(text("type"), text("message")).at("prober")),
        "panic" => panic!("{}", text("message")),
        "exit" => std::process::exit(number("code").unwrap_or(0) as i32),
        "crash" => std::process::abort(),
        "read_path" => match fs::read(text("path")) {
            Ok(bytes) => json!({"ok": true, "text": String::from_utf8_lossy(&bytes)}),
            Err(error) => refused(error),
        },
        "write_path" => attempt(fs::write(text("path"), text("text"))),
        "fill_tmp" => attempt(fs::write("/tmp/fill", b"x")),
        "find_in_proc" => match fs::read_dir("/proc") {
            Ok(_) => json!({"ok": true, "found": true}),
            Err(error) => refused(error),
        },
        "open_socket" => attempt(TcpStream::connect(text("address")).map(|_| ())),
        _ => json!({"ok": false, "error": "unsupported"}),
    };
    Ok(done)
}

fn stream(event: Event<'_>, asked: &Value) -> Result<Value, Error> {
    let number = |name: &str| asked[name].as_u64().unwrap_or(0);
    let mut out = event.stream(asked["type"].as_str().unwrap_or_default());
    let piece = vec![b'x'; number("bytes") as usize];
    for index in 0..number("pieces") {
        if index > 0 {
            sleep(Duration::from_millis(number("pause_ms")));
        }
        out.write_all(&piece).map_err(|error| Error::new("Prober", error.to_string()))?;
    }
    match asked["then"].as_str() {
        Some("fail") => Err(Error::new("KnotError", "it slipped").at("prober")),
        Some("crash") => std::process::abort(),
        Some("hang") => loop {
            sleep(Duration::from_secs(3600));
        },
        _ => Ok(Value::Null),
    }
}

fn context(event: Event<'_>) -> Value {
    let context = event.context();
    let client = context.client_context().map(serde_json::from_str::<Value>);
    json!({
        "ok": true,
        "request_id": context.request_id(),
        "deadline_ms": context.deadline_ms(),
        "invoked_arn": context.invoked_arn(),
        "function_name": context.function_name(),
        "client_context": client.and_then(Result::ok),
    })
}

fn allocate(mib: usize) -> Value {
    let mut memory = vec![0_u8; mib << 20];
    memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    std::hint::black_box(&memory);
    json!({"ok": true})
}

fn spin(ms: Option<u64>) -> Value {
    let Some(ms) = ms else {
        let mut number = 0_u64;
        loop {
            number = std::hint::black_box(number.wrapping_mul(3).wrapping_add(1));
        }
    };
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(ms) {}
    json!({"ok": true})
}

fn attempt(result: std::io::Result<()>) -> Value {
    match result {
        Ok(()) => json!({"ok": true}),
        Err(error) => refused(error),
    }
}

fn refused(error: std::io::Error) -> Value {
    json!({"ok": false, "error": error.to_string()})
}
