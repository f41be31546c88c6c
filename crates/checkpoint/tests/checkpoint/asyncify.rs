//! Binaryen's Asyncify as an oracle: the same module, suspended by it and by our pass at calls of the host, each time going on
//! in a new instance, must do what it does when nobody suspends it.

use std::process::Command;
use std::sync::Arc;

use parking_lot::Mutex;
use wasmtime::{Caller, Instance, Linker, Module, Store, Val};

use crate::guest;
use crate::run::{Subject, engine};
use crate::world::{self, World};

/// The part of the guest's memory that Asyncify saves its frames in: a page of its own.
const AREA_BYTES: u32 = 65_536;
const PAGE_BYTES: usize = 65_536;

/// The module as Asyncify makes it, which unwinds where it calls `host.log`; nothing without `wasm-opt`.
fn asyncify(module: &[u8]) -> Option<Vec<u8>> {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (from, to) = (folder.path().join("plain.wasm"), folder.path().join("asyncify.wasm"));
    std::fs::write(&from, module).expect("the folder can be written to");
    let mut command = Command::new("wasm-opt");
    command
        .args([
            "--all-features",
            "--asyncify",
            "--pass-arg=asyncify-imports@host.log",
            "-O2",
        ])
        .arg(&from)
        .arg("-o")
        .arg(&to);
    let Ok(status) = command.status() else {
        eprintln!("SKIPPED: `wasm-opt` is not installed (`apt-get install binaryen` on Debian)");
        return None;
    };
    assert!(status.success(), "Asyncify takes the module");
    Some(std::fs::read(to).expect("wasm-opt wrote the module"))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Runs,
    Unwinds,
    Rewinds,
}

/// How the guest stands towards Asyncify.
struct Turn {
    way: Way,
    /// It is suspended at each of so many calls.
    every: u32,
    calls: u32,
    hops: u32,
    area: u32,
}

/// What goes from one instance to the next.
struct Saved {
    memory: Vec<u8>,
    stack_pointer: Val,
}

/// What is lost on the way to a new instance, for the control.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lost {
    Nothing,
    StackPointer,
}

fn order(caller: &mut Caller<'_, World>, name: &str, arguments: &[Val]) -> wasmtime::Result<()> {
    let export = caller.get_export(name).and_then(wasmtime::Extern::into_func);
    export.expect("Asyncify exports it").call(caller, arguments, &mut [])
}

/// Gives the guest what it imports; a call of `log` that is suspended has been made.
fn linker(turn: &Arc<Mutex<Turn>>) -> Linker<World> {
    let mut linker = Linker::new(engine());
    world::link(&mut linker).expect("names are distinct");
    linker.allow_shadowing(true);
    let turn = turn.clone();
    let log = move |mut caller: Caller<'_, World>, number: i32| -> wasmtime::Result<()> {
        let mut turn = turn.lock();
        if turn.way == Way::Rewinds {
            turn.way = Way::Runs;
            return order(&mut caller, "asyncify_stop_rewind", &[]);
        }
        caller.data_mut().log.extend_from_slice(&number.to_le_bytes());
        turn.calls += 1;
        if !turn.calls.is_multiple_of(turn.every) {
            return Ok(());
        }
        turn.way = Way::Unwinds;
        turn.hops += 1;
        let memory = caller.get_export("memory").and_then(wasmtime::Extern::into_memory);
        let memory = memory.expect("the guest exports its memory");
        // Where the frames go, and where they must end.
        let bounds = [turn.area + 8, turn.area + AREA_BYTES].map(u32::to_le_bytes).concat();
        memory.write(&mut caller, turn.area as usize, &bounds)?;
        order(
            &mut caller,
            "asyncify_start_unwind",
            &[Val::I32(turn.area.cast_signed())],
        )
    };
    linker.func_wrap("host", "log", log).expect("it may be replaced");
    linker
}

fn tell(store: &mut Store<World>, instance: Instance, name: &str, arguments: &[Val]) -> wasmtime::Result<()> {
    let function = instance.get_func(&mut *store, name).expect("Asyncify exports it");
    function.call(store, arguments, &mut [])
}

/// Runs the module that Asyncify made, suspended at each of so many calls; gives what it did and how many hops it took.
fn hopping(module: &[u8], every: u32, lost: Lost) -> (wasmtime::Result<World>, u32) {
    let turn = Arc::new(Mutex::new(Turn {
        way: Way::Runs,
        every,
        calls: 0,
        hops: 0,
        area: 0,
    }));
    let module = Module::from_binary(engine(), module).expect("the module is valid");
    let ended = legs(&module, &turn, lost);
    let hops = turn.lock().hops;
    (ended, hops)
}

fn legs(module: &Module, turn: &Arc<Mutex<Turn>>, lost: Lost) -> wasmtime::Result<World> {
    let linker = linker(turn);
    let mut saved: Option<Saved> = None;
    let mut world = World::default();
    loop {
        let mut store = Store::new(engine(), world);
        let instance = linker.instantiate(&mut store, module)?;
        let memory = instance.get_memory(&mut store, "memory").expect("a memory");
        let pointer = instance
            .get_global(&mut store, "__stack_pointer")
            .expect("a stack pointer");
        match saved {
            None => turn.lock().area = u32::try_from(memory.grow(&mut store, 1)?)? * AREA_BYTES,
            Some(saved) => {
                let more = saved.memory.len().saturating_sub(memory.data_size(&store)) / PAGE_BYTES;
                memory.grow(&mut store, more as u64)?;
                memory.write(&mut store, 0, &saved.memory)?;
                if lost != Lost::StackPointer {
                    pointer.set(&mut store, saved.stack_pointer)?;
                }
                let area = turn.lock().area.cast_signed();
                turn.lock().way = Way::Rewinds;
                tell(&mut store, instance, "asyncify_start_rewind", &[Val::I32(area)])?;
            }
        }
        tell(&mut store, instance, "_start", &[])?;
        if turn.lock().way != Way::Unwinds {
            return Ok(store.into_data());
        }
        tell(&mut store, instance, "asyncify_stop_unwind", &[])?;
        saved = Some(Saved {
            memory: memory.data(&store).to_vec(),
            stack_pointer: pointer.get(&mut store),
        });
        world = store.into_data();
    }
}

#[test]
fn asyncify_and_our_pass_suspend_the_same_module_to_the_same_end() {
    let module = guest::rust_with("steps", &["-Clink-arg=--export=__stack_pointer"]);
    let Some(other) = asyncify(&module) else { return };
    let subject = Subject::binary(module, "_start", &[]);
    let plain = subject.plain();
    assert_eq!(plain.end, Ok(Vec::new()));
    assert!(plain.world.log.len() > 500, "it tells the host much");
    let (never, hops) = hopping(&other, u32::MAX, Lost::Nothing);
    assert_eq!(
        (never.unwrap(), hops),
        (plain.world.clone(), 0),
        "the control: nothing suspends it"
    );
    for every in [1, 3, 10] {
        let (theirs, hops) = hopping(&other, every, Lost::Nothing);
        assert_eq!(theirs.unwrap(), plain.world, "Asyncify, at each call of {every}");
        assert!(hops > 10, "{hops} hops");
        let (ours, hops) = subject.hopping(every * 13, |_, _| {});
        assert_eq!(ours, plain, "our pass, at each poll of {}", every * 13);
        assert!(hops > 10, "{hops} hops");
    }
    let (damaged, _) = hopping(&other, 3, Lost::StackPointer);
    assert!(
        damaged.map_or(true, |world| world != plain.world),
        "the control: what is lost on the way is noticed"
    );
}
