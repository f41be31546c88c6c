//! A guest of 16 MiB that is captured whole, and again and again what 1 MiB of changed pages hold, going on in place.

use bowline_checkpoint::engine::{Outcome, Prepared, Stopper, Tracker};
use bowline_checkpoint::{Checkpoint, Mark, ReadLimits, SigningKey};
use bowline_foundation::clock::{Clock, Monotonic};
use serde_json::{Value, json};
use wasmtime::{Caller, Engine, Linker, Store};

const PAUSES: usize = 100;
const LIMITS: ReadLimits = ReadLimits {
    body_bytes_max: 32 << 20,
};

/// Fills 16 MiB, then changes 256 pages before each pause, others each time.
const TEXT: &str = "(module (import \"host\" \"pause\" (func $pause)) (memory 257)
    (func (export \"run\") (local $at i32) (local $round i32) (local $page i32)
        (loop $fill
            (i32.store (local.get $at) (i32.mul (local.get $at) (i32.const 0x9e3779b1)))
            (local.set $at (i32.add (local.get $at) (i32.const 4)))
            (br_if $fill (i32.lt_u (local.get $at) (i32.const 0x1000000))))
        (loop $rounds
            (call $pause)
            (local.set $round (i32.add (local.get $round) (i32.const 1)))
            (local.set $page (i32.const 256))
            (loop $change
                (local.set $page (i32.sub (local.get $page) (i32.const 1)))
                (i32.store
                    (i32.shl (i32.and (i32.add (local.get $page) (i32.shl (local.get $round) (i32.const 8)))
                        (i32.const 4095)) (i32.const 12))
                    (i32.add (local.get $round) (i32.const 1)))
                (br_if $change (local.get $page)))
            (br $rounds))))";

/// What the host function needs to ask for a stop, and when it last did.
struct Host {
    clock: Clock,
    stopper: Option<Stopper>,
    asked: Option<Monotonic>,
}

pub fn measure(engine: &Engine, report: &mut Value) {
    let module = wat::parse_str(TEXT).expect("the text is a module");
    let prepared = Prepared::new(engine, &module, super::options()).expect("it can be stopped");
    let mut linker = Linker::new(engine);
    let pause = |mut caller: Caller<'_, Host>| {
        let host = caller.data_mut();
        host.asked = Some(host.clock.monotonic());
        let stopper = host.stopper.as_ref().expect("it was set before the run");
        stopper.request()
    };
    linker.func_wrap("host", "pause", pause).expect("the name is free");
    let clock = Clock::system();
    let host = Host {
        clock: clock.clone(),
        stopper: None,
        asked: None,
    };
    let mut store = Store::new(engine, host);
    let mut guest = prepared.instantiate(&mut store, &linker).expect("its import is there");
    store.data_mut().stopper = Some(guest.stopper());
    let mut outcome = guest.call(&mut store, "run", &[]);
    let (mut written, mut in_place) = (Vec::new(), Vec::new());
    let mut last: Option<Tracker> = None;
    let key = SigningKey::new(&[1; 32]);
    for pause in 0..PAUSES {
        assert!(matches!(outcome, Ok(Outcome::Stopped)), "{outcome:?}");
        let asked = store.data().asked.expect("it asked to be stopped");
        // Every tenth one is whole, so that both are measured on one machine.
        let delta = match &mut last {
            Some(tracker) if pause % 10 != 0 => {
                let delta = prepared.capture_changes(&guest, &mut store, Vec::new(), tracker);
                Some(delta.expect("it has stopped"))
            }
            _ => {
                let whole = prepared.capture_written(&guest, &mut store, &[], &key);
                written.push(milliseconds(&clock, asked));
                let bytes = whole.expect("it has stopped").bytes;
                let whole = Checkpoint::read(&bytes, &key, LIMITS).expect("it was just written");
                last = Some(Tracker::of(&whole, Mark::of(&bytes).expect("it is long enough")));
                None
            }
        };
        prepared.go_on(&mut guest, &mut store).expect("it has stopped");
        if let (Some(delta), Some(tracker)) = (delta, &mut last) {
            in_place.push(milliseconds(&clock, asked));
            assert_eq!(delta.memories[0].pages.len(), 256, "1 MiB has changed");
            tracker.base = Mark::of(&delta.write(&key)).expect("it is long enough");
        }
        outcome = guest.resume(&mut store);
    }
    report["large_written_p50_ms"] = json!(super::percentile(&written, 50));
    report["in_place_p50_ms"] = json!(super::percentile(&in_place, 50));
}

fn milliseconds(clock: &Clock, since: Monotonic) -> f64 {
    clock.monotonic().since(since).as_secs_f64() * 1e3
}
