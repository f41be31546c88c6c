//! Runs that are stopped over and over and go on now in one way, now in another, as fast as that can be done; and
//! faults that are planted on the way, which such runs must find.

use bowline_checkpoint::engine::{Guest, Outcome, Tracker};
use bowline_checkpoint::{Checkpoint, Delta, Mark, Value};
use wasmtime::{Store, Val};

use crate::run::{LIMITS, Seen, Subject, key, seen};
use crate::world::World;

/// How a run goes on that was stopped. Each time what changed is captured and put to what was captured before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// In its own instance.
    InPlace,
    /// In a new instance, made of what was captured.
    Moved,
    /// The same, all of it written as signed bytes and read again on the way.
    Written,
}

/// What goes wrong on purpose, once a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A frame that is spilled holds another value than the one that lived.
    WrongSpill,
    /// A page that changed is not captured.
    LostPage,
}

impl Fault {
    pub const ALL: [(&str, Self); 2] = [("wrong-spill", Self::WrongSpill), ("lost-page", Self::LostPage)];
}

/// Decides over a run.
pub struct Itinerary<P, W> {
    /// How many polls pass before each stop.
    pub polls: P,
    /// How the run goes on from it.
    pub way: W,
    /// What goes wrong at which stop, or as soon as it can after that.
    pub fault: Option<(Fault, u64)>,
}

/// How often runs went on in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hops {
    pub in_place: u64,
    pub moved: u64,
    pub written: u64,
}

impl Hops {
    pub fn all(&self) -> u64 {
        self.in_place + self.moved + self.written
    }

    fn count(&mut self, way: Way) {
        *match way {
            Way::InPlace => &mut self.in_place,
            Way::Moved => &mut self.moved,
            Way::Written => &mut self.written,
        } += 1;
    }
}

/// What was captured at the last stop.
struct Captured {
    whole: Checkpoint,
    tracker: Tracker,
}

struct Traveller<'s> {
    subject: &'s Subject,
    store: Store<World>,
    guest: Guest,
    captured: Option<Captured>,
    fault: Option<(Fault, u64)>,
    hop: u64,
}

/// Runs to the end; what can be seen of it then comes back.
pub fn travel(
    subject: &Subject,
    itinerary: &Itinerary<impl Fn(u64) -> u32, impl Fn(u64) -> Way>,
    hops: &mut Hops,
) -> Seen {
    let mut store = subject.store(World::default());
    let guest = match subject.prepared().instantiate(&mut store, subject.linker()) {
        Ok(guest) => guest,
        Err(error) => return seen(&mut store, None, Err(error)),
    };
    let mut traveller = Traveller {
        subject,
        store,
        guest,
        captured: None,
        fault: itinerary.fault,
        hop: 0,
    };
    traveller.run(itinerary, hops)
}

impl Traveller<'_> {
    fn run(&mut self, itinerary: &Itinerary<impl Fn(u64) -> u32, impl Fn(u64) -> Way>, hops: &mut Hops) -> Seen {
        self.guest.stop_after(&mut self.store, (itinerary.polls)(0));
        let mut outcome = self.guest.start(&mut self.store);
        let mut starting = true;
        loop {
            match outcome {
                Ok(Outcome::Stopped) => {
                    let way = (itinerary.way)(self.hop);
                    if let Err(error) = self.go_on(way) {
                        return self.ended(Err(error));
                    }
                    hops.count(way);
                    self.hop += 1;
                    let polls = (itinerary.polls)(self.hop);
                    self.guest.stop_after(&mut self.store, polls);
                    outcome = self.guest.resume(&mut self.store);
                }
                Ok(Outcome::Finished(_)) if starting => {
                    starting = false;
                    let Subject { export, arguments, .. } = self.subject;
                    outcome = self.guest.call(&mut self.store, export, arguments);
                }
                Ok(Outcome::Finished(results)) => return self.ended(Ok(results)),
                // An instance whose start function fails is not there.
                Err(error) if starting => return seen(&mut self.store, None, Err(error)),
                Err(error) => return self.ended(Err(error)),
            }
        }
    }

    fn ended(&mut self, end: wasmtime::Result<Vec<Val>>) -> Seen {
        seen(&mut self.store, Some(self.guest.instance()), end)
    }

    fn go_on(&mut self, way: Way) -> wasmtime::Result<()> {
        let prepared = self.subject.prepared();
        self.spill_wrongly()?;
        let mut captured = self.capture(way)?;
        match way {
            Way::InPlace => prepared.go_on(&mut self.guest, &mut self.store)?,
            Way::Moved | Way::Written => {
                if way == Way::Written {
                    captured.whole = Checkpoint::read(&captured.whole.write(&key()), &key(), LIMITS)?;
                }
                let mut store = self.subject.store(World::restore(&captured.whole.host));
                self.guest = prepared.restore(&mut store, self.subject.linker(), &captured.whole)?;
                self.store = store;
            }
        }
        self.captured = Some(captured);
        Ok(())
    }

    /// All of the first stop, what changed at the others.
    fn capture(&mut self, way: Way) -> wasmtime::Result<Captured> {
        let prepared = self.subject.prepared();
        let host = self.store.data().save();
        let Some(Captured { whole, mut tracker }) = self.captured.take() else {
            let whole = prepared.capture(&self.guest, &mut self.store, host)?;
            let base = Mark::of(whole.identity.module.as_bytes()).expect("a digest is as long as a mark");
            let tracker = Tracker::of(&whole, base);
            return Ok(Captured { whole, tracker });
        };
        let mut delta = prepared.capture_changes(&self.guest, &mut self.store, host, &mut tracker)?;
        self.lose_page(&mut delta);
        if way == Way::Written {
            delta = Delta::read(&delta.write(&key()), &key(), LIMITS)?;
        }
        let whole = delta.apply(whole, tracker.base)?;
        Ok(Captured { whole, tracker })
    }

    fn is_due(&self, fault: Fault) -> bool {
        self.fault.is_some_and(|(due, hop)| due == fault && hop <= self.hop)
    }

    /// Changes the first value in the save memory, if it is a number.
    fn spill_wrongly(&mut self) -> wasmtime::Result<()> {
        const FIRST_FRAME: usize = 64;
        if !self.is_due(Fault::WrongSpill) {
            return Ok(());
        }
        let host = self.store.data().save();
        let prepared = self.subject.prepared();
        let stopped = prepared.capture(&self.guest, &mut self.store, host)?;
        let values = &stopped.frames[0].values;
        let refers = |value: &Value| matches!(value, Value::Function(_) | Value::Extern(_));
        if values.is_empty() || values.iter().any(refers) {
            return Ok(());
        }
        let instance = self.guest.instance();
        let frames = instance.get_memory(&mut self.store, "ck:frames");
        frames
            .expect("instrumented modules export it")
            .data_mut(&mut self.store)[FIRST_FRAME] ^= 1;
        self.fault = None;
        Ok(())
    }

    fn lose_page(&mut self, delta: &mut Delta) {
        if self.is_due(Fault::LostPage) && delta.memories.iter_mut().any(|memory| memory.pages.pop().is_some()) {
            self.fault = None;
        }
    }
}
