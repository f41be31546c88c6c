//! Saving code that places of a function share. Those that save the same values jump to one piece of it, with their number.
//!
//! ```text
//!  block (operands, number)                the blocks around the whole body: one for each set of places
//!    ...
//!    number; poll; br_if; drop number      hot: the branch is unlikely
//!    ...
//!    number; br                            behind a call that is not meant to return
//!    ...
//!    return
//!  end
//!  saver(values, first site + number)
//!  return zeros
//! ```
//!
//! What saves variables is shared in functions of few places only: the values of a variable at many places, in a large
//! function, are many for the engine, and where they meet it has to have them in one register.

use std::collections::HashMap;

use wasm_encoder::Instruction;
use wasmparser::ValType;

use super::save::Saver;
use super::{Target, Writer};
use crate::body::{Body, PlaceKind, PlaceOf};

/// Places of a function that may share what saves variables.
const PLACES_MAX: usize = 400;

/// Which places share what saves.
#[derive(Default)]
pub(super) struct Shared {
    /// Of each place that does, the number of its set.
    set_of: HashMap<u32, usize>,
    sets: Vec<Set>,
}

/// Places that save the same values.
struct Set {
    /// One of them.
    place: u32,
    /// The depth of the block behind which they are saved.
    depth: u32,
    /// An engine knows that they are unlikely.
    hinted: bool,
}

/// What places have in common that share.
#[derive(PartialEq, Eq, Hash)]
struct Saved<'b> {
    behind_the_end: bool,
    operands: &'b [ValType],
    variables: Vec<u32>,
}

impl Shared {
    /// `body` has no place that saves by itself.
    fn of(body: &Body<'_>) -> Self {
        let mut alike: HashMap<Saved<'_>, usize> = HashMap::new();
        let mut places: Vec<Vec<u32>> = Vec::new();
        for (index, place) in (0..).zip(&body.places) {
            let Some(saved) = Saved::of(body, place) else { continue };
            let set = *alike.entry(saved).or_insert(places.len());
            if set == places.len() {
                places.push(Vec::new());
            }
            places[set].push(index);
        }
        let mut shared = Self::default();
        for places in places.into_iter().filter(|places| places.len() > 1) {
            shared
                .set_of
                .extend(places.iter().map(|&place| (place, shared.sets.len())));
            shared.sets.push(Set {
                place: places[0],
                depth: 0,
                hinted: false,
            });
        }
        shared
    }
}

impl<'b> Saved<'b> {
    /// `None` for a place that shares nothing.
    fn of(body: &Body<'_>, place: &'b PlaceOf) -> Option<Self> {
        let variables = body.kept_at(place);
        let saves_nothing = variables.is_empty() && place.stack.is_empty();
        (saves_nothing || body.places.len() <= PLACES_MAX).then(|| Self {
            behind_the_end: matches!(place.kind, PlaceKind::Dead),
            operands: &place.stack,
            variables,
        })
    }
}

impl<T: Target> Writer<'_, '_, T> {
    /// Writes the whole body of a function whose places save by calls; `inside` writes what comes before its end.
    pub(super) fn sharing(&mut self, inside: impl FnOnce(&mut Self)) {
        let body = self.body;
        self.shared = Shared::of(body);
        for set in (0..self.shared.sets.len()).rev() {
            let place = &body.places[self.shared.sets[set].place as usize];
            let results: Vec<ValType> = place.stack.iter().copied().chain([ValType::I32]).collect();
            let ty = self.target.signature(&[], &results);
            self.shared.sets[set].depth = self.open(&Instruction::Block(ty));
        }
        inside(self);
        for set in 0..self.shared.sets.len() {
            self.put(&Instruction::Return);
            self.close();
            self.save_set(self.shared.sets[set].place);
        }
        self.put(&Instruction::End);
    }

    /// Whether a place shares what saves; then it is written.
    pub(super) fn shared_place(&mut self, index: u32) -> bool {
        let Some(&set) = self.shared.set_of.get(&index) else {
            return false;
        };
        let depth = self.shared.sets[set].depth;
        self.put(&Instruction::I32Const(index.cast_signed()));
        let Some(look) = self.body.places[index as usize].kind.looks_at() else {
            self.branch_to(depth);
            return true;
        };
        self.poll(look);
        if !std::mem::replace(&mut self.shared.sets[set].hinted, true) {
            self.hint();
        }
        self.put(&Instruction::BrIf(self.depth - depth));
        self.put(&Instruction::Drop);
        true
    }

    /// Saves for the places of a set, whose number lies on the operands.
    fn save_set(&mut self, place: u32) {
        let body = self.body;
        let place = &body.places[place as usize];
        if !place.stack.is_empty() || !body.kept_at(place).is_empty() {
            self.put(&Instruction::LocalSet(body.condition_local));
            self.pass_values(place);
            self.put(&Instruction::LocalGet(body.condition_local));
        }
        self.put(&Instruction::I32Const(self.first_site.cast_signed()));
        self.put(&Instruction::I32Add);
        let function = match place.kind {
            PlaceKind::Dead => Some(self.target.leaver()),
            _ => Saver::of(body, place).and_then(|saver| self.target.saver(saver)),
        };
        self.put(&Instruction::Call(function.expect("no place saves by itself")));
        self.put_zeros();
    }
}
