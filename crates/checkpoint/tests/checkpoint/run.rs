//! Runs a module plainly and in hops, and compares what can be seen of both.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bowline_checkpoint::engine::{Guest, Handle, Outcome, Prepared, configure};
use bowline_checkpoint::{Checkpoint, Options, Poll, ReadLimits, SigningKey};
use bytes::Bytes;
use wasmtime::{Config, Engine, Extern, Instance, Linker, Module, Store, Trap, Val};

use crate::world::{self, World};

pub const STACK_BYTES: u32 = 1 << 20;
/// Enough for every test; a run that needs more does not come to its end.
const HOPS_MAX: usize = 200_000;
pub const LIMITS: ReadLimits = ReadLimits {
    body_bytes_max: 1 << 30,
};

/// All that can be seen of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The results, or how it failed.
    pub end: Result<Vec<String>, String>,
    pub world: World,
    /// Exported memories, globals and tables.
    pub exports: BTreeMap<String, String>,
}

pub fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::new(&config()).expect("the configuration is good"))
}

/// What every engine here has in common.
pub fn config() -> Config {
    let mut config = Config::new();
    configure(&mut config)
        .max_wasm_stack(STACK_BYTES as usize)
        .async_stack_size(2 * STACK_BYTES as usize)
        .wasm_memory64(true)
        .wasm_tail_call(true);
    config
}

pub fn options(poll: Poll) -> Options {
    Options {
        stack_bytes: STACK_BYTES,
        poll,
    }
}

pub fn key() -> SigningKey {
    SigningKey::new(&[3; 32])
}

/// How a part of a run came to its end.
pub enum Leg {
    /// With a checkpoint.
    Stopped(Bytes),
    /// With the run.
    Ended(Seen),
}

/// A module, compiled as it is and instrumented.
pub struct Compiled {
    pub module: Vec<u8>,
    prepared: Prepared,
    linker: Linker<World>,
    plain: Plain,
}

/// A module as it is, compiled when it is asked for, and what it imports.
struct Plain {
    linker: Linker<World>,
    module: OnceLock<Module>,
}

fn linker(engine: &Engine) -> Linker<World> {
    let mut linker = Linker::new(engine);
    world::link(&mut linker).expect("names are distinct");
    linker
}

impl Compiled {
    pub fn new(engine: &Engine, module: Vec<u8>) -> Self {
        let prepared = Prepared::new(engine, &module, options(Poll::Countdown));
        Self {
            prepared: prepared.expect("the module can be checkpointed"),
            linker: linker(engine),
            plain: Plain {
                linker: linker(engine),
                module: OnceLock::new(),
            },
            module,
        }
    }

    /// The same of a module that engines may not take as it is; it runs so in an engine of its own.
    pub fn if_valid(engine: &Engine, plain_engine: &Engine, module: Vec<u8>) -> Option<Self> {
        let plain = Plain {
            module: Module::from_binary(plain_engine, &module).ok()?.into(),
            linker: linker(plain_engine),
        };
        Some(Self {
            plain,
            ..Self::new(engine, module)
        })
    }

    pub fn plain(&self) -> &Module {
        let compile = || Module::from_binary(self.plain.linker.engine(), &self.module).expect("the module is valid");
        self.plain.module.get_or_init(compile)
    }
}

/// A module and the call that is made.
pub struct Subject {
    compiled: Arc<Compiled>,
    pub export: String,
    pub arguments: Vec<Val>,
}

impl Subject {
    pub fn text(text: &str, export: &str, arguments: &[Val]) -> Self {
        let module = wat::parse_str(text).expect("the text is a module");
        Self::binary(module, export, arguments)
    }

    pub fn binary(module: Vec<u8>, export: &str, arguments: &[Val]) -> Self {
        Self::of(&Arc::new(Compiled::new(engine(), module)), export, arguments)
    }

    pub fn of(compiled: &Arc<Compiled>, export: &str, arguments: &[Val]) -> Self {
        Self {
            compiled: compiled.clone(),
            export: export.to_owned(),
            arguments: arguments.to_vec(),
        }
    }

    pub fn module(&self) -> &[u8] {
        &self.compiled.module
    }

    pub fn prepared(&self) -> &Prepared {
        &self.compiled.prepared
    }

    pub fn linker(&self) -> &Linker<World> {
        &self.compiled.linker
    }

    /// A new store for the guest.
    pub fn store(&self, world: World) -> Store<World> {
        Store::new(self.compiled.linker.engine(), world)
    }

    /// Runs the original module.
    pub fn plain(&self) -> Seen {
        let linker = &self.compiled.plain.linker;
        let mut store = Store::new(linker.engine(), World::default());
        let run = |store: &mut Store<World>| -> wasmtime::Result<(Instance, wasmtime::Result<Vec<Val>>)> {
            let instance = linker.instantiate(&mut *store, self.compiled.plain())?;
            let function = instance
                .get_func(&mut *store, &self.export)
                .expect("the export is a function");
            let mut results = vec![Val::I32(0); function.ty(&*store).results().len()];
            let end = function.call(&mut *store, &self.arguments, &mut results);
            Ok((instance, end.map(|()| results)))
        };
        match run(&mut store) {
            Ok((instance, end)) => seen(&mut store, Some(instance), end),
            Err(error) => seen(&mut store, None, Err(error)),
        }
    }

    /// Runs the instrumented module, stops at each `polls`th poll and goes on in a new instance each time;
    /// `between` may change the checkpoint. The number of hops comes back, too.
    pub fn hopping(&self, polls: u32, between: impl FnMut(usize, &mut Checkpoint)) -> (Seen, usize) {
        self.hopping_by(|_| polls, between)
    }

    /// The same with another number of polls for each hop.
    pub fn hopping_by(
        &self,
        polls: impl Fn(usize) -> u32,
        mut between: impl FnMut(usize, &mut Checkpoint),
    ) -> (Seen, usize) {
        let mut store = self.store(World::default());
        let guest = self.prepared().instantiate(&mut store, self.linker());
        let mut guest = match guest {
            Ok(guest) => guest,
            Err(error) => return (seen(&mut store, None, Err(error)), 0),
        };
        guest.stop_after(&mut store, polls(0));
        let mut outcome = guest.start(&mut store);
        let mut starting = true;
        let mut hop = 0;
        while hop < HOPS_MAX {
            match outcome {
                Ok(Outcome::Stopped) => {
                    let bytes = self.pack(&guest, &mut store);
                    let mut checkpoint = Checkpoint::read(&bytes, &key(), LIMITS).expect("it was just written");
                    between(hop, &mut checkpoint);
                    store = self.store(World::restore(&checkpoint.host));
                    guest = match self.prepared().restore(&mut store, self.linker(), &checkpoint) {
                        Ok(guest) => guest,
                        Err(error) => return (seen(&mut store, None, Err(wasmtime::format_err!("{error}"))), hop),
                    };
                    hop += 1;
                    guest.stop_after(&mut store, polls(hop));
                    outcome = guest.resume(&mut store);
                }
                Ok(Outcome::Finished(_)) if starting => {
                    starting = false;
                    outcome = guest.call(&mut store, &self.export, &self.arguments);
                }
                Ok(Outcome::Finished(results)) => return (seen(&mut store, Some(guest.instance()), Ok(results)), hop),
                // An instance whose start function fails is not there.
                Err(error) if starting => return (seen(&mut store, None, Err(error)), hop),
                Err(error) => return (seen(&mut store, Some(guest.instance()), Err(error)), hop),
            }
        }
        panic!("the run does not come to its end");
    }

    /// The same without leaving: each time it goes on in its own instance. `at_stop` sees the guest before.
    pub fn staying(&self, polls: u32, at_stop: impl FnMut(&Guest, &mut Store<World>)) -> (Seen, usize) {
        self.staying_by(|_| polls, at_stop)
    }

    /// The same with another number of polls for each stop.
    pub fn staying_by(
        &self,
        polls: impl Fn(usize) -> u32,
        mut at_stop: impl FnMut(&Guest, &mut Store<World>),
    ) -> (Seen, usize) {
        let mut store = self.store(World::default());
        let mut guest = match self.prepared().instantiate(&mut store, self.linker()) {
            Ok(guest) => guest,
            Err(error) => return (seen(&mut store, None, Err(error)), 0),
        };
        guest.stop_after(&mut store, polls(0));
        let mut outcome = guest.start(&mut store);
        let mut starting = true;
        let mut hop = 0;
        while hop < HOPS_MAX {
            match outcome {
                Ok(Outcome::Stopped) => {
                    at_stop(&guest, &mut store);
                    self.compiled
                        .prepared
                        .go_on(&mut guest, &mut store)
                        .expect("it has stopped");
                    hop += 1;
                    guest.stop_after(&mut store, polls(hop));
                    outcome = guest.resume(&mut store);
                }
                Ok(Outcome::Finished(_)) if starting => {
                    starting = false;
                    outcome = guest.call(&mut store, &self.export, &self.arguments);
                }
                Ok(Outcome::Finished(results)) => return (seen(&mut store, Some(guest.instance()), Ok(results)), hop),
                Err(error) if starting => return (seen(&mut store, None, Err(error)), hop),
                Err(error) => return (seen(&mut store, Some(guest.instance()), Err(error)), hop),
            }
        }
        panic!("the run does not come to its end");
    }

    /// Calls the export and stops at the `polls`th poll, a start function being passed over.
    pub fn first_leg(&self, polls: u32) -> Leg {
        let mut store = self.store(World::default());
        let guest = match self.prepared().instantiate(&mut store, self.linker()) {
            Ok(guest) => guest,
            Err(error) => return Leg::Ended(seen(&mut store, None, Err(error))),
        };
        guest.stop_after(&mut store, u32::MAX);
        if let Err(error) = guest.start(&mut store) {
            return Leg::Ended(seen(&mut store, None, Err(error)));
        }
        guest.stop_after(&mut store, polls);
        let outcome = guest.call(&mut store, &self.export, &self.arguments);
        self.leg(&guest, store, outcome)
    }

    /// Goes on from the bytes of a checkpoint to the `polls`th poll.
    pub fn next_leg(&self, checkpoint: &Bytes, polls: u32) -> Leg {
        let checkpoint = Checkpoint::read(checkpoint, &key(), LIMITS).expect("it was written by another leg");
        let mut store = self.store(World::restore(&checkpoint.host));
        let guest = self.prepared().restore(&mut store, self.linker(), &checkpoint);
        let mut guest = guest.expect("it fits");
        guest.stop_after(&mut store, polls);
        let outcome = guest.resume(&mut store);
        self.leg(&guest, store, outcome)
    }

    fn leg(&self, guest: &Guest, mut store: Store<World>, outcome: wasmtime::Result<Outcome>) -> Leg {
        let instance = Some(guest.instance());
        match outcome {
            Ok(Outcome::Stopped) => Leg::Stopped(self.pack(guest, &mut store)),
            Ok(Outcome::Finished(results)) => Leg::Ended(seen(&mut store, instance, Ok(results))),
            Err(error) => Leg::Ended(seen(&mut store, instance, Err(error))),
        }
    }

    /// Both ways to the bytes give the same.
    fn pack(&self, guest: &Guest, store: &mut Store<World>) -> Bytes {
        let host = store.data().save();
        let written = self.prepared().capture_written(guest, &mut *store, &host, &key());
        let checkpoint = self.prepared().capture(guest, store, host);
        let (written, checkpoint) = (written.expect("the guest has stopped"), checkpoint.expect("it has"));
        assert_eq!(written.bytes, checkpoint.write(&key()));
        let pages = checkpoint.memories.iter().map(|memory| memory.pages.len());
        assert_eq!(written.pages, pages.sum::<usize>());
        written.bytes
    }

    /// The run must end alike whether it is stopped never, at each poll, or now and then; the answer is how many
    /// hops it took when stopped at each poll.
    #[track_caller]
    pub fn check(&self) -> usize {
        let plain = self.plain();
        let (uninterrupted, hops) = self.hopping(u32::MAX, |_, _| {});
        assert_eq!(hops, 0, "the control: nothing stops it");
        assert_eq!(uninterrupted, plain, "instrumented, never stopped");
        for polls in [2, 3, 7] {
            let (seen, _) = self.hopping(polls, |_, _| {});
            assert_eq!(seen, plain, "stopped at each poll of {polls}");
        }
        let (seen, _) = self.staying(1, |_, _| {});
        assert_eq!(seen, plain, "stopped at each poll, going on in place");
        let (seen, hops) = self.hopping(1, |_, _| {});
        assert_eq!(seen, plain, "stopped at each poll");
        hops
    }
}

pub fn seen(store: &mut Store<World>, instance: Option<Instance>, end: wasmtime::Result<Vec<Val>>) -> Seen {
    let end = match end {
        Ok(results) => Ok(results.iter().map(|value| show(store, value)).collect()),
        Err(error) => Err(match error.downcast_ref::<Trap>() {
            Some(trap) => trap.to_string(),
            None => error.root_cause().to_string(),
        }),
    };
    let mut exports = BTreeMap::new();
    let names: Vec<String> = instance.map_or_else(Vec::new, |instance| {
        let names = instance.exports(&mut *store).map(|export| export.name().to_owned());
        names.filter(|name| !name.starts_with("ck:")).collect()
    });
    for name in names {
        let export = instance.and_then(|instance| instance.get_export(&mut *store, &name));
        let shown = match export {
            Some(Extern::Memory(memory)) => {
                let data = memory.data(&*store);
                format!("{} bytes, {}", data.len(), bowline_foundation::digest::Digest::of(data))
            }
            Some(Extern::Global(global)) => {
                let value = global.get(&mut *store);
                show(store, &value)
            }
            Some(Extern::Table(table)) => {
                let places = 0..table.size(&*store);
                let elements = places.map(|place| match table.get(&mut *store, place) {
                    Some(wasmtime::Ref::Func(None) | wasmtime::Ref::Extern(None)) | None => '-',
                    Some(_) => '+',
                });
                elements.collect()
            }
            _ => continue,
        };
        exports.insert(name, shown);
    }
    Seen {
        end,
        world: store.data().clone(),
        exports,
    }
}

fn show(store: &mut Store<World>, value: &Val) -> String {
    match value {
        Val::V128(bits) => format!("v128 {:x}", bits.as_u128()),
        Val::FuncRef(function) => format!("function {}", function.is_some()),
        Val::ExternRef(None) => "object null".to_owned(),
        Val::ExternRef(Some(object)) => {
            let data = object.data(&*store).ok().flatten();
            let handle = data.and_then(|data| data.downcast_ref::<Handle>());
            format!("object {handle:?}")
        }
        other => format!("{other:?}"),
    }
}
