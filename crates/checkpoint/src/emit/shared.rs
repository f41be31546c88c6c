//! Saving code that places of a function share: each node of [`Saves`](crate::body::saves::Saves) that several places and nodes go
//! to is one piece of it. Places jump there with their number.
//!
//! ```text
//!  block (operands, number)                the blocks around the whole body: one for each node
//!    ...
//!    number; poll; br_if; drop number      hot: the branch is unlikely
//!    ...
//!    number; br                            behind a call that is not meant to return
//!    ...
//!    return
//!  end
//!  saver(values)
//!  br                                      where the rest is saved, unless that comes next
//!  ...
//!  end
//!  close(first site + number)
//!  return zeros
//! ```

use wasm_encoder::Instruction;
use wasmparser::ValType;

use super::{Target, Writer};
use crate::body::saves::{Node, ROOT};
use crate::body::{Body, Look, PlaceKind, PlaceOf};

/// Which code is shared.
#[derive(Default)]
pub(super) struct Shared {
    /// Of each node, where it is if it is shared.
    nodes: Vec<Option<Spot>>,
    /// Where calls lead that are not meant to return.
    dead: Option<Spot>,
}

/// Where shared code is.
#[derive(Clone, Copy)]
struct Spot {
    /// The depth of the block behind which it comes.
    depth: u32,
    /// An engine knows that it is unlikely.
    hinted: bool,
}

/// The shared nodes of a function, each before what saves the rest of it.
fn in_order(body: &Body<'_>) -> Vec<u32> {
    let nodes = &body.saves.nodes;
    if nodes.is_empty() {
        return Vec::new();
    }
    let mut before: Vec<Vec<u32>> = vec![Vec::new(); nodes.len()];
    for (index, node) in (0..).zip(nodes) {
        if index != ROOT && node.users > 1 {
            before[node.rest as usize].push(index);
        }
    }
    let mut order = Vec::new();
    let mut open = vec![ROOT];
    while let Some(node) = open.pop() {
        order.push(node);
        open.append(&mut before[node as usize]);
    }
    order.retain(|&node| nodes[node as usize].users > 1);
    order.reverse();
    order
}

impl<T: Target> Writer<'_, '_, T> {
    /// Writes the whole body of a function whose places save by calls; `inside` writes what comes before its end.
    pub(super) fn sharing(&mut self, inside: impl FnOnce(&mut Self)) {
        let body = self.body;
        if body.is_leaf {
            inside(self);
            self.put(&Instruction::End);
            return;
        }
        let order = in_order(body);
        self.shared.nodes = vec![None; body.saves.nodes.len()];
        for &node in order.iter().rev() {
            let operands = &body.saves.nodes[node as usize].operands;
            self.shared.nodes[node as usize] = Some(self.open_spot(operands));
        }
        let dead = |place: &&PlaceOf| matches!(place.kind, PlaceKind::Dead);
        if body.places.iter().filter(dead).count() > 1 {
            self.shared.dead = Some(self.open_spot(&[]));
        }
        inside(self);
        if self.shared.dead.is_some() {
            self.put(&Instruction::Return);
            self.close();
            let leaver = self.target.leaver();
            self.finish_number(leaver);
        }
        for (index, &node) in order.iter().enumerate() {
            if index == 0 {
                self.put(&Instruction::Return);
            }
            self.close();
            self.save_node(node, order.get(index + 1).copied());
        }
        self.put(&Instruction::End);
    }

    fn open_spot(&mut self, operands: &[ValType]) -> Spot {
        let results: Vec<ValType> = operands.iter().copied().chain([ValType::I32]).collect();
        let ty = self.target.signature(&[], &results);
        Spot {
            depth: self.open(&Instruction::Block(ty)),
            hinted: false,
        }
    }

    /// Whether a place does nothing but to jump to what is shared; then it is written.
    pub(super) fn shared_place(&mut self, index: u32) -> bool {
        let body = self.body;
        let look = body.places[index as usize].kind.looks_at();
        let node = body.saves.of_place[index as usize] as usize;
        let spot = match look {
            None => self.shared.dead,
            Some(_) => self.shared.nodes.get(node).copied().flatten(),
        };
        let Some(Spot { depth, hinted }) = spot else {
            return false;
        };
        self.put(&Instruction::I32Const(index.cast_signed()));
        match look {
            None => self.branch_to(depth),
            Some(look) => {
                self.jump_if(look, depth, hinted);
                self.shared.nodes[node] = Some(Spot { depth, hinted: true });
            }
        }
        true
    }

    fn jump_if(&mut self, look: Look, depth: u32, hinted: bool) {
        self.poll(look);
        if !hinted {
            self.hint();
        }
        self.put(&Instruction::BrIf(self.depth - depth));
        self.put(&Instruction::Drop);
    }

    /// Saves a place's frame, whose operands lie on the stack, behind a branch of its own.
    pub(super) fn save_place(&mut self, index: u32) {
        let body = self.body;
        let node = &body.saves.nodes[body.saves.of_place[index as usize] as usize];
        self.pass_values(node);
        match self.shared.nodes[node.rest as usize] {
            Some(Spot { depth, .. }) => {
                self.put(&Instruction::I32Const(index.cast_signed()));
                self.branch_to(depth);
            }
            None => {
                let closer = self.target.closer();
                self.put(&Instruction::I32Const((self.first_site + index).cast_signed()));
                self.put(&Instruction::Call(closer));
                self.put_zeros();
                self.put(&Instruction::Return);
            }
        }
    }

    /// Saves what a node does, for the place whose number lies on the operands; `next` is the node whose code follows.
    fn save_node(&mut self, index: u32, next: Option<u32>) {
        let body = self.body;
        let node: &Node = &body.saves.nodes[index as usize];
        if index == ROOT {
            let closer = self.target.closer();
            self.finish_number(closer);
            return;
        }
        if node.operands.is_empty() {
            self.pass_values(node);
        } else {
            self.put(&Instruction::LocalSet(body.condition_local));
            self.pass_values(node);
            self.put(&Instruction::LocalGet(body.condition_local));
        }
        match self.shared.nodes[node.rest as usize] {
            Some(Spot { depth, .. }) if next != Some(node.rest) => self.branch_to(depth),
            Some(_) => {}
            None => {
                let closer = self.target.closer();
                self.finish_number(closer);
            }
        }
    }

    /// Finishes the frame of the place whose number lies on the operands.
    fn finish_number(&mut self, by: u32) {
        self.put(&Instruction::I32Const(self.first_site.cast_signed()));
        self.put(&Instruction::I32Add);
        self.put(&Instruction::Call(by));
        self.put_zeros();
    }
}
