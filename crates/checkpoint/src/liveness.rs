//! Which variables a function still needs at each of its places: a walk backwards over its steps.
//!
//! A loop is walked twice. What its head needs is known after the first time, in which branches to the head need nothing: a
//! way on from the head that comes to it again has a shorter one behind that. So loops inside are walked but once meanwhile.
//! Code in very many loops is cut off, and then everything counts as needed, which is right as well, only larger. Code
//! whose sets would fill the memory is refused.

use crate::body::ways::{Ways, label_of};
use crate::body::{Body, PlaceKind, Shape, Step};
use smallvec::{SmallVec, smallvec};

/// Work that the walk may do for each step of the function: one for a plain step, and one for each 64 variables
/// where a set of them is touched.
const WORK_PER_STEP_MAX: usize = 256;
/// Words of 64 variables that all blocks together may need.
const BLOCK_WORDS_MAX: usize = 4 << 20;
/// Values that all places of a function may save together.
pub(crate) const SAVED_VALUES_MAX: usize = 2_000_000;

/// A set of variables; most functions have few, whose sets need no memory of their own.
#[derive(Clone)]
struct Set(SmallVec<[u64; 2]>);

impl Set {
    fn empty(variables: usize) -> Self {
        Self(smallvec![0; variables.div_ceil(64)])
    }

    fn add(&mut self, variable: u32) {
        self.0[variable as usize / 64] |= 1 << (variable % 64);
    }

    fn remove(&mut self, variable: u32) {
        self.0[variable as usize / 64] &= !(1 << (variable % 64));
    }

    fn join(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine |= theirs;
        }
    }

    fn variables(&self) -> Vec<u32> {
        let words = (0u32..).zip(&self.0);
        let mut variables = Vec::with_capacity(self.0.iter().map(|bits| bits.count_ones() as usize).sum());
        for (word, &bits) in words {
            let mut left = bits;
            while left != 0 {
                variables.push(word * 64 + left.trailing_zeros());
                left &= left - 1;
            }
        }
        variables
    }
}

/// A block that the walk is inside of.
struct Label {
    /// Needed where a branch to it leads.
    target: Set,
    /// Needed behind it.
    behind: Set,
    /// Needed at the beginning of the arm `else`.
    otherwise: Option<Set>,
    /// Needed where an exception that is thrown inside may lead.
    caught: Option<Set>,
}

struct Walk<'b, 'a> {
    body: &'b Body<'a>,
    variables: usize,
    live: Set,
    labels: Vec<Label>,
    /// What the head needs of the loop whose end comes next, if it has been walked once.
    head: Option<Set>,
    /// The loop around that is walked for the first time: until then what lives at places is not known.
    first: Option<u32>,
    places: Vec<Vec<u32>>,
    /// How many values these are.
    saved: usize,
    work_left: usize,
}

/// Why the walk did not come to its end.
enum Cut {
    TooMuchWork,
    TooManyValues,
}

/// Fills in what lives at each place; an error says what there is too much of.
pub(crate) fn mark(body: &mut Body<'_>) -> Result<(), &'static str> {
    let variables = body.locals.len();
    if body.blocks.len().saturating_mul(variables.div_ceil(64)) > BLOCK_WORDS_MAX {
        return Err("it has too many blocks for its many local variables");
    }
    let mut walk = Walk {
        body,
        variables,
        live: Set::empty(variables),
        labels: Vec::new(),
        head: None,
        first: None,
        places: vec![Vec::new(); body.places.len()],
        saved: 0,
        work_left: body.steps.len().saturating_mul(WORK_PER_STEP_MAX),
    };
    let ended = walk.run();
    let places = walk.places;
    let all: Vec<u32> = (0..).take(variables).collect();
    let too_many = match ended {
        Ok(()) => false,
        Err(Cut::TooManyValues) => true,
        Err(Cut::TooMuchWork) => variables.saturating_mul(places.len()) > SAVED_VALUES_MAX,
    };
    if too_many {
        return Err("its places save too many values");
    }
    let parameters = u32::try_from(body.parameters).expect("a function has few parameters");
    for (place, live) in body.places.iter_mut().zip(places) {
        place.kept = if ended.is_ok() { live } else { all.clone() };
        match place.kind {
            PlaceKind::Entry => place.kept.retain(|&variable| variable < parameters),
            PlaceKind::Dead => place.kept.clear(),
            PlaceKind::Loop(_) | PlaceKind::Call { .. } | PlaceKind::Bulk => {}
        }
    }
    Ok(())
}

impl Walk<'_, '_> {
    fn run(&mut self) -> Result<(), Cut> {
        let mut next = self.body.steps.len();
        while next > 0 {
            self.work(1)?;
            next = self.step(next - 1)?;
        }
        for (index, place) in self.body.places.iter().enumerate() {
            if matches!(place.kind, PlaceKind::Entry) {
                self.note(index)?;
            }
        }
        Ok(())
    }

    fn work(&mut self, done: usize) -> Result<(), Cut> {
        self.work_left = self.work_left.checked_sub(done).ok_or(Cut::TooMuchWork)?;
        Ok(())
    }

    /// Work where a set is touched.
    fn work_on_set(&mut self) -> Result<(), Cut> {
        self.work(self.variables.div_ceil(64).max(1))
    }

    /// What lives here is what the place saves.
    fn note(&mut self, place: usize) -> Result<(), Cut> {
        if self.first.is_some() {
            return Ok(());
        }
        self.work_on_set()?;
        let live = self.live.variables();
        self.saved += live.len();
        self.places[place] = live;
        if self.saved > SAVED_VALUES_MAX {
            return Err(Cut::TooManyValues);
        }
        Ok(())
    }

    /// Walks over one step; the answer is one more than the step to go on with.
    fn step(&mut self, index: usize) -> Result<usize, Cut> {
        let body = self.body;
        match &body.steps[index] {
            Step::Plain | Step::Nop | Step::Const(_) | Step::Add | Step::Drop => {}
            Step::Get(local) => self.live.add(*local),
            Step::Set(local) | Step::Tee(local) => self.live.remove(*local),
            Step::Long => self.may_throw()?,
            Step::Call(place) => {
                // What a handler needs counts as well: a call that was stopped inside may yet throw.
                self.may_throw()?;
                self.note(*place as usize)?;
            }
            Step::End(block) => self.enter(*block)?,
            Step::Else => {
                self.work_on_set()?;
                let label = self.labels.last_mut().expect("`else` lies in a block");
                label.otherwise = Some(std::mem::replace(&mut self.live, label.behind.clone()));
            }
            Step::Open(block) => return self.leave(*block, index),
            step => self.go_on(step)?,
        }
        Ok(index)
    }

    fn enter(&mut self, block: u32) -> Result<(), Cut> {
        self.work_on_set()?;
        let body = self.body;
        let target = match body.blocks[block as usize].shape {
            Shape::Loop => {
                let head = self.head.take();
                if head.is_none() {
                    self.first.get_or_insert(block);
                }
                head.unwrap_or_else(|| Set::empty(self.variables))
            }
            _ => self.live.clone(),
        };
        let mut caught = self.labels.last().and_then(|label| label.caught.clone());
        if let Shape::Try(catches) = &body.blocks[block as usize].shape {
            let mut own = Set::empty(self.variables);
            for catch in catches {
                self.work_on_set()?;
                if let Some(target) = self.label(label_of(catch)) {
                    own.join(target);
                }
            }
            if let Some(outer) = &caught {
                own.join(outer);
            }
            caught = Some(own);
        }
        self.labels.push(Label {
            target,
            behind: self.live.clone(),
            otherwise: None,
            caught,
        });
        Ok(())
    }

    fn leave(&mut self, block: u32, index: usize) -> Result<usize, Cut> {
        self.work_on_set()?;
        let label = self.labels.pop().expect("every block was entered");
        let body = self.body;
        let of = &body.blocks[block as usize];
        match of.shape {
            Shape::Block | Shape::Try(_) => {}
            Shape::If => self.live.join(&label.otherwise.unwrap_or(label.behind)),
            Shape::Loop => {
                if self.first == Some(block) {
                    self.first = None;
                    self.head = Some(std::mem::replace(&mut self.live, label.behind));
                    return Ok(of.end + 1);
                }
                if let Some(place) = of.place {
                    self.note(place as usize)?;
                }
            }
        }
        Ok(index)
    }

    /// What is needed where a branch of this depth leads; nothing at the function's end.
    fn label(&self, depth: u32) -> Option<&Set> {
        let index = self.labels.len().checked_sub(1 + depth as usize)?;
        Some(&self.labels[index].target)
    }

    fn go_on(&mut self, step: &Step) -> Result<(), Cut> {
        let Some(ways) = Ways::of(self.body, step) else {
            return Ok(());
        };
        if !ways.goes_on {
            self.work_on_set()?;
            self.live = Set::empty(self.variables);
        }
        for &depth in ways.branches {
            self.join_label(depth)?;
        }
        if matches!(step, Step::Throw) {
            self.may_throw()?;
        }
        Ok(())
    }

    fn join_label(&mut self, depth: u32) -> Result<(), Cut> {
        self.work_on_set()?;
        if let Some(index) = self.labels.len().checked_sub(1 + depth as usize) {
            self.live.join(&self.labels[index].target);
        }
        Ok(())
    }

    fn may_throw(&mut self) -> Result<(), Cut> {
        if self.labels.last().is_some_and(|label| label.caught.is_some()) {
            self.work_on_set()?;
        }
        if let Some(caught) = self.labels.last().and_then(|label| label.caught.as_ref()) {
            self.live.join(caught);
        }
        Ok(())
    }
}
