//! What the code of a function saves by which steps. Places need many of the same variables, so a frame is saved in pieces: a place
//! saves what it needs more than another one, and goes on with what saves for that.
//!
//! ```text
//!  place 1  saves a          ──▶ node: saves b, c ──▶ node: saves d ──▶ root: finishes the frame
//!  place 2  saves operands   ──▶        ▲
//!  place 3                   ───────────┘
//! ```
//!
//! In a large function places share one node, which saves what most of them do. The values of a variable at many places, in such a
//! function, are many for the engine, and where ways from many places meet it has to have each of them in one register: so that node
//! takes only values that are the same ones at all these places ([`super::origins`]).

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;

use foldhash::fast::RandomState;
use wasmparser::ValType;

use super::{Body, PlaceKind, origins};
use crate::ValueType;
use crate::frame::Extent;

/// Places of a function that may share what saves variables with any others.
const PLACES_MAX: usize = 400;
/// Sets of variables before and behind one among which what saves the rest of it is looked for.
const NEIGHBOURS: usize = 64;
/// Variables that may be compared to find it.
const WORK_MAX: usize = 1 << 22;
/// The node that finishes a frame.
pub(crate) const ROOT: u32 = 0;

/// The nodes of a function.
#[derive(Default)]
pub(crate) struct Saves {
    pub nodes: Vec<Node>,
    /// Where each place goes.
    pub of_place: Vec<u32>,
}

/// Saves a piece of a frame.
#[derive(Default)]
pub(crate) struct Node {
    /// Types of the operands that a place finds on its stack, which come first.
    pub operands: Vec<ValType>,
    pub variables: Vec<u32>,
    /// What saves the rest; [`ROOT`] has none.
    pub rest: u32,
    /// How many places and nodes go here.
    pub users: usize,
}

impl Saves {
    pub(super) fn of(body: &Body<'_>) -> Self {
        if body.places.len() > PLACES_MAX {
            return Self::of_large(body);
        }
        let variables: Vec<Cow<'_, [u32]>> = body.places.iter().map(|place| sorted(&place.kept)).collect();
        let mut sets: Vec<&[u32]> = Vec::new();
        let mut numbers: HashMap<&[u32], u32, RandomState> = HashMap::default();
        let mut saves = Self::default();
        for variables in &variables {
            let node = match &**variables {
                [] => ROOT,
                variables => *numbers.entry(variables).or_insert_with(|| {
                    sets.push(variables);
                    count(sets.len())
                }),
            };
            saves.of_place.push(node);
        }
        saves.nodes.push(Node::default());
        let mut work_left = WORK_MAX;
        let signatures: Vec<u64> = sets.iter().map(|set| signature(set)).collect();
        saves
            .nodes
            .extend((0..sets.len()).map(|set| with_rest(&sets, &signatures, set, &mut work_left)));
        saves.add_operands(body);
        saves.count_users(body);
        saves.absorb();
        saves
    }

    /// Each place has a node of its own, but that those that save what most do go on with one that saves this.
    fn of_large(body: &Body<'_>) -> Self {
        let common = Common::of(body);
        let mut saves = Self::default();
        saves.nodes.push(Node::default());
        saves.nodes.push(Node {
            variables: common.variables.clone(),
            ..Node::default()
        });
        for (index, place) in body.places.iter().enumerate() {
            let mut node = Node {
                operands: place.stack.clone(),
                variables: place.kept.clone(),
                ..Node::default()
            };
            if common.is_saved_at[index] {
                node.rest = 1;
                let variables = &common.variables;
                node.variables
                    .retain(|variable| variables.binary_search(variable).is_err());
            }
            if node.operands.is_empty() && node.variables.is_empty() {
                saves.of_place.push(node.rest);
            } else {
                saves.of_place.push(count(saves.nodes.len()));
                saves.nodes.push(node);
            }
        }
        saves.count_users(body);
        saves
    }

    /// Places with operands of the same types go to a node that saves these alone.
    fn add_operands<'b>(&mut self, body: &'b Body<'_>) {
        let mut known: HashMap<(u32, &'b [ValType]), u32, RandomState> = HashMap::default();
        for (place, node) in body.places.iter().zip(&mut self.of_place) {
            if place.stack.is_empty() {
                continue;
            }
            let nodes = &mut self.nodes;
            *node = *known.entry((*node, &place.stack)).or_insert_with(|| {
                nodes.push(Node {
                    operands: place.stack.clone(),
                    rest: *node,
                    ..Node::default()
                });
                count(nodes.len() - 1)
            });
        }
    }

    fn count_users(&mut self, body: &Body<'_>) {
        for (place, &node) in body.places.iter().zip(&self.of_place) {
            self.nodes[node as usize].users += usize::from(!matches!(place.kind, PlaceKind::Dead));
        }
        for node in 1..self.nodes.len() {
            let rest = self.nodes[node].rest;
            self.nodes[rest as usize].users += 1;
        }
    }

    /// What only one node goes to is done by that.
    fn absorb(&mut self) {
        for node in 1..self.nodes.len() {
            let rest = self.nodes[node].rest as usize;
            if rest as u32 != ROOT && self.nodes[rest].users == 1 {
                let Node { variables, rest, .. } = std::mem::take(&mut self.nodes[rest]);
                self.nodes[node].variables.extend(variables);
                self.nodes[node].rest = rest;
            }
        }
    }

    /// The nodes that save a frame, one after the other.
    fn chain(&self, node: u32) -> impl Iterator<Item = &Node> {
        let next = |&node: &u32| (node != ROOT).then(|| self.nodes[node as usize].rest);
        std::iter::successors(Some(node), next).map(|node| &self.nodes[node as usize])
    }
}

impl Body<'_> {
    /// Where each value of a place's frame lies, in the order of [`Body::saved_locals`], and how many bytes all take. `lies_at` has
    /// room for that of each variable.
    pub(crate) fn offsets(&self, place: u32, lies_at: &mut [u32]) -> (Vec<u32>, u32) {
        let mut end = 0;
        for node in self.saves.chain(self.saves.of_place[place as usize]) {
            let mut extent = Extent::default();
            for is_narrow in [true, false] {
                for local in self.locals_of(node) {
                    let ty = self.saved_type(local);
                    if ty.is_narrow() == is_narrow {
                        lies_at[local as usize] = end + extent.bytes();
                        extent.add(ty);
                    }
                }
                extent.fill();
            }
            end += extent.bytes();
        }
        let saved = self.saved_locals(&self.places[place as usize]);
        (saved.map(|local| lies_at[local as usize]).collect(), end)
    }

    /// The variables that a node saves; those of its operands come first.
    pub(crate) fn locals_of(&self, node: &Node) -> impl Iterator<Item = u32> {
        let operands = node.operands.iter().enumerate();
        let operands = operands.map(|(height, &ty)| self.stack_local(height, ty));
        operands.chain(node.variables.iter().copied())
    }

    pub(crate) fn saved_type(&self, local: u32) -> ValueType {
        ValueType::of(self.locals[local as usize]).expect("layouts have only types that can be saved")
    }
}

/// Values that most places of a large function save.
struct Common {
    variables: Vec<u32>,
    is_saved_at: Vec<bool>,
}

impl Common {
    /// The values that most places save, as many of them as save most bytes.
    fn of(body: &Body<'_>) -> Self {
        let mut places: HashMap<(u32, u32), Vec<usize>> = HashMap::new();
        let all = origins::of_places(body);
        for (index, (place, origins)) in body.places.iter().zip(all).enumerate() {
            for value in origins.into_iter().zip(place.kept.iter().copied()) {
                places.entry(value).or_default().push(index);
            }
        }
        let least = body.places.len() / 2;
        let mut often: Vec<_> = places.into_iter().filter(|(_, places)| places.len() > least).collect();
        often.sort_by_key(|(value, places)| (Reverse(places.len()), *value));
        let mut common = Self {
            variables: Vec::new(),
            is_saved_at: vec![true; body.places.len()],
        };
        let mut best = 0;
        let mut values = Vec::new();
        let mut found = vec![0; body.places.len()];
        for ((_, variable), places) in often {
            values.push(variable);
            places.iter().for_each(|&place| found[place] += 1);
            let saving: Vec<bool> = found.iter().map(|&found| found == values.len()).collect();
            let saved = values.len() * saving.iter().filter(|saving| **saving).count();
            if saved > best {
                best = saved;
                common.is_saved_at = saving;
                common.variables.clone_from(&values);
            }
        }
        common.variables.sort_unstable();
        common
    }
}

fn sorted(variables: &[u32]) -> Cow<'_, [u32]> {
    if variables.is_sorted() {
        return variables.into();
    }
    let mut variables = variables.to_vec();
    variables.sort_unstable();
    variables.into()
}

/// The node for a set of variables, which goes on with the one for the largest of its neighbours that lies in it.
fn with_rest(sets: &[&[u32]], signatures: &[u64], set: usize, work_left: &mut usize) -> Node {
    let own = sets[set];
    let (mut rest, mut rest_of) = (ROOT, &[][..]);
    let around = set.saturating_sub(NEIGHBOURS)..(set + NEIGHBOURS + 1).min(sets.len());
    for other in around {
        let candidate = sets[other];
        let Some(left) = work_left.checked_sub(own.len()) else {
            break;
        };
        *work_left = left;
        let may_lie_in = signatures[other] & !signatures[set] == 0;
        if may_lie_in && (rest_of.len() + 1..own.len()).contains(&candidate.len()) && lies_in(candidate, own) {
            (rest, rest_of) = (count(other + 1), candidate);
        }
    }
    let more = own.iter().filter(|variable| rest_of.binary_search(variable).is_err());
    Node {
        variables: more.copied().collect(),
        rest,
        ..Node::default()
    }
}

/// Bits of a set of variables, among which are those of each part of it.
fn signature(variables: &[u32]) -> u64 {
    variables.iter().fold(0, |bits, variable| bits | 1 << (variable % 64))
}

/// Whether all of one sorted list are in another.
fn lies_in(part: &[u32], whole: &[u32]) -> bool {
    let mut whole = whole.iter();
    part.iter().all(|wanted| whole.any(|found| found == wanted))
}

fn count(nodes: usize) -> u32 {
    u32::try_from(nodes).expect("code has fewer than 2^32 places")
}
