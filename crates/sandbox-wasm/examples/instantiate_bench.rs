//! Measures "instantiate, call, drop" through the sandbox's own interface, on one thread and on two.
//!
//! Prints one JSON object: `one_thread_p50_us`, `one_thread_per_s`, `two_threads_per_s`. The module is a
//! small command; what is timed is one invocation, which makes an instance, runs it and drops it.

use std::collections::BTreeMap;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use bowline_foundation::clock::Clock;
use bowline_foundation::digest::Digest;
use bowline_foundation::entropy::Entropy;
use bowline_foundation::id::{AccountId, RequestId};
use bowline_foundation::units::Mebibytes;
use bowline_sandbox::{
    Backend, CodeDir, Deadline, Invocation, MemoryLog, Outcome, Runtime, Sandbox, SandboxKind, VersionSpec,
};
use bowline_sandbox_wasm::{Options, WasmBackend};

const WARM_UP: usize = 2_000;
const ROUND: usize = 20_000;
const ROUNDS: usize = 5;

/// A command that reads its event and writes a short answer, with a heap and a stack of the usual size.
const MODULE: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 17)
    (table 64 funcref)
    (elem (i32.const 1) $read $write)
    (data (i32.const 1048576) "{\"ok\":true}")
    (func (export "_start")
        (i32.store (i32.const 1048640) (i32.const 4096))
        (i32.store (i32.const 1048644) (i32.const 4096))
        (drop (call $read (i32.const 0) (i32.const 1048640) (i32.const 1) (i32.const 1048656)))
        (i32.store (i32.const 1048640) (i32.const 1048576))
        (i32.store (i32.const 1048644) (i32.const 11))
        (drop (call $write (i32.const 1) (i32.const 1048640) (i32.const 1) (i32.const 1048656)))))"#;

fn main() {
    let clock = Clock::system();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let module = match std::env::args().nth(1) {
        Some(path) => std::fs::read(path).expect("the module can be read"),
        None => wat::parse_str(MODULE).expect("the module is well formed"),
    };
    std::fs::write(folder.path().join("bootstrap.wasm"), &module).expect("the folder is writable");
    let version = Arc::new(version(&module, folder.path()));
    let options = Options::new(clock.clone(), folder.path().join("cache"));
    let backend = WasmBackend::new(options).expect("the backend starts");
    runtime()
        .block_on(backend.prepare(&version))
        .expect("the module is valid");

    let mut medians = Vec::new();
    let mut one = Vec::new();
    let mut two = Vec::new();
    for _ in 0..ROUNDS {
        let (p50_us, per_s) = measure(&backend, &version, &clock, 1);
        medians.push(p50_us);
        one.push(per_s);
        two.push(measure(&backend, &version, &clock, 2).1);
    }
    let report = serde_json::json!({
        "one_thread_p50_us": median(medians),
        "one_thread_per_s": median(one),
        "two_threads_per_s": median(two),
    });
    println!("{report}");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime starts")
}

fn version(module: &[u8], folder: &std::path::Path) -> VersionSpec {
    VersionSpec {
        account: AccountId::default_account(),
        region: "us-east-1".to_owned(),
        function: "bench".to_owned(),
        version: "1".to_owned(),
        runtime: Runtime::ProvidedAl2023,
        handler: String::new(),
        code: CodeDir {
            digest: Digest::of(module),
            path: folder.to_owned(),
        },
        layers: None,
        image: None,
        kind: SandboxKind::Wasm,
        memory: Mebibytes(128),
        ephemeral_storage: Mebibytes(512),
        timeout: Duration::from_secs(30),
        environment: BTreeMap::new(),
        logging: bowline_sandbox::Logging::default(),
        mounts: Vec::new(),
        processors: None,
    }
}

/// The median of one invocation in microseconds, and the invocations a second of all threads together.
fn measure(backend: &WasmBackend, version: &Arc<VersionSpec>, clock: &Clock, threads: usize) -> (f64, f64) {
    let ready = Barrier::new(threads + 1);
    std::thread::scope(|scope| {
        let start = || {
            scope.spawn(|| {
                let mut times = Vec::with_capacity(ROUND);
                runtime().block_on(async {
                    let log = Arc::new(MemoryLog::default());
                    let sandbox = backend.create(version.clone(), log).await;
                    let mut sandbox = sandbox.expect("there is room");
                    for _ in 0..WARM_UP {
                        invoke(&mut sandbox, version, clock).await;
                    }
                    ready.wait();
                    for _ in 0..ROUND {
                        let started = clock.monotonic();
                        invoke(&mut sandbox, version, clock).await;
                        times.push(clock.monotonic().since(started).as_secs_f64() * 1e6);
                    }
                    sandbox.destroy().await;
                });
                times
            })
        };
        let running: Vec<_> = (0..threads).map(|_| start()).collect();
        ready.wait();
        let started = clock.monotonic();
        let times: Vec<f64> = running
            .into_iter()
            .flat_map(|thread| thread.join().expect("the thread ends well"))
            .collect();
        let per_s = times.len() as f64 / clock.monotonic().since(started).as_secs_f64();
        (median(times), per_s)
    })
}

async fn invoke(sandbox: &mut Box<dyn Sandbox>, version: &VersionSpec, clock: &Clock) {
    let budget = version.timeout;
    let invocation = Invocation {
        request_id: RequestId::random(&Entropy::system()),
        payload: bytes::Bytes::from_static(br#"{"name":"knot"}"#),
        deadline: Deadline {
            wall: clock.now().after(budget),
            monotonic: clock.monotonic().after(budget),
            budget,
        },
        invoked_arn: String::new(),
        client_context: None,
        trace_id: None,
        sink: None,
        platform: None,
        suspension: None,
    };
    let report = sandbox.invoke(invocation).await;
    assert!(matches!(report.outcome, Outcome::Success(_)), "{report:?}");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
