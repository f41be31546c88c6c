//! Where the values come from that variables have at places. Where a variable has values of one origin at two places, they come from
//! the same assignment or from where the same ways meet, so an engine has but one value for both.

use super::ways::{Ways, label_of};
use super::{Block, Body, PlaceKind, PlaceOf, Shape, Step};

/// Variables that may be looked at: each of them for each block and branch.
const WORK_MAX: usize = 1 << 26;
/// Several values meet.
const MEET: u32 = u32::MAX;

/// The origin of each variable's value; nothing where code is not reached.
type Values = Option<Vec<u32>>;

/// The origins of the values that each place saves besides operands, in the order of [`PlaceOf::kept`]. Where it would take too much
/// work to find them, each has one of its own.
pub(super) fn of_places(body: &Body<'_>) -> Vec<Vec<u32>> {
    let mut walk = Walk::new(body);
    if walk.run().is_ok() {
        return walk.found;
    }
    let mut next = 0..;
    let own = |place: &PlaceOf| next.by_ref().take(place.kept.len()).collect();
    body.places.iter().map(own).collect()
}

struct TooMuchWork;

struct Walk<'b, 'a> {
    body: &'b Body<'a>,
    /// The steps that assign to each variable.
    assigned: Vec<Vec<usize>>,
    values: Values,
    next: u32,
    labels: Vec<Label>,
    found: Vec<Vec<u32>>,
    work_left: usize,
}

struct Label {
    is_loop: bool,
    /// What meets at its end.
    behind: Values,
    /// What holds at the beginning of a condition's other arm.
    otherwise: Values,
}

impl<'b, 'a> Walk<'b, 'a> {
    fn new(body: &'b Body<'a>) -> Self {
        let mut assigned = vec![Vec::new(); body.locals.len()];
        for (index, step) in body.steps.iter().enumerate() {
            match step {
                Step::Set(local) | Step::Tee(local) => assigned[*local as usize].push(index),
                Step::Open(block) => {
                    for &local in &body.blocks[*block as usize].outer_locals {
                        assigned[local as usize].push(index);
                    }
                }
                _ => {}
            }
        }
        let values: Vec<u32> = (0..).take(body.locals.len()).collect();
        Self {
            body,
            assigned,
            next: u32::try_from(values.len()).expect("a function has fewer than 2^32 variables"),
            values: Some(values),
            labels: Vec::new(),
            found: vec![Vec::new(); body.places.len()],
            work_left: WORK_MAX,
        }
    }

    fn run(&mut self) -> Result<(), TooMuchWork> {
        let body = self.body;
        for (index, place) in body.places.iter().enumerate() {
            if matches!(place.kind, PlaceKind::Entry) {
                self.note(index);
            }
        }
        for (index, step) in body.steps.iter().enumerate() {
            match step {
                Step::Set(local) | Step::Tee(local) => self.assign(*local),
                Step::Call(place) => self.note(*place as usize),
                Step::Open(block) => self.open(index, &body.blocks[*block as usize])?,
                Step::Else => {
                    self.branch(0)?;
                    let label = self.labels.last_mut().expect("`else` lies in a block");
                    self.values = label.otherwise.take();
                }
                Step::End(_) => self.close()?,
                step => self.go_on(step)?,
            }
        }
        Ok(())
    }

    fn note(&mut self, place: usize) {
        if let Some(values) = &self.values {
            let kept = &self.body.places[place].kept;
            self.found[place] = kept.iter().map(|&local| values[local as usize]).collect();
        }
    }

    fn work(&mut self) -> Result<(), TooMuchWork> {
        self.work_left = self
            .work_left
            .checked_sub(1 + self.body.locals.len())
            .ok_or(TooMuchWork)?;
        Ok(())
    }

    fn assign(&mut self, local: u32) {
        if let Some(values) = &mut self.values {
            values[local as usize] = self.next;
            self.next += 1;
        }
    }

    fn open(&mut self, index: usize, block: &Block) -> Result<(), TooMuchWork> {
        self.work()?;
        for &local in &block.outer_locals {
            self.assign(local);
        }
        let mut otherwise = None;
        match &block.shape {
            Shape::Block => {}
            Shape::If => otherwise = self.values.clone(),
            Shape::Loop => self.enter_loop(index, block),
            Shape::Try(catches) => {
                for catch in catches {
                    self.catch(label_of(catch))?;
                }
            }
        }
        self.labels.push(Label {
            is_loop: matches!(block.shape, Shape::Loop),
            behind: None,
            otherwise,
        });
        Ok(())
    }

    /// What is assigned in a loop meets at its head with what comes from before.
    fn enter_loop(&mut self, index: usize, block: &Block) {
        for local in 0..self.assigned.len() {
            let steps = &self.assigned[local];
            let first_inside = steps.get(steps.partition_point(|&step| step < index));
            if first_inside.is_some_and(|&step| step < block.end) {
                self.assign(u32::try_from(local).expect("a function has fewer than 2^32 variables"));
            }
        }
        if let Some(place) = block.place {
            self.note(place as usize);
        }
    }

    /// An exception may come from anywhere inside.
    fn catch(&mut self, depth: u32) -> Result<(), TooMuchWork> {
        self.work()?;
        if let Some(label) = self.labels.len().checked_sub(1 + depth as usize) {
            self.labels[label].behind = Some(vec![MEET; self.body.locals.len()]);
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), TooMuchWork> {
        let mut label = self.labels.pop().expect("every block was opened");
        for values in [self.values.take(), label.otherwise.take()] {
            self.work()?;
            meet(&mut label.behind, values);
        }
        self.values = label.behind;
        for value in self.values.iter_mut().flatten().filter(|value| **value == MEET) {
            *value = self.next;
            self.next += 1;
        }
        Ok(())
    }

    fn branch(&mut self, depth: u32) -> Result<(), TooMuchWork> {
        self.work()?;
        if let Some(label) = self.labels.len().checked_sub(1 + depth as usize) {
            let label = &mut self.labels[label];
            if !label.is_loop {
                meet(&mut label.behind, self.values.clone());
            }
        }
        Ok(())
    }

    fn go_on(&mut self, step: &Step) -> Result<(), TooMuchWork> {
        let Some(ways) = Ways::of(self.body, step) else {
            return Ok(());
        };
        for &depth in ways.branches {
            self.branch(depth)?;
        }
        if !ways.goes_on {
            self.values = None;
        }
        Ok(())
    }
}

/// Lets values meet with those that came before.
fn meet(before: &mut Values, values: Values) {
    match (before, values) {
        (_, None) => {}
        (before @ None, values) => *before = values,
        (Some(before), Some(values)) => {
            for (mine, other) in before.iter_mut().zip(values) {
                if *mine != other {
                    *mine = MEET;
                }
            }
        }
    }
}
