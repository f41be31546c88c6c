//! What a guest sees of its host before and after a move.

use std::path::Path;
use std::time::Duration;

use bowline_foundation::clock::{Clock, Timestamp};
use bowline_foundation::entropy::Entropy;
use parking_lot::Mutex;
use wasmtime::{Config, Engine, Instance, Linker, Module, Store, Val};

use super::*;

#[derive(Default)]
struct Kept(Mutex<Vec<u8>>);

impl Sink for Kept {
    fn write(&self, bytes: &[u8]) {
        self.0.lock().extend_from_slice(bytes);
    }
}

/// A module that exports all calls of preview 1 that the tests make, and its memory.
fn module() -> String {
    let calls = [
        ("clock_time_get", "i32 i64 i32"),
        ("fd_close", "i32"),
        ("fd_fdstat_get", "i32 i32"),
        ("fd_read", "i32 i32 i32 i32"),
        ("fd_readdir", "i32 i32 i32 i64 i32"),
        ("fd_seek", "i32 i64 i32 i32"),
        ("fd_write", "i32 i32 i32 i32"),
        ("path_open", "i32 i32 i32 i32 i32 i64 i64 i32 i32"),
        ("path_unlink_file", "i32 i32 i32"),
        ("poll_oneoff", "i32 i32 i32 i32"),
        ("sock_recv", "i32 i32 i32 i32 i32 i32"),
    ];
    let mut text = "(module ".to_owned();
    for (name, parameters) in calls {
        text += &format!("(import \"{MODULE}\" \"{name}\" (func ${name} (param {parameters}) (result i32)))");
    }
    text += "(memory (export \"memory\") 1)";
    // A host function sees the exports of the instance that calls it.
    for (name, parameters) in calls {
        let count = parameters.split(' ').count();
        let arguments: String = (0..count).map(|index| format!("(local.get {index})")).collect();
        text += &format!("(func (export \"{name}\") (param {parameters}) (result i32) (call ${name} {arguments}))");
    }
    text + ")"
}

struct Guest {
    store: Store<Wasi>,
    instance: Instance,
}

impl Guest {
    fn of(wasi: Wasi) -> Self {
        let engine = Engine::new(&Config::new()).unwrap();
        let module = Module::new(&engine, wat::parse_str(module()).unwrap()).unwrap();
        let mut linker = Linker::new(&engine);
        define(&mut linker).unwrap();
        let mut store = Store::new(&engine, wasi);
        let instance = linker.instantiate(&mut store, &module).unwrap();
        Self { store, instance }
    }

    /// The same guest in another place, its memory with it.
    fn moved(mut self, options: WasiOptions) -> Self {
        let state = self.store.data_mut().save().unwrap();
        let state = HostState::decode(&state.encode()).unwrap();
        let mut moved = Self::of(Wasi::restore(options, state));
        let bytes = self.memory().to_vec();
        moved.memory().copy_from_slice(&bytes);
        moved
    }

    fn memory(&mut self) -> &mut [u8] {
        let memory = self.instance.get_memory(&mut self.store, "memory").unwrap();
        memory.data_mut(&mut self.store)
    }

    fn call(&mut self, name: &str, arguments: &[Val]) -> i32 {
        let function = self.instance.get_func(&mut self.store, name).unwrap();
        let mut results = [Val::I32(-1)];
        function.call(&mut self.store, arguments, &mut results).unwrap();
        results[0].unwrap_i32()
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.memory()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn number(&mut self, at: usize) -> u64 {
        u64::from_le_bytes(self.memory()[at..at + 8].try_into().unwrap())
    }

    /// Opens a path below descriptor 3.
    fn open(&mut self, path: &str, rights: u64) -> Result<i32, i32> {
        self.put(100, path.as_bytes());
        let length = path.len() as i32;
        let arguments = [3, 1, 100, length, 0].map(Val::I32);
        let rights = [Val::I64(rights.cast_signed()), Val::I64(0)];
        let error = self.call(
            "path_open",
            &[&arguments[..], &rights, &[Val::I32(0), Val::I32(0)]].concat(),
        );
        if error == 0 {
            Ok(self.number(0) as i32)
        } else {
            Err(error)
        }
    }

    /// Reads up to `length` bytes of a descriptor.
    fn read(&mut self, fd: i32, length: u32) -> Result<Vec<u8>, i32> {
        self.put(8, &[1024_u32.to_le_bytes(), length.to_le_bytes()].concat());
        match self.call("fd_read", &[Val::I32(fd), Val::I32(8), Val::I32(1), Val::I32(0)]) {
            0 => {
                let read = self.number(0) as u32 as usize;
                Ok(self.memory()[1024..1024 + read].to_vec())
            }
            error => Err(error),
        }
    }

    fn write(&mut self, fd: i32, text: &str) -> i32 {
        self.put(1024, text.as_bytes());
        self.put(8, &[1024_u32.to_le_bytes(), (text.len() as u32).to_le_bytes()].concat());
        self.call("fd_write", &[Val::I32(fd), Val::I32(8), Val::I32(1), Val::I32(0)])
    }

    fn clock(&mut self, which: i32) -> u64 {
        assert_eq!(
            self.call("clock_time_get", &[Val::I32(which), Val::I64(0), Val::I32(0)]),
            0
        );
        self.number(0)
    }

    /// Waits for so long by the monotonic clock.
    fn sleep(&mut self, time: Duration) -> i32 {
        let mut subscription = [0_u8; 48];
        subscription[16] = 1;
        subscription[24..32].copy_from_slice(&(time.as_nanos() as u64).to_le_bytes());
        self.put(200, &subscription);
        self.call("poll_oneoff", &[200, 300, 1, 0].map(Val::I32))
    }
}

fn options(folder: &Path, clock: &Clock) -> WasiOptions {
    WasiOptions {
        arguments: vec!["guest".to_owned()],
        environment: vec!["A=B".to_owned()],
        stdin: b"the event".to_vec(),
        output_bytes_max: 16,
        stderr: Arc::new(Kept::default()),
        folders: vec![Folder::open("/var/task", folder).unwrap()],
        clock: clock.clone(),
        entropy: Entropy::seeded(1),
        interrupt: Interrupt::default(),
    }
}

fn clock() -> Clock {
    Clock::fake(Timestamp::from_micros(1_000_000))
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("words"), "one two three").unwrap();
    std::fs::create_dir(folder.path().join("inner")).unwrap();
    folder
}

const READ: u64 = 0x3f;

#[test]
fn an_open_file_is_read_on_in_another_place() {
    let (here, there) = (folder(), folder());
    let mut guest = Guest::of(Wasi::new(options(here.path(), &clock())));
    let file = guest.open("words", READ).unwrap();
    assert_eq!(guest.read(file, 4), Ok(b"one ".to_vec()));
    let mut guest = guest.moved(options(there.path(), &clock()));
    assert_eq!(guest.read(file, 4), Ok(b"two ".to_vec()), "the offset came along");
    assert_eq!(guest.read(0, 3), Ok(b"the".to_vec()));
    let mut guest = guest.moved(options(here.path(), &clock()));
    assert_eq!(guest.read(0, 99), Ok(b" event".to_vec()), "what is left of the input");
}

#[test]
fn a_file_that_has_changed_is_stale_and_never_other_bytes() {
    let (here, there) = (folder(), folder());
    let mut guest = Guest::of(Wasi::new(options(here.path(), &clock())));
    let file = guest.open("words", READ).unwrap();
    std::fs::write(there.path().join("words"), "one two THREE").unwrap();
    let mut guest = guest.moved(options(there.path(), &clock()));
    assert_eq!(guest.read(file, 4), Err(72), "stale");
    assert!(guest.open("words", READ).is_ok(), "the path can be opened anew");
    // What was right all the time is right where the right file is.
    let mut guest = guest.moved(options(here.path(), &clock()));
    assert_eq!(guest.read(file, 4), Ok(b"one ".to_vec()));
}

#[test]
fn a_guest_gets_no_more_than_it_was_given() {
    let folder = folder();
    std::os::unix::fs::symlink("/etc/passwd", folder.path().join("out")).unwrap();
    let mut guest = Guest::of(Wasi::new(options(folder.path(), &clock())));
    for path in ["../words", "/etc/passwd", "out", "inner/../../words"] {
        assert_eq!(guest.open(path, READ), Err(76), "{path}: not capable");
    }
    assert_eq!(guest.open("missing", READ), Err(44));
    assert_eq!(
        guest.open("words", 1 << 6),
        Err(69),
        "for writing: a read-only file system"
    );
    let blind = guest.open("words", 0).unwrap();
    assert_eq!(guest.read(blind, 1), Err(76), "the right to read was not asked for");
    let mut guest = guest.moved(options(folder.path(), &clock()));
    assert_eq!(guest.read(blind, 1), Err(76), "nor got on the way");
    assert_eq!(guest.call("path_unlink_file", &[3, 100, 5].map(Val::I32)), 69);
    assert_eq!(guest.call("sock_recv", &[3, 0, 0, 0, 0, 0].map(Val::I32)), 57);
    assert_eq!(guest.call("fd_close", &[Val::I32(blind)]), 0);
    assert_eq!(guest.read(blind, 1), Err(8));
}

#[test]
fn descriptors_have_a_limit() {
    let folder = folder();
    let mut guest = Guest::of(Wasi::new(options(folder.path(), &clock())));
    let opened = (0..).map_while(|_| guest.open("words", READ).ok()).count();
    assert_eq!(opened, DESCRIPTORS_MAX - 4);
    assert_eq!(guest.open("words", READ), Err(33));
}

#[test]
fn clocks_never_go_back() {
    let folder = folder();
    let ahead = clock();
    let mut guest = Guest::of(Wasi::new(options(folder.path(), &ahead)));
    ahead.advance(Duration::from_secs(100));
    let (wall, monotonic) = (guest.clock(0), guest.clock(1));
    assert_eq!(monotonic, 100_000_000_000);
    let behind = clock();
    let mut guest = guest.moved(options(folder.path(), &behind));
    assert!(guest.clock(0) >= wall, "this machine's wall clock is behind");
    assert_eq!(guest.clock(1), monotonic, "time between the two places does not count");
    behind.advance(Duration::from_secs(1));
    assert_eq!(guest.clock(1), monotonic + 1_000_000_000);
    behind.advance(Duration::from_secs(200));
    assert!(guest.clock(0) > wall);
}

#[test]
fn a_wait_ends_when_the_guest_is_asked_to_stop_and_is_waited_out_later() {
    let folder = folder();
    let clock = clock();
    let first = options(folder.path(), &clock);
    let interrupt = first.interrupt.clone();
    let mut guest = Guest::of(Wasi::new(first));
    interrupt.raise();
    assert_eq!(guest.sleep(Duration::from_secs(3600)), 0, "it returns at once");
    assert_eq!(guest.memory()[310], 0, "the event is that of a clock");
    assert_eq!(guest.clock(1), 3_600_000_000_000, "no guest sees that it was too short");
    let second = options(folder.path(), &clock);
    let interrupt = second.interrupt.clone();
    let mut guest = guest.moved(second);
    let waiting = std::thread::spawn(move || {
        let settled = guest.store.data_mut().settle();
        (settled, guest)
    });
    interrupt.raise();
    let (settled, mut guest) = waiting.join().unwrap();
    assert!(!settled, "an hour has not gone by, and it was asked to stop");
    assert_eq!(guest.store.data_mut().save().unwrap().owed_nanos, 3_600_000_000_000);
    // The control: with nothing to wait for it goes on.
    let mut fresh = Guest::of(Wasi::new(options(folder.path(), &clock)));
    assert!(fresh.store.data_mut().settle());
}

#[test]
fn output_is_a_log_with_an_offset() {
    let folder = folder();
    let mut guest = Guest::of(Wasi::new(options(folder.path(), &clock())));
    assert_eq!(guest.write(1, "half "), 0);
    assert_eq!(guest.write(2, "said"), 0);
    let mut guest = guest.moved(options(folder.path(), &clock()));
    assert_eq!(guest.write(1, "whole"), 0);
    assert_eq!(guest.write(2, " more"), 0);
    let wasi = guest.store.data_mut();
    assert_eq!(wasi.output(), Ok(&b"half whole"[..]));
    assert_eq!(wasi.stderr_bytes(), 9, "the log goes on at its offset");
    assert_eq!(guest.write(1, "too much by far"), 0);
    assert_eq!(guest.store.data_mut().output(), Err(25));
    assert_eq!(guest.write(0, "x"), 8);
}

#[test]
fn a_state_that_is_damaged_is_refused() {
    let folder = folder();
    let mut guest = Guest::of(Wasi::new(options(folder.path(), &clock())));
    guest.open("words", READ).unwrap();
    guest.write(1, "out");
    let state = guest.store.data_mut().save().unwrap();
    let bytes = state.encode();
    assert_eq!(HostState::decode(&bytes), Ok(state));
    for length in 0..bytes.len() {
        assert!(HostState::decode(&bytes[..length]).is_err(), "cut at {length}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(HostState::decode(&longer).is_err());
    let mut other = bytes.clone();
    other[0] = 2;
    assert_eq!(HostState::decode(&other), Err(HostStateError::Version(2)));
    let golden = include_bytes!("../../tests/golden/host-1.bin");
    let read = HostState::decode(golden).unwrap();
    assert_eq!(read.encode(), golden);
    assert_eq!(read.descriptors.len(), 5, "three streams, a folder, a file");
}
